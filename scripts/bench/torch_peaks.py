"""What the machine gives: a large matrix product and a memory copy, by PyTorch (MKL).

usage: torch_peaks.py THREADS REPEATS

Written for torch 2.x on the CPU. Medians of REPEATS; a copy counts what it reads and what it writes.
"""
import sys
import time

import torch


def median_seconds(run, repeats):
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2]


def main():
    threads, repeats = map(int, sys.argv[1:3])
    torch.set_num_threads(threads)
    side, n = 1536, 32 * 1024 * 1024
    a, b, c = (torch.rand(side, side) for _ in range(3))
    product = median_seconds(lambda: torch.mm(a, b, out=c), repeats)
    source, target = torch.ones(n), torch.ones(n)
    copy = median_seconds(lambda: target.copy_(source), repeats)
    print(f"gflops {2 * side**3 / product / 1e9:.1f} copy_gb_per_s {8 * n / copy / 1e9:.1f}")


if __name__ == "__main__":
    main()
