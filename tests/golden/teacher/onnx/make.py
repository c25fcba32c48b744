"""Two small ONNX files in the layout of SAM's exports, and what onnxruntime answers with them. Writes encoder.onnx, decoder.onnx,
decoder_three.onnx, decoder_other.onnx, fine_encoder.onnx, fine_decoder.onnx and data.safetensors beside this file.

    pip install onnx==1.23.2 onnxruntime==1.32.0 numpy safetensors==0.8.0
    python make.py

The encoder averages patches of 16 x 16 pixels and mixes their colours into four channels. The decoder makes four masks of these, and adds what
the points and labels sum up to. `decoder_three` answers with three masks, `decoder_other` wants an input that nobody has. `fine_*` hand a finer
map over beside the embedding, as exports of SAM 2 do.

picture                 u8      [48, 64, 3]
points, labels          f32     a box and two points of padding, in pixels of the 1024 x 1024 frame, [1, 4, 2] and [1, 4]
embedding               f32     every 8th row and column, [4, 8, 8]
logits, predicted_iou   f32     every 16th row and column of all masks, [4, 16, 16], and [4]
fine.logits             f32     the same by the fine pair, which is shown the picture stretched, for the same box
"""

import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
draw = np.random.default_rng(3)
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def written(name, nodes, inputs, outputs, constants):
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx")


def encoder(name, fine):
    nodes = [
        helper.make_node("AveragePool", ["image"], ["patches"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["patches", "mix"], ["image_embed" if fine else "embeddings"]),
    ]
    outputs = [floats("image_embed" if fine else "embeddings", 1, 4, 64, 64)]
    if fine:
        nodes.append(helper.make_node("AveragePool", ["image"], ["high_res_feats_0"], kernel_shape=[4, 4], strides=[4, 4]))
        # Exports of SAM 2 put the finer map first.
        outputs.insert(0, floats("high_res_feats_0", 1, 3, 256, 256))
    mix = constant("mix", draw.normal(size=(4, 3, 1, 1)).astype(np.float32))
    written(name, nodes, [floats("image", 1, 3, 1024, 1024)], outputs, [mix])


def decoder(name, n_masks, fine, other=None):
    embedding = "image_embed" if fine else "image_embeddings"
    nodes = [
        helper.make_node("ConvTranspose", [embedding, "up"], ["upscaled"], strides=[4, 4]),
        helper.make_node("Mul", ["point_coords", "per_pixel"], ["places"]),
        helper.make_node("ReduceSum", ["places"], ["place"], keepdims=0),
        helper.make_node("ReduceSum", ["point_labels"], ["label"], keepdims=0),
        helper.make_node("Add", ["place", "label"], ["prompt"]),
        helper.make_node("Add", ["upscaled", "prompt"], ["logits" if fine else "low_res_masks"]),
        helper.make_node("ReduceMean", ["logits" if fine else "low_res_masks"], ["iou_predictions"], axes=[2, 3], keepdims=0),
    ]
    inputs = [floats(embedding, 1, 4, 64, 64), floats("point_coords", 1, "n", 2), floats("point_labels", 1, "n")]
    constants = [
        constant("up", draw.normal(size=(4, n_masks, 4, 4)).astype(np.float32)),
        constant("per_pixel", np.float32(1e-3)),
    ]
    if fine:
        # Without low-resolution masks beside them, `masks` are these.
        nodes += [
            helper.make_node("ReduceMean", ["high_res_feats_0"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("Add", ["logits", "grey"], ["masks"]),
        ]
        inputs.append(floats("high_res_feats_0", 1, 3, 256, 256))
        outputs = [floats("masks", 1, n_masks, 256, 256), floats("iou_predictions", 1, n_masks)]
    else:
        nodes += [
            helper.make_node("Cast", ["orig_im_size"], ["size"], to=TensorProto.INT64),
            helper.make_node("Concat", ["first", "size"], ["sizes"], axis=0),
            helper.make_node("Resize", ["low_res_masks", "", "", "sizes"], ["masks"], mode="linear"),
        ]
        inputs += [floats("mask_input", 1, 1, 256, 256), floats("has_mask_input", 1), floats("orig_im_size", 2)]
        constants.append(constant("first", np.int64([1, n_masks])))
        outputs = [floats("masks", 1, n_masks, "h", "w"), floats("iou_predictions", 1, n_masks)]
        outputs.append(floats("low_res_masks", 1, n_masks, 256, 256))
    if other:
        inputs.append(floats(other, 1))
    written(name, nodes, inputs, outputs, constants)


encoder("encoder", fine=False)
decoder("decoder", 4, fine=False)
decoder("decoder_three", 3, fine=False)
decoder("decoder_other", 4, fine=False, other="text_prompt")
encoder("fine_encoder", fine=True)
decoder("fine_decoder", 4, fine=True)


def session(name):
    return onnxruntime.InferenceSession(HERE / f"{name}.onnx", providers=["CPUExecutionProvider"])


