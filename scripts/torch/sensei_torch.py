"""A student of Sensei as a PyTorch module.

    import sensei_torch
    student = sensei_torch.load("runs/MY")       # a run's folder, after `sensei export`
    logits = student(images)                     # [n, 3, size, size], (pixel - 128) / 128, to [n, 1, size, size]

The network is built as `torch/network.json` says; its tensors are those of `student.safetensors`, under the same names. So what is trained on
here is written with `save_file(student.state_dict(), "mine.safetensors")`, and read by `sensei eval RUN --weights FILE`. Nothing is unpickled.

needs: torch and safetensors
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Student(torch.nn.Module):
    """The operators of a network, one after the other."""

    def __init__(self, network):
        super().__init__()
        self.nodes = network["graph"]["nodes"]
        for node in self.nodes:
            if (conv := conv_of(node)) is None:
                continue
            shape = conv["shape"]
            self._put(node["name"], torch.nn.Conv2d(
                shape["in_channels"], shape["out_channels"], shape["kernel"], shape["stride"], shape["padding"],
                shape["dilation"], shape["groups"], bias=conv["bias"],
            ))
            if conv["batch_norm"] is not None:
                norm = torch.nn.BatchNorm2d(shape["out_channels"], eps=network["batch_norm_epsilon"])
                self._put(conv["batch_norm"], norm)

    def _put(self, path, module):
        """Puts a module where its tensors get the names that the file has."""
        *parents, last = path.split(".")
        at = self
        for name in parents:
            if name not in at._modules:
                at.add_module(name, torch.nn.Module())
            at = at._modules[name]
        if last in at._modules:
            raise ValueError(f"{path}: expected one module of this name, found two")
        at.add_module(last, module)

    def forward(self, images):
        """Mask logits `[n, 1, size, size]` of images `[n, 3, size, size]`, which are `(pixel - 128) / 128`."""
        values = []
        for node in self.nodes:
            inputs = [values[idx] for idx in node["inputs"]]
            values.append(self._compute(node, inputs) if inputs else images)
        return values[-1]

    def _compute(self, node, inputs):
        match node["op"]:
            case {"Conv": conv}:
                value = self.get_submodule(node["name"])(inputs[0])
                if conv["batch_norm"] is not None:
                    value = self.get_submodule(conv["batch_norm"])(value)
                # The network's file keeps what ends a convolution as false, true or 6.
                match conv["relu"]:
                    case False:
                        return value
                    case True:
                        return F.relu(value)
                    case 6:
                        return F.relu6(value)
            case {"Upsample2x": "Nearest"}:
                return F.interpolate(inputs[0], scale_factor=2, mode="nearest")
            case {"Upsample2x": "Bilinear"}:
                return F.interpolate(inputs[0], scale_factor=2, mode="bilinear", align_corners=False)
            case "Add":
                return inputs[0] + inputs[1]
            case "GlobalAveragePool":
                return inputs[0].mean(dim=(2, 3), keepdim=True)
            case "Sigmoid":
                return torch.sigmoid(inputs[0])
            case "ScaleChannels":
                return inputs[0] * inputs[1]
        raise ValueError(f"{node['name']}: expected an operator of format 1, found {node['op']}")


def conv_of(node):
    """What is known of a node's convolution, if it is one."""
    return node["op"].get("Conv") if isinstance(node["op"], dict) else None


def load(folder):
    """The trained student of a run's folder, in evaluation mode."""
    folder = pathlib.Path(folder)
    file = folder / "torch" / "network.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the folder of a run after `sensei export`, found no such file")
    network = json.loads(file.read_text())
    if network["format"] != 1:
        raise ValueError(f"{file}: expected format 1, found {network['format']}")
    student = Student(network)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    return student.eval()
