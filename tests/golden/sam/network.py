"""MobileSAM with PyTorch's operators, written by its description: arXiv 2306.14289, ChaoningZhang/MobileSAM and
facebookresearch/segment-anything. `make.py` computes golden values with it, `scripts/bench/torch_teacher.py` times it.

A caller sets `weight`, which gives a tensor by its published name and shape; `fused` says whether batch norms are folded into the
convolutions before them.
"""

import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F

CHANNELS, BLOCKS, HEADS, WINDOWS = [64, 128, 160, 320], [2, 2, 6, 2], [4, 5, 10], [7, 14, 7]
fused = False


def weight(name, shape):
    raise NotImplementedError("a caller says where weights come from")


def made_up(name, shape):
    """Values from -1 to 1 that follow from a name, then put into the range that such a tensor has."""
    n = int(np.prod(shape))
    start = zlib.crc32(name.encode()) % 1000
    values = np.sin(0.618034 * (np.arange(n, dtype=np.float64) + 1.0) + start)
    if name.endswith("running_var"):
        values = 1.0 + 0.5 * values
    elif name.endswith("gaussian_matrix") or name.startswith("image."):
        pass
    elif len(shape) >= 2:
        values = values * math.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1.0 + 0.2 * values
    else:
        values = 0.1 * values
    return values.astype(np.float32).reshape(shape)


def w(name, *shape):
    return weight(name, shape)


def conv_norm(x, name, outs, kernel=1, stride=1, groups=1):
    bias = w(f"{name}.c.bias", outs) if fused else None
    x = F.conv2d(x, w(f"{name}.c.weight", outs, x.shape[1] // groups, kernel, kernel), bias, stride, kernel // 2, 1, groups)
    if fused:
        return x
    mean, variance = w(f"{name}.bn.running_mean", outs), w(f"{name}.bn.running_var", outs)
    return F.batch_norm(x, mean, variance, w(f"{name}.bn.weight", outs), w(f"{name}.bn.bias", outs), False, 0.0, 1e-5)


def linear(x, name, outs):
    return F.linear(x, w(f"{name}.weight", outs, x.shape[-1]), w(f"{name}.bias", outs))


def layer_norm(x, name, epsilon=1e-5):
    c = x.shape[-1]
    return F.layer_norm(x, (c,), w(f"{name}.weight", c), w(f"{name}.bias", c), epsilon)


def layer_norm_2d(x, name):
    return layer_norm(x.permute(0, 2, 3, 1), name, 1e-6).permute(0, 3, 1, 2)


def inverted(x, name, outs, wide, stride):
    x = F.gelu(conv_norm(x, f"{name}.conv1", wide))
    x = F.gelu(conv_norm(x, f"{name}.conv2", wide, 3, stride, wide))
    return conv_norm(x, f"{name}.conv3", outs)


def window_attention(x, name, heads, window):
    batch, height, width, c = x.shape
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    x = x.reshape(batch, rows, window, columns, window, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)
    qkv = linear(layer_norm(x, f"{name}.norm"), f"{name}.qkv", 3 * c)
    d = c // heads
    q, k, v = qkv.reshape(len(x), -1, heads, 3 * d).permute(0, 2, 1, 3).split(d, 3)
    table = w(f"{name}.attention_biases", heads, window * window)
    at = torch.arange(window * window)
    dy = (at[:, None] // window - at[None] // window).abs()
    dx = (at[:, None] % window - at[None] % window).abs()
    scores = q @ k.transpose(2, 3) / math.sqrt(d) + table[:, dy * window + dx]
    x = linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(x), -1, c), f"{name}.proj", c)
    x = x.reshape(batch, rows, columns, window, window, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * window, columns * window, c)[:, :height, :width]


def encoder(x, taps):
    name = "image_encoder"
    x = F.gelu(conv_norm(x, f"{name}.patch_embed.seq.0", CHANNELS[0] // 2, 3, 2))
    x = taps["patch_embed"] = conv_norm(x, f"{name}.patch_embed.seq.2", CHANNELS[0], 3, 2)
    for block in range(BLOCKS[0]):
        c = CHANNELS[0]
        x = F.gelu(x + inverted(x, f"{name}.layers.0.blocks.{block}", c, 4 * c, 1))
    taps["layers.0"] = x
    for stage in range(1, 4):
        c, heads, window = CHANNELS[stage], HEADS[stage - 1], WINDOWS[stage - 1]
        x = inverted(x, f"{name}.layers.{stage - 1}.downsample", c, c, 1 if stage == 3 else 2)
        for block in range(BLOCKS[stage]):
            at = f"{name}.layers.{stage}.blocks.{block}"
            x = x + window_attention(x.permute(0, 2, 3, 1), f"{at}.attn", heads, window).permute(0, 3, 1, 2)
            x = conv_norm(x, f"{at}.local_conv", c, 3, 1, c)
            tokens = x.permute(0, 2, 3, 1)
            wide = F.gelu(linear(layer_norm(tokens, f"{at}.mlp.norm"), f"{at}.mlp.fc1", 4 * c))
            x = x + linear(wide, f"{at}.mlp.fc2", c).permute(0, 3, 1, 2)
        taps[f"layers.{stage}"] = x
    x = layer_norm_2d(F.conv2d(x, w(f"{name}.neck.0.weight", 256, CHANNELS[3], 1, 1)), f"{name}.neck.1")
    x = layer_norm_2d(F.conv2d(x, w(f"{name}.neck.2.weight", 256, 256, 3, 3), padding=1), f"{name}.neck.3")
    taps["embedding"] = x
    return x


def position_code(places):
    matrix = w("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2, 128)
    angles = 2 * math.pi * ((2 * places - 1) @ matrix)
    return torch.cat([angles.sin(), angles.cos()], -1)


def prompt_tokens(points, labels):
    name = "prompt_encoder"
    padding = w(f"{name}.not_a_point_embed.weight", 1, 256)
    table = torch.cat([padding] + [w(f"{name}.point_embeddings.{label}.weight", 1, 256) for label in range(4)])
    code = position_code((points + 0.5) / 1024)
    return code * (labels >= 0)[..., None] + table[labels + 1]


def mask_prompt(mask):
    name = "prompt_encoder.mask_downscaling"
    x = mask
    for idx, outs in ((0, 4), (3, 16)):
        x = F.conv2d(x, w(f"{name}.{idx}.weight", outs, x.shape[1], 2, 2), w(f"{name}.{idx}.bias", outs), 2)
        x = F.gelu(layer_norm_2d(x, f"{name}.{idx + 1}"))
    return F.conv2d(x, w(f"{name}.6.weight", 256, 16, 1, 1), w(f"{name}.6.bias", 256))


def attention(q, k, v, name, inner):
    q, k, v = (linear(x, f"{name}.{part}_proj", inner) for x, part in ((q, "q"), (k, "k"), (v, "v")))
    q, k, v = (x.reshape(*x.shape[:2], 8, -1).transpose(1, 2) for x in (q, k, v))
    x = (q @ k.transpose(2, 3) / math.sqrt(inner // 8)).softmax(-1) @ v
    return linear(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], inner), f"{name}.out_proj", 256)


def decoder(prompts, image):
    name = "mask_decoder"
    own = torch.cat([w(f"{name}.iou_token.weight", 1, 256), w(f"{name}.mask_tokens.weight", 4, 256)])
    tokens = prompt = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1)
    cell = (torch.arange(64, dtype=image.dtype) + 0.5) / 64
    places = torch.stack(torch.meshgrid(cell, cell, indexing="ij")[::-1], -1).reshape(-1, 2)
    positions = position_code(places)[None]
    image = image.flatten(2).transpose(1, 2).expand(len(prompts), -1, -1)
    for block in range(2):
        at = f"{name}.transformer.layers.{block}"
        if block == 0:
            tokens = attention(tokens, tokens, tokens, f"{at}.self_attn", 256)
        else:
            tokens = tokens + attention(tokens + prompt, tokens + prompt, tokens, f"{at}.self_attn", 256)
        tokens = layer_norm(tokens, f"{at}.norm1")
        tokens = tokens + attention(tokens + prompt, image + positions, image, f"{at}.cross_attn_token_to_image", 128)
        tokens = layer_norm(tokens, f"{at}.norm2")
        tokens = tokens + linear(F.relu(linear(tokens, f"{at}.mlp.lin1", 2048)), f"{at}.mlp.lin2", 256)
        tokens = layer_norm(tokens, f"{at}.norm3")
        image = image + attention(image + positions, tokens + prompt, tokens, f"{at}.cross_attn_image_to_token", 128)
        image = layer_norm(image, f"{at}.norm4")
    last = attention(tokens + prompt, image + positions, image, f"{name}.transformer.final_attn_token_to_image", 128)
    tokens = layer_norm(tokens + last, f"{name}.transformer.norm_final_attn")
    x = image.transpose(1, 2).reshape(len(prompts), 256, 64, 64)
    up = f"{name}.output_upscaling"
    x = F.conv_transpose2d(x, w(f"{up}.0.weight", 256, 64, 2, 2), w(f"{up}.0.bias", 64), 2)
    x = F.gelu(layer_norm_2d(x, f"{up}.1"))
    x = F.gelu(F.conv_transpose2d(x, w(f"{up}.3.weight", 64, 32, 2, 2), w(f"{up}.3.bias", 32), 2))

    def perceptron(x, name, outs):
        for layer, size in enumerate((256, 256, outs)):
            x = linear(x if layer == 0 else F.relu(x), f"{name}.layers.{layer}", size)
        return x

    vectors = [perceptron(tokens[:, 1 + m], f"{name}.output_hypernetworks_mlps.{m}", 32) for m in range(4)]
    logits = torch.einsum("pmc,pchw->pmhw", torch.stack(vectors, 1), x)
    return tokens, logits, perceptron(tokens[:, 0], f"{name}.iou_prediction_head", 4)
