#!/usr/bin/env bash
# Caches of format 1, which no version since writes.
#
# cache/ is what Sensei 0.1.0 at commit 0492223 made of the dump beside this folder; quickstart-*.json are the manifests of
# the answers that came with the repository at that commit. Run at that commit, from the repository's root.
set -euo pipefail
golden=tests/golden/teacher
cargo run --release -- teacher import "$golden/dump/dump" "$golden/dump/annotations.json" "$golden/dump" "$golden/format1/cache"
for split in train val; do
    cp "datasets/quickstart/teacher-cache/$split/manifest.json" "$golden/format1/quickstart-$split.json"
done
