#!/usr/bin/env python3
"""How well numbers made of a student's logits rank its masks: docs/results/scores.md.

Asks a run's student about every annotated box, and compares each candidate with the masks' IoU (Spearman's rank correlation; intervals are
95 %, percentile, over resampled images) and by the mask AP of `sensei eval-coco`.

usage: mask_scores.py SENSEI RUN ANNOTATIONS IMAGES OUT [--network int8] [--threads 2]     needs NumPy
       OUT is made: predictions, reports, table.txt
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

RESAMPLES = 2_000


def candidates(logits):
    """By name, the numbers of one crop's logits. An empty mask has 0 by all of them."""
    logits = logits.astype(np.float64)
    p, mask = 1.0 / (1.0 + np.exp(-logits)), logits > 0
    if not mask.any():
        return None
    inside, outside, n = p[mask].sum(), p[~mask].sum(), mask.sum()

    def stability(offset):
        return (logits > offset).sum() / (logits > -offset).sum()

    return {
        "1 for all": 1.0,
        "area of the mask in the crop": n / mask.size,
        "mean probability in the mask": inside / n,
        "mean logit in the mask": logits[mask].mean(),
        "mean of the absolute logits": np.abs(logits).mean(),
        "mean of |2p - 1|": np.abs(2 * p - 1).mean(),
        "stability, logits at +-0.5": stability(0.5),
        "stability, logits at +-1": stability(1.0),
        "stability, logits at +-2": stability(2.0),
        "stability, logits at +-4": stability(4.0),
        "expected IoU": inside / (n + outside),
        "expected IoU x stability at +-1": inside / (n + outside) * stability(1.0),
    }


def ranks(values):
    """From 0; of equal values the mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def read(path):
    return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["sensei", "run", "annotations", "images", "out"]:
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--network", default="int8")
    parser.add_argument("--threads", default="2")
    arguments = parser.parse_args()
    sensei, annotations, out = arguments.sensei.resolve(), arguments.annotations, arguments.out
    out.mkdir(parents=True)
    masks = out / "masks"
    asked = ["--boxes", annotations, "--network", arguments.network, "--logits", "--unusable", "leave_out"]
    print(run(sensei, "predict", arguments.run, arguments.images, *asked, "--threads", arguments.threads, "--out", masks))

    predictions, about = read(masks / "predictions.json"), read(masks / "about.json")["predictions"]
    report = out / "iou.json"
    run(sensei, "eval-masks", annotations, masks / "predictions.json", "--protocol", "sensei-box", "--name", "it", "--out", report)
    row = next(row for row in read(report)["predictors"] if row["scores"]["predictor"] == "it")
    iou_of = {}
    for one in row["scores"]["instances"]:
        both, truth, found = one["in_image"]
        iou_of[one["annotation_id"]] = both / max(truth + found - both, 1)

    values, ious, images, n_empty = {}, [], [], 0
    for prediction, said in zip(predictions, about, strict=True):
        found = candidates(np.load(masks / said["mask"].replace("masks/", "logits/").replace(".png", ".npy")))
        n_empty += found is None
        if not values:
            values = {name: [] for name in candidates(np.ones((1, 1)))}
        for name, of_name in values.items():
            of_name.append(0.0 if found is None else found[name])
        own = values["expected IoU"][-1]
        assert abs(own - prediction["score"]) < 1e-6, f"{said['mask']}: {own}, {prediction['score']}"
        ious.append(iou_of[prediction["annotation_id"]])
        images.append(prediction["image_id"])
    ious = np.array(ious)
    members = [np.flatnonzero(np.array(images) == image) for image in sorted(set(images))]
    rng = np.random.default_rng(0)
    draws = [np.concatenate([members[at] for at in rng.integers(len(members), size=len(members))]) for _ in range(RESAMPLES)]

    lines = [f"{len(ious)} masks on {len(members)} images, mean IoU {ious.mean():.4f}, empty masks {n_empty}", ""]
    lines += ["| score | Spearman with IoU | AP | AP50 | AP75 |", "|---|---|---|---|---|"]
    own = np.array(values["expected IoU"])
    own_draws = [spearman(own[draw], ious[draw]) for draw in draws]
    differences = []
    for name, of_name in [*values.items(), ("the IoU itself", ious)]:
        of_name = np.array(of_name)
        rho, of_draws = spearman(of_name, ious), [spearman(of_name[draw], ious[draw]) for draw in draws]
        low, high = np.percentile(of_draws, [2.5, 97.5])
        scored = [{**one, "score": float(score)} for one, score in zip(predictions, of_name, strict=True)]
        path = out / "scored.json"
        path.write_text(json.dumps(scored))
        run(sensei, "eval-coco", annotations, path, "--out", out / "ap.json")
        ap = read(out / "ap.json")["summary"]
        lines.append(f"| {name} | {rho:.3f} [{low:.3f}, {high:.3f}] | {ap['AP']:.4f} | {ap['AP50']:.4f} | {ap['AP75']:.4f} |")
        low, high = np.percentile(np.array(own_draws) - of_draws, [2.5, 97.5])
        differences.append(f"Spearman of expected IoU minus {name}: [{low:+.3f}, {high:+.3f}]")
    table = "\n".join([*lines, "", *differences]) + "\n"
    (out / "table.txt").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
