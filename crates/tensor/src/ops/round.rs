//! Fake quantization to a grid whose step is trained: one kernel and one autodiff node on burn's Flex backend.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use sensei_kernels::round::{self, Grid};

use super::flex_tensor::{contiguous, dims, flex, tensor, tracked, values};

/// See [`super::round_to_grid`].
pub(super) fn round_to_grid<const D: usize>(x: Tensor<D>, steps: Tensor<1>, [low, high]: [f32; 2]) -> Tensor<D> {
    if x.device().is_autodiff() {
        return track(x, steps, [low, high]);
    }
    let (x, steps) = (flex(x), flex(steps));
    Tensor::from_primitive::<Flex>(forward(&x, &steps, [low, high]))
}

fn forward(x: &FlexTensor, steps: &FlexTensor, [low, high]: [f32; 2]) -> FlexTensor {
    tensor(round::round(&Grid { steps: values(steps), low, high }, values(x)), dims(x))
}

fn track<const D: usize>(x: Tensor<D>, steps: Tensor<1>, range: [f32; 2]) -> Tensor<D> {
    #[derive(Debug)]
    struct Step([f32; 2]);
    impl Backward<Flex, 2> for Step {
        type State = [FlexTensor; 2];
        fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            let ([x, steps], [x_node, steps_node]) = (ops.state, ops.parents);
            let [low, high] = self.0;
            let grid = Grid { steps: values(&steps), low, high };
            let gradients = round::round_backward(&grid, values(&x), values(&grad));
            if let Some(node) = x_node {
                grads.register::<Flex>(node.id, tensor(gradients.input, dims(&x)));
            }
            if let Some(node) = steps_node {
                grads.register::<Flex>(node.id, tensor(gradients.steps, dims(&steps)));
            }
        }
    }
    let (x, steps) = (tracked(x), tracked(steps));
    let prepared = Step(range).prepare::<NoCheckpointing>([x.node(), steps.node()]).compute_bound().stateful();
    let (x, steps) = (contiguous(x.into_primitive()), contiguous(steps.into_primitive()));
    let output = forward(&x, &steps, range);
    let output = match prepared {
        OpsKind::Tracked(prep) => prep.finish([x, steps], output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}
