"""Golden crops: what Pillow makes of random textures. Writes data.safetensors beside this file.

Versions: pillow 11.2.1 (what PicoSAM2 pins), numpy 2.4.6, safetensors 0.8.0. Seed 20260301.
Pillow 13 filters rows before columns where the height shrinks much more than the width (its pull request 9549), which moves
some values by one level; asserted against below.

image    [H, W, 3] u8   smooth texture with noise and hard edges
mask     [H, W]    u8   0 or 1
rects    [N, 4]    f64  x0, y0, x1, y1
grids    [N]       i64
images   flat u8        the crops of all rects, each [grid, grid, 3], one after the other
masks    flat u8        likewise [grid, grid], packed as bits, high bit first

Integer rects inside the image are cropped and resized as PicoSAM2 and PicoSAM3 do. The others (fractions, running past the
border) are Pillow's crop of the touched pixels from an image extended by grey 128 (mask: 0), then `resize(box=...)`.
Their fractions are multiples of 1/64, which Pillow's 32-bit box holds exactly.
"""
import math
import pathlib

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file

assert PIL.__version__ == "11.2.1", PIL.__version__
rng = np.random.default_rng(20260301)
W, H = 181, 140

coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((W, H), Image.BICUBIC)
image = np.asarray(coarse).astype(np.int16) + rng.integers(-40, 41, (H, W, 3))
image[30:70, 50:53] = 255
image[90:93, 20:160] = 0
image = np.clip(image, 0, 255).astype(np.uint8)
mask = (np.asarray(Image.fromarray(rng.integers(0, 256, (14, 18), dtype=np.uint8)).resize((W, H), Image.BICUBIC)) > 128).astype(np.uint8)

cases = [
    # PicoSAM2 windows: inside, and cut off at the right, at the lower border, at both.
    ((20, 10, 116, 106), 96), ((120, 30, 181, 126), 96), ((40, 100, 136, 140), 96), ((150, 110, 181, 140), 48),
    # PicoSAM3 regions: enlarged, shrunk, both, stretched, as small as allowed, the whole image.
    ((60, 40, 97, 77), 96), ((10, 5, 140, 135), 96), ((0, 0, 181, 140), 48), ((70, 20, 110, 138), 48), ((33, 44, 37, 48), 48),
    # Sides on which nearest neighbours meet exact ties.
    ((16, 16, 80, 80), 96), ((5, 3, 133, 131), 48), ((8, 8, 104, 136), 64), ((30, 20, 94, 84), 48),
    # One pixel, one row.
    ((90, 60, 91, 61), 8), ((3, 70, 163, 71), 16),
    # Fractions inside the image.
    ((20.25, 10.5, 116.25, 106.5), 48), ((60.015625, 40.984375, 97.5, 78.46875), 48), ((10.75, 5.125, 140.25, 134.625), 32),
    # Past the border: upper left, lower right, all round, far outside.
    ((-30, -20, 66, 76), 48), ((100.5, 80.25, 220.5, 200.25), 48), ((-60, -81, 241, 220), 32), ((300, 10, 340, 50), 16),
    ((-12.34375, 17.6875, 58.90625, 88.9375), 48),
]


def pil_crop(array, rect, grid, how, outside):
    x0, y0, x1, y1 = rect
    wx0, wy0, wx1, wy1 = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    source = Image.fromarray(array)
    window = Image.new(source.mode, (wx1 - wx0, wy1 - wy0), outside)
    window.paste(source, (-wx0, -wy0))
    box = (x0 - wx0, y0 - wy0, x1 - wx0, y1 - wy0)
    if all(float(v).is_integer() for v in rect) and 0 <= x0 and 0 <= y0 and x1 <= W and y1 <= H:
        plain = source.crop((int(x0), int(y0), int(x1), int(y1)))
        assert np.array_equal(np.asarray(plain), np.asarray(window))
        return np.asarray(plain.resize((grid, grid), how))
    return np.asarray(window.resize((grid, grid), how, box=box))


images = [pil_crop(image, rect, grid, Image.BILINEAR, (128, 128, 128)).reshape(-1) for rect, grid in cases]
masks = [pil_crop(mask, rect, grid, Image.NEAREST, 0).reshape(-1) for rect, grid in cases]
save_file(
    {
        "image": image,
        "mask": mask,
        "rects": np.array([rect for rect, _ in cases], dtype=np.float64),
        "grids": np.array([grid for _, grid in cases], dtype=np.int64),
        "images": np.concatenate(images),
        "masks": np.packbits(np.concatenate(masks)),
    },
    pathlib.Path(__file__).parent / "data.safetensors",
)
