#!/usr/bin/env python3
"""Kills whole runs at random moments, resumes them, and holds every file to those of a run that nobody killed.

The run is small and whole: pictures, a teacher's dump to import, training, quantization, scoring, export. Every second try is two runs at
once in one folder of runs, which share the cache that they import; one or both are killed. After the resume, nothing may be torn, lost,
changed or left over.

usage: scripts/check/kills.py SENSEI [--kills N] [--seed S]     needs Python alone
"""

import argparse
import collections
import hashlib
import json
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

GRID, SIDE = 32, 64
# Times, absolute paths, and what says who holds the folder.
NOT_COMPARED = {"events.jsonl", "plan.toml", "report.html", "run.lock", "SHA256SUMS"}

CONFIG = """seed = 3

[data]
source = "coco"
instances = "all"
train = { annotations = "train.json", images = "images" }
val = { annotations = "val.json", images = "images" }

[crop]
rule = "roi"
border = "corrected"
padding = 0.1

[teacher]
digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
preprocessing = { letterbox = { longest_side = 1024, resize = "pillow_bilinear", normalization = "imagenet" } }
question = { object = { prompts = ["box"], padding_points = 1 } }
kept = { mask_logits = { context = { around_box = { region_scale = 1.2, context_scale = 2.0, min_side = 0.0 } }, grid = 32, logit_step = 0.125, masks = "single" } }
train = { dump = "dump/train" }
val = { dump = "dump/val" }

[student]
family = "unet"
input_size = 32
encoder_channels = [4, 6]
bottleneck_channels = 8
decoder_channels = [6, 4]
dilated_bottleneck = true
channel_gate = true
refine_head = true
bilinear_upsampling = false
activation = "relu"
downsampling = "dense"

[train]
batch_size = 2
accumulate_batches = 1
optimizer = { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01 }
clip_gradient_norm = 5.0
ema_decay = 0.9

[[train.stage]]
name = "only"
epochs = 12
learning_rate = 1e-2
warmup_steps = 2
decay = { kind = "cosine", final_learning_rate = 1e-5 }

[train.stage.loss]
sharpness = 1.0
weighting = "teacher_score_per_sample"
terms = [
    { kind = "teacher_mse", weight = 1.0 },
    { kind = "truth_bce", weight = 1.0 },
    { kind = "truth_dice", weight = 1.0 },
]

[train.stage.augmentation]
flip_probability = 0.5
roi_shift = 0.05
roi_scale = 0.1
brightness = 0.2
contrast = 0.2
saturation = 0.2

[eval]
bootstrap_resamples = 2000
bootstrap_seed = 0
overlays = 4

[quantize]
calibration_instances = 16
threshold_search = "mse"
bias_correction = true
equalization = "none"
rounding = "nearest"
weight_bits = 8
output_bits = 8

[logging]
checkpoint_every_steps = 9
"""


def png(pixels: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + pixels[row * SIDE * 3 : (row + 1) * SIDE * 3] for row in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def safetensors(tensors: list[tuple[str, str, list[int], bytes]], metadata: dict) -> bytes:
    header, data = {"__metadata__": metadata}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_split(place: pathlib.Path, split: str, first_id: int, n_images: int, rng: random.Random) -> None:
    """Images with two rectangles each, their annotations, and a dump whose answers are the rectangles."""
    images, annotations, rows = [], [], []
    for image_id in range(first_id, first_id + n_images):
        pixels = bytearray(rng.randrange(60, 120) for _ in range(SIDE * SIDE * 3))
        for nth in range(2):
            x, y, width, height = rng.randint(0, 30), rng.randint(0, 30), rng.randint(14, 30), rng.randint(14, 30)
            colour = bytes(rng.randrange(150, 255) for _ in range(3))
            for row in range(y, y + height):
                pixels[(row * SIDE + x) * 3 : (row * SIDE + x + width) * 3] = colour * width
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotation = {"id": 10 * image_id + nth, "image_id": image_id, "category_id": 1, "bbox": [x, y, width, height]}
            annotations.append({**annotation, "area": width * height, "iscrowd": 0, "segmentation": [corners]})
        name = f"{split}_{image_id:04}.png"
        (place / "images" / name).write_bytes(png(bytes(pixels)))
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
    file = place / f"{split}.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}))
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        side = 2.0 * 1.2 * max(width, height)
        x0, y0 = x + width / 2 - side / 2, y + height / 2 - side / 2
        at = [(offset + 0.5) * side / GRID for offset in range(GRID)]
        inside = lambda at, start, length: start <= at < start + length
        logits = bytes(
            (128 if not (0 <= x0 + dx < SIDE and 0 <= y0 + dy < SIDE) else 30 if inside(x0 + dx, x, width) and inside(y0 + dy, y, height) else 226)
            for dy in at
            for dx in at
        )
        name = next(image["file_name"] for image in images if image["id"] == annotation["image_id"])
        digest = hashlib.sha256((place / "images" / name).read_bytes()).digest()
        rows.append((annotation["id"], annotation["image_id"], digest, [x0, y0, x0 + side, y0 + side], logits))
    n = len(rows)
    shard = safetensors(
        [
            ("annotation_id", "I64", [n], b"".join(struct.pack("<q", row[0]) for row in rows)),
            ("image_id", "I64", [n], b"".join(struct.pack("<q", row[1]) for row in rows)),
            ("image_sha256", "U8", [n, 32], b"".join(row[2] for row in rows)),
            ("rect", "F64", [n, 4], b"".join(struct.pack("<4d", *row[3]) for row in rows)),
            ("predicted_iou", "F32", [n], struct.pack("<f", 0.9) * n),
            ("truth_iou", "F32", [n], struct.pack("<f", 0.95) * n),
            ("logits", "I8", [n, GRID, GRID], b"".join(row[4] for row in rows)),
        ],
        {"n_clipped": "0"},
    )
    dump = place / "dump" / split
    dump.mkdir(parents=True)
    (dump / "shard-00000.safetensors").write_bytes(shard)
    manifest = {
        "format": "sensei-teacher-dump",
        "version": 1,
        "teacher": {"name": "rectangles", "licence": "CC0-1.0", "digest": "0123456789abcdef" * 4, "files": []},
        "preprocessing": "sam1: RGB, Pillow bilinear to longest side 1024, ImageNet mean/std, zero-pad right and bottom",
        "prompt": "box: corners as points of labels 2 and 3, and one padding point of label -1 at (0, 0): single-mask token; "
        f"context 2.0 x 1.2 x longer side, grid {GRID}",
        "grid": GRID,
        "logit_step": 0.125,
        "dataset": {"annotations": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        "images_per_shard": 1000,
        "truth_iou": True,
        "software": {},
        "shards": [
            {"file": "shard-00000.safetensors", "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest(), "records": n}
        ],
        "records": n,
        "n_clipped": 0,
        "skipped": [],
    }
    (dump / "manifest.json").write_text(json.dumps(manifest))


def content(run: pathlib.Path) -> dict[str, str]:
    # A run that was asked to stop has a checkpoint more, and so keeps others; the last step's is the same.
    old = sorted(run.glob("checkpoints/*"))[:-1]
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in NOT_COMPARED and path not in old)
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(runs: pathlib.Path) -> list[str]:
    return [str(path.relative_to(runs)) for path in runs.rglob("*") if path.name.endswith(".tmp") or ".partial" in path.name]


def phase_of(output: str) -> str:
    """What the killed process had said last, in a word."""
    for mark, phase in [
        ("package:", "report"), ("memory estimate:", "export"), ("float ", "export"), ("int8: calibrated", "scoring"),
        ("weights digest", "quantization"), ("step ", "training"), ("threads:", "training"), ("train:", "checks"),
        ("imported", "import"),
    ]:
        if mark in output:
            return phase
    return "data and import"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sensei", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sensei, rng = arguments.sensei.resolve(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "images").mkdir()
        make_split(place, "train", 1, 8, rng)
        make_split(place, "val", 101, 4, rng)
        (place / "tiny.toml").write_text(CONFIG)

        def start(runs: str, name: str, *more: str) -> subprocess.Popen:
            command = [sensei, "run", "tiny.toml", "--runs", runs, "--name", name, "--threads", "1", *more]
            return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        begin = time.monotonic()
        straight = start("straight", "tiny")
        output, _ = straight.communicate()
        seconds = time.monotonic() - begin
        if straight.returncode != 0:
            print(output)
            return 1
        expected = content(place / "straight/tiny")
        print(f"straight run: {seconds:.2f} s, {len(expected)} files compared")

        n_kills, faults, phases = 0, [], collections.Counter()
        while n_kills < arguments.kills:
            n_runs = rng.choice([1, 2])
            runs = f"runs-{n_kills}"
            # Two runs at once share the caches that they import.
            places = [(runs, "tiny")] if n_runs == 1 else [(runs, "tiny"), (runs, "second")]
            processes = [start(*where) for where in places]
            begin = time.monotonic()
            victims = processes if rng.random() < 0.5 else processes[:1]
            for victim in victims:
                time.sleep(max(0.0, rng.uniform(0.0, seconds * n_runs * 0.9) - (time.monotonic() - begin)))
                victim.send_signal(signal.SIGKILL if rng.random() < 0.8 else signal.SIGTERM)
                n_kills += 1
            for process in processes:
                said, _ = process.communicate()
                if process in victims:
                    phases[phase_of(said)] += 1
            resumed = [start(*where, "--resume") for where in places]
            for (_, name), process in zip(places, resumed):
                said, _ = process.communicate()
                found = content(place / runs / name)
                wanted = {path.replace("tiny.", f"{name}."): digest for path, digest in expected.items()}
                if process.returncode != 0:
                    faults.append(f"{runs}/{name}: the resume ended with {process.returncode}: {said.splitlines()[-1:]}")
                elif name == "tiny" and found != wanted:
                    faults.append(f"{runs}/{name}: differs in {sorted(set(found.items()) ^ set(wanted.items()))[:4]}")
                elif name != "tiny" and found.get("student.safetensors") != wanted["student.safetensors"]:
                    faults.append(f"{runs}/{name}: other weights")
                check = subprocess.run([sensei, "verify", f"{runs}/{name}"], cwd=place, capture_output=True, text=True)
                if check.returncode != 0:
                    faults.append(f"{runs}/{name}: verify: {check.stdout.strip()[:200]} {check.stderr.strip()[:200]}")
            if left := leftovers(place / runs):
                faults.append(f"{runs}: left over: {left[:4]}")
            shutil.rmtree(place / runs)
    print(f"{n_kills} kills, {len(faults)} faults; killed in: " + ", ".join(f"{phase} {n}" for phase, n in phases.most_common()))
    for fault in faults[:30]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
