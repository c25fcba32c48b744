//! Float, fake-quant and integer network side by side, node by node.

use std::fmt::Write;

use burn::tensor::Tensor;
use sensei_int8::grid::ActivationGrid;
use sensei_int8::interpreter::{IntTensor, Interpreter};
use sensei_int8::model::{IntegerConv, IntegerNode};

use crate::calibration::saturated;
use crate::error::QuantError;
use crate::fake_quant::FakeQuantStudent;
use crate::folded::{FoldedStudent, check_images, host_values};

/// One node over all images of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerComparison {
    /// The node's name.
    pub name: String,
    /// Its grid.
    pub grid: ActivationGrid,
    /// Bits of its weights, if it has any.
    pub weight_bits: Option<u8>,
    /// Values compared.
    pub values: u64,
    /// Power of the float values over that of their difference to the fake-quant ones, in decibels; infinite if there
    /// is no difference. All rounding up to this node is in it.
    pub sqnr_db: f64,
    /// Largest absolute difference of float and fake-quant values.
    pub max_abs_diff: f64,
    /// Fake-quant values, before rounding, that the grid cuts off.
    pub saturated: u64,
    /// Integers that differ from the fake-quant ones when the node reads the same inputs.
    pub integer_mismatches: u64,
    /// The largest of those differences, in steps.
    pub max_integer_mismatch: u32,
    /// Integers that differ from the fake-quant ones when each network reads its own inputs.
    pub end_to_end_mismatches: u64,
}

/// All nodes, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// One entry per node.
    pub layers: Vec<LayerComparison>,
}

impl LayerComparison {
    /// Share of the values that the grid cuts off.
    pub fn saturated_share(&self) -> f64 {
        self.saturated as f64 / self.values as f64
    }
}

impl LayerReport {
    /// The first node whose fake-quant values are farther from the float ones than this.
    pub fn first_below(&self, sqnr_db: f64) -> Option<&LayerComparison> {
        self.layers.iter().find(|layer| layer.sqnr_db < sqnr_db)
    }

    /// The first node where integers and fake-quant disagree, given the same inputs, by more than one step or in more
    /// than this share of the values.
    pub fn first_divergent(&self, share: f64) -> Option<&LayerComparison> {
        self.layers.iter().find(|layer| {
            layer.max_integer_mismatch > 1 || layer.integer_mismatches as f64 > share * layer.values as f64
        })
    }

    /// A table to print, one line per node.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<20} {:>7} {:>4} {:>9} {:>8} {:>9} {:>9} {:>7} {:>5} {:>10}\n",
            "layer",
            "weights",
            "bits",
            "threshold",
            "SQNR dB",
            "max diff",
            "saturated",
            "int/fq",
            "steps",
            "end to end"
        );
        for layer in &self.layers {
            let bits = format!("{}{}", if layer.grid.signed() { "s" } else { "u" }, layer.grid.bits());
            let weights = layer.weight_bits.map_or_else(|| "-".into(), |bits| bits.to_string());
            let _ = writeln!(
                table,
                "{:<20} {weights:>7} {bits:>4} {:>9} {:>8.2} {:>9.3e} {:>8.3}% {:>7} {:>5} {:>10}",
                layer.name,
                layer.grid.threshold(),
                layer.sqnr_db,
                layer.max_abs_diff,
                100.0 * layer.saturated_share(),
                layer.integer_mismatches,
                layer.max_integer_mismatch,
                layer.end_to_end_mismatches,
            );
        }
        table
    }
}

/// Compares the three networks on images, one image at a time.
///
/// # Shapes
/// - `images`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
/// # Errors
/// If there are no images, they have another size, or `fake` is of another network than `float`.
pub fn compare_layers(
    float: &FoldedStudent,
    fake: &FakeQuantStudent,
    images: &Tensor<4>,
) -> Result<LayerReport, QuantError> {
    let (graph, model) = (float.graph(), fake.model());
    if let Err(node_idx) = crate::lower::is_lowered_from(model, graph) {
        return Err(QuantError::OtherNetwork { model: model.name().into(), node_idx });
    }
    let n_images = check_images(graph, images)?;
    if n_images == 0 {
        return Err(QuantError::NoImages);
    }
    let interpreter = Interpreter::new(model);
    let mut sums = vec![Sums::default(); model.nodes().len()];
    for image_idx in 0..n_images {
        let image = images.clone().narrow(0, image_idx, 1);
        let mut floats = vec![vec![]; sums.len()];
        float.forward(image.clone(), |idx, output| {
            floats[idx] = host_values(output.clone());
            output
        });
        let mut integers: Vec<Option<IntTensor>> = vec![None; sums.len()];
        fake.forward_observed(image, |idx, real, rounded| {
            let node = &model.nodes()[idx];
            let activation = graph.nodes()[idx].op.activation();
            let rounded = host_values(rounded.clone());
            sums[idx].saturated += saturated(&host_values(real.clone()), node.grid, activation);
            sums[idx].add_floats(&floats[idx], &rounded);
            let values = rounded.iter().map(|&value| (f64::from(value) / node.grid.step()) as i16).collect();
            integers[idx] = Some(IntTensor { shape: node.shape, grid: node.grid, values });
        });
        let integers: Vec<IntTensor> = integers.into_iter().map(|node| node.expect("every node is observed")).collect();
        let end_to_end = interpreter.run_all(&integers[0].values)?;
        for (idx, node) in model.nodes().iter().enumerate().skip(1) {
            let inputs: Vec<IntTensor> = node.inputs.iter().map(|&input| integers[input].clone()).collect();
            let given_inputs = interpreter.run_node(idx, &inputs)?;
            sums[idx].add_integers(&integers[idx], &given_inputs, &end_to_end[idx]);
        }
    }
    let layers = sums.iter().zip(model.nodes()).map(|(sums, node)| sums.comparison(node));
    Ok(LayerReport { layers: layers.collect() })
}

#[derive(Debug, Clone, Default)]
struct Sums {
    values: u64,
    signal: f64,
    noise: f64,
    max_abs_diff: f64,
    saturated: u64,
    integer_mismatches: u64,
    max_integer_mismatch: u32,
    end_to_end_mismatches: u64,
}

impl Sums {
    fn add_floats(&mut self, float: &[f32], fake: &[f32]) {
        self.values += float.len() as u64;
        for (&float, &fake) in float.iter().zip(fake) {
            let (float, difference) = (f64::from(float), f64::from(float) - f64::from(fake));
            self.signal += float * float;
            self.noise += difference * difference;
            self.max_abs_diff = self.max_abs_diff.max(difference.abs());
        }
    }

    fn add_integers(&mut self, fake: &IntTensor, given_inputs: &IntTensor, end_to_end: &IntTensor) {
        for (&fake, &integer) in fake.values.iter().zip(&given_inputs.values) {
            let difference = i32::from(fake).abs_diff(i32::from(integer));
            self.integer_mismatches += u64::from(difference > 0);
            self.max_integer_mismatch = self.max_integer_mismatch.max(difference);
        }
        let pairs = fake.values.iter().zip(&end_to_end.values);
        self.end_to_end_mismatches += pairs.filter(|(fake, integer)| fake != integer).count() as u64;
    }

    fn comparison(&self, node: &IntegerNode) -> LayerComparison {
        LayerComparison {
            name: node.name.clone(),
            grid: node.grid,
            weight_bits: node.op.conv().map(IntegerConv::weight_bits),
            values: self.values,
            sqnr_db: decibels(self.signal, self.noise),
            max_abs_diff: self.max_abs_diff,
            saturated: self.saturated,
            integer_mismatches: self.integer_mismatches,
            max_integer_mismatch: self.max_integer_mismatch,
            end_to_end_mismatches: self.end_to_end_mismatches,
        }
    }
}

/// Ratio of two powers in decibels; infinite without noise.
pub(crate) fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}
