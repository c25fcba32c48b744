//! The layers' kernels and their gradients, against the same formula in burn's operators.

use burn::tensor::ops::ConvTransposeOptions;
use burn::tensor::{Device, Tensor, TensorData, activation, module};

use super::{AttentionSize, HeadsOf, LayerNorm, Linear, Then, Upconv, add_then, attention, mask_products};

/// What both have to say of the same leaves: values, and the gradient of each leaf.
fn assert_alike<const D: usize>(
    name: &str,
    leaves: Vec<Tensor<1>>,
    ours: impl Fn(&[Tensor<1>]) -> Tensor<D>,
    formula: impl Fn(&[Tensor<1>]) -> Tensor<D>,
) {
    let run = |forward: &dyn Fn(&[Tensor<1>]) -> Tensor<D>| {
        let leaves: Vec<Tensor<1>> = leaves.iter().map(|leaf| leaf.clone().detach().require_grad()).collect();
        let output = forward(&leaves);
        let n = output.dims().iter().product::<usize>();
        // Each output has another weight in the sum.
        let weights = Tensor::<1, burn::tensor::Int>::arange(0..n as i64, &output.device()).float();
        let flat: Tensor<1> = output.reshape([n]);
        let mut gradients = (flat.clone() * (weights * 0.37).sin()).sum().backward();
        let gradients = leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients).expect("a gradient of each leaf"));
        std::iter::once(flat.inner()).chain(gradients).collect::<Vec<_>>()
    };
    for (idx, (found, expected)) in run(&ours).into_iter().zip(run(&formula)).enumerate() {
        let largest = f64::from(expected.clone().abs().max().into_scalar::<f32>()).max(1.0);
        let difference = f64::from((found - expected).abs().max().into_scalar::<f32>());
        assert!(difference <= 2e-5 * largest, "{name}, {idx}: {difference} of {largest}");
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// Values between -1 and 1, the same in every run.
fn noise(len: usize, seed: u32) -> Tensor<1> {
    let value = |idx: usize| ((idx as f64 + 1.0) * (f64::from(seed) + 0.618) * 12.9898).sin() * 43_758.545;
    let values: Vec<f32> = (0..len).map(|idx| (2.0 * (value(idx) - value(idx).floor()) - 1.0) as f32).collect();
    Tensor::from_data(TensorData::new(values, [len]), &device())
}

fn ended<const D: usize>(x: Tensor<D>, then: Then) -> Tensor<D> {
    match then {
        Then::Nothing => x,
        Then::Relu => activation::relu(x),
        Then::Gelu => activation::gelu(x),
    }
}

#[test]
fn gradients_of_linear_layers_are_those_of_the_formula() {
    let (rows, ins, outs) = (70, 12, 33);
    for then in [Then::Nothing, Then::Relu, Then::Gelu] {
        let layer =
            |leaves: &[Tensor<1>]| Linear::new(leaves[1].clone().reshape([outs, ins]), Some(leaves[2].clone()), then);
        let product = |leaves: &[Tensor<1>]| {
            let x: Tensor<2> = leaves[0].clone().reshape([2 * rows, ins]);
            let weight: Tensor<2> = leaves[1].clone().reshape([outs, ins]);
            let product = x.matmul(weight.transpose()) + leaves[2].clone().unsqueeze();
            product.reshape([2, rows, outs])
        };
        let leaves = || vec![noise(2 * rows * ins, 1), noise(outs * ins, 2), noise(outs, 3)];
        let ours = |leaves: &[Tensor<1>]| layer(leaves).forward::<3>(leaves[0].clone().reshape([2, rows, ins]));
        assert_alike("linear", leaves(), ours, |leaves| ended(product(leaves), then));
        // Onto as many rows, and onto those of one image.
        for images in [2, 1] {
            let leaves = leaves().into_iter().chain([noise(images * rows * outs, 4)]).collect();
            let sum = |leaves: &[Tensor<1>]| leaves[3].clone().reshape([images, rows, outs]);
            let ours = |leaves: &[Tensor<1>]| {
                layer(leaves).forward_onto::<3>(leaves[0].clone().reshape([2, rows, ins]), sum(leaves))
            };
            assert_alike("linear onto", leaves, ours, |leaves| ended(product(leaves) + sum(leaves), then));
        }
    }
}

#[test]
fn gradients_of_layer_norms_are_those_of_the_formula() {
    for then in [Then::Nothing, Then::Relu, Then::Gelu] {
        let ours = |leaves: &[Tensor<1>]| {
            let norm = LayerNorm::new(leaves[1].clone(), leaves[2].clone(), 1e-3, then);
            norm.forward::<2>(leaves[0].clone().reshape([90, 40]))
        };
        let formula = |leaves: &[Tensor<1>]| {
            let x: Tensor<2> = leaves[0].clone().reshape([90, 40]);
            let centred = x.clone() - x.mean_dim(1);
            let variance = (centred.clone() * centred.clone()).mean_dim(1);
            let normal = centred / (variance + 1e-3).sqrt();
            ended(normal * leaves[1].clone().unsqueeze() + leaves[2].clone().unsqueeze(), then)
        };
        assert_alike("layer norm", vec![noise(90 * 40, 5), noise(40, 6), noise(40, 7)], ours, formula);
    }
}

#[test]
fn gradients_of_sums_are_those_of_the_formula() {
    for images in [3, 1] {
        let parts = |leaves: &[Tensor<1>]| {
            let (x, one) = (leaves[0].clone().reshape([3, 7, 5]), leaves[1].clone().reshape([images, 7, 5]));
            (x, one)
        };
        let ours = |leaves: &[Tensor<1>]| {
            let (x, one): (Tensor<3>, Tensor<3>) = parts(leaves);
            add_then(x, one, Then::Gelu)
        };
        let formula = |leaves: &[Tensor<1>]| {
            let (x, one): (Tensor<3>, Tensor<3>) = parts(leaves);
            activation::gelu(x + one)
        };
        assert_alike("sum", vec![noise(105, 8), noise(images * 35, 9)], ours, formula);
    }
}

#[test]
fn gradients_of_upconvolutions_are_those_of_the_formula() {
    let (ins, outs) = (9, 5);
    let leaves = vec![noise(2 * 3 * 4 * ins, 10), noise(ins * outs * 4, 11), noise(outs, 12)];
    let parts = |leaves: &[Tensor<1>]| {
        let (x, weight) = (leaves[0].clone().reshape([2, 3, 4, ins]), leaves[1].clone().reshape([ins, outs, 2, 2]));
        (x, weight, leaves[2].clone())
    };
    let ours = |leaves: &[Tensor<1>]| {
        let (x, weight, bias) = parts(leaves);
        Upconv::new(weight, bias, Then::Gelu).forward(x)
    };
    let formula = |leaves: &[Tensor<1>]| {
        let (x, weight, bias): (Tensor<4>, Tensor<4>, _) = parts(leaves);
        let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
        let out = module::conv_transpose2d(x.permute([0, 3, 1, 2]), weight, Some(bias), options);
        activation::gelu(out.permute([0, 2, 3, 1]))
    };
    assert_alike("transposed convolution", leaves, ours, formula);
}

#[test]
fn gradients_of_mask_products_are_those_of_the_formula() {
    let parts = |leaves: &[Tensor<1>]| -> (Tensor<3>, Tensor<4>) {
        (leaves[0].clone().reshape([2, 4, 32]), leaves[1].clone().reshape([2, 9, 11, 32]))
    };
    let ours = |leaves: &[Tensor<1>]| {
        let (vectors, map) = parts(leaves);
        mask_products(vectors, map)
    };
    let formula = |leaves: &[Tensor<1>]| -> Tensor<4> {
        let (vectors, map) = parts(leaves);
        let pixels: Tensor<3> = map.reshape([2, 99, 32]);
        vectors.matmul(pixels.swap_dims(1, 2)).reshape([2, 4, 9, 11])
    };
    assert_alike("mask products", vec![noise(2 * 4 * 32, 13), noise(2 * 99 * 32, 14)], ours, formula);
}

#[test]
fn gradients_of_attention_are_those_of_the_formula() {
    let (heads, width) = (4, 6);
    // Queries, keys and values of one layer; few queries that look at the keys of one image; and the other way around.
    for (images, queries, keys) in [([2, 2], 20, 20), ([3, 1], 7, 90), ([1, 3], 90, 7)] {
        let channels = heads * width;
        let tokens = |leaf: &Tensor<1>, images: usize, rows: usize| leaf.clone().reshape([images, rows, channels]);
        let parts = |leaves: &[Tensor<1>]| -> [Tensor<3>; 3] {
            let [q, k] = images;
            [tokens(&leaves[0], q, queries), tokens(&leaves[1], k, keys), tokens(&leaves[2], k, keys)]
        };
        let size = AttentionSize { heads, width, value_width: width };
        let ours = |leaves: &[Tensor<1>]| {
            attention(size, parts(leaves).map(|tokens| HeadsOf { tokens, start: 0, stride: width }), 0.4, None)
        };
        let formula = |leaves: &[Tensor<1>]| -> Tensor<3> {
            let of_heads = |tokens: Tensor<3>| -> Tensor<4> {
                let [images, rows, _] = tokens.dims();
                tokens.reshape([images, rows, heads, width]).swap_dims(1, 2)
            };
            let [q, k, v] = parts(leaves).map(of_heads);
            let shares = activation::softmax(q.matmul(k.swap_dims(2, 3)) * 0.4, 3);
            shares.matmul(v).swap_dims(1, 2).reshape([images[0].max(images[1]), queries, channels])
        };
        let [q, k] = images;
        let leaves =
            vec![noise(q * queries * channels, 15), noise(k * keys * channels, 16), noise(k * keys * channels, 17)];
        assert_alike(&format!("attention {images:?}"), leaves, ours, formula);
    }
}

#[test]
fn gradients_of_interleaved_heads_are_added_in_one_tensor() {
    let (heads, width) = (2, 5);
    let size = AttentionSize { heads, width, value_width: width };
    let fused = |leaves: &[Tensor<1>]| -> Tensor<3> { leaves[0].clone().reshape([2, 30, 3 * heads * width]) };
    let ours = |leaves: &[Tensor<1>]| {
        let part = |idx: usize| HeadsOf { tokens: fused(leaves), start: idx * heads * width, stride: width };
        attention(size, [part(0), part(1), part(2)], 0.4, None)
    };
    let formula = |leaves: &[Tensor<1>]| -> Tensor<3> {
        let part = |idx: usize| -> Tensor<4> {
            fused(leaves).narrow(2, idx * heads * width, heads * width).reshape([2, 30, heads, width]).swap_dims(1, 2)
        };
        let shares = activation::softmax(part(0).matmul(part(1).swap_dims(2, 3)) * 0.4, 3);
        shares.matmul(part(2)).swap_dims(1, 2).reshape([2, 30, heads * width])
    };
    assert_alike("interleaved heads", vec![noise(2 * 30 * 3 * heads * width, 18)], ours, formula);
}
