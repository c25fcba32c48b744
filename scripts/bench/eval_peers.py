"""Data and peers for eval.sh.

    python eval_peers.py generate OUT [N_IMAGES]     annotations.json, detections.json: the size of COCO's val2017
    python eval_peers.py pycocotools|faster KIND ANNOTATIONS DETECTIONS     prints seconds, peak MiB, the twelve numbers

The seconds are those from before the files are opened to the last number, without Python's own start and imports.
"""

import contextlib
import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def generate(out, n_images):
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(2017)
    n_categories, n_detections = 80, 100
    weights = 1 / np.arange(1, n_categories + 1) ** 0.8
    weights /= weights.sum()

    def outline(centre, radius, waves, width, height, angles):
        r = radius * (1 + sum(a * np.sin(k * angles + p) for a, k, p in waves))
        points = np.stack([centre[0] + r * np.cos(angles) * 0.9, centre[1] + r * np.sin(angles)], 1)
        return np.round(np.clip(points, 0, [width, height]), 2).reshape(-1).tolist()

    def draw(polygon, width, height):
        return coco_mask.frPyObjects([polygon], height, width)[0]

    images, annotations, detections = [], [], []
    for image_id in range(1, n_images + 1):
        width, height = (640, 480) if rng.random() < 0.7 else (480, 640)
        images.append({"id": image_id, "width": width, "height": height, "file_name": f"{image_id:012}.jpg"})
        objects = []
        for _ in range(int(rng.geometric(1 / 8.2)) - 1):  # 7.2 a image on average, many with few, few with many
            radius = float(np.clip(rng.lognormal(3.3, 0.9), 4, 220))
            centre = rng.uniform(0, [width, height])
            waves = [(rng.uniform(0, 0.3) / k, k, rng.uniform(0, 6.3)) for k in range(1, 7)]
            angles = np.linspace(0, 2 * np.pi, int(np.clip(radius, 12, 80)), endpoint=False)
            polygon = outline(centre, radius, waves, width, height, angles)
            rle = draw(polygon, width, height)
            category_id = int(rng.choice(n_categories, p=weights)) + 1
            crowd = int(rng.random() < 0.012)
            segmentation = {"size": [height, width], "counts": rle["counts"].decode()} if crowd else [polygon]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "iscrowd": crowd,
                "area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist(), "segmentation": segmentation,
            })
            objects.append((centre, radius, waves, category_id))
        for _ in range(n_detections):  # half about objects, half elsewhere; outlines ragged, as networks draw them
            if objects and rng.random() < 0.5:
                centre, radius, waves, category_id = objects[int(rng.integers(len(objects)))]
                noise = float(rng.exponential(0.12))
                centre, radius = centre + rng.normal(0, radius * noise, 2), radius * float(np.exp(rng.normal(0, noise)))
                category_id = category_id if rng.random() < 0.8 else int(rng.integers(n_categories)) + 1
                score = float(np.clip(rng.normal(0.8 - 1.5 * noise, 0.15), 0.01, 1))
            else:
                radius, centre = float(np.clip(rng.lognormal(3.3, 0.9), 4, 220)), rng.uniform(0, [width, height])
                waves = [(rng.uniform(0, 0.3) / k, k, rng.uniform(0, 6.3)) for k in range(1, 7)]
                category_id, score = int(rng.choice(n_categories, p=weights)) + 1, float(rng.beta(1, 5))
            angles = np.linspace(0, 2 * np.pi, int(np.clip(3 * radius, 24, 400)), endpoint=False)
            ragged = [*waves, (0.02, 29, rng.uniform(0, 6.3)), (0.02, 43, rng.uniform(0, 6.3))]
            rle = draw(outline(centre, radius, ragged, width, height, angles), width, height)
            counts = rle["counts"].decode()
            detections.append({
                "image_id": image_id, "category_id": category_id, "score": round(score, 6),
                "segmentation": {"size": [height, width], "counts": counts},
            })
    categories = [{"id": idx + 1, "name": f"class {idx + 1}"} for idx in range(n_categories)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "annotations.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    (out / "detections.json").write_text(json.dumps(detections))


def peer(which, kind, annotations, detections):
    if which == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        run = COCOeval(truth, truth.loadRes(detections), iouType=kind)
        run.evaluate(), run.accumulate(), run.summarize()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.3f} {peak:.0f}", *(f"{float(value):.12f}" for value in run.stats[:12]))


def masks(annotations, repeats):
    """Median seconds of drawing all polygons and of decoding all masks, one thread."""
    from pycocotools import mask as coco

    data = json.loads(Path(annotations).read_text())
    size = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    regions = [(a["segmentation"], *size[a["image_id"]]) for a in data["annotations"]]
    polygons = [region for region in regions if isinstance(region[0], list)]

    def draw():
        return [coco.merge(coco.frPyObjects(*region)) for region in polygons]

    encoded = draw() + [coco.frPyObjects(*region) for region in regions if not isinstance(region[0], list)]

    def median(run):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[repeats // 2]

    print(f"draw {median(draw):.6f} decode {median(lambda: [coco.decode(rle) for rle in encoded]):.6f}")


if __name__ == "__main__":
    if sys.argv[1] == "generate":
        generate(Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5000)
    elif sys.argv[1] == "masks":
        masks(sys.argv[2], int(sys.argv[3]))
    else:
        peer(*sys.argv[1:])
