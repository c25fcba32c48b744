//! Moving scale from one convolution to the next across a ReLU, so that shared grids fit all channels.

use sensei_graph::layer_graph::{Conv, LayerGraph};
use sensei_graph::op::Activation;
use sensei_student::fold::FoldedWeights;

use burn::tensor::Tensor;

use crate::error::QuantError;
use crate::folded::{FoldedStudent, check_finite, check_images, host_values};

/// What the scale of a channel between two convolutions is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Equalization {
    /// The ranges of the weights that make the channel and that read it become equal.
    ///
    /// # Source
    /// Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1; without
    /// bias absorption.
    Weights,
    /// The channel's range over images is weighed against that of the weights that read it; a depthwise reader, whose
    /// channels have thresholds of their own, gives way altogether. The tensor's range ends just below a power of two.
    ///
    /// # Source
    /// SmoothQuant (Xiao et al. 2022), with its exponent 1/2.
    Activations,
}

/// Two convolutions with nothing but a ReLU, and upsampling, between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Index of the node that ends in the ReLU.
    pub first: usize,
    /// Index of the only convolution that reads it.
    pub second: usize,
}

/// The pairs of a network: the first convolution ends in a ReLU, and nothing but the second reads it, directly or
/// upsampled.
pub fn pairs(graph: &LayerGraph) -> Vec<Pair> {
    let nodes = graph.nodes();
    let only_reader = |of: usize| {
        let mut readers =
            (0..nodes.len()).flat_map(|idx| nodes[idx].inputs.iter().filter(move |&&i| i == of).map(move |_| idx));
        readers.next().filter(|_| readers.next().is_none())
    };
    let second = |first: usize| {
        let mut at = only_reader(first)?;
        while nodes[at].op.upsampling().is_some() {
            at = only_reader(at)?;
        }
        nodes[at].op.conv().map(|_| Pair { first, second: at })
    };
    let is_first = |idx: &usize| match nodes[*idx].op.activation() {
        Activation::Relu => true,
        // `relu6(x / s)` is cut off at another value than `relu6(x) / s`.
        Activation::Relu6 | Activation::None => false,
    };
    (0..nodes.len()).filter(is_first).filter_map(second).collect()
}

/// The same network with other scales between the convolutions of its pairs: `relu(x / s) = relu(x) / s` for positive
/// `s`, so that logits differ by rounding only. Arithmetic is in 64 bits; each weight is rounded to 32 bits once.
///
/// # Shapes
/// - `batches`: each `[batch, 3, height, width]`, values `(pixel - 128) / 128`; only [`Equalization::Activations`] looks
///   at them
/// # Errors
/// If there are no images or they have another size, an output is not finite, or a scaled weight is not.
pub fn equalize(student: &FoldedStudent, batches: &[Tensor<4>], by: Equalization) -> Result<FoldedStudent, QuantError> {
    let graph = student.graph();
    let pairs = pairs(graph);
    let mut scaled = Scaled::new(graph, student.weights());
    match by {
        Equalization::Weights => {
            for _ in 0..MAX_SWEEPS {
                let mut largest = 0.0_f64;
                for pair in &pairs {
                    let (made, read) = (scaled.row_ranges(pair.first), scaled.column_ranges(pair.second));
                    let scales: Vec<f64> = made.iter().zip(&read).map(|(&made, &read)| balance(made, read)).collect();
                    largest = scales.iter().fold(largest, |max, scale| max.max(scale.ln().abs()));
                    scaled.apply(*pair, &scales);
                }
                if largest < CONVERGED {
                    break;
                }
            }
        }
        Equalization::Activations => {
            let seen = channel_maxima(student, batches)?;
            for pair in &pairs {
                let (made, read) = (&seen[pair.first], scaled.relative_column_ranges(pair.second));
                let scales = made.iter().zip(&read).map(|(&made, &read)| match read {
                    Some(read) => balance(made, read),
                    None if made > 0.0 => made,
                    None => 1.0,
                });
                let scales: Vec<f64> = scales.collect();
                let largest = made.iter().zip(&scales).fold(0.0_f64, |max, (made, scale)| max.max(made / scale));
                if largest > 0.0 {
                    let to_power_of_two = largest / (largest.log2().ceil().exp2() * JUST_BELOW);
                    scaled.apply(*pair, &scales.iter().map(|scale| scale * to_power_of_two).collect::<Vec<_>>());
                }
            }
        }
    }
    FoldedStudent::from_folded(graph, scaled.into_weights(student.weights()), student.device())
}

/// What divides the one range and multiplies the other to make them equal; 1 where there is nothing to scale.
fn balance(made: f64, read: f64) -> f64 {
    if made > 0.0 && read > 0.0 { (made / read).sqrt() } else { 1.0 }
}

/// Largest value of every channel of every node over the images.
fn channel_maxima(student: &FoldedStudent, batches: &[Tensor<4>]) -> Result<Vec<Vec<f64>>, QuantError> {
    let nodes = student.graph().nodes();
    let mut maxima: Vec<Vec<f64>> = nodes.iter().map(|node| vec![0.0; node.shape[0]]).collect();
    let mut failed = None;
    for batch in batches {
        check_images(student.graph(), batch)?;
        student.forward(batch.clone(), |idx, output| {
            let values = host_values(output.clone());
            if let Err(error) = check_finite(&nodes[idx].name, "output", &values) {
                failed.get_or_insert(error);
            }
            let [channels, height, width] = nodes[idx].shape;
            for (row, map) in values.chunks_exact(height * width).enumerate() {
                let max = &mut maxima[idx][row % channels];
                *max = map.iter().fold(*max, |max, &value| max.max(f64::from(value)));
            }
            output
        });
    }
    match failed {
        Some(error) => Err(error),
        None if batches.is_empty() => Err(QuantError::NoImages),
        None => Ok(maxima),
    }
}

/// Weights and biases in 64 bits, by node index.
struct Scaled<'a> {
    graph: &'a LayerGraph,
    convs: Vec<Option<(Vec<f64>, Vec<f64>)>>,
}

impl<'a> Scaled<'a> {
    fn new(graph: &'a LayerGraph, weights: &FoldedWeights) -> Self {
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
        let conv = |idx| weights.get(&idx).map(|conv| (wide(&conv.weight.values), wide(&conv.bias)));
        Self { graph, convs: (0..graph.nodes().len()).map(conv).collect() }
    }

    fn conv(&self, idx: usize) -> (&Conv, &[f64]) {
        let conv = self.graph.nodes()[idx].op.conv().expect("pairs are of convolutions");
        (conv, &self.convs[idx].as_ref().expect("convolutions have weights").0)
    }

    /// Largest absolute weight of each output channel.
    fn row_ranges(&self, idx: usize) -> Vec<f64> {
        let (conv, weights) = self.conv(idx);
        weights.chunks_exact(weights.len() / conv.shape.out_channels).map(max_abs).collect()
    }

    /// Largest absolute weight that reads each input channel.
    fn column_ranges(&self, idx: usize) -> Vec<f64> {
        let (conv, weights) = self.conv(idx);
        let mut ranges = vec![0.0; conv.shape.in_channels];
        for (at, weight) in weights.iter().enumerate() {
            let range: &mut f64 = &mut ranges[input_channel(conv, at)];
            *range = range.max(weight.abs());
        }
        ranges
    }

    /// Largest weight that reads each input channel, relative to the largest of its output channel; none where an output
    /// channel reads one input channel only.
    fn relative_column_ranges(&self, idx: usize) -> Vec<Option<f64>> {
        let (conv, weights) = self.conv(idx);
        if conv.shape.in_channels == conv.shape.groups {
            return vec![None; conv.shape.in_channels];
        }
        let (rows, per_row) = (self.row_ranges(idx), weights.len() / conv.shape.out_channels);
        let mut ranges = vec![0.0; conv.shape.in_channels];
        for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let range: &mut f64 = &mut ranges[input_channel(conv, at)];
            *range = range.max(weight.abs() / rows[at / per_row]);
        }
        ranges.into_iter().map(Some).collect()
    }

    /// Divides what the first makes and multiplies what the second reads.
    fn apply(&mut self, pair: Pair, scales: &[f64]) {
        let (first, _) = self.conv(pair.first);
        let out_channels = first.shape.out_channels;
        let (second, _) = self.conv(pair.second);
        let second = second.clone();
        if let Some((weights, bias)) = &mut self.convs[pair.first] {
            let per_row = weights.len() / out_channels;
            weights.iter_mut().enumerate().for_each(|(at, weight)| *weight /= scales[at / per_row]);
            bias.iter_mut().zip(scales).for_each(|(bias, scale)| *bias /= scale);
        }
        if let Some((weights, _)) = &mut self.convs[pair.second] {
            weights.iter_mut().enumerate().for_each(|(at, weight)| *weight *= scales[input_channel(&second, at)]);
        }
    }

    fn into_weights(self, like: &FoldedWeights) -> FoldedWeights {
        let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        let mut result = like.clone();
        for (idx, conv) in self.convs.into_iter().enumerate() {
            if let (Some((weights, bias)), Some(conv)) = (conv, result.get_mut(&idx)) {
                (conv.weight.values, conv.bias) = (narrow(weights), narrow(bias));
            }
        }
        result
    }
}

/// The channel that a weight, by its position in `[out, in / groups, kernel, kernel]`, reads.
fn input_channel(conv: &Conv, at: usize) -> usize {
    let (taps, per_group) = (conv.shape.kernel * conv.shape.kernel, conv.shape.in_channels / conv.shape.groups);
    let out_channel = at / taps / per_group;
    out_channel / (conv.shape.out_channels / conv.shape.groups) * per_group + at / taps % per_group
}

fn max_abs(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, value| max.max(value.abs()))
}

/// Sweeps over all pairs until scales stop moving; chains of pairs need several.
const MAX_SWEEPS: usize = 50;
/// Largest logarithm of a scale that counts as not moving.
const CONVERGED: f64 = 1e-4;
/// A value here is the largest that an unsigned 8-bit grid up to 1 rounds to its end without cutting anything off.
const JUST_BELOW: f64 = 511.0 / 512.0;

#[cfg(test)]
mod tests {
    use sensei_student::unet::UnetConfig;

    use super::*;

    #[test]
    fn pairs_are_what_only_a_relu_and_upsampling_joins() {
        let graph = UnetConfig::picosam3().graph().expect("a valid setting");
        let name = |idx: usize| graph.nodes()[idx].name.as_str();
        let got: Vec<String> = pairs(&graph).iter().map(|p| format!("{}>{}", name(p.first), name(p.second))).collect();
        // encoder_stage*.3 is read twice (down and skip), up*.1.3 by a sum.
        let expected = [
            "encoder_stage1.0>encoder_stage1.3",
            "encoder_stage2.0>encoder_stage2.3",
            "encoder_stage3.0>encoder_stage3.3",
            "encoder_stage4.0>encoder_stage4.3",
            "bottleneck.0.0>bottleneck.0.3",
            "bottleneck.0.3>bottleneck.1",
            "bottleneck.1>bottleneck.4",
            "bottleneck.4>up1.1.0",
            "up1.1.0>up1.1.3",
            "up2.1.0>up2.1.3",
            "up3.1.0>up3.1.3",
            "up4.1.0>up4.1.3",
            "refine.0>refine.3",
        ];
        assert_eq!(got, expected);
    }
}
