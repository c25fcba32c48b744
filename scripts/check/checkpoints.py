#!/usr/bin/env python3
"""Scores checkpoints of every kind with a run's network: `scripts/check/checkpoints.py SENSEI CASES`.

SENSEI is the binary, CASES the folder `checkpoints` of the shared cases, beside whose parent `expected.json` lies. Its
`make.py` writes the checkpoints with the PyTorch of this Python (torch 2.10, safetensors and numpy). Nothing is written
into CASES. Ends with exit code 1 if a file scores otherwise, or is refused without saying what it is.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# The configuration of the cases is older than these keys.
NEW_KEYS = [
    ("[prompt]", "[crop]"),
    ("bilinear_upsampling = false", 'bilinear_upsampling = false\nactivation = "relu"\ndownsampling = "dense"'),
]


def main():
    sensei, cases = pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2])
    expected = json.loads((cases.parent / "expected.json").read_text())["checkpoints"]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        shutil.copytree(cases, place, dirs_exist_ok=True, copy_function=shutil.copyfile)
        place.chmod(0o755)
        subprocess.run([sys.executable, "make.py"], cwd=place, check=True, stderr=subprocess.DEVNULL)
        text = (place / "tiny.toml").read_text()
        for old, new in NEW_KEYS:
            text = text if new in text else text.replace(old, new)
        (place / "tiny.toml").write_text(text)
        ask = lambda *words: subprocess.run([sensei, *words, "--threads", "1"], cwd=place, capture_output=True, text=True)
        done = ask("run", "tiny.toml", "--runs", "runs")
        assert done.returncode == 0, done.stderr
        return sum(not is_right(file, ask("eval", "runs/tiny", "--weights", f"w/{file}"), expected) for file in files(place))


def files(place):
    return sorted(path.name for path in (place / "w").iterdir())


def crop_mean_iou(table):
    """Of the row of the float network; the table leads with the image's."""
    rows = {cells[0]: cells for line in table.splitlines() if (cells := re.split(r" {2,}", line.strip()))}
    if "predictor" not in rows or "float" not in rows:
        return None
    return float(rows["float"][rows["predictor"].index("crop mean_iou")].split()[0])


def is_right(file, done, expected):
    """Whether a file scores as it should, or is refused with the words that it should be; prints a line."""
    score = crop_mean_iou(done.stdout) if done.returncode == 0 else None
    error = done.stderr.strip().splitlines()[-1:]
    if word := expected["must_refuse_and_say_what_it_is"].get(file):
        right, found = done.returncode == 1 and score is None and word in error[0], error[0]
    else:
        right = score is not None and abs(score - expected["crop_mean_iou_of_plain"]) <= expected["tolerance"]
        notes = [line for line in done.stdout.splitlines() if line.startswith(f"w/{file}: ")]
        found = "; ".join([f"{score}", *notes]) if score is not None else error[0]
    print("right" if right else "WRONG", file, found)
    return right


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
