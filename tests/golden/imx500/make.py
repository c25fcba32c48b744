"""Golden outputs of onnxruntime for the small networks of crates/imx500/tests/sample.

    cargo run --release -p sensei-imx500 --example sample -- /tmp/imx500 small2
    cargo run --release -p sensei-imx500 --example sample -- /tmp/imx500 small3
    cargo run --release -p sensei-imx500 --example sample -- /tmp/imx500 bilinear
    cargo run --release -p sensei-imx500 --example sample -- /tmp/imx500 relu6
    python3 tests/golden/imx500/make.py /tmp/imx500 small2 small3 bilinear relu6   # writes <case>/data.safetensors here
    python3 tests/golden/imx500/make.py /tmp/imx500 --out /tmp picosam2  # any other sample, to another folder

Weights and pixels come from integers with fixed seeds in that example, so that its network is the same on every
machine; its digest is kept in the data. Made with onnx 1.17.0, onnxruntime 1.21.1,
onnxruntime-extensions 0.13.0, mct-quantizers 1.6.0, numpy 2.4.6, safetensors 0.8.0.

Tensors: `pixels` [height, width, 3], `model` [32], the digest of the int8 model, and per stored tensor of the network, in order, `000`, `001`, ...
its integers [channels, height, width]: one byte each (two's complement where signed), or two, little endian, where it has 16 bits.
"""
import argparse
import pathlib

import mct_quantizers
import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import save_file


def quantizers(model):
    """Name, step, signed, bits of the output of every activation quantizer, in order."""
    for node in model.graph.node:
        if node.op_type == "ActivationPOTQuantizer":
            at = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            step = at["threshold"] / 2.0 ** (at["num_bits"] - at["signed"])
            yield node.output[0], step, at["signed"], at["num_bits"]


def make(folder, case, out):
    data = (folder / f"{case}.onnx").read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    digest = {p.key: p.value for p in model.metadata_props}["sensei.int8_model"]
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    pixels = np.frombuffer((folder / f"{case}.pixels").read_bytes(), np.uint8).reshape(size, size, 3)
    layers = list(quantizers(model))
    known = {o.name for o in model.graph.output}
    for name, *_ in layers:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = mct_quantizers.get_ort_session_options()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    _, step, signed, _ = layers[0]
    image = (image - 128 * signed) * np.float32(step)
    results = session.run([name for name, *_ in layers], {model.graph.input[0].name: image})
    tensors = {"pixels": pixels, "model": np.frombuffer(bytes.fromhex(digest), np.uint8)}
    for index, ((_, step, signed, bits), values) in enumerate(zip(layers, results)):
        exact = values[0].astype(np.float64) / step
        assert (exact == np.rint(exact)).all()
        kind = {(1, 8): np.int8, (0, 8): np.uint8, (1, 16): np.int16}[signed, bits]
        integers = exact.astype(kind)
        assert (integers == exact).all()
        shape = integers.shape if bits == 8 else (*integers.shape, 2)
        tensors[f"{index:03}"] = np.ascontiguousarray(integers).view(np.uint8).reshape(shape)
    (out / case).mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(out / case / "data.safetensors"))
    print(case, len(layers), "tensors", sum(t.nbytes for t in tensors.values()), "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    args = parser.parse_args()
    for case in args.cases:
        make(args.folder, case, args.out)
