#!/usr/bin/env python3
"""Asks a SAM-family teacher for the mask of every annotated box of a COCO-format data set and writes a dump.

The dump (docs/formats/teacher-dump.md) is what `sensei teacher import` turns into a teacher cache. Per non-crowd
instance it holds a context crop of the teacher's mask logits, large enough that any jittered region of interest can
be cut from it without asking the teacher again. See README.md beside this file.

Written for python 3.11+, numpy 2.4.6, pillow 13.0.0, safetensors 0.8.0; onnxruntime 1.31.1 for `--teacher mobilesam`;
torch and sam2 for `--teacher sam2`; pycocotools 2.0.11 for `--truth-iou`.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
import time

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

FORMAT = "sensei-teacher-dump"
VERSION = 1
LOW_RES = 256  # side of the logits that the mask decoders of SAM, MobileSAM and SAM 2 put out
ROI_SCALE = 1.2  # PicoSAM3's region of interest: the box padded by 10 % of each side, squared by its longer side
LOGIT_STEP = 0.125
OUTSIDE = -128  # marks a sample whose point lies outside the image; logits saturate at +-127 steps


class MobileSam:
    """MobileSAM, or any SAM 1 type model, as two ONNX files: image encoder and prompt + mask decoder."""

    preprocessing = "sam1: RGB, Pillow bilinear to longest side 1024, ImageNet mean/std, zero-pad right and bottom"
    prompt = "box: corners as points of labels 2 and 3, and one padding point of label -1 at (0, 0): single-mask token"

    def __init__(self, args):
        import onnxruntime

        self.files = [args.encoder, args.decoder]
        self.software = {"onnxruntime": onnxruntime.__version__}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.encoder = onnxruntime.InferenceSession(args.encoder, options, providers=providers)
        self.decoder = onnxruntime.InferenceSession(args.decoder, options, providers=providers)
        self.decoder_inputs = {x.name for x in self.decoder.get_inputs()}
        self.run_options = onnxruntime.RunOptions()
        # The published decoder ends with a resize to the image's size, which nobody reads here.
        self.run_options.only_execute_path_to_fetches = True

    def set_image(self, rgb):
        """rgb: PIL image. Returns (x, y): low-resolution logits per image pixel."""
        width, height = rgb.size
        scale = 1024 / max(width, height)
        resized = rgb.resize((int(width * scale + 0.5), int(height * scale + 0.5)), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, np.float32)
        mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
        letterbox = np.zeros((1, 3, 1024, 1024), np.float32)
        letterbox[0, :, : resized.height, : resized.width] = ((pixels - mean) / std).transpose(2, 0, 1)
        name = self.encoder.get_inputs()[0].name
        self.embedding = self.encoder.run(None, {name: letterbox})[0]
        self.point_scale = scale
        self.size = (height, width)
        return resized.width / width * LOW_RES / 1024, resized.height / height * LOW_RES / 1024

    def masks(self, boxes):
        """boxes: [N, 4] x0 y0 x1 y1 in image pixels. Yields (logits [256, 256], predicted IoU)."""
        for box in boxes:
            feed = {
                "image_embeddings": self.embedding,
                "point_coords": np.float32([[box[:2] * self.point_scale, box[2:] * self.point_scale, (0, 0)]]),
                "point_labels": np.float32([[2, 3, -1]]),
                "mask_input": np.zeros((1, 1, LOW_RES, LOW_RES), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.float32(self.size),
            }
            feed = {name: value for name, value in feed.items() if name in self.decoder_inputs}
            low_res, score = self.decoder.run(["low_res_masks", "iou_predictions"], feed, self.run_options)
            yield low_res[0, 0], float(score[0, 0])


class Sam2:
    """SAM 2.1 through its own package (github.com/facebookresearch/sam2): a checkpoint and its config's name."""

    preprocessing = "sam2: RGB, SAM2Transforms stretch to 1024x1024, ImageNet mean/std"
    prompt = "box: SAM2ImagePredictor.predict(box, multimask_output=False)"

    def __init__(self, args):
        import torch
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self.torch = torch
        self.files = [args.checkpoint]
        # Installed from its repository, the package `sam2` belongs to a distribution called SAM-2.
        distribution = importlib.metadata.packages_distributions()["sam2"][0]
        self.software = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", distribution)}
        torch.set_num_threads(args.threads)
        self.predictor = SAM2ImagePredictor(build_sam2(args.model_config, args.checkpoint, device=args.device))

    def set_image(self, rgb):
        with self.torch.inference_mode():
            self.predictor.set_image(np.array(rgb))
        return LOW_RES / rgb.width, LOW_RES / rgb.height

    def masks(self, boxes):
        for box in boxes:
            with self.torch.inference_mode():
                _, scores, low_res = self.predictor.predict(
                    box=box.astype(np.float32), multimask_output=False, return_logits=True
                )
            yield np.asarray(low_res[0], np.float32), float(scores[0])


def sample(low_res, xs, ys, scale):
    """Bilinear logits at image points (xs x ys), pixel centres at half integers. Shape [len(ys), len(xs)]."""

    def taps(points, per_pixel):
        at = np.clip(points * per_pixel - 0.5, 0, LOW_RES - 1)
        low = np.minimum(at.astype(np.int64), LOW_RES - 2)
        return low, (at - low).astype(np.float32)

    (x, fx), (y, fy) = taps(xs, scale[0]), taps(ys, scale[1])
    rows = low_res[y] * (1 - fy)[:, None] + low_res[y + 1] * fy[:, None]
    return rows[:, x] * (1 - fx) + rows[:, x + 1] * fx


def context_crop(low_res, scale, bbox, size, context_scale, min_side, grid):
    """The logits around a box as int8 steps [grid, grid], their rectangle in the image, and how many saturated."""
    x, y, w, h = bbox
    side = max(context_scale * ROI_SCALE * max(w, h), min_side)
    x0, y0 = x + w / 2 - side / 2, y + h / 2 - side / 2
    offsets = (np.arange(grid) + 0.5) * (side / grid)
    xs, ys = x0 + offsets, y0 + offsets
    steps = np.rint(sample(low_res, xs, ys, scale) / LOGIT_STEP)
    inside = ((ys >= 0) & (ys < size[1]))[:, None] & ((xs >= 0) & (xs < size[0]))[None, :]
    n_clipped = int((inside & (np.abs(steps) > 127)).sum())
    logits = np.where(inside, np.clip(steps, -127, 127), OUTSIDE).astype(np.int8)
    return logits, (x0, y0, x0 + side, y0 + side), n_clipped


def truth_iou(low_res, scale, annotation, size):
    """IoU of the teacher's full-image mask and the annotation's, at full resolution."""
    from pycocotools import mask as coco_mask

    width, height = size
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    truth = coco_mask.decode(segmentation).astype(bool)
    teacher = sample(low_res, np.arange(width) + 0.5, np.arange(height) + 0.5, scale) > 0
    union = np.logical_or(truth, teacher).sum()
    return float(np.logical_and(truth, teacher).sum() / union) if union else 0.0


def load_annotations(path):
    """Sorted images, their non-crowd annotations by image id, and what is left out, as a list of {id, reason}."""
    coco = json.loads(path.read_bytes())
    by_image, skipped = {image["id"]: [] for image in coco["images"]}, []
    for annotation in sorted(coco["annotations"], key=lambda a: a["id"]):
        x, y, w, h = annotation["bbox"]
        if annotation["image_id"] not in by_image:
            sys.exit(f"{path}: annotation {annotation['id']}: no image {annotation['image_id']}")
        if annotation.get("iscrowd", 0):
            skipped.append({"annotation_id": annotation["id"], "reason": "crowd"})
        elif not (w > 0 and h > 0 and np.isfinite([x, y, w, h]).all()):
            skipped.append({"annotation_id": annotation["id"], "reason": f"empty box {annotation['bbox']}"})
        else:
            by_image[annotation["image_id"]].append(annotation)
    return sorted(coco["images"], key=lambda i: i["id"]), by_image, skipped


def read_rgb(path):
    """The picture as Sensei reads it: 16-bit samples divided by 257, which Pillow would cut at 255; stored pixels, since COCO's
    annotations are in their coordinates: EXIF's orientation is ignored."""
    with Image.open(path) as file:
        if file.mode != "I" and not file.mode.startswith("I;16"):
            return file.convert("RGB")
        grey = np.asarray(file).astype(np.int64)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def pixel_means(pixels):
    """Mean of each colour in each of 4 x 4 cells, rounded half up [4, 4, 3]: what the import compares with what it decodes."""
    height, width, _ = pixels.shape
    means = np.zeros((4, 4, 3), np.uint8)
    for row in range(4):
        for column in range(4):
            cell = pixels[row * height // 4 : (row + 1) * height // 4, column * width // 4 : (column + 1) * width // 4]
            n_pixels = cell.shape[0] * cell.shape[1]
            if n_pixels:
                means[row, column] = (2 * cell.sum((0, 1), np.int64) + n_pixels) // (2 * n_pixels)
    return means


def export_shard(teacher, images, annotations, args, report):
    """Tensors and metadata of one shard; the annotations of an image stay together."""
    columns = {name: [] for name in COLUMNS}
    n_clipped = 0
    for image in images:
        if not annotations[image["id"]]:
            continue
        path = args.images / image["file_name"]
        encoded = path.read_bytes()
        rgb = read_rgb(path)
        if rgb.size != (image["width"], image["height"]):
            sys.exit(f"{path}: expected {image['width']}x{image['height']} pixels, found {rgb.width}x{rgb.height}")
        means = pixel_means(np.asarray(rgb))
        scale = teacher.set_image(rgb)
        boxes = np.float64([a["bbox"] for a in annotations[image["id"]]])
        boxes[:, 2:] += boxes[:, :2]
        for annotation, (low_res, score) in zip(annotations[image["id"]], teacher.masks(boxes), strict=True):
            crop = context_crop(low_res, scale, annotation["bbox"], rgb.size, args.context_scale, args.min_side, args.grid)
            n_clipped += crop[2]
            columns["annotation_id"].append(annotation["id"])
            columns["image_id"].append(image["id"])
            columns["image_sha256"].append(list(hashlib.sha256(encoded).digest()))
            columns["pixel_means"].append(means)
            columns["rect"].append(crop[1])
            columns["predicted_iou"].append(score)
            columns["truth_iou"].append(
                truth_iou(low_res, scale, annotation, rgb.size) if args.truth_iou else float("nan")
            )
            columns["logits"].append(crop[0])
        report(len(boxes))
    tensors = {
        name: np.asarray(columns[name], dtype).reshape(-1, *(args.grid if n == "grid" else n for n in shape))
        for name, (dtype, shape) in COLUMNS.items()
    }
    return save(tensors, {"n_clipped": str(n_clipped)})


COLUMNS = {
    "annotation_id": (np.int64, ()),
    "image_id": (np.int64, ()),
    "image_sha256": (np.uint8, (32,)),
    "pixel_means": (np.uint8, (4, 4, 3)),
    "rect": (np.float64, (4,)),
    "predicted_iou": (np.float32, ()),
    "truth_iou": (np.float32, ()),
    "logits": (np.int8, ("grid", "grid")),
}


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path, content):
    """Under the final name there is either nothing or all of it, on disk."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def describe_run(teacher, args):
    """All that decides the numbers: equal for two runs whose shards may be mixed."""
    files = [{"name": os.path.basename(f), "bytes": os.path.getsize(f), "sha256": sha256_of(f)} for f in teacher.files]
    lines = [f["sha256"] for f in files] + ([args.model_config] if args.model_config else [])
    digest = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    at_least = f", at least {args.min_side} pixels" if args.min_side > 0 else ""
    context = f"context {args.context_scale} x {ROI_SCALE} x longer side{at_least}, grid {args.grid}"
    return {
        "format": FORMAT,
        "version": VERSION,
        "teacher": {"name": args.name, "licence": args.licence, "digest": digest, "files": files},
        "preprocessing": teacher.preprocessing,
        "prompt": f"{teacher.prompt}; {context}",
        "grid": args.grid,
        "logit_step": LOGIT_STEP,
        "dataset": {"annotations": args.annotations.name, "sha256": sha256_of(args.annotations)},
        "images_per_shard": args.images_per_shard,
        "truth_iou": args.truth_iou,
        "software": {
            "numpy": np.__version__,
            "pillow": importlib.metadata.version("pillow"),
            **teacher.software,
        },
    }


def main():
    args = parse_arguments()
    images, annotations, skipped = load_annotations(args.annotations)
    teacher = (MobileSam if args.teacher == "mobilesam" else Sam2)(args)
    run = describe_run(teacher, args)
    args.out.mkdir(parents=True, exist_ok=True)
    started = args.out / "run.json"
    if started.exists() and json.loads(started.read_bytes()) != run:
        sys.exit(f"{args.out}: holds a dump made with other settings (see run.json); choose another folder")
    if not started.exists():
        write_atomically(started, json.dumps(run, indent=1).encode())

    n_instances = sum(map(len, annotations.values()))
    progress = {"images": 0, "instances": 0, "start": time.monotonic()}

    def report(n):
        progress["images"] += 1
        progress["instances"] += n
        seconds = (time.monotonic() - progress["start"]) / progress["images"]
        print(
            f"image {progress['images']}/{n_todo}, {progress['instances']} instances, {seconds:.2f} s/image, "
            f"{seconds * (n_todo - progress['images']) / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )

    chunks = [images[i : i + args.images_per_shard] for i in range(0, len(images), args.images_per_shard)]
    shards = [(args.out / f"shard-{idx:05}.safetensors", chunk) for idx, chunk in enumerate(chunks)]
    todo = [(path, chunk) for path, chunk in shards if not path.exists()]
    n_todo = sum(bool(annotations[image["id"]]) for _, chunk in todo for image in chunk)
    print(f"{len(images)} images, {n_instances} instances; {len(todo)} of {len(shards)} shards to do", file=sys.stderr)
    for path, chunk in todo:
        write_atomically(path, export_shard(teacher, chunk, annotations, args, report))

    entries, n_clipped, truth = [], 0, []
    for path, _ in shards:
        with safe_open(path, "numpy") as shard:
            n_clipped += int(shard.metadata()["n_clipped"])
            n_records = len(shard.get_tensor("annotation_id"))
            truth.append(shard.get_tensor("truth_iou"))
        entries.append({"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path), "records": n_records})
    manifest = {**run, "shards": entries, "records": n_instances, "n_clipped": n_clipped, "skipped": skipped}
    if sum(entry["records"] for entry in entries) != n_instances:
        sys.exit(f"{args.out}: the shards hold other instances than {args.annotations}; choose another folder")
    write_atomically(args.out / "manifest.json", json.dumps(manifest, indent=1).encode())
    print(f"{args.out}: {n_instances} records, {n_clipped} values clipped, {len(skipped)} skipped", file=sys.stderr)
    if args.truth_iou and n_instances:
        print(f"mean IoU of the teacher with the annotations: {np.concatenate(truth).mean():.4f}", file=sys.stderr)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=pathlib.Path, required=True, help="COCO-format JSON")
    parser.add_argument("--images", type=pathlib.Path, required=True, help="folder of its images")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="dump folder; an unfinished one is resumed")
    parser.add_argument("--teacher", choices=["mobilesam", "sam2"], required=True)
    parser.add_argument("--name", required=True, help="teacher's name for manifests and reports")
    parser.add_argument("--licence", required=True, help="licence of the teacher's weights, as an SPDX id")
    parser.add_argument("--encoder", help="mobilesam: encoder .onnx")
    parser.add_argument("--decoder", help="mobilesam: prompt and mask decoder .onnx")
    parser.add_argument("--checkpoint", help="sam2: .pt file")
    parser.add_argument("--model-config", help="sam2: such as configs/sam2.1/sam2.1_hiera_t.yaml")
    parser.add_argument("--device", default="cpu", help="sam2: torch device")
    parser.add_argument("--context-scale", type=float, default=2.0, help="side of the crop / side of the padded box")
    parser.add_argument("--min-side", type=float, default=0.0,
                        help="smallest side of the crop in image pixels; 192 for PicoSAM2's 96-pixel window")
    parser.add_argument("--grid", type=int, default=128, help="samples along a side of the crop")
    parser.add_argument("--images-per-shard", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--truth-iou", action="store_true", help="also store each mask's IoU with the annotation")
    args = parser.parse_args()
    needed = ["encoder", "decoder"] if args.teacher == "mobilesam" else ["checkpoint", "model_config"]
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"--teacher {args.teacher} needs --{name.replace('_', '-')}")
    if not (args.context_scale >= 1 and 16 <= args.grid <= 1024 and args.images_per_shard >= 1):
        parser.error("--context-scale is at least 1, --grid 16 to 1024, --images-per-shard at least 1")
    return args


if __name__ == "__main__":
    main()
