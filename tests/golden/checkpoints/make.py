#!/usr/bin/env python3
"""Checkpoints as users have them, for crates/student/tests/checkpoints.rs.

Run in this folder, without arguments; it rewrites every *.pt here. Made with torch 2.10.0 (CPU), numpy 2.4.6, Python 3.11.
Each holds the tensors of `state`, whatever lies beside them, but for `refused_*.pt`, which have no tensors of their own
or do not say which are meant. `python2.pt` is written opcode by opcode, as Python 2 pickled a state dict.
"""

import argparse
import collections
import dataclasses
import datetime
import enum
import pathlib
import pickle
import random
import struct

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent

state = collections.OrderedDict(
    [
        ("a.weight", torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        ("a.bias", torch.tensor([5.0, 6.0])),
        ("b.num_batches_tracked", torch.tensor(7)),
    ]
)


class Choice(enum.Enum):
    """Something that has to be imported to be made."""

    ONE = 1


@dataclasses.dataclass
class Settings:
    """The same, filled by BUILD."""

    width: int = 8


class Weights(dict):
    """A dictionary of a class of its own."""


def save(name, what, **how):
    torch.save(what, HERE / f"{name}.pt", **how)


def optimizer():
    """An optimiser that has made a step, and its loss."""
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.AdamW([parameter], lr=1e-3)
    loss = (parameter * 2).mean()
    loss.backward()
    adam.step()
    return adam, loss


def beside():
    """Tensors beside the state dict, and more than one set of weights."""
    adam, loss = optimizer()
    save("beside_loss", {"epoch": 5, "model_state_dict": state, "optimizer": adam.state_dict(), "loss": loss})
    save("beside_rng", {"state_dict": state, "rng_state": torch.get_rng_state(), "cuda": [torch.get_rng_state()]})
    save("beside_class_weights", {"class_weights": torch.ones(8), "model": state})
    save("beside_in_a_dictionary", {"rng": {"cpu": torch.ones(2), "cuda": torch.ones(2)}, "student": state})
    save("wrapper_of_another_name", {"loss": loss.detach(), "generator": state, "steps": {"best": torch.tensor(3)}})
    save("wrapper_in_a_wrapper", {"checkpoint": {"model": {"state_dict": state}, "mean": torch.ones(3)}, "epoch": 3})
    doubled = {name: tensor * 2 for name, tensor in state.items()}
    save("beside_ema", {"ema": doubled, "model": state})
    save("beside_larger", {"teacher": {f"t{idx}": torch.ones(1) for idx in range(9)}, "state_dict": state})
    save("only_ema", {"epoch": 2, "ema": state})
    save("keys_that_are_no_names", {0: torch.ones(2), "model": state, (1, 2): 3})


def objects():
    """Objects of other classes, none of which may be made."""
    adam, _ = optimizer()
    steps = torch.optim.lr_scheduler.MultiStepLR(adam, [10, 20]).state_dict()
    save("counter", {"model": state, "scheduler": steps})
    save("device_and_type", {"model": state, "device": torch.device("cpu"), "dtype": torch.float32, "size": torch.Size([2])})
    numbers = {"scalar": np.float64(0.61), "array": np.arange(3), "legacy": np.random.RandomState(0).get_state()}
    generator = {"pcg": np.random.default_rng(0).bit_generator.state, "python": random.Random(0).getstate()}
    save("numpy", {"model": state, **numbers, **generator})
    save("namespace", {"model": state, "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"))})
    save("defaultdict", {"state_dict": collections.defaultdict(list, state), "log": collections.defaultdict(list, {"loss": [1.0]})})
    save("own_dictionary", {"model": Weights(state)})
    misc = {"set": {1, 2}, "frozen": frozenset([3]), "bytes": b"\x00\xff", "long": 1 << 90, "path": pathlib.PurePosixPath("/tmp/x")}
    more = {"day": datetime.date(2026, 1, 1), "choice": Choice.ONE, "settings": Settings(), "queue": collections.deque([1], 4)}
    save("objects", {"model": state, **misc, **more, "function": print, "complex": 1j})
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    rare = {"quantized": quantized, "complex": torch.ones(2, dtype=torch.cfloat), "sparse": torch.eye(2).to_sparse()}
    wide = {"float8": torch.ones(2).to(torch.float8_e4m3fn), "uint16": torch.ones(2).to(torch.uint16)}
    save("rare_tensors", {"model": {**state, **rare, **wide}})


def tensors():
    """Other ways to write a tensor."""
    parameter = lambda t: torch.nn.Parameter(t) if t.is_floating_point() else t
    save("parameters", collections.OrderedDict((name, parameter(t)) for name, t in state.items()))
    tagged = collections.OrderedDict((name, parameter(t.clone())) for name, t in state.items())
    tagged["a.weight"].note = "an attribute"
    tagged["a.bias"] = state["a.bias"].clone()
    tagged["a.bias"].note = "of a tensor"
    save("attributes", tagged)
    for protocol in (3, 4, 5):
        save(f"protocol_{protocol}", {"model": state, "long": 1 << 90, "set": {1}}, pickle_protocol=protocol)


def legacy():
    """The layout before PyTorch 1.6."""
    old = {"_use_new_zipfile_serialization": False}
    adam, loss = optimizer()
    save("legacy", state, **old)
    save("legacy_beside", {"epoch": 5, "model": state, "optimizer": adam.state_dict(), "loss": loss}, **old)
    save("legacy_protocol_4", state, pickle_protocol=4, **old)
    base = torch.arange(7.0)
    views = {"a.weight": base[1:5].reshape(2, 2), "a.bias": base[5:], "double": torch.ones(1, dtype=torch.float64)}
    save("legacy_views", {"state_dict": views, "half": torch.ones(3).half()}, **old)


def python2():
    """A state dict as Python 2.7 and PyTorch 0.4 wrote it: byte strings, OrderedDict of a list of pairs."""
    text = lambda s: b"U" + bytes([len(s)]) + s.encode()
    number = lambda n: b"K" + bytes([n])

    def tensor(key, n_stored, offset, shape, stride):
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(n_stored)
        sizes = lambda values: b"(" + b"".join(number(v) for v in values) + b"t"
        view = b"(" + text("v") + number(1) + number(4) + b"t" if offset is None else b"N"
        start = number(0 if offset is None else offset)
        rest = start + sizes(shape) + sizes(stride) + b"\x89" + b"ccollections\nOrderedDict\n]\x85RtR"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tQ" + rest

    pair = lambda name, tensor: b"(" + text(name) + tensor + b"e"
    pairs = [("a.weight", tensor("10", 7, None, (2, 2), (2, 1))), ("a.bias", tensor("20", 2, 0, (2,), (1,)))]
    items = b"](" + b"".join(b"]" + pair(name, t) for name, t in pairs) + b"e"
    state = b"\x80\x02ccollections\nOrderedDict\n" + items + b"\x85R."
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}]
    stored = struct.pack("<q7f", 7, 0, 1, 2, 3, 4, 5, 6) + struct.pack("<q2f", 2, 5, 6)
    keys = b"\x80\x02](" + text("10") + text("20") + b"e."
    (HERE / "python2.pt").write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + state + keys + stored)


def refused():
    """Files without one set of weights."""
    save("refused_module", torch.nn.Linear(2, 2))
    save("refused_module_legacy", {"model": torch.nn.Linear(2, 2)}, _use_new_zipfile_serialization=False)
    save("refused_two", {"left": dict(state), "right": dict(state)})
    other = [{"weights": [1.0, 2.0]}, {"a": 1}]
    (HERE / "refused_other_pickle.pt").write_bytes(pickle.dumps(other, 2))


if __name__ == "__main__":
    torch.manual_seed(0)
    for make in (beside, objects, tensors, legacy, python2, refused):
        make()
