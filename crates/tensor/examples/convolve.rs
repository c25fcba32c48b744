//! A convolution and its gradient by our kernels, under burn's tensors and autodiff.
//!
//! `cargo run --release --example convolve`

#![expect(clippy::print_stdout, reason = "a program")]

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::op::ConvShape;
use sensei_tensor::ops::{conv2d, to_internal, to_nchw};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let image = Tensor::<1>::from_data(TensorData::from([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]), &device);
    // Left minus right: what a vertical edge is.
    let edge = [0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0];
    let weight = Tensor::<1>::from_data(TensorData::from(edge), &device).reshape([1, 1, 3, 3]).require_grad();

    let shape = ConvShape { in_channels: 1, out_channels: 1, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1 };
    // Inside a network, maps stay in the layout of the kernels from the first operator to the last.
    let output = to_nchw(conv2d(to_internal(image.reshape([1, 1, 3, 3])), weight.clone(), None, &shape));
    let values = output.clone().into_data().try_to_vec::<f32>()?;
    values.chunks_exact(3).for_each(|row| println!("{row:?}"));

    let gradients = output.sum().backward();
    let gradient = weight.grad(&gradients).ok_or("a leaf that requires its gradient has one")?;
    println!("gradient of the sum by each tap: {:?}", gradient.into_data().try_to_vec::<f32>()?);
    Ok(())
}
