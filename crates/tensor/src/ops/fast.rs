//! The operators by our own CPU kernels, with their gradients, as an extension of burn's Flex backend.
//!
//! Feature maps are `[batch, height, width, channels]`. Gradients of gradients are not defined.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, DispatchDevice, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::{Device, Tensor, TensorData};
use burn_flex::FlexTensor;
use sensei_kernels::activation::Activation as KernelActivation;
use sensei_kernels::bilinear;
use sensei_kernels::conv;
use sensei_kernels::depthwise::{self, DepthwiseShape};
use sensei_kernels::norm::{self, BatchNorm, ChannelStatistics, Norm};
use sensei_kernels::pixelwise::{self, MapShape};

use super::{BATCH_NORM_EPSILON, Statistics, kernel_activation, portable};
use crate::profile::{self, Layer};
use sensei_graph::op::{Activation, ConvShape, Upsampling};

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

/// Convolution, then the activation. Those that no student has take burn's own operator.
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
    let taps = Taps { stride, padding, dilation, depthwise: groups != 1, activation };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::convolution_with_bias(x, weight, bias.into_dispatch(), taps),
        None => Dispatch::convolution(x, weight, taps),
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
    Tensor::from_dispatch(Dispatch::sum(a.into_dispatch(), b.into_dispatch()))
}

pub(super) fn upsample_2x(x: Tensor<4>, upsampling: Upsampling) -> Tensor<4> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(match upsampling {
        Upsampling::Nearest => Dispatch::nearest_2x(x),
        Upsampling::Bilinear => Dispatch::bilinear_2x(x),
    })
}

pub(super) fn global_average_pool(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::pixel_mean(x.into_dispatch()))
}

pub(super) fn scale_channels(x: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::channel_product(x.into_dispatch(), scale.into_dispatch()))
}

/// What a convolution's kernel needs besides the shapes of its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Taps {
    stride: usize,
    padding: usize,
    dilation: usize,
    depthwise: bool,
    activation: KernelActivation,
}

/// The operators on tensor primitives.
#[backend_extension(Flex, Autodiff)]
pub trait FastOps: Backend {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>, taps: Taps) -> FloatTensor<Self>;
    fn convolution_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        taps: Taps,
    ) -> FloatTensor<Self>;
    fn batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: KernelActivation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn sum(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    fn nearest_2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn bilinear_2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn pixel_mean(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn channel_product(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FastOps for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, taps: Taps) -> FlexTensor {
        ConvKernel::new(&x, &weight, taps).forward(x, weight, None)
    }

    fn convolution_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, taps: Taps) -> FlexTensor {
        ConvKernel::new(&x, &weight, taps).forward(x, weight, Some(bias))
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

    fn sum(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        assert_eq!(dims(&a), dims(&b), "add: shapes");
        let (mut a, mut b) = (contiguous(a), contiguous(b));
        if let Some(into) = own_values(&mut a) {
            pixelwise::add_assign(into, values(&b));
            return a;
        }
        if let Some(into) = own_values(&mut b) {
            pixelwise::add_assign(into, values(&a));
            return b;
        }
        tensor(pixelwise::add(values(&a), values(&b)), dims(&a))
    }

    fn nearest_2x(x: FlexTensor) -> FlexTensor {
        let (x, small) = (contiguous(x.clone()), map_shape(&x));
        let MapShape { batch, height, width, channels } = small;
        tensor(pixelwise::upsample_2x(&small, values(&x)), [batch, 2 * height, 2 * width, channels])
    }

    fn bilinear_2x(x: FlexTensor) -> FlexTensor {
        let (x, small) = (contiguous(x.clone()), map_shape(&x));
        let MapShape { batch, height, width, channels } = small;
        tensor(bilinear::upsample_2x(&small, values(&x)), [batch, 2 * height, 2 * width, channels])
    }

    fn pixel_mean(x: FlexTensor) -> FlexTensor {
        let (x, shape) = (contiguous(x.clone()), map_shape(&x));
        tensor(pixelwise::global_average_pool(&shape, values(&x)), [shape.batch, 1, 1, shape.channels])
    }

    fn channel_product(x: FlexTensor, scale: FlexTensor) -> FlexTensor {
        let (x, scale) = (contiguous(x), contiguous(scale));
        tensor(pixelwise::scale_channels(&map_shape(&x), values(&x), values(&scale)), dims(&x))
    }
}

impl<S: CheckpointStrategy> FastOps for Autodiff<Flex, S> {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>, taps: Taps) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(Taps, Option<Layer>);
        impl Backward<Flex, 2> for Step {
            type State = [FlexTensor; 3];
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let _timer = profile::backward(&self.1);
                let grad = grads.consume::<Flex>(&ops.node);
                let ([x, weight, output], [x_node, weight_node]) = (ops.state, ops.parents);
                let kernel = ConvKernel::new(&x, &weight, self.0);
                let grad = kernel.grad_before_activation(output, grad);
                if let Some(node) = weight_node {
                    grads.register::<Flex>(node.id, kernel.weight_gradient(x, &grad));
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, kernel.input_gradient(weight, &grad));
                }
            }
        }
        match Step(taps, profile::current()).prepare::<S>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (contiguous(x.into_primitive()), contiguous(weight.into_primitive()));
                let output = Flex::convolution(x.clone(), weight.clone(), taps);
                prep.finish([x, weight, saved_for_activation(&output, taps)], output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::convolution(x.into_primitive(), weight.into_primitive(), taps))
            }
        }
    }

    fn convolution_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        taps: Taps,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(Taps, Option<Layer>);
        impl Backward<Flex, 3> for Step {
            type State = [FlexTensor; 3];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let _timer = profile::backward(&self.1);
                let grad = grads.consume::<Flex>(&ops.node);
                let ([x, weight, output], [x_node, weight_node, bias_node]) = (ops.state, ops.parents);
                let kernel = ConvKernel::new(&x, &weight, self.0);
                let grad = kernel.grad_before_activation(output, grad);
                if let Some(node) = bias_node {
                    let channels = *dims(&grad).last().expect("a gradient has four dimensions");
                    let sums = norm::channel_sums(values(&grad), channels);
                    grads.register::<Flex>(node.id, tensor(sums, [channels]));
                }
                if let Some(node) = weight_node {
                    grads.register::<Flex>(node.id, kernel.weight_gradient(x, &grad));
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, kernel.input_gradient(weight, &grad));
                }
            }
        }
        match Step(taps, profile::current())
            .prepare::<S>([x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (contiguous(x.into_primitive()), contiguous(weight.into_primitive()));
                let output = Flex::convolution_with_bias(x.clone(), weight.clone(), bias.into_primitive(), taps);
                prep.finish([x, weight, saved_for_activation(&output, taps)], output)
            }
            OpsKind::UnTracked(prep) => {
                let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prep.finish(Flex::convolution_with_bias(x, weight, bias, taps))
            }
        }
    }

    fn batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: KernelActivation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        /// Holds the activation; the state is the input, scale, shift, mean and variance.
        #[derive(Debug)]
        struct Step(KernelActivation, Option<Layer>);
        impl Backward<Flex, 3> for Step {
            type State = [FlexTensor; 5];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let _timer = profile::backward(&self.1);
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let [x, scale, shift, mean, variance] = ops.state;
                let norm = norm_of(&scale, &shift, self.0);
                let statistics = ChannelStatistics { mean: values(&mean), variance: values(&variance) };
                let (grad, made) = norm::backward(&norm, values(&x), statistics, values(&grad));
                let grad = tensor(grad, dims(&x));
                let channels = made.scale.len();
                let gradients = [grad, tensor(made.scale, [channels]), tensor(made.shift, [channels])];
                for (node, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        let prepared = Step(activation, profile::current().map(Layer::without_products))
            .prepare::<S>([x.node(), scale.node(), shift.node()])
            .compute_bound()
            .stateful();
        let x = contiguous(x.into_primitive());
        let (scale, shift) = (contiguous(scale.into_primitive()), contiguous(shift.into_primitive()));
        let (output, mean, variance) = Flex::batch_norm(x.clone(), scale.clone(), shift.clone(), activation);
        let output = match prepared {
            OpsKind::Tracked(prep) => prep.finish([x, scale, shift, mean.clone(), variance.clone()], output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, Self::from_inner(mean), Self::from_inner(variance))
    }

    fn sum(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl Backward<Flex, 2> for Step {
            type State = ();
            fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<Flex>(&ops.node);
                for node in ops.parents.into_iter().flatten() {
                    grads.register::<Flex>(node.id, grad.clone());
                }
            }
        }
        let prepared = Step.prepare::<S>([a.node(), b.node()]).compute_bound().stateful();
        let output = Flex::sum(a.into_primitive(), b.into_primitive());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn nearest_2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |small: &MapShape, grad: &[f32]| pixelwise::upsample_2x_backward(small, grad);
        map_operator::<S>(x, Flex::nearest_2x, backward)
    }

    fn bilinear_2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |small: &MapShape, grad: &[f32]| bilinear::upsample_2x_backward(small, grad);
        map_operator::<S>(x, Flex::bilinear_2x, backward)
    }

    fn pixel_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |shape: &MapShape, grad: &[f32]| pixelwise::global_average_pool_backward(shape, grad);
        map_operator::<S>(x, Flex::pixel_mean, backward)
    }

    fn channel_product(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(Option<Layer>);
        impl Backward<Flex, 2> for Step {
            type State = [FlexTensor; 2];
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let _timer = profile::backward(&self.0);
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let ([x, scale], [x_node, scale_node]) = (ops.state, ops.parents);
                let shape = map_shape(&x);
                if let Some(node) = scale_node {
                    let gradient = pixelwise::scale_channels_backward_scale(&shape, values(&x), values(&grad));
                    grads.register::<Flex>(node.id, tensor(gradient, dims(&scale)));
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, Flex::channel_product(grad, scale));
                }
            }
        }
        let prepared = Step(profile::current()).prepare::<S>([x.node(), scale.node()]).compute_bound().stateful();
        let (x, scale) = (contiguous(x.into_primitive()), contiguous(scale.into_primitive()));
        let output = Flex::channel_product(x.clone(), scale.clone());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish([x, scale], output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

type MapBackward = fn(&MapShape, &[f32]) -> Vec<f32>;

/// An operator on one feature map whose gradient needs only the map's shape.
fn map_operator<S: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, S>>,
    forward: fn(FlexTensor) -> FlexTensor,
    backward: MapBackward,
) -> FloatTensor<Autodiff<Flex, S>> {
    #[derive(Debug)]
    struct Step(MapBackward, Option<Layer>);
    impl Backward<Flex, 1> for Step {
        type State = MapShape;
        fn backward(self, ops: Ops<MapShape, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let _timer = profile::backward(&self.1);
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            let (shape, [node]) = (ops.state, ops.parents);
            let MapShape { batch, height, width, channels } = shape;
            if let Some(node) = node {
                let gradient = (self.0)(&shape, values(&grad));
                grads.register::<Flex>(node.id, tensor(gradient, [batch, height, width, channels]));
            }
        }
    }
    let prepared = Step(backward, profile::current()).prepare::<S>([x.node()]).compute_bound().stateful();
    let x = x.into_primitive();
    let shape = map_shape(&x);
    match prepared {
        OpsKind::Tracked(prep) => prep.finish(shape, forward(x)),
        OpsKind::UnTracked(prep) => prep.finish(forward(x)),
    }
}

/// The kernel of one convolution.
enum ConvKernel {
    Dense(conv::ConvShape, Taps),
    Depthwise(DepthwiseShape, Taps),
}

impl ConvKernel {
    fn new(x: &FlexTensor, weight: &FlexTensor, taps: Taps) -> Self {
        let MapShape { batch, height, width, channels } = map_shape(x);
        let [out_channels, in_channels, kernel, _] = x4(weight);
        let Taps { stride, padding, dilation, depthwise, .. } = taps;
        if depthwise {
            assert_eq!((out_channels, in_channels), (channels, 1), "depthwise: weight and input");
            return Self::Depthwise(DepthwiseShape { batch, height, width, channels, kernel, dilation, padding }, taps);
        }
        assert_eq!(in_channels, channels, "convolution: weight and input");
        let shape =
            conv::ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, padding, dilation };
        Self::Dense(shape, taps)
    }

    fn forward(&self, x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
        let (x, weight, bias) = (values(&x), values(&weight), bias.as_ref().map(values));
        match self {
            Self::Dense(shape, taps) => {
                let dims = [shape.batch, shape.out_height(), shape.out_width(), shape.out_channels];
                tensor(conv::forward(shape, x, weight, bias, taps.activation), dims)
            }
            Self::Depthwise(shape, taps) => {
                let dims = [shape.batch, shape.out_height(), shape.out_width(), shape.channels];
                tensor(depthwise::forward(shape, x, weight, bias, taps.activation), dims)
            }
        }
    }

    fn grad_before_activation(&self, output: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let grad = contiguous(grad);
        let (Self::Dense(_, taps) | Self::Depthwise(_, taps)) = self;
        match taps.activation {
            KernelActivation::None => grad,
            KernelActivation::Relu | KernelActivation::Relu6 => {
                let before = pixelwise::activate_backward(values(&output), values(&grad), taps.activation);
                tensor(before, dims(&grad))
            }
        }
    }

    fn input_gradient(&self, weight: FlexTensor, grad: &FlexTensor) -> FlexTensor {
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

    fn weight_gradient(&self, x: FlexTensor, grad: &FlexTensor) -> FlexTensor {
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

/// The output if its activation needs it for the gradient; else an empty tensor, so that the output can be freed.
fn saved_for_activation(output: &FlexTensor, taps: Taps) -> FlexTensor {
    match taps.activation {
        KernelActivation::None => tensor(vec![], [0]),
        KernelActivation::Relu | KernelActivation::Relu6 => output.clone(),
    }
}

fn norm_of<'a>(scale: &'a FlexTensor, shift: &'a FlexTensor, activation: KernelActivation) -> Norm<'a> {
    Norm { scale: values(scale), shift: values(shift), epsilon: BATCH_NORM_EPSILON as f32, activation }
}

pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("single-precision tensors, made contiguous above")
}

/// The values, if no other tensor shares them.
pub(super) fn own_values(tensor: &mut FlexTensor) -> Option<&mut [f32]> {
    let len = values(tensor).len();
    tensor.try_storage_mut::<f32>().filter(|storage| storage.len() == len)
}

pub(super) fn tensor(values: Vec<f32>, dims: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims.into()))
}

pub(super) fn dims(tensor: &FlexTensor) -> Vec<usize> {
    tensor.shape().to_vec()
}

fn x4(tensor: &FlexTensor) -> [usize; 4] {
    tensor.shape().dims()
}

pub(super) fn map_shape(tensor: &FlexTensor) -> MapShape {
    let [batch, height, width, channels] = x4(tensor);
    MapShape { batch, height, width, channels }
}
