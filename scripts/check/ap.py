"""Holds `sensei eval-coco` to pycocotools, lvis-api and Boundary IoU: on real annotations and on many generated scenes.

    python scripts/check/ap.py SENSEI [SHARED]      SENSEI: the binary; SHARED: the folder with data/, default ../shared

Detections of the real annotations are their masks moved, grown, shrunk and cut, with drawn scores, some under another category; every
number, those of each category included, has to agree to 1e-9. Needs what tests/golden/ap/make.py needs.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden/ap"))
import make  # noqa: E402

REAL = {
    "coco val": ("coco", "coco/annotations/instances_val.json"),
    "lvis style val": ("lvis", "coco/annotations/lvis_style_val.json"),
    "lvis 98": ("lvis", "lvis/lvis_val_98_annotations_only.json"),
    "coco train": ("coco", "coco/annotations/instances_train.json"),
    "lvis style train": ("lvis", "coco/annotations/lvis_style_train.json"),
}


def detections_of(path, rng, boxes):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    category_ids = truth.getCatIds()
    detections = []
    for annotation in truth.dataset["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            rle = make.noisy(rng, truth.annToRLE(annotation))
            other = rng.random() < 0.15
            detection = {
                "image_id": annotation["image_id"],
                "category_id": int(rng.choice(category_ids)) if other else annotation["category_id"],
                "score": round(float(rng.random()), 2),
                "segmentation": make.text(rle),
            }
            if boxes:
                detection["bbox"] = [round(float(side), 2) for side in coco_mask.toBbox(rle) * rng.uniform(0.9, 1.1)]
            detections.append(detection)
    return [detections[at] for at in rng.permutation(len(detections))]


def worst(got, expected):
    names = sorted(expected)
    assert sorted(got) == names, (sorted(got), names)
    return max(abs((-1.0 if got[name] is None else got[name]) - expected[name]) for name in names)


def check(name, sensei, rules, annotations, detections):
    expected = make.numbers(rules, str(annotations), str(detections))
    for kind, numbers in expected.items():
        out = detections.parent / "report.json"
        arguments = ["eval-coco", annotations, detections, "--format", rules, "--iou", kind, "--out", out]
        subprocess.run([sensei, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        report = json.loads(out.read_text())
        difference = worst(report["summary"], numbers["summary"])
        for category in report["categories"]:
            difference = max(difference, worst(category["scores"], numbers["categories"][str(category["id"])]))
        assert len(report["categories"]) == len(numbers["categories"])
        print(f"{name:<28} {kind:<8} AP {numbers['summary']['AP']:.4f}  worst difference {difference:.1e}", flush=True)
        assert difference <= 1e-9, (name, kind)


def main(sensei, shared=ROOT / "../shared"):
    data = Path(shared) / "data"
    with tempfile.TemporaryDirectory() as folder:
        annotations, detections = Path(folder) / "annotations.json", Path(folder) / "detections.json"
        for seed in range(40):
            rules = ["coco", "lvis"][seed % 2]
            rng = np.random.default_rng(seed)
            case = dict(n_images=int(rng.integers(1, 14)), n_categories=int(rng.integers(3, 8)), per_image=int(rng.integers(1, 10)),
                        n_found=int(rng.choice([3, 20, 60, 330])), boxes=bool(seed // 2 % 2), decimals=int(rng.integers(0, 3)))
            truth, found = make.scene(seed=1000 + seed, rules=rules, **case)
            if not found:
                continue
            annotations.write_text(json.dumps(truth)), detections.write_text(json.dumps(found))
            check(f"generated {rules} {seed}", sensei, rules, annotations, detections)
        for seed, (name, (rules, path)) in enumerate(REAL.items()):
            for boxes in [False, True]:
                found = detections_of(data / path, np.random.default_rng(seed), boxes)
                detections.write_text(json.dumps(found))
                check(f"{name}{', boxes' if boxes else ''}", sensei, rules, data / path, detections)


if __name__ == "__main__":
    main(*sys.argv[1:])
