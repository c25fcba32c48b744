"""COCO's and LVIS's numbers: those of pycocotools and lvis-api, in their lines, by their calls."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import runs, scenes

import sensei

GOLDEN = sorted((ROOT / "tests/golden/ap").glob("*/expected.json"))
NAMES = {
    "coco": "AP AP50 AP75 APs APm APl AR@1 AR@10 AR@100 ARs@100 ARm@100 ARl@100".split(),
    "lvis": "AP AP50 AP75 APs APm APl APr APc APf AR@300 ARs@300 ARm@300 ARl@300".split(),
}


def numbers(of, truth, results, kind, images=None, categories=None):
    """`stats` and what was printed, by either package."""
    printed = io.StringIO()
    results = copy.deepcopy(results)  # pycocotools writes into its argument
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = of(truth, truth.loadRes(results), kind)
        if images is not None:
            evaluation.params.imgIds = images
        if categories is not None:
            evaluation.params.catIds = categories
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    return evaluation.stats, printed.getvalue()


def both(path, results, kind, **subset):
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(path))
    return numbers(sensei.COCOeval, sensei.COCO(path), results, kind, **subset), numbers(COCOeval, theirs, results, kind, **subset)


def check_equal(path, results, kind, **subset):
    (stats, lines), (expected, expected_lines) = both(path, results, kind, **subset)
    assert np.abs(stats - expected).max() <= 1e-12, (stats, expected)
    assert lines == expected_lines
    return stats


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.parent.name)
def test_numbers_are_the_packages(file):
    rules = file.parent.name.split("_")[0]
    truth = sensei.COCO(file.with_name("annotations.json"), format=rules)
    results = truth.loadRes(file.with_name("detections.json"))
    expected = json.loads(file.read_text())
    assert expected
    for kind, values in expected.items():
        evaluation = sensei.COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            evaluation.summarize()
        names = NAMES[rules]
        assert len(printed.getvalue().splitlines()) == len(evaluation.stats) == len(names)
        assert np.abs(evaluation.stats - [values["summary"][name] for name in names]).max() <= 1e-12
        for category in evaluation.report["categories"]:
            for name, value in category["scores"].items():
                expected_value = values["categories"][str(category["id"])][name]
                assert abs((-1 if value is None else value) - expected_value) <= 1e-12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_drawn_scenes_have_pycocotools_numbers_and_lines(tmp_path, seed, kind):
    annotations, results = scenes(seed)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    stats = check_equal(path, results, kind)
    assert 0 < stats[0] < 1
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert check_equal(path, str(tmp_path / "results.json"), kind).tolist() == stats.tolist()


def test_some_images_and_categories_have_pycocotools_numbers(tmp_path):
    annotations, results = scenes(11, n_images=20)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    image_ids = [image["id"] for image in annotations["images"]]
    seen = {tuple(check_equal(path, results, "segm"))}
    for subset in ({"images": image_ids[::2]}, {"categories": [1, 5]}, {"images": image_ids[3:9], "categories": [3]}):
        seen.add(tuple(check_equal(path, results, "segm", **subset)))
    assert len(seen) == 4, "each subset has numbers of its own"


def test_results_may_hold_what_pycocotools_and_numpy_give(tmp_path):
    annotations, results = scenes(2)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    expected = check_equal(path, results, "segm")
    theirs = [
        {**result, "image_id": np.int64(result["image_id"]), "score": np.float64(result["score"]),
         "segmentation": {"size": tuple(result["segmentation"]["size"]), "counts": result["segmentation"]["counts"].encode()}}
        for result in results
    ]
    assert numbers(sensei.COCOeval, sensei.COCO(path), theirs, "segm")[0].tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_real_annotations_have_pycocotools_numbers(shared, kind):
    path = shared / "data/coco/annotations/instances_val.json"
    truth, rng = sensei.COCO(path), np.random.default_rng(3)
    results = []
    for annotation in truth.loadAnns(truth.getAnnIds()):
        moved = np.roll(truth.annToMask(annotation), rng.integers(-6, 7, 2), (0, 1))
        category_id = annotation["category_id"] if rng.random() < 0.9 else int(rng.choice(truth.getCatIds()))
        results.append({
            "image_id": annotation["image_id"], "category_id": category_id, "score": round(float(rng.random()), 3),
            "segmentation": runs(moved),
        })
    assert 0.1 < check_equal(path, results, kind)[0] < 1


def test_lists_are_those_of_pycocotools(tmp_path):
    path = tmp_path / "annotations.json"
    annotations, _ = scenes(5)
    path.write_text(json.dumps(annotations))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(path))
    ours = sensei.COCO(path)
    assert ours.getImgIds() == sorted(theirs.getImgIds())
    assert ours.getCatIds() == theirs.getCatIds() and ours.getCatIds(catNms=["class 2"]) == theirs.getCatIds(catNms=["class 2"])
    image_id = annotations["annotations"][0]["image_id"]
    for chosen in ({}, {"imgIds": image_id}, {"imgIds": [image_id], "catIds": [1, 3]}, {"iscrowd": False}, {"iscrowd": True}):
        assert sorted(ours.getAnnIds(**chosen)) == sorted(theirs.getAnnIds(**chosen)), chosen
    assert ours.loadImgs(image_id) == theirs.loadImgs(image_id) and ours.loadCats([3]) == theirs.loadCats([3])
    for annotation in theirs.loadAnns(theirs.getAnnIds()):
        (found,) = ours.loadAnns(annotation["id"])
        assert all(annotation[key] == value for key, value in found.items())
        mask = ours.annToMask(found)
        assert mask.dtype == np.uint8 and np.array_equal(mask, theirs.annToMask(annotation))
    with pytest.raises(KeyError, match="image 1: expected one of the file's"):
        ours.loadImgs([1])


def test_the_report_is_that_of_eval_coco(program, tmp_path):
    folder = ROOT / "tests/golden/ap/coco"
    files = folder / "annotations.json", folder / "detections.json"
    program("eval-coco", *files, "--out", tmp_path / "report.json")
    truth = sensei.COCO(files[0])
    evaluation = sensei.COCOeval(truth, truth.loadRes(files[1]))
    evaluation.evaluate()
    assert evaluation.report == json.loads((tmp_path / "report.json").read_text())


def test_boxes_alone_need_no_outlines(tmp_path):
    annotations, results = scenes(1)
    for entry in annotations["annotations"]:
        del entry["segmentation"]
    boxes = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
             for a in annotations["annotations"]]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match="segmentation: expected"):
        sensei.COCO(path)
    truth = sensei.COCO(path, masks=False)
    stats, _ = numbers(sensei.COCOeval, truth, boxes, "bbox")
    assert stats[0] > 0.9
    with pytest.raises(ValueError, match="its outline was not read"):
        sensei.COCOeval(truth, truth.loadRes(results), "segm").evaluate()


def test_what_cannot_be_evaluated_is_refused(tmp_path):
    annotations, results = scenes(1)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    truth = sensei.COCO(path)
    found = truth.loadRes(results)
    assert len(found) == len(results)

    def refused(error, words, call, *arguments):
        with pytest.raises(error, match=words):
            call(*arguments)

    refused(FileNotFoundError, "none.json: cannot read annotations", sensei.COCO, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"images": [')
    refused(ValueError, "broken.json: not a COCO or LVIS annotation file", sensei.COCO, tmp_path / "broken.json")
    refused(ValueError, 'format: expected "coco" or "lvis", found "voc"', lambda: sensei.COCO(path, format="voc"))
    refused(ValueError, "neg_category_ids: expected a list, as LVIS files have", lambda: sensei.COCO(path, format="lvis"))
    refused(FileNotFoundError, "none.json: cannot read detections", truth.loadRes, tmp_path / "none.json")
    refused(TypeError, r"results: expected a path or a list of dictionaries, found float64\[2, 7\]", truth.loadRes, np.zeros((2, 7)))
    refused(ValueError, "detection 0: image_id: expected one of the 12 images", truth.loadRes, [{**results[0], "image_id": 1}])
    refused(ValueError, "score: expected", truth.loadRes, [{**results[0], "score": None}])
    refused(ValueError, "expected COCO's result format", truth.loadRes, [{**results[0], "score": float("nan")}])
    refused(TypeError, "expected numbers, texts, lists, .*found object", truth.loadRes, [{**results[0], "score": object()}])
    refused(ValueError, 'iouType: expected "segm", "bbox" or "boundary", found "keypoints"', sensei.COCOeval, truth, found, "keypoints")
    refused(ValueError, "cocoDt: expected results that this cocoGt's loadRes has read", sensei.COCOeval, sensei.COCO(path), found)

    evaluation = sensei.COCOeval(truth, found)
    refused(RuntimeError, "accumulate: expected evaluate", evaluation.accumulate)
    refused(RuntimeError, "summarize: expected accumulate", evaluation.summarize)
    refused(RuntimeError, "stats: expected summarize", lambda: evaluation.stats)
    evaluation.params.imgIds = [4]
    refused(ValueError, "params.imgIds: expected ids of the annotation file, found 4", evaluation.evaluate)
    evaluation.params.imgIds = truth.getImgIds()
    for name, value in [("maxDets", [1, 10, 300]), ("iouThrs", [0.5]), ("useCats", 0), ("areaRng", [[0, 1e5]])]:
        evaluation = sensei.COCOeval(truth, found)
        setattr(evaluation.params, name, value)
        refused(NotImplementedError, f"params.{name}: expected the rules' own", evaluation.evaluate)


def test_lvis_counts_all_categories():
    folder = Path(ROOT / "tests/golden/ap/lvis")
    truth = sensei.COCO(folder / "annotations.json", format="lvis")
    evaluation = sensei.COCOeval(truth, truth.loadRes(folder / "detections.json"))
    evaluation.params.catIds = truth.getCatIds()[:1]
    with pytest.raises(NotImplementedError, match="params.catIds: expected all categories by LVIS's rules"):
        evaluation.evaluate()
