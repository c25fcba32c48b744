"""Times prompts of one image through SAM's mask decoder in PyTorch, forward and backward, all together or some at a time.

usage: torch_prompts_step.py THREADS PROMPTS AT_ONCE REPEATS

The decoder is MobileSAM's own class (package mobilesam-mirror, or a checkout on PYTHONPATH) with random weights. Written for torch 2.x on the CPU.
"""
import resource
import sys
import time

import torch
from mobile_sam.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer


def main():
    threads, n_prompts, at_once, repeats = map(int, sys.argv[1:5])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256)
    encoder.requires_grad_(False)
    embedding = 0.2 * torch.randn(1, 256, 64, 64)
    slopes = 0.2 * torch.randn(n_prompts, 1, 256, 256)
    at = 40.0 * torch.arange(n_prompts)[:, None]
    boxes = torch.cat([at, at * 0 + 100, at + 300, at * 0 + 600], 1)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        decoder.zero_grad(set_to_none=True)
        leaf = embedding.clone().requires_grad_()
        for first in range(0, n_prompts, at_once):
            own = boxes[first : first + at_once]
            sparse, dense = encoder(points=None, boxes=own, masks=None)
            masks, _ = decoder(
                image_embeddings=leaf,
                image_pe=encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            (masks * slopes[first : first + at_once]).mean().backward()
        assert leaf.grad is not None
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median_ms {1e3 * seconds[len(seconds) // 2]:.1f} min_ms {1e3 * seconds[0]:.1f} peak_mib {peak:.0f} torch {torch.__version__}")


if __name__ == "__main__":
    main()
