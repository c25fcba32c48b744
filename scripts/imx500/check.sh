#!/bin/sh
# Does the vendor's converter accept a run's network, and is our memory estimate right?
#
#   scripts/imx500/check.sh RUN [--full]
#
# RUN is a run's folder, or an ONNX file. Prints the converter's memory report against our estimate; --full makes
# packerOut.zip too (twice the time). Results and log go to a new folder beside the ONNX file.
# `imxconv-pt` must be on PATH (scripts/imx500/setup.sh) and `java`, version 17 or later.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ] || { [ $# -eq 2 ] && [ "$2" != --full ]; }; then
    echo "usage: $0 RUN [--full]" >&2
    exit 2
fi
run=$1
root=$(cd "$(dirname "$0")/../.." && pwd)

if [ -f "$run" ]; then
    onnx=$run
else
    onnx=$(find "$run" -name '*.onnx' -type f | sort | head -n 1)
    if [ -z "$onnx" ]; then
        echo "$run: expected an ONNX file in this folder (sensei export RUN), found none" >&2
        exit 1
    fi
fi
onnx=$(cd "$(dirname "$onnx")" && pwd)/$(basename "$onnx")

out="${onnx%.onnx}-converter"
n=2
while [ -e "$out" ]; do
    out="${onnx%.onnx}-converter-$n"
    n=$((n + 1))
done
cd "$root"
# shellcheck disable=SC2086  # the flag is empty or one word
exec cargo run --release --quiet -p sensei-imx500 --example check -- "$onnx" "$out" ${2:-}
