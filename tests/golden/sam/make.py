"""Golden values of MobileSAM with made-up weights, batch norms not fused. Writes data.safetensors beside this file.

Versions: torch 2.15.0 (CPU, float64 where nothing else is said), numpy 2.4.6, safetensors 0.8.0.

Weights and image are not stored: both sides compute them by `made_up`. The network is `network.py`.

shape.NAME          i64           the shape of each tensor of the network, under its published name
tap.NAME            f32           features after a part of the encoder, every 16th channel, every 8th row and column, [channels, rows, columns]
points, labels      f32, i64      two prompts of three points, [2, 3, 2] and [2, 3]
tokens              f32           tokens of the prompts, [2, 3, 256]
tokens_out          f32           tokens after the transformer, [2, 8, 256]
logits              f32           all masks, every 16th row and column, [2, 4, 16, 16]
predicted_iou       f32           [2, 4]
refined             f32           the same logits for the first prompt with a mask given, [1, 4, 16, 16]
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

import network

shapes = {}


def weight(name, shape):
    shapes[name] = shape
    return torch.from_numpy(network.made_up(name, shape)).double()


network.weight = weight
torch.set_grad_enabled(False)
image = torch.from_numpy(network.made_up("image.pixels", (1, 1024, 1024, 3))).double().permute(0, 3, 1, 2)
taps = {}
embedding = network.encoder(image, taps)
points = torch.tensor([[[100.5, 200.25], [700.0, 900.75], [0.0, 0.0]], [[512.0, 40.0], [13.0, 1000.0], [600.5, 300.5]]]).double()
labels = torch.tensor([[2, 3, -1], [1, 0, 1]])
tokens = network.prompt_tokens(points, labels)
plain = embedding + network.w("prompt_encoder.no_mask_embed.weight", 1, 256)[0][:, None, None]
tokens_out, logits, iou = network.decoder(tokens, plain)
mask = torch.from_numpy(network.made_up("image.mask", (1, 1, 256, 256))).double() * 4
_, refined, _ = network.decoder(tokens[:1], embedding + network.mask_prompt(mask))

data = {f"shape.{name}": np.array(shape, np.int64) for name, shape in shapes.items()}
data |= {f"tap.{name}": tap[0, ::16, ::8, ::8].float().numpy() for name, tap in taps.items()}
data |= {"points": points.float().numpy(), "labels": labels.numpy(), "tokens": tokens.float().numpy()}
data |= {"tokens_out": tokens_out.float().numpy(), "logits": logits[:, :, ::16, ::16].float().numpy()}
data |= {"predicted_iou": iou.float().numpy(), "refined": refined[:, :, ::16, ::16].float().numpy()}
save_file({name: np.ascontiguousarray(value) for name, value in data.items()}, pathlib.Path(__file__).with_name("data.safetensors"))
print({name: float(np.abs(value).max()) for name, value in data.items() if not name.startswith("shape.")})
