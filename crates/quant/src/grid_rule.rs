//! Where the grid of each tensor comes from: the one place that knows it of every operator.

use sensei_graph::layer_graph::{LayerGraph, Op};
use sensei_graph::op::{Activation, Upsampling};
use sensei_int8::grid::{ActivationGrid, GridError};

use crate::error::QuantError;

/// Where the grid of an operator's output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GridRule {
    /// What the sensor delivers: signed, threshold 1.
    Sensor,
    /// The first input's, whose integers are copied, so that nothing is left to round.
    CopyOfInput,
    /// The first input's, to which new values are rounded.
    SameAsInput,
    /// That of probabilities: unsigned, threshold 1.
    Probability,
    /// Its own, which the values decide on: searched for by calibration, trained on the grid.
    Chosen {
        /// Whether there are negative values.
        signed: bool,
    },
}

impl GridRule {
    /// The rule of an operator; `input_signed` says whether its first input, if it has one, has negative integers.
    pub(crate) fn of(op: &Op, input_signed: bool) -> Self {
        match op {
            Op::Input => Self::Sensor,
            Op::Conv(conv) => Self::Chosen { signed: conv.activation == Activation::None },
            Op::Upsample2x(Upsampling::Nearest) => Self::CopyOfInput,
            Op::Upsample2x(Upsampling::Bilinear) => Self::SameAsInput,
            Op::Add => Self::Chosen { signed: true },
            Op::GlobalAveragePool | Op::ScaleChannels => Self::Chosen { signed: input_signed },
            Op::Sigmoid => Self::Probability,
        }
    }
}

/// The grid of every node of a network whose output has `output_bits`; `choose` gets index, bits and sign of each node
/// whose grid is [`GridRule::Chosen`].
///
/// # Errors
/// The first grid that the chip does not have, with its node.
pub(crate) fn grids(
    graph: &LayerGraph,
    output_bits: u8,
    mut choose: impl FnMut(usize, u8, bool) -> Result<ActivationGrid, GridError>,
) -> Result<Vec<ActivationGrid>, QuantError> {
    let last = graph.nodes().len() - 1;
    let mut grids: Vec<ActivationGrid> = Vec::with_capacity(graph.nodes().len());
    for (idx, node) in graph.nodes().iter().enumerate() {
        let bits = if idx == last { output_bits } else { 8 };
        let input = node.inputs.first().map(|&input| grids[input]);
        let grid = match GridRule::of(&node.op, input.is_some_and(ActivationGrid::signed)) {
            GridRule::Sensor => Ok(ActivationGrid::SIGNED_PIXELS),
            GridRule::CopyOfInput | GridRule::SameAsInput => Ok(input.expect("an operator with an input")),
            GridRule::Probability => ActivationGrid::new(bits, false, 0),
            GridRule::Chosen { signed } => choose(idx, bits, signed),
        };
        grids.push(grid.map_err(|source| QuantError::Grid { node: node.name.clone(), source })?);
    }
    Ok(grids)
}
