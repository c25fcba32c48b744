//! Where the weights of a convolution lie in the chip's memory.

use crate::refusal::Refusal;
use sensei_graph::op::{Activation, ConvShape};
use sensei_int8::model::IntegerConv;

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[out, in / 32, kx, ky, 32]`.
    Dense,
    /// The same after every 2 x 2 pixels became one with four times the channels, `[py, px, in]`.
    Folded,
    /// `[channel / 8, px, py, qx, qy, 8]`, tap `half * qx + px` of a row, `half` being half of the even-sided square of taps.
    Depthwise,
    /// Of stride 2: `[channel / 8, kx / 2, ky / 2, px, py, 8]`, tap `2 * (kx / 2) + px` of a row.
    StridedDepthwise,
    /// `[out / 32, in, 32]`.
    Vector,
}

/// How a convolution is stored.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) order: Order,
    pub(crate) n_outputs: usize,
    /// Filled up to 32.
    pub(crate) padded_outputs: usize,
    pub(crate) weight_bits: u8,
    /// Without activation, rescales follow the weights.
    pub(crate) weights_first: bool,
    /// Bytes after it that are 0 in every file seen.
    pub(crate) zeros_after: usize,
    shape: ConvShape,
}

/// Whether the layout of such a convolution was established; `is_vector`: its input is one pixel.
pub(crate) fn is_established(shape: &ConvShape, is_vector: bool) -> bool {
    let ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups } = *shape;
    let is_depthwise = groups == in_channels && groups == out_channels && groups > 1;
    match (kernel, stride, dilation) {
        (3, 1, 1 | 2) => is_depthwise && padding == dilation && !is_vector,
        (5, 1 | 2, 1) => is_depthwise && padding == 2 && !is_vector,
        (3, 2, 1) => (groups == 1 || is_depthwise) && padding == 1 && !is_vector,
        (1, 1, 1) => groups == 1 && padding == 0,
        _ => false,
    }
}

impl Layout {
    /// Of a convolution whose layout is established.
    pub(crate) fn new(conv: &IntegerConv, is_vector: bool) -> Self {
        let shape = *conv.shape();
        let order = match () {
            () if is_vector => Order::Vector,
            () if shape.groups > 1 && shape.stride == 2 => Order::StridedDepthwise,
            () if shape.groups > 1 => Order::Depthwise,
            () if shape.stride == 2 && shape.in_channels <= 32 => Order::Folded,
            () => Order::Dense,
        };
        let few_outputs = if shape.out_channels <= 16 { 32 } else { 0 };
        let zeros_after = match order {
            Order::Dense => few_outputs,
            Order::Folded => few_outputs + 64,
            Order::Depthwise | Order::StridedDepthwise => 32,
            Order::Vector => 0,
        };
        Self {
            order,
            n_outputs: shape.out_channels,
            padded_outputs: shape.out_channels.next_multiple_of(32),
            weight_bits: conv.weight_bits(),
            weights_first: conv.activation() == Activation::None,
            zeros_after,
            shape,
        }
    }

    /// Stored weights, filling included.
    fn n_stored(&self) -> usize {
        let ConvShape { in_channels, kernel, .. } = self.shape;
        self.padded_outputs
            * match self.order {
                Order::Dense => in_channels.next_multiple_of(32) * kernel * kernel,
                Order::Folded => (4 * in_channels).next_multiple_of(32) * kernel.div_ceil(2).pow(2),
                Order::Depthwise | Order::StridedDepthwise => kernel.next_multiple_of(2).pow(2),
                Order::Vector => in_channels,
            }
    }

    /// Bytes of the weights.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_stored() * usize::from(self.weight_bits) / 8
    }

    /// The weights in these bytes, `[out, in / groups, kernel, kernel]`; everything else has to be 0.
    pub(crate) fn weights(&self, bytes: &[u8]) -> Result<Vec<i8>, Refusal> {
        let mut is_filling = vec![true; self.n_stored()];
        let ConvShape { in_channels, kernel, groups, .. } = self.shape;
        let mut weights = Vec::with_capacity(self.shape.n_weights());
        for out in 0..self.n_outputs {
            for input in 0..in_channels / groups {
                for (ky, kx) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
                    let at = self.position(out, input, ky, kx);
                    is_filling[at] = false;
                    weights.push(self.stored(bytes, at));
                }
            }
        }
        let wrong = (0..is_filling.len()).find(|at| is_filling[*at] && self.stored(bytes, *at) != 0);
        match wrong {
            Some(at) => {
                let offset = at * usize::from(self.weight_bits) / 8;
                Err(Refusal::byte(offset, "0 between the weights", self.stored(bytes, at).to_string()))
            }
            None => Ok(weights),
        }
    }

    /// Where a weight is, counted in weights.
    fn position(&self, out: usize, input: usize, ky: usize, kx: usize) -> usize {
        let ConvShape { in_channels, kernel, .. } = self.shape;
        let half = kernel.div_ceil(2);
        let dense = |channels: usize, side: usize, input: usize, ky: usize, kx: usize| {
            let lines = channels.div_ceil(32) * side * side;
            let line = (input / 32 * side + kx) * side + ky;
            if self.weight_bits == 8 {
                (out * lines + line) * 32 + input % 32
            } else {
                // 32 bytes hold a line of two outputs.
                ((out / 2 * lines + line) * 2 + out % 2) * 32 + input % 32
            }
        };
        match self.order {
            Order::Dense => dense(in_channels, kernel, input, ky, kx),
            Order::Folded => {
                let folded = (ky % 2 * 2 + kx % 2) * in_channels + input;
                dense(4 * in_channels, half, folded, ky / 2, kx / 2)
            }
            Order::Depthwise => {
                let tap = ((kx % half * half + ky % half) * 2 + kx / half) * 2 + ky / half;
                (out / 8 * 4 * half * half + tap) * 8 + out % 8
            }
            Order::StridedDepthwise => {
                let tap = ((kx / 2 * half + ky / 2) * 2 + kx % 2) * 2 + ky % 2;
                (out / 8 * 4 * half * half + tap) * 8 + out % 8
            }
            Order::Vector => (out / 32 * in_channels + input) * 32 + out % 32,
        }
    }

    fn stored(&self, bytes: &[u8], at: usize) -> i8 {
        if self.weight_bits == 8 {
            return bytes[at] as i8;
        }
        // The lower half byte comes first; shifting to the top and back extends its sign.
        let byte = bytes[at / 2];
        (if at.is_multiple_of(2) { byte << 4 } else { byte & 0xf0 }) as i8 >> 4
    }
}
