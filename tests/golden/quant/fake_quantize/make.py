"""Rounding to an activation grid and its straight-through gradient, by PyTorch.

The values hold every tie of both grids, both ends and what lies just beyond them, and 400 random numbers. The output is
multiplied by fixed numbers before its sum is differentiated, so that the gradients differ from each other.

Versions: Python 3.11, torch 2.15.0, safetensors 0.8.0. Seed 4. Run: python3 make.py
"""
from pathlib import Path

import torch
from safetensors.torch import save_file


def main():
    generator = torch.Generator().manual_seed(4)
    data = {}
    for name, log2_threshold, signed in [("signed", 1, True), ("unsigned", 2, False)]:
        step = 2.0 ** log2_threshold / (128 if signed else 256)
        low, high = (-128, 127) if signed else (0, 255)
        ties = (torch.arange(low - 2, high + 3) + 0.5) * step
        ends = torch.tensor([low - 0.51, low - 0.49, high + 0.49, high + 0.51, 10.0 * low - 5, 10.0 * high]) * step
        spread = torch.randn(400, generator=generator) * step * 100
        x = torch.cat([ties, ends, spread]).requires_grad_(True)
        weight = torch.randn(x.numel(), generator=generator)
        y = torch.fake_quantize_per_tensor_affine(x, step, 0, low, high)
        (y * weight).sum().backward()
        for key, tensor in [("x", x), ("weight", weight), ("y", y), ("gradient", x.grad)]:
            data[f"{name}.{key}"] = tensor.detach().clone()
    save_file(data, Path(__file__).parent / "data.safetensors")


if __name__ == "__main__":
    main()
