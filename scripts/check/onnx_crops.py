#!/usr/bin/env python3
"""Counts where onnxruntime and the interpreter differ on crops of photographs: `scripts/check/onnx_crops.py SENSEI PACKAGE ONNX IMAGES [CROPS]`.

SENSEI is the program, PACKAGE a package, ONNX the quantized file of its network (`onnx/student-int8.onnx` of its run, or of
`cargo run --release --example write_an_s8m_as_onnx`), IMAGES a folder of JPEG files. Square crops of them, 300 unless told, go through
onnxruntime, without its optimisations and with them. `sensei replay` compares the answers as it compares a camera's. The seed is fixed.

needs: pip install numpy==2.3.5 onnxruntime==1.32.0 pillow==13.0.0
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort
from PIL import Image

LEVELS = {
    "without optimisations": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "with optimisations": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
DIFFERENCE = re.compile(r"(\d+) of \d+ values differ, at most (\d+) steps, (\d+) pixels of the mask")


def main():
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    program, package, onnx, images = sys.argv[1:5]
    sessions = {name: session_of(onnx, level) for name, level in LEVELS.items()}
    side = next(iter(sessions.values())).get_inputs()[0].shape[2]
    crops = crops_of(sorted(pathlib.Path(images).rglob("*.jpg")), int(sys.argv[5]) if len(sys.argv) == 6 else 300, side)
    for name, session in sessions.items():
        with tempfile.TemporaryDirectory() as folder:
            for idx, pixels in enumerate(crops):
                integers = (pixels.astype(np.int16) - 128).astype(np.int8).transpose(2, 0, 1)
                (logits,) = session.run(["logits"], {"image": integers[None].astype(np.float32) / 128})
                integers.tofile(f"{folder}/{idx:04}.input")
                # In the order in which the chip sends them: column by column.
                np.ascontiguousarray(logits[0].transpose(2, 1, 0)).tofile(f"{folder}/{idx:04}.output")
            done = subprocess.run([program, "replay", package, folder], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        found = [[int(number) for number in line] for line in DIFFERENCE.findall(done.stdout)]
        values, steps, pixels = (sum(row[0] for row in found), max((row[1] for row in found), default=0), sum(row[2] for row in found))
        print(f"{name}: {len(found)} of {len(crops)} crops differ, in {values} of {len(crops) * side * side} values, "
              f"at most {steps} steps, {pixels} pixels of the mask")
        # Exit code 1 without a difference is another failure.
        if done.returncode == 1 and not found:
            sys.exit(done.stderr)


def session_of(onnx, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def crops_of(files, count, side):
    """Square crops, one of each file in turn."""
    if not files:
        sys.exit("expected a folder of JPEG files, found none")
    random, crops = np.random.default_rng(0), []
    for idx in range(count):
        image = Image.open(files[idx % len(files)]).convert("RGB")
        extent = int(random.integers(min(60, *image.size), min(image.size) + 1))
        left, top = (int(random.integers(0, whole - extent + 1)) for whole in image.size)
        crop = image.crop((left, top, left + extent, top + extent)).resize((side, side), Image.Resampling.BILINEAR)
        crops.append(np.asarray(crop))
    return crops


if __name__ == "__main__":
    main()
