"""A program that a type checker reads; nothing runs it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sensei


def masks(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    student = sensei.Student.load(Path("package"))
    found, scores = student.predict(image, np.array([[1.0, 2.0, 3.0, 4.0]]))
    best: float = scores.max()
    return found[scores >= best]


def average_precision(results: list[dict[str, object]]) -> float:
    truth = sensei.COCO("annotations.json", format="lvis")
    evaluation = sensei.COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.imgIds = truth.getImgIds()[:10]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    first: float = evaluation.stats[0]
    return first


def agreement(folder: str) -> float:
    ious = [prompt.predicted_ious for answer in sensei.read_cache(folder) if isinstance(answer, sensei.ObjectAnswer)
            for prompt in answer.prompts]
    mean: float = np.concatenate(ious).mean()
    return mean
