//! Grids for every tensor of a float network, from images.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use sensei_graph::layer_graph::{Conv, LayerGraph, Node};
use sensei_graph::op::Activation;
use sensei_graph::steps::run_graph;
use sensei_int8::grid::{ActivationGrid, WeightThreshold};
use sensei_int8::model::{FloatConv, IntegerConv};
use sensei_tensor::ops;

use crate::error::QuantError;
use crate::fake_quant::FakeQuantStudent;
use crate::folded::{FoldedStudent, check_finite, check_images, host_values, weight_tensor};
use crate::gptq::{Rounding, reconstruct};
use crate::grid_rule::grids;
use crate::histogram::Histogram;
use crate::lower::lower;
use crate::thresholds::{ThresholdSearch, activation_grid, weight_threshold};

/// How grids are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibrationConfig {
    /// For activations and weights.
    pub method: ThresholdSearch,
    /// 8, 4 or 2, for all convolutions that `weight_bits_of` does not name.
    pub weight_bits: u8,
    /// 8, 4 or 2, by the name of the convolution.
    pub weight_bits_of: BTreeMap<String, u8>,
    /// 8 or 16: width of the network's output, the mask logits.
    pub output_bits: u8,
    /// Whether each channel's bias takes up the mean error that its weights' rounding makes on the images.
    pub bias_correction: bool,
    /// How weights become integers.
    pub rounding: Rounding,
}

impl CalibrationConfig {
    /// Bits of a convolution's weights.
    pub fn weight_bits_of(&self, conv: &str) -> u8 {
        self.weight_bits_of.get(conv).copied().unwrap_or(self.weight_bits)
    }
}

/// Grids of a network and what they cut off. Entry `i` of `nodes` is node `i`; `convs` has each convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Every tensor.
    pub nodes: Vec<NodeCalibration>,
    /// Every convolution, by node index.
    pub convs: BTreeMap<usize, ConvCalibration>,
    /// Images seen.
    pub n_images: usize,
    /// Trained thresholds that had left the chip's range and lie at its end here.
    pub clamped_thresholds: usize,
}

/// The grid of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeCalibration {
    /// What its integers mean.
    pub grid: ActivationGrid,
    /// The float network's values.
    pub seen: Histogram,
    /// Values of the quantized network, on the same images, that the grid cuts off (an activation's work is not counted).
    pub saturated: u64,
}

/// A convolution's weights and their grid.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvCalibration {
    /// What is rounded to the grid: the folded weights, or, chosen by [`Rounding::Gptq`], values that lie on it.
    pub weights: Vec<f32>,
    /// One per output channel.
    pub thresholds: Vec<WeightThreshold>,
    /// 8, 4 or 2.
    pub weight_bits: u8,
    /// One per output channel, corrected if asked for.
    pub bias: Vec<f32>,
    /// Folded weights that their grid cuts off by more than half a step.
    pub clipped_weights: usize,
    /// Channels whose threshold was raised so that their bias fits the accumulator.
    pub raised_channels: usize,
}

/// Finds the grids of a network: one pass over the images in floats to see the values, one on the grids to count what
/// they cut off. Deterministic: the same images in the same batches give the same calibration.
///
/// The rules of the chip: the input is signed with threshold 1, exactly; an activation makes a tensor unsigned, other
/// convolutions and sums are signed; an upsampled tensor shares its input's grid; a mean has its input's sign, a scaled
/// tensor that of its first input; a sigmoid is unsigned with threshold 1.
///
/// # Shapes
/// - `batches`: each `[batch, 3, height, width]`, values `(pixel - 128) / 128`
/// # Errors
/// If there are no images or they have another size, an output is not finite, a threshold is beyond the chip's, or
/// weight bits are given for a node that has no weights.
pub fn calibrate(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    config: &CalibrationConfig,
) -> Result<Calibration, QuantError> {
    calibrate_unless(student, batches, config, &|| false)
}

/// [`calibrate`], which `is_interrupted` can end before each batch and before each convolution.
///
/// # Errors
/// As [`calibrate`], and `Interrupted`.
pub fn calibrate_unless(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    config: &CalibrationConfig,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Calibration, QuantError> {
    let graph = student.graph();
    let sizes = batches.iter().map(|batch| check_images(graph, batch));
    let n_images = sizes.sum::<Result<usize, QuantError>>()?;
    if n_images == 0 {
        return Err(QuantError::NoImages);
    }
    let is_conv = |name: &str| graph.nodes().iter().any(|node| node.name == name && node.op.conv().is_some());
    if let Some(name) = config.weight_bits_of.keys().find(|name| !is_conv(name)) {
        return Err(QuantError::NoSuchConv { name: name.clone() });
    }
    // Reconstruction corrects biases itself, for all that comes before a convolution too.
    let correct_here = config.bias_correction && config.rounding == Rounding::Nearest;
    let mut convs = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for (idx, node) in graph.nodes().iter().enumerate() {
        let Some(conv) = node.op.conv() else { continue };
        go_on(is_interrupted)?;
        let (calibrated, error) = calibrate_weights(student, idx, conv, config)?;
        convs.insert(idx, calibrated);
        if correct_here {
            errors.insert(idx, WeightError { weight: error, sum: vec![0.0; conv.shape.out_channels] });
        }
    }

    let mut seen = vec![Histogram::default(); graph.nodes().len()];
    for batch in batches {
        go_on(is_interrupted)?;
        observe_batch(student, batch, &mut seen, &mut errors)?;
    }
    let grids =
        grids(graph, config.output_bits, |idx, bits, signed| activation_grid(&seen[idx], bits, signed, config.method))?;

    for (&idx, conv) in &mut convs {
        let node = &graph.nodes()[idx];
        if let Some(error) = errors.get(&idx) {
            let per_channel = (n_images * node.shape[1] * node.shape[2]) as f64;
            for (bias, sum) in conv.bias.iter_mut().zip(&error.sum) {
                *bias = (f64::from(*bias) + sum / per_channel) as f32;
            }
        }
        raise_thresholds(node, conv, grids[node.inputs[0]])?;
    }
    if config.rounding == Rounding::Gptq {
        reconstruct(student, batches, &grids, &mut convs, config.bias_correction, is_interrupted)?;
    }
    finish(student, batches, seen, &grids, convs, is_interrupted)
}

impl Calibration {
    /// The widths and signs of a calibration, with every threshold at 1 and no bias.
    pub(crate) fn without_images(graph: &LayerGraph, config: &CalibrationConfig) -> Self {
        let grids = grids(graph, config.output_bits, |_, bits, signed| ActivationGrid::new(bits, signed, 0));
        let grids = grids.expect("bits of a configuration");
        let mut convs = BTreeMap::new();
        for (idx, node) in graph.nodes().iter().enumerate() {
            if let Some(conv) = node.op.conv() {
                let one = WeightThreshold::at_least(1.0).expect("a threshold of the grid");
                let thresholds = vec![one; conv.shape.out_channels];
                let (weight_bits, bias) = (config.weight_bits_of(&node.name), vec![0.0; conv.shape.out_channels]);
                let weights = vec![];
                let conv =
                    ConvCalibration { weights, thresholds, weight_bits, bias, clipped_weights: 0, raised_channels: 0 };
                convs.insert(idx, conv);
            }
        }
        let node = |grid| NodeCalibration { grid, seen: Histogram::default(), saturated: 0 };
        Self { nodes: grids.into_iter().map(node).collect(), convs, n_images: 0, clamped_thresholds: 0 }
    }
}

/// The calibration of these grids and thresholds, with what they cut off.
///
/// # Errors
/// As [`calibrate_unless`].
pub(crate) fn calibration_on(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    grids: &[ActivationGrid],
    mut convs: BTreeMap<usize, ConvCalibration>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Calibration, QuantError> {
    let sizes = batches.iter().map(|batch| check_images(student.graph(), batch));
    if sizes.sum::<Result<usize, QuantError>>()? == 0 {
        return Err(QuantError::NoImages);
    }
    for (&idx, conv) in &mut convs {
        let node = &student.graph().nodes()[idx];
        conv.clipped_weights = clipped_weights(conv);
        raise_thresholds(node, conv, grids[node.inputs[0]])?;
    }
    let mut seen = vec![Histogram::default(); student.graph().nodes().len()];
    for batch in batches {
        go_on(is_interrupted)?;
        observe_batch(student, batch, &mut seen, &mut BTreeMap::new())?;
    }
    finish(student, batches, seen, grids, convs, is_interrupted)
}

/// Between two parts of the work.
pub(crate) fn go_on(is_interrupted: &dyn Fn() -> bool) -> Result<(), QuantError> {
    if is_interrupted() { Err(QuantError::Interrupted) } else { Ok(()) }
}

/// Weights that their channel's grid cuts off by more than half a step.
fn clipped_weights(conv: &ConvCalibration) -> usize {
    let weights = &conv.weights;
    let limit = f64::from(1_i16 << (conv.weight_bits - 1));
    let channels = weights.chunks_exact(weights.len() / conv.thresholds.len()).zip(&conv.thresholds);
    let in_channel = channels.map(|(weights, threshold)| {
        let steps = weights.iter().map(|&weight| f64::from(weight) / threshold.step(conv.weight_bits));
        steps.map(f64::round_ties_even).filter(|q| *q < -limit || *q > limit).count()
    });
    in_channel.sum()
}

/// Counts what is cut off.
fn finish(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    seen: Vec<Histogram>,
    grids: &[ActivationGrid],
    convs: BTreeMap<usize, ConvCalibration>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Calibration, QuantError> {
    let n_images = batches.iter().map(|batch| batch.dims()[0]).sum();
    let nodes = grids.iter().zip(seen).map(|(&grid, seen)| NodeCalibration { grid, seen, saturated: 0 });
    let mut calibration = Calibration { nodes: nodes.collect(), convs, n_images, clamped_thresholds: 0 };
    count_saturated(student, batches, &mut calibration, is_interrupted)?;
    Ok(calibration)
}

/// Raises the threshold of every channel whose bias does not fit its accumulator.
pub(crate) fn raise_thresholds(
    node: &Node,
    conv: &mut ConvCalibration,
    input: ActivationGrid,
) -> Result<(), QuantError> {
    for (threshold, bias) in conv.thresholds.iter_mut().zip(&conv.bias) {
        let raised = WeightThreshold::for_channel(threshold.value(), f64::from(*bias), input, conv.weight_bits)
            .map_err(|source| QuantError::Grid { node: node.name.clone(), source })?;
        conv.raised_channels += usize::from(raised != *threshold);
        *threshold = raised;
    }
    Ok(())
}

/// How many of a node's values, before activation and rounding, its grid cuts off by more than half a step; what the
/// activation cuts off is its work and is not counted.
pub(crate) fn saturated(values: &[f32], grid: ActivationGrid, activation: Activation) -> u64 {
    let low = (f64::from(grid.qmin()) - 0.5) * grid.step();
    let high = (f64::from(grid.qmax()) + 0.5) * grid.step();
    let [from, to] = activation.range();
    let left = values.iter().map(|&value| f64::from(value).clamp(from, to));
    left.filter(|&value| value < low || value > high).count() as u64
}

/// What rounding takes from a convolution's weights, and the sum over images and pixels of what that adds to each
/// channel of its output.
struct WeightError {
    weight: Tensor<4>,
    sum: Vec<f64>,
}

/// Thresholds of a convolution, and its weights minus their rounded values.
fn calibrate_weights(
    student: &FoldedStudent,
    idx: usize,
    conv: &Conv,
    config: &CalibrationConfig,
) -> Result<(ConvCalibration, Tensor<4>), QuantError> {
    let (node, folded) = (&student.graph().nodes()[idx], &student.weights()[&idx]);
    let weight_bits = config.weight_bits_of(&node.name);
    let (shape, weights) = (conv.shape, &folded.weight.values);
    let thresholds = weights
        .chunks_exact(shape.weights_per_channel())
        .map(|channel| weight_threshold(channel, weight_bits, config.method))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| QuantError::Grid { node: node.name.clone(), source })?;
    let no_bias = vec![0.0; conv.shape.out_channels];
    let (int8, clipped) = IntegerConv::quantize(
        &node.name,
        shape,
        conv.activation,
        FloatConv { weights, bias: &no_bias },
        thresholds.clone(),
        weight_bits,
        ActivationGrid::SIGNED_PIXELS,
    )?;
    let errors = weights.iter().zip(int8.float_weights()).map(|(weight, rounded)| weight - rounded).collect();
    let calibrated = ConvCalibration {
        weights: weights.clone(),
        thresholds,
        weight_bits,
        bias: folded.bias.clone(),
        clipped_weights: clipped.weights,
        raised_channels: 0,
    };
    Ok((calibrated, weight_tensor(errors, conv, student.device())))
}

/// Runs the float network on one batch, counting every node's values and adding up the weight errors' effect.
fn observe_batch(
    student: &FoldedStudent,
    batch: &Tensor<4>,
    seen: &mut [Histogram],
    errors: &mut BTreeMap<usize, WeightError>,
) -> Result<(), QuantError> {
    let nodes = student.graph().nodes();
    let mut failed = None;
    let mut observe = |idx: usize, output: &Tensor<4>| {
        let values = host_values(output.clone());
        match check_finite(&nodes[idx].name, "output", &values) {
            Ok(()) => seen[idx].observe(&values),
            Err(error) => failed = failed.take().or(Some(error)),
        }
    };
    let input = ops::to_internal(batch.clone().inner());
    observe(0, &input);
    run_graph(student.graph(), input, |idx, node, inputs| {
        if let (Some(error), Some(conv)) = (errors.get_mut(&idx), node.op.conv()) {
            let difference = ops::to_nchw(ops::conv2d(inputs[0].clone(), error.weight.clone(), None, &conv.shape));
            let [n_images, channels, height, width] = difference.dims();
            let pixels = height * width;
            let values = host_values(ops::to_internal(difference));
            for (row, values) in values.chunks_exact(pixels).enumerate().take(n_images * channels) {
                error.sum[row % channels] += values.iter().map(|&value| f64::from(value)).sum::<f64>();
            }
        }
        let output = student.node_output(idx, node, inputs);
        observe(idx, &output);
        output
    });
    failed.map_or(Ok(()), Err)
}

/// Runs the quantized network on the images.
fn count_saturated(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    calibration: &mut Calibration,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(), QuantError> {
    let graph = student.graph();
    let model = lower(student, calibration, "calibration")?;
    let quantized = FakeQuantStudent::new(graph, model, student.device())?;
    for batch in batches {
        go_on(is_interrupted)?;
        quantized.forward_observed(batch.clone(), |idx, real, _| {
            let activation = graph.nodes()[idx].op.activation();
            let node = &mut calibration.nodes[idx];
            node.saturated += saturated(&host_values(real.clone()), node.grid, activation);
        });
    }
    Ok(())
}
