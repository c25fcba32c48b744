"""Golden average precision: generated annotations and detections, and what pycocotools, lvis-api and Boundary IoU make of them.

Made with Python 3.11, pycocotools 2.0.11, lvis 0.5.3, opencv-python 5.0.0.93, numpy 2.4.6, faster-coco-eval 1.8.0; x86-64.
    python make.py                        writes CASE/{annotations,detections,expected}.json beside this file
    python make.py numbers RULES ANNOTATIONS DETECTIONS      prints expected.json for other files (scripts/check/ap.py)

expected.json: for each of segm, bbox, boundary the summary and each category's numbers; -1: no truth defines it.

Boundary AP is Cheng et al.'s (CVPR 2021): of mask IoU and boundary IoU the smaller one, crowd regions by mask IoU alone. The boundary is
what a 3 x 3 erosion, repeated round(0.02 * diagonal) times on a canvas with a frame of zeros, takes away. COCO's numbers are also
held to faster-coco-eval here, which has an implementation of its own.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

np.float = float  # lvis-api 0.5.3 was written for numpy below 1.24
from lvis import LVIS, LVISEval, LVISResults  # noqa: E402

HERE = Path(__file__).parent


def boundary(rle):
    mask = coco_mask.decode(rle)
    height, width = mask.shape
    distance = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(mask - eroded))


def with_boundaries(ious, detections, truths, crowds):
    if len(detections) == 0 or len(truths) == 0:
        return ious
    of_boundaries = coco_mask.iou([boundary(d) for d in detections], [boundary(t) for t in truths], crowds)
    counts = np.array(crowds) == 0
    ious[:, counts] = np.minimum(ious[:, counts], of_boundaries[:, counts])
    return ious


class CocoBoundaryEval(COCOeval):
    def computeIoU(self, image_id, category_id):
        ious = super().computeIoU(image_id, category_id)
        truths, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
        masks = [found[idx]["segmentation"] for idx in order]
        return with_boundaries(ious, masks, [t["segmentation"] for t in truths], [int(t["iscrowd"]) for t in truths])


class LvisBoundaryEval(LVISEval):
    def compute_iou(self, image_id, category_id):
        ious = super().compute_iou(image_id, category_id)
        truths, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        order = np.argsort([-d["score"] for d in found], kind="mergesort")
        masks = [found[idx]["segmentation"] for idx in order]
        return with_boundaries(ious, masks, [t["segmentation"] for t in truths], [0] * len(truths))


def mean(values):
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def coco_numbers(annotations, detections, kind, evaluator=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        with open(detections) as file:
            found = truth.loadRes(json.load(file))
        run = (CocoBoundaryEval if kind == "boundary" else COCOeval)(truth, found, "bbox" if kind == "bbox" else "segm")
        run.evaluate(), run.accumulate(), run.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"]
    precision, recall = run.eval["precision"], run.eval["recall"]
    categories = {}
    for idx, category_id in enumerate(run.params.catIds):
        p, r = precision[:, :, idx], recall[:, idx]
        values = [p[:, :, 0, 2], p[0, :, 0, 2], p[5, :, 0, 2], p[:, :, 1, 2], p[:, :, 2, 2], p[:, :, 3, 2]]
        values += [r[:, 0, 0], r[:, 0, 1], r[:, 0, 2], r[:, 1, 2], r[:, 2, 2], r[:, 3, 2]]
        categories[str(category_id)] = dict(zip(names, map(mean, values)))
    return {"summary": dict(zip(names, map(float, run.stats))), "categories": categories}


def lvis_numbers(annotations, detections, kind):
    truth = LVIS(str(annotations))
    found = LVISResults(truth, str(detections))
    run = (LvisBoundaryEval if kind == "boundary" else LVISEval)(truth, found, "bbox" if kind == "bbox" else "segm")
    run.run()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@300", "ARs@300", "ARm@300", "ARl@300"]
    precision, recall = run.eval["precision"], run.eval["recall"]
    categories = {}
    for idx, category_id in enumerate(run.params.cat_ids):
        p, r = precision[:, :, idx], recall[:, idx]
        values = [p[:, :, 0], p[0, :, 0], p[5, :, 0], p[:, :, 1], p[:, :, 2], p[:, :, 3]]
        values += [r[:, area] for area in range(4)]
        categories[str(category_id)] = dict(zip(names, map(mean, values)))
    return {"summary": {name: float(value) for name, value in run.results.items()}, "categories": categories}


def faster_numbers(annotations, detections, kind):
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = FasterCOCO(str(annotations))
        with open(detections) as file:
            run = COCOeval_faster(truth, truth.loadRes(json.load(file)), iouType=kind)
        run.evaluate(), run.accumulate(), run.summarize()
    return [float(value) for value in run.stats[:12]]


def numbers(rules, annotations, detections):
    if rules == "lvis":
        return {kind: lvis_numbers(annotations, detections, kind) for kind in ["segm", "bbox", "boundary"]}
    return {kind: coco_numbers(annotations, detections, kind) for kind in ["segm", "bbox", "boundary"]}


# Generated scenes.


def blob(rng, width, height, scale):
    """A star-shaped outline as COCO's polygon."""
    angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 28)), endpoint=False)
    radius = scale * (1 + 0.25 * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6)) + rng.normal(0, 0.04, angles.size))
    x = rng.uniform(0, width) + radius * np.cos(angles) * rng.uniform(0.6, 1.4)
    y = rng.uniform(0, height) + radius * np.sin(angles)
    points = np.stack([np.clip(x, 0, width), np.clip(y, 0, height)], 1)
    return np.round(points, 2).reshape(-1).tolist()


def draw(polygon, width, height):
    return coco_mask.merge(coco_mask.frPyObjects([polygon], height, width))


def text(rle):
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def runs(rle):
    bits = coco_mask.decode(rle).reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]])))[: None if bits[-1] == 0 else -1]
    return {"size": [int(side) for side in rle["size"]], "counts": np.diff(np.concatenate([[0], edges, [bits.size]])).tolist()}


def noisy(rng, rle):
    """The mask moved, eroded or dilated, and gnawed at, so that IoUs spread over all thresholds."""
    mask = coco_mask.decode(rle)
    shift = rng.integers(-4, 5, 2) * rng.integers(0, 2)
    mask = np.roll(mask, shift, (0, 1))
    size = int(rng.integers(1, 6))
    mask = [mask, cv2.erode(mask, np.ones((size, size))), cv2.dilate(mask, np.ones((size, size)))][int(rng.integers(0, 3))]
    if rng.random() < 0.5:
        mask[:, : int(rng.integers(0, mask.shape[1]))] *= int(rng.random() < 0.5)
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def scene(seed, rules, n_images, n_categories, per_image, n_found, boxes=False, first_id=1, decimals=1):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(1, 4 * n_images))[:n_images].tolist()  # neither in order nor without gaps
    images, annotations, detections = [], [], []
    # The last category is in no annotation, the one before in no detection.
    categories = [{"id": int(7 * idx + 3), "name": f"class {idx}"} for idx in rng.permutation(n_categories)]
    if rules == "lvis":
        for idx, category in enumerate(categories):
            category["frequency"] = "rcf"[idx % 3]
    annotated, detected = categories[:-1], categories[:-2] + categories[-1:]
    for image_idx, image_id in enumerate(ids):
        width, height = int(rng.integers(60, 230)), int(rng.integers(60, 200))
        image = {"id": image_id, "width": width, "height": height, "file_name": f"{image_id:06}.png"}
        truths = []
        for _ in range(0 if image_idx % 5 == 4 else int(rng.integers(1, per_image + 1))):
            polygon = blob(rng, width, height, float(rng.choice([5, 12, 20, 45, 70])))
            rle = draw(polygon, width, height)
            crowd = int(rng.random() < 0.15) if rules == "coco" else 0
            area = float(coco_mask.area(rle))
            special = rng.random()  # areas on the borders of the ranges, or none
            area = 1024.0 if special < 0.06 else 9216.0 if special < 0.12 else 0.0 if special < 0.16 else area
            box = [round(float(side) + float(rng.choice([0, 0, 0.25])), 2) for side in coco_mask.toBbox(rle)]
            segmentation = runs(rle) if crowd else text(rle) if rng.random() < 0.2 else [polygon]
            category = annotated[int(rng.integers(0, len(annotated)))]
            truths.append({"image_id": image_id, "category_id": category["id"], "bbox": box, "area": area,
                           "iscrowd": crowd, "segmentation": segmentation, "rle": rle})
            if rng.random() < 0.1:  # the same once more: equal IoUs
                truths.append(dict(truths[-1]))
        if rules == "lvis":
            present = {truth["category_id"] for truth in truths}
            absent = [c["id"] for c in categories if c["id"] not in present]
            image["neg_category_ids"] = [i for i in absent if rng.random() < 0.4]
            image["not_exhaustive_category_ids"] = [c["id"] for c in categories if rng.random() < 0.25]
        images.append(image)
        for _ in range(0 if image_idx % 7 == 5 else n_found):
            if truths and rng.random() < 0.8:
                truth = truths[int(rng.integers(0, len(truths)))]
                rle = truth["rle"] if rng.random() < 0.1 else noisy(rng, truth["rle"])
                category_id = truth["category_id"] if rng.random() < 0.85 else detected[int(rng.integers(0, len(detected)))]["id"]
            else:
                rle = draw(blob(rng, width, height, float(rng.choice([5, 20, 45]))), width, height)
                category_id = detected[int(rng.integers(0, len(detected)))]["id"]
            if category_id == categories[-2]["id"]:
                continue
            detection = {"image_id": image_id, "category_id": category_id, "score": round(float(rng.random()), decimals)}
            if boxes:
                box = coco_mask.toBbox(rle) + rng.normal(0, 1.5, 4) * rng.integers(0, 2)
                detection["bbox"] = [round(float(side), 2) for side in np.maximum(box, 0)]
            detection["segmentation"] = text(rle)
            detections.append(detection)
        annotations += truths
    order = rng.permutation(len(annotations))
    annotations = [{"id": first_id + idx, **annotations[at]} for idx, at in enumerate(order)]
    for annotation in annotations:
        del annotation["rle"]
    detections = [detections[at] for at in rng.permutation(len(detections))]
    return {"images": images, "categories": categories, "annotations": annotations}, detections


CASES = {
    "coco": dict(seed=1, rules="coco", n_images=12, n_categories=6, per_image=7, n_found=14),
    "coco_boxes": dict(seed=2, rules="coco", n_images=8, n_categories=4, per_image=5, n_found=12, boxes=True),
    "coco_many": dict(seed=3, rules="coco", n_images=2, n_categories=3, per_image=6, n_found=260, decimals=2),
    "coco_id_0": dict(seed=4, rules="coco", n_images=4, n_categories=3, per_image=4, n_found=10, first_id=0),
    "lvis": dict(seed=5, rules="lvis", n_images=12, n_categories=9, per_image=7, n_found=14),
    "lvis_boxes": dict(seed=6, rules="lvis", n_images=7, n_categories=7, per_image=5, n_found=12, boxes=True),
    "lvis_many": dict(seed=7, rules="lvis", n_images=2, n_categories=5, per_image=6, n_found=420, decimals=2),
    "lvis_id_0": dict(seed=8, rules="lvis", n_images=4, n_categories=5, per_image=4, n_found=10, first_id=0),
}


def write(folder, case):
    folder.mkdir(parents=True, exist_ok=True)
    annotations, detections = scene(**case)
    (folder / "annotations.json").write_text(json.dumps(annotations) + "\n")
    (folder / "detections.json").write_text(json.dumps(detections) + "\n")
    paths = folder / "annotations.json", folder / "detections.json"
    expected = numbers(case["rules"], *paths)
    if case["rules"] == "coco" and case.get("first_id", 1) != 0:
        for kind, values in expected.items():
            difference = np.abs(np.array(list(values["summary"].values())) - faster_numbers(*paths, kind)).max()
            assert difference < 1e-9, f"{folder.name}, {kind}: faster-coco-eval differs by {difference}"
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        assert sys.argv[1] == "numbers", __doc__
        print(json.dumps(numbers(*sys.argv[2:])))
    else:
        for name, case in CASES.items():
            write(HERE / name, case)
