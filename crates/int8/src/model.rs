//! The int8 model: everything the chip's arithmetic depends on, and nothing else.

mod integer_conv;

use std::collections::BTreeSet;

use sensei_graph::op::{ConvShape, GraphOp};

use crate::grid::{ActivationGrid, GridError};

pub use integer_conv::{Clipped, FloatConv, IntegerConv};

/// A network in integers. Node 0 is the input, the last node the output; inputs come before their readers.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerModel {
    name: String,
    nodes: Vec<IntegerNode>,
}

/// One stored tensor and the operator that makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerNode {
    /// Unique in the model.
    pub name: String,
    /// What makes the output.
    pub op: IntegerOp,
    /// Indices of the nodes read, all smaller than this node's.
    pub inputs: Vec<usize>,
    /// Output shape without the batch: channels, height, width.
    pub shape: [usize; 3],
    /// What the output's integers mean.
    pub grid: ActivationGrid,
}

/// An operator of an integer network. Each ends in one rounding to the node's grid (half to even) and a clamp to its ends;
/// a convolution sums in 32 bits and rescales by eight-bit mantissa and shift, its activation is in the clamp; upsampling keeps its
/// input's grid.
pub type IntegerOp = GraphOp<IntegerConv>;

/// A model the chip or this crate cannot run. `node` names the node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No nodes, too many, or no usable name.
    #[error("model {name:?}: expected {expected}, found {found}")]
    Model {
        /// The model's name.
        name: String,
        /// What a model needs.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// A node that does not fit the nodes it reads, or is used in no way.
    #[error("{node}: {what}: expected {expected}, found {found}")]
    Node {
        /// The node's name.
        node: String,
        /// Which property.
        what: &'static str,
        /// What its operator needs.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A float that is not finite.
    #[error("{node}: {what}[{idx}] is {found}, expected a finite number")]
    NotFinite {
        /// The node's name.
        node: String,
        /// Weights or bias.
        what: &'static str,
        /// Which one.
        idx: usize,
        /// Its value.
        found: f32,
    },
    /// A sum that could leave 32 bits.
    #[error("{node}: channel {channel} can reach {found} in its accumulator, which holds 32 bits: raise its threshold")]
    Accumulator {
        /// The node's name.
        node: String,
        /// Output channel.
        channel: usize,
        /// Largest possible absolute sum, bias included.
        found: i64,
    },
    /// A threshold or bit width that the chip does not have.
    #[error("{node}: {source}")]
    Grid {
        /// The node's name.
        node: String,
        /// Which one.
        source: GridError,
    },
    /// The input of a run does not fit the model.
    #[error("input: expected {expected}, found {found}")]
    Input {
        /// What the model needs.
        expected: String,
        /// What was given.
        found: String,
    },
}

impl IntegerModel {
    /// A model of these nodes.
    ///
    /// # Errors
    /// If the network is not one that the interpreter runs exactly and the chip's grid holds: order, shapes, grids,
    /// accumulators that could leave 32 bits, tensors that nobody reads.
    pub fn new(name: impl Into<String>, nodes: Vec<IntegerNode>) -> Result<Self, ModelError> {
        let model = Self { name: name.into(), nodes };
        model.check_whole()?;
        for (idx, node) in model.nodes.iter().enumerate() {
            model.check_node(idx, node)?;
        }
        Ok(model)
    }

    /// The network's name: letters, digits, `_` and `-`; the converter puts it into its files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes, inputs before readers.
    pub fn nodes(&self) -> &[IntegerNode] {
        &self.nodes
    }

    /// The input node.
    pub fn input(&self) -> &IntegerNode {
        &self.nodes[0]
    }

    /// The output node.
    pub fn output(&self) -> &IntegerNode {
        &self.nodes[self.nodes.len() - 1]
    }

    /// Digest of the model: blake3 of its file without the trailing checksum, so equal models have equal digests.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&crate::model_file::body(self)).as_bytes()
    }

    fn check_whole(&self) -> Result<(), ModelError> {
        let bad = |expected, found: String| Err(ModelError::Model { name: self.name.clone(), expected, found });
        if !is_clean_name(&self.name) {
            return bad("a name of 1 to 64 letters, digits, `_` or `-`", self.name.clone());
        }
        if !(2..=MAX_NODES).contains(&self.nodes.len()) {
            return bad("2 to 4096 nodes", self.nodes.len().to_string());
        }
        let mut names = BTreeSet::new();
        for node in &self.nodes {
            if node.name.is_empty()
                || node.name.len() > 200
                || !node.name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
            {
                return bad("node names of 1 to 200 visible ASCII characters without `/`", format!("{:?}", node.name));
            }
            if !names.insert(node.name.as_str()) {
                return bad("unique node names", format!("{:?} twice", node.name));
            }
        }
        let mut is_read = vec![false; self.nodes.len()];
        for (idx, node) in self.nodes.iter().enumerate() {
            if let Some(input) = node.inputs.iter().find(|&&input| input >= idx) {
                return bad("nodes that read earlier nodes only", format!("{} reading node {input}", node.name));
            }
            node.inputs.iter().for_each(|&input| is_read[input] = true);
        }
        match is_read[..is_read.len() - 1].iter().position(|read| !read) {
            Some(idx) => bad("every node but the last to be read", format!("{} read by none", self.nodes[idx].name)),
            None => Ok(()),
        }
    }

    fn check_node(&self, idx: usize, node: &IntegerNode) -> Result<(), ModelError> {
        let expect = |what: &'static str, expected: String, found: String| {
            if expected == found {
                return Ok(());
            }
            Err(ModelError::Node { node: node.name.clone(), what, expected, found })
        };
        expect("number of inputs", node.op.n_inputs().to_string(), node.inputs.len().to_string())?;
        if node.shape.iter().any(|side| !(1..=MAX_SIDE).contains(side))
            || node.shape.iter().product::<usize>() > MAX_VALUES
        {
            let expected = format!("sides of 1 to {MAX_SIDE}, at most {MAX_VALUES} values");
            return expect("shape", expected, format!("{:?}", node.shape));
        }
        if idx + 1 < self.nodes.len() {
            expect("bits of an inner tensor", "8".into(), node.grid.bits().to_string())?;
        }
        let shape = |input: usize| self.nodes[node.inputs[input]].shape;
        let expect_shape = |expected: [usize; 3]| expect("shape", format!("{expected:?}"), format!("{:?}", node.shape));
        match &node.op {
            IntegerOp::Input => expect("position of the input", "0".into(), idx.to_string()),
            _ if idx == 0 => expect("first node", "the input".into(), "another operator".into()),
            IntegerOp::Conv(conv) => self.check_conv(node, conv),
            IntegerOp::Upsample2x(_) => {
                expect_shape([shape(0)[0], 2 * shape(0)[1], 2 * shape(0)[2]])?;
                let grid = self.nodes[node.inputs[0]].grid;
                expect("grid", format!("its input's, {grid:?}"), format!("its input's, {:?}", node.grid))
            }
            IntegerOp::Add => {
                expect("shape of the second input", format!("{:?}", shape(0)), format!("{:?}", shape(1)))?;
                expect_shape(shape(0))?;
                let step = |input: usize| self.nodes[node.inputs[input]].grid.log2_step();
                if step(0).abs_diff(step(1)) > 40 {
                    let expected = "inputs whose steps differ by at most 2^40".to_string();
                    return expect("grids", expected, format!("2^{} and 2^{}", step(0), step(1)));
                }
                Ok(())
            }
            IntegerOp::GlobalAveragePool => expect_shape([shape(0)[0], 1, 1]),
            IntegerOp::Sigmoid => expect_shape(shape(0)),
            IntegerOp::ScaleChannels => {
                let scale = [shape(0)[0], 1, 1];
                expect("shape of the second input", format!("{scale:?}"), format!("{:?}", shape(1)))?;
                expect_shape(shape(0))
            }
        }
    }

    fn check_conv(&self, node: &IntegerNode, conv: &IntegerConv) -> Result<(), ModelError> {
        let shape = conv.shape();
        check_shape(shape, &node.name)?;
        let input = &self.nodes[node.inputs[0]];
        let [channels, height, width] = input.shape;
        let bad = |what, expected: String, found: String| {
            Err(ModelError::Node { node: node.name.clone(), what, expected, found })
        };
        if channels != shape.in_channels {
            return bad("in_channels", channels.to_string(), shape.in_channels.to_string());
        }
        let extent = shape.dilation * (shape.kernel - 1) + 1;
        if height.min(width) + 2 * shape.padding < extent {
            return bad("padded input", format!("at least {extent} pixels"), format!("{height} x {width}"));
        }
        let expected = [shape.out_channels, shape.output_size(height), shape.output_size(width)];
        if node.shape != expected {
            return bad("shape", format!("{expected:?}"), format!("{:?}", node.shape));
        }
        for (channel, found) in conv.worst_accumulators(input.grid).enumerate() {
            if found > i64::from(i32::MAX) {
                return Err(ModelError::Accumulator { node: node.name.clone(), channel, found });
            }
        }
        Ok(())
    }
}

/// Letters, digits, `_` and `-` only: fit for a file name and for the converter's network name.
pub fn is_clean_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Checks the geometry alone; `node` is for the message.
pub fn check_shape(shape: &ConvShape, node: &str) -> Result<(), ModelError> {
    let bad = |what, expected: &str, found: usize| {
        Err(ModelError::Node { node: node.into(), what, expected: expected.into(), found: found.to_string() })
    };
    for (what, found, max) in [
        ("in_channels", shape.in_channels, MAX_SIDE),
        ("out_channels", shape.out_channels, MAX_SIDE),
        ("kernel", shape.kernel, 31),
        ("stride", shape.stride, 31),
        ("dilation", shape.dilation, 31),
        ("groups", shape.groups, MAX_SIDE),
    ] {
        if found == 0 || found > max {
            return bad(what, &format!("1 to {max}"), found);
        }
    }
    if !shape.in_channels.is_multiple_of(shape.groups) || !shape.out_channels.is_multiple_of(shape.groups) {
        let expected = format!("a divisor of {} and {}", shape.in_channels, shape.out_channels);
        return bad("groups", &expected, shape.groups);
    }
    let extent = shape.dilation * (shape.kernel - 1) + 1;
    if shape.padding >= extent {
        return bad("padding", &format!("less than the kernel's extent {extent}"), shape.padding);
    }
    Ok(())
}

/// Most nodes of a model.
pub(crate) const MAX_NODES: usize = 4096;
/// Largest number of channels, rows or columns.
pub(crate) const MAX_SIDE: usize = 8192;
/// Most values of one tensor: four times the chip's memory.
pub(crate) const MAX_VALUES: usize = 1 << 25;
