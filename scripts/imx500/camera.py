#!/usr/bin/env python3
"""Masks from a Raspberry Pi AI Camera (IMX500) that runs this package's network, and recordings to hold the chip to the simulator.

    camera.py show REGION                 print the mask of a region of the sensor (4056 x 3040), frame after frame
    camera.py overlay FILE.png REGION     one picture of the camera with the mask on it
    camera.py record DIR [N] [REGION]     write N frames (default 20) of the network's input and output tensors into DIR
    camera.py kpi [N]                     the milliseconds that the chip says it took, of N frames (default 100)
    camera.py inject FROM TO              put each FROM/NAME.input in the place of the picture, write what comes out into TO

REGION is, in pixels of the sensor, X Y SIZE of a square, or, for a network that is told its box (`rule = "box"`), X Y WIDTH HEIGHT of the
object's box: the window is the box with the padding of training, and at least 64 pixels a side (training's `min_side` is in pixels of its images). A region that runs over the sensor's border is
cut off there and stretched, if training saw it so (`border = "reference"` or `"clipped"`); otherwise it is refused. Without a region, the whole
sensor is squeezed to the input. `record` keeps the milliseconds in DIR/milliseconds.csv. `--limit SECS` ends each of them after that time; all
give up if no result comes within two minutes.

Then, anywhere: `sensei replay PACKAGE DIR` runs the integer model on each recorded input and compares its output with the chip's.
`sensei eval RUN --write-inputs FROM` writes the inputs of a validation set, and `sensei eval RUN --recorded TO` scores what `inject` wrote as the
row `device`. An answer counts when the chip gives back the very input that was put in; what is in TO already is not asked again.

Needs picamera2 and numpy. Written against picamera2's public interface (`IMX500`, `get_kpi_info`, `get_roi_scaled`, `set_inference_roi_abs`,
`CnnEnableInputTensor`, the metadata keys `CnnInputTensor` and `CnnOutputTensor`) and, for `inject`, `IMX500(..., tensor_injection=True)` and
the setter of its tensor, which is private (`_IMX500__set_input_tensor`, as picamera2's own demonstration calls it); it has not run on a camera. SENSEI_TENSORS=DIR takes tensors from a recording instead.
"""
import itertools
import json
import os
import pathlib
import struct
import sys
import time
import zlib

import numpy as np

PACKAGE = pathlib.Path(__file__).resolve().parent
SENSOR = (4056, 3040)
# PicoSAM3's demonstration gives it as the smallest side of a region.
MIN_SIDE = 64
# Training leaves out regions that have fewer pixels of the image.
MIN_WINDOW = 4
FIRST_RESULT_SECS = 120
# A camera that has not said by then how long it takes does not say it.
FRAMES_WITHOUT_TIME = 30
# A tensor that did not come back after so many results is put in again, so often.
INJECTION_RESULTS = 30
INJECTION_TRIES = 5
# picamera2's demonstration injects at this rate.
INJECTION_FRAMES_PER_SEC = 12
# Results that may still be of the window before, after a new one was set.
STALE_RESULTS = 5
# When a command ends by itself, by `--limit`.
limit_secs = None


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


def window_of_box(x, y, width, height, padding, border):
    """The part of the sensor that is shown for an object's box: the rule of training, with the sensor's own shortest side."""
    named = f"box {x} {y} {width} {height}"
    if width < 1 or height < 1:
        raise ValueError(f"{named}: expected a width and a height of 1 or more")
    window = []
    for start, length, limit in ((x, width, SENSOR[0]), (y, height, SENSOR[1])):
        first, last = start - padding * length, start + length + padding * length
        if last <= 0 or first >= limit:
            raise ValueError(f"{named}: lies outside of the sensor's {SENSOR[0]} x {SENSOR[1]}")
        if border == "clipped":
            first, last = max(first, 0), min(last, limit)
        # A window that is too short is lengthened on both ends; one that is clipped, not past the border.
        missing = max(MIN_SIDE - (last - first), 0)
        if missing:
            first -= missing / 2
            if border == "clipped":
                first = min(max(first, 0), limit - MIN_SIDE)
            last = first + MIN_SIDE
        if first < 0 or last > limit:
            raise ValueError(
                f"{named}: expected a window within {SENSOR[0]} x {SENSOR[1]}: this network was trained with border = "
                f"\"{border}\", which fills up behind the border, and the sensor cannot"
            )
        window.append((round(first), round(last)))
    (left, right), (top, bottom) = window
    return (left, top, right - left, bottom - top)


def n_region_numbers():
    return 4 if manifest().get("crop", "").startswith("box-") else 3


def window_of(region):
    """The same for a region of the command line, by what the package says of training."""
    if region is None:
        return None
    package = manifest()
    border = package.get("border", "unknown")
    if len(region) == 4:
        found = window_of_box(*region, float(package["crop_padding"]), border)
    else:
        found = window(*region, border, package.get("crop", ""))
    print(f"window {found} of the sensor (left, top, width, height)", flush=True)
    return found


def results(frames, keys, advice):
    """The frames that have all of these keys; an error if the first does not come in time."""
    started, has_one = time.monotonic(), False
    for metadata in frames:
        if has_one and limit_secs is not None and time.monotonic() - started > limit_secs:
            return
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

    def __init__(self, roi, input_tensor, injects=False):
        from picamera2 import Picamera2
        from picamera2.devices import IMX500

        # The firmware has to be loaded before the camera is opened.
        try:
            self.network = IMX500(str(PACKAGE / "network.rpk"), **({"tensor_injection": True} if injects else {}))
        except TypeError as error:
            raise RuntimeError(f"expected a picamera2 whose IMX500 takes tensor_injection: {error}") from error
        if injects and not hasattr(self.network, "_IMX500__set_input_tensor"):
            raise RuntimeError("expected a picamera2 that can set the input tensor, found one without __set_input_tensor")
        self.camera = Picamera2(self.network.camera_num)
        controls = {"CnnEnableInputTensor": input_tensor}
        if injects:
            controls["FrameRate"] = INJECTION_FRAMES_PER_SEC
        # The bytes of "BGR888" are red, green, blue.
        config = self.camera.create_preview_configuration(main={"format": "BGR888"}, controls=controls, buffer_count=12)
        self.network.show_network_fw_progress_bar()
        self.camera.start(config, show_preview=False)
        if roi is not None:
            self.network.set_inference_roi_abs(roi)

    def frames(self):
        while True:
            yield self.camera.capture_metadata()

    def inject(self, tensor):
        """Puts these bytes in the place of the picture, from one of the next frames on."""
        file = os.memfd_create("tensor", os.MFD_CLOEXEC)
        try:
            os.write(file, tensor)
            self.network._IMX500__set_input_tensor(file)
        finally:
            os.close(file)

    def milliseconds(self, metadata):
        """Of the network and of the signal processors, or None."""
        return self.network.get_kpi_info(metadata)

    def pictures(self):
        """Metadata, with the picture and where the network's window lies in it (left, top, width, height)."""
        while True:
            request = self.camera.capture_request()
            try:
                metadata = dict(request.get_metadata())
                if "CnnOutputTensor" in metadata:
                    metadata["picture"] = np.array(request.make_array("main"))[..., :3]
                    metadata["region"] = tuple(self.network.get_roi_scaled(request))
                yield metadata
            finally:
                request.release()


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


def mask_on(picture_shape, region, logits):
    """Which pixels of a picture are foreground: the logits under their centres, between four of them, are above 0."""
    left, top, width, height = region
    grid = logits.shape[0]

    def places(length, start, extent):
        at = ((np.arange(length) + 0.5 - start) / extent) * grid - 0.5
        inside = (at >= -0.5) & (at < grid - 0.5)
        at = np.clip(at, 0, grid - 1)
        low = np.minimum(np.floor(at).astype(int), grid - 1)
        return inside, low, np.minimum(low + 1, grid - 1), at - low

    rows_inside, row, next_row, down = places(picture_shape[0], top, height)
    columns_inside, column, next_column, across = places(picture_shape[1], left, width)
    upper = logits[row][:, column] * (1 - across) + logits[row][:, next_column] * across
    lower = logits[next_row][:, column] * (1 - across) + logits[next_row][:, next_column] * across
    values = upper * (1 - down[:, None]) + lower * down[:, None]
    return (values > 0) & rows_inside[:, None] & columns_inside[None, :]


def write_png(file, pixels):
    """RGB pixels as a PNG file, without a library."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(np.uint8))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pathlib.Path(file).write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def overlay(file, region):
    """The mask in half-transparent green, and the window's edge in white."""
    grid = manifest()["input_side"]
    camera = source(window_of(region), False)
    if not hasattr(camera, "pictures"):
        raise ValueError("overlay: expected a camera, found a recording, which has no pictures")
    advice = "does the camera deliver frames, and is network.rpk the one of this package?"
    found = results(camera.pictures(), ["CnnOutputTensor", "picture", "region"], advice)
    for metadata in itertools.islice(found, STALE_RESULTS + 1):
        pass
    picture, place = metadata["picture"], metadata["region"]
    mask = mask_on(picture.shape, place, logits_of(metadata["CnnOutputTensor"], grid))
    picture[mask] = (picture[mask].astype(int) + np.array([0, 255, 0])) // 2
    left, top, width, height = place
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    for row in (row for row in (top, top + height - 1) if 0 <= row < picture.shape[0]):
        picture[row, columns] = 255
    for column in (column for column in (left, left + width - 1) if 0 <= column < picture.shape[1]):
        picture[rows, column] = 255
    write_png(file, picture)
    print(f"{file}: {int(mask.sum())} pixels of foreground in the window {place} of the picture")


def kpi(n_frames):
    if n_frames < 1:
        raise ValueError(f"{n_frames} frames: expected 1 or more")
    camera, times = source(None, False), []
    for n_seen, metadata in enumerate(results(camera.frames(), ["CnnOutputTensor"], "does the camera deliver frames?")):
        times.extend(filter(None, [camera.milliseconds(metadata)]))
        if len(times) == n_frames or (not times and n_seen >= FRAMES_WITHOUT_TIME):
            break
    if not times:
        raise RuntimeError("no frame says how long it took: does this picamera2 have get_kpi_info?")
    for name, values in zip(("network", "signal processors"), zip(*times)):
        values = sorted(values)
        print(f"{name}: {values[0]:.1f} to {values[-1]:.1f} ms, median {values[len(values) // 2]:.1f} ms, in {len(values)} frames")


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


def injected(tensor, side):
    """The bytes of pixel - 128, [channel, row, column], as the sensor takes them: rows filled up to 32, planes to an even number of rows."""
    planes = np.frombuffer(tensor, dtype=np.uint8).reshape(3, side, side)
    return np.pad(planes, ((0, 0), (0, side % 2), (0, -side % 32))).tobytes()


def check_input_is_kept(what):
    """A package says since Sensei's --no-input-persistency whether the chip keeps its input; older ones keep it."""
    if not manifest().get("input_kept", True):
        raise ValueError(f"{what}: expected a package whose input the chip keeps, found one made with --no-input-persistency")


def inject(origin, target):
    check_input_is_kept("inject")
    side = manifest()["input_side"]
    origin, target = pathlib.Path(origin), pathlib.Path(target)
    inputs = sorted(origin.glob("*.input"))
    if not inputs:
        raise ValueError(f"{origin}: expected NAME.input files, found none")
    for file in inputs:
        if file.stat().st_size != 3 * side * side:
            raise ValueError(f"{file}: expected {3 * side * side} bytes, found {file.stat().st_size}")
    target.mkdir(parents=True, exist_ok=True)
    missing = [file for file in inputs if not (target / file.with_suffix(".output").name).exists()]
    if not missing:
        print(f"{target}: all {len(inputs)} are answered")
        return
    camera = Camera(None, True, injects=True)
    frames = results(camera.frames(), ["CnnOutputTensor", "CnnInputTensor"], "was the network converted with its input kept?")
    answered = 0
    for file in missing:
        tensor = file.read_bytes()
        for attempt in range(INJECTION_TRIES * INJECTION_RESULTS):
            if attempt % INJECTION_RESULTS == 0:
                camera.inject(injected(tensor, side))
            metadata = next(frames, None)
            if metadata is None:
                print(f"{answered} of {len(missing)} answered within the time limit; the same command goes on")
                return
            if input_of(metadata["CnnInputTensor"], side).tobytes() == tensor:
                break
        else:
            raise RuntimeError(f"{file}: the sensor did not give this input back in {INJECTION_TRIES * INJECTION_RESULTS} results")
        # The output last: a pair that has one is whole.
        (target / file.name).write_bytes(tensor)
        part = target / file.with_suffix(".part").name
        np.fromiter(metadata["CnnOutputTensor"], dtype="<f4").tofile(part)
        part.rename(target / file.with_suffix(".output").name)
        answered += 1
    print(f"{answered} inputs answered, {len(inputs)} in {target}; now: sensei replay PACKAGE {target}")


def record(folder, n_frames, region):
    check_input_is_kept("record")
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
    global limit_secs
    arguments = sys.argv[1:]
    try:
        if "--limit" in arguments:
            at = arguments.index("--limit")
            limit_secs = float(arguments[at + 1]) if at + 1 < len(arguments) else 0.0
            if not limit_secs > 0:
                raise ValueError("--limit: expected a number of seconds above 0")
            del arguments[at : at + 2]
        command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if command == "inject" and len(rest) == 2:
            return inject(*rest)
        named = command in ("overlay", "record") and rest
        numbers = list(map(int, rest[1:] if named else rest))
        n_region = n_region_numbers() if command in ("show", "overlay", "record") else 0
        if command == "show" and len(numbers) == n_region:
            show(tuple(numbers))
        elif command == "overlay" and named and len(numbers) == n_region:
            overlay(rest[0], tuple(numbers))
        elif command == "record" and named and len(numbers) in (0, 1, n_region, n_region + 1):
            # An optional number of frames, then an optional region.
            region = tuple(numbers[-n_region:]) if len(numbers) >= n_region else None
            record(rest[0], numbers[0] if len(numbers) in (1, n_region + 1) else 20, region)
        elif command == "kpi" and len(numbers) <= 1:
            kpi(numbers[0] if numbers else 100)
        elif command in ("show", "overlay", "record") and numbers:
            kind = "X Y WIDTH HEIGHT of the object's box" if n_region == 4 else "X Y SIZE"
            raise ValueError(f"region: expected {kind}, found {' '.join(map(str, numbers))}")
        else:
            sys.exit(__doc__)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
