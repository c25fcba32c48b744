#!/usr/bin/env bash
# Teacher answers a second of one core, from a warm page cache: our store against one .pt file an annotation. Both give the logits of 96 x 96 as
# floats, as they are stored: the store after its checksum and fields are checked, the files by torch.load(weights_only=True) and a
# conversion. "cut" is what a training step needs of the store: resampled to a moved crop of 96 x 96 too. CPU time, in turns.
#
# usage: scripts/bench/answers.sh [ROUNDS [N [SHARED]]]     N: records, default 20000; SHARED: the folder with data/, default ../shared;
#        PYTHON=... for a python with torch, numpy and safetensors. Needs about 400 MB in TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-3} n=${2:-20000} shared=${3:-../shared}/data python=${PYTHON:-python3}
bench=$(scripts/bench/build.sh samples)
cargo build --release --quiet --workspace --bin sensei
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
dump=$shared/teacher_cache/roi96_box_train.safetensors
target/release/sensei teacher import "$dump" "$shared/coco/annotations/instances_train.json" "$shared/coco/images/train" "$folder/one" >"$folder/log"
echo "store: $("$bench" repeat "$folder/one" "$folder/store" "$n")"
"$python" scripts/bench/torch_answers.py write "$dump" "$folder/pt" "$n"
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
for _ in $(seq "$rounds"); do
    read -r _ _ stored _ cut < <("$bench" answers "$folder/store" 96 1)
    files=$("$python" scripts/bench/torch_answers.py read "$folder/pt" "$n" | awk '{print $2}')
    awk -v s="$stored" -v c="$cut" -v f="$files" 'BEGIN {
        printf "store %.0f targets/s, cut %.0f; .pt files %.0f; ratio %.1f, cut %.1f\n", s, c, f, s / f, c / f }'
done
