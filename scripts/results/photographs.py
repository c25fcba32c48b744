#!/usr/bin/env python3
"""The README's picture: photographs, boxes, and what a student and its teacher make of them, each mask with its IoU.

Photographs of scikit-image 0.26.0 that anyone may use: coffee.png (CC0, Rachel Michetti), rocket.jpg (CC0, SpaceX), astronaut.png (NASA, public
domain). The outlines below were drawn by hand for this picture, before anything was asked about it.

usage: photographs.py SENSEI STUDENT TEACHER_RUN OUT.jpg     needs Pillow and NumPy, and pip's network for the photographs
       STUDENT: what `sensei predict` takes, such as sensei-box; TEACHER_RUN: a run whose configuration names MobileSAM's weights
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Outlines at twice the photographs' sizes.
OBJECTS = [
    ("coffee.png", "cup", [
        (347, 210), (355, 170), (380, 125), (420, 85), (480, 52), (570, 37), (650, 48), (720, 75), (775, 120), (808, 170),
        (817, 215), (812, 260), (800, 310), (775, 380), (745, 440), (700, 478), (640, 490), (635, 510), (660, 520),
        (655, 548), (620, 565), (575, 570), (525, 562), (510, 540), (520, 495), (500, 515), (480, 560), (462, 595),
        (440, 614), (410, 606), (394, 580), (396, 550), (412, 510), (440, 472), (425, 462), (395, 410), (370, 350), (352, 270),
    ]),
    ("coffee.png", "spoon", [
        (800, 140), (825, 134), (848, 150), (840, 190), (822, 250), (800, 330), (780, 400), (772, 450), (775, 478),
        (800, 510), (813, 550), (805, 590), (780, 630), (740, 650), (700, 648), (665, 615), (653, 570), (665, 525),
        (700, 490), (735, 478), (745, 450), (765, 420), (790, 340), (812, 260), (817, 215), (808, 170),
    ]),
    ("rocket.jpg", "rocket", [
        (645, 253), (630, 270), (622, 295), (622, 350), (628, 365), (626, 440), (624, 812), (662, 812), (662, 440),
        (662, 365), (668, 350), (668, 295), (660, 270),
    ]),
    ("astronaut.png", "person", [
        (310, 110), (320, 90), (380, 65), (400, 45), (460, 32), (520, 40), (570, 65), (597, 110), (602, 170), (590, 220),
        (560, 255), (540, 275), (520, 310), (510, 345), (560, 375), (600, 440), (610, 470), (650, 490), (690, 540),
        (710, 600), (725, 690), (660, 705), (610, 760), (570, 830), (552, 900), (552, 1000), (556, 1023), (80, 1023),
        (50, 960), (40, 880), (42, 790), (60, 670), (80, 600), (90, 540), (120, 490), (200, 440), (232, 410), (228, 370),
        (250, 330), (300, 305), (370, 298), (362, 265), (345, 240), (320, 210), (308, 160),
    ]),
    ("astronaut.png", "helmet", [
        (552, 1023), (552, 940), (570, 830), (610, 760), (660, 705), (720, 690), (800, 687), (870, 705), (930, 760),
        (970, 820), (990, 880), (1000, 910), (1015, 950), (1023, 980), (1023, 1023),
    ]),
]
HEIGHT = 300
LABEL = 140
COLOURS = {"outline": (255, 214, 10), "box": (255, 255, 255), "mask": (32, 201, 110)}


def photographs(folder):
    """The files, out of the package."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "scikit-image==0.26.0"], check=True)
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    names = sorted({name for name, _, _ in OBJECTS})
    for name in names:
        (folder / "photos").mkdir(exist_ok=True)
        (folder / "photos" / name).write_bytes(wheel.read(f"skimage/data/{name}"))
    return names


def annotations(folder, names):
    """The objects as a COCO file; boxes are those of the outlines."""
    images, objects = [], []
    for idx, name in enumerate(names, 1):
        with Image.open(folder / "photos" / name) as image:
            images.append({"id": idx, "file_name": name, "width": image.width, "height": image.height})
    for idx, (name, _, outline) in enumerate(OBJECTS, 1):
        x, y = [value / 2 for value, _ in outline], [value / 2 for _, value in outline]
        box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        flat = [value for point in zip(x, y) for value in point]
        objects.append({
            "id": idx, "image_id": 1 + names.index(name), "category_id": 1, "iscrowd": 0, "bbox": box,
            "area": box[2] * box[3], "segmentation": [flat],
        })
    path = folder / "objects.json"
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}))
    return path


def masks(sensei, source, folder, out, network):
    """By annotation, the mask of each object."""
    command = [sensei, "predict", source, folder / "photos", "--boxes", folder / "objects.json", "--out", out]
    subprocess.run([*map(str, command), *network], check=True, stdout=subprocess.DEVNULL)
    entries = json.loads((out / "predictions.json").read_text())
    files = sorted((out / "masks").iterdir())
    of_image = {}
    for path in files:
        of_image.setdefault(path.name.split("-")[0], []).append(path)
    found = {}
    for entry in entries:
        path = of_image[str(entry["image_id"])].pop(0)
        found[entry["annotation_id"]] = np.asarray(Image.open(path)) > 0
    return found


def filled(outline, size):
    """The pixels inside of an outline, drawn at twice the size."""
    twice = Image.new("L", (size[0] * 2, size[1] * 2))
    ImageDraw.Draw(twice).polygon(outline, fill=255)
    return np.asarray(twice.resize(size, Image.BOX)) >= 128


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sensei, student, teacher_run, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        names = photographs(folder)
        annotations(folder, names)
        rows = {
            "student": masks(sensei, student, folder, folder / "student", []),
            "MobileSAM": masks(sensei, teacher_run, folder, folder / "teacher", ["--network", "teacher"]),
        }
        font = ImageFont.load_default(16)
        columns = []
        for idx, (name, what, outline) in enumerate(OBJECTS, 1):
            photo = Image.open(folder / "photos" / name).convert("RGB")
            truth = filled(outline, photo.size)
            xs, ys = [value / 2 for value, _ in outline], [value / 2 for _, value in outline]
            box = (min(xs), min(ys), max(xs), max(ys))
            # What is shown: the box and a fifth of it around.
            margin = 0.2 * max(box[2] - box[0], box[3] - box[1])
            # Wide enough for its label.
            aside = max(margin, (LABEL * (box[3] - box[1] + 2 * margin) / HEIGHT - (box[2] - box[0])) / 2)
            view = (max(box[0] - aside, 0), max(box[1] - margin, 0), min(box[2] + aside, photo.width), min(box[3] + margin, photo.height))
            scale = HEIGHT / (view[3] - view[1])
            panels = []
            for who, found in rows.items():
                mask = found[idx]
                iou = (mask & truth).sum() / max((mask | truth).sum(), 1)
                print(f"{what}: {who} {iou:.3f}")
                pixels = np.asarray(photo).astype(float)
                pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(COLOURS["mask"])
                panel = Image.fromarray(pixels.astype(np.uint8)).resize(
                    (round((view[2] - view[0]) * scale), HEIGHT), Image.LANCZOS, box=view)
                draw = ImageDraw.Draw(panel)
                at = lambda x, y: ((x - view[0]) * scale, (y - view[1]) * scale)  # noqa: E731
                draw.rectangle((*at(box[0], box[1]), *at(box[2], box[3])), outline=COLOURS["box"])
                closed = [at(x / 2, y / 2) for x, y in [*outline, outline[0]]]
                draw.line(closed, fill=COLOURS["outline"], width=2)
                label = f"{who} {iou:.2f}"
                draw.rectangle((0, HEIGHT - 22, draw.textlength(label, font) + 8, HEIGHT), fill=(0, 0, 0))
                draw.text((4, HEIGHT - 21), label, fill=(255, 255, 255), font=font)
                panels.append(panel)
            columns.append(panels)
        gap = 4
        width = sum(panels[0].width + gap for panels in columns) - gap
        sheet = Image.new("RGB", (width, 2 * HEIGHT + gap), (255, 255, 255))
        left = 0
        for panels in columns:
            for row, panel in enumerate(panels):
                sheet.paste(panel, (left, row * (HEIGHT + gap)))
            left += panels[0].width + gap
        sheet.save(out, quality=88)


if __name__ == "__main__":
    main()
