//! The same operators under burn's autodiff: what each saves for its backward pass, and the gradients from it.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex};
use burn_flex::FlexTensor;
use sensei_kernels::activation::Activation;
use sensei_kernels::bilinear;
use sensei_kernels::norm::{self, ChannelStatistics};
use sensei_kernels::pixelwise::{self, MapShape};

use super::conv_kernel::{ConvKernel, ConvSettings};
use super::{FastOps, norm_of};
use crate::ops::flex_tensor::{contiguous, dims, map_shape, tensor, values};
use crate::profile::{self, Layer};

impl<S: CheckpointStrategy> FastOps for Autodiff<Flex, S> {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>, settings: ConvSettings) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(ConvSettings, Option<Layer>);
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
        match Step(settings, profile::current()).prepare::<S>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (contiguous(x.into_primitive()), contiguous(weight.into_primitive()));
                let output = Flex::convolution(x.clone(), weight.clone(), settings);
                prep.finish([x, weight, saved_for_activation(&output, settings)], output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::convolution(x.into_primitive(), weight.into_primitive(), settings))
            }
        }
    }

    fn convolution_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: ConvSettings,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(ConvSettings, Option<Layer>);
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
        match Step(settings, profile::current())
            .prepare::<S>([x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (contiguous(x.into_primitive()), contiguous(weight.into_primitive()));
                let output = Flex::convolution_with_bias(x.clone(), weight.clone(), bias.into_primitive(), settings);
                prep.finish([x, weight, saved_for_activation(&output, settings)], output)
            }
            OpsKind::UnTracked(prep) => {
                let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prep.finish(Flex::convolution_with_bias(x, weight, bias, settings))
            }
        }
    }

    fn batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        /// Holds the activation; the state is the input, scale, shift, mean and variance.
        #[derive(Debug)]
        struct Step(Activation, Option<Layer>);
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

    fn add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
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
        let output = Flex::add(a.into_primitive(), b.into_primitive());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn upsample_nearest_2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |small: &MapShape, grad: &[f32]| pixelwise::upsample_2x_backward(small, grad);
        map_operator::<S>(x, Flex::upsample_nearest_2x, backward)
    }

    fn upsample_bilinear_2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |small: &MapShape, grad: &[f32]| bilinear::upsample_2x_backward(small, grad);
        map_operator::<S>(x, Flex::upsample_bilinear_2x, backward)
    }

    fn global_average_pool(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let backward = |shape: &MapShape, grad: &[f32]| pixelwise::global_average_pool_backward(shape, grad);
        map_operator::<S>(x, Flex::global_average_pool, backward)
    }

    fn scale_channels(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
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
                    grads.register::<Flex>(node.id, Flex::scale_channels(grad, scale));
                }
            }
        }
        let prepared = Step(profile::current()).prepare::<S>([x.node(), scale.node()]).compute_bound().stateful();
        let (x, scale) = (contiguous(x.into_primitive()), contiguous(scale.into_primitive()));
        let output = Flex::scale_channels(x.clone(), scale.clone());
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

/// The output if its activation needs it for the gradient; else an empty tensor, so that the output can be freed.
fn saved_for_activation(output: &FlexTensor, settings: ConvSettings) -> FlexTensor {
    match settings.activation {
        Activation::None => tensor(vec![], [0]),
        Activation::Relu | Activation::Relu6 => output.clone(),
    }
}
