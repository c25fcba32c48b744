#!/usr/bin/env bash
# Decoding and drawing annotated masks on one thread: ours, what writing as many bytes takes, and pycocotools, in alternating rounds.
#
# usage: scripts/bench/masks.sh PYTHON [ANNOTATIONS] [ROUNDS]
#   PYTHON: one with pycocotools     ANNOTATIONS: default the real validation sample in ../shared
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
annotations=${2:-../shared/data/coco/annotations/instances_val.json}
masks=$(scripts/bench/build.sh masks -p sensei-data)
grep -m1 'model name' /proc/cpuinfo || true
echo "cores $(nproc), load $(cut -d' ' -f1 /proc/loadavg)"
for _ in $(seq "${3:-3}"); do
    "$masks" "$annotations" 15
    printf 'peer '
    "$python" scripts/bench/eval_peers.py masks "$annotations" 5
done | awk '
    function median(values, n,    i, j, t) {
        for (i = 2; i <= n; i++) for (j = i; j > 1 && values[j] < values[j - 1]; j--) { t = values[j]; values[j] = values[j - 1]; values[j - 1] = t }
        return values[int((n + 1) / 2)]
    }
    $1 == "masks" { n_masks = $2; bytes = $4; n_polygons = $6 }
    $1 == "decode" { n++; decode[n] = $2; write[n] = $4; memory[n] = $6; draw[n] = $8 }
    $1 == "peer" { their_draw[n] = $3; their_decode[n] = $5 }
    END {
        if (n == 0) exit 1
        d = median(decode, n); w = median(write, n); m = median(memory, n); r = median(draw, n); pr = median(their_draw, n); pd = median(their_decode, n)
        printf "decode %d masks: %.1f ms, %.1f GB/s; writing as many bytes to memory %.1f ms (decode takes x %.2f), to a cache %.1f ms (x %.2f); pycocotools %.1f ms (x %.1f)\n", n_masks, 1e3 * d, bytes / d / 1e9, 1e3 * m, d / m, 1e3 * w, d / w, 1e3 * pd, pd / d
        printf "draw %d outlines: %.1f ms; pycocotools %.1f ms (x %.2f)\n", n_polygons, 1e3 * r, 1e3 * pr, pr / r
    }'
