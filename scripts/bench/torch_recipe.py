#!/usr/bin/env python3
"""PicoSAM3 by its published recipe in PyTorch, on the shared sample, scored by our protocol: a peer's row that is not made by Sensei.

What is theirs: the network, the square region around the box with a tenth more on each side, cut at the image's border and stretched, ImageNet's
mean and deviation, and the loss: the batch's mean score of the teacher between mean squared error + Dice to the teacher and cross-entropy +
Dice to the annotation, both on sigma(5 x), and 0.4 times the shortfall of the area. What is ours: the schedule of
configs/coco-sample-picosam3.toml, flips and colours, so that the two differ in the program alone. Formulas: docs/metrics.md for the scores,
the sources in crates/loss/src for the loss.

usage: torch_recipe.py SHARED_DATA OUT [--seed 1] [--epochs 10] [--limit N]
       writes OUT/predictions.json; then: sensei eval-masks SHARED_DATA/coco/annotations/instances_val.json OUT/predictions.json --protocol sensei-box

needs: pip install torch==2.15.0 numpy==2.4.6 pillow==13.0.0 safetensors==0.8.0 pycocotools==2.0.11
"""

import argparse
import copy
import json
import math
import pathlib
import random
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.numpy import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/golden/student"))
from make import full  # noqa: E402  the network, under its published names

SIDE, SHARPNESS, LOGIT_STEP = 96, 5.0, 0.125
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
BATCH, RATE, FINAL_RATE, WARMUP, CLIP, EMA = 8, 1e-3, 1e-5, 60, 5.0, 0.99


def square_region(bbox, width, height):
    """PicoSAM3's region, in whole pixels within the image."""
    x, y, w, h = bbox
    side = max(w, h) * 1.2
    cx, cy = x + w / 2, y + h / 2
    x0, y0 = max(0, int(cx - side / 2)), max(0, int(cy - side / 2))
    return x0, y0, min(width, int(cx + side / 2)), min(height, int(cy + side / 2))


def truth_of(annotation, image):
    size = (image["height"], image["width"])
    found = annotation["segmentation"]
    if isinstance(found, dict):
        rle = coco_mask.frPyObjects(found, *size) if isinstance(found["counts"], list) else found
    else:
        rle = coco_mask.merge(coco_mask.frPyObjects(found, *size))
    return coco_mask.decode(rle)


class Crops:
    """Pixels, truth and teacher of each cached region, made once: they do not change between epochs."""

    def __init__(self, data, limit):
        document = json.loads((data / "coco/annotations/instances_train.json").read_text())
        images = {image["id"]: image for image in document["images"]}
        annotations = {annotation["id"]: annotation for annotation in document["annotations"]}
        cache = load_file(data / "teacher_cache/roi96_box_train.safetensors")
        ids = cache["ann_id"][:limit]
        self.pixels = np.empty((len(ids), SIDE, SIDE, 3), np.uint8)
        self.truth = np.empty((len(ids), SIDE, SIDE), np.float32)
        self.teacher = cache["logits_i8"][: len(ids)].astype(np.float32) * LOGIT_STEP
        self.score = np.clip(cache["score"][: len(ids)], 0, 1)
        for row, (annotation_id, region) in enumerate(zip(ids, cache["roi"].tolist())):
            annotation = annotations[int(annotation_id)]
            image = images[annotation["image_id"]]
            picture = Image.open(data / "coco/images/train" / image["file_name"]).convert("RGB")
            mask = Image.fromarray(truth_of(annotation, image) * 255)
            self.pixels[row] = picture.crop(region).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            self.truth[row] = np.asarray(mask.crop(region).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0

    def batch(self, rows, draw):
        pixels, truth, teacher = (part[rows].copy() for part in (self.pixels, self.truth, self.teacher))
        changed = pixels.astype(np.float32)
        for at in range(len(rows)):
            if draw.random() < 0.5:
                changed[at], truth[at], teacher[at] = changed[at][:, ::-1].copy(), truth[at][:, ::-1].copy(), teacher[at][:, ::-1].copy()
            brightness, contrast, saturation = (1 + draw.uniform(-0.2, 0.2) for _ in range(3))
            grey = changed[at] @ np.array([0.299, 0.587, 0.114], np.float32)
            changed[at] = grey[..., None] + (changed[at] - grey[..., None]) * saturation
            changed[at] = np.clip((128 + (changed[at] - 128) * contrast) * brightness, 0, 255)
        as_tensor = lambda values: torch.from_numpy(np.ascontiguousarray(values))
        return normalised(changed), as_tensor(truth)[:, None], as_tensor(teacher)[:, None], as_tensor(self.score[rows])


def normalised(pixels):
    return torch.from_numpy(np.ascontiguousarray(((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)))


def dice(p, y):
    overlap, total = (p * y).sum((1, 2, 3)), p.sum((1, 2, 3)) + y.sum((1, 2, 3))
    return 1 - ((2 * overlap + 1e-6) / (total + 1e-6)).mean()


def loss_of(logits, truth, teacher, score):
    p, soft = torch.sigmoid(SHARPNESS * logits), torch.sigmoid(SHARPNESS * teacher)
    to_teacher = F.mse_loss(p, soft) + dice(p, soft)
    to_truth = F.binary_cross_entropy(p, truth) + dice(p, truth)
    shortfall = F.relu(0.4 - p.sum((1, 2, 3)) / (truth.sum((1, 2, 3)) + 1e-6)).mean()
    alpha = score.mean()
    return alpha * to_teacher + (1 - alpha) * to_truth + 0.4 * shortfall


def train(crops, seed, epochs):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = full("picosam3").train()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    n, step = len(crops.pixels), 0
    total = epochs * math.ceil(n / BATCH)
    started = time.monotonic()
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(n)
        for rows in np.array_split(order, range(BATCH, n, BATCH)):
            after = (step - WARMUP) / max(total - WARMUP, 1)
            rate = RATE * step / WARMUP if step < WARMUP else FINAL_RATE + (RATE - FINAL_RATE) * (1 + math.cos(math.pi * after)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, truth, teacher, score = crops.batch(rows, draw)
            optimizer.zero_grad()
            loss = loss_of(model(images), truth, teacher, score)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            with torch.no_grad():
                for mean, value in zip(average.parameters(), model.parameters()):
                    mean.lerp_(value, 1 - EMA)
            step += 1
            if step % 50 == 0:
                print(f"step {step}/{total}: loss {loss.item():.4f}, {step * BATCH / (time.monotonic() - started):.1f} img/s", flush=True)
    # The average's batch norms have the trained network's statistics.
    for mean, value in zip(average.buffers(), model.buffers()):
        mean.copy_(value)
    return average.eval()


def predict(model, data):
    document = json.loads((data / "coco/annotations/instances_val.json").read_text())
    images = {image["id"]: image for image in document["images"]}
    found = []
    for annotation in document["annotations"]:
        if annotation.get("iscrowd"):
            continue
        image = images[annotation["image_id"]]
        width, height = image["width"], image["height"]
        x0, y0, x1, y1 = square_region(annotation["bbox"], width, height)
        mask = np.zeros((height, width), np.uint8, order="F")
        if x1 > x0 and y1 > y0:
            picture = Image.open(data / "coco/images/val" / image["file_name"]).convert("RGB").crop((x0, y0, x1, y1))
            pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)[None]
            with torch.no_grad():
                logits = F.interpolate(model(normalised(pixels)), (y1 - y0, x1 - x0), mode="bilinear")
            mask[y0:y1, x0:x1] = (logits[0, 0] > 0).numpy()
        rle = coco_mask.encode(mask)
        found.append(
            {
                "annotation_id": annotation["id"],
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": 1.0,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="regions, to try the script")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    crops = Crops(options.data, options.limit)
    print(f"{len(crops.pixels)} regions, torch {torch.__version__}, {options.threads} threads", flush=True)
    model = train(crops, options.seed, options.epochs)
    torch.save(model.state_dict(), options.out / "weights.pt")
    predictions = predict(model, options.data)
    (options.out / "predictions.json").write_text(json.dumps(predictions))
    print(f"{len(predictions)} masks in {options.out / 'predictions.json'}")


if __name__ == "__main__":
    main()
