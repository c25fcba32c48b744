"""Crops of a teacher's answer as PyTorch samples them.

    python3 make.py GOLDEN_TEACHER.safetensors   # MobileSAM's low-resolution logits of COCO images, box prompts

python 3.11+, numpy 2.4.6, torch 2.15.0, safetensors 0.8.0. No random numbers.
The image is 000000358083 of COCO 2017 (CC BY), 640 x 522 pixels; only logits are stored here.
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here / "../../../../scripts/teacher"))
from export import LOGIT_STEP, context_crop  # noqa: E402

OUTSIDE_LOGIT = -16.0
WIDTH, HEIGHT = 640, 522
BBOX = (40.41, 40.07, 254.83, 436.68)
GRID = 64


def sample(stored, rect, crop, grid):
    """grid x grid logits at the cell centres of `crop`; only stored samples inside of the image take part."""
    cell = (rect[2] - rect[0]) / GRID, (rect[3] - rect[1]) / GRID
    centres = [rect[axis] + (np.arange(GRID) + 0.5) * cell[axis] for axis in (0, 1)]
    columns = np.flatnonzero((centres[0] >= 0) & (centres[0] <= WIDTH))
    rows = np.flatnonzero((centres[1] >= 0) & (centres[1] <= HEIGHT))
    inside = torch.from_numpy(stored[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64))
    xs = crop[0] + (np.arange(grid) + 0.5) * (crop[2] - crop[0]) / grid
    ys = crop[1] + (np.arange(grid) + 0.5) * (crop[3] - crop[1]) / grid

    def normalised(points, first, cell, n):
        return torch.from_numpy((points - (first - cell / 2)) / (cell * n) * 2 - 1)

    gx = normalised(xs, centres[0][columns[0]], cell[0], len(columns))
    gy = normalised(ys, centres[1][rows[0]], cell[1], len(rows))
    at = torch.stack([gx[None, :].expand(grid, grid), gy[:, None].expand(grid, grid)], dim=-1)
    logits = torch.nn.functional.grid_sample(
        inside[None, None] * LOGIT_STEP, at[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0].numpy()
    in_image = ((ys >= 0) & (ys < HEIGHT))[:, None] & ((xs >= 0) & (xs < WIDTH))[None, :]
    return np.where(in_image, logits, OUTSIDE_LOGIT).astype(np.float32)


def main():
    with safe_open(sys.argv[1], "numpy") as file:
        low_res = file.get_tensor("low_res.47564.box_pad")
    scale = (256 / max(WIDTH, HEIGHT),) * 2
    stored, rect, _ = context_crop(low_res, scale, BBOX, (WIDTH, HEIGHT), 2.0, GRID)
    crops = [
        ((40.0, 100.0, 240.0, 300.0), 40),  # inside, finer than stored
        ((-60.0, -30.0, 400.0, 430.0), 37),  # across two borders
        ((0.0, 20.0, 331.0, 520.0), 24),  # clipped at the border: not square, coarser than stored
        ((-40.0, 200.0, -10.0, 230.0), 8),  # outside of the image
    ]
    tensors = {
        "logits": stored.view(np.uint8),
        "rect": np.float64(rect),
        "image_size": np.int64([WIDTH, HEIGHT]),
        "crops": np.float64([crop for crop, _ in crops]),
    }
    for idx, (crop, grid) in enumerate(crops):
        tensors[f"crop_logits.{idx}"] = sample(stored, rect, crop, grid)
    save_file(tensors, here / "data.safetensors")


if __name__ == "__main__":
    main()
