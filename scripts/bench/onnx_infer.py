"""PicoSAM2 as a float ONNX file for onnxruntime, and its time there.

usage: onnx_infer.py make FOLDER [picosam2|bilinear]              writes picosam2.onnx and picosam2.safetensors
       onnx_infer.py time FOLDER THREADS BATCH REPEATS

Written for torch 2.x, onnx and onnxruntime 1.31. The network is the one of tests/golden/student/make.py with weights by its
formula; batch norms are folded by the exporter.
"""
import pathlib
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve()


def make(folder, network="picosam2"):
    import torch
    from safetensors.numpy import save_file

    sys.path.insert(0, str(HERE.parents[2] / "tests/golden/student"))
    from make import full, load_formula, named

    folder.mkdir(parents=True, exist_ok=True)
    model = full(network)
    load_formula(model)
    model.eval()
    save_file({name: t.detach().numpy().copy() for name, t in named(model).items()}, folder / "picosam2.safetensors")
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, 96, 96),),
        str(folder / "picosam2.onnx"),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
    )


def measure(folder, threads, batch, repeats):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "picosam2.onnx"), options, providers=["CPUExecutionProvider"])
    ramp = np.arange(batch * 3 * 96 * 96, dtype=np.int64) * 37 % 256
    image = (ramp / np.float32(128) - 1).astype(np.float32).reshape(batch, 3, 96, 96)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        (logits,) = session.run(None, {"image": image})
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[2:])
    mean = float(np.abs(logits.astype(np.float64)).mean())
    print(f"median_ms {1e3 * seconds[repeats // 2]:.2f} min_ms {1e3 * seconds[0]:.2f} mean_abs_logit {mean:.6f}")


if sys.argv[1] == "make":
    make(pathlib.Path(sys.argv[2]), *sys.argv[3:])
else:
    measure(pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:6]))
