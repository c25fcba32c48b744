#!/usr/bin/env bash
# Samples a second of the data path on one thread (decode, crop, augment, cached target) against the images a second of
# a PicoSAM2 training step on all cores: the first has to be at least three times the second. Then batches of configs/sensei-box-sample.toml's crops
# at 96 x 96 on one thread, from image files and from packed samples, in CPU time; with CACHE also the teacher's answers.
#
# usage: scripts/bench/data.sh [SHARED [CACHE]]     SHARED: the folder with data/, default ../shared; CACHE: answers about its training split,
#        of sensei teacher build --min-side 24
set -euo pipefail
cd "$(dirname "$0")/../.."
shared=${1:-../shared}/data
bench=$(scripts/bench/build.sh picosam2)
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
data=$("$bench" data "$shared/coco/annotations/instances_train.json" "$shared/coco/images/train" \
    "$shared/teacher_cache/roi96_box_train.safetensors" 986 | awk '{print $2}')
step=$("$bench" step "$(nproc)" 8 9 | awk '{print $2}')
awk -v d="$data" -v s="$step" 'BEGIN {
    rate = 8000 / s
    printf "data path %.1f samples/s on one thread; training step %.1f images/s; ratio %.1f\n", d, rate, d / rate }'
samples=$(scripts/bench/build.sh samples)
of_split=("$shared/coco/annotations/instances_train.json" "$shared/coco/images/train" "${2:--}" 96)
"$samples" parts "${of_split[@]}"
"$samples" rate "${of_split[@]}" 5
