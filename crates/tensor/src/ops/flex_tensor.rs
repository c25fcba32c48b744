//! burn's Flex tensors as the slices that kernels take, and back.

use burn::backend::{Autodiff, BackendTypes, Flex, TensorMetadata};
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;
use sensei_kernels::pixelwise::MapShape;

/// A tensor that autodiff tracks.
pub(crate) type Tracked = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// The contiguous values of a tensor on Flex.
///
/// # Panics
/// If it is on another backend.
pub(crate) fn flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    contiguous(tensor.try_into_primitive::<Flex>().expect("a tensor of the device that was asked"))
}

/// A tensor on Flex with autodiff.
///
/// # Panics
/// If it is on another backend.
pub(crate) fn tracked<const D: usize>(tensor: Tensor<D>) -> Tracked {
    tensor.try_into_primitive::<Autodiff<Flex>>().expect("a tensor of the device that was asked")
}

pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The values of a contiguous tensor, last dimension fastest.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("single-precision tensors, made contiguous above")
}

/// The values, to be changed in place, if no other tensor shares them.
pub(crate) fn owned_values(tensor: &mut FlexTensor) -> Option<&mut [f32]> {
    let len = values(tensor).len();
    tensor.try_storage_mut::<f32>().filter(|storage| storage.len() == len)
}

pub(crate) fn tensor(values: Vec<f32>, dims: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims.into()))
}

pub(crate) fn dims(tensor: &FlexTensor) -> Vec<usize> {
    tensor.shape().to_vec()
}

pub(crate) fn dims4(tensor: &FlexTensor) -> [usize; 4] {
    tensor.shape().dims()
}

/// The sizes of a feature map `[batch, height, width, channels]`.
pub(crate) fn map_shape(tensor: &FlexTensor) -> MapShape {
    let [batch, height, width, channels] = dims4(tensor);
    MapShape { batch, height, width, channels }
}
