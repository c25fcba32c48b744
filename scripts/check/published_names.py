#!/usr/bin/env python3
"""Loads a trained student into the published PyTorch code: `scripts/check/published_names.py RUN [EFFICIENT_SAM]`.

RUN is the folder of a run with a student that answers prompts, after `sensei export RUN`. The prompt encoder and the mask decoder go into
MobileSAM's own classes (package mobilesam-mirror, or a checkout on PYTHONPATH), with strict names and shapes. So does an encoder of kind "vit",
into EfficientSAM's ImageEncoderViT of the checkout EFFICIENT_SAM. Then PyTorch and onnxruntime, on the exported files, answer the same
image and prompts. Ends with exit code 1 if a name, a shape or a logit differs. Needs torch, safetensors, numpy, onnxruntime.
"""

import functools
import pathlib
import sys
import tomllib

import numpy as np
import onnxruntime as ort
import torch
from mobile_sam.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from safetensors.torch import load_file

# Of float32 sums in another order, relative.
TOLERANCE = 2e-5


def main():
    run = pathlib.Path(sys.argv[1])
    tensors = load_file(run / "student.safetensors")
    parts = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    # Boxes that the student proposes are no part of the published networks.
    strange = [name for name in tensors if not name.startswith((*parts, "granularity."))]
    assert not strange, f"expected tensors of three parts, found {strange}"
    encoder, prompts, decoder = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)} for part in parts
    )
    torch.manual_seed(0)
    ok = decoder_is_published(run, prompts, decoder)
    settings = tomllib.loads((run / "plan.toml").read_text())["student"]["encoder"]
    if settings["kind"] != "vit":
        print(f"image encoder: kind {settings['kind']} is no published network's; not compared")
    elif len(sys.argv) < 3:
        print("image encoder: no checkout of EfficientSAM given; not compared")
    else:
        ok &= encoder_is_published(run, encoder, settings, sys.argv[2])
    return 0 if ok else 1


def decoder_is_published(run, prompt_tensors, decoder_tensors):
    prompt_encoder = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256)
    prompt_encoder.load_state_dict(prompt_tensors, strict=True)
    decoder.load_state_dict(decoder_tensors, strict=True)
    print(f"prompt encoder and mask decoder: {len(prompt_tensors)} and {len(decoder_tensors)} tensors, all names and shapes as published")
    session = ort.InferenceSession(run / "onnx/decoder.onnx", providers=["CPUExecutionProvider"])
    embedding = 0.2 * torch.randn(1, 256, 64, 64)
    ok = True
    for points, labels in [([[200, 300], [700, 650]], [2, 3]), ([[512.5, 400]], [1]), ([[512.5, 400], [300, 200]], [1, 0])]:
        points, labels = np.float32([points]), np.float32([labels])
        with torch.no_grad():
            if is_box := labels[0, 0] == 2:
                sparse, dense = prompt_encoder(points=None, boxes=torch.from_numpy(points.reshape(1, 4)), masks=None)
            else:
                sparse, dense = prompt_encoder(points=(torch.from_numpy(points), torch.from_numpy(labels)), boxes=None, masks=None)
            answer = decoder(image_embeddings=embedding, image_pe=prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
                             dense_prompt_embeddings=dense, multimask_output=True)
            single = decoder(image_embeddings=embedding, image_pe=prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
                             dense_prompt_embeddings=dense, multimask_output=False)
        # PyTorch's code pads what has no box by itself; its export leaves that to the caller.
        if not is_box:
            points, labels = np.pad(points, ((0, 0), (0, 1), (0, 0))), np.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
        _, iou, low = session.run(None, {
            "image_embeddings": embedding.numpy(), "point_coords": points, "point_labels": labels,
            "mask_input": np.zeros((1, 1, 256, 256), np.float32), "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.float32([1024, 1024]),
        })
        # The choice of SAM's export: the first token's mask for three points and more, padding counted.
        masks, scores = single if points.shape[1] >= 3 else answer
        best = int(scores[0].argmax())
        what = "a box" if is_box else f"{points.shape[1] - 1} clicks"
        ok &= close(f"decoder, {what}", low[0, 0], masks[0, best].numpy())
        ok &= close(f"score, {what}", iou[0, 0], scores[0, best].numpy())
    return ok


def encoder_is_published(run, tensors, settings, checkout):
    sys.path.insert(0, checkout)
    from efficient_sam.efficient_sam_encoder import ImageEncoderViT

    side, patch, channels = settings["input_size"], settings["patch"], settings["channels"]
    network = ImageEncoderViT(
        img_size=side, patch_size=patch, in_chans=3, patch_embed_dim=channels, normalization_type="layer_norm", depth=settings["blocks"],
        num_heads=settings["heads"], mlp_ratio=4.0, neck_dims=[256, 256], act_layer=torch.nn.GELU,
    )
    # The published table is of 224 pixels and is interpolated; the student's is of its own size, which that code takes as it is.
    network.pos_embed = torch.nn.Parameter(torch.zeros_like(tensors["pos_embed"]))
    network.load_state_dict(tensors, strict=True)
    print(f"image encoder: {len(tensors)} tensors, all names and shapes as published but for the size of the table of positions")
    scale = 64 // (side // patch)
    if scale > 1:
        # The student's own deviation: its neck upsamples before the second convolution.
        widen = functools.partial(torch.nn.functional.interpolate, scale_factor=scale, mode="bilinear", align_corners=False)
        network.neck[2].register_forward_pre_hook(lambda _, inputs: (widen(inputs[0]),))
    image = torch.rand(1, 3, side, side) * 2 - 1
    with torch.no_grad():
        expected = network(image).numpy()
    session = ort.InferenceSession(run / "onnx/encoder.onnx", providers=["CPUExecutionProvider"])
    return close("image encoder", session.run(None, {"input": image.numpy()})[0], expected)


def close(what, found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"{what}: relative difference {distance:.1e}, largest {np.abs(found - expected).max():.1e}")
    return bool(distance < TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
