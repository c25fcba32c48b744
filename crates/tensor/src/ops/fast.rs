//! The operators by our own CPU kernels, with their gradients, as an extension of burn's Flex backend.
//!
//! Feature maps are `[batch, height, width, channels]`, as the kernels take them; weights keep PyTorch's order. [`FastOps`] is
//! implemented twice: on [`Flex`] it computes, on [`Autodiff`] it records what the gradient needs (`fast/autodiff.rs`).
//! Gradients of gradients are not defined.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;
use sensei_graph::op::{Activation, ConvShape, Upsampling};
use sensei_kernels::activation::Activation as KernelActivation;
use sensei_kernels::bilinear;
use sensei_kernels::norm::{self, BatchNorm, Norm};
use sensei_kernels::pixelwise::{self, MapShape};

use super::flex_tensor::{contiguous, dims, map_shape, owned_values, tensor, values};
use super::{BATCH_NORM_EPSILON, Statistics, kernel_activation, portable};

mod autodiff;
mod conv_kernel;

use conv_kernel::ConvKernel;
pub use conv_kernel::ConvSettings;

/// Whether this module's operators run on the device.
pub(super) fn runs_on(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

pub(super) fn to_internal(nchw: Tensor<4>) -> Tensor<4> {
    nchw.permute([0, 2, 3, 1])
}

pub(super) fn to_nchw(internal: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = internal.dims();
    if channels == 1 { internal.reshape([batch, 1, height, width]) } else { internal.permute([0, 3, 1, 2]) }
}

/// Convolution, then the activation. Grouped and strided depthwise ones, which no student has, take burn's own operator.
pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    conv: &ConvShape,
    activation: Activation,
) -> Tensor<4> {
    let ConvShape { kernel, stride, padding, dilation, groups, .. } = *conv;
    let depthwise = conv.is_depthwise() && stride == 1;
    if groups != 1 && !(depthwise && padding <= dilation * (kernel - 1)) {
        return portable::activate(to_internal(portable::conv2d(to_nchw(x), weight, bias, conv)), activation);
    }
    let activation = kernel_activation(activation);
    let settings = ConvSettings { stride, padding, dilation, depthwise: groups != 1, activation };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::convolution_with_bias(x, weight, bias.into_dispatch(), settings),
        None => Dispatch::convolution(x, weight, settings),
    })
}

pub(super) fn batch_norm_train(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> (Tensor<4>, Statistics) {
    let [batch, height, width, _] = x.dims();
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    let (output, mean, variance) = Dispatch::batch_norm(x.into_dispatch(), scale, shift, kernel_activation(activation));
    let statistic = |tensor| Tensor::<1>::from_dispatch(tensor).inner();
    let (mean, variance) = (statistic(mean), statistic(variance));
    (Tensor::from_dispatch(output), Statistics { mean, variance, count: batch * height * width })
}

pub(super) fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::add(a.into_dispatch(), b.into_dispatch()))
}

pub(super) fn upsample_2x(x: Tensor<4>, upsampling: Upsampling) -> Tensor<4> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(match upsampling {
        Upsampling::Nearest => Dispatch::upsample_nearest_2x(x),
        Upsampling::Bilinear => Dispatch::upsample_bilinear_2x(x),
    })
}

pub(super) fn global_average_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::global_average_pool(x.into_dispatch()))
}

pub(super) fn scale_channels(x: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::scale_channels(x.into_dispatch(), scale.into_dispatch()))
}

/// The operators on tensor primitives.
#[backend_extension(Flex, Autodiff)]
pub trait FastOps: Backend {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>, settings: ConvSettings) -> FloatTensor<Self>;
    fn convolution_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: ConvSettings,
    ) -> FloatTensor<Self>;
    fn batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: KernelActivation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    fn upsample_nearest_2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn upsample_bilinear_2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn global_average_pool(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn scale_channels(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FastOps for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, settings: ConvSettings) -> FlexTensor {
        ConvKernel::new(&x, &weight, settings).forward(x, weight, None)
    }

    fn convolution_with_bias(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        settings: ConvSettings,
    ) -> FlexTensor {
        ConvKernel::new(&x, &weight, settings).forward(x, weight, Some(bias))
    }

    fn batch_norm(
        x: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        activation: KernelActivation,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (x, scale, shift) = (contiguous(x), contiguous(scale), contiguous(shift));
        let BatchNorm { output, statistics } = norm::forward(&norm_of(&scale, &shift, activation), values(&x));
        let channels = statistics.mean.len();
        let statistic = |values| tensor(values, [channels]);
        (tensor(output, dims(&x)), statistic(statistics.mean), statistic(statistics.variance))
    }

    fn add(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        assert_eq!(dims(&a), dims(&b), "add: shapes");
        let (mut a, mut b) = (contiguous(a), contiguous(b));
        if let Some(into) = owned_values(&mut a) {
            pixelwise::add_assign(into, values(&b));
            return a;
        }
        if let Some(into) = owned_values(&mut b) {
            pixelwise::add_assign(into, values(&a));
            return b;
        }
        tensor(pixelwise::add(values(&a), values(&b)), dims(&a))
    }

    fn upsample_nearest_2x(x: FlexTensor) -> FlexTensor {
        let (x, small) = (contiguous(x.clone()), map_shape(&x));
        let MapShape { batch, height, width, channels } = small;
        tensor(pixelwise::upsample_2x(&small, values(&x)), [batch, 2 * height, 2 * width, channels])
    }

    fn upsample_bilinear_2x(x: FlexTensor) -> FlexTensor {
        let (x, small) = (contiguous(x.clone()), map_shape(&x));
        let MapShape { batch, height, width, channels } = small;
        tensor(bilinear::upsample_2x(&small, values(&x)), [batch, 2 * height, 2 * width, channels])
    }

    fn global_average_pool(x: FlexTensor) -> FlexTensor {
        let (x, shape) = (contiguous(x.clone()), map_shape(&x));
        tensor(pixelwise::global_average_pool(&shape, values(&x)), [shape.batch, 1, 1, shape.channels])
    }

    fn scale_channels(x: FlexTensor, scale: FlexTensor) -> FlexTensor {
        let (x, scale) = (contiguous(x), contiguous(scale));
        tensor(pixelwise::scale_channels(&map_shape(&x), values(&x), values(&scale)), dims(&x))
    }
}

fn norm_of<'a>(scale: &'a FlexTensor, shift: &'a FlexTensor, activation: KernelActivation) -> Norm<'a> {
    Norm { scale: values(scale), shift: values(shift), epsilon: BATCH_NORM_EPSILON as f32, activation }
}
