"""Golden masks: what pycocotools makes of polygons, run-length codes and bitmaps.

Made with Python 3.11, pycocotools 2.0.11, numpy 2.4.6, safetensors (x86-64); seed 20250.
    python make.py SHARED_DATA     # the folder with coco/, coco_lite480/ and lvis/

cases.json       polygons, bitmaps and pairs of masks, with full compressed strings (synthetic)
data.safetensors for every annotation of the shared data: id, area in pixels, first 8 bytes of the SHA-256 of the
                 compressed string. Facts only; the annotations themselves stay where they are.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from safetensors.numpy import save_file

HERE = Path(__file__).parent
SETS = {
    "coco_train": "coco/annotations/instances_train.json",
    "coco_val": "coco/annotations/instances_val.json",
    "lvis_true_val": "coco/annotations/lvis_true_val.json",
    "lvis_98": "lvis/lvis_val_98_annotations_only.json",
    "lite480_train": "coco_lite480/annotations/instances_train.json",
    "lite480_val": "coco_lite480/annotations/instances_val.json",
}


def draw(polygons, width, height):
    """The union of polygons; four numbers would be taken for a box, so none has as few."""
    assert all(len(p) >= 6 for p in polygons)
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def annotation_rle(annotation, image):
    segmentation = annotation["segmentation"]
    width, height = image["width"], image["height"]
    if isinstance(segmentation, list):
        return draw(segmentation, width, height)
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def text(rle):
    return rle["counts"].decode("ascii")


def facts(rle):
    return {"rle": text(rle), "area": int(coco_mask.area(rle)), "bbox": [float(v) for v in coco_mask.toBbox(rle)]}


def polygon_cases(rng):
    square = [2, 2, 7, 2, 7, 7, 2, 7]
    cases = {
        "one point, three times": ([[3, 3, 3, 3, 3, 3]], 8, 6),
        "a line along a row": ([[1, 3, 5, 3, 1, 3]], 8, 6),
        "a line along a column": ([[3, 1, 3, 5, 3, 1]], 8, 6),
        "thinner than a pixel, between centres": ([[2.6, 1, 2.9, 1, 2.9, 5, 2.6, 5]], 8, 6),
        "one pixel": ([[3, 2, 4, 2, 4, 3, 3, 3]], 8, 6),
        "one pixel image, covered": ([[0, 0, 1, 0, 1, 1, 0, 1]], 1, 1),
        "one pixel image, missed": ([[2, 2, 3, 2, 3, 3, 2, 3]], 1, 1),
        "whole image": ([[0, 0, 8, 0, 8, 6, 0, 6]], 8, 6),
        "beyond every border": ([[-5, -5, 20, -5, 20, 20, -5, 20]], 8, 6),
        "left of the image": ([[-9, 1, -3, 1, -3, 4, -9, 4]], 8, 6),
        "right of the image": ([[9, 1, 13, 1, 13, 4, 9, 4]], 8, 6),
        "above the image": ([[1, -9, 4, -9, 4, -3, 1, -3]], 8, 6),
        "below the image": ([[1, 9, 4, 9, 4, 13, 1, 13]], 8, 6),
        "across the left border": ([[-3.3, 1.2, 3.7, 1.2, 3.7, 4.1, -3.3, 4.1]], 8, 6),
        "across the lower border": ([[1.5, 3.5, 6.5, 3.5, 4, 11.25]], 8, 6),
        "far outside corners": ([[-60000, 3, 4, -60000, 60000, 3, 4, 60000]], 8, 6),
        "bow tie": ([[1, 1, 9, 9, 9, 1, 1, 9]], 10, 10),
        "pentagram": ([[10, 1, 15, 17, 1, 7, 19, 7, 5, 17]], 20, 18),
        "drawn twice": ([square + square], 10, 10),
        "same corner twice": ([[2, 2, 7, 2, 7, 2, 7, 7, 2, 7]], 10, 10),
        "closed by hand": ([square + square[:2]], 10, 10),
        "other direction": ([[2, 2, 2, 7, 7, 7, 7, 2]], 10, 10),
        "halves": ([[1.5, 1.5, 5.5, 1.5, 5.5, 4.5, 1.5, 4.5]], 8, 6),
        "tenths": ([[1.1, 1.3, 5.7, 1.9, 5.3, 4.1, 1.7, 4.7]], 8, 6),
        "two parts": ([square, [9, 9, 14, 9, 14, 12]], 16, 14),
        "two parts that overlap": ([square, [5, 5, 12, 5, 12, 12, 5, 12]], 16, 14),
        "a part outside": ([square, [30, 30, 34, 30, 34, 34]], 16, 14),
        "three parts, one without area": ([square, [9, 9, 9, 9, 9, 9], [11, 1, 13, 1, 13, 9]], 16, 14),
    }
    for idx in range(400):
        width, height = (int(v) for v in rng.integers(1, 48, 2))
        scale = [1.0, 3.0][idx % 2]  # every other one reaches far over the border
        parts = []
        for _ in range(int(rng.integers(1, 4))):
            n_corners = int(rng.integers(3, 12))
            xy = rng.uniform(-0.5, 1.5 if scale > 1 else 1.0, (n_corners, 2)) * [width * scale, height * scale]
            decimals = int(rng.integers(0, 4))
            parts.append(np.round(xy, decimals).reshape(-1).tolist())
        cases[f"random {idx}"] = (parts, width, height)
    return [
        {"name": name, "width": w, "height": h, "polygons": polygons, **facts(draw(polygons, w, h))}
        for name, (polygons, w, h) in cases.items()
    ]


def bitmaps(rng):
    yield "pixel, off", np.zeros((1, 1))
    yield "pixel, on", np.ones((1, 1))
    yield "empty", np.zeros((5, 7))
    yield "full", np.ones((5, 7))
    yield "row", rng.random((1, 33)) < 0.5
    yield "column", rng.random((33, 1)) < 0.5
    yield "chequered", np.indices((6, 9)).sum(0) % 2
    yield "long runs", np.arange(300 * 200).reshape(300, 200) % 20011 > 9000
    for idx in range(60):
        shape = rng.integers(1, 40, 2)
        yield f"random {idx}", rng.random(shape) < rng.choice([0.02, 0.5, 0.98])


def encode(bitmap):
    return coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))


def bitmap_cases(rng):
    cases = []
    for name, bitmap in bitmaps(rng):
        height, width = bitmap.shape
        bits = "".join("01"[int(bit)] for bit in bitmap.reshape(-1))
        cases.append({"name": name, "width": width, "height": height, "bits": bits, **facts(encode(bitmap))})
    return cases


def pair_cases(rng):
    cases = []
    for idx in range(60):
        height, width = (int(v) for v in rng.integers(1, 30, 2))
        share = [0.0, 0.1, 0.5, 0.9, 1.0]
        a, b = (encode(rng.random((height, width)) < share[rng.integers(len(share))]) for _ in range(2))
        cases.append({
            "width": width,
            "height": height,
            "a": text(a),
            "b": text(b),
            "iou": float(coco_mask.iou([a], [b], [0])[0, 0]),
            "iou_crowd": float(coco_mask.iou([a], [b], [1])[0, 0]),
            "union": text(coco_mask.merge([a, b])),
            "intersection": text(coco_mask.merge([a, b], intersect=True)),
        })
    return cases


def annotation_facts(path):
    document = json.loads(path.read_text())
    images = {image["id"]: image for image in document["images"]}
    ids, areas, digests = [], [], []
    for annotation in document["annotations"]:
        rle = annotation_rle(annotation, images[annotation["image_id"]])
        ids.append(annotation["id"])
        areas.append(int(coco_mask.area(rle)))
        digests.append(np.frombuffer(hashlib.sha256(rle["counts"]).digest()[:8], np.uint8))
    return {"id": np.array(ids, np.int64), "area": np.array(areas, np.int64), "digest": np.stack(digests)}


def main():
    rng = np.random.default_rng(20250)
    cases = {"polygons": polygon_cases(rng), "bitmaps": bitmap_cases(rng), "pairs": pair_cases(rng)}
    lines = [f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in value) + "\n]" for key, value in cases.items()]
    (HERE / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    shared = Path(sys.argv[1])
    tensors = {f"{name}.{key}": value for name, path in SETS.items() for key, value in annotation_facts(shared / path).items()}
    save_file(tensors, HERE / "data.safetensors")


if __name__ == "__main__":
    main()
