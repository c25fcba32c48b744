//! Runs an int8 model exactly: every output is the true value of its formula, rounded once, half to even.
//!
//! Values that are not integers on the way are held in floats in which all of them are exact or, for a mean's division,
//! closer to the true value than any true value that is no tie lies to a tie.
//!
//! The chip differs in one place that is known: of an unsigned input, the bias that the converter compiles ends one
//! accumulator step short for some channels (docs/formats/packer-out.md). Here the sum is exact.

use std::borrow::Cow;
use std::sync::Mutex;

use rayon::prelude::*;
use sensei_graph::op::Upsampling;

use crate::conv::PackedConv;
use crate::elementwise::{BilinearRow, PRODUCTS_BETWEEN_PIXELS, Sum, mean, repeat_pixels, scale_channels};
use crate::grid::ActivationGrid;
use crate::model::{IntegerModel, IntegerNode, IntegerOp, ModelError};
use crate::plane::{Plane, PlaneElement};
use crate::simd::InstructionSet;

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
    model: Cow<'a, IntegerModel>,
    steps: Vec<Step>,
    /// Position after which a node's output is no longer needed.
    last_reader: Vec<usize>,
    isa: InstructionSet,
    /// Memory of planes that are no longer needed, for the next ones.
    free: Mutex<Vec<Vec<u8>>>,
}

enum Step {
    Input,
    Conv(Box<PackedConv>),
    /// Every pixel four times, or, where all readers are depthwise convolutions, a plane that says so.
    Upsample {
        is_view: bool,
    },
    Bilinear,
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

    fn from_plane<T: PlaneElement>(plane: &Plane<T>, grid: ActivationGrid) -> Self {
        let area = plane.height * plane.width;
        let mut values = vec![0; plane.channels * area];
        for at in 0..area {
            let pixel = plane.pixel(at / plane.width, at % plane.width);
            for (channel, &value) in pixel[..plane.channels].iter().enumerate() {
                values[channel * area + at] = value.integer(grid) as i16;
            }
        }
        Self { shape: [plane.channels, plane.height, plane.width], grid, values }
    }
}

impl Interpreter<'static> {
    /// As [`Interpreter::new`], of a model that lives as long as what runs it.
    pub fn owning(model: IntegerModel) -> Self {
        Self::prepared(Cow::Owned(model), InstructionSet::detect())
    }
}

impl<'a> Interpreter<'a> {
    /// Rearranges the weights.
    pub fn new(model: &'a IntegerModel) -> Self {
        Self::on(model, InstructionSet::detect())
    }

    /// The network that it runs.
    pub fn model(&self) -> &IntegerModel {
        &self.model
    }

    /// The same for one isa: all of them compute the same integers.
    pub(crate) fn on(model: &'a IntegerModel, isa: InstructionSet) -> Self {
        Self::prepared(Cow::Borrowed(model), isa)
    }

    fn prepared(model: Cow<'a, IntegerModel>, isa: InstructionSet) -> Self {
        let nodes = model.nodes();
        let mut last_reader: Vec<usize> = (0..nodes.len()).collect();
        for (idx, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| last_reader[input] = idx);
        }
        last_reader[nodes.len() - 1] = nodes.len();
        let is_view = |idx: usize| {
            let mut readers = nodes.iter().filter(|node| node.inputs.contains(&idx));
            readers.all(|node| node.op.conv().is_some_and(|conv| conv.shape().is_depthwise()))
        };
        let step = |(idx, node): (usize, &IntegerNode)| match &node.op {
            IntegerOp::Input => Step::Input,
            IntegerOp::Conv(conv) => Step::Conv(Box::new(PackedConv::new(conv, nodes[node.inputs[0]].grid, node.grid))),
            IntegerOp::Upsample2x(Upsampling::Nearest) => {
                Step::Upsample { is_view: idx + 1 < nodes.len() && is_view(idx) }
            }
            IntegerOp::Upsample2x(Upsampling::Bilinear) => Step::Bilinear,
            IntegerOp::Add => Step::Add,
            IntegerOp::GlobalAveragePool => Step::Mean,
            IntegerOp::Sigmoid => Step::Table(sigmoid_table(nodes[node.inputs[0]].grid, node.grid)),
            IntegerOp::ScaleChannels => Step::Scale,
        };
        let steps = nodes.iter().enumerate().map(step).collect();
        Self { model, steps, last_reader, isa, free: Mutex::default() }
    }

    /// The integers that the sensor makes of pixels: `[height, width, channels]`, flat, 0..=255 ->
    /// `[channels, height, width]`.
    ///
    /// # Errors
    /// If the number of pixels is not the model's, or its input grid is not one of the sensor's
    /// ([`ActivationGrid::SIGNED_PIXELS`], [`ActivationGrid::UNSIGNED_PIXELS`]).
    pub fn from_pixels(&self, pixels: &[u8]) -> Result<Vec<i16>, ModelError> {
        let IntegerNode { shape: [channels, height, width], grid, .. } = *self.model.input();
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
        let nodes = self.model.nodes();
        let mut planes: Vec<Option<Plane<u8>>> = vec![];
        for (idx, node) in nodes[..nodes.len() - 1].iter().enumerate() {
            let plane = self.inner(idx, input, |input| planes[input].as_ref().expect("kept until its last reader"))?;
            planes.push(Some(plane));
            for &read in &node.inputs {
                if self.last_reader[read] == idx {
                    self.free(planes[read].take());
                }
            }
        }
        let output = self.last(|input| planes[input].as_ref().expect("kept until its last reader"));
        planes.into_iter().for_each(|plane| self.free(plane));
        Ok(output)
    }

    /// Every node's output, in node order.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_all(&self, input: &[i16]) -> Result<Vec<IntTensor>, ModelError> {
        let nodes = self.model.nodes();
        let mut planes: Vec<Plane<u8>> = vec![];
        for idx in 0..nodes.len() - 1 {
            planes.push(self.inner(idx, input, |input| &planes[input])?);
        }
        let inner = planes.iter().zip(nodes).map(|(plane, node)| IntTensor::from_plane(plane, node.grid));
        Ok(inner.chain([self.last(|input| &planes[input])]).collect())
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
        let load = |(&input, tensor): (&usize, &IntTensor)| Ok((input, self.load(&nodes[input], &tensor.values)?));
        let planes: Vec<(usize, Plane<u8>)> =
            node.inputs.iter().zip(inputs).map(load).collect::<Result<_, ModelError>>()?;
        let plane = |input| &planes.iter().find(|(idx, _)| *idx == input).expect("loaded above").1;
        if node_idx + 1 == nodes.len() {
            return Ok(self.last(plane));
        }
        Ok(IntTensor::from_plane(&self.inner(node_idx, &[], plane)?, node.grid))
    }

    /// A node's output; `image` is for the input.
    fn inner<'p>(
        &self,
        idx: usize,
        image: &[i16],
        plane: impl Fn(usize) -> &'p Plane<u8>,
    ) -> Result<Plane<u8>, ModelError> {
        let node = &self.model.nodes()[idx];
        match self.steps[idx] {
            Step::Input => self.load(node, image),
            Step::Upsample { is_view: true } => {
                let input = plane(node.inputs[0]);
                let mut values = self.memory();
                values.clear();
                values.extend_from_slice(&input.values);
                let Plane { channels, height, width, stride, .. } = *input;
                Ok(Plane { channels, height: 2 * height, width: 2 * width, stride, log2_upsampling: 1, values })
            }
            Step::Conv(_)
            | Step::Upsample { is_view: false }
            | Step::Bilinear
            | Step::Add
            | Step::Mean
            | Step::Table(_)
            | Step::Scale => {
                let mut out = Plane::new(node.shape, self.memory());
                self.compute(idx, plane, &mut out);
                Ok(out)
            }
        }
    }

    /// The last node's output.
    fn last<'p>(&self, plane: impl Fn(usize) -> &'p Plane<u8>) -> IntTensor {
        let (node, idx) = (self.model.output(), self.steps.len() - 1);
        if node.grid.bits() == 8 {
            let mut out = Plane::new(node.shape, self.memory());
            self.compute(idx, plane, &mut out);
            let tensor = IntTensor::from_plane(&out, node.grid);
            self.free(Some(out));
            return tensor;
        }
        let mut out = Plane::<i16>::new(node.shape, vec![]);
        self.compute(idx, plane, &mut out);
        IntTensor::from_plane(&out, node.grid)
    }

    fn compute<'p, T: PlaneElement>(&self, idx: usize, plane: impl Fn(usize) -> &'p Plane<u8>, out: &mut Plane<T>) {
        let nodes = self.model.nodes();
        let node = &nodes[idx];
        let input = |input: usize| plane(node.inputs[input]);
        let grid = |input: usize| nodes[node.inputs[input]].grid;
        let stride = out.stride;
        match &self.steps[idx] {
            Step::Conv(conv) => {
                let (input, width) = (input(0), out.width);
                let rows_per_task = rows_per_task(out.height, out.values.len() * conv.products_per_output());
                let tasks = out.values.par_chunks_mut(rows_per_task * width * stride).enumerate();
                tasks.with_max_len(1).for_each(|(task, output)| {
                    let first = task * rows_per_task;
                    let rows = first..first + output.len() / (width * stride);
                    conv.run_rows(self.isa, input, rows, width, output);
                });
            }
            Step::Upsample { .. } => repeat_pixels(input(0), node.grid, out),
            Step::Bilinear => {
                let (input, row_len) = (input(0), out.width * stride);
                let rows_per_task = rows_per_task(out.height, PRODUCTS_BETWEEN_PIXELS * out.values.len());
                out.values.par_chunks_mut(rows_per_task * row_len).enumerate().for_each(|(task, rows)| {
                    for (y, row) in (task * rows_per_task..).zip(rows.chunks_exact_mut(row_len)) {
                        self.isa.run(BilinearRow { input, y, row, grid: node.grid });
                    }
                });
            }
            Step::Add => {
                let (a, b) = (input(0), input(1));
                self.isa.run(Sum { planes: [a, b], grids: [grid(0), grid(1)], output: out, grid: node.grid });
            }
            Step::Mean => mean((input(0), grid(0)), node, out),
            Step::Table(table) => {
                for (out, &byte) in out.values.iter_mut().zip(&input(0).values) {
                    *out = T::from_integer(i32::from(table[usize::from(byte)]), node.grid);
                }
            }
            Step::Scale => scale_channels([0, 1].map(|idx| (input(idx), grid(idx))), node, out),
            Step::Input => unreachable!("{}: node 0 has no output to compute", node.name),
        }
    }

    /// Channel-last copy of `[channels, height, width]` integers, each checked to be on the node's grid.
    fn load(&self, node: &IntegerNode, values: &[i16]) -> Result<Plane<u8>, ModelError> {
        let mut plane = Plane::new(node.shape, self.memory());
        let area = plane.height * plane.width;
        if values.len() != plane.channels * area {
            let expected = format!("{:?}: {} values", node.shape, plane.channels * area);
            return Err(ModelError::Input { expected, found: format!("{} values", values.len()) });
        }
        let (qmin, qmax) = (node.grid.qmin(), node.grid.qmax());
        if let Some(value) = values.iter().find(|value| !(qmin..=qmax).contains(&i32::from(**value))) {
            let expected = format!("values from {qmin} to {qmax}");
            return Err(ModelError::Input { expected, found: value.to_string() });
        }
        for (channel, values) in values.chunks_exact(area).enumerate() {
            let pixels = plane.values.iter_mut().skip(channel).step_by(plane.stride);
            pixels.zip(values).for_each(|(pixel, &value)| *pixel = u8::from_integer(i32::from(value), node.grid));
        }
        Ok(plane)
    }

    fn memory(&self) -> Vec<u8> {
        self.free.lock().expect("no panic while it is held").pop().unwrap_or_default()
    }

    fn free(&self, plane: Option<Plane<u8>>) {
        self.free.lock().expect("no panic while it is held").extend(plane.map(|plane| plane.values));
    }
}

/// Rows of an output that one task computes: all, if there is too little to do for several.
fn rows_per_task(height: usize, products: usize) -> usize {
    let n_tasks = if products < MIN_PARALLEL_PRODUCTS { 1 } else { 2 * rayon::current_num_threads() };
    height.div_ceil(if rayon::current_num_threads() == 1 { 1 } else { n_tasks })
}

fn sigmoid_table(input: ActivationGrid, output: ActivationGrid) -> Vec<i16> {
    let sigmoid = |q: i32| 1.0 / (1.0 + (-input.dequantize(q)).exp());
    (input.qmin()..=input.qmax()).map(|q| output.quantize(sigmoid(q)) as i16).collect()
}

/// Products below which a second thread costs more than it saves.
const MIN_PARALLEL_PRODUCTS: usize = 200_000;
