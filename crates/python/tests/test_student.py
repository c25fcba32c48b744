"""The student on arrays: the integers of the package's test vectors, the masks of `sensei predict`."""

import json
import multiprocessing
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import MODEL
from PIL import Image

import sensei


@pytest.fixture(scope="module")
def student():
    return sensei.Student.load(MODEL)


def test_it_says_what_its_package_says(student):
    manifest = json.loads((MODEL / "manifest.json").read_text())
    assert (student.name, student.crop, student.input_size) == ("sensei-box", manifest["crop"], manifest["input_side"])
    assert student.digest == manifest["int8_model_digest"]
    assert student.needs_box
    bare = sensei.Student.load(str(MODEL / "sensei-box.s8m"), crop=manifest["crop"])
    assert repr(bare) == repr(student) == 'Student("sensei-box", crop="box-128-pad0.1-min7.5-clipped")'


def test_logits_are_the_integers_of_the_test_vectors(student):
    side = student.input_size
    vectors = sorted((MODEL / "test_vectors").glob("*.input"))
    assert vectors
    for file in vectors:
        planes = np.fromfile(file, np.int8).reshape(3, side, side)
        crop = (planes.astype(np.int16) + 128).astype(np.uint8).transpose(1, 2, 0)
        # As the chip sends it: column by column.
        expected = np.fromfile(file.with_suffix(".output"), "<f4").reshape(side, side).T
        integers = student.logits(crop)
        assert integers.dtype == np.int16 and integers.shape == (side, side)
        assert np.array_equal(integers * np.float32(student.logit_step), expected)


def test_masks_and_scores_are_those_of_sensei_predict(student, program, picture, boxes, tmp_path):
    Image.fromarray(picture).save(tmp_path / "picture.png")
    asked = [part for box in boxes for part in ("--box", ",".join(str(side) for side in box))]
    program("predict", MODEL, tmp_path / "picture.png", *asked, "--out", tmp_path / "out")
    masks, scores = student.predict(picture, boxes)
    assert masks.dtype == np.bool_ and masks.shape == (len(boxes), *picture.shape[:2])
    files = sorted((tmp_path / "out/masks").glob("*.png"))
    assert len(files) == len(boxes)
    for mask, file in zip(masks, files, strict=True):
        assert np.array_equal(mask, np.asarray(Image.open(file)) > 0), file
    expected = json.loads((tmp_path / "out/predictions.json").read_text())
    assert scores.tolist() == [answer["score"] for answer in expected]
    assert [sensei.encode_mask(mask) for mask in masks] == [answer["segmentation"] for answer in expected]
    assert masks[:2].any(axis=(1, 2)).all(), "a disc and a square are found"


def test_any_strides_and_number_types_are_taken(student, picture, boxes):
    masks, scores = student.predict(picture, boxes)
    for same in (np.asfortranarray(picture), np.repeat(picture, 2, axis=1)[:, ::2], picture[::-1][::-1]):
        assert np.array_equal(student.predict(same, boxes)[0], masks)
    mirrored = student.predict(picture[:, ::-1], boxes)[0]
    assert np.array_equal(mirrored, student.predict(np.ascontiguousarray(picture[:, ::-1]), boxes)[0])
    assert not np.array_equal(mirrored, masks)
    whole = boxes.round()
    for kind in (np.float32, np.int64, np.int32):
        assert np.array_equal(student.predict(picture, whole.astype(kind))[1], student.predict(picture, whole)[1])
    assert np.array_equal(student.predict(picture, np.asfortranarray(boxes))[1], scores)


def test_no_boxes_have_no_masks(student, picture):
    masks, scores = student.predict(picture, np.zeros((0, 4)))
    assert masks.shape == (0, 180, 240) and scores.shape == (0,)


def test_threads_share_a_student_and_get_the_same(student, picture, boxes):
    masks, _ = student.predict(picture, boxes)
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(lambda _: student.predict(picture, boxes), range(8)):
            assert np.array_equal(found, masks)


def test_other_threads_run_meanwhile(student, picture, boxes):
    steps, is_done = [0], threading.Event()

    def count():
        while not is_done.is_set():
            steps[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    start = time.perf_counter()
    student.predict(picture, np.tile(boxes, (4, 1)))
    n_times = min(512, int(4 * 0.5 / (time.perf_counter() - start)) + 1)
    many = np.tile(boxes, (n_times, 1))  # half a second
    start, before = time.perf_counter(), steps[0]
    student.predict(picture, many)
    seconds, counted = time.perf_counter() - start, steps[0] - before
    time.sleep(0.5)
    alone = (steps[0] - before - counted) / 0.5
    is_done.set()
    thread.join()
    # Before and after a call that keeps Python for itself the thread would have 5 ms each; it competes with the computation for the CPUs.
    assert counted > 0.1 * seconds * alone, (seconds, counted, alone)


def test_a_forked_process_computes_too(student, picture, boxes):
    masks, scores = student.predict(picture, boxes)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = [pool.apply_async(student_of_a_fork, (picture, boxes)) for _ in range(4)]
        for answer in answers:
            found, found_scores = answer.get(timeout=60)
            assert np.array_equal(found, masks) and np.array_equal(found_scores, scores)


def student_of_a_fork(picture, boxes):
    return sensei.Student.load(MODEL).predict(picture, boxes)


@pytest.mark.parametrize(("image", "boxes", "error", "words"), [
    (np.zeros((8, 8, 3), np.float32), np.zeros((1, 4)), TypeError,
     r"image: expected a NumPy array uint8\[height, width, 3\], found float32\[8, 8, 3\]"),
    (np.zeros((8, 8), np.uint8), np.zeros((1, 4)), ValueError,
     r"image: expected uint8\[height, width, 3\], found uint8\[8, 8\]"),
    (np.zeros((8, 8, 4), np.uint8), np.zeros((1, 4)), ValueError, r"found uint8\[8, 8, 4\]"),
    (np.zeros((0, 8, 3), np.uint8), np.zeros((1, 4)), ValueError, r"expected 1 to \d+ pixels, found 8 x 0"),
    ([[1, 2, 3]], np.zeros((1, 4)), TypeError, "found list"),
    (None, [[1, 2, 3, 4]], TypeError, r"boxes: expected a NumPy array float64\[n, 4\] .*, found list"),
    (None, np.zeros((1, 4), np.uint8), TypeError, r"found uint8\[1, 4\]"),
    (None, np.zeros((1, 4), ">f8"), TypeError, "boxes: expected"),
    (None, np.zeros(4), ValueError, r"boxes: expected float64\[n, 4\] .*, found float64\[4\]"),
    (None, np.zeros((2, 5)), ValueError, r"found float64\[2, 5\]"),
    (None, np.array([[10.0, 10, 20, 20], [np.nan, 1, 2, 3]]), ValueError, r"boxes\[1\]: box .*NaN.*: expected finite numbers"),
    (None, np.array([[1.0, 1, 0, 3]]), ValueError, r"boxes\[0\]: box .*: expected finite numbers and a width and height above 0"),
    (None, np.array([[500.0, 500, 20, 20]]), ValueError, r"boxes\[0\]: box .* lies outside of the image of"),
])
def test_what_cannot_be_asked_is_refused(student, picture, image, boxes, error, words):
    with pytest.raises(error, match=words):
        student.predict(picture if image is None else image, boxes)


def test_boxes_or_points_are_given(student, picture, boxes):
    with pytest.raises(TypeError, match="expected boxes or points, found neither"):
        student.predict(picture)
    with pytest.raises(TypeError, match="found both"):
        student.predict(picture, boxes, points=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="expected boxes, which this student's crop is made of .*, found points"):
        student.predict(picture, points=np.array([[10.0, 10.0]]))


def test_a_student_of_windows_is_asked_by_points(picture):
    student = sensei.Student.load(MODEL / "sensei-box.s8m", crop="center_window-128-corrected")
    masks, scores = student.predict(picture, points=np.array([[80.0, 90.0]]))
    assert masks.shape == (1, 180, 240) and scores.shape == (1,)
    with pytest.raises(ValueError, match=r"points\[0\]: point .*: expected one in the image"):
        student.predict(picture, points=np.array([[240.0, 90.0]]))


def test_a_crop_of_another_size_has_no_logits(student):
    with pytest.raises(ValueError, match=r"crop: expected uint8\[128, 128, 3\], found uint8\[96, 128, 3\]"):
        student.logits(np.zeros((96, 128, 3), np.uint8))


def test_what_is_no_package_is_refused(tmp_path):
    def refused(path, error, words, **crop):
        with pytest.raises(error, match=words):
            sensei.Student.load(path, **crop)

    refused(tmp_path / "none", FileNotFoundError, "none: expected a package or an .s8m file, found nothing")
    refused(tmp_path, ValueError, "expected a package .*, found another folder")
    refused(MODEL / "sensei-box.s8m", ValueError, "expected crop= beside a bare .s8m, .* found none")
    refused(MODEL, ValueError, "crop rule: expected center_window", crop="roi")
    refused(MODEL, ValueError, "expected a crop rule for a network of 128 x 128 pixels", crop="roi-96-pad0.1-reference")

    package = tmp_path / "package"
    shutil.copytree(MODEL, package)
    model = package / "sensei-box.s8m"
    bytes_ = bytearray(model.read_bytes())
    bytes_[1000] ^= 1
    model.write_bytes(bytes_)
    refused(package, ValueError, "sensei-box.s8m: changed since it was written: expected SHA-256")
    (package / "SHA256SUMS").unlink()
    refused(package, ValueError, "sensei-box.s8m: at byte .*the file is damaged")
    model.write_bytes(bytes_[:20])
    refused(package, ValueError, "expected a magic number, a version and a checksum, found 20 bytes")
    model.unlink()
    refused(package, FileNotFoundError, "sensei-box.s8m: cannot read")
    (package / "manifest.json").write_text("{")
    refused(package, ValueError, "manifest.json: expected JSON")
