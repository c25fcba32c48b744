"""Times whole training steps of PicoSAM2 in PyTorch: forward, PicoSAM2's loss, backward, AdamW; or of PicoSAM2 with bilinear
upsampling.

usage: torch_step.py THREADS BATCH REPEATS [channels_last] [bilinear]

Written for torch 2.x on the CPU; prints its version. The network is the one of tests/golden/student/make.py.
"""
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/golden/student"))
from make import full  # noqa: E402


def dice(p, q):
    overlap, total = (p * q).sum((1, 2, 3)), p.sum((1, 2, 3)) + q.sum((1, 2, 3))
    return (1 - (2 * overlap + 1e-6) / (total + 1e-6)).mean()


def distillation_loss(logits, teacher, truth):
    p = torch.sigmoid(logits)
    of_teacher = F.mse_loss(p, teacher) + dice(p, teacher)
    of_truth = F.binary_cross_entropy_with_logits(logits, truth) + dice(p, truth)
    return 0.5 * of_teacher + 0.5 * of_truth


def main():
    threads, batch, repeats = map(int, sys.argv[1:4])
    layout = torch.channels_last if "channels_last" in sys.argv[4:] else torch.contiguous_format
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = full("bilinear" if "bilinear" in sys.argv[4:] else "picosam2").float().to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    image = torch.randn(batch, 3, 96, 96).to(memory_format=layout)
    teacher = torch.sigmoid(torch.randn(batch, 1, 96, 96))
    truth = (torch.rand(batch, 1, 96, 96) > 0.5).float()
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        logits = model(image)
        loss = distillation_loss(logits, teacher, truth)
        assert torch.isfinite(loss).item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[2:])
    print(f"median_ms {1e3 * seconds[repeats // 2]:.1f} min_ms {1e3 * seconds[0]:.1f} torch {torch.__version__}")


if __name__ == "__main__":
    main()
