"""One .pt file an annotation, as scripts/bench/answers.sh compares it with the store.

write DUMP FOLDER N: N files from the answers of a dump, again and again: logits as int8, the predicted IoU.
read FOLDER N: reads them once to have them in the page cache, then again; prints targets a second of CPU time.
"""

import pathlib
import sys
import time

import torch
from safetensors.torch import load_file

STEP = 0.125
torch.set_num_threads(1)


def path(folder: pathlib.Path, idx: int) -> pathlib.Path:
    return folder / f"{idx:06}.pt"


def write(dump: str, folder: pathlib.Path, n: int) -> None:
    tensors = load_file(dump)
    logits, scores = tensors["logits_i8"], tensors["score"]
    folder.mkdir()
    for idx in range(n):
        of = idx % len(scores)
        torch.save({"logits": logits[of].clone(), "score": float(scores[of])}, path(folder, idx))
    n_bytes = sum(path(folder, idx).stat().st_size for idx in range(n))
    print(f".pt files: {n} records, {n_bytes} bytes; torch {torch.__version__}")


def read(folder: pathlib.Path, n: int) -> None:
    for timed in (False, True):
        start = time.process_time()
        total = 0.0
        for idx in range(n):
            answer = torch.load(path(folder, idx), weights_only=True)
            total += (answer["logits"].float() * STEP)[0, 0].item() + answer["score"]
        if timed:
            print(f"targets_per_second {n / (time.process_time() - start):.1f}")
    assert total == total


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4]))
    else:
        read(pathlib.Path(sys.argv[2]), int(sys.argv[3]))
