"""Binary cross-entropy and its gradient for logits from -200 to 200, in float64, and what the published code computes.

`clamped` is PyTorch's float32 `binary_cross_entropy` of `sigmoid(logit)`, one value per pixel, with its gradient:
the form of the published training code, which clamps the logarithm at -100.

Versions: Python 3.11, torch 2.15.0, safetensors 0.8.0. No randomness. Run: python3 make.py
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def main():
    values = torch.tensor([-200, -120, -90, -50, -30, -17, -10, -3, -0.5, 0, 0.5, 3, 10, 17, 30, 50, 90, 120, 200.0])
    logits = torch.cat([values, values]).reshape(-1, 1, 1, 1)  # one pixel per sample
    truth = torch.cat([torch.zeros_like(values), torch.ones_like(values)]).reshape(-1, 1, 1, 1)

    x = logits.double().requires_grad_(True)
    bce = F.binary_cross_entropy_with_logits(x, truth.double(), reduction="none")
    bce.sum().backward()
    clamped_x = logits.clone().requires_grad_(True)
    clamped = F.binary_cross_entropy(torch.sigmoid(clamped_x), truth, reduction="none")
    clamped.sum().backward()
    data = {
        "logits": logits,
        "truth": truth,
        "bce": bce.detach().flatten(),
        "gradient": x.grad.flatten(),
        "clamped": clamped.detach().flatten(),
        "clamped_gradient": clamped_x.grad.flatten(),
    }
    save_file(data, Path(__file__).parent / "data.safetensors")


if __name__ == "__main__":
    main()
