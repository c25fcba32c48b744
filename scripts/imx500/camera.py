#!/usr/bin/env python3
"""Masks from a Raspberry Pi AI Camera (IMX500) that runs this package's network, and recordings to hold the chip to the simulator.

    camera.py show X Y SIZE                 print the mask of a square region of the sensor (4056 x 3040), frame after frame
    camera.py record DIR [N] [X Y SIZE]     write N frames (default 20) of the network's input and output tensors into DIR

A region that runs over the sensor's border is cut off there and stretched to a square, if training saw it so (`border = "reference"`);
otherwise it is refused. Without a region, `record` takes the whole sensor, squeezed to a square. Both print the milliseconds that the chip
says it took; `record` keeps them in DIR/milliseconds.csv. Both give up if no result comes within two minutes.

Then, anywhere: `sensei replay PACKAGE DIR` runs the integer model on each recorded input and compares its output with the chip's.

Needs picamera2 and numpy. Written against picamera2's public interface (`IMX500`, `get_kpi_info`, `set_inference_roi_abs`,
`CnnEnableInputTensor`, the metadata keys `CnnInputTensor` and `CnnOutputTensor`); it has not run on a camera. SENSEI_TENSORS=DIR takes tensors from a recording instead.
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
# Training leaves out regions that have fewer pixels of the image.
MIN_WINDOW = 4
FIRST_RESULT_SECS = 120


def manifest():
    return json.loads((PACKAGE / "manifest.json").read_text())


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


def window(x, y, side, border, crop):
    """The part (left, top, width, height) of the sensor that is shown for a square region, or an error that says why there is none."""
    named = f"region {x} {y} {side}"
    if side < MIN_SIDE:
        raise ValueError(f"{named}: expected a square of {MIN_SIDE} or more")
    if border == "reference" and crop.startswith("center_window"):
        # This rule shifts its window at the left and upper border, as training did.
        x, y = max(x, 0), max(y, 0)
    # As picamera2's set_inference_roi_abs bounds a region to the sensor.
    left, top = max(x, 0), max(y, 0)
    width, height = min(x + side, SENSOR[0]) - left, min(y + side, SENSOR[1]) - top
    if min(width, height) < MIN_WINDOW:
        raise ValueError(f"{named}: expected {MIN_WINDOW} pixels or more of the sensor's {SENSOR[0]} x {SENSOR[1]}")
    if border != "reference" and (width, height) != (side, side):
        raise ValueError(
            f"{named}: expected a square within {SENSOR[0]} x {SENSOR[1]}: this network was trained with border = "
            f"\"{border}\", which fills up behind the border, and the sensor cannot"
        )
    return (left, top, width, height)


def window_of(region):
    """The same for a region of the command line, by what the package says of training."""
    if region is None:
        return None
    package = manifest()
    found = window(*region, package.get("border", "unknown"), package.get("crop", ""))
    print(f"window {found} of the sensor (left, top, width, height)", flush=True)
    return found


def results(frames, keys, advice):
    """The frames that have all of these keys; an error if the first does not come in time."""
    started, has_one = time.monotonic(), False
    for metadata in frames:
        # Frames without a result are usual: the network is slower than the camera.
        if all(key in metadata for key in keys):
            has_one = True
            yield metadata
        elif not has_one and time.monotonic() - started > FIRST_RESULT_SECS:
            raise RuntimeError(f"no {' and '.join(keys)} within {FIRST_RESULT_SECS} s: {advice}")
    if not has_one:
        raise RuntimeError(f"no frame with {' and '.join(keys)}: {advice}")


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

    def milliseconds(self, metadata):
        """Of the network and of the signal processors, or None."""
        return self.network.get_kpi_info(metadata)


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

    def milliseconds(self, metadata):
        return None


def source(roi, input_tensor):
    folder = os.environ.get("SENSEI_TENSORS")
    return Recording(folder) if folder else Camera(roi, input_tensor)


def show(region):
    grid = manifest()["input_side"]
    camera = source(window_of(region), False)
    advice = "does the camera deliver frames, and is network.rpk the one of this package?"
    for metadata in results(camera.frames(), ["CnnOutputTensor"], advice):
        mask = logits_of(metadata["CnnOutputTensor"], grid) > 0
        rows = mask[:: max(1, grid // 24), :: max(1, grid // 48)]
        times = camera.milliseconds(metadata)
        times = f"; network {times[0]:.1f} ms, signal processors {times[1]:.1f} ms" if times else ""
        print(f"\n{mask.mean():.1%} of the region is foreground{times}")
        print("\n".join("".join("#" if pixel else "." for pixel in row) for row in rows), flush=True)


def record(folder, n_frames, region):
    grid = manifest()["input_side"]
    if n_frames < 1:
        raise ValueError(f"{n_frames} frames: expected 1 or more")
    camera = source(window_of(region), True)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written, times = 0, []
    advice = "was the network converted with its input kept?"
    for metadata in results(camera.frames(), ["CnnOutputTensor", "CnnInputTensor"], advice):
        np.fromiter(metadata["CnnOutputTensor"], dtype="<f4").tofile(folder / f"{written:04}.output")
        input_of(metadata["CnnInputTensor"], grid).tofile(folder / f"{written:04}.input")
        kpi = camera.milliseconds(metadata)
        if kpi:
            times.append((f"{written:04}", *kpi))
        written += 1
        if written == n_frames:
            break
    if times:
        lines = ["frame,network,signal_processors", *(f"{name},{dnn:.3f},{dsp:.3f}" for name, dnn, dsp in times)]
        (folder / "milliseconds.csv").write_text("\n".join(lines) + "\n")
        network = sorted(dnn for _, dnn, _ in times)
        middle = network[len(network) // 2]
        print(f"network: {network[0]:.1f} to {network[-1]:.1f} ms, median {middle:.1f} ms, in {len(network)} frames")
    print(f"{written} frames in {folder}; now: sensei replay PACKAGE {folder}")


def main():
    arguments = sys.argv[1:]
    try:
        if len(arguments) == 4 and arguments[0] == "show":
            show(tuple(map(int, arguments[1:])))
        elif len(arguments) in (2, 3, 5, 6) and arguments[0] == "record":
            # An optional number of frames, then an optional region of three numbers.
            numbers = list(map(int, arguments[2:]))
            region = tuple(numbers[-3:]) if len(numbers) >= 3 else None
            record(arguments[1], numbers[0] if len(numbers) in (1, 4) else 20, region)
        else:
            sys.exit(__doc__)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
