//! TinyViT as a student's image encoder.

use burn::tensor::{Tensor, TensorData};
use sensei_tensor::network::{HostTensor, NamedWeights, Tap};

use crate::encoder_student::{EncoderStudent, ImageEncoder};
use crate::error::SamError;
use crate::fresh::Fresh;
use crate::scope::{Scope, folded_norms};
use crate::tiny_vit::{TinyVit, TinyVitConfig};
use crate::vit_weights::EMBEDDING_DEVIATION;

/// The encoder, one group of weights. Its taps are [`TinyVit::taps`].
///
/// Batch norms are folded into their convolutions and stay so: who starts from published weights trains on with frozen statistics.
pub type TinyVitStudent = EncoderStudent<TinyVitConfig>;

/// The one group.
const WEIGHTS: &str = "weights";

impl ImageEncoder for TinyVitConfig {
    type Layers = TinyVit;

    const NAMES: [&'static str; 2] = ["tiny_vit", "TinyViT"];
    const GROUPS: &'static [&'static str] = &[WEIGHTS];

    fn group_of(_name: &str) -> &'static str {
        WEIGHTS
    }

    fn taps(&self, grid: usize) -> Vec<Tap> {
        self.taps_of(grid)
    }

    fn own_grid(&self) -> usize {
        self.grid()
    }

    fn layers(&self, root: &Scope) -> Result<TinyVit, SamError> {
        TinyVit::new(self.clone(), root)
    }

    fn forward(&self, layers: &TinyVit, images: Tensor<4>, taps: &[usize], grid: usize) -> Vec<Tensor<4>> {
        layers.features(as_published(images), taps, grid / self.grid())
    }
}

/// Pixels as the published weights were trained on them: `(pixel / 255 - mean) / deviation` of each colour, from `(pixel - 128) / 128`.
///
/// Beyond a picture that is not square the student sees 0 here, a grey, where MobileSAM sees 0 there, the mean colour.
///
/// # Source
/// ChaoningZhang/MobileSAM `modeling/sam.py`: pixel_mean, pixel_std.
fn as_published(images: Tensor<4>) -> Tensor<4> {
    let device = images.device();
    let row = |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 1, 1, 3]), &device);
    images * row(INPUT_FACTOR) + row(INPUT_SHIFT)
}

/// What an input value of each colour is multiplied by.
pub const INPUT_FACTOR: [f32; 3] = [128.0 / DEVIATION[0], 128.0 / DEVIATION[1], 128.0 / DEVIATION[2]];

/// What is then added.
pub const INPUT_SHIFT: [f32; 3] =
    [(128.0 - MEAN[0]) / DEVIATION[0], (128.0 - MEAN[1]) / DEVIATION[1], (128.0 - MEAN[2]) / DEVIATION[2]];

const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// The tensors of an encoder in a published file: those behind `image_encoder.`, or all, with batch norms folded. What only a classifier
/// reads is left out.
///
/// # Errors
/// If a batch norm's tensor is missing, has another shape or a value that is not finite; `origin` names the file.
pub fn published_tiny_vit(origin: &str, tensors: &NamedWeights) -> Result<NamedWeights, SamError> {
    const PREFIX: &str = "image_encoder.";
    let is_whole = tensors.keys().any(|name| name.starts_with(PREFIX));
    let own = tensors.iter().filter_map(|(name, tensor)| {
        let name = if is_whole { name.strip_prefix(PREFIX)? } else { name };
        let is_classifier = name.starts_with("norm_head.") || name.starts_with("head.");
        (!is_classifier).then(|| (name.to_string(), tensor.clone()))
    });
    folded_norms(origin, own.collect())
}

/// Fresh weights, the same for a seed on every machine.
///
/// Convolutions are uniform with variance `1 / inputs`, the last of a sum a quarter of that, linear layers uniform within
/// `sqrt(6 / (ins + outs))`; biases are 0. The neck's last norm starts with [`EMBEDDING_DEVIATION`].
pub fn fresh_tiny_vit(config: &TinyVitConfig, seed: u64) -> NamedWeights {
    let [c0, c1, c2, c3] = config.channels;
    let mut fresh = Fresh::new(seed);
    fresh.conv("patch_embed.seq.0.c", [c0 / 2, 3, 3, 3], 1.0);
    fresh.conv("patch_embed.seq.2.c", [c0, c0 / 2, 3, 3], 1.0);
    for idx in 0..config.blocks[0] {
        let name = |layer: &str| format!("layers.0.blocks.{idx}.{layer}.c");
        fresh.conv(&name("conv1"), [4 * c0, c0, 1, 1], 1.0);
        fresh.conv(&name("conv2"), [4 * c0, 1, 3, 3], 1.0);
        fresh.conv(&name("conv3"), [c0, 4 * c0, 1, 1], 0.5);
    }
    for (stage, [ins, outs]) in [[c0, c1], [c1, c2], [c2, c3]].into_iter().enumerate() {
        let name = |layer: &str| format!("layers.{stage}.downsample.{layer}.c");
        fresh.conv(&name("conv1"), [outs, ins, 1, 1], 1.0);
        fresh.conv(&name("conv2"), [outs, 1, 3, 3], 1.0);
        fresh.conv(&name("conv3"), [outs, outs, 1, 1], 1.0);
        let (heads, window) = (config.heads[stage], config.windows[stage]);
        for idx in 0..config.blocks[stage + 1] {
            let name = |layer: &str| format!("layers.{}.blocks.{idx}.{layer}", stage + 1);
            fresh.norm(&name("attn.norm"), outs);
            fresh.matrix(&name("attn.qkv"), &[3 * outs, outs], true);
            fresh.matrix(&name("attn.proj"), &[outs, outs], true);
            fresh.zeros(&name("attn.attention_biases"), &[heads, window * window]);
            fresh.conv(&name("local_conv.c"), [outs, 1, 3, 3], 1.0);
            fresh.norm(&name("mlp.norm"), outs);
            fresh.matrix(&name("mlp.fc1"), &[4 * outs, outs], true);
            fresh.matrix(&name("mlp.fc2"), &[outs, 4 * outs], true);
        }
    }
    let out = config.out_channels;
    fresh.matrix("neck.0", &[out, c3, 1, 1], false);
    fresh.norm("neck.1", out);
    fresh.matrix("neck.2", &[out, out, 3, 3], false);
    fresh.norm("neck.3", out);
    let mut tensors = fresh.tensors;
    let scale = HostTensor { shape: vec![out], values: vec![EMBEDDING_DEVIATION; out] };
    tensors.insert("neck.3.weight".into(), scale);
    tensors
}
