"""Golden images: what Pillow (libjpeg-turbo) decodes.

Made with Python 3.11, Pillow 13.0.0, numpy 2.4.6, safetensors; seed 7.
    python make.py SHARED_DATA     # the folder with coco/ and coco_lite480/

images/          small synthetic files of every kind we read
data.safetensors pixels/<file name>: [height, width, 3] of those files
                 <set>.id, <set>.mean: for every shared photograph its COCO id and mean red, green, blue (facts only)
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).parent
SETS = {
    "coco_train": "coco/images/train",
    "coco_val": "coco/images/val",
    "lite480_train": "coco_lite480/images/train",
    "lite480_val": "coco_lite480/images/val",
}


def scene(rng, width, height, channels):
    """Smooth colours and a few edges."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    phases = rng.uniform(0, 6, (3, channels))
    waves = np.sin(x[..., None] * 5 + phases[0]) + np.sin(y[..., None] * 7 + phases[1])
    waves += ((x + y)[..., None] > 0.6) * np.cos(phases[2])
    return np.uint8(np.clip(127 + 50 * waves, 0, 255))


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def png_16_bits(values, colour_type):
    """Pillow writes no RGB of 16 bits."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def adobe_at(file):
    at = file.index(b"\xff\xee")
    assert file[at + 4 : at + 9] == b"Adobe"
    return at


def without_adobe(file):
    at = adobe_at(file)
    return file[:at] + file[at + 2 + struct.unpack(">H", file[at + 2 : at + 4])[0] :]


def as_ycck(file):
    """Adobe's last byte says how to read four channels: 0 CMYK, 2 YCCK."""
    at = adobe_at(file) + 15
    assert file[at] == 0
    return file[:at] + b"\x02" + file[at + 1 :]


def main():
    rng = np.random.default_rng(7)
    rgb = Image.fromarray(scene(rng, 45, 34, 3))
    grey = Image.fromarray(scene(rng, 45, 34, 1)[..., 0])
    cmyk = Image.frombytes("CMYK", (45, 34), scene(rng, 45, 34, 4).tobytes())
    rgba = Image.fromarray(scene(rng, 45, 34, 4))
    deep = rng.integers(0, 65536, (9, 11, 3))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    files = {
        "rgb_444.jpg": jpeg(rgb, quality=92, subsampling=0),
        "rgb_422.jpg": jpeg(rgb, quality=92, subsampling=1),
        "rgb_420.jpg": jpeg(rgb, quality=92, subsampling=2),
        "rgb_420_progressive.jpg": jpeg(rgb, quality=92, subsampling=2, progressive=True),
        "rgb_restarts.jpg": jpeg(rgb, quality=92, restart_marker_blocks=2),
        "rgb_not_ycbcr.jpg": jpeg(rgb, quality=92, keep_rgb=True),
        "grey.jpg": jpeg(grey, quality=92),
        "cmyk_adobe.jpg": jpeg(cmyk, quality=92),
        "cmyk_plain.jpg": without_adobe(jpeg(cmyk, quality=92)),
        "ycck.jpg": as_ycck(jpeg(cmyk, quality=92)),
        "orientation_6.jpg": jpeg(rgb, quality=92, exif=orientation),
        "one_pixel.jpg": jpeg(rgb.crop((5, 5, 6, 6)), quality=92),
        "one_pixel.png": png(rgb.crop((5, 5, 6, 6))),
        "rgb.png": png(rgb),
        "rgba.png": png(rgba),
        "grey.png": png(grey),
        "grey_alpha.png": png(rgba.convert("LA")),
        "palette.png": png(rgb.quantize(9)),
        "bilevel.png": png(grey.convert("1")),
    }
    pixels = {name: np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for name, file in files.items()}
    # Rounded to 8 bits; Pillow cuts off instead.
    files["rgb_16.png"] = png_16_bits(deep, 2)
    pixels["rgb_16.png"] = np.uint8((deep + 128) // 257)
    files["grey_16.png"] = png_16_bits(deep[..., :1], 0)
    pixels["grey_16.png"] = np.uint8((np.repeat(deep[..., :1], 3, 2) + 128) // 257)

    (HERE / "images").mkdir(exist_ok=True)
    for name, file in files.items():
        (HERE / "images" / name).write_bytes(file)
    tensors = {f"pixels/{name}": np.ascontiguousarray(value) for name, value in pixels.items()}
    for name, folder in SETS.items():
        paths = sorted((Path(sys.argv[1]) / folder).glob("*.jpg"))
        means = [np.asarray(Image.open(path).convert("RGB"), np.float64).mean((0, 1)) for path in paths]
        tensors[f"{name}.id"] = np.array([int(path.stem) for path in paths], np.int64)
        tensors[f"{name}.mean"] = np.stack(means)
    save_file(tensors, HERE / "data.safetensors")


if __name__ == "__main__":
    main()
