"""Reference values of the losses of students that see whole images, and their gradients, in float64.

Written from the formulas (docs of crates/loss name their sources). Inputs are float32 values, so that both sides read the same
numbers; all arithmetic is float64. Features are of two images, of which the second uses 5 x 3 of 6 x 6 cells. Masks are of three
prompts with two masks each on 8 x 10 pixels, of which 7 x 9 show the image; the third prompt's truth is empty.

Versions: Python 3.11, torch 2.15.0, torchvision 0.29.2, safetensors 0.8.0. Seed 23. Run: python3 make.py
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.ops import sigmoid_focal_loss

USED = [(6, 6), (5, 3)]
ROWS, COLUMNS = 7, 9


def cell_mean(x, used):
    parts = [x[i, :, :r, :c].mean() for i, (r, c) in enumerate(used)]
    return torch.stack(parts)


def feature_distances(student, teacher, used):
    d = student - teacher
    cosine = F.cosine_similarity(student, teacher, dim=1, eps=1e-12).unsqueeze(1)
    return {
        "embedding_mse": cell_mean(d * d, used),
        "embedding_l1": cell_mean(d.abs(), used),
        "embedding_huber": cell_mean(F.huber_loss(student, teacher, reduction="none", delta=0.4), used),
        "embedding_cosine": cell_mean(1 - cosine, used),
    }


def iou(a, b):
    both, either = (a * b).sum(dim=(1, 2)), ((a + b) > 0).double().sum(dim=(1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def mask_distances(student, target):
    p = torch.sigmoid(student)
    dims = (1, 2)
    dice = 1 - (2 * (p * target).sum(dims) + 1e-6) / (p.sum(dims) + target.sum(dims) + 1e-6)
    return {
        "bce": F.binary_cross_entropy_with_logits(student, target, reduction="none").mean(dims),
        "dice": dice,
        "focal": sigmoid_focal_loss(student, target, alpha=0.25, gamma=2, reduction="none").mean(dims),
    }


def main():
    generator = torch.Generator().manual_seed(23)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    data = {"student": normal(2, 4, 6, 6), "teacher": normal(2, 4, 6, 6)}
    data["masks"], data["teacher_masks"] = 2 * normal(3, 2, 8, 10), 2 * normal(3, 2, 8, 10)
    data["truth"] = (normal(3, 1, 8, 10) > 0).float()
    data["truth"][2] = 0
    data["scores"] = torch.rand(3, 2, generator=generator)

    for cells, used in [("all", [(6, 6)] * 2), ("used", USED)]:
        for name in ["embedding_mse", "embedding_l1", "embedding_huber", "embedding_cosine"]:
            x = data["student"].double().requires_grad_(True)
            distance = feature_distances(x, data["teacher"].double(), used)[name]
            distance.mean().backward()
            data[f"{name}.{cells}"], data[f"{name}.{cells}.gradient"] = distance.detach(), x.grad

    cut = lambda x: x.double()[:, :, :ROWS, :COLUMNS].expand(3, 2, ROWS, COLUMNS).reshape(6, ROWS, COLUMNS)
    teacher, truth = (cut(data["teacher_masks"]) > 0).double(), cut(data["truth"])
    for weighting in ["uniform", "hard_masks"]:
        for side, target in [("teacher", teacher), ("truth", truth)]:
            for name in ["bce", "dice", "focal"]:
                x = data["masks"].double().requires_grad_(True)
                student = cut(x)
                distance = mask_distances(student, target)[name]
                weights = torch.ones(6).double()
                if weighting == "hard_masks":
                    hard = (student.detach() > 0).double()
                    weights = torch.sigmoid(iou(teacher, truth) / (iou(hard, truth) + 1e-6) - 1)
                (distance * weights).mean().backward()
                name = f"{side}_mask_{name}.{weighting}"
                data[name], data[f"{name}.gradient"] = distance.detach(), x.grad
                data[f"{name}.total"] = (distance.detach() * weights).mean().reshape(1)
    scores = data["scores"].double().requires_grad_(True)
    hard = (cut(data["masks"]) > 0).double()
    distance = (scores.reshape(6) - iou(hard, truth)).abs()
    distance.mean().backward()
    data["scores_l1"], data["scores_l1.gradient"] = distance.detach(), scores.grad

    # Two images of 2 x 2 patches: of the first one is visible, of the second three. Features of 4 x 4 cells, patches of 12 pixel values.
    said, features = normal(2, 4, 5), normal(2, 5, 4, 4)
    data["said"], data["features"] = said, features
    x = said.double().requires_grad_(True)
    pooled = F.avg_pool2d(features.double(), 2).flatten(2).transpose(1, 2)
    distance = ((x - pooled) ** 2).mean(dim=(1, 2))
    distance.mean().backward()
    data["masked_features"], data["masked_features.gradient"] = distance.detach(), x.grad
    pixels, said = normal(2, 4, 12), normal(2, 4, 12)
    data["pixels"], data["said_pixels"] = pixels, said
    x, y = said.double().requires_grad_(True), pixels.double()
    target = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]]).double()
    distance = (((x - target) ** 2).mean(-1) * hidden).sum(1) / hidden.sum(1)
    distance.mean().backward()
    data["masked_pixels"], data["masked_pixels.gradient"] = distance.detach(), x.grad

    # Proposals of two images with 6 anchors, of which 2 find an object in the first image and none in the second.
    scores, deltas = normal(2, 6), 0.2 * normal(2, 6, 4)
    labels = torch.tensor([[1, 0, 0, 1, 0, 0], [0] * 6]).float()
    expected = 0.2 * normal(2, 6, 4) * labels.unsqueeze(2)
    data |= {"anchor_scores": scores, "anchor_deltas": deltas, "anchor_labels": labels, "anchor_expected": expected}
    n = labels.double().sum(1)
    x = scores.double().requires_grad_(True)
    focal = sigmoid_focal_loss(x, labels.double(), alpha=0.25, gamma=1.5, reduction="none").sum(1) / n.clamp(min=1)
    focal.mean().backward()
    data["proposal_focal"], data["proposal_focal.gradient"] = focal.detach(), x.grad
    x = deltas.double().requires_grad_(True)
    huber = F.huber_loss(x, expected.double(), reduction="none", delta=0.1) * labels.double().unsqueeze(2)
    huber = huber.sum((1, 2)) / (4 * n.clamp(min=1))
    huber.mean().backward()
    data["proposal_huber"], data["proposal_huber.gradient"] = huber.detach(), x.grad

    save_file({name: tensor.contiguous() for name, tensor in data.items()}, Path(__file__).parent / "data.safetensors")


if __name__ == "__main__":
    main()
