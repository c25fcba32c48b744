"""What several tests share: places, drawn pictures, and annotations with results about them."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models/sensei-box"


def skip(reason):
    """Skips; in CI fails instead, where nobody would see it."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must not skip")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def program():
    """Runs the program `sensei`; it is built by the tests before these."""
    binary = Path(os.environ.get("SENSEI_PROGRAM", ROOT / "target/release/sensei"))
    if not binary.is_file():
        skip(f"no program at {binary}")

    def run(*arguments):
        done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shared():
    """Real annotations, which are not part of the repository."""
    folder = Path(os.environ.get("SENSEI_SHARED", ROOT / "../shared"))
    if not folder.is_dir():
        skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def picture():
    """A red disc and a blue square on noise, uint8[180, 240, 3]."""
    rng = np.random.default_rng(7)
    image = rng.integers(70, 150, (180, 240, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:180, :240]
    image[np.hypot(columns - 80, rows - 90) < 45] = [200, 40, 40]
    image[60:140, 150:220] = [40, 60, 210]
    return image


@pytest.fixture(scope="session")
def boxes():
    """Around the disc, around the square, over the picture's edge, and of a few pixels; [4, 4]."""
    return np.array([[35.0, 45.0, 90.0, 90.0], [150, 60, 70, 80], [-20.5, 100, 120.25, 120], [100, 80, 5, 4]])
