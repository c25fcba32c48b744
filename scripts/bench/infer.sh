#!/usr/bin/env bash
# Float inference of PicoSAM2 at 96 x 96: Sensei's packed form against onnxruntime, alternating in one run.
#
# usage: scripts/bench/infer.sh [ROUNDS [REPEATS]]     PYTHON=... for a python with torch, onnx, onnxruntime, safetensors;
# NETWORK=bilinear for PicoSAM2 with bilinear upsampling.
# Prints times, ratios and, from both, the mean absolute logit, which shows that they computed the same; never fails on times.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} repeats=${2:-30} python=${PYTHON:-python3} network=${NETWORK:-picosam2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bench=$(scripts/bench/build.sh picosam2)
"$python" scripts/bench/onnx_infer.py make "$work" "$network"
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
"$python" -c 'import onnxruntime; print("onnxruntime", onnxruntime.__version__)'
echo "network $network"

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for threads in 1 2; do
    for batch in 1 16; do
        ours=() theirs=()
        for _ in $(seq "$rounds"); do
            o=$("$bench" infer "$threads" "$batch" "$repeats" "$work/picosam2.safetensors" "$network")
            t=$("$python" scripts/bench/onnx_infer.py time "$work" "$threads" "$batch" "$repeats")
            ours+=("$(awk '{print $2}' <<<"$o")") theirs+=("$(awk '{print $2}' <<<"$t")")
        done
        awk -v n="$threads" -v b="$batch" -v o="$(printf '%s\n' "${ours[@]}" | median)" \
            -v t="$(printf '%s\n' "${theirs[@]}" | median)" -v oc="${o##* }" -v tc="${t##* }" 'BEGIN {
            printf "threads %d batch %2d: sensei %7.2f ms, onnxruntime %7.2f ms (%.2fx); mean absolute logit %s, %s\n",
                n, b, o, t, t / o, oc, tc }'
    done
done
