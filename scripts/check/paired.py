#!/usr/bin/env python3
"""Paired difference of one predictor's image mean IoU in pairs of reports, over the instances that both have.

`sensei gate` compares two reports of the same instances. Two crop rules may leave other instances out; this compares what both have, and says
how many those are. Several pairs are seeds: an instance's difference is its mean over them, and images are resampled (95 %, percentile).

usage: scripts/check/paired.py PREDICTOR BASELINE.json CANDIDATE.json [BASELINE.json CANDIDATE.json ...]
"""

import json
import random
import sys
from collections import defaultdict


def ious(path, predictor):
    """IoU in the image and image of each instance. Two empty masks are equal."""
    report = json.loads(open(path).read())
    scores = next(p["scores"] for p in report["predictors"] if p["scores"]["predictor"] == predictor)
    found = {}
    for instance in scores["instances"]:
        both, truth, predicted = instance["in_image"]
        either = truth + predicted - both
        found[instance["annotation_id"]] = (both / either if either else 1.0, instance["image_id"])
    return found


def main():
    predictor, *paths = sys.argv[1:] or [""]
    if not paths or len(paths) % 2:
        sys.exit(__doc__)
    pairs = [(ious(a, predictor), ious(b, predictor)) for a, b in zip(paths[::2], paths[1::2])]
    common = set.intersection(*(set(scores) for pair in pairs for scores in pair))
    by_image = defaultdict(list)
    for annotation in sorted(common):
        difference = sum(b[annotation][0] - a[annotation][0] for a, b in pairs) / len(pairs)
        by_image[pairs[0][0][annotation][1]].append(difference)
    for idx, (a, b) in enumerate(pairs, 1):
        mean = [sum(scores[annotation][0] for annotation in common) / len(common) for scores in (a, b)]
        print(f"pair {idx}: {mean[0]:.4f} -> {mean[1]:.4f}, {100 * (mean[1] - mean[0]):+.2f} points")
    images, rng = [by_image[image] for image in sorted(by_image)], random.Random(0)
    sums = [(sum(differences), len(differences)) for differences in images]
    resampled = []
    for _ in range(10_000):
        chosen = rng.choices(sums, k=len(sums))
        resampled.append(sum(s for s, _ in chosen) / sum(n for _, n in chosen))
    resampled.sort()
    mean = sum(s for s, _ in sums) / sum(n for _, n in sums)
    low, high = resampled[249], resampled[9749]
    print(
        f"mean of {len(pairs)}: {100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] points, "
        f"{len(common)} instances of {len(images)} images"
    )


if __name__ == "__main__":
    main()
