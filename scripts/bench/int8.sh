#!/usr/bin/env bash
# The integer interpreter at batch 1 against onnxruntime on the same PicoSAM2 at 96 x 96 with the same weights: quantized by
# onnxruntime itself (QDQ, symmetric weights per channel) and in floats; alternating in one run.
#
# usage: scripts/bench/int8.sh [ROUNDS [REPEATS]]     PYTHON=... for a python with numpy, onnx, onnxruntime
# Prints times, ratios and everyone's mean absolute logit, which shows that they ran one network; never fails on times.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-7} repeats=${2:-50} python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --release -p sensei-imx500 --example sample --quiet
sample=target/release/examples/sample
"$sample" "$work" picosam2 >"$work/log"
"$python" scripts/bench/onnx_int8.py make "$work" >>"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
"$python" -c 'import onnx, onnxruntime; print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)'

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for threads in 1 2; do
    : >"$work/ours" >"$work/u8" >"$work/s8" >"$work/float"
    for _ in $(seq "$rounds"); do
        RAYON_NUM_THREADS=$threads "$sample" "$work" picosam2 "$repeats" >>"$work/ours"
        for kind in u8 s8 float; do
            "$python" scripts/bench/onnx_int8.py time "$work" $kind "$threads" "$repeats" >>"$work/$kind"
        done
    done
    ours=$(awk '{print $2}' "$work/ours" | median)
    for kind in u8 s8 float; do
        time=$(awk '{print $2}' "$work/$kind" | median)
        awk -v n="$threads" -v k="$kind" -v o="$ours" -v t="$time" -v logit="$(awk 'END {print $NF}' "$work/$kind")" 'BEGIN {
            name["u8"] = "int8, unsigned activations"; name["s8"] = "int8, signed activations"; name["float"] = "float"
            printf "threads %d: sensei %6.2f ms, onnxruntime %-26s %6.2f ms (%.2fx); mean absolute logit %s\n",
                n, o, name[k], t, t / o, logit }'
    done
    awk -v n="$threads" -v logit="$(awk 'END {print $NF}' "$work/ours")" \
        -v best="$(awk '{print $4}' "$work/ours" | sort -n | head -1)" \
        'BEGIN { printf "threads %d: sensei fastest %.2f ms; mean absolute logit %s\n", n, best, logit }'
done
