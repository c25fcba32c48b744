"""Times training steps or forward passes of PicoSAM2 at 96 x 96 in PyTorch on a GPU, as crates/train/benches/gpu.rs does.

usage: torch_gpu.py train|eval BATCH REPEATS [compile] [f16|bf16]
"""
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/golden/student"))
from make import full  # noqa: E402
from torch_step import distillation_loss  # noqa: E402


def ramp(batch, channels):
    values = torch.arange(batch * channels * 96 * 96) * 37 % 256 / 128.0 - 1.0
    return values.reshape(batch, channels, 96, 96).cuda()


def main():
    what, batch, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = sys.argv[4:]
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(next((o for o in options if o.endswith("16")), None))
    torch.manual_seed(0)
    model = full("picosam2").float().cuda().to(memory_format=torch.channels_last)
    model = model.train() if what == "train" else model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    if "compile" in options:
        model = torch.compile(model)
    image, logits = ramp(batch, 3).to(memory_format=torch.channels_last), ramp(batch, 1)
    teacher, truth = torch.sigmoid(logits), (logits > 0).float()

    def step():
        with torch.autocast("cuda", dtype=dtype or torch.float16, enabled=dtype is not None):
            found = model(image)
        found = found.float()
        loss = distillation_loss(found, teacher, truth)
        assert torch.isfinite(loss).item()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.cuda.synchronize()

    def forward():
        with torch.inference_mode():
            model(image).cpu()

    run = step if what == "train" else forward
    for _ in range(3):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[repeats // 2]
    print(f"median_ms {1e3 * median:.2f} images_per_second {batch / median:.1f} torch {torch.__version__}")


main()
