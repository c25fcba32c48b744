#!/usr/bin/env python3
"""What a teacher's proposals are worth where few objects are annotated: image mean IoU against the annotated share of the images.

Trains the student of a run configuration on 10, 25, 50 and 100 % of the annotated images, with and without the configuration's
`[[data.also_train]]`, and on those alone. Shares are of images, each within the next. A run takes as many epochs as come closest to the steps
asked for. Each point is a mean over seeds; intervals (95 %, percentile) are over resampled images.

usage: annotation_share.py SENSEI CONFIG OUT [--seeds 1 2 3] [--steps 1000] [--jobs 2] [--set KEY=VALUE]...     needs Python 3.11 alone
       writes OUT/share-*.json (annotations), OUT/runs, OUT/table.txt, OUT/figure.svg; what is there already is not run again
"""

import argparse
import concurrent.futures
import json
import pathlib
import random
import subprocess
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "check"))
from paired import ious  # noqa: E402

SHARES = (10, 25, 50, 100)
KINDS = {
    "truth": "annotations alone",
    "both": "annotations and proposals",
    "proposals": "proposals alone",
}
RESAMPLES = 10_000


def shared_annotations(annotations, out):
    """Files with the annotations of each share of the images; how many there are."""
    whole = json.loads(annotations.read_text())
    order = [image["id"] for image in whole["images"]]
    random.Random(0).shuffle(order)
    files = {}
    for share in SHARES:
        kept = set(order[: round(len(order) * share / 100)])
        part = {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in kept],
            "annotations": [one for one in whole["annotations"] if one["image_id"] in kept],
        }
        path = out / f"share-{share}.json"
        path.write_text(json.dumps(part))
        files[share] = (path, sum(not one.get("iscrowd") for one in part["annotations"]))
    return files


def plans(config, files, proposals, steps, batch):
    """Each run's name without its seed, what it is, and how it differs from the configuration."""
    n_proposals = sum(not one.get("iscrowd") for one in json.loads(proposals.read_text())["annotations"])

    def differs(n, *more):
        epochs = max(1, round(steps * batch / n))
        found = [*more, f"train.stage.0.epochs={epochs}"]
        return epochs * -(-n // batch), [word for one in found for word in ("--set", one)]

    for share, (path, n) in files.items():
        only = f"data.train.annotations={path}"
        yield share, "truth", *differs(n, only, "data.also_train=[]")
        yield share, "both", *differs(n + n_proposals, only)
    yield 0, "proposals", *differs(n_proposals, f"data.train.annotations={proposals}", "data.also_train=[]")


def by_image(report):
    """Sum of IoU in the image and number of instances, by image."""
    found = {}
    for iou, image in ious(report, "float").values():
        entry = found.setdefault(image, [0.0, 0])
        entry[0] += iou
        entry[1] += 1
    return found


def mean_over(seeds):
    """By image: sum of the IoU's mean over seeds, and instances."""
    return {image: [sum(one[image][0] for one in seeds) / len(seeds), n] for image, (_, n) in seeds[0].items()}


def interval(found, baseline=None):
    """Mean and interval of one result, or of its difference to another, in shares of 1."""
    images = list(found)
    values = [(found[i][0] - (baseline[i][0] if baseline else 0.0), found[i][1]) for i in images]

    def mean(chosen):
        return sum(one[0] for one in chosen) / sum(one[1] for one in chosen)

    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return mean(values), means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def figure(points, alone):
    """Two lines with bars for the intervals, and a band for the proposals alone."""
    low, high = 0.5, 0.75
    x = {share: 70 + 130 * at for at, share in enumerate(SHARES)}

    def y(value):
        return 260 - 220 * (value - low) / (high - low)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 330" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="560" height="330" fill="white"/>')
    for tick in range(round(low * 100), round(high * 100) + 1, 5):
        parts.append(f'<path d="M50 {y(tick / 100):.1f}H500" stroke="#ddd"/><text x="44" y="{y(tick / 100) + 4:.1f}" text-anchor="end">.{tick}</text>')
    mean, least, most = alone
    parts.append(f'<rect x="50" y="{y(most):.1f}" width="450" height="{y(least) - y(most):.1f}" fill="#999" opacity=".2"/>')
    parts.append(f'<path d="M50 {y(mean):.1f}H500" stroke="#777" stroke-dasharray="5 4"/>')
    for kind, colour, shift in (("truth", "#b04a1d", -3), ("both", "#1d6fb0", 3)):
        line = " ".join(f"{x[share] + shift},{y(points[share, kind][0]):.1f}" for share in SHARES)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for share in SHARES:
            at, (mean, least, most) = x[share] + shift, points[share, kind]
            parts.append(f'<path d="M{at} {y(least):.1f}V{y(most):.1f}" stroke="{colour}"/><circle cx="{at}" cy="{y(mean):.1f}" r="3.5" fill="{colour}"/>')
    for share in SHARES:
        parts.append(f'<text x="{x[share]}" y="280" text-anchor="middle">{share} %</text>')
    parts.append('<text x="275" y="300" text-anchor="middle">share of the images that is annotated</text>')
    parts.append('<text x="60" y="20">image mean IoU, 95 % intervals over images</text>')
    for at, (colour, text) in enumerate((("#1d6fb0", KINDS["both"]), ("#b04a1d", KINDS["truth"]), ("#777", KINDS["proposals"]))):
        parts.append(f'<text x="{60 + 170 * at}" y="322" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sensei")
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="of every run, as `sensei run` has it")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    config = tomllib.loads(options.config.read_text())
    folder = options.config.resolve().parent
    annotations = folder / config["data"]["train"]["annotations"]
    proposals = folder / config["data"]["also_train"][0]["annotations"]
    batch = config["train"]["batch_size"] * config["train"]["accumulate_batches"]
    files = shared_annotations(annotations, out)

    def run(name, differs):
        report = out / "runs" / name / "eval" / "report.json"
        if not report.exists():
            command = [options.sensei, "run", options.config, "--runs", out / "runs", "--name", name, "--threads", "1", "--resume", *(word for one in options.set for word in ("--set", one)), *differs]
            log = out / f"{name}.log"
            with log.open("w") as text:
                if subprocess.run(command, stdout=text, stderr=subprocess.STDOUT).returncode:
                    raise SystemExit(f"{log}: the run failed")
        return report

    wanted = list(plans(config, files, proposals, options.steps, batch))
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        reports = {
            (share, kind, seed): pool.submit(run, f"{kind}-{share}-{seed}", [*differs, "--set", f"seed={seed}"])
            for seed in options.seeds
            for share, kind, _, differs in wanted
        }
        found = {
            (share, kind): mean_over([by_image(reports[share, kind, seed].result()) for seed in options.seeds])
            for share, kind, _, _ in wanted
        }
    points = {key: interval(one) for key, one in found.items()}
    lines = [f"seeds {options.seeds}, image mean IoU of the float network, 95 % over images"]
    for share, kind, n_steps, _ in wanted:
        mean, least, most = points[share, kind]
        line = f"{share:3} %  {KINDS[kind]:26} {n_steps:5} steps  {mean:.4f} [{least:.4f}, {most:.4f}]"
        if kind == "both":
            difference = [100 * value for value in interval(found[share, kind], found[share, "truth"])]
            line += "  more than annotations alone: {:+.2f} [{:+.2f}, {:+.2f}] points".format(*difference)
        lines.append(line)
    (out / "table.txt").write_text("\n".join(lines) + "\n")
    (out / "figure.svg").write_text(figure(points, points[0, "proposals"]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
