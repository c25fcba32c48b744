"""Reference values of the distillation losses of PicoSAM2 and PicoSAM3, and their gradients, in float64.

Written from the formulas (docs of crates/loss name their sources), not from the published code.
Inputs are float32 values, so that both sides read the same numbers; all arithmetic is float64.
Samples: an ordinary mask, an empty one, a full one, and one whose prediction has collapsed (the area term bites).

Versions: Python 3.11, torch 2.15.0, safetensors 0.8.0. Seed 20. Run: python3 make.py
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

BATCH, HEIGHT, WIDTH = 4, 12, 16


def mean(x):
    return x.mean(dim=(1, 2, 3))


def area(x):
    return x.sum(dim=(1, 2, 3))


def dice(p, q):
    return 1 - (2 * area(p * q) + 1e-6) / (area(p) + area(q) + 1e-6)


def bce(p, y):
    # The published code takes exactly this function of probabilities; in float64 nothing saturates here.
    return mean(F.binary_cross_entropy(p, y, reduction="none"))


def shortfall(p, y, floor=0.4):
    ratio = area(p) / (area(y) + 1e-6)
    return torch.where(area(y) > 0, torch.relu(floor - ratio), torch.zeros_like(ratio))


def total(distances, alpha, area_weight):
    teacher = distances["teacher_mse"] + distances["teacher_dice"]
    truth = distances["truth_bce"] + distances["truth_dice"]
    return (alpha * teacher + (1 - alpha) * truth + area_weight * distances["area_shortfall"]).mean()


def main():
    generator = torch.Generator().manual_seed(20)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    blob = 1 - ((rows - 6) / 4.2) ** 2 - ((columns - 8) / 5.3) ** 2
    noise = lambda scale: scale * torch.randn(BATCH, 1, HEIGHT, WIDTH, generator=generator)
    truth = (blob > 0).float().expand(BATCH, 1, HEIGHT, WIDTH).clone()
    truth[1], truth[2] = 0, 1
    student, teacher = (1.5 * blob + noise(0.8)).float(), (3 * blob + noise(0.5)).float()
    student[3] -= 4
    score = torch.tensor([0.93, 0.41, 1.0, 0.68])

    data = {"student": student, "teacher": teacher, "truth": truth, "score": score}
    for name, sharpness, area_weight in [("picosam2", 1.0, 0.0), ("picosam3", 5.0, 0.4)]:
        for weighting in ["per_sample", "batch_mean", "constant", "truth_only"]:
            x = student.double().requires_grad_(True)
            y = truth.double()
            p, t = torch.sigmoid(sharpness * x), torch.sigmoid(sharpness * teacher.double())
            distances = {
                "teacher_mse": mean((p - t) ** 2),
                "teacher_dice": dice(p, t),
                "truth_bce": bce(p, y),
                "truth_dice": dice(p, y),
                "area_shortfall": shortfall(p, y),
            }
            s = score.double()
            alpha = {"per_sample": s, "batch_mean": s.mean(), "constant": 0.25, "truth_only": 0.0}[weighting]
            loss = total(distances, alpha, area_weight)
            loss.backward()
            data[f"{name}.{weighting}.total"] = loss.detach().reshape(1)
            data[f"{name}.{weighting}.gradient"] = x.grad
        for term, distance in distances.items():
            data[f"{name}.{term}"] = distance.detach()
    save_file({name: tensor.contiguous() for name, tensor in data.items()}, Path(__file__).parent / "data.safetensors")


if __name__ == "__main__":
    main()
