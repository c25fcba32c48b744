#!/usr/bin/env python3
"""Holds the JPEG decoder to libjpeg over every kind of file: samplings, scan scripts, restarts, markers, colours, progressive, damage.

Makes files from random pictures with cjpeg and jpegtran (Debian: libjpeg-turbo-progs) and Pillow, edits their segments, decodes each with
`crates/data/examples/decode_images.rs` and with Pillow, and compares the pixels: at most 12 apart, 1.2 on average. A file that only one of
both refuses is named with its kind. The same seed makes the same files.

usage: scripts/check/jpeg.py [--count N] [--seed S] [--keep DIR]     needs numpy and Pillow
"""

import argparse
import collections
import io
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy
from PIL import Image

MAX_DIFFERENCE, MEAN_DIFFERENCE = 12, 1.2
ROOT = pathlib.Path(__file__).resolve().parents[2]


def picture(rng: random.Random) -> Image.Image:
    """Smooth waves with a rectangle: what chroma upsampling and block edges show at. Of smaller pictures libjpeg repeats the chroma
    where it else interpolates; our decoders do not."""
    width, height = rng.randint(5, 90), rng.randint(5, 90)
    x, y = numpy.meshgrid(numpy.arange(width), numpy.arange(height))
    waves = [
        128 + 100 * numpy.sin((x * rng.uniform(0.01, 0.12) + y * rng.uniform(0.01, 0.12)) + rng.uniform(0, 6)) for _ in range(3)
    ]
    pixels = numpy.stack(waves, -1)
    if rng.random() < 0.3:
        left, top = rng.randint(0, width), rng.randint(0, height)
        pixels[top : top + 20, left : left + 20] = [rng.randint(40, 215) for _ in range(3)]
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def scan_script(rng: random.Random, n_components: int, progressive: bool) -> str:
    """A valid script: components in any order and grouping; for progressive ones, bands and bits too."""
    order = list(range(n_components))
    rng.shuffle(order)
    if not progressive:
        groups, rest = [], order
        while rest:
            n = rng.randint(1, len(rest))
            groups.append(rest[:n])
            rest = rest[n:]
        return "".join(",".join(map(str, sorted(group))) + ";\n" for group in groups)
    lines, low = [], rng.randint(0, 2)
    if rng.random() < 0.5:
        lines.append(",".join(map(str, range(n_components))) + f": 0-0, 0, {low};")
    else:
        lines += [f"{component}: 0-0, 0, {low};" for component in order]
    bands = []
    for component in order:
        start = 1
        while start < 64:
            end = rng.choice([63, min(63, start + rng.randint(0, 20))])
            bands.append((component, start, end, rng.randint(0, 2)))
            start = end + 1
    rng.shuffle(bands)
    lines += [f"{component}: {start}-{end}, 0, {bit};" for component, start, end, bit in bands]
    refine = [(component, 0, 0, low) for component in order] + bands
    rng.shuffle(refine)
    for component, start, end, bit in refine:
        lines += [f"{component}: {start}-{end}, {high}, {high - 1};" for high in range(bit, 0, -1)]
    return "\n".join(lines) + "\n"


def run(command: list[str], data: bytes) -> bytes | None:
    done = subprocess.run(command, input=data, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def segments(jpeg: bytes):
    """The segments before the first scan, as (marker, whole bytes), and the rest."""
    at, found = 2, []
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append((jpeg[at + 1], jpeg[at:end]))
        at = end
    return found, jpeg[at:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def with_markers(rng: random.Random, jpeg: bytes, kind: list[str]) -> bytes:
    """Other segments before the frame: what says how the colours are meant, and what says nothing."""
    found, rest = segments(jpeg)
    found = [(marker, whole) for marker, whole in found if marker not in (0xE0, 0xEE)]
    extra, names = [], []
    for name, whole, share in [
        ("jfif", JFIF, 0.6),
        (f"adobe{(transform := rng.choice([0, 1, 2]))}", adobe(transform), 0.35),
        ("exif", EXIF, 0.2),
        ("comment", segment(0xFE, bytes(rng.randrange(256) for _ in range(rng.randint(0, 40)))), 0.2),
        ("app13", segment(0xED, b"Photoshop 3.0\0" + bytes(rng.randint(0, 30))), 0.1),
    ]:
        if rng.random() < share:
            extra.append(whole)
            names.append(name)
    if rng.random() < 0.2:
        rng.shuffle(extra)
    kind.append("+".join(names) or "bare")
    fill = b"\xff" * (rng.randint(1, 3) if rng.random() < 0.05 else 0)
    return b"\xff\xd8" + b"".join(extra) + fill + b"".join(whole for _, whole in found) + rest


def make(rng: random.Random) -> tuple[str, bytes] | None:
    image, kind = picture(rng), []
    colours = rng.choices(["ycc", "grey", "rgb", "cmyk"], [75, 8, 7, 10])[0]
    kind.append(colours)
    quality = rng.choice([75, 85, 92, 98])
    if colours == "cmyk":
        out = io.BytesIO()
        image.convert("CMYK").save(out, "JPEG", quality=quality, subsampling=rng.choice([0, 1, 2]))
        jpeg, n_components = out.getvalue(), 4
    else:
        ppm = io.BytesIO()
        image.save(ppm, "PPM")
        command = ["cjpeg", "-quality", str(quality)]
        n_components = 3
        if colours == "grey":
            command.append("-grayscale")
            n_components = 1
        if colours == "rgb":
            command.append("-rgb")
        samplings = ["1x1", "2x1", "2x2", "1x2", "4x1", "4x2", "1x4", "2x4", "4x4", "3x1", "1x3", "3x3", "4x1"]
        sampling = [rng.choice(samplings[: rng.choice([4, 4, 13])]) for _ in range(n_components)]
        if rng.random() < 0.5:
            sampling = sampling[:1] + ["1x1"] * (n_components - 1)
        command += ["-sample", ",".join(sampling)]
        kind.append("/".join(sampling))
        jpeg = run(command, ppm.getvalue())
        if jpeg is None:
            return None
    command = ["jpegtran", "-copy", "all"]
    process = rng.choices(["sequential", "scans", "progressive", "progressive-script", "arithmetic"], [30, 30, 15, 20, 5])[0]
    kind.append(process)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as script:
        if process in ("scans", "progressive-script"):
            script.write(scan_script(rng, n_components, process == "progressive-script"))
            script.flush()
            command += ["-scans", script.name]
        if process == "progressive":
            command.append("-progressive")
        if process == "arithmetic":
            command.append("-arithmetic")
        if rng.random() < 0.3:
            command += ["-restart", rng.choice(["1", "2", "1B", "3B", "7B"])]
            kind.append("restarts")
        if rng.random() < 0.3:
            command.append("-optimize")
        jpeg = run(command, jpeg)
    if not jpeg:
        return None
    if rng.random() < 0.6:
        jpeg = with_markers(rng, jpeg, kind)
    if rng.random() < 0.05:
        jpeg += bytes(rng.randrange(256) for _ in range(rng.randint(1, 60)))
        kind.append("trailing")
    return " ".join(kind), jpeg


def means(pixels: numpy.ndarray) -> numpy.ndarray:
    """Mean of each colour in each of 4 x 4 cells, which dumps carry: see crates/data/src/pixel_means.rs."""
    rows, columns = (numpy.arange(5) * side // 4 for side in pixels.shape[:2])
    cells = [pixels[rows[r] : rows[r + 1], columns[c] : columns[c + 1]] for r in range(4) for c in range(4)]
    return numpy.array([cell.mean((0, 1)) for cell in cells])


def keep(folder: pathlib.Path | None, path: pathlib.Path) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="keep the files that differ here")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "sensei-data", "--example", "decode_images"], cwd=ROOT, check=True)
    target = pathlib.Path(__import__("os").environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "in").mkdir()
        (work / "out").mkdir()
        kinds, n_impossible = {}, 0
        while len(kinds) < arguments.count:
            made = make(rng)
            if made is None:
                n_impossible += 1
                continue
            name = f"{len(kinds):05}.jpg"
            kinds[name] = made[0]
            (work / "in" / name).write_bytes(made[1])
        command = [target / "release/examples/decode_images", work / "out", *sorted((work / "in").iterdir())]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        refusals = {pathlib.Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in lines}
        counts, wrong, worst, worst_mean, worst_cell = collections.Counter(), [], 0, 0.0, 0.0
        for name, kind in kinds.items():
            try:
                expected = numpy.asarray(Image.open(work / "in" / name).convert("RGB")).astype(int)
            except (OSError, SyntaxError) as error:
                counts["refused by both" if name in refusals else "decoded, refused by libjpeg"] += 1
                continue
            if name in refusals:
                reason = refusals[name].split(": ", 1)[1]
                counts[f"refused: {reason}"] += 1
                if "not supported" not in reason:
                    wrong.append(f"{name}: {kind}: sound, but refused as damaged: {reason}")
                    keep(arguments.keep, work / "in" / name)
                continue
            found = numpy.asarray(Image.open(work / "out" / name.replace(".jpg", ".ppm"))).astype(int)
            difference = abs(expected - found) if expected.shape == found.shape else numpy.array([255])
            if expected.shape == found.shape:
                worst_cell = max(worst_cell, abs(means(expected) - means(found)).max())
            if difference.max() > MAX_DIFFERENCE or difference.mean() > MEAN_DIFFERENCE:
                wrong.append(f"{name}: {kind}: {difference.max()} apart, {difference.mean():.2f} on average")
                keep(arguments.keep, work / "in" / name)
                continue
            worst, worst_mean = max(worst, difference.max()), max(worst_mean, difference.mean())
            counts["equal"] += 1
    print(f"{len(kinds)} files, seed {arguments.seed} ({n_impossible} combinations that cjpeg or jpegtran refuse)")
    for what, n in counts.most_common():
        print(f"{n:6} {what}")
    print(f"{len(wrong):6} wrong; of the equal ones, the farthest is {worst} apart, and {worst_mean:.2f} on average")
    print(f"means of 4 x 4 cells are up to {worst_cell:.2f} apart")
    for line in wrong[:40]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
