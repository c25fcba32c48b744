"""Scores a PicoSAM2 or PicoSAM3 run's float weights in PyTorch, by other code, and compares every instance with Sensei's.

usage: torch_eval.py RUN ANNOTATIONS IMAGES [WEIGHTS [REPORT]]

RUN is a run folder with the ROI prompt, border "reference" and padding 0.1; WEIGHTS and REPORT default to its
student.safetensors and eval/report.json. Crops are made by Pillow, masks by pycocotools, the network is the one of
tests/golden/student/make.py. Made with torch 2.x, pycocotools 2.0.11; Pillow 11.2.1 crops as Sensei does (later
versions differ by one level in tall crops).
"""
import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/golden/student"))
from make import full  # noqa: E402

GRID = 96


def roi(bbox, width, height, padding=0.1):
    """PicoSAM3's region: the box padded on each side, made square around its centre, clipped, truncated."""
    x, y, w, h = bbox
    x0, y0, x1, y1 = x - padding * w, y - padding * h, x + w + padding * w, y + h + padding * h
    side, cx, cy = max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2
    rect = max(0, cx - side / 2), max(0, cy - side / 2), min(width, cx + side / 2), min(height, cy + side / 2)
    return tuple(int(v) for v in rect)


def main():
    run, annotations, images = map(pathlib.Path, sys.argv[1:4])
    weights = sys.argv[4] if len(sys.argv) > 4 else run / "student.safetensors"
    report = sys.argv[5] if len(sys.argv) > 5 else run / "eval/report.json"
    state = load_file(weights)
    model = full("picosam3" if "refine.0.weight" in state else "picosam2").float()
    model.load_state_dict(state)
    model.eval()
    torch.set_num_threads(2)

    predictors = json.loads(pathlib.Path(report).read_text())["predictors"]
    theirs = next(p for p in predictors if p["scores"]["predictor"] == "float")["scores"]["instances"]
    coco = COCO(str(annotations))
    ious, differing = [], 0
    own = []
    for score in theirs:
        annotation = coco.loadAnns([score["annotation_id"]])[0]
        info = coco.loadImgs([annotation["image_id"]])[0]
        rect = roi(annotation["bbox"], info["width"], info["height"])
        image = Image.open(images / info["file_name"]).convert("RGB").crop(rect).resize((GRID, GRID), Image.BILINEAR)
        mask = Image.fromarray(coco.annToMask(annotation)).crop(rect).resize((GRID, GRID), Image.NEAREST)
        x = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 128) / 128
        with torch.inference_mode():
            predicted = (model(x[None])[0, 0] > 0).numpy()
        truth = np.array(mask) > 0
        union = (predicted | truth).sum()
        own.append((predicted & truth).sum() / union if union else 1.0)
        intersection, n_truth, n_predicted = score["in_crop"]
        union = n_truth + n_predicted - intersection
        ious.append(intersection / union if union else 1.0)
        differing += n_truth != truth.sum()
    own, ious = np.array(own), np.array(ious)
    print(f"instances {len(own)}; truths of another size {differing}")
    print(f"mean IoU in the crop: PyTorch {own.mean():.6f}, Sensei {ious.mean():.6f}, difference {own.mean() - ious.mean():+.2e}")
    print(f"largest difference of an instance {np.abs(own - ious).max():.2e}")


main()
