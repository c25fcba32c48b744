"""Runs, reads and scores what Sensei makes. Arrays are NumPy's; errors are exceptions with the place, what was expected and what was found.

`FileNotFoundError`, `PermissionError` and `OSError` where the system refuses; `TypeError` for an argument of another type; `ValueError` for
what a file or an array must not hold.
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COCO",
    "COCOeval",
    "Cache",
    "CacheAnswers",
    "Events",
    "ImageAnswer",
    "ObjectAnswer",
    "Params",
    "PromptAnswer",
    "Results",
    "Student",
    "Weights",
    "__version__",
    "decode_mask",
    "encode_mask",
    "evaluate_masks",
    "protocols",
    "read_cache",
    "read_events",
    "read_weights",
]

_Path: TypeAlias = str | PathLike[str]
_Ids: TypeAlias = int | Sequence[int]
_Coordinates: TypeAlias = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64] | NDArray[np.int32]

__version__: str

@final
class Student:
    """The integer network of a package: the chip's own integers."""

    @staticmethod
    def load(path: _Path, *, crop: str | None = None) -> Student:
        """Reads a package (a folder with manifest.json) or an .s8m file.

        `crop` is the name of a crop rule, such as "box-128-pad0.1-min7.5-clipped": a bare .s8m does not say it. Files are held to the
        SHA256SUMS of their folder.
        """

    @property
    def input_size(self) -> int:
        """Side of the network's input in pixels."""
    @property
    def crop(self) -> str:
        """Name of the crop rule."""
    @property
    def name(self) -> str:
        """The network's name."""
    @property
    def digest(self) -> str:
        """BLAKE3 of the model, hexadecimal."""
    @property
    def needs_box(self) -> bool:
        """Whether it is asked by boxes alone."""
    @property
    def logit_step(self) -> float:
        """Logit of one unit of `logits`."""

    def predict(
        self, image: NDArray[np.uint8], boxes: _Coordinates | None = None, *, points: _Coordinates | None = None
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Masks and scores: bool[n, height, width] and float64[n], as `sensei predict` gives them, bit for bit.

        `image` is uint8[height, width, 3], red, green, blue. `boxes` is [n, 4]: x, y, width, height in pixels; `points` is [n, 2]. One
        of the two is given. A score in [0, 1] is the IoU that the student expects of its mask.
        """

    def logits(self, crop: NDArray[np.uint8]) -> NDArray[np.int16]:
        """The network's integers, int16[side, side], for a crop uint8[side, side, 3]; the object is where they are above 0."""

@final
class COCO:
    """An annotation file of COCO's or LVIS's form."""

    def __new__(cls, annotation_file: _Path, *, format: Literal["coco", "lvis"] = "coco", masks: bool = True) -> COCO:
        """Reads and checks a file. With `masks=False` outlines are left unread: boxes alone can be compared."""

    def loadRes(self, results: _Path | list[dict[str, Any]]) -> Results:
        """Reads results: a file, or a list of dictionaries with image_id, category_id, score and bbox or segmentation."""
    def getImgIds(self) -> list[int]:
        """Ids of the images, rising."""
    def getCatIds(self, catNms: Sequence[str] = ...) -> list[int]:
        """Ids of the categories, rising; of those with these names, if any are given."""
    def getAnnIds(self, imgIds: _Ids = ..., catIds: _Ids = ..., iscrowd: bool | None = None) -> list[int]:
        """Ids of the annotations; of these images, categories and crowd flag, if any are given."""
    def loadImgs(self, ids: _Ids) -> list[dict[str, Any]]:
        """What the file says of images: id, file_name, width, height."""
    def loadCats(self, ids: _Ids) -> list[dict[str, Any]]:
        """What the file says of categories: id, name."""
    def loadAnns(self, ids: _Ids) -> list[dict[str, Any]]:
        """What the file says of annotations: id, image_id, category_id, bbox, area, iscrowd."""
    def annToMask(self, ann: dict[str, Any]) -> NDArray[np.uint8]:
        """The mask of an annotation of `loadAnns`, uint8[height, width] of 0 and 1."""

@final
class Results:
    """Results that `COCO.loadRes` read for its annotations."""

    def __len__(self) -> int: ...

@final
class Params:
    """What is evaluated. `imgIds` and `catIds` may be changed; the others say what the rules are."""

    imgIds: list[int]
    catIds: list[int]
    iouThrs: list[float]
    recThrs: list[float]
    maxDets: list[int]
    areaRng: list[list[float]]
    areaRngLbl: list[str]
    useCats: int

@final
class COCOeval:
    """Average precision by pycocotools' calls; by lvis-api's numbers for a file of LVIS's form."""

    def __new__(cls, cocoGt: COCO, cocoDt: Results, iouType: Literal["segm", "bbox", "boundary"] = "segm") -> COCOeval:
        """`boundary` is the smaller of mask and boundary IoU."""
    @property
    def params(self) -> Params:
        """What is evaluated."""
    def evaluate(self) -> None:
        """Compares every image and computes all numbers."""
    def accumulate(self) -> None:
        """Kept for its place between the others: the numbers are `evaluate`'s."""
    def summarize(self) -> None:
        """Prints the numbers and sets `stats`."""
    @property
    def stats(self) -> NDArray[np.float64]:
        """The numbers of `summarize`, -1 where no truth defines one: 12, and 13 of LVIS."""
    @property
    def report(self) -> dict[str, Any]:
        """Every number by name, those of each category too, as `sensei eval-coco --out` writes it."""

def evaluate_masks(
    annotations: _Path,
    predictions: _Path | list[dict[str, Any]],
    protocol: str | dict[str, Any],
    *,
    name: str = "predictions",
    format: Literal["coco", "lvis"] = "coco",
) -> dict[str, Any]:
    """Scores masks by a protocol, as `sensei eval-masks` does.

    `predictions` is a result file, or such a list; each entry says by annotation_id whose prompt it answers. `protocol` is a shipped
    one's name, or its words as `protocols()` or a report's "protocol" has them. The answer has the "report" that `eval-masks --out`
    writes, its "table" as text, and "n_not_scored" and "n_not_chosen", the numbers of masks that had no say.
    """

def protocols() -> dict[str, dict[str, Any]]:
    """The shipped protocols by name."""

def encode_mask(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> dict[str, Any]:
    """A mask [height, width] as a compressed "segmentation": its size and its runs as text."""

def decode_mask(segmentation: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of a compressed "segmentation", bool[height, width]."""

@final
class Events:
    """What an `events.jsonl` tells."""

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Starts and resumes: step, total_steps, n_samples, devices, threads."""
    @property
    def steps(self) -> dict[str, NDArray[Any]]:
        """The logged steps: step, loss, learning_rate, gradient_norm; NaN where a value was not finite."""
    @property
    def terms(self) -> dict[str, NDArray[np.float64]]:
        """Unweighted terms of the loss at the logged steps; NaN where a step has none."""
    @property
    def validations(self) -> dict[str, NDArray[Any]]:
        """Scores between epochs: step, mean_iou_in_crop, n_instances."""
    @property
    def stages(self) -> list[tuple[int, str]]:
        """Stages, each with its first logged step."""
    @property
    def stopped(self) -> bool | None:
        """Whether the training was asked to stop; None while it goes on, or if it was killed."""
    @property
    def last_step(self) -> int:
        """Step of the last event."""
    @property
    def total_steps(self) -> int | None:
        """Steps of the whole plan; None if it never began."""
    @property
    def seconds(self) -> float:
        """Seconds of computation."""
    @property
    def n_broken_lines(self) -> int:
        """Lines that are no events: a power cut can leave half a line."""

def read_events(path: _Path) -> Events:
    """Reads the `events.jsonl` of a run, also while the run goes on."""

@final
class Cache:
    """An open cache of a teacher's answers; it is iterated by rising id."""

    @property
    def teacher(self) -> str:
        """The teacher's name."""
    @property
    def licence(self) -> str:
        """Licence of the teacher's weights."""
    @property
    def kind(self) -> str:
        """What a record holds: "mask logits" or "image features"."""
    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides the numbers: teacher, preprocessing, question, kept, dataset."""
    @property
    def ids(self) -> NDArray[np.uint64]:
        """Ids of the records, rising: of annotations or, where features are kept, of images."""
    def stats(self) -> dict[str, Any]:
        """Reads everything and counts it."""
    def masks(self, annotation_id: int) -> ObjectAnswer:
        """The answer about an object."""
    def features(self, image_id: int) -> ImageAnswer:
        """The features of an image."""
    def __len__(self) -> int: ...
    def __contains__(self, id: int, /) -> bool: ...
    def __iter__(self) -> CacheAnswers: ...

@final
class CacheAnswers(Iterator[ObjectAnswer | ImageAnswer]):
    """The answers of a cache, one after the other."""

    def __next__(self) -> ObjectAnswer | ImageAnswer: ...

@final
class ObjectAnswer:
    """What the teacher answered about an object."""

    @property
    def annotation_id(self) -> int: ...
    @property
    def image_id(self) -> int: ...
    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
    @property
    def logit_step(self) -> float:
        """Logit of one unit of a prompt's `logits`."""
    @property
    def prompts(self) -> list[PromptAnswer]:
        """One answer for each prompt."""

@final
class PromptAnswer:
    """What the teacher answered to one prompt."""

    @property
    def rect_in_image(self) -> tuple[float, float, float, float]:
        """The area that the logits cover, x0, y0, x1, y1 in image pixels; it may run past the image's border."""
    @property
    def points(self) -> NDArray[np.float64]:
        """The prompt's points in image pixels, [n, 2]."""
    @property
    def labels(self) -> NDArray[np.int64]:
        """What each point says: 0 background, 1 foreground, 2 upper left and 3 lower right corner of a box."""
    @property
    def logits(self) -> NDArray[np.int8]:
        """[masks, grid, grid]: logit divided by `logit_step`; -128 outside of the image."""
    @property
    def predicted_ious(self) -> NDArray[np.float32]:
        """The teacher's guess of each mask's IoU with the truth."""
    @property
    def stabilities(self) -> NDArray[np.float32]:
        """Each mask's stability; NaN where it was not measured."""

@final
class ImageAnswer:
    """The teacher's features of an image."""

    @property
    def image_id(self) -> int: ...
    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
    @property
    def used_cells(self) -> tuple[int, int]:
        """Columns and rows of cells whose centre lies in the image; the others show padding."""
    @property
    def features(self) -> NDArray[np.float32]:
        """[channels, grid, grid]."""

def read_cache(folder: _Path) -> Cache:
    """Opens the cache in a folder."""

@final
class Weights:
    """Tensors by name, and what the file says of them."""

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """In the names' order, each of its own type; 16-bit floats are widened to float32, exactly."""
    @property
    def metadata(self) -> dict[str, str]:
        """The file's own words, such as digests."""

def read_weights(path: _Path) -> Weights:
    """Reads the tensors of a safetensors file. They are not run: `Student` runs integer models."""
