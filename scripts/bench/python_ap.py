"""AP from Python beside pycocotools: `sensei.COCOeval` and `COCOeval` on the same files, alternating.

    python python_ap.py [N_IMAGES [REPEATS]]      in the environment of scripts/check/wheel.sh, target/wheel/python

Files are made by eval_peers.py: those of 5,000 images have the size of COCO's val2017 and 100 detections an image. Each run is a process of
its own. The seconds are those from before the files are opened to the last number, without Python's own start and imports.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np


def measure(which, kind, annotations, detections):
    if which == "sensei":
        from sensei import COCO, COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        run = COCOeval(truth, truth.loadRes(detections), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    print(json.dumps({"seconds": time.perf_counter() - start, "stats": list(run.stats)}))


def compare(n_images, repeats):
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, here.with_name("eval_peers.py"), "generate", folder, str(n_images)], check=True)
        files = [os.path.join(folder, name) for name in ("annotations.json", "detections.json")]
        print(f"{n_images} images, {repeats} runs each, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        print(f"{'':<8}{'sensei':>12}{'pycocotools':>14}{'ratio':>8}{'farthest number':>18}")
        for kind in ("segm", "bbox"):
            seconds, stats = {"sensei": [], "pycocotools": []}, {}
            for _ in range(repeats):
                for which in seconds:
                    command = [sys.executable, here, "measure", which, kind, *files]
                    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    seconds[which].append(done["seconds"])
                    stats[which] = np.array(done["stats"])
            ours, theirs = (median(seconds[which]) for which in ("sensei", "pycocotools"))
            farthest = np.abs(stats["sensei"] - stats["pycocotools"]).max()
            print(f"{kind:<8}{ours:>10.2f} s{theirs:>12.2f} s{theirs / ours:>8.1f}{farthest:>18.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        compare(*(int(number) for number in (sys.argv[1:] + ["5000", "3"][len(sys.argv) - 1 :])))
