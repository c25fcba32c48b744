"""Drawn annotations and a detector's made-up results, as COCO's and LVIS's files have them."""

import numpy as np
from pycocotools import mask as coco_mask


def ellipse(rng, height, width):
    """A mask [height, width] of a random ellipse."""
    rows, columns = np.mgrid[:height, :width]
    (y, x), (a, b) = rng.uniform(0, [height, width]), rng.uniform(2, [2 + height / 2, 2 + width / 2])
    return (((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1).astype(np.uint8)


def runs(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def scenes(seed, n_images=12, n_categories=4):
    """Annotations and results; some results are near an annotation, some are anywhere, and some scores are equal."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in range(1, n_images + 1):
        height, width = (int(side) for side in rng.integers(40, 160, 2))
        images.append({"id": 3 * image_id, "height": height, "width": width, "file_name": f"val2017/{image_id}.png"})
        for _ in range(int(rng.integers(0, 7))):
            mask = ellipse(rng, height, width)
            if not mask.any():
                continue
            segmentation = runs(mask)
            annotations.append({
                "id": len(annotations) + 1, "image_id": 3 * image_id, "category_id": 2 * int(rng.integers(n_categories)) + 1,
                "iscrowd": int(rng.random() < 0.1), "area": float(mask.sum()),
                "bbox": coco_mask.toBbox(segmentation).tolist(), "segmentation": segmentation,
            })
            for _ in range(int(rng.integers(0, 4))):
                moved = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
                if moved.any():
                    results.append({
                        "image_id": 3 * image_id,
                        "category_id": annotations[-1]["category_id"] if rng.random() < 0.8 else 1,
                        "score": round(float(rng.random()), 1), "segmentation": runs(moved),
                    })
        mask = ellipse(rng, height, width)
        if mask.any():
            results.append({"image_id": 3 * image_id, "category_id": 3, "score": 0.5, "segmentation": runs(mask)})
    categories = [{"id": 2 * idx + 1, "name": f"class {idx}"} for idx in range(n_categories)]
    return {"images": images, "categories": categories, "annotations": annotations}, results
