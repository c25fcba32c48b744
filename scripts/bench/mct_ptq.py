"""Post-training quantization by Sony's Model Compression Toolkit of a PicoSAM2 run's float weights, scored beside ours.

usage: mct_ptq.py RUN ANNOTATIONS CALIBRATION VALIDATION

RUN has student.safetensors and eval/report.json; CALIBRATION and VALIDATION are files of the example `crops`. The toolkit has
its default settings and its capabilities of the IMX500; what is scored is the model that it returns, on the same crops as ours. Intervals are ours: 95 % of 10,000 resamples of the images. Written for
model_compression_toolkit 2.6.1 and torch 2.6.0.

The toolkit's model scales sums as floats; the chip does it by a mantissa of eight bits, to which the rows "on chip" are rounded.
Our integers have such scales from the start.
"""
import json
import pathlib
import sys

import model_compression_toolkit as mct
import numpy as np
import torch
from mct_quantizers import PytorchQuantizationWrapper
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/golden/student"))
from make import full  # noqa: E402

BATCH = 16


def logits_of(model, validation):
    with torch.inference_mode():
        return torch.cat([model(x.to(DEVICE))[:, 0].cpu() for x in validation["inputs"].split(BATCH)])


def scores(logits, masks):
    """IoU of each instance's mask (logits above 0) with another, in the crop."""
    predicted, masks = logits > 0, masks > 0
    union = (predicted | masks).sum((1, 2))
    overlap = (predicted & masks).sum((1, 2))
    return torch.where(union > 0, overlap / union, 1.0).double().numpy()


class OnChip:
    """A quantizer of weights whose scales are rounded to mantissas of eight bits; the integers stay."""

    def __init__(self, quantizer):
        threshold = torch.as_tensor(np.asarray(quantizer.threshold_np, dtype=np.float64).ravel())
        step = torch.exp2(torch.floor(torch.log2(threshold)) - 7)
        self.quantizer, self.ratio = quantizer, (torch.round(threshold / step) * step / threshold).float()

    def __call__(self, weight):
        return self.quantizer(weight) * self.ratio.view(-1, 1, 1, 1)


def put_on_chip(model):
    """Biases are integers in the same unit as the sums, so that they are scaled with them."""
    n_convs = 0
    for layer in model.modules():
        if isinstance(layer, PytorchQuantizationWrapper):
            assert list(layer.weights_quantizers) == ["weight"] and isinstance(layer.layer, torch.nn.Conv2d), layer
            on_chip = OnChip(layer.weights_quantizers["weight"])
            layer.weights_quantizers["weight"] = on_chip
            layer.layer.bias.data *= on_chip.ratio
            n_convs += 1
    assert n_convs > 0, "no convolution was found"


def interval(values, images):
    """Of the mean over instances, when images are drawn with replacement."""
    names, at = np.unique(images, return_inverse=True)
    sums, counts = np.bincount(at, values), np.bincount(at)
    drawn = np.random.default_rng(0).integers(0, len(names), (10_000, len(names)))
    return np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])


def ours(run, name, ids):
    report = json.loads((run / "eval/report.json").read_text())
    instances = next(p for p in report["predictors"] if p["scores"]["predictor"] == name)["scores"]["instances"]
    found = {}
    for score in instances:
        overlap, truth, predicted = score["in_crop"]
        union = truth + predicted - overlap
        found[score["annotation_id"]] = overlap / union if union else 1.0
    assert sorted(found) == sorted(ids), f"{run}: the report scores other instances than the crops"
    return np.array([found[id] for id in ids])


def main():
    run, annotations, calibration, validation = map(pathlib.Path, sys.argv[1:5])
    calibration, validation = load_file(calibration)["inputs"], load_file(validation)
    ids = validation["annotation_ids"].tolist()
    image_of = {a["id"]: a["image_id"] for a in json.loads(annotations.read_text())["annotations"]}
    images = np.array([image_of[id] for id in ids])
    model = full("picosam2").float()
    model.load_state_dict(load_file(run / "student.safetensors"))
    model = model.eval().to(DEVICE)

    def batches():
        yield from ([batch] for batch in calibration.split(BATCH))

    capabilities = mct.get_target_platform_capabilities(tpc_version="1.0", device_type="imx500")
    quantized, _ = mct.ptq.pytorch_post_training_quantization(
        model, batches, target_platform_capabilities=capabilities
    )
    quantized.eval()

    print(f"model_compression_toolkit {mct.__version__}, torch {torch.__version__}; {len(calibration)} calibration crops")
    truth = validation["truth"]
    float_logits, mct_logits = logits_of(model, validation), logits_of(quantized, validation)
    put_on_chip(quantized)
    chip_logits = logits_of(quantized, validation)
    rows = {
        "float, PyTorch": scores(float_logits, truth),
        "float, Sensei": ours(run, "float", ids),
        "int8, Sensei": ours(run, "int8", ids),
        "int8, MCT": scores(mct_logits, truth),
        "MCT, on chip": scores(chip_logits, truth),
    }
    for name, values in rows.items():
        low, high = interval(values, images)
        print(f"{name:<15} crop mean_iou {values.mean():.5f} [{low:.3f}, {high:.3f}] of {len(values)} instances")
    for a, b in [("int8, Sensei", "int8, MCT"), ("int8, Sensei", "MCT, on chip"), ("int8, Sensei", "float, Sensei"), ("int8, MCT", "float, PyTorch")]:
        difference = 100 * (rows[a] - rows[b])
        low, high = interval(difference, images)
        print(f"{a} - {b}: {difference.mean():+.3f} points [{low:+.3f}, {high:+.3f}]")

    compared = {"int8, Sensei": validation["int8_logits"], "int8, MCT": mct_logits, "MCT, on chip": chip_logits}
    for name, logits in compared.items():
        noise = (logits.double() - float_logits).square().sum()
        sqnr = 10 * torch.log10(float_logits.double().square().sum() / noise)
        print(f"{name:<15} logits {sqnr:.2f} dB above their difference to PyTorch's floats; "
              f"mean IoU with the float masks {scores(logits, float_logits).mean():.5f}")


DEVICE = torch.device("cpu")
main()
