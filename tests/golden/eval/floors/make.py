"""Predictors that see no picture, by brute force in numpy. Writes data.safetensors beside this file.

Versions: Python 3.11, numpy 2.4.6, safetensors 0.8.0. Seed 604. Run: python3 make.py

truths        [N, G, G] u8   train masks in crop space, the last one empty
constant      [G, G]    u8   best of all masks "covered by at least a share s of the truths"; constant_iou [1] its mean IoU
disc          [G, G]    u8   best of all discs on the crop's centre; disc_iou [1]
boxes         [M, 4]    f64  x, y, width, height
rects         [M, 4]    f64  x0, y0, x1, y1 of the crop
box_in_image, ellipse_in_image [M, H, W] u8 ; box_in_crop, ellipse_in_crop [M, G, G] u8   by pixel centres
"""
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

H, W, GRID = 30, 40, 12
rng = np.random.default_rng(604)
centre = np.arange(GRID) + 0.5
x, y = np.meshgrid(centre, centre)
truths = []
for _ in range(39):
    a, b = rng.uniform(1.5, 6, 2)
    dx, dy = rng.normal(0, 0.7, 2)
    truths.append(((x - 6 - dx) / a) ** 2 + ((y - 6 - dy) / b) ** 2 <= 1)
truths = np.stack(truths + [np.zeros((GRID, GRID), bool)])


def mean_iou(mask):
    union = (truths | mask).sum((1, 2))
    return np.where(union == 0, 1.0, (truths & mask).sum((1, 2)) / np.maximum(union, 1)).mean()


share = truths.mean(0)
constant_iou, s = max((mean_iou(share >= s), s) for s in np.unique(share))
distance = (x - GRID / 2) ** 2 + (y - GRID / 2) ** 2
disc_iou, d = max((mean_iou(distance <= d), -d) for d in np.unique(distance))

boxes = np.array([[5.25, 7.5, 11.0, 4.25], [0, 0, 40, 30], [30.5, 20.25, 9.5, 9.75], [12.3, 4.1, 0.2, 0.2], [-3, 5, 8, 8]])
rects = np.array([[3, 2, 19, 18], [0, 0, 40, 30], [28, 18, 40, 30], [10, 2, 14, 6], [-4.8, 4.2, 5.8, 13.8]])
shapes = {"box_in_image": [], "ellipse_in_image": [], "box_in_crop": [], "ellipse_in_crop": []}
for (bx, by, bw, bh), (x0, y0, x1, y1) in zip(boxes, rects):
    for space, (u, v) in {
        "image": np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5),
        "crop": np.meshgrid(x0 + centre * (x1 - x0) / GRID, y0 + centre * (y1 - y0) / GRID),
    }.items():
        shapes[f"box_in_{space}"].append((u >= bx) & (u < bx + bw) & (v >= by) & (v < by + bh))
        shapes[f"ellipse_in_{space}"].append(((u - bx - bw / 2) * 2 / bw) ** 2 + ((v - by - bh / 2) * 2 / bh) ** 2 <= 1)
save_file(
    {
        "truths": truths.astype(np.uint8),
        "constant": (share >= s).astype(np.uint8),
        "constant_iou": np.array([constant_iou]),
        "disc": (distance <= -d).astype(np.uint8),
        "disc_iou": np.array([disc_iou]),
        "boxes": boxes.astype(np.float64),
        "rects": rects.astype(np.float64),
        **{name: np.stack(masks).astype(np.uint8) for name, masks in shapes.items()},
    },
    Path(__file__).parent / "data.safetensors",
)
