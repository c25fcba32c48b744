"""The percentile definition of the bootstrap: numpy's default. Writes data.safetensors beside this file.

Versions: Python 3.11, numpy 2.4.6, safetensors 0.8.0. Seed 603. Run: python3 make.py

values_K    [n] f64  ascending, n = 1, 2, 3, 40, 1001
quantiles_K [5] f64  at 0, 0.025, 0.5, 0.975, 1
"""
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(603)
tensors = {}
for idx, n in enumerate((1, 2, 3, 40, 1001)):
    values = np.sort(rng.normal(size=n))
    tensors[f"values_{idx}"] = values
    tensors[f"quantiles_{idx}"] = np.percentile(values, [0, 2.5, 50, 97.5, 100])
save_file(tensors, Path(__file__).parent / "data.safetensors")
