//! Tests of the losses.

mod golden;
mod images;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sensei_testing::GoldenCase;

fn floats<const D: usize>(case: &GoldenCase, name: &str) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(case.f32s(name), case.shape(name)), (&device, DType::F32))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("f32 tensors")
}

fn expected(case: &GoldenCase, name: &str) -> Vec<f32> {
    case.f64s(name).into_iter().map(|value| value as f32).collect()
}
