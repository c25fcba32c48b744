#!/usr/bin/env bash
# Training steps and forward passes of PicoSAM2 at 96 x 96 on a GPU: Sensei, and PyTorch eager and compiled on the same card,
# alternating in one run.
#
# usage: scripts/bench/gpu.sh [DEVICE [REPEATS [BATCHES]]]     DEVICE: wgpu (default) or cuda; PYTHON=... for a python with torch
# Builds in target/gpu with kernel fusion and tuning; the first run of each size tunes for minutes. Prints, never fails on ratios.
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${1:-wgpu} repeats=${2:-20} batches=${3:-64 256 1024} python=${PYTHON:-python3}
features=wgpu,burn/fusion,burn/autotune
[ "$device" = cuda ] && features=$features,cuda
[ "$device" = wgpu:software ] && features=wgpu
gpu=$(scripts/bench/build.sh gpu -p sensei-train --features "$features" --target-dir target/gpu)
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
has_torch=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))' 2>/dev/null || echo 0)
[ "$has_torch" = 1 ] || echo "skipped: PyTorch with CUDA is not installed; only Sensei is timed"

rate() { sed 's/.*images_per_second \([0-9.]*\).*/\1/'; }
for what in train eval; do
    for batch in $batches; do
        for half in "" bf16 f16; do
            # The evaluation computes in 32 bits.
            [ "$what" = eval ] && [ -n "$half" ] && continue
            ours=$("$gpu" "$what" "$device" "$batch" "$repeats" $half 2>/dev/null | rate) || ours=failed
            line="$what batch $batch ${half:-f32}: sensei ${ours:-failed} images/s"
            if [ "$has_torch" = 1 ]; then
                eager=$("$python" scripts/bench/torch_gpu.py "$what" "$batch" "$repeats" $half | rate)
                compiled=$("$python" scripts/bench/torch_gpu.py "$what" "$batch" "$repeats" compile $half | rate)
                line="$line, torch eager $eager, torch.compile $compiled"
            fi
            echo "$line"
        done
    done
done
