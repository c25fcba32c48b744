#!/usr/bin/env python3
"""Masks from a Raspberry Pi AI Camera (IMX500) that runs this package's network, and recordings to hold the chip to the simulator.

    camera.py show X Y SIZE       print the mask of a square region of the sensor (4056 x 3040), frame after frame
    camera.py record DIR [N]      write N frames (default 20) of the network's input and output tensors into DIR

Then, anywhere: `sensei replay PACKAGE DIR` runs the integer model on each recorded input and compares its output with the chip's.

Needs picamera2 and numpy. Written against picamera2's public interface (`IMX500`, `CnnEnableInputTensor`, the metadata keys
`CnnInputTensor` and `CnnOutputTensor`); it has not run on a camera. SENSEI_TENSORS=DIR takes tensors from a recording instead.
"""
import json
import os
import pathlib
import sys
import time

import numpy as np

PACKAGE = pathlib.Path(__file__).resolve().parent
SENSOR = (4056, 3040)
# PicoSAM3's demonstration gives it as the smallest region.
MIN_SIDE = 64


def network_side():
    manifest = json.loads((PACKAGE / "manifest.json").read_text())
    return manifest["input_side"]


def logits_of(serialized, side):
    """The output tensor as [row, column]. The chip delivers it column by column."""
    flat = np.fromiter(serialized, dtype=np.float32)
    if flat.size != side * side:
        raise ValueError(f"output tensor: expected {side * side} values, found {flat.size}")
    return flat.reshape((side, side), order="F")


def input_of(serialized, side):
    """The input tensor as the bytes of pixel - 128, [channel, row, column]."""
    flat = np.frombuffer(bytes(serialized), dtype=np.uint8)
    if flat.size != 3 * side * side:
        raise ValueError(f"input tensor: expected {3 * side * side} bytes, found {flat.size}")
    return flat


def region(x, y, side):
    """A square region of the sensor, or an error that says why it is none."""
    if side < MIN_SIDE or x < 0 or y < 0 or x + side > SENSOR[0] or y + side > SENSOR[1]:
        raise ValueError(f"region {x} {y} {side}: expected a square of {MIN_SIDE} or more within {SENSOR[0]} x {SENSOR[1]}")
    return (x, y, side, side)


class Camera:
    """Metadata of frames, by picamera2."""

    def __init__(self, roi, input_tensor):
        from picamera2 import Picamera2
        from picamera2.devices import IMX500

        # The firmware has to be loaded before the camera is opened.
        self.network = IMX500(str(PACKAGE / "network.rpk"))
        self.camera = Picamera2(self.network.camera_num)
        controls = {"CnnEnableInputTensor": input_tensor}
        config = self.camera.create_preview_configuration(controls=controls, buffer_count=12)
        self.network.show_network_fw_progress_bar()
        self.camera.start(config, show_preview=False)
        if roi is not None:
            self.network.set_inference_roi_abs(roi)

    def frames(self):
        while True:
            yield self.camera.capture_metadata()


class Recording:
    """The same from files: a stand-in where there is no camera."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def frames(self):
        for output in sorted(self.folder.glob("*.output")):
            yield {
                "CnnInputTensor": output.with_suffix(".input").read_bytes(),
                "CnnOutputTensor": np.fromfile(output, dtype="<f4").tolist(),
            }


def source(roi, input_tensor):
    folder = os.environ.get("SENSEI_TENSORS")
    return Recording(folder) if folder else Camera(roi, input_tensor)


def show(x, y, side):
    grid = network_side()
    for metadata in source(region(x, y, side), False).frames():
        # Frames without a result are usual: the network is slower than the camera.
        if "CnnOutputTensor" not in metadata:
            continue
        mask = logits_of(metadata["CnnOutputTensor"], grid) > 0
        rows = mask[:: max(1, grid // 24), :: max(1, grid // 48)]
        print(f"\n{mask.mean():.1%} of the region is foreground")
        print("\n".join("".join("#" if pixel else "." for pixel in row) for row in rows), flush=True)


def record(folder, n_frames):
    grid = network_side()
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written, started = 0, time.time()
    for metadata in source(None, True).frames():
        if "CnnOutputTensor" not in metadata or "CnnInputTensor" not in metadata:
            if written == 0 and time.time() - started > 120:
                raise RuntimeError("no input and output tensors within two minutes: was the network converted with its input kept?")
            continue
        np.fromiter(metadata["CnnOutputTensor"], dtype="<f4").tofile(folder / f"{written:04}.output")
        input_of(metadata["CnnInputTensor"], grid).tofile(folder / f"{written:04}.input")
        written += 1
        if written == n_frames:
            break
    print(f"{written} frames in {folder}; now: sensei replay PACKAGE {folder}")


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 4 and arguments[0] == "show":
        show(*map(int, arguments[1:]))
    elif len(arguments) in (2, 3) and arguments[0] == "record":
        record(arguments[1], int(arguments[2]) if len(arguments) == 3 else 20)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
