#!/usr/bin/env python3
"""Times MobileSAM in PyTorch eager: encoder, and decoder with 1 and 16 prompts on one image.

    torch_teacher.py WEIGHTS.safetensors THREADS [ROUNDS]

The network is tests/golden/sam/network.py, batch norms folded. torch 2.15.0, safetensors 0.8.0. Prints lines of name and milliseconds, as
`time_teacher` does: the fastest of the rounds.
"""

import pathlib
import sys
import time

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/golden/sam"))
import network

torch.set_grad_enabled(False)
torch.set_num_threads(int(sys.argv[2]))
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
tensors = {name: tensor.float() for name, tensor in load_file(sys.argv[1]).items()}
network.weight, network.fused = lambda name, shape: tensors[name], True


def fastest(run):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


image = torch.rand(1, 3, 1024, 1024)
print(f"encoder: {fastest(lambda: network.encoder(image, {})):.1f} ms")
embedding = network.encoder(image, {}) + tensors["prompt_encoder.no_mask_embed.weight"][0][:, None, None]
for n in (1, 16):
    points = torch.tensor([[[10.0, 20.0], [110.0, 100.0], [0.0, 0.0]]]).expand(n, -1, -1)
    labels = torch.tensor([[2, 3, -1]]).expand(n, -1)
    taken = fastest(lambda: network.decoder(network.prompt_tokens(points, labels), embedding))
    print(f"{n} prompts: {taken:.1f} ms, {taken / n:.1f} each")
