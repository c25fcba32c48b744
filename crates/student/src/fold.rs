//! Batch norm folded into convolutions, and a foreign input normalisation folded into the first one.

use std::collections::BTreeMap;

use crate::weights::{WeightsError, match_weights};
use sensei_graph::layer_graph::{Conv, LayerGraph, Node, Op};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_tensor::ops::BATCH_NORM_EPSILON;

/// A convolution whose batch norm is in its weight and bias.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldedConv {
    /// `[out, in / groups, kernel, kernel]`.
    pub weight: HostTensor,
    /// `[out]`; zeros for a convolution that has neither bias nor batch norm.
    pub bias: Vec<f32>,
}

/// The convolutions of a network by node index.
pub type FoldedWeights = BTreeMap<usize, FoldedConv>;

/// Folds every batch norm, with its running statistics, into the convolution before it.
///
/// Arithmetic is in 64 bits; each result is rounded to 32 bits once.
///
/// # Errors
/// If `weights` are not those of `graph`.
pub fn fold_batch_norm(graph: &LayerGraph, weights: &NamedWeights) -> Result<FoldedWeights, WeightsError> {
    let weights = match_weights(graph, weights, "weights")?;
    let mut folded = FoldedWeights::new();
    for (idx, node) in graph.nodes().iter().enumerate() {
        let Some(conv) = node.op.conv() else { continue };
        let mut weight = weights[&format!("{}.weight", node.name)].clone();
        let given_bias = if conv.bias { Some(&weights[&format!("{}.bias", node.name)]) } else { None };
        let mut bias: Vec<f64> = match given_bias {
            Some(bias) => bias.values.iter().map(|value| f64::from(*value)).collect(),
            None => vec![0.0; conv.shape.out_channels],
        };
        if let Some(norm) = &conv.batch_norm {
            let of_norm = |name: &str, channel: usize| f64::from(weights[&format!("{norm}.{name}")].values[channel]);
            let per_channel = weight.values.len() / conv.shape.out_channels;
            for (channel, values) in weight.values.chunks_exact_mut(per_channel).enumerate() {
                let scale = of_norm("weight", channel) / (of_norm("running_var", channel) + BATCH_NORM_EPSILON).sqrt();
                for value in values {
                    *value = (f64::from(*value) * scale) as f32;
                }
                let centred = bias[channel] - of_norm("running_mean", channel);
                bias[channel] = centred * scale + of_norm("bias", channel);
            }
        }
        folded.insert(idx, FoldedConv { weight, bias: bias.into_iter().map(|value| value as f32).collect() });
    }
    Ok(folded)
}

/// What [`fold_input_normalization`] could not make exact.
#[derive(Debug, Clone, PartialEq)]
pub struct InputFoldNote {
    /// The convolution that reads the image, the one changed.
    pub conv: String,
    /// Its output pixels per channel.
    pub pixels: usize,
    /// Those among them that read padding and therefore differ.
    pub border_pixels: usize,
    /// The greatest difference among them, before batch norm and for any image.
    pub max_difference: f64,
}

/// Rewrites weights trained on `(pixel / 255 - mean) / std` for this workspace's `(pixel - 128) / 128`.
///
/// Per input channel the two differ by a scale, which goes into the weights of the convolution that reads the image,
/// and a constant, which goes into its bias or, where there is a batch norm, into the running mean. That is exact
/// wherever the convolution reads pixels only. Where it reads its zero padding it is not: 0 is the colour `mean`
/// there and pixel 128 here. No bias can mend that; the note tells how much of the output it touches and by how much.
///
/// # Errors
/// If `weights` are not those of `graph`, `std` is not positive, or the convolution has neither bias nor batch norm to
/// take the constant.
///
/// # Panics
/// If not exactly one convolution of three input channels reads the image; in the U-Net family one does.
pub fn fold_input_normalization(
    graph: &LayerGraph,
    weights: &NamedWeights,
    mean: [f64; 3],
    std: [f64; 3],
) -> Result<(NamedWeights, InputFoldNote), WeightsError> {
    let mut weights = match_weights(graph, weights, "weights")?;
    if !mean.iter().chain(&std).all(|value| value.is_finite()) || std.iter().any(|value| *value <= 0.0) {
        return Err(WeightsError::Normalization { mean, std });
    }
    let readers: Vec<&Node> = graph.nodes().iter().filter(|node| node.inputs.contains(&0)).collect();
    let [node @ Node { op: Op::Conv(conv), .. }] = readers[..] else {
        panic!("fold_input_normalization: expected one convolution that reads three channels, found {readers:?}");
    };
    let (shifted, sign) = match &conv.batch_norm {
        Some(norm) => (format!("{norm}.running_mean"), -1.0),
        None if conv.bias => (format!("{}.bias", node.name), 1.0),
        None => return Err(WeightsError::NoConstant { conv: node.name.clone() }),
    };

    // With pixel = 128 x + 128 the input trained on is `scale * x + constant`.
    let scale = std.map(|std| 128.0 / 255.0 / std);
    let constant: [f64; 3] = std::array::from_fn(|channel| (128.0 / 255.0 - mean[channel]) / std[channel]);
    let weight = weights.get_mut(&format!("{}.weight", node.name)).expect("matched weights have every tensor");
    let (per_row, taps) = (conv.shape.in_channels / conv.shape.groups, conv.shape.kernel * conv.shape.kernel);
    let mut from_constant = Vec::with_capacity(weight.values.len());
    for (idx, value) in weight.values.iter_mut().enumerate() {
        let (out_channel, in_group) = (idx / taps / per_row, idx / taps % per_row);
        let channel = out_channel / (conv.shape.out_channels / conv.shape.groups) * per_row + in_group;
        from_constant.push(f64::from(*value) * constant[channel]);
        *value = (f64::from(*value) * scale[channel]) as f32;
    }
    let shifted = weights.get_mut(&shifted).expect("matched weights have every tensor");
    for (value, taps_of_channel) in shifted.values.iter_mut().zip(from_constant.chunks_exact(per_row * taps)) {
        *value = (f64::from(*value) + sign * taps_of_channel.iter().sum::<f64>()) as f32;
    }
    let note = border_note(graph.input_size(), node, conv, &from_constant);
    Ok((weights, note))
}

/// Looks at each output pixel for taps in the padding; `from_constant` is what each weight adds where it reads a pixel.
fn border_note(input_size: usize, node: &Node, conv: &Conv, from_constant: &[f64]) -> InputFoldNote {
    let [_, height, width] = node.shape;
    let taps = conv.shape.kernel * conv.shape.kernel;
    let mut note =
        InputFoldNote { conv: node.name.clone(), pixels: height * width, border_pixels: 0, max_difference: 0.0 };
    let padded = |out: usize, tap: usize| {
        let position = out * conv.shape.stride + tap * conv.shape.dilation;
        position < conv.shape.padding || position >= conv.shape.padding + input_size
    };
    for pixel in 0..note.pixels {
        let (y, x) = (pixel / width, pixel % width);
        let outside: Vec<usize> =
            (0..taps).filter(|tap| padded(y, tap / conv.shape.kernel) || padded(x, tap % conv.shape.kernel)).collect();
        if outside.is_empty() {
            continue;
        }
        note.border_pixels += 1;
        for of_channel in from_constant.chunks_exact(conv.shape.in_channels / conv.shape.groups * taps) {
            let difference: f64 =
                of_channel.chunks_exact(taps).flat_map(|row| outside.iter().map(|tap| row[*tap])).sum();
            note.max_difference = note.max_difference.max(difference.abs());
        }
    }
    note
}
