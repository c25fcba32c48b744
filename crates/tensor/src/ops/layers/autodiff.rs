//! The same layers under burn's autodiff: what each saves for its backward pass, and the gradients from it.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn_flex::FlexTensor;
use sensei_kernels::linear::UpconvGradient;
use sensei_kernels::pixelwise::{self, MapShape};
use sensei_kernels::{attention as attention_kernels, gelu, layer_norm, mask_products};

use super::{AttentionSettings, LayerOps, NormSettings, dims3};
use crate::ops::flex_tensor::{contiguous, dims, dims4, map_shape, tensor, values};

impl<S: CheckpointStrategy> LayerOps for Autodiff<Flex, S> {
    fn layer_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        settings: NormSettings,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(NormSettings);
        impl Backward<Flex, 3> for Step {
            type State = [FlexTensor; 3];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let ([x, scale, shift], NormSettings { epsilon, then }) = (ops.state, self.0);
                let grad = values(&grad);
                let made = layer_norm::backward(values(&x), values(&scale), values(&shift), epsilon, then, grad);
                let gradients =
                    [tensor(made.input, dims(&x)), tensor(made.scale, dims(&scale)), tensor(made.shift, dims(&shift))];
                for (node, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        let prepared = Step(settings).prepare::<S>([x.node(), scale.node(), shift.node()]).compute_bound().stateful();
        let state = [x, scale, shift].map(|tensor| contiguous(tensor.into_primitive()));
        let [x, scale, shift] = state.clone();
        let output = Flex::layer_norm(x, scale, shift, settings);
        finished(prepared, state, output)
    }

    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl Backward<Flex, 1> for Step {
            type State = FlexTensor;
            fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let (x, [node]) = (ops.state, ops.parents);
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, tensor(gelu::gelu_backward(values(&x), values(&grad)), dims(&x)));
                }
            }
        }
        let prepared = Step.prepare::<S>([x.node()]).compute_bound().stateful();
        let x = contiguous(x.into_primitive());
        let output = Flex::gelu(x.clone());
        finished(prepared, x, output)
    }

    fn sum_with_each(x: FloatTensor<Self>, one: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl Backward<Flex, 2> for Step {
            /// Dimensions of what is added.
            type State = Vec<usize>;
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<Flex>(&ops.node);
                let (one_dims, [x_node, one_node]) = (ops.state, ops.parents);
                if let Some(node) = one_node {
                    let of_one = sum_of_images(grad.clone(), one_dims);
                    grads.register::<Flex>(node.id, of_one);
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, grad);
                }
            }
        }
        let prepared = Step.prepare::<S>([x.node(), one.node()]).compute_bound().stateful();
        let (x, one) = (x.into_primitive(), one.into_primitive());
        let one_dims = dims(&one);
        let output = Flex::sum_with_each(x, one);
        finished(prepared, one_dims, output)
    }

    fn upconv(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl Backward<Flex, 3> for Step {
            type State = [FlexTensor; 2];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let ([x, weight], [x_node, weight_node, bias_node]) = (ops.state, ops.parents);
                let [_, outs, ..] = dims4(&weight);
                let gradient = UpconvGradient::new(&map_shape(&x), outs, values(&grad));
                if let Some(node) = bias_node {
                    grads.register::<Flex>(node.id, tensor(gradient.bias(), [outs]));
                }
                if let Some(node) = weight_node {
                    grads.register::<Flex>(node.id, tensor(gradient.weight(values(&x)), dims(&weight)));
                }
                if let Some(node) = x_node {
                    grads.register::<Flex>(node.id, tensor(gradient.input(values(&weight)), dims(&x)));
                }
            }
        }
        let prepared = Step.prepare::<S>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
        let state = [x, weight].map(|tensor| contiguous(tensor.into_primitive()));
        let [x, weight] = state.clone();
        let output = Flex::upconv(x, weight, bias.into_primitive());
        finished(prepared, state, output)
    }

    fn mask_products(vectors: FloatTensor<Self>, map: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl Backward<Flex, 2> for Step {
            type State = [FlexTensor; 2];
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let ([vectors, map], [vectors_node, map_node]) = (ops.state, ops.parents);
                let (sizes, MapShape { height, width, .. }) = (dims3(&vectors), map_shape(&map));
                let (pixels, grad) = (height * width, values(&grad));
                if let Some(node) = vectors_node {
                    let gradient = mask_products::backward_vectors(sizes, pixels, values(&map), grad);
                    grads.register::<Flex>(node.id, tensor(gradient, dims(&vectors)));
                }
                if let Some(node) = map_node {
                    let gradient = mask_products::backward_map(sizes, pixels, values(&vectors), grad);
                    grads.register::<Flex>(node.id, tensor(gradient, dims(&map)));
                }
            }
        }
        let prepared = Step.prepare::<S>([vectors.node(), map.node()]).compute_bound().stateful();
        let state = [vectors, map].map(|tensor| contiguous(tensor.into_primitive()));
        let [vectors, map] = state.clone();
        let output = Flex::mask_products(vectors, map);
        finished(prepared, state, output)
    }

    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values_of: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step(AttentionSettings);
        impl Backward<Flex, 3> for Step {
            type State = [FlexTensor; 3];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = contiguous(grads.consume::<Flex>(&ops.node));
                let (factors, settings) = (ops.state, self.0);
                let shape = settings.shape(&factors);
                let rows = settings.rows(&shape, &factors);
                let gradients = attention_kernels::backward(&shape, rows, settings.scale, values(&grad));
                for ((node, gradient), factor) in ops.parents.into_iter().zip(gradients).zip(&factors) {
                    if let Some(node) = node {
                        grads.register::<Flex>(node.id, tensor(gradient, dims(factor)));
                    }
                }
            }
        }
        let nodes = [queries.node(), keys.node(), values_of.node()];
        let prepared = Step(settings).prepare::<S>(nodes).compute_bound().stateful();
        let state = [queries, keys, values_of].map(|tensor| contiguous(tensor.into_primitive()));
        let [queries, keys, values_of] = state.clone();
        let output = Flex::attention(queries, keys, values_of, settings);
        finished(prepared, state, output)
    }
}

/// The layer's output, with what its gradient needs where one is wanted.
fn finished<Step, C, State, const N: usize>(
    prepared: OpsKind<Step, Flex, State, C, N>,
    state: State,
    output: FlexTensor,
) -> FloatTensor<Autodiff<Flex>>
where
    Step: Backward<Flex, N, State = State>,
    State: Clone + Send + std::fmt::Debug + 'static,
{
    match prepared {
        OpsKind::Tracked(prep) => prep.finish(state, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// The sum of the images of `grad`, if only one was read for all.
fn sum_of_images(grad: FlexTensor, one_dims: Vec<usize>) -> FlexTensor {
    if dims(&grad) == one_dims {
        return grad;
    }
    let grad = contiguous(grad);
    let mut images = values(&grad).chunks_exact(one_dims.iter().product());
    let mut sum = images.next().expect("a gradient of at least one image").to_vec();
    images.for_each(|image| pixelwise::add_assign(&mut sum, image));
    tensor(sum, one_dims)
}
