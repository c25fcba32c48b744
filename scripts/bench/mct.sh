#!/usr/bin/env bash
# Our calibration against Sony's Model Compression Toolkit: same float weights, same calibration crops, same validation crops.
#
# usage: scripts/bench/mct.sh RUN [SHARED]     PYTHON=... for a python with model_compression_toolkit, torch, safetensors
# RUN is a folder of configs/coco-sample-picosam2.toml. It is quantized and scored anew, in a copy, so that both sides
# are of today; SHARED (default ../shared) has the data that the run was made from.
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${1:?usage: scripts/bench/mct.sh RUN [SHARED]} shared=$(cd "${2:-../shared}" && pwd) python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --release --workspace --examples --bins --quiet
mkdir "$work/run"
cp "$run"/plan.toml "$run"/student.safetensors "$work/run/"
cp "$run"/events.jsonl "$work/run/" 2>/dev/null || true
target/release/sensei quantize "$work/run" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
target/release/sensei eval "$work/run" >>"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
number() { sed -n "s/^$1 = \([0-9]*\)$/\1/p" "$run/plan.toml" | head -1; }
coco=$shared/data/coco dumps=$shared/data/teacher_cache
crops() { target/release/examples/crops "$1" "$coco/annotations/instances_$2.json" "$coco/images/$2" "$dumps/roi96_box_$2.safetensors" "${@:3}"; }
crops calibration train "$work/calibration.safetensors" "$(number calibration_instances)" "$(number seed)"
crops all val "$work/validation.safetensors" "$work/run/student.s8m"
grep -E "^(float|fake_quant|int8) +[0-9]" "$work/run/eval/table.txt"
"$python" scripts/bench/mct_ptq.py "$work/run" "$coco/annotations/instances_val.json" "$work/calibration.safetensors" \
    "$work/validation.safetensors" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
