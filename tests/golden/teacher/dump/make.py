"""A dump written by scripts/teacher/export.py itself, with a teacher that answers a known linear function.

    python3 make.py

python 3.11+, numpy 2.4.6, pillow 13.0.0, safetensors 0.8.0. No random numbers.
The logit at image point (x, y) is 0.75 x - 0.5 y - 3, so a test can say what each stored sample has to be.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here / "../../../../scripts/teacher"))
import export  # noqa: E402


class LinearTeacher:
    preprocessing = "none"
    prompt = "box"

    def __init__(self, args):
        self.files = [str(here / "teacher.txt")]
        self.software = {}

    def set_image(self, rgb):
        self.size = rgb.size
        return export.LOW_RES / rgb.width, export.LOW_RES / rgb.height

    def masks(self, boxes):
        centres = (np.arange(export.LOW_RES) + 0.5) / export.LOW_RES
        x, y = centres[None, :] * self.size[0], centres[:, None] * self.size[1]
        for idx, _ in enumerate(boxes):
            yield (0.75 * x - 0.5 * y - 3).astype(np.float32), 0.5 + 0.26 * idx


def main():
    images = [(7, "a.png", 40, 30), (3, "b.png", 21, 33), (9, "c.png", 8, 8)]
    for idx, (_, name, width, height) in enumerate(images):
        ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) * (idx + 5) % 251
        Image.fromarray(ramp.astype(np.uint8)).save(here / name)

    def annotation(id, image_id, x, y, w, h):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        return {
            "id": id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": w * h,
            "bbox": [x, y, w, h], "segmentation": [polygon],
        }  # fmt: skip

    crowd = {**annotation(5, 7, 0, 0, 8, 8), "iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [0, 8, 1192]}}
    coco = {
        "images": [{"id": i, "file_name": name, "width": w, "height": h} for i, name, w, h in images],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            annotation(40, 7, 10, 8, 12, 6), annotation(12, 7, 1.5, 20, 9, 9.5), annotation(13, 7, 30, 2, 8, 8),
            crowd, annotation(6, 7, 3, 3, 0, 4), annotation(2, 3, 2, 3, 10.25, 20.5),
        ],
    }  # fmt: skip
    (here / "annotations.json").write_text(json.dumps(coco))
    (here / "teacher.txt").write_text("0.75 x - 0.5 y - 3\n")
    shutil.rmtree(here / "dump", ignore_errors=True)
    export.MobileSam = LinearTeacher
    sys.argv = ["export.py", "--annotations", str(here / "annotations.json"), "--images", str(here)]
    sys.argv += ["--out", str(here / "dump"), "--teacher", "mobilesam", "--encoder", "-", "--decoder", "-"]
    sys.argv += ["--name", "linear", "--licence", "MIT", "--grid", "16", "--images-per-shard", "1"]
    export.main()
    (here / "dump/run.json").unlink()


if __name__ == "__main__":
    main()
