#!/usr/bin/env bash
# COCO average precision of our command, pycocotools and faster-coco-eval on generated data of val2017's size (5,000 images,
# 36 thousand truths, 100 detections an image): seconds, peak memory and ratios, side by side in one run. All read the
# same two files and have to give the same twelve numbers. Ours is timed as a process, theirs without Python's start.
#
# usage: scripts/bench/eval.sh PYTHON [FOLDER] [N_IMAGES] [KINDS]
#   PYTHON: one with pycocotools, faster-coco-eval, numpy     FOLDER: for the data, made if it is not there (minutes)
#   KINDS: of "segm bbox boundary", the default
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
folder=${2:-target/eval-bench}
peers=scripts/bench/eval_peers.py
cargo build --release -p sensei --quiet
[ -e "$folder/detections.json" ] || "$python" $peers generate "$folder" "${3:-5000}"
truth=$folder/annotations.json found=$folder/detections.json
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg), $(du -ch "$truth" "$found" | tail -1 | cut -f1)"

ours() { # threads, kind: seconds, MiB, twelve numbers
    "$python" - "$1" "$2" "$truth" "$found" <<'PY'
import json, os, resource, subprocess, sys, tempfile, time
threads, kind, truth, found = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    out = folder + "/ap.json"
    command = ["target/release/sensei", "eval-coco", truth, found, "--iou", kind, "--threads", threads, "--out", out]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    report = json.load(open(out))["summary"]
names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]
values = (-1.0 if report[name] is None else report[name] for name in names)
print(f"{seconds:.3f} {peak:.0f}", *(f"{value:.12f}" for value in values))
PY
}

for kind in ${4:-segm bbox boundary}; do
    {
        echo "ours-1-thread $(ours 1 $kind)"
        echo "ours $(ours 0 $kind)"
        echo "faster-coco-eval $("$python" $peers faster $kind "$truth" "$found")"
        [ $kind = boundary ] || echo "pycocotools $("$python" $peers pycocotools $kind "$truth" "$found")"
    } | awk -v kind=$kind '
        $1 == "ours" { seconds = $2; memory = $3 }
        {
            lines[NR] = $0
            for (i = 4; i <= NF; i++) {
                if (NR == 1) first[i] = $i
                difference = $i - first[i]; if (difference < 0) difference = -difference
                if (difference > 1e-9) { print kind, $1, "differs by", difference; bad = 1 }
            }
        }
        END {
            for (n = 1; n <= NR; n++) {
                split(lines[n], f, " ")
                printf "%-9s %-17s %8.2f s %6d MiB   time x %5.1f   memory x %4.1f\n", kind, f[1], f[2], f[3], f[2] / seconds, f[3] / memory
            }
            exit bad
        }'
done
