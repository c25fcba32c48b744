//! The compiled numbers of a network, read back from `l2staticData.bin`. Layout: `docs/formats/packer-out.md`.
//!
//! The file has no directory: what lies where follows from the network's names and shapes. Established for the operators
//! of our students by converting networks of our own and comparing; everything else is refused.

use crate::conv_layout::{Layout, Order, is_established};
use crate::memory::{NetworkShape, fused_into};
use crate::refusal::{Bytes, Refusal};
use sensei_int8::grid::ActivationGrid;
use sensei_int8::model::{IntegerConv, IntegerModel, IntegerNode, IntegerOp};

/// What the chip holds of a convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledConv {
    /// Name of the node.
    pub node: String,
    /// Per output channel, as [`compiled_bias`] has them.
    pub bias: Vec<i32>,
    /// Per output channel: mantissa and shift, as [`IntegerConv::rescale`] has them.
    pub rescale: Vec<(u8, i32)>,
    /// `[out, in / groups, kernel, kernel]`.
    pub weights: Vec<i8>,
}

/// What the chip holds of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The convolutions, in the order of the network.
    pub convs: Vec<CompiledConv>,
    /// Tables of the logistic function, one per sigmoid: entry `q + 128` is `2^15` times its value.
    pub sigmoids: Vec<Vec<u16>>,
    /// Bytes whose meaning is not known. All are 0: others are refused.
    pub unknown_bytes: usize,
}

/// The bias that the converter compiles, per output channel, in steps of the chip's accumulator: weights of fewer bits are
/// multiplied up to 8, and so 4-bit weights make the steps 16 times smaller.
///
/// It works on `u8 - 128` for an unsigned input, and adds what that takes away: 128 times the sum of the weights, which
/// it computes in floats from dequantized weights, row by row with neighbouring channels, and truncates. So the sum can
/// be one step short.
///
/// # Source
/// Converter 3.19.2, experiments: equal in every channel of four networks (`tests/coefficients.rs`).
pub fn compiled_bias(conv: &IntegerConv, input: ActivationGrid) -> Vec<i32> {
    let shape = conv.shape();
    let up = f64::from(8 - conv.weight_bits()).exp2();
    let biases = conv.bias().iter().map(|bias| f64::from(*bias) * up);
    if input.signed() {
        return biases.map(|bias| bias as i32).collect();
    }
    let (taps, channels) = (shape.kernel * shape.kernel, shape.in_channels / shape.groups);
    let per_channel = conv.weights().chunks_exact(shape.weights_per_channel());
    let zeros = per_channel.zip(conv.thresholds()).map(|(weights, threshold)| {
        let mantissa = f64::from(threshold.mantissa());
        let order = (0..taps).flat_map(|tap| (0..channels).map(move |channel| channel * taps + tap));
        let sum: f64 = order.map(|at| f64::from(weights[at]) * mantissa * mantissa.recip()).sum();
        (128.0 * up * sum).trunc()
    });
    biases.zip(zeros).map(|(bias, zero)| (bias + zero) as i32).collect()
}

/// Reads what the chip holds of `model` from its `l2staticData.bin`.
///
/// # Errors
/// If the network has something whose layout is not established, or the bytes are not laid out as its shapes say.
pub fn read_coefficients(model: &IntegerModel, bytes: &[u8]) -> Result<Compiled, Refusal> {
    let nodes = model.nodes();
    let layouts: Vec<Option<Layout>> = nodes.iter().map(|node| layout(model, node)).collect::<Result<_, _>>()?;
    let fused = fused_into(&NetworkShape::from(model));
    let mut by_name: Vec<usize> = (0..nodes.len()).collect();
    by_name.sort_by(|a, b| nodes[*a].name.cmp(&nodes[*b].name));

    let mut reader = Reader { bytes: Bytes::new(bytes), unknown: 0 };
    let mut found: Vec<Parts> = nodes.iter().map(|_| Parts::default()).collect();
    for &idx in &by_name {
        if let Some(layout) = &layouts[idx] {
            found[idx].bias = reader.biases(layout)?;
        }
    }
    let mut sigmoids = vec![];
    for &idx in &by_name {
        let node = &nodes[idx];
        match &node.op {
            IntegerOp::Add => {
                reader.zeros(512)?;
                if let Some((conv, layout)) = fused
                    .iter()
                    .position(|into| *into == Some(idx))
                    .and_then(|conv| Some((conv, layouts[conv].as_ref()?)))
                {
                    found[conv].rescale = reader.rescales(layout, &nodes[conv])?;
                }
            }
            IntegerOp::Upsample2x(_) => {
                let of_sum = nodes[node.inputs[0]].op == IntegerOp::Add;
                reader.zeros(if of_sum { 0 } else { 32 })?;
            }
            IntegerOp::Sigmoid => {
                sigmoids.push(reader.table()?);
                // 32 of them are the channel product's.
                reader.zeros(96)?;
            }
            IntegerOp::Conv(_) => {
                let layout = layouts[idx].as_ref().expect("convolutions have a layout");
                reader.conv(layout, node, fused[idx].is_some(), &mut found[idx])?;
            }
            IntegerOp::Input | IntegerOp::GlobalAveragePool | IntegerOp::ScaleChannels => {}
        }
    }
    match reader.bytes.rest().len() {
        0 => {}
        more => return Err(Refusal::byte(reader.bytes.offset, "the end of the file", format!("{more} bytes"))),
    }
    let convs = nodes.iter().zip(found).filter(|(node, _)| node.op.conv().is_some());
    let convs = convs.map(|(node, Parts { bias, rescale, weights })| CompiledConv {
        node: node.name.clone(),
        bias,
        rescale,
        weights,
    });
    Ok(Compiled { convs: convs.collect(), sigmoids, unknown_bytes: reader.unknown })
}

/// Mantissa and shift of each output channel.
type Rescale = Vec<(u8, i32)>;

#[derive(Default)]
struct Parts {
    bias: Vec<i32>,
    rescale: Rescale,
    weights: Vec<i8>,
}

fn layout(model: &IntegerModel, node: &IntegerNode) -> Result<Option<Layout>, Refusal> {
    let Some(conv) = node.op.conv() else { return Ok(None) };
    let input = &model.nodes()[node.inputs[0]];
    let refuse = |expected: &str, found: String| Err(Refusal::key(node.name.clone(), expected, found));
    let is_vector = input.shape[1..] == [1, 1];
    if !is_established(conv.shape(), is_vector) {
        return refuse(
            "a convolution of the student family, whose layout is established",
            format!("{:?}", conv.shape()),
        );
    }
    let may_be_4_bits = conv.shape().stride == 2 && conv.shape().groups == 1;
    if conv.weight_bits() == 2 || (conv.weight_bits() == 4 && !may_be_4_bits) {
        return refuse(
            "8-bit weights, or 4-bit ones of a dense convolution of stride 2",
            format!("{} bits", conv.weight_bits()),
        );
    }
    Ok(Some(Layout::new(conv, is_vector)))
}

struct Reader<'a> {
    bytes: Bytes<'a>,
    unknown: usize,
}

impl Reader<'_> {
    /// Bytes without known meaning, which are 0 in every file seen.
    fn zeros(&mut self, len: usize) -> Result<(), Refusal> {
        let offset = self.bytes.offset;
        let found = self.bytes.take("zeros", len)?;
        self.unknown += len;
        match found.iter().position(|byte| *byte != 0) {
            Some(at) => Err(Refusal::byte(offset + at, "0", found[at].to_string())),
            None => Ok(()),
        }
    }

    /// A convolution's part but for the biases, which stand before all parts; rescales of one that an addition ends stand there.
    fn conv(&mut self, layout: &Layout, node: &IntegerNode, is_fused: bool, parts: &mut Parts) -> Result<(), Refusal> {
        if !layout.weights_first && !is_fused {
            parts.rescale = self.rescales(layout, node)?;
        }
        parts.weights = self.weights(layout)?;
        if layout.order == Order::Vector {
            (parts.rescale, parts.bias) = self.vector_rescales(layout, node, &parts.bias)?;
        } else if layout.weights_first && !is_fused {
            parts.rescale = self.rescales(layout, node)?;
        }
        let is_last = self.bytes.rest().is_empty();
        self.zeros(if is_last { 0 } else { layout.zeros_after })
    }

    fn biases(&mut self, layout: &Layout) -> Result<Vec<i32>, Refusal> {
        let offset = self.bytes.offset;
        let bytes = self.bytes.take("biases", 4 * layout.padded_outputs)?.as_chunks::<4>().0;
        let biases: Vec<i32> = bytes.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        match biases[layout.n_outputs..].iter().position(|bias| *bias != 0) {
            Some(at) => {
                let channel = layout.n_outputs + at;
                Err(Refusal::byte(offset + 4 * channel, "0 beyond the last channel", biases[channel].to_string()))
            }
            None => Ok(biases[..layout.n_outputs].to_vec()),
        }
    }

    /// Mantissas, then shifts, one byte each.
    fn rescales(&mut self, layout: &Layout, node: &IntegerNode) -> Result<Rescale, Refusal> {
        let offset = self.bytes.offset;
        let mantissas = self.bytes.take("mantissas", layout.padded_outputs)?;
        let shifts = self.bytes.take("shifts", layout.padded_outputs)?;
        let (n, up) = (layout.n_outputs, 8 - i32::from(layout.weight_bits));
        let filling = (-node.grid.log2_threshold()) as i8 as u8;
        let is_filling = |channel: usize| (mantissas[channel], shifts[channel]) == (0, filling);
        let is_wrong = |channel: &usize| if *channel < n { mantissas[*channel] < 128 } else { !is_filling(*channel) };
        if let Some(channel) = (0..layout.padded_outputs).find(is_wrong) {
            let expected = format!("mantissas from 128, and beyond {n} channels (0, {filling})");
            let found = format!("({}, {})", mantissas[channel], shifts[channel]);
            return Err(Refusal::byte(offset + channel, expected, found));
        }
        let one = |channel: usize| (mantissas[channel], on_grid(32 - up - i32::from(shifts[channel] as i8), node.grid));
        Ok((0..n).map(one).collect())
    }

    /// What follows the weights of a convolution of one pixel: its bias is multiplied by `2^first`, the mantissa has 15
    /// bits, and the shift is in two parts.
    fn vector_rescales(
        &mut self,
        layout: &Layout,
        node: &IntegerNode,
        bias: &[i32],
    ) -> Result<(Rescale, Vec<i32>), Refusal> {
        let (n, padded) = (layout.n_outputs, layout.padded_outputs);
        self.zeros(padded + 64)?;
        let offset = self.bytes.offset;
        let first = self.bytes.take("first shifts", padded)?;
        let second = self.bytes.take("second shifts", padded)?;
        let mantissas = self.bytes.take("mantissas", 2 * padded)?.as_chunks::<2>().0;
        let (mut rescale, mut unscaled) = (vec![], vec![]);
        for channel in 0..n {
            let mantissa = u16::from_le_bytes(mantissas[channel]);
            let is_multiple = first[channel] < 31 && bias[channel] & ((1 << first[channel]) - 1) == 0;
            if !mantissa.is_multiple_of(128) || !(1 << 14..1 << 15).contains(&mantissa) || !is_multiple {
                let expected = "an 8-bit mantissa times 128, and a bias that the first shift divides";
                let found = format!("{mantissa}, bias {} and shift {}", bias[channel], first[channel]);
                return Err(Refusal::byte(offset + channel, expected, found));
            }
            let shift = 31 - i32::from(first[channel]) - i32::from(second[channel] as i8);
            rescale.push(((mantissa / 128) as u8, on_grid(shift, node.grid)));
            unscaled.push(bias[channel] >> first[channel]);
        }
        Ok((rescale, unscaled))
    }

    fn weights(&mut self, layout: &Layout) -> Result<Vec<i8>, Refusal> {
        let offset = self.bytes.offset;
        let bytes = self.bytes.take("weights", layout.n_bytes())?;
        layout.weights(bytes).map_err(|refusal| refusal.after(offset))
    }

    fn table(&mut self) -> Result<Vec<u16>, Refusal> {
        let bytes = self.bytes.take("a table of the logistic function", 512)?.as_chunks::<2>().0;
        Ok(bytes.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect())
    }
}

/// A shift to steps of `threshold / 128`, as a shift to steps of the grid.
fn on_grid(shift: i32, grid: ActivationGrid) -> i32 {
    shift + grid.log2_step() - grid.log2_threshold() + 7
}
