//! Runs an int8 model exactly: every output is the true value of its formula, rounded once, half to even.
//!
//! Values that are not integers on the way are held in `f64`, in which all of them are exact or, for a mean's division,
//! closer to the true value than any true value that is no tie lies to a tie.

use rayon::prelude::*;

use crate::conv::{PackedConv, Plane, round_clamped};
use crate::grid::ActivationGrid;
use crate::model::{Int8Model, Int8Node, Int8Op, ModelError};

/// Integers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct IntTensor {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// What the integers mean.
    pub grid: ActivationGrid,
    /// Channel by channel, row by row.
    pub values: Vec<i16>,
}

/// A model prepared for running; make it once, run it often, from any number of threads.
pub struct Interpreter<'a> {
    model: &'a Int8Model,
    steps: Vec<Step>,
    /// Position after which a node's output is no longer needed.
    last_reader: Vec<usize>,
}

enum Step {
    Input,
    Conv(Box<PackedConv>),
    Upsample,
    Add,
    Mean,
    /// One output per integer of the input's grid, from its smallest on.
    Table(Vec<i16>),
    Scale,
}

impl IntTensor {
    /// The values as floats: `q * step`.
    pub fn dequantize(&self) -> Vec<f32> {
        let step = self.grid.step() as f32;
        self.values.iter().map(|&q| f32::from(q) * step).collect()
    }

    fn from_plane(plane: &Plane, grid: ActivationGrid) -> Self {
        let (area, stride) = (plane.height * plane.width, plane.stride);
        let mut values = vec![0; plane.channels * area];
        for (channel, values) in values.chunks_exact_mut(area).enumerate() {
            let pixels = plane.values.iter().skip(channel).step_by(stride);
            values.iter_mut().zip(pixels).for_each(|(value, &q)| *value = q);
        }
        Self { shape: [plane.channels, plane.height, plane.width], grid, values }
    }
}

impl<'a> Interpreter<'a> {
    /// Rearranges the weights.
    pub fn new(model: &'a Int8Model) -> Self {
        let nodes = model.nodes();
        let step = |node: &Int8Node| match &node.op {
            Int8Op::Input => Step::Input,
            Int8Op::Conv(conv) => Step::Conv(Box::new(PackedConv::new(conv, nodes[node.inputs[0]].grid, node.grid))),
            Int8Op::UpsampleNearest2x => Step::Upsample,
            Int8Op::Add => Step::Add,
            Int8Op::GlobalAveragePool => Step::Mean,
            Int8Op::Sigmoid => Step::Table(sigmoid_table(nodes[node.inputs[0]].grid, node.grid)),
            Int8Op::ScaleChannels => Step::Scale,
        };
        let mut last_reader: Vec<usize> = (0..nodes.len()).collect();
        for (idx, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| last_reader[input] = idx);
        }
        last_reader[nodes.len() - 1] = nodes.len();
        Self { model, steps: nodes.iter().map(step).collect(), last_reader }
    }

    /// The integers that the sensor makes of pixels: `[height, width, channels]`, flat, 0..=255 ->
    /// `[channels, height, width]`.
    ///
    /// # Errors
    /// If the number of pixels is not the model's, or its input grid is not one of the sensor's
    /// ([`ActivationGrid::SIGNED_PIXELS`], [`ActivationGrid::UNSIGNED_PIXELS`]).
    pub fn from_pixels(&self, pixels: &[u8]) -> Result<Vec<i16>, ModelError> {
        let Int8Node { shape: [channels, height, width], grid, .. } = *self.model.input();
        if grid != ActivationGrid::SIGNED_PIXELS && grid != ActivationGrid::UNSIGNED_PIXELS {
            let (expected, found) = ("an input with threshold 1".into(), format!("threshold {}", grid.threshold()));
            return Err(ModelError::Input { expected, found });
        }
        if pixels.len() != channels * height * width {
            let expected = format!("{height} x {width} x {channels} bytes");
            return Err(ModelError::Input { expected, found: format!("{} bytes", pixels.len()) });
        }
        let zero = if grid.signed() { 128 } else { 0 };
        let channel = |channel: usize| pixels.iter().skip(channel).step_by(channels);
        Ok((0..channels).flat_map(channel).map(|&pixel| i16::from(pixel) - zero).collect())
    }

    /// The output for one input `[channels, height, width]` of integers on the input's grid.
    ///
    /// # Errors
    /// If the number of values is wrong or one is off the grid.
    pub fn run(&self, input: &[i16]) -> Result<IntTensor, ModelError> {
        let mut planes: Vec<Option<Plane>> = vec![];
        for idx in 0..self.steps.len() {
            let plane = self.node(idx, input, |input| planes[input].as_ref().expect("kept until its last reader"))?;
            planes.push(Some(plane));
            for &read in &self.model.nodes()[idx].inputs {
                if self.last_reader[read] == idx {
                    planes[read] = None;
                }
            }
        }
        let output = planes.pop().flatten().expect("the last node's output is kept");
        Ok(IntTensor::from_plane(&output, self.model.output().grid))
    }

    /// Every node's output, in node order.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_all(&self, input: &[i16]) -> Result<Vec<IntTensor>, ModelError> {
        let mut planes: Vec<Plane> = vec![];
        for idx in 0..self.steps.len() {
            planes.push(self.node(idx, input, |input| &planes[input])?);
        }
        let nodes = planes.iter().zip(self.model.nodes());
        Ok(nodes.map(|(plane, node)| IntTensor::from_plane(plane, node.grid)).collect())
    }

    /// The outputs for several inputs, in parallel over images.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_batch(&self, inputs: &[Vec<i16>]) -> Result<Vec<IntTensor>, ModelError> {
        inputs.par_iter().map(|input| self.run(input)).collect()
    }

    /// The output of one node, given tensors for the nodes that it reads, in their order.
    ///
    /// # Errors
    /// If a tensor's shape or grid is not that of the node it stands for, or a value is off its grid.
    pub fn run_node(&self, node_idx: usize, inputs: &[IntTensor]) -> Result<IntTensor, ModelError> {
        let nodes = self.model.nodes();
        let node = &nodes[node_idx];
        let expected: Vec<_> = node.inputs.iter().map(|&input| (nodes[input].shape, nodes[input].grid)).collect();
        let found: Vec<_> = inputs.iter().map(|tensor| (tensor.shape, tensor.grid)).collect();
        if expected != found || node.inputs.is_empty() {
            return Err(ModelError::Input { expected: format!("{expected:?}"), found: format!("{found:?}") });
        }
        let load = |(&input, tensor): (&usize, &IntTensor)| Ok((input, load(&nodes[input], &tensor.values)?));
        let planes: Vec<(usize, Plane)> =
            node.inputs.iter().zip(inputs).map(load).collect::<Result<_, ModelError>>()?;
        let plane = |input| &planes.iter().find(|(idx, _)| *idx == input).expect("loaded above").1;
        Ok(IntTensor::from_plane(&self.node(node_idx, &[], plane)?, node.grid))
    }

    fn node<'p>(&self, idx: usize, image: &[i16], plane: impl Fn(usize) -> &'p Plane) -> Result<Plane, ModelError> {
        let nodes = self.model.nodes();
        let node = &nodes[idx];
        let input = |input: usize| plane(node.inputs[input]);
        let step = |input: usize| nodes[node.inputs[input]].grid.step() / node.grid.step();
        let mut out = Plane::zeros(node.shape);
        let row_len = out.width * out.stride;
        match &self.steps[idx] {
            Step::Input => return load(node, image),
            Step::Conv(conv) => {
                let input = input(0);
                let rows = out.values.par_chunks_mut(row_len).enumerate();
                rows.for_each(|(y, row)| conv.run_row(input, y, row));
            }
            Step::Upsample => {
                let input = input(0);
                for (idx, pixel) in out.values.chunks_exact_mut(out.stride).enumerate() {
                    let (y, x) = (idx / out.width / 2, idx % out.width / 2);
                    let at = (y * input.width + x) * input.stride;
                    pixel.copy_from_slice(&input.values[at..at + input.stride]);
                }
            }
            Step::Add => {
                let (a, b, step_a, step_b) = (input(0), input(1), step(0), step(1));
                let pairs = a.values.iter().zip(&b.values);
                let sum = |(&a, &b): (&i16, &i16)| f64::from(a) * step_a + f64::from(b) * step_b;
                out.values.iter_mut().zip(pairs).for_each(|(out, pair)| *out = round(sum(pair), node.grid));
            }
            Step::Mean => {
                let (input, step) = (input(0), step(0));
                let count = (input.height * input.width) as f64;
                for channel in 0..input.channels {
                    let sum: i64 = input.values.iter().skip(channel).step_by(input.stride).map(|&q| i64::from(q)).sum();
                    out.values[channel] = round(sum as f64 * step / count, node.grid);
                }
            }
            Step::Table(table) => {
                let input_grid = nodes[node.inputs[0]].grid;
                let pixels = out.values.chunks_exact_mut(out.stride).zip(input(0).values.chunks_exact(out.stride));
                for (out, pixel) in pixels {
                    for (out, &q) in out.iter_mut().zip(pixel).take(node.shape[0]) {
                        *out = table[(i32::from(q) - input_grid.qmin()) as usize];
                    }
                }
            }
            Step::Scale => {
                let (input, scale) = (input(0), input(1));
                let step = step(0) * nodes[node.inputs[1]].grid.step();
                let pixels = out.values.chunks_exact_mut(out.stride).zip(input.values.chunks_exact(out.stride));
                for (out, pixel) in pixels {
                    for ((out, &q), &scale) in out.iter_mut().zip(pixel).zip(&scale.values) {
                        *out = round(f64::from(i32::from(q) * i32::from(scale)) * step, node.grid);
                    }
                }
            }
        }
        Ok(out)
    }
}

/// The nearest integer of the grid to a value in steps of the grid, ties to even.
fn round(steps: f64, grid: ActivationGrid) -> i16 {
    round_clamped(steps, (f64::from(grid.qmin()), f64::from(grid.qmax())))
}

/// Channel-last copy of `[channels, height, width]` integers, each checked to be on the node's grid.
fn load(node: &Int8Node, values: &[i16]) -> Result<Plane, ModelError> {
    let mut plane = Plane::zeros(node.shape);
    let area = plane.height * plane.width;
    if values.len() != plane.channels * area {
        let expected = format!("{:?}: {} values", node.shape, plane.channels * area);
        return Err(ModelError::Input { expected, found: format!("{} values", values.len()) });
    }
    let (qmin, qmax) = (node.grid.qmin(), node.grid.qmax());
    if let Some(value) = values.iter().find(|value| !(qmin..=qmax).contains(&i32::from(**value))) {
        return Err(ModelError::Input { expected: format!("values from {qmin} to {qmax}"), found: value.to_string() });
    }
    for (channel, values) in values.chunks_exact(area).enumerate() {
        let pixels = plane.values.iter_mut().skip(channel).step_by(plane.stride);
        pixels.zip(values).for_each(|(pixel, &value)| *pixel = value);
    }
    Ok(plane)
}

fn sigmoid_table(input: ActivationGrid, output: ActivationGrid) -> Vec<i16> {
    let sigmoid = |q: i32| 1.0 / (1.0 + (-input.dequantize(q)).exp());
    (input.qmin()..=input.qmax()).map(|q| output.quantize(sigmoid(q)) as i16).collect()
}
