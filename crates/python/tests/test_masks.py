"""Masks by a protocol: the report of `sensei eval-masks`, and COCO's compressed masks."""

import json

import numpy as np
import pytest
from conftest import ROOT
from pycocotools import mask as coco_mask
from scenes import ellipse, runs, scenes

import sensei


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Annotations, and a mask for each of them."""
    folder, rng = tmp_path_factory.mktemp("masks"), np.random.default_rng(4)
    annotations, _ = scenes(6, n_images=15)
    predictions = []
    for annotation in annotations["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        predictions.append({
            "annotation_id": annotation["id"], "image_id": annotation["image_id"], "category_id": annotation["category_id"],
            "score": 0.5, "segmentation": runs(np.roll(mask, rng.integers(-3, 4, 2), (0, 1))),
        })
    (folder / "annotations.json").write_text(json.dumps(annotations))
    (folder / "predictions.json").write_text(json.dumps(predictions))
    return folder / "annotations.json", folder / "predictions.json"


# The one that is left out wants 1,000 instances.
@pytest.mark.parametrize("protocol", sorted(sensei.protocols().keys() - {"picosam2-crop96"}))
def test_the_report_is_that_of_eval_masks(program, files, tmp_path, protocol):
    program("eval-masks", *files, "--protocol", protocol, "--out", tmp_path / "report.json")
    expected = json.loads((tmp_path / "report.json").read_text())
    scored = sensei.evaluate_masks(*files, protocol)
    assert scored["report"] == expected
    assert scored["n_not_chosen"] == 0 and "mean_iou" in scored["table"]
    predictions = json.loads(files[1].read_text())
    for same in (sensei.protocols()[protocol], expected["protocol"]):
        assert sensei.evaluate_masks(files[0], predictions, same)["report"] == expected


def test_protocols_are_those_of_the_configurations():
    assert sorted(sensei.protocols()) == sorted(path.stem for path in (ROOT / "configs/protocols").glob("*.toml"))


def test_what_cannot_be_scored_is_refused(files):
    def refused(words, protocol, predictions=files[1], error=ValueError):
        with pytest.raises(error, match=words):
            sensei.evaluate_masks(files[0], predictions, protocol)

    refused('protocol: expected one of edgesam-box, .*, found "coco"', "coco")
    refused("protocol: expected a name or a dictionary, found int", 3, error=TypeError)
    words = sensei.protocols()["sensei-box"]
    refused("protocol: unknown field `grid`", {**words, "grid": 96})
    refused("protocol: missing field `prompt`", {key: value for key, value in words.items() if key != "prompt"})
    refused('protocol: prompt: expected box, .*, found "boxes"', {**words, "prompt": "boxes"})
    refused("min_area: expected a number, 0 or above, found -1", {**words, "min_area": -1.0})
    predictions = json.loads(files[1].read_text())
    n_scored = sum(not annotation["iscrowd"] for annotation in json.loads(files[0].read_text())["annotations"])
    refused(f"expected a mask for each of {n_scored} instances, found none for 1", "edgesam-box", predictions[1:])
    refused("expected one mask for annotation", "edgesam-box", predictions + predictions[:1])
    with pytest.raises(FileNotFoundError, match="none.json"):
        sensei.evaluate_masks("none.json", files[1], "edgesam-box")


def test_masks_are_packed_as_pycocotools_packs_them():
    rng = np.random.default_rng(9)
    for shape in [(1, 1), (1, 9), (33, 20), (70, 130)]:
        for mask in (ellipse(rng, *shape), np.zeros(shape, np.uint8), np.ones(shape, np.uint8), rng.integers(0, 2, shape, np.uint8)):
            packed = sensei.encode_mask(mask)
            assert packed == runs(mask) == sensei.encode_mask(mask.astype(bool)[::1])
            found = sensei.decode_mask(packed)
            assert found.dtype == np.bool_ and np.array_equal(found, mask > 0)
    assert sensei.encode_mask(np.array([[0, 255], [7, 0]], np.uint8)) == sensei.encode_mask(np.array([[False, True], [True, False]]))


def test_what_is_no_mask_is_refused():
    with pytest.raises(TypeError, match=r"mask: expected a NumPy array bool\[height, width\] .*, found float64\[2, 2\]"):
        sensei.encode_mask(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"found bool\[2, 2, 2\]"):
        sensei.encode_mask(np.zeros((2, 2, 2), bool))
    with pytest.raises(ValueError, match='segmentation: expected "size" and "counts", found none named "counts"'):
        sensei.decode_mask({"size": [2, 2]})
    with pytest.raises(ValueError, match="segmentation: "):
        sensei.decode_mask({"size": [2, 2], "counts": "zzz"})
    with pytest.raises(ValueError, match="expected a size of 1 to"):
        sensei.decode_mask({"size": [0, 2], "counts": ""})
