//! The operators that a network for the chip is made of, and the geometry of its convolutions.

use std::convert::Infallible;

use serde::{Serialize, Serializer};

/// An operator. `C` is what is known of a convolution: float networks, integer networks and the memory estimate know
/// different things of it and the same of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum GraphOp<C> {
    /// The image, `[3, size, size]`; `(pixel - 128) / 128` in float networks.
    Input,
    /// Convolution, then batch norm and activation where the node has them.
    Conv(C),
    /// Upsampling by two.
    Upsample2x(Upsampling),
    /// Sum of two tensors of one shape.
    Add,
    /// Mean over height and width: `[channels, 1, 1]`.
    GlobalAveragePool,
    /// Logistic function, element by element.
    Sigmoid,
    /// First input `[channels, height, width]` scaled by the second, `[channels, 1, 1]`.
    ScaleChannels,
}

/// How a map is upsampled by two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Upsampling {
    /// Output pixel `(y, x)` is input pixel `(y / 2, x / 2)`.
    Nearest,
    /// Half-pixel centres: output pixel `(y, x)` is 3/4 of input pixel `(y / 2, x / 2)` and 1/4 of the neighbour on its
    /// side along each axis; beyond the border, the border's pixel.
    Bilinear,
}

/// What ends a convolution, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The greater of each value and 0.
    Relu,
    /// [`Relu`](Self::Relu), and the smaller of that and 6.
    Relu6,
}

impl Activation {
    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Relu => "ReLU",
            Self::Relu6 => "ReLU6",
        }
    }

    /// Where values are cut off below and above; infinite where they are not.
    pub fn range(self) -> [f64; 2] {
        match self {
            Self::None => [f64::NEG_INFINITY, f64::INFINITY],
            Self::Relu => [0.0, f64::INFINITY],
            Self::Relu6 => [0.0, 6.0],
        }
    }
}

/// As the flag that was there before ReLU6, so that a network without it keeps its digest.
impl Serialize for Activation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::Relu => serializer.serialize_bool(true),
            Self::Relu6 => serializer.serialize_u8(6),
        }
    }
}

/// Geometry of a square convolution with symmetric zero padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConvShape {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Side of the kernel in taps.
    pub kernel: usize,
    /// Step between output pixels, in input pixels.
    pub stride: usize,
    /// Zero rows and columns on each side. The chip's limit is the kernel's extent, `dilation * (kernel - 1)`.
    pub padding: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Divides both channel counts; `in_channels` for a depthwise convolution.
    pub groups: usize,
}

impl<C> GraphOp<C> {
    /// The same operator with something else known of a convolution.
    pub fn map_conv<D>(&self, conv: impl FnOnce(&C) -> D) -> GraphOp<D> {
        let Ok(op) = self.try_map_conv(|known| Ok::<_, Infallible>(conv(known)));
        op
    }

    /// [`map_conv`](Self::map_conv) that may fail.
    ///
    /// # Errors
    /// Those of `conv`.
    pub fn try_map_conv<D, E>(&self, conv: impl FnOnce(&C) -> Result<D, E>) -> Result<GraphOp<D>, E> {
        Ok(match self {
            GraphOp::Input => GraphOp::Input,
            GraphOp::Conv(known) => GraphOp::Conv(conv(known)?),
            GraphOp::Upsample2x(upsampling) => GraphOp::Upsample2x(*upsampling),
            GraphOp::Add => GraphOp::Add,
            GraphOp::GlobalAveragePool => GraphOp::GlobalAveragePool,
            GraphOp::Sigmoid => GraphOp::Sigmoid,
            GraphOp::ScaleChannels => GraphOp::ScaleChannels,
        })
    }

    /// How many tensors it reads.
    pub fn n_inputs(&self) -> usize {
        match self {
            GraphOp::Input => 0,
            GraphOp::Conv(_) | GraphOp::Upsample2x(_) | GraphOp::GlobalAveragePool | GraphOp::Sigmoid => 1,
            GraphOp::Add | GraphOp::ScaleChannels => 2,
        }
    }

    /// What is known of it, if it is a convolution: the one question that tells operators with weights from those without.
    pub fn conv(&self) -> Option<&C> {
        match self {
            GraphOp::Conv(known) => Some(known),
            GraphOp::Input
            | GraphOp::Upsample2x(_)
            | GraphOp::Add
            | GraphOp::GlobalAveragePool
            | GraphOp::Sigmoid
            | GraphOp::ScaleChannels => None,
        }
    }

    /// How it upsamples, if it does.
    pub fn upsampling(&self) -> Option<Upsampling> {
        match self {
            GraphOp::Upsample2x(upsampling) => Some(*upsampling),
            GraphOp::Input
            | GraphOp::Conv(_)
            | GraphOp::Add
            | GraphOp::GlobalAveragePool
            | GraphOp::Sigmoid
            | GraphOp::ScaleChannels => None,
        }
    }
}

impl ConvShape {
    /// Weight shape in PyTorch's order: `[out, in / groups, kernel, kernel]`.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel, self.kernel]
    }

    /// Weights per output channel.
    pub fn weights_per_channel(&self) -> usize {
        self.in_channels / self.groups * self.kernel * self.kernel
    }

    /// Number of weights.
    pub fn n_weights(&self) -> usize {
        self.out_channels * self.weights_per_channel()
    }

    /// Whether every output channel reads the input channel of its number, and no other.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Side of the output for an input of side `size`.
    ///
    /// # Panics
    /// If the kernel does not fit into the padded input.
    pub fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) / self.stride + 1
    }
}
