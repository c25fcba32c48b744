"""Times whole training steps of a recipe's first stage in PyTorch: forward, mean squared difference of embeddings, backward, AdamW.

usage: torch_recipe_step.py THREADS BATCH REPEATS SIDE [channels_last]

The network is `lite_fpn` of crates/student/src/lite_fpn.rs with 11 blocks, 128 channels and one block behind the pyramid, random weights.
Written for torch 2.x on the CPU.
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

# Blocks, expansion, kernel, stride, channels: EfficientNet-Lite0's first five stages.
STAGES = [(1, 1, 3, 1, 16), (2, 6, 3, 2, 24), (2, 6, 5, 2, 40), (3, 6, 3, 2, 80), (3, 6, 5, 1, 112)]


def conv(ins, outs, kernel, stride=1, groups=1, act=True):
    layers = [nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if act else []))


class Block(nn.Module):
    def __init__(self, ins, expansion, kernel, stride, outs):
        super().__init__()
        wide = ins * expansion
        expand = [conv(ins, wide, 1)] if expansion > 1 else []
        self.body = nn.Sequential(*expand, conv(wide, wide, kernel, stride, wide), conv(wide, outs, 1, act=False))
        self.adds = stride == 1 and ins == outs

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class LiteFpn(nn.Module):
    def __init__(self, side, width=128):
        super().__init__()
        self.stem, self.blocks, ins, channels = conv(3, 32, 3, 2), nn.ModuleList(), 32, [32]
        self.halvings = []
        for n, expansion, kernel, stride, outs in STAGES:
            for idx in range(n):
                self.halvings.append(stride == 2 and idx == 0)
                if self.halvings[-1]:
                    channels.append(ins)
                self.blocks.append(Block(ins, expansion, kernel, stride if idx == 0 else 1, outs))
                ins = outs
        self.levels = (side // 16).bit_length() - 1
        n_up = 6 - self.levels
        maps = [ins] + channels[1:][::-1][:n_up]
        self.laterals = nn.ModuleList(conv(c, width, 1, act=False) for c in maps)
        self.refine = nn.Sequential(conv(width, width, 3, groups=width), conv(width, width, 1))
        self.embedding = nn.Conv2d(width, 256, 1)

    def forward(self, x):
        x, skips = self.stem(x), []
        for halves, block in zip(self.halvings, self.blocks):
            if halves:
                skips.append(x)
            x = block(x)
        x = self.laterals[0](x)
        for lateral in list(self.laterals)[1:]:
            x = F.interpolate(x, scale_factor=2, mode="nearest") + lateral(skips.pop())
        return self.embedding(self.refine(x))


def main():
    threads, batch, repeats, side = map(int, sys.argv[1:5])
    layout = torch.channels_last if "channels_last" in sys.argv[5:] else torch.contiguous_format
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LiteFpn(side).to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    image = torch.randn(batch, 3, side, side).to(memory_format=layout)
    target = torch.randn(batch, 256, 64, 64)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(image), target)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    parameters = sum(p.numel() for p in model.parameters())
    print(f"median_ms {1e3 * seconds[len(seconds) // 2]:.1f} min_ms {1e3 * seconds[0]:.1f} parameters {parameters} torch {torch.__version__}")


if __name__ == "__main__":
    main()
