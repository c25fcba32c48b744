"""Golden values of EfficientSAM with made-up weights: Ti at its own 1024 x 1024 into data.safetensors beside this file, S at 256 x 256 into
small/.

Versions: torch 2.15.0 (CPU, float64), numpy 2.4.6, safetensors 0.8.0.

Weights and image are not stored: both sides compute them by `made_up` of ../sam/network.py. The network is written here by its description,
with PyTorch's operators. Sources: arXiv 2312.00863 and yformer/EfficientSAM, `efficient_sam/`.

shape.NAME          i64           the shape of each tensor of the network, under its published name
embedding           f32           every 16th channel, every 8th row and column, [16, 8, 8]; of 256 x 256, [16, 2, 2]
points, labels      f32, i64      two prompts of three points, [2, 3, 2] and [2, 3]
tokens_out          f32           tokens after the transformer, [2, 11, 256]
logits              f32           all masks, every 16th row and column, [2, 4, 16, 16]; of 256 x 256, [2, 4, 4, 4]
predicted_iou       f32           [2, 4]
"""

import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "sam"))
import network
from network import attention, layer_norm, layer_norm_2d, linear, made_up, position_code, w

BLOCKS = 12
# By folder: side of the image, channels, heads.
SIZES = {".": (1024, 192, 3), "small": (256, 384, 6)}
shapes = {}


def weight(name, shape):
    shapes[name] = shape
    return torch.from_numpy(made_up(name, shape)).double()


network.weight = weight


def encoder(x, channels, heads):
    name, grid = "image_encoder", x.shape[-1] // 16
    x = F.conv2d(x, w(f"{name}.patch_embed.proj.weight", channels, 3, 16, 16), w(f"{name}.patch_embed.proj.bias", channels), 16)
    table = w(f"{name}.pos_embed", 1, 14 * 14 + 1, channels)[:, 1:].reshape(1, 14, 14, channels).permute(0, 3, 1, 2)
    x = x + F.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False)
    x = x.flatten(2).transpose(1, 2)
    for block in range(BLOCKS):
        at = f"{name}.blocks.{block}"
        qkv = linear(layer_norm(x, f"{at}.norm1", 1e-6), f"{at}.attn.qkv", 3 * channels)
        q, k, v = qkv.reshape(1, -1, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(2, 3) / math.sqrt(channels // heads)).softmax(-1)
        x = x + linear((scores @ v).transpose(1, 2).reshape(1, -1, channels), f"{at}.attn.proj", channels)
        wide = F.gelu(linear(layer_norm(x, f"{at}.norm2", 1e-6), f"{at}.mlp.fc1", 4 * channels))
        x = x + linear(wide, f"{at}.mlp.fc2", channels)
    x = x.transpose(1, 2).reshape(1, channels, grid, grid)
    x = layer_norm_2d(F.conv2d(x, w(f"{name}.neck.0.weight", 256, channels, 1, 1)), f"{name}.neck.1")
    return layer_norm_2d(F.conv2d(x, w(f"{name}.neck.2.weight", 256, 256, 3, 3), padding=1), f"{name}.neck.3")


def prompt_tokens(points, labels, side):
    name = "prompt_encoder"
    # Filled up to six points, at -1 and labelled so; their places are encoded like any other.
    points, labels = F.pad(points, (0, 0, 0, 6 - points.shape[1]), value=-1.0), F.pad(labels, (0, 6 - labels.shape[1]), value=-1)
    names = {-1: "invalid_points", 1: "point_embeddings", 2: "bbox_top_left_embeddings", 3: "bbox_bottom_right_embeddings"}
    code = position_code((points + 0.5) / side)
    for label, row in names.items():
        code = code + (labels == label)[..., None] * w(f"{name}.{row}.weight", 1, 256)
    return code


def perceptron(x, name, outs, hidden=2, width=256):
    for layer in range(hidden):
        x = F.gelu(linear(x, f"{name}.layers.{layer}.0", width))
    return linear(x, f"{name}.fc", outs)


def decoder(prompts, image):
    name = "mask_decoder"
    own = torch.cat([w(f"{name}.iou_token.weight", 1, 256), w(f"{name}.mask_tokens.weight", 4, 256)])
    tokens = prompt = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1)
    grid = image.shape[-1]
    cell = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    positions = position_code(torch.stack(torch.meshgrid(cell, cell, indexing="ij")[::-1], -1).reshape(-1, 2))[None]
    image = image.flatten(2).transpose(1, 2).expand(len(prompts), -1, -1)
    for block in range(2):
        at = f"{name}.transformer.layers.{block}"
        if block > 0:
            tokens = tokens + prompt
        tokens = layer_norm(tokens + attention(tokens, tokens, tokens, f"{at}.self_attn", 256), f"{at}.norm1")
        tokens = tokens + attention(tokens + prompt, image + positions, image, f"{at}.cross_attn_token_to_image", 128)
        tokens = layer_norm(tokens, f"{at}.norm2")
        tokens = layer_norm(tokens + perceptron(tokens, f"{at}.mlp", 256, 1, 2048), f"{at}.norm3")
        image = image + attention(image + positions, tokens + prompt, tokens, f"{at}.cross_attn_image_to_token", 128)
        image = layer_norm(image, f"{at}.norm4")
    last = attention(tokens + prompt, image + positions, image, f"{name}.transformer.final_attn_token_to_image", 128)
    tokens = layer_norm(tokens + last, f"{name}.transformer.norm_final_attn")
    x = image.transpose(1, 2).reshape(len(prompts), 256, grid, grid)
    up = f"{name}.final_output_upscaling_layers"
    x = F.conv_transpose2d(x, w(f"{up}.0.0.weight", 256, 64, 2, 2), w(f"{up}.0.0.bias", 64), 2)
    x = F.gelu(F.group_norm(x, 1, w(f"{up}.0.1.weight", 64), w(f"{up}.0.1.bias", 64)))
    x = F.gelu(F.conv_transpose2d(x, w(f"{up}.1.0.weight", 64, 32, 2, 2), w(f"{up}.1.0.bias", 32), 2))
    vectors = [perceptron(tokens[:, 1 + m], f"{name}.output_hypernetworks_mlps.{m}", 32) for m in range(4)]
    logits = torch.einsum("pmc,pchw->pmhw", torch.stack(vectors, 1), x)
    return tokens, logits, perceptron(tokens[:, 0], f"{name}.iou_prediction_head", 4)


torch.set_grad_enabled(False)
for folder, (side, channels, heads) in SIZES.items():
    shapes.clear()
    image = torch.from_numpy(made_up("image.pixels", (1, side, side, 3))).double().permute(0, 3, 1, 2)
    embedding = encoder(image, channels, heads)
    points = torch.tensor([[[100.5, 200.25], [700.0, 900.75], [64.0, 3.5]], [[512.0, 40.0], [13.0, 1000.0], [600.5, 300.5]]]).double()
    points = points * (side / 1024)
    labels = torch.tensor([[2, 3, 1], [1, 0, 1]])
    tokens_out, logits, iou = decoder(prompt_tokens(points, labels, side), embedding)

    data = {f"shape.{name}": np.array(shape, np.int64) for name, shape in shapes.items()}
    data |= {"embedding": embedding[0, ::16, ::8, ::8].float().numpy(), "points": points.float().numpy(), "labels": labels.numpy()}
    data |= {"tokens_out": tokens_out.float().numpy(), "logits": logits[:, :, ::16, ::16].float().numpy()}
    data |= {"predicted_iou": iou.float().numpy()}
    target = pathlib.Path(__file__).parent / folder / "data.safetensors"
    target.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in data.items()}, target)
    print(folder, {name: float(np.abs(value).max()) for name, value in data.items() if not name.startswith("shape.")})
