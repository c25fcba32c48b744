"""Golden prompts: the rules of PicoSAM2 and PicoSAM3 as plain Python. Writes data.safetensors beside this file.

Versions: python 3.11+, numpy 2.4.6, safetensors 0.8.0. Seed 20260302.

Center window (PicoSAM2, grid 96): masks flat u8 of [height, width] each, packed as bits, high bit first; window_sizes [N, 2] i64 (width, height),
window_points [N, 2] i64 (column, row; -1, -1 for an empty mask), window_rects [N, 4] i64.
Region of interest (PicoSAM3, padding 0.1): boxes [M, 4] f64 (x, y, w, h), roi_sizes [M, 2] i64, roi_rects [M, 4] i64.
Facts from github.com/pbonazzi/picosam2 (8fb7c442) and github.com/z0905/picosam3 (69685ced), written anew.
"""
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

assert sys.version_info >= (3, 11)
rng = np.random.default_rng(20260302)
GRID, PADDING = 96, 0.1


def window(mask):
    height, width = mask.shape
    pixels = np.argwhere(mask)  # row-major
    if len(pixels) == 0:
        point, column, row = (-1, -1), width // 2, height // 2
    else:
        row, column = (pixels.min(axis=0) + pixels.max(axis=0)) // 2
        if not mask[row, column]:
            row, column = pixels[((pixels - [row, column]) ** 2).sum(axis=1).argmin()]
        point = (column, row)
    left, top = max(0, column - GRID // 2), max(0, row - GRID // 2)
    return point, (left, top, min(width, left + GRID), min(height, top + GRID))


def region(box, width, height):
    x, y, w, h = (float(v) for v in box)
    grown_w, grown_h = w + 2 * (w * PADDING), h + 2 * (h * PADDING)
    side = max(grown_w, grown_h)
    left = (x - w * PADDING) + grown_w / 2 - side / 2
    top = (y - h * PADDING) + grown_h / 2 - side / 2
    return int(max(0, left)), int(max(0, top)), int(min(width, left + side)), int(min(height, top + side))


def blank(width, height):
    return np.zeros((height, width), dtype=np.uint8)


masks = []
for width, height in [(160, 120), (97, 140), (60, 50), (96, 96), (1, 1)]:
    masks.append(blank(width, height))  # empty
    for _ in range(3):
        mask = blank(width, height)  # a few far-apart pixels: the centre is not on the mask
        for _ in range(int(rng.integers(1, 6))):
            mask[rng.integers(height), rng.integers(width)] = 1
        masks.append(mask)
    mask = blank(width, height)  # a box
    y0, x0 = rng.integers(0, height), rng.integers(0, width)
    mask[y0 : y0 + int(rng.integers(1, 60)), x0 : x0 + int(rng.integers(1, 60))] = 1
    masks.append(mask)
ring = blank(160, 120)  # symmetric ring: ties in every direction
ring[40:81, 60:101] = 1
ring[41:80, 61:100] = 0
corners = blank(160, 120)  # four pixels at one distance
for dy, dx in [(-7, 0), (0, -7), (0, 7), (7, 0)]:
    corners[60 + dy, 80 + dx] = 1
masks += [ring, corners]
for x, y in [(0, 0), (159, 119), (159, 0), (0, 119), (47, 48), (112, 72)]:  # window at every border
    mask = blank(160, 120)
    mask[y, x] = 1
    masks.append(mask)
points, rects = zip(*(window(mask) for mask in masks))

boxes, sizes = [], []
for width, height in [(640, 480), (427, 640), (96, 96)]:
    for _ in range(150):
        w, h = rng.uniform(6, width), rng.uniform(6, height)
        x, y = rng.uniform(0, width - w * rng.uniform()), rng.uniform(0, height - h * rng.uniform())
        boxes.append([round(v, 2) for v in (x, y, w, h)])
        sizes.append((width, height))
    for box in [(0, 0, width, height), (10, 10, 10, 10), (10.1, 10.3, 20.7, 20.7), (0, 0, 7.5, 20), (width - 20, height - 8, 20, 8)]:
        boxes.append(list(box))
        sizes.append((width, height))

save_file(
    {
        "masks": np.packbits(np.concatenate([mask.reshape(-1) for mask in masks])),
        "window_sizes": np.array([mask.shape[::-1] for mask in masks], dtype=np.int64),
        "window_points": np.array(points, dtype=np.int64),
        "window_rects": np.array(rects, dtype=np.int64),
        "boxes": np.array(boxes, dtype=np.float64),
        "roi_sizes": np.array(sizes, dtype=np.int64),
        "roi_rects": np.array([region(box, *size) for box, size in zip(boxes, sizes)], dtype=np.int64),
    },
    pathlib.Path(__file__).parent / "data.safetensors",
)
