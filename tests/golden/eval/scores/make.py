"""Pixel counts and IoU of hand-made masks in both spaces, by numpy, Pillow and torch. Writes data.safetensors beside this file.

Versions: Python 3.11, numpy 2.4.6, pillow 13.0.0, torch 2.15.0, safetensors 0.8.0. Seed 601. Run: python3 make.py

truth, prediction        [N, H, W] u8   masks of the image
rects                    [N, 4]    f64  x0, y0, x1, y1 of the crop
truth_in_crop            [N, G, G] u8   Pillow: crop, then resize NEAREST
crop_counts, image_counts [N, 3]   i64  intersection, truth, prediction
crop_iou, image_iou      [N]       f64  1 where both masks are empty
logits                   [N, G, G] f32  answers in crop space
logit_crop_counts, logit_image_counts [N, 3] i64  of `logits > 0`, and of torch's bilinear resize of them to the rect, > 0
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file

H, W, GRID = 20, 28, 8
rng = np.random.default_rng(601)


def blob(centre_x, centre_y, radius):
    y, x = np.mgrid[:H, :W]
    return ((x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2).astype(np.uint8)


EMPTY, FULL = np.zeros((H, W), np.uint8), np.ones((H, W), np.uint8)
ONE_PIXEL = EMPTY.copy()
ONE_PIXEL[3, 4] = 1
noise = [(rng.random((H, W)) < share).astype(np.uint8) for share in (0.2, 0.5, 0.9)]
CASES = [  # truth, prediction, rect
    (EMPTY, EMPTY, (0, 0, 16, 16)),
    (EMPTY, blob(8, 8, 3), (0, 0, 16, 16)),
    (blob(8, 8, 3), EMPTY, (0, 0, 16, 16)),
    (blob(8, 8, 5), blob(8, 8, 5), (0, 0, 16, 16)),
    (blob(5, 5, 3), blob(20, 14, 3), (0, 0, 16, 16)),
    (blob(22, 15, 3), blob(20, 14, 3), (0, 0, 8, 8)),  # nothing of either in the crop
    (blob(7, 7, 6), blob(14, 9, 6), (2, 3, 10, 11)),  # as large as the grid
    (blob(12, 9, 7), blob(13, 10, 7), (3, 1, 27, 17)),  # stretched
    (ONE_PIXEL, ONE_PIXEL, (4, 3, 5, 4)),
    (ONE_PIXEL, FULL, (0, 0, 28, 20)),
    (noise[0], noise[1], (1, 2, 17, 18)),
    (noise[1], noise[2], (5, 0, 25, 20)),
    (noise[2], noise[0], (0, 4, 7, 20)),
]


def counts(truth, prediction):
    return [int((truth & prediction).sum()), int(truth.sum()), int(prediction.sum())]


def iou(intersection, truth, prediction):
    union = truth + prediction - intersection
    return 1.0 if union == 0 else intersection / union


def in_crop(mask, rect):
    return np.asarray(Image.fromarray(mask).crop(rect).resize((GRID, GRID), Image.NEAREST))


def pasted(logits, rect):
    x0, y0, x1, y1 = rect
    large = F.interpolate(torch.from_numpy(logits)[None, None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
    mask = EMPTY.copy()
    mask[y0:y1, x0:x1] = large[0, 0].numpy() > 0
    return mask


logits = rng.normal(size=(len(CASES), GRID, GRID)).astype(np.float32)
logits[0] = -np.abs(logits[0])  # no foreground at all
logits[3, 0, 0] = 0.0  # on the threshold: background
crop_counts, image_counts, logit_crop_counts, logit_image_counts, truth_in_crop = [], [], [], [], []
for (truth, prediction, rect), answer in zip(CASES, logits):
    cut = in_crop(truth, rect)
    truth_in_crop.append(cut)
    crop_counts.append(counts(cut, in_crop(prediction, rect)))
    image_counts.append(counts(truth, prediction))
    logit_crop_counts.append(counts(cut, (answer > 0).astype(np.uint8)))
    logit_image_counts.append(counts(truth, pasted(answer, rect)))

save_file(
    {
        "truth": np.stack([case[0] for case in CASES]),
        "prediction": np.stack([case[1] for case in CASES]),
        "rects": np.array([case[2] for case in CASES], np.float64),
        "truth_in_crop": np.stack(truth_in_crop),
        "crop_counts": np.array(crop_counts, np.int64),
        "image_counts": np.array(image_counts, np.int64),
        "crop_iou": np.array([iou(*c) for c in crop_counts]),
        "image_iou": np.array([iou(*c) for c in image_counts]),
        "logits": logits,
        "logit_crop_counts": np.array(logit_crop_counts, np.int64),
        "logit_image_counts": np.array(logit_image_counts, np.int64),
    },
    Path(__file__).parent / "data.safetensors",
)
