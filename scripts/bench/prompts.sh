#!/usr/bin/env bash
# Prompts of one image through the mask decoder with gradients (a recipe's second stage): Sensei, four at a time as it trains, against PyTorch with all
# at once and four at a time, alternating in one run. Time and the peak of memory of the whole process.
#
# usage: scripts/bench/prompts.sh WEIGHTS [THREADS [PROMPTS [ROUNDS]]]     WEIGHTS: a file of MobileSAM; PYTHON=... for a python with torch and
# mobilesam-mirror; default: 2 16 3
# Prints medians and ratios; for an idle machine. Never fails on them.
set -euo pipefail
cd "$(dirname "$0")/../.."
weights=${1:?usage: scripts/bench/prompts.sh WEIGHTS [THREADS [PROMPTS [ROUNDS]]]}
threads=${2:-2} prompts=${3:-16} rounds=${4:-3} python=${PYTHON:-python3}
bench=$(scripts/bench/build.sh prompts)
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg), threads $threads, $prompts prompts"
for round in $(seq "$rounds"); do
    read -r ours ours_mib < <("$bench" "$threads" "$prompts" 4 3 "$weights" | awk '{print $2, $6}')
    read -r all all_mib < <("$python" scripts/bench/torch_prompts_step.py "$threads" "$prompts" "$prompts" 3 | awk '{print $2, $6}')
    read -r four four_mib < <("$python" scripts/bench/torch_prompts_step.py "$threads" "$prompts" 4 3 | awk '{print $2, $6}')
    awk -v n="$round" -v o="$ours" -v om="$ours_mib" -v a="$all" -v am="$all_mib" -v f="$four" -v fm="$four_mib" 'BEGIN {
        printf "round %d: sensei %.0f ms, %d MiB; torch %.0f ms (%.2fx), %d MiB; four at a time %.0f ms (%.2fx), %d MiB\n",
            n, o, om, a, a / o, am, f, f / o, fm }'
done
