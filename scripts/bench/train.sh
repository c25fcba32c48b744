#!/usr/bin/env bash
# A training step of PicoSAM2 at 96 x 96: Sensei, Sensei's network on burn's own operators, and PyTorch as it comes and
# tuned (channels-last, allocator settings), alternating in one run.
#
# usage: scripts/bench/train.sh [ROUNDS [REPEATS]]     PYTHON=... for a python with torch
# Prints times and ratios; never fails on them.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-3} repeats=${2:-5} python=${PYTHON:-python3}
tuned=(MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000)

cargo build --release --workspace --examples --quiet
bench=target/release/examples/bench
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
"$python" -c 'import torch; print("torch", torch.__version__)'

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
ms() { awk '{print $2}'; }

for threads in 1 2; do
    for batch in 8 32; do
        ours=() torch=() tuned_torch=()
        for _ in $(seq "$rounds"); do
            ours+=("$("$bench" step "$threads" "$batch" "$repeats" | ms)")
            torch+=("$("$python" scripts/bench/torch_step.py "$threads" "$batch" "$repeats" | ms)")
            tuned_torch+=("$(env "${tuned[@]}" "$python" scripts/bench/torch_step.py "$threads" "$batch" "$repeats" channels_last | ms)")
        done
        o=$(printf '%s\n' "${ours[@]}" | median)
        t=$(printf '%s\n' "${torch[@]}" | median)
        u=$(printf '%s\n' "${tuned_torch[@]}" | median)
        awk -v n="$threads" -v b="$batch" -v o="$o" -v t="$t" -v u="$u" 'BEGIN {
            printf "threads %d batch %2d: sensei %7.1f ms, torch %7.1f ms (%.2fx), torch tuned %7.1f ms (%.2fx)\n",
                n, b, o, t, t / o, u, u / o }'
    done
done
echo "sensei's kernels against burn's own operators (forward and backward only):"
target/release/examples/step 2 8 "$repeats"
