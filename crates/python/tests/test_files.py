"""Events, caches and weights: what the files say, read here without Sensei."""

import json
import shutil

import numpy as np
import pytest
from conftest import MODEL, ROOT

import sensei

CACHE = ROOT / "datasets/quickstart/teacher-cache/val"


def test_events_are_those_of_the_log(tmp_path):
    log = tmp_path / "events.jsonl"
    events = [
        {"unix_time": 100.0, "event": "started", "step": 0, "total_steps": 40, "n_samples": 8, "devices": ["CPU"], "threads": 2},
        {"unix_time": 101.0, "images_per_second": 9.5, "event": "step", "step": 10, "stage": "one", "loss": 0.5,
         "terms": [["dice", 0.25]], "learning_rate": 0.01, "gradient_norm": None},
        {"unix_time": 102.0, "event": "validation", "step": 10, "epoch": 0, "mean_iou_in_crop": 0.4, "n_instances": 12},
        {"unix_time": 103.5, "event": "step", "step": 20, "stage": "two", "loss": None,
         "terms": [["dice", 0.5], ["bce", 1.0]], "learning_rate": 0.02, "gradient_norm": 3.0},
        {"unix_time": 104.0, "event": "ended", "step": 20, "stopped": True},
    ]
    log.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"unix_time": 10')
    found = sensei.read_events(log)
    assert found.starts == [{"step": 0, "total_steps": 40, "n_samples": 8, "devices": ["CPU"], "threads": 2}]
    assert (found.last_step, found.total_steps, found.stopped, found.seconds) == (20, 40, True, 4.0)
    assert found.stages == [(10, "one"), (20, "two")] and found.n_broken_lines == 1
    assert found.steps["step"].tolist() == [10, 20] and found.steps["step"].dtype == np.uint64
    for name, expected in {"loss": [0.5, np.nan], "learning_rate": [0.01, 0.02], "gradient_norm": [np.nan, 3.0]}.items():
        assert np.array_equal(found.steps[name], expected, equal_nan=True), name
    assert sorted(found.terms) == ["bce", "dice"]
    assert np.array_equal(found.terms["bce"], [np.nan, 1.0], equal_nan=True) and found.terms["dice"].tolist() == [0.25, 0.5]
    assert {name: values.tolist() for name, values in found.validations.items()} == {
        "step": [10], "mean_iou_in_crop": [0.4], "n_instances": [12],
    }


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl: cannot read"):
        sensei.read_events(tmp_path / "none.jsonl")
    (tmp_path / "notes.txt").write_text("no\nevents\n")
    with pytest.raises(ValueError, match="notes.txt: expected events of a training, found none in 2 lines"):
        sensei.read_events(tmp_path / "notes.txt")


def test_a_cache_is_what_its_manifest_says():
    manifest = json.loads((CACHE / "manifest.json").read_text())["manifest"]
    cache = sensei.read_cache(CACHE)
    assert (cache.teacher, cache.licence) == (manifest["teacher"]["name"], manifest["teacher"]["licence"])
    assert cache.key == manifest["key"] and cache.kind == "mask logits"
    assert len(cache) == len(cache.ids) == manifest["n_records"] and cache.ids.dtype == np.uint64
    stats = cache.stats()
    assert stats["n_records"] == manifest["n_records"] and stats["n_saturated"] == manifest["n_saturated"]

    kept = manifest["key"]["kept"]["mask_logits"]
    answers = list(cache)
    assert [answer.annotation_id for answer in answers] == cache.ids.tolist()
    ious = []
    for answer in answers:
        assert answer.logit_step == np.float32(kept["logit_step"])
        (prompt,) = answer.prompts
        assert prompt.logits.dtype == np.int8 and prompt.logits.shape == (1, kept["grid"], kept["grid"])
        assert prompt.points.shape == (len(prompt.labels), 2) and prompt.stabilities.shape == (1,)
        x0, y0, x1, y1 = prompt.rect_in_image
        assert x0 < x1 and y0 < y1
        ious.extend(prompt.predicted_ious.tolist())
    tenths = np.minimum((np.clip(np.float32(ious), 0, 1) * np.float32(10)).astype(int), 9)
    assert np.bincount(tenths, minlength=10).tolist() == stats["predicted_iou_histogram"]
    saturated = sum(int((np.abs(a.prompts[0].logits.astype(int)) == 127).sum()) for a in answers)
    assert saturated == manifest["n_saturated"]
    first = cache.ids[0]
    assert first in cache and 2**60 not in cache
    assert np.array_equal(cache.masks(first).prompts[0].logits, answers[0].prompts[0].logits)


def test_what_is_no_cache_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: expected the folder of a teacher cache, found nothing"):
        sensei.read_cache(tmp_path / "none")
    with pytest.raises(ValueError, match="manifest.json|cache"):
        sensei.read_cache(tmp_path)
    cache = sensei.read_cache(CACHE)
    with pytest.raises(ValueError, match=str(2**60)):
        cache.masks(2**60)
    with pytest.raises(ValueError, match="expected .*features"):
        cache.features(int(cache.ids[0]))
    damaged = tmp_path / "cache"
    shutil.copytree(CACHE, damaged)
    shard = next(damaged.glob("shard-*.stc"))
    bytes_ = bytearray(shard.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    shard.write_bytes(bytes_)
    with pytest.raises(ValueError, match="shard-"):
        list(sensei.read_cache(damaged))


def test_weights_are_those_of_the_file(tmp_path):
    path = MODEL / "student.safetensors"
    bytes_ = path.read_bytes()
    length = int.from_bytes(bytes_[:8], "little")
    header = json.loads(bytes_[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    weights = sensei.read_weights(path)
    assert weights.metadata == metadata and list(weights.tensors) == sorted(header)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
        expected = np.frombuffer(bytes_[8 + length + start : 8 + length + end], dtype).reshape(entry["shape"])
        assert weights.tensors[name].dtype == dtype and np.array_equal(weights.tensors[name], expected), name

    def written(dtype, values):
        entry = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [0, values.nbytes]}
        text = json.dumps({"w": entry}).encode()
        (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
        return tmp_path / "w.safetensors"

    halves = np.array([[0.5, -2.0, 65504.0]], np.float16)
    assert np.array_equal(sensei.read_weights(written("F16", halves)).tensors["w"], halves.astype(np.float32))
    brain = (np.array([1.5, -3.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert sensei.read_weights(written("BF16", brain)).tensors["w"].tolist() == [1.5, -3.0]
    for name, kind in {"F64": "<f8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}.items():
        values = np.array([[0, 1, 1]], kind)
        found = sensei.read_weights(written(name, values)).tensors["w"]
        assert found.dtype == values.dtype and np.array_equal(found, values), name
    with pytest.raises(ValueError, match="w: expected floats of 64, 32 or 16 bits, .*, found F8_E4M3"):
        sensei.read_weights(written("F8_E4M3", np.array([1], np.uint8)))
    with pytest.raises(FileNotFoundError, match="none.safetensors: cannot read"):
        sensei.read_weights(tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(bytes_[:100])
    with pytest.raises(ValueError, match="w.safetensors: "):
        sensei.read_weights(tmp_path / "w.safetensors")
