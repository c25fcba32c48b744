"""Golden values of SAM 2.1's image mode with made-up weights, by the package sam2: Tiny at its own 1024 x 1024 into data.safetensors beside
this file, the other sizes at 256 x 256 into small/, base_plus/ and large/.

    pip install sam2==1.1.0 iopath==0.1.10 torch==2.15.0
    python make.py

Versions: sam2 1.1.0, torch 2.15.0 (CPU, float64), numpy 2.4.6, safetensors 0.8.0. No checkpoint was at hand.

Weights and image are not stored: both sides compute them by `made_up` of ../sam/network.py.

shape.NAME          i64           the shape of each tensor of the network, under its published name
embedding           f32           with what stands for no memory, every 16th channel, every 8th row and column, [16, 8, 8]; of 256 x 256, [16, 2, 2]
quarter, eighth     f32           finer features as the decoder adds them, every 16th channel, every 8th row and column
points, labels      f32, i64      two prompts of three points, [2, 3, 2] and [2, 3]
logits              f32           all masks, every 16th row and column, [2, 4, 16, 16]; of 256 x 256, [2, 4, 4, 4]
predicted_iou       f32           [2, 4]
object              f32           logits of there being an object, [2, 1]
refined             f32           logits for the first prompt with a mask given, [1, 4, 16, 16]
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "sam"))
from network import made_up

# configs/sam2.1/sam2.1_hiera_*.yaml, and what SAM2Base and build_sam2 set.
SIZES = {
    ".": (1024, 96, dict(num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9), window_pos_embed_bkg_spatial_size=(7, 7))),
    "small": (256, 96, dict(num_heads=1, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13), window_pos_embed_bkg_spatial_size=(7, 7))),
    "base_plus": (256, 112, dict(num_heads=2)),
    "large": (
        256,
        144,
        dict(
            num_heads=2,
            stages=(2, 6, 36, 4),
            global_att_blocks=(23, 33, 43),
            window_pos_embed_bkg_spatial_size=(7, 7),
            window_spec=(8, 4, 16, 8),
        ),
    ),
}


def network(side, channels, trunk):
    neck_channels = [channels << stage for stage in (3, 2, 1, 0)]
    neck = FpnNeck(PositionEmbeddingSine(256), 256, neck_channels, fpn_interp_model="nearest", fpn_top_down_levels=[2, 3])
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return {
        "image_encoder": ImageEncoder(Hiera(channels, **trunk), neck, scalp=1),
        "sam_prompt_encoder": PromptEncoder(256, (side // 16, side // 16), (side, side), 16),
        "sam_mask_decoder": MaskDecoder(
            transformer_dim=256,
            transformer=transformer,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
        ),
    }


def case(folder, side, channels, trunk):
    parts, shapes = network(side, channels, trunk), {"no_mem_embed": (1, 1, 256)}
    for prefix, part in parts.items():
        state = {}
        for name, tensor in part.state_dict().items():
            shapes[f"{prefix}.{name}"] = tuple(tensor.shape)
            state[name] = torch.from_numpy(made_up(f"{prefix}.{name}", tuple(tensor.shape)))
        part.load_state_dict(state)
        part.double().eval()
    encoder, prompts, decoder = parts.values()
    no_memory = torch.from_numpy(made_up("no_mem_embed", (1, 1, 256))).double()

    image = torch.from_numpy(made_up("image.pixels", (1, side, side, 3))).double().permute(0, 3, 1, 2)
    # FpnNeck upsamples in single precision; all else here is double.
    quarter, eighth, embedding = encoder(image)["backbone_fpn"]
    embedding = embedding + no_memory.reshape(1, 256, 1, 1)
    fine = [decoder.conv_s0(quarter), decoder.conv_s1(eighth)]
    points = torch.tensor([[[100.5, 200.25], [700.0, 900.75], [0.0, 0.0]], [[512.0, 40.0], [13.0, 1000.0], [600.5, 300.5]]])
    points = points * (side / 1024)
    labels = torch.tensor([[2, 3, -1], [1, 0, 1]])
    # The package encodes places in single precision, for which its position table is made.
    prompts.float()
    sparse = prompts._embed_points(points, labels, pad=False).double()
    dense_pe = prompts.get_dense_pe().double()
    prompts.double()
    none = prompts.no_mask_embed.weight.reshape(1, 256, 1, 1)
    none = none.expand(2, -1, side // 16, side // 16)
    logits, iou, _, score = decoder.predict_masks(embedding, dense_pe, sparse, none, True, fine)
    mask = torch.from_numpy(made_up("image.mask", (1, 1, side // 4, side // 4))).double() * 4
    refined = decoder.predict_masks(embedding, dense_pe, sparse[:1], prompts.mask_downscaling(mask), True, fine)[0]

    data = {f"shape.{name}": np.array(shape, np.int64) for name, shape in shapes.items()}
    some = {"embedding": embedding, "quarter": fine[0], "eighth": fine[1]}
    data |= {name: value[0, ::16, ::8, ::8].float().numpy() for name, value in some.items()}
    data |= {"points": points.numpy(), "labels": labels.numpy(), "logits": logits[:, :, ::16, ::16].float().numpy()}
    data |= {"predicted_iou": iou.float().numpy(), "object": score.float().numpy()}
    data |= {"refined": refined[:, :, ::16, ::16].float().numpy()}
    target = pathlib.Path(__file__).parent / folder / "data.safetensors"
    target.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in data.items()}, target)
    print(folder, {name: float(np.abs(value).max()) for name, value in data.items() if not name.startswith("shape.")})


torch.set_grad_enabled(False)
for folder, (side, channels, trunk) in SIZES.items():
    case(folder, side, channels, trunk)
