//! Fresh weights of plain vision transformers, the same for a seed on every machine.

use sensei_tensor::network::{HostTensor, NamedWeights};

use crate::fresh::Fresh;
use crate::masked_vit::MaskedConfig;
use crate::vit::{NECK, VitConfig};

pub use crate::fresh::EMBEDDING_DEVIATION;

/// Weights of the encoder without its neck.
///
/// Linear layers are uniform within `sqrt(6 / (ins + outs))`, biases 0, norms 1 and 0; positions are sines and cosines of the two axes.
///
/// # Source
/// He et al. 2022, "Masked Autoencoders", section A.1, and its code: `initialize_weights`.
pub fn fresh_trunk(config: &VitConfig, seed: u64) -> NamedWeights {
    let VitConfig { channels, blocks, patch, table_grid, .. } = *config;
    let mut fresh = Fresh::new(seed);
    fresh.matrix("patch_embed.proj", &[channels, 3, patch, patch], true);
    for idx in 0..blocks {
        let name = |layer: &str| format!("blocks.{idx}.{layer}");
        fresh.norm(&name("norm1"), channels);
        fresh.matrix(&name("attn.qkv"), &[3 * channels, channels], true);
        fresh.matrix(&name("attn.proj"), &[channels, channels], true);
        fresh.norm(&name("norm2"), channels);
        fresh.matrix(&name("mlp.fc1"), &[4 * channels, channels], true);
        fresh.matrix(&name("mlp.fc2"), &[channels, 4 * channels], true);
    }
    // A row for the class goes before the grid's; nothing reads it.
    let mut table = vec![0.0; channels];
    table.extend(sine_positions(table_grid, channels));
    let shape = vec![1, table_grid * table_grid + 1, channels];
    fresh.tensors.insert("pos_embed".into(), HostTensor { shape, values: table });
    fresh.tensors
}

/// Weights of the neck, under names that begin with it. Its last norm starts with [`EMBEDDING_DEVIATION`], so that the decoder is first shown
/// values of the size that it knows.
pub fn fresh_neck(config: &VitConfig, seed: u64) -> NamedWeights {
    let (channels, out) = (config.channels, config.out_channels);
    let mut fresh = Fresh::new(seed ^ 0x6e65_636b);
    fresh.matrix(&format!("{NECK}.0"), &[out, channels, 1, 1], false);
    fresh.norm(&format!("{NECK}.1"), out);
    fresh.matrix(&format!("{NECK}.2"), &[out, out, 3, 3], false);
    fresh.norm(&format!("{NECK}.3"), out);
    let scale = HostTensor { shape: vec![out], values: vec![EMBEDDING_DEVIATION; out] };
    fresh.tensors.insert(format!("{NECK}.3.weight"), scale);
    fresh.tensors
}

/// Weights of the decoder that pretraining drops.
pub fn fresh_masked_decoder(config: &VitConfig, masked: &MaskedConfig, seed: u64) -> NamedWeights {
    let MaskedConfig { channels: width, blocks, n_outputs, .. } = *masked;
    let mut fresh = Fresh::new(seed ^ 0x6d61_736b);
    fresh.matrix("embed", &[width, config.channels], true);
    // Of the same variance as a normal distribution of deviation 0.02.
    fresh.uniform("mask_token", &[1, 1, width], 0.02 * 3.0f32.sqrt());
    for idx in 0..blocks {
        let name = |layer: &str| format!("blocks.{idx}.{layer}");
        for norm in ["norm_q", "norm_kv", "norm2"] {
            fresh.norm(&name(norm), width);
        }
        for layer in ["attn.q", "attn.k", "attn.v", "attn.proj"] {
            fresh.matrix(&name(layer), &[width, width], true);
        }
        fresh.matrix(&name("mlp.fc1"), &[4 * width, width], true);
        fresh.matrix(&name("mlp.fc2"), &[width, 4 * width], true);
    }
    fresh.norm("norm", width);
    fresh.matrix("head", &[n_outputs, width], true);
    fresh.tensors
}

/// Positions of a square grid, `[cell, channels]`: half of the channels for the row, half for the column, each sines and then cosines.
///
/// # Source
/// He et al. 2022, `util/pos_embed.py`, whose first half is of the column.
pub(crate) fn sine_positions(grid: usize, channels: usize) -> Vec<f32> {
    let quarter = channels / 4;
    let axis = |at: usize| {
        let angle = move |idx: usize| at as f64 / 10_000f64.powf(idx as f64 / quarter as f64);
        (0..quarter).map(move |idx| angle(idx).sin()).chain((0..quarter).map(move |idx| angle(idx).cos()))
    };
    let cell = |at: usize| axis(at % grid).chain(axis(at / grid)).map(|value| value as f32);
    (0..grid * grid).flat_map(cell).collect()
}
