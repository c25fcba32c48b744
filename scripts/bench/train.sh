#!/usr/bin/env bash
# A training step of PicoSAM2 at 96 x 96: Sensei, Sensei's network on burn's own operators, and PyTorch as it comes and
# tuned (channels-last, allocator settings), alternating in one run.
#
# usage: scripts/bench/train.sh [ROUNDS [REPEATS]]     PYTHON=... for a python with torch; NETWORK=bilinear for PicoSAM2 with
# bilinear upsampling
# Prints times, ratios, and what a large matrix product and a memory copy reach in the same minutes, on one thread and on two:
# our share of the first, and what the second thread can bring. Never fails on them.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-3} repeats=${2:-5} python=${PYTHON:-python3} network=${NETWORK:-picosam2}
tuned=(MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000)

bench=$(scripts/bench/build.sh picosam2)
against_burn=$(scripts/bench/build.sh against_burn)
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
"$python" -c 'import torch; print("torch", torch.__version__)'
echo "network $network"

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

nth() { awk -v n="$1" '{print $n}'; }
declare -A step_ms gflop product copy

for threads in 1 2; do
    products=() copies=()
    for batch in 8 32; do
        ours=() torch=() tuned_torch=()
        for _ in $(seq "$rounds"); do
            step=$("$bench" step "$threads" "$batch" "$repeats" "$network")
            gflop[$batch]=$(nth 6 <<<"$step")
            ours+=("$(nth 2 <<<"$step")")
            torch+=("$("$python" scripts/bench/torch_step.py "$threads" "$batch" "$repeats" "$network" | nth 2)")
            tuned_torch+=("$(env "${tuned[@]}" "$python" scripts/bench/torch_step.py "$threads" "$batch" "$repeats" "$network" channels_last | nth 2)")
            peaks=$("$python" scripts/bench/torch_peaks.py "$threads" 9)
            products+=("$(nth 2 <<<"$peaks")") copies+=("$(nth 4 <<<"$peaks")")
        done
        o=$(printf '%s\n' "${ours[@]}" | median)
        t=$(printf '%s\n' "${torch[@]}" | median)
        u=$(printf '%s\n' "${tuned_torch[@]}" | median)
        step_ms[$threads,$batch]=$o
        awk -v n="$threads" -v b="$batch" -v o="$o" -v t="$t" -v u="$u" 'BEGIN {
            printf "threads %d batch %2d: sensei %7.1f ms, torch %7.1f ms (%.2fx), torch tuned %7.1f ms (%.2fx)\n",
                n, b, o, t, t / o, u, u / o }'
    done
    product[$threads]=$(printf '%s\n' "${products[@]}" | median)
    copy[$threads]=$(printf '%s\n' "${copies[@]}" | median)
    for batch in 8 32; do
        awk -v n="$threads" -v b="$batch" -v ms="${step_ms[$threads,$batch]}" -v g="${gflop[$batch]}" \
            -v p="${product[$threads]}" -v c="${copy[$threads]}" 'BEGIN {
            printf "threads %d batch %2d: sensei %.0f GFLOP/s, %.0f %% of a large product\047s %.0f; a copy moves %.1f GB/s\n",
                n, b, g / ms * 1e3, g / ms * 1e5 / p, p, c }'
    done
done
awk -v a="${step_ms[1,8]}" -v b="${step_ms[2,8]}" -v c="${step_ms[1,32]}" -v d="${step_ms[2,32]}" \
    -v p="${product[1]}" -v q="${product[2]}" -v r="${copy[1]}" -v s="${copy[2]}" 'BEGIN {
    printf "from 1 to 2 threads: step of 8 %.2fx, of 32 %.2fx, large product %.2fx, copy %.2fx\n", a / b, c / d, q / p, s / r }'
echo "sensei's kernels against burn's own operators (forward and backward only):"
"$against_burn" 2 8 "$repeats"
