#!/usr/bin/env python3
"""Reference tensors for crates/student and crates/train, computed by PyTorch.

Run in this folder, without arguments; it rewrites every case below. Made with torch 2.15.0 (CPU), numpy 2.4.6,
safetensors 0.8.0, Python's own `random` not used; seeds are in the code.

`names/names.json`: for each of "picosam2" and "picosam3" a list of [name, shape] in state-dict order.

`picosam2_small/data.safetensors`, `picosam3_small/data.safetensors`: input 32 x 32, encoder 8, 12, 16, 24,
bottleneck 32, decoder 24, 16, 12, 8, batch 4. Everything is computed in 64 bits from 32-bit weights and input.
    input [4,3,32,32], target [4,1,32,32] (0 or 1)             f32
    weight/NAME            weights and statistics at the start   f32
    logits_eval            with the running statistics           f32 (rounded)
    logits_train           with the batch's statistics           f32 (rounded)
    loss [1]               of logits_train                       f64
    grad/NAME              of the loss, every parameter          f32 (rounded)
    stats/NAME             running statistics after one forward  f32 (rounded)
    adamw/start/NAME       batch norms at the start of ten steps, instead of weight/NAME   f32
    adamw/loss [10]        loss before each of ten steps         f64
    adamw/weight/NAME      weights and statistics after them     f32 (rounded)
    adamw/n_undetermined [1]  parameters that have none           f64
The loss is mean BCE with logits plus mean over samples of 1 - (2 sum(py) + 1e-6) / (sum(p) + sum(y) + 1e-6). AdamW:
lr 3e-4, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01 on every parameter; input and target are the same each step.
A value that rounding moves over a ReLU's kink changes the gradient by parts in a thousand, and AdamW carries it on, so
the ten steps start from batch norms that keep every value KINK_MARGIN away from every kink: three quarters of the channels
pass and one quarter does not. The shift of a batch norm whose channels all pass or not is then taken out by the next batch
norm: its gradient is zero but for rounding, AdamW makes steps of any sign of that, and it is left out.

`picosam2_full/data.safetensors`, `picosam3_full/data.safetensors`, `bilinear_full/data.safetensors`,
`relu6_full/data.safetensors`, `mobile_full/data.safetensors`: the published sizes
at 96 x 96, batch 2; the third is picosam2's with bilinear upsampling, the fourth
picosam2's with ReLU6 and 4 added to all shifts of batch norms, so that many values go beyond 6, the last that with depthwise
blocks of stride 2 at the ends of its stages. Weights and input come from `formula`, which the reader of the case repeats, so they are not stored.
    logits_eval, logits_train [2,1,96,96]                        f32 (rounded)
    loss [1]                                                     f64
    grad_norm/NAME [1]     Euclidean length of the gradient      f64
    grad_sample/NAME       its values at flat indices i * n // m, i < m = min(64, n)   f32 (rounded)

`lite_full/data.safetensors`: the same of a U-Net on five stages of EfficientNet-Lite0 at 64 x 64, with 4 added to all shifts.
`lite_published/data.safetensors`: logits_eval of that network where the encoder's batch norms have the published epsilon and the input is
    (pixel - 127) / 128. The taps of the stem that would read padding are 0, so that the padding's colour does not matter.

`picosam3_small/*.pt` (state_dict, wrapped, halved_views), `hostile/*.pt`: see `write_checkpoints`, `write_hostile`.
"""

import io
import json
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent

KINK_MARGIN = 0.1


def block(in_channels, out_channels, activation=nn.ReLU, stride=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        activation(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        activation(inplace=True),
    )


class Gate(nn.Module):
    """PicoSAM3's channel gate."""

    def __init__(self, channels):
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x):
        return x * torch.sigmoid(self.conv1x1(x.mean((2, 3), keepdim=True)))


class Unet(nn.Module):
    """Both flavours, after papers' text and tables; module names are the published ones. And picosam2 with one thing changed:
    "bilinear" the upsampling, "relu6" the activation; "mobile" has that and depthwise downsampling."""

    def __init__(self, flavour, encoder, bottleneck, decoder):
        super().__init__()
        self.flavour, self.n_stages = flavour, len(encoder)
        activation = nn.ReLU6 if flavour in ("relu6", "mobile") else nn.ReLU
        channels = 3
        for stage, width in enumerate(encoder, 1):
            self.add_module(f"encoder_stage{stage}", block(channels, width, activation))
            dense = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
            down = block(width, width, activation, stride=2) if flavour == "mobile" else dense
            self.add_module(f"down{stage}", down)
            channels = width
        if flavour == "picosam3":
            self.bottleneck = nn.Sequential(
                block(channels, bottleneck),
                nn.Conv2d(bottleneck, bottleneck, 3, padding=2, dilation=2, groups=bottleneck, bias=False),
                nn.BatchNorm2d(bottleneck),
                nn.ReLU(inplace=True),
                nn.Conv2d(bottleneck, bottleneck, 1, bias=False),
                nn.BatchNorm2d(bottleneck),
                nn.ReLU(inplace=True),
            )
        else:
            self.bottleneck = block(channels, bottleneck, activation)
        channels = bottleneck
        for idx, width in enumerate(decoder):
            mode = "bilinear" if flavour == "bilinear" else "nearest"
            up = nn.Sequential(nn.Upsample(scale_factor=2, mode=mode), block(channels, width, activation))
            self.add_module(f"up{idx + 1}", up)
            skip = self.n_stages - idx
            self.add_module(f"skip_conn{skip}", nn.Conv2d(encoder[skip - 1], width, 1))
            channels = width
        if flavour == "picosam3":
            self.eca = Gate(channels)
            self.refine = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, 1, 1),
            )
        else:
            self.output_head = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        skips = []
        for stage in range(1, self.n_stages + 1):
            x = getattr(self, f"encoder_stage{stage}")(x)
            skips.append(x)
            x = getattr(self, f"down{stage}")(x)
        x = self.bottleneck(x)
        for idx in range(self.n_stages):
            skip = self.n_stages - idx
            x = getattr(self, f"up{idx + 1}")(x) + getattr(self, f"skip_conn{skip}")(skips[skip - 1])
        return self.refine(self.eca(x)) if self.flavour == "picosam3" else self.output_head(x)


class InvertedResidual(nn.Module):
    """A block of EfficientNet-Lite0 under its published names."""

    def __init__(self, channels, expansion, kernel, stride, out_channels):
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide)
        self._project_conv = nn.Conv2d(wide, out_channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out_channels)
        self.expands, self.adds = expansion > 1, stride == 1 and channels == out_channels

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.adds else y


class LiteEncoder(nn.Module):
    """Five stages: every output before a stride, and the last."""

    def __init__(self):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32)
        self._blocks = nn.ModuleList()
        channels, self.starts = 32, []
        for blocks, expansion, kernel, stride, width in [
            (1, 1, 3, 1, 16),
            (2, 6, 3, 2, 24),
            (2, 6, 5, 2, 40),
            (3, 6, 3, 2, 80),
            (3, 6, 5, 1, 112),
        ]:
            for idx in range(blocks):
                self.starts += [len(self._blocks)] if idx == 0 and stride == 2 else []
                step = stride if idx == 0 else 1
                self._blocks.append(InvertedResidual(channels, expansion, kernel, step, width))
                channels = width

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        skips = []
        for idx, one in enumerate(self._blocks):
            skips += [x] if idx in self.starts else []
            x = one(x)
        return skips, x


class LiteUnet(nn.Module):
    """That, and a depthwise decoder with bilinear upsampling."""

    def __init__(self, decoder=(24, 16, 12, 8)):
        super().__init__()
        self.encoder = LiteEncoder()
        channels = 112
        for stage, (width, skip) in enumerate(zip(decoder, (40, 24, 16, None)), 1):
            up = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), block(channels, width, nn.ReLU6))
            self.add_module(f"up{stage}", up)
            if skip is not None:
                self.add_module(f"skip_conn{stage}", nn.Conv2d(skip, width, 1))
            channels = width
        self.refine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, x):
        skips, x = self.encoder(x)
        for stage in range(1, 5):
            x = getattr(self, f"up{stage}")(x)
            if skips:
                x = x + getattr(self, f"skip_conn{stage}")(skips.pop())
        return self.refine(x)


def small(flavour):
    return Unet(flavour, [8, 12, 16, 24], 32, [24, 16, 12, 8])


def full(flavour):
    return Unet(flavour, [48, 96, 160, 256], 320, [192, 128, 80, 40])


def loss_of(logits, target):
    p = torch.sigmoid(logits)
    overlap, total = (p * target).sum((1, 2, 3)), p.sum((1, 2, 3)) + target.sum((1, 2, 3))
    dice = 1 - ((2 * overlap + 1e-6) / (total + 1e-6)).mean()
    return F.binary_cross_entropy_with_logits(logits, target) + dice


# The formula: 64-bit integer hashing (splitmix64 over an FNV-1a hash of the name), 24 bits to a float.

MASK = (1 << 64) - 1


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def unit(name, n):
    """n values in [0, 1), multiples of 2^-24."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def formula(name, shape):
    """The value of a named tensor, f32: kaiming-like weights, batch norms and statistics away from 1 and 0."""
    u = unit(name, int(np.prod(shape)))
    if len(shape) == 4:
        values = (2 * u - 1) * np.sqrt(6.0 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 0.5 + u
    elif name.endswith("running_mean"):
        values = (2 * u - 1) * 0.125
    elif name.endswith("weight"):
        values = 0.5 + u
    else:
        values = (2 * u - 1) * 0.25
    return values.astype(np.float32).reshape(shape)


def formula_input(batch, size, name="input"):
    """Images of slanted ramps with noise in (pixel - 128) / 128, and discs as targets."""
    b, c, y, x = np.meshgrid(*(np.arange(n) for n in (batch, 3, size, size)), indexing="ij")
    noise = np.floor(unit(name, b.size) * 64).astype(np.int64).reshape(b.shape)
    pixel = ((c + 2) * x + (3 - c + 2 * b) * y + noise) % 256
    b, _, y, x = np.meshgrid(np.arange(batch), [0], np.arange(size), np.arange(size), indexing="ij")
    distance = (x - size // 2 + 2 * b) ** 2 + (y - size // 2 - b) ** 2
    target = distance * 16 < size * size
    return ((pixel - 128) / 128).astype(np.float32), target.astype(np.float32)


def load_formula(model):
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(formula(name, tuple(tensor.shape)))
    model.load_state_dict(state, strict=False)


def named(model):
    """Parameters and running statistics."""
    return {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}


def f32(tensor):
    return tensor.detach().numpy().astype(np.float32)


def make_small(flavour):
    torch.manual_seed(20251 if flavour == "picosam2" else 20252)
    model = small(flavour)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    start = {name: tensor.clone() for name, tensor in named(model).items()}
    image, target = formula_input(4, 32)
    data = {"input": image, "target": target}
    data.update({f"weight/{name}": f32(tensor) for name, tensor in start.items()})
    write_checkpoints(flavour, model)

    model = model.double()
    image, target = torch.from_numpy(image).double(), torch.from_numpy(target).double()
    model.eval()
    data["logits_eval"] = f32(model(image))
    model.train()
    logits = model(image)
    loss = loss_of(logits, target)
    loss.backward()
    data["logits_train"], data["loss"] = f32(logits), np.array([loss.item()])
    data.update({f"grad/{name}": f32(p.grad) for name, p in model.named_parameters()})
    data.update({f"stats/{name}": f32(t) for name, t in named(model).items() if "running" in name})

    model.load_state_dict({name: tensor.double() for name, tensor in start.items()}, strict=False)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            channel = torch.arange(module.num_features)
            module.weight.data.copy_(0.2 + 0.01 * (channel % 7))
            module.bias.data.copy_(torch.where(channel % 4 == 3, -2.5, 2.5))
            data[f"adamw/start/{name}.weight"] = f32(module.weight)
            data[f"adamw/start/{name}.bias"] = f32(module.bias)
            # What is rounded is what is used.
            module.weight.data.copy_(torch.from_numpy(data[f"adamw/start/{name}.weight"]))
    losses, margin, undetermined = take_ten_steps(model, image, target)
    assert margin >= KINK_MARGIN, margin
    data["adamw/loss"] = np.array(losses)
    data["adamw/n_undetermined"] = np.array([float(len(undetermined))])
    kept = {name: tensor for name, tensor in named(model).items() if name not in undetermined}
    data.update({f"adamw/weight/{name}": f32(tensor) for name, tensor in kept.items()})
    write(f"{flavour}_small", data)


def take_ten_steps(model, image, target):
    """Losses, the least distance of a value to a ReLU's kink, and the parameters without a gradient."""
    distances, largest = [], {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: distances.append(inputs[0].detach().abs().min().item()))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model(image), target)
        loss.backward()
        for name, parameter in model.named_parameters():
            largest[name] = max(largest.get(name, 0.0), parameter.grad.abs().max().item())
        optimizer.step()
        losses.append(loss.item())
    for hook in hooks:
        hook.remove()
    return losses, min(distances), {name for name, value in largest.items() if value < 1e-12}


def make_full(flavour):
    model, size = (LiteUnet(), 64) if flavour == "lite" else (full(flavour), 96)
    load_formula(model)
    if flavour in ("relu6", "mobile", "lite"):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.data += 4
    image, target = formula_input(2, size)
    image, target = torch.from_numpy(image).double(), torch.from_numpy(target).double()
    model = model.double()
    model.eval()
    data = {"logits_eval": f32(model(image))}
    model.train()
    logits = model(image)
    loss = loss_of(logits, target)
    loss.backward()
    data["logits_train"], data["loss"] = f32(logits), np.array([loss.item()])
    for name, p in model.named_parameters():
        grad = p.grad.flatten()
        m = min(64, grad.numel())
        data[f"grad_norm/{name}"] = np.array([grad.norm().item()])
        data[f"grad_sample/{name}"] = f32(grad[[i * grad.numel() // m for i in range(m)]])
    write(f"{flavour}_full", data)


def make_lite_published():
    model = LiteUnet()
    load_formula(model)
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    stem = model.encoder._conv_stem.weight.data
    stem[:, :, 0, :] = 0
    stem[:, :, :, 0] = 0
    image, _ = formula_input(2, 64)
    published = torch.from_numpy(image).double() + 1 / 128
    write("lite_published", {"logits_eval": f32(model.double().eval()(published))})


def write(case, data):
    (HERE / case).mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in data.items()}, HERE / case / "data.safetensors")


def make_names():
    names = {}
    for flavour in ("picosam2", "picosam3"):
        state = full(flavour).state_dict()
        names[flavour] = [[name, list(tensor.shape)] for name, tensor in state.items()]
    (HERE / "names").mkdir(exist_ok=True)
    lines = [
        f'  "{flavour}": [\n' + ",\n".join(f"    {json.dumps(entry)}" for entry in entries) + "\n  ]"
        for flavour, entries in names.items()
    ]
    (HERE / "names" / "names.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_checkpoints(flavour, model):
    """What users have: `torch.save` of a state dict, wrapped, `module.`-prefixed, halved, as a view."""
    if flavour != "picosam3":
        return
    folder = HERE / "picosam3_small"
    folder.mkdir(exist_ok=True)
    state = model.state_dict()
    torch.save(state, folder / "state_dict.pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    wrapped = {
        "epoch": 3,
        "loss": 0.25,
        "model": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
        "optimizer": optimizer.state_dict(),
        "note": None,
        "done": False,
    }
    torch.save(wrapped, folder / "wrapped.pt")
    # Half the bits, and the parts of one tensor as transposed and offset views of a larger storage.
    halved = OrderedDict((name, t.half() if t.is_floating_point() else t) for name, t in state.items())
    halved["skip_conn4.weight"] = state["skip_conn4.weight"].bfloat16()
    halved["skip_conn3.weight"] = state["skip_conn3.weight"].double()
    base = torch.zeros(3, *state["down1.weight"].shape)
    base[1] = state["down1.weight"]
    halved["down1.weight"] = base[1].permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    halved["down2.weight"] = torch.stack([state["down2.weight"]] * 2)[1]
    torch.save({"state_dict": halved}, folder / "halved_views.pt")


class Raw:
    """A pickle written opcode by opcode."""

    def __init__(self):
        self.out = io.BytesIO()
        self.out.write(b"\x80\x02")

    def op(self, *parts):
        for part in parts:
            self.out.write(part)
        return self

    def text(self, text):
        encoded = text.encode()
        return self.op(b"X", struct.pack("<I", len(encoded)), encoded)

    def int(self, value):
        if 0 <= value < 1 << 31:
            return self.op(b"J", struct.pack("<i", value))
        encoded = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return self.op(b"\x8a", bytes([len(encoded)]), encoded)

    def ints(self, values):
        self.op(b"(")
        for value in values:
            self.int(value)
        return self.op(b"t")

    def tensor(self, key="0", storage="FloatStorage", numel=4, offset=0, shape=(4,), stride=(1,)):
        self.op(b"ctorch._utils\n_rebuild_tensor_v2\n((").text("storage").op(b"ctorch\n", storage.encode(), b"\n")
        self.text(key).text("cpu").int(numel).op(b"tQ").int(offset).ints(shape).ints(stride)
        return self.op(b"\x89ccollections\nOrderedDict\n)RtR")

    def entry(self, name, **tensor):
        return self.text(name).tensor(**tensor).op(b"s")

    def bytes(self):
        return self.out.getvalue() + b"."


def archive(path, pickled, storages=None, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    fixed = lambda name: zipfile.ZipInfo(f"x/{name}", (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(fixed("data.pkl"), pickled, compression)
        z.writestr(fixed("byteorder"), byteorder)
        for key, content in (storages if storages is not None else {"0": struct.pack("<4f", 1, 2, 3, 4)}).items():
            z.writestr(fixed(f"data/{key}"), content, compression)


def write_hostile():
    """Checkpoints that must be refused, each for one reason. None is ever unpickled here."""
    folder = HERE / "hostile"
    folder.mkdir(exist_ok=True)
    good = Raw().op(b"}").entry("a").bytes()
    archive(folder / "good.pt", good)

    class System:
        def __reduce__(self):
            import os

            return os.system, ("echo owned > /tmp/sensei-owned",)

    archive(folder / "os_system.pt", pickle.dumps({"a": System()}, protocol=2))
    archive(folder / "builtins_eval.pt", Raw().op(b"c__builtin__\neval\n").text("1").op(b"\x85R").bytes())
    archive(folder / "build_on_global.pt", Raw().op(b"ccollections\nOrderedDict\n}").text("a").int(1).op(b"sb").bytes())
    archive(folder / "call_of_a_string.pt", Raw().text("os.system").op(b")R").bytes())
    archive(folder / "protocol_4.pt", pickle.dumps({"a": 1}, protocol=4))
    # Shapes and strides against a storage of four values.
    for name, tensor in {
        "huge_shape": dict(shape=(1 << 40,), stride=(1,)),
        "overflowing_shape": dict(shape=(1 << 40, 1 << 40), stride=(1, 1)),
        "zero_stride": dict(shape=(1 << 30,), stride=(0,)),
        "stride_out_of_bounds": dict(shape=(2, 2), stride=(3, 1)),
        "offset_out_of_bounds": dict(offset=1),
        "negative_stride": dict(shape=(2,), stride=(-1,), offset=1),
        "shape_without_stride": dict(shape=(2, 2), stride=(1,)),
        "storage_smaller_than_said": dict(numel=5),
        "storage_missing": dict(key="1"),
        "storage_outside": dict(key="../../../etc/passwd"),
        "unknown_storage": dict(storage="QUInt8Storage"),
    }.items():
        archive(folder / f"{name}.pt", Raw().op(b"}").entry("a", **tensor).bytes())
    # Many tensors that share one storage: few bytes in the file, many in memory.
    views = Raw().op(b"}")
    for idx in range(20):
        views.entry(f"a{idx}", numel=4096, shape=(4096,))
    archive(folder / "many_views.pt", views.bytes(), {"0": bytes(4 * 4096)})
    # A list of the list before it twice, thirty deep: 2^30 if anyone walks it.
    bomb = Raw().op(b"}").text("a").op(b"(]q\x00")
    for idx in range(30):
        bomb.op(b"](", b"h", bytes([idx]), b"h", bytes([idx]), b"eq", bytes([idx + 1]))
    archive(folder / "memo_bomb.pt", bomb.op(b"ts").bytes())
    archive(folder / "own_member.pt", Raw().op(b"]q\x00h\x00a").bytes())
    archive(folder / "deep_tuples.pt", Raw().op(b")" + b"\x85" * 100_000).bytes())
    archive(folder / "deep_marks.pt", Raw().op(b"(" * 100_000).bytes())
    archive(folder / "memo_of_nothing.pt", Raw().op(b"h\x07").bytes())
    archive(folder / "string_past_the_end.pt", Raw().op(b"X\xff\xff\xff\x7f", b"abc").bytes())
    archive(folder / "pop_of_nothing.pt", Raw().op(b"s").bytes())
    archive(folder / "no_stop.pt", good[:-1])
    archive(folder / "cut_pickle.pt", good[: len(good) // 2])
    archive(folder / "not_a_dict.pt", Raw().op(b"]").bytes())
    archive(folder / "no_tensors.pt", Raw().op(b"}").text("a").int(1).op(b"s").bytes())
    archive(folder / "big_endian.pt", good, byteorder=b"big")
    archive(folder / "compressed.pt", good, compression=zipfile.ZIP_DEFLATED)
    whole = (folder / "good.pt").read_bytes()
    (folder / "cut_archive.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped_bit.pt").write_bytes(whole.replace(struct.pack("<f", 2), struct.pack("<f", 2.5), 1))
    (folder / "empty.pt").write_bytes(b"")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_names()
    for name in ("picosam2", "picosam3"):
        make_small(name)
        make_full(name)
    make_full("bilinear")
    make_full("relu6")
    make_full("mobile")
    make_full("lite")
    make_lite_published()
    write_hostile()
