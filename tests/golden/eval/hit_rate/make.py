"""Means over instances from pixel counts: both hit rates, mean and pooled IoU. Writes data.safetensors beside this file.

Versions: Python 3.11, numpy 2.4.6, safetensors 0.8.0. Seed 602. Run: python3 make.py

counts            [N, 3] i64  intersection, truth, prediction; with IoU exactly on thresholds, empty truths, both empty
hit_rate          [1]    f64  thresholds and IoU as exact fractions, both empty = 1
hit_rate_picosam2 [1]    f64  as pbonazzi/picosam2 benchmark.py computes it: numpy's thresholds, 1e-8 added to the union,
                              instances with empty truth skipped
mean_iou, pooled_iou [1] f64
"""
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(602)
counts = [[0, 0, 0], [0, 0, 7], [0, 9, 0], [0, 3, 4]]
for twentieths in range(10, 21):  # exactly on every threshold, with unions of 20 and of 60
    for scale in (1, 3):
        intersection = twentieths * scale
        rest = 20 * scale - intersection
        counts.append([intersection, intersection + rest // 2, intersection + rest - rest // 2])
for _ in range(200):
    truth, prediction = (int(n) for n in rng.integers(1, 400, 2))
    counts.append([int(rng.integers(0, min(truth, prediction) + 1)), truth, prediction])
for _ in range(200):  # good masks
    truth = int(rng.integers(50, 400))
    intersection = int(truth * rng.uniform(0.6, 1.0))
    counts.append([intersection, truth, intersection + int(rng.integers(0, 60))])


def exact_iou(intersection, truth, prediction):
    union = truth + prediction - intersection
    return Fraction(1) if union == 0 else Fraction(intersection, union)


exact = [exact_iou(*c) for c in counts]
shares = [Fraction(sum(iou >= Fraction(k, 20) for iou in exact), len(exact)) for k in range(10, 20)]
hit_rate = float(sum(shares) / 10)

table = np.array(counts)
with_truth = table[table[:, 1] > 0]
union = with_truth[:, 1] + with_truth[:, 2] - with_truth[:, 0]
iou = with_truth[:, 0] / (union + 1e-8)
hit_rate_picosam2 = np.mean([np.mean(iou >= threshold) for threshold in np.arange(0.5, 1.0, 0.05)])
unions = table[:, 1] + table[:, 2] - table[:, 0]
save_file(
    {
        "counts": table.astype(np.int64),
        "hit_rate": np.array([hit_rate]),
        "hit_rate_picosam2": np.array([hit_rate_picosam2]),
        "mean_iou": np.array([float(sum(exact) / len(exact))]),
        "pooled_iou": np.array([table[:, 0].sum() / unions.sum()]),
    },
    Path(__file__).parent / "data.safetensors",
)
