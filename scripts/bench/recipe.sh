#!/usr/bin/env bash
# A step of a recipe's first stage (an image encoder learns an embedding): Sensei against PyTorch as it comes and channels last, alternating
# in one run.
#
# usage: scripts/bench/recipe.sh [THREADS [SIDE [BATCH [ROUNDS]]]]     PYTHON=... for a python with torch; default: 2 512 8 3
# Prints medians and ratios; for an idle machine. Never fails on them.
set -euo pipefail
cd "$(dirname "$0")/../.."
threads=${1:-2} side=${2:-512} batch=${3:-8} rounds=${4:-3} python=${PYTHON:-python3}
bench=$(scripts/bench/build.sh recipe)
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg), threads $threads, $side x $side, batch $batch"
for round in $(seq "$rounds"); do
    ours=$("$bench" "$threads" "$batch" 3 "$side" | awk '{print $2}')
    torch=$("$python" scripts/bench/torch_recipe_step.py "$threads" "$batch" 3 "$side" | awk '{print $2}')
    last=$("$python" scripts/bench/torch_recipe_step.py "$threads" "$batch" 3 "$side" channels_last | awk '{print $2}')
    awk -v n="$round" -v o="$ours" -v t="$torch" -v l="$last" 'BEGIN {
        printf "round %d: sensei %.0f ms, torch %.0f ms (%.2fx), channels last %.0f ms (%.2fx)\n", n, o, t, t / o, l, l / o }'
done
