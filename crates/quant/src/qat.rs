//! Quantization-aware training: a forward pass on the chip's grid whose weights and thresholds are trained.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph};
use sensei_graph::steps::run_graph;
use sensei_int8::grid::{ActivationGrid, WeightThreshold};
use sensei_student::features::Features;
use sensei_student::student::{Student, without_weights};
use sensei_tensor::network::{
    BatchStats, HostTensor, NamedWeights, NormStatistics, Outputs, Parameter, ParameterGroup, host_values,
};
use sensei_tensor::ops::{self, BATCH_NORM_EPSILON};

use crate::calibration::{Calibration, CalibrationConfig, ConvCalibration, calibration_on};
use crate::error::QuantError;
use crate::fake_quant::fake_quantize;
use crate::folded::FoldedStudent;
use crate::grid_rule::GridRule;

/// The thresholds of a network as trained values: base-2 logarithms.
///
/// An activation's threshold is the power of two nearest to its value, a weight channel's the next eight-bit mantissa
/// times a power of two; the gradient passes through both roundings.
///
/// # Source
/// Jain et al. 2020, "Trained Quantization Thresholds", section 3.2, in the logarithmic domain; weights per channel as
/// Esser et al. 2020, "Learned Step Size Quantization".
#[derive(Debug, Clone)]
pub struct Quantizers {
    activations: Vec<ActivationQuantizer>,
    /// Parameter and bits of each convolution's weights, by node.
    weights: Vec<Option<(usize, u8)>>,
    thresholds: ParameterGroup,
}

#[derive(Debug, Clone, Copy)]
enum ActivationQuantizer {
    /// A grid that the chip prescribes.
    Fixed(ActivationGrid),
    /// The grid of an earlier node, whose values these are.
    SameAs(usize),
    /// An entry of the first parameter.
    Trained { entry: usize, bits: u8, signed: bool },
}

/// The group of parameters that thresholds are.
pub const THRESHOLDS: &str = "thresholds";

/// Name of the parameter with the thresholds of all activations.
const ACTIVATIONS: &str = "activations";

impl Quantizers {
    /// Starts at calibrated thresholds.
    pub fn new(graph: &LayerGraph, calibration: &Calibration, device: &Device) -> Self {
        let mut activations: Vec<ActivationQuantizer> = Vec::with_capacity(graph.nodes().len());
        let mut log2_thresholds = vec![];
        for (node, calibrated) in graph.nodes().iter().zip(&calibration.nodes) {
            let input_signed = node.inputs.first().is_some_and(|&input| calibration.nodes[input].grid.signed());
            activations.push(match GridRule::of(&node.op, input_signed) {
                GridRule::Sensor | GridRule::Probability => ActivationQuantizer::Fixed(calibrated.grid),
                GridRule::CopyOfInput => ActivationQuantizer::SameAs(node.inputs[0]),
                GridRule::SameAsInput => {
                    let mut of_input = activations[node.inputs[0]];
                    while let ActivationQuantizer::SameAs(node) = of_input {
                        of_input = activations[node];
                    }
                    of_input
                }
                GridRule::Chosen { signed } => {
                    log2_thresholds.push(calibrated.grid.log2_threshold() as f32);
                    let bits = calibrated.grid.bits();
                    ActivationQuantizer::Trained { entry: log2_thresholds.len() - 1, bits, signed }
                }
            });
        }
        let thresholds = ParameterGroup { name: THRESHOLDS.into(), parameters: vec![] };
        let mut quantizers = Self { activations, weights: vec![None; graph.nodes().len()], thresholds };
        quantizers.push(ACTIVATIONS.into(), log2_thresholds, device);
        for (&idx, conv) in &calibration.convs {
            let log2_thresholds = conv.thresholds.iter().map(|threshold| threshold.value().log2() as f32).collect();
            let name = format!("{}.weight", graph.nodes()[idx].name);
            quantizers.weights[idx] = Some((quantizers.push(name, log2_thresholds, device), conv.weight_bits));
        }
        quantizers
    }

    /// The quantizers that a calibration by `config` would start, every threshold at 1.
    pub fn for_config(graph: &LayerGraph, config: &CalibrationConfig, device: &Device) -> Self {
        Self::new(graph, &Calibration::without_images(graph, config), device)
    }

    fn push(&mut self, name: String, values: Vec<f32>, device: &Device) -> usize {
        self.thresholds.parameters.push(Parameter::new(name, HostTensor { shape: vec![values.len()], values }, device));
        self.thresholds.parameters.len() - 1
    }

    /// The trained values.
    pub fn group(&self) -> &ParameterGroup {
        &self.thresholds
    }

    /// The trained values, for an optimiser.
    pub fn group_mut(&mut self) -> &mut ParameterGroup {
        &mut self.thresholds
    }

    /// The trained values by name.
    pub fn to_named(&self) -> NamedWeights {
        self.thresholds.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.to_host())).collect()
    }

    /// The same quantizers with other values.
    ///
    /// # Errors
    /// The first name that is missing, too much, of another length or not finite.
    pub fn with_values(mut self, mut named: NamedWeights) -> Result<Self, QuantError> {
        for parameter in &mut self.thresholds.parameters {
            let (name, n_values) = (parameter.name.clone(), parameter.values.dims()[0]);
            let expected = format!("{n_values} values");
            let Some(tensor) = named.remove(&name) else {
                return Err(QuantError::Thresholds { name, expected, found: "none".into() });
            };
            if tensor.values.len() != n_values {
                let found = tensor.values.len().to_string();
                return Err(QuantError::Thresholds { name, expected, found });
            }
            if let Some(found) = tensor.values.iter().find(|value| !value.is_finite()) {
                let (expected, found) = ("finite numbers".into(), found.to_string());
                return Err(QuantError::Thresholds { name, expected, found });
            }
            let device = parameter.values.device();
            let tensor = HostTensor { shape: parameter.shape.clone(), ..tensor };
            *parameter = Parameter::new(name, tensor, &device);
        }
        match named.into_keys().next() {
            Some(name) => {
                let (expected, found) = ("no such thresholds in this network".into(), "some".into());
                Err(QuantError::Thresholds { name, expected, found })
            }
            None => Ok(self),
        }
    }

    /// The same quantizers on another device, with leaves of their own where it tracks gradients.
    pub fn to_device(&self, device: &Device) -> Self {
        Self { thresholds: self.thresholds.to_device(device), ..self.clone() }
    }

    /// The grid of every node, as the thresholds are now.
    pub fn grids(&self) -> Vec<ActivationGrid> {
        let log2_thresholds = host_values(&self.thresholds.parameters[0].values);
        let mut grids: Vec<ActivationGrid> = Vec::with_capacity(self.activations.len());
        for quantizer in &self.activations {
            grids.push(match *quantizer {
                ActivationQuantizer::Fixed(grid) => grid,
                ActivationQuantizer::SameAs(node) => grids[node],
                ActivationQuantizer::Trained { entry, bits, signed } => {
                    let log2 = log2_thresholds[entry].clamp(ACTIVATION_LOG2.0, ACTIVATION_LOG2.1);
                    ActivationGrid::new(bits, signed, log2.round() as i32)
                        .expect("bits of a calibrated grid, a threshold in range")
                }
            });
        }
        grids
    }

    /// Mask logits on the output's grid, and with [`NormStatistics::Batch`] the statistics of the batch; shapes as
    /// [`Student::forward_train`].
    ///
    /// # Source
    /// Rounding folded weights while batch norms are trained: Jacob et al. 2018, section 3.2.
    ///
    /// # Panics
    /// If the student is of another network; and as [`Student::forward_train`].
    pub fn forward_train(&self, student: &Student, image: Tensor<4>, statistics: NormStatistics) -> Outputs {
        self.train(student, image, statistics, Features::none())
    }

    pub(crate) fn train(
        &self,
        student: &Student,
        image: Tensor<4>,
        statistics: NormStatistics,
        mut features: Features,
    ) -> Outputs {
        let image = if student.device().is_autodiff() { image.autodiff() } else { image };
        let grids = self.grids();
        let mut batch_stats = vec![];
        let output = run_graph(student.graph(), ops::to_internal(image), |idx, node, mut inputs| {
            let real = match node.op.conv() {
                Some(conv) => {
                    let x = inputs.remove(0);
                    self.conv(student, idx, conv, x, statistics, &mut batch_stats)
                }
                None => without_weights(&node.op, inputs),
            };
            let output = self.round(real, self.activations[idx], grids[idx]);
            features.see(idx, &output);
            output
        });
        Outputs { norm_stats: batch_stats, ..features.outputs(ops::to_nchw(output), ops::to_nchw) }
    }

    fn round(&self, real: Tensor<4>, quantizer: ActivationQuantizer, grid: ActivationGrid) -> Tensor<4> {
        match quantizer {
            ActivationQuantizer::SameAs(_) => real,
            ActivationQuantizer::Fixed(_) => fake_quantize(real, grid),
            ActivationQuantizer::Trained { entry, .. } => {
                let log2_threshold = self.thresholds.parameters[0].values.clone().narrow(0, entry, 1);
                let log2_steps = grid.log2_threshold() - grid.log2_step();
                let step = with_gradient(vec![grid.step() as f32], log2_threshold - f64::from(log2_steps));
                ops::round_to_grid(real, step, [grid.qmin() as f32, grid.qmax() as f32])
            }
        }
    }

    fn conv(
        &self,
        student: &Student,
        idx: usize,
        conv: &Conv,
        x: Tensor<4>,
        statistics: NormStatistics,
        batch_stats: &mut Vec<BatchStats>,
    ) -> Tensor<4> {
        let (weight, bias) = student.conv_weights(idx, conv);
        let Some((scale, shift)) = student.norm_weights(idx) else {
            let weight = self.rounded_weight(idx, weight);
            return ops::conv2d_activated(x, weight, bias, &conv.shape, conv.activation);
        };
        let running = student.running_stats(idx).expect("a convolution with batch norm");
        let deviation = (running.variance.clone() + BATCH_NORM_EPSILON).sqrt();
        let deviation = if scale.is_autodiff() { deviation.autodiff() } else { deviation };
        let gain = scale.clone() / deviation;
        let per_channel = |gain: Tensor<1>| gain.reshape([conv.shape.out_channels, 1, 1, 1]);
        match statistics {
            NormStatistics::Running => {
                let mean = if scale.is_autodiff() { running.mean.clone().autodiff() } else { running.mean.clone() };
                // A convolution with batch norm may have a bias of its own, as in folding.
                let mean = bias.map_or(mean.clone(), |bias| mean - bias);
                let bias = shift - mean * gain.clone();
                let weight = self.rounded_weight(idx, weight * per_channel(gain));
                ops::conv2d_activated(x, weight, Some(bias), &conv.shape, conv.activation)
            }
            NormStatistics::Batch => {
                // Only where the grid lies follows from the gain; a dead channel has no grid to follow.
                let gain = gain.detach();
                let dead = gain.clone().abs().lower_elem(DEAD_GAIN);
                let gain = per_channel(gain.mask_fill(dead, 1.0));
                let weight = self.rounded_weight(idx, weight * gain.clone()) / gain;
                let y = ops::conv2d(x, weight, bias, &conv.shape);
                let (output, stats) = ops::batch_norm_train(y, scale, shift, conv.activation);
                batch_stats.push(student.norm_stats(idx, stats));
                output
            }
        }
    }

    fn rounded_weight(&self, idx: usize, weight: Tensor<4>) -> Tensor<4> {
        let (parameter, bits) = self.weights[idx].expect("convolution nodes have weight thresholds");
        let log2_thresholds = self.thresholds.parameters[parameter].values.clone();
        let half = f64::from(1_u32 << (bits - 1));
        let steps =
            weight_thresholds(&host_values(&log2_thresholds)).map(|threshold| threshold.step(bits) as f32).collect();
        let steps = with_gradient(steps, log2_thresholds - half.log2());
        ops::round_to_grid(weight, steps, [-half as f32, half as f32 - 1.0])
    }

    /// The calibration that these thresholds are, with what they cut off of the images: what is lowered.
    ///
    /// # Shapes
    /// - `batches`: each `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// # Errors
    /// As [`calibrate`](crate::calibration::calibrate).
    ///
    /// # Panics
    /// If the student is of another network.
    pub fn calibration(
        &self,
        student: &FoldedStudent,
        batches: &[Tensor<4>],
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Calibration, QuantError> {
        let convs = student.weights().iter().map(|(&idx, folded)| {
            let (parameter, weight_bits) = self.weights[idx].expect("convolution nodes have weight thresholds");
            let thresholds = weight_thresholds(&host_values(&self.thresholds.parameters[parameter].values)).collect();
            let bias = folded.bias.clone();
            let weights = folded.weight.values.clone();
            (idx, ConvCalibration { weights, thresholds, weight_bits, bias, clipped_weights: 0, raised_channels: 0 })
        });
        let mut calibration = calibration_on(student, batches, &self.grids(), convs.collect(), is_interrupted)?;
        calibration.clamped_thresholds = self.clamped_thresholds();
        Ok(calibration)
    }

    /// Trained thresholds outside of the chip's range.
    fn clamped_thresholds(&self) -> usize {
        let outside = |(idx, parameter): (usize, &Parameter)| {
            let (low, high) = if idx == 0 { ACTIVATION_LOG2 } else { WEIGHT_LOG2 };
            host_values(&parameter.values).into_iter().filter(|log2| *log2 < low || *log2 > high).count()
        };
        self.thresholds.parameters.iter().enumerate().map(outside).sum()
    }
}

/// The thresholds that trained logarithms stand for.
fn weight_thresholds(log2_thresholds: &[f32]) -> impl Iterator<Item = WeightThreshold> {
    log2_thresholds.iter().map(|&log2| {
        let value = f64::from(log2.clamp(WEIGHT_LOG2.0, WEIGHT_LOG2.1)).exp2();
        // Half an eighth bit below, so that a value of the grid in 32 bits is not pushed to the next.
        WeightThreshold::at_least(value * (1.0 - 1.0 / 1024.0)).expect("a threshold in range")
    })
}

/// The values, with the gradient of `2^logarithms`.
fn with_gradient(values: Vec<f32>, logarithms: Tensor<1>) -> Tensor<1> {
    let real = (logarithms * std::f64::consts::LN_2).exp();
    let values = Tensor::from_data(TensorData::from(values.as_slice()), &real.device());
    // `real - real` is 0 with the gradient of `real`.
    values + (real.clone() - real.detach())
}

/// Ends of the chip's thresholds, as logarithms; a weight's is rounded up from here.
const ACTIVATION_LOG2: (f32, f32) = (-24.0, 24.0);
const WEIGHT_LOG2: (f32, f32) = (-24.0, 23.0);
/// Gain of a batch norm below which a channel counts as dead.
const DEAD_GAIN: f64 = 1e-12;
