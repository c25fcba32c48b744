//! What an optimiser does to flat values, by our CPU kernels on burn's Flex backend: in place where no other tensor shares them.

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use sensei_kernels::optimizer::{self, AdamW};

use super::flex_tensor::{dims, flex, owned_values, tensor, values};

/// See [`super::adamw_step`].
pub(super) fn adamw_step(
    constants: &AdamW,
    step: u64,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let gradient = flex(gradient);
    let [mut parameter, mut first, mut second] = [parameter, first, second].map(owned);
    let [p, m, v] = [&mut parameter, &mut first, &mut second].map(|owned| owned_values(owned).expect("owned"));
    optimizer::adamw_step(constants, step, p, values(&gradient), m, v);
    let [parameter, first, second] = [parameter, first, second].map(Tensor::from_primitive::<Flex>);
    (parameter, [first, second])
}

/// See [`super::sum_of_squares`].
pub(super) fn sum_of_squares(tensors: &[Tensor<1>]) -> f64 {
    tensors.iter().map(|tensor| optimizer::sum_of_squares(values(&flex(tensor.clone())))).sum()
}

/// See [`super::moving_average`].
pub(super) fn moving_average(average: Tensor<1>, new: Tensor<1>, decay: f64) -> Tensor<1> {
    let mut average = owned(average);
    let into = owned_values(&mut average).expect("owned");
    optimizer::moving_average(into, values(&flex(new)), decay);
    Tensor::from_primitive::<Flex>(average)
}

/// The tensor, or a copy if its values are shared.
fn owned(maybe_shared: Tensor<1>) -> FlexTensor {
    let mut primitive = flex(maybe_shared);
    if owned_values(&mut primitive).is_none() {
        primitive = tensor(values(&primitive).to_vec(), dims(&primitive));
    }
    primitive
}
