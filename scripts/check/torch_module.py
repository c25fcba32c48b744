#!/usr/bin/env python3
"""Holds the PyTorch module of chip students to Sensei: `scripts/check/torch_module.py RUN ...`.

Each RUN is the folder of a run with a package. Its torch/sensei_torch.py answers the crops of the package's test vectors, and is compared with
onnx/student-float.onnx in onnxruntime, which crates/cli/tests/command_line/student_onnx.rs holds to Sensei's own floats. Then its tensors are
written and read again. Ends with exit code 1 if a logit differs by more than 1e-4, or a tensor at all.

needs: pip install torch==2.15.0 numpy==2.4.6 safetensors==0.8.0 onnxruntime==1.32.0
"""

import importlib.util
import pathlib
import sys
import tempfile

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file, save_file

# Of logits, whose float32 sums are in another order.
TOLERANCE = 1e-4


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    failed = [run for run in sys.argv[1:] if not check(pathlib.Path(run))]
    sys.exit(f"differ: {', '.join(failed)}" if failed else 0)


def check(run):
    """Whether a run's module says what its float network says."""
    module = module_of(run / "torch" / "sensei_torch.py")
    student = module.load(run)
    session = ort.InferenceSession(run / "onnx" / "student-float.onnx", providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[2]
    inputs = sorted((run / "package" / "test_vectors").glob("*.input"))
    if not inputs:
        sys.exit(f"{run}: expected test vectors in its package, found none")
    images = [np.fromfile(file, np.int8).reshape(1, 3, side, side).astype(np.float32) / 128 for file in inputs]
    with torch.no_grad():
        answers = [(session.run(["logits"], {"image": image})[0], student(torch.from_numpy(image)).numpy()) for image in images]
    farthest = max(float(np.abs(ours - theirs).max()) for ours, theirs in answers)
    reach = max(float(np.abs(ours).max()) for ours, _ in answers)

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "student.safetensors"
        save_file(student.state_dict(), file)
        written, trained = load_file(file), load_file(run / "student.safetensors")
    same = written.keys() == trained.keys() and all(torch.equal(written[name], trained[name]) for name in trained)
    print(f"{run}: {len(images)} crops, logits up to {reach:.2f}: farthest {farthest:.2e}; tensors {'equal' if same else 'DIFFER'}")
    return farthest <= TOLERANCE and same


def module_of(file):
    """The module of a run's own code."""
    spec = importlib.util.spec_from_file_location("sensei_torch", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
