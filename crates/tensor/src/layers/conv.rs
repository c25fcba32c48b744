//! Convolutions of maps `[image, height, width, channels]`.

use std::sync::OnceLock;

use burn::tensor::ops::ConvTransposeOptions;
use burn::tensor::{Tensor, module};
use sensei_graph::op::ConvShape;
use sensei_kernels::activation::Activation;
use sensei_kernels::conv::{self, PackedConv};
use sensei_kernels::depthwise::{DepthwiseShape, PackedDepthwise};
use sensei_kernels::linear::{PackedUpconv, Then};

use super::{end, has_gradients, has_kernels, unwrapped, wrapped};
use crate::ops;
use crate::ops::flex_tensor::{map_shape, values};
use crate::ops::portable;

/// A convolution that mixes channels, padded so that stride 1 keeps the size; 1x1 ones are a [`Linear`](super::Linear) over pixels.
pub struct Conv {
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    then: Then,
}

impl Conv {
    /// Of a weight `[outs, ins, kernel, kernel]` and a bias `[outs]`.
    pub fn new(weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, then: Then) -> Self {
        Self { weight, bias, stride, then }
    }

    /// The convolution, plus bias, and what ends it.
    ///
    /// # Panics
    /// If the map has other channels than the weight.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [outs, ins, kernel, _] = self.weight.dims();
        let (stride, padding) = (self.stride, kernel / 2);
        if !has_kernels(&x.device()) {
            let shape =
                ConvShape { in_channels: ins, out_channels: outs, kernel, stride, padding, dilation: 1, groups: 1 };
            return end(convolved(x, self.weight.clone(), self.bias.clone(), &shape), self.then);
        }
        let [batch, height, width, channels] = x.dims();
        assert_eq!(channels, ins, "convolution: channels");
        let shape = conv::ConvShape {
            batch,
            height,
            width,
            in_channels: ins,
            out_channels: outs,
            kernel,
            stride,
            padding,
            dilation: 1,
        };
        let (weight, bias) = (unwrapped(self.weight.clone()), self.bias.clone().map(unwrapped));
        let activation = if self.then == Then::Relu { Activation::Relu } else { Activation::None };
        let packed = PackedConv::new(&shape, values(&weight), bias.as_ref().map(values), activation);
        let packed = if self.then == Then::Gelu { packed.then_gelu() } else { packed };
        let out = packed.forward(batch, values(&unwrapped(x)));
        wrapped(out, [batch, shape.out_height(), shape.out_width(), outs])
    }
}

/// A convolution of each channel by itself, padded so that stride 1 keeps the size.
pub struct Depthwise {
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    then: Then,
}

impl Depthwise {
    /// Of a weight `[channels, 1, kernel, kernel]` and a bias `[channels]`.
    pub fn new(weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, then: Then) -> Self {
        Self { weight, bias, stride, then }
    }

    /// The convolution, plus bias, and what ends it.
    ///
    /// # Panics
    /// If the map has other channels than the weight.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [channels, _, kernel, _] = self.weight.dims();
        let (stride, padding) = (self.stride, kernel / 2);
        if !has_kernels(&x.device()) {
            let shape = ConvShape {
                in_channels: channels,
                out_channels: channels,
                kernel,
                stride,
                padding,
                dilation: 1,
                groups: channels,
            };
            return end(convolved(x, self.weight.clone(), self.bias.clone(), &shape), self.then);
        }
        let [batch, height, width, found] = x.dims();
        assert_eq!(found, channels, "depthwise: channels");
        let shape = DepthwiseShape { batch, height, width, channels, kernel, dilation: 1, padding, stride };
        let (weight, bias) = (unwrapped(self.weight.clone()), self.bias.clone().map(unwrapped));
        let activation = if self.then == Then::Relu { Activation::Relu } else { Activation::None };
        let packed = PackedDepthwise::new(&shape, values(&weight), bias.as_ref().map(values), activation);
        let packed = if self.then == Then::Gelu { packed.then_gelu() } else { packed };
        let out = packed.forward(batch, values(&unwrapped(x)));
        wrapped(out, [batch, shape.out_height(), shape.out_width(), channels])
    }
}

/// A transposed convolution of 2x2 taps and stride 2: each pixel becomes four.
pub struct Upconv {
    weight: Tensor<4>,
    bias: Tensor<1>,
    then: Then,
    packed: OnceLock<PackedUpconv>,
}

impl Upconv {
    /// Of a weight `[ins, outs, 2, 2]` and a bias `[outs]`.
    ///
    /// # Panics
    /// If the taps are not 2x2.
    pub fn new(weight: Tensor<4>, bias: Tensor<1>, then: Then) -> Self {
        assert_eq!(weight.dims()[2..], [2, 2], "transposed convolution: taps");
        Self { weight, bias, then, packed: OnceLock::new() }
    }

    /// `[image, height, width, ins]` to `[image, 2 * height, 2 * width, outs]`.
    ///
    /// # Panics
    /// If the map has other channels than the weight.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [ins, outs, ..] = self.weight.dims();
        let [batch, height, width, _] = x.dims();
        if has_kernels(&x.device()) {
            let packed = self.packed.get_or_init(|| {
                let (weight, bias) = (unwrapped(self.weight.clone()), unwrapped(self.bias.clone()));
                PackedUpconv::new([ins, outs], values(&weight), Some(values(&bias)), self.then)
            });
            let x = unwrapped(x);
            return wrapped(packed.forward(&map_shape(&x), values(&x)), [batch, 2 * height, 2 * width, outs]);
        }
        if has_gradients(&x.device()) {
            return end(ops::layers::upconv(x, self.weight.clone(), self.bias.clone()), self.then);
        }
        let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
        let x = x.permute([0, 3, 1, 2]);
        let out = module::conv_transpose2d(x, self.weight.clone(), Some(self.bias.clone()), options);
        end(out.permute([0, 2, 3, 1]), self.then)
    }
}

/// A convolution that has gradients.
fn convolved(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, shape: &ConvShape) -> Tensor<4> {
    if ops::has_blocks(&x.device()) {
        return ops::conv2d(x, weight, bias, shape);
    }
    portable::conv2d(x.permute([0, 3, 1, 2]), weight, bias, shape).permute([0, 2, 3, 1])
}
