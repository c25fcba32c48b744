//! A linear layer.

use std::sync::OnceLock;

use burn::backend::Flex;
use burn::tensor::Tensor;
use sensei_graph::op::{Activation, ConvShape};
use sensei_kernels::linear::{PackedLinear, Then};

use super::{add_then, end, has_gradients, has_kernels, unwrapped, wrapped};
use crate::ops;
use crate::ops::flex_tensor::{dims, flex, owned_values, tensor, values};

/// A linear layer over the last dimension, and what ends it.
pub struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    then: Then,
    packed: OnceLock<PackedLinear>,
}

impl Linear {
    /// Of a weight `[outs, ins]` and a bias `[outs]`.
    ///
    /// # Panics
    /// If the bias is not of the weight's outputs.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>, then: Then) -> Self {
        let [outs, _] = weight.dims();
        assert!(bias.as_ref().is_none_or(|bias| bias.dims() == [outs]), "linear: bias and weight");
        Self { weight, bias, then, packed: OnceLock::new() }
    }

    /// Values read of a row.
    pub fn ins(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Values written of a row.
    pub fn outs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// `[.., ins]` to `[.., outs]`.
    ///
    /// # Panics
    /// If the last dimension is not the layer's.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = self.checked(&x);
        dims[D - 1] = self.outs();
        if has_kernels(&x.device()) {
            return wrapped(self.packed().forward(values(&unwrapped(x))), dims);
        }
        if has_gradients(&x.device()) {
            let (activation, rest) = match self.then {
                Then::Relu => (Activation::Relu, Then::Nothing),
                Then::Nothing | Then::Gelu => (Activation::None, self.then),
            };
            return end(self.convolved(x, activation), rest).reshape(dims);
        }
        end(self.product(x), self.then).reshape(dims)
    }

    /// What ends the layer, of `sum` plus the layer's output. Where the first dimension of `sum` is 1, it is added to each of `x`.
    ///
    /// # Panics
    /// If the sizes are not those of the same rows.
    pub fn forward_onto<const D: usize>(&self, x: Tensor<D>, sum: Tensor<D>) -> Tensor<D> {
        let mut expected = self.checked(&x);
        expected[D - 1] = self.outs();
        if has_gradients(&x.device()) {
            return add_then(self.convolved(x, Activation::None).reshape(expected), sum, self.then);
        }
        let sum = if sum.dims()[0] == expected[0] { sum } else { sum.expand(expected) };
        assert_eq!(sum.dims(), expected, "linear: what is added to");
        if !has_kernels(&x.device()) {
            return end(self.product(x).reshape(expected) + sum, self.then);
        }
        let (x, mut sum) = (unwrapped(x), flex(sum));
        if owned_values(&mut sum).is_none() {
            sum = tensor(values(&sum).to_vec(), dims(&sum));
        }
        self.packed().forward_onto(values(&x), owned_values(&mut sum).expect("a copy of its own"));
        Tensor::from_primitive::<Flex>(sum)
    }

    fn checked<const D: usize>(&self, x: &Tensor<D>) -> [usize; D] {
        let dims = x.dims();
        assert_eq!(dims[D - 1], self.ins(), "linear: values of a row");
        dims
    }

    fn packed(&self) -> &PackedLinear {
        self.packed.get_or_init(|| {
            let (weight, bias) = (flex(self.weight.clone()), self.bias.clone().map(flex));
            PackedLinear::new(self.weight.dims(), values(&weight), bias.as_ref().map(values), self.then)
        })
    }

    /// `[1, 1, rows, outs]`, by the kernel of a 1x1 convolution, which has gradients.
    fn convolved<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<4> {
        let [outs, ins] = self.weight.dims();
        let rows = x.dims()[..D - 1].iter().product::<usize>();
        let shape = ConvShape {
            in_channels: ins,
            out_channels: outs,
            kernel: 1,
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        };
        let weight = self.weight.clone().reshape([outs, ins, 1, 1]);
        ops::conv2d_activated(x.reshape([1, 1, rows, ins]), weight, self.bias.clone(), &shape, activation)
    }

    /// `[rows, outs]`.
    fn product<const D: usize>(&self, x: Tensor<D>) -> Tensor<2> {
        let rows = x.dims()[..D - 1].iter().product::<usize>();
        let product = x.reshape([rows, self.ins()]).matmul(self.weight.clone().transpose());
        match &self.bias {
            Some(bias) => product + bias.clone().unsqueeze(),
            None => product,
        }
    }
}
