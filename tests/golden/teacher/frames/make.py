"""How SAM 2 and EfficientSAM are shown a picture. Writes data.safetensors beside this file.

    pip install sam2==1.1.0 iopath==0.1.10 torch==2.15.0 torchvision
    python make.py

Versions: sam2 1.1.0, torch 2.15.0, numpy 2.4.6, safetensors 0.8.0.

picture             u8            [23, 37, 3]
points              f32           in the picture, x and y, [3, 2]
sam2.SIDE           f32           `SAM2Transforms` of it, [3, SIDE, SIDE], for a side that shrinks and one that enlarges it
sam2.points.SIDE    f32           `SAM2Transforms.transform_coords` of the points, [3, 2]
efficient.SIDE      f32           `EfficientSam.preprocess`, written here by its description, [3, SIDE, SIDE]
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from sam2.utils.transforms import SAM2Transforms

picture = np.random.default_rng(7).integers(0, 256, (23, 37, 3), np.uint8)
points = np.float32([[0.5, 0.5], [36.5, 10.25], [20.0, 23.0]])
data = {"picture": picture, "points": points}
mean, std = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
for side in (12, 56):
    transforms = SAM2Transforms(side, mask_threshold=0.0)
    data[f"sam2.{side}"] = transforms(picture).numpy()
    data[f"sam2.points.{side}"] = transforms.transform_coords(torch.from_numpy(points), normalize=True, orig_hw=(23, 37)).numpy()
    unit = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    resized = F.interpolate(unit[None], (side, side), mode="bilinear")[0]
    data[f"efficient.{side}"] = ((resized - mean) / std).numpy()
save_file({name: np.ascontiguousarray(value) for name, value in data.items()}, pathlib.Path(__file__).with_name("data.safetensors"))
