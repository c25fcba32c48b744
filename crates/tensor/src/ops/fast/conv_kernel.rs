//! Which kernel computes a convolution, and its three passes.

use burn_flex::FlexTensor;
use sensei_kernels::activation::Activation;
use sensei_kernels::conv;
use sensei_kernels::depthwise::{self, DepthwiseShape};
use sensei_kernels::pixelwise::{self, MapShape};

use crate::ops::flex_tensor::{contiguous, dims, dims4, map_shape, tensor, values};

/// What a convolution needs besides the shapes of its tensors.
#[derive(Debug, Clone, Copy)]
pub struct ConvSettings {
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) dilation: usize,
    pub(super) depthwise: bool,
    pub(super) activation: Activation,
}

/// The kernel of one convolution.
pub(super) enum ConvKernel {
    Dense(conv::ConvShape, ConvSettings),
    Depthwise(DepthwiseShape, ConvSettings),
}

impl ConvKernel {
    pub(super) fn new(x: &FlexTensor, weight: &FlexTensor, settings: ConvSettings) -> Self {
        let MapShape { batch, height, width, channels } = map_shape(x);
        let [out_channels, in_channels, kernel, _] = dims4(weight);
        let ConvSettings { stride, padding, dilation, depthwise, .. } = settings;
        if depthwise {
            assert_eq!((out_channels, in_channels), (channels, 1), "depthwise: weight and input");
            return Self::Depthwise(
                DepthwiseShape { batch, height, width, channels, kernel, dilation, padding },
                settings,
            );
        }
        assert_eq!(in_channels, channels, "convolution: weight and input");
        let shape =
            conv::ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, padding, dilation };
        Self::Dense(shape, settings)
    }

    pub(super) fn forward(&self, x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
        let (x, weight, bias) = (values(&x), values(&weight), bias.as_ref().map(values));
        match self {
            Self::Dense(shape, settings) => {
                let dims = [shape.batch, shape.out_height(), shape.out_width(), shape.out_channels];
                tensor(conv::forward(shape, x, weight, bias, settings.activation), dims)
            }
            Self::Depthwise(shape, settings) => {
                let dims = [shape.batch, shape.out_height(), shape.out_width(), shape.channels];
                tensor(depthwise::forward(shape, x, weight, bias, settings.activation), dims)
            }
        }
    }

    /// The gradient of the convolution's own output, from that of its activation.
    pub(super) fn grad_before_activation(&self, output: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let grad = contiguous(grad);
        let (Self::Dense(_, settings) | Self::Depthwise(_, settings)) = self;
        match settings.activation {
            Activation::None => grad,
            Activation::Relu | Activation::Relu6 => {
                let before = pixelwise::activate_backward(values(&output), values(&grad), settings.activation);
                tensor(before, dims(&grad))
            }
        }
    }

    pub(super) fn input_gradient(&self, weight: FlexTensor, grad: &FlexTensor) -> FlexTensor {
        let (weight, grad) = (values(&weight), values(grad));
        match self {
            Self::Dense(shape, _) => {
                let dims = [shape.batch, shape.height, shape.width, shape.in_channels];
                tensor(conv::backward_input(shape, weight, grad), dims)
            }
            Self::Depthwise(shape, _) => {
                let dims = [shape.batch, shape.height, shape.width, shape.channels];
                tensor(depthwise::backward_input(shape, weight, grad), dims)
            }
        }
    }

    pub(super) fn weight_gradient(&self, x: FlexTensor, grad: &FlexTensor) -> FlexTensor {
        let (x, grad) = (values(&x), values(grad));
        match self {
            Self::Dense(shape, _) => {
                let dims = [shape.out_channels, shape.in_channels, shape.kernel, shape.kernel];
                tensor(conv::backward_weight(shape, x, grad), dims)
            }
            Self::Depthwise(shape, _) => {
                let dims = [shape.channels, 1, shape.kernel, shape.kernel];
                tensor(depthwise::backward_weight(shape, x, grad), dims)
            }
        }
    }
}
