"""The network of an exported ONNX file for onnxruntime, as float and quantized by onnxruntime itself, and its time there.

usage: onnx_int8.py make FOLDER                           reads picosam2.onnx and .pixels; writes float.onnx, u8.onnx, s8.onnx
       onnx_int8.py time FOLDER float|u8|s8 THREADS REPEATS

The float network is ours without its quantizers: the same nodes, with the weights of the integer model. The two quantized
ones are quantize_static's, in QDQ format with symmetric weights per channel: activations unsigned with a zero point, and
signed and symmetric. Calibrated on the pixels and 15 shifted copies of them. Written for onnx 1.23, onnxruntime 1.31.
"""
import pathlib
import sys
import time

import numpy as np

SIZE = 96


def image(folder, shift=0):
    pixels = np.frombuffer((folder / "picosam2.pixels").read_bytes(), np.uint8).reshape(1, SIZE, SIZE, 3)
    return ((np.roll(pixels, shift, axis=2).transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128).copy()


def strip(model):
    """Quantizers become names for what they read; of the domains only ONNX's own stays."""
    graph, renamed = model.graph, {}
    for node in graph.node:
        if node.domain == "mct_quantizers":
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
    kept = [node for node in graph.node if node.domain != "mct_quantizers"]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    read = {name for node in kept for name in node.input}
    kept = [node for node in kept if node.op_type != "Constant" or node.output[0] in read]
    for output in graph.output:
        source = renamed[output.name]
        for node in kept:
            node.output[:] = [output.name if name == source else name for name in node.output]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    opsets = [opset for opset in model.opset_import if opset.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model


def make(folder):
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = strip(onnx.load(folder / "picosam2.onnx"))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "float.onnx")
    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.images = iter([{name: image(folder, 6 * shift)} for shift in range(16)])

        def get_next(self):
            return next(self.images, None)

    quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"))
    for kind, activations in (("u8", QuantType.QUInt8), ("s8", QuantType.QInt8)):
        quantize_static(
            str(folder / "prepared.onnx"),
            str(folder / f"{kind}.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": kind == "s8"},
        )


def measure(folder, kind, threads, repeats):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / f"{kind}.onnx"), options, providers=["CPUExecutionProvider"])
    name, x = session.get_inputs()[0].name, image(folder)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        (logits,) = session.run(None, {name: x})
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[2:])
    mean = float(np.abs(logits.astype(np.float64)).mean())
    print(f"median_ms {1e3 * seconds[repeats // 2]:.3f} min_ms {1e3 * seconds[0]:.3f} mean_abs_logit {mean:.6f}")


if sys.argv[1] == "make":
    make(pathlib.Path(sys.argv[2]))
else:
    measure(pathlib.Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:6]))
