//! Rounding weights so that a layer's output, not each weight, stays where it was.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, Node};
use sensei_graph::steps::run_graph;
use sensei_int8::grid::ActivationGrid;
use sensei_student::student::without_weights;
use sensei_tensor::ops;

use crate::calibration::{ConvCalibration, go_on, raise_thresholds};
use crate::error::QuantError;
use crate::fake_quant::{FakeQuantConv, fake_quantize};
use crate::folded::{FoldedStudent, host_values, weight_tensor};
use crate::lower::integer_conv;

/// How weights become integers on their channel's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Each to its nearest.
    Nearest,
    /// Convolution by convolution in the order of the network, so that each output on the calibration images, with the
    /// quantized inputs, comes closest to the float network's.
    ///
    /// # Source
    /// GPTQ (Frantar et al. 2022), in the form of Babai's nearest plane, which Chen et al. 2025 show to be the same. The
    /// target differs: GPTQ keeps `W x` for the quantized inputs `x`, this keeps the float network's output, errors of
    /// all layers before included, as AdaRound (Nagel et al. 2020) does. Thresholds stay as they are.
    Gptq,
}

/// Rounds every convolution's weights by [`Rounding::Gptq`]; `convs` get weights on their grids, and biases that leave no
/// mean error if `correct_bias`.
pub(crate) fn reconstruct(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    grids: &[ActivationGrid],
    convs: &mut BTreeMap<usize, ConvCalibration>,
    correct_bias: bool,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(), QuantError> {
    let n_images: usize = batches.iter().map(|batch| batch.dims()[0]).sum();
    let batches: Vec<Tensor<4>> = batches.iter().step_by(n_images.div_ceil(MAX_IMAGES)).cloned().collect();
    let to_state = |batch: Tensor<4>| {
        let float = ops::to_internal(batch.inner());
        Activation { quantized: fake_quantize(float.clone(), grids[0]), float }
    };
    let input: Vec<Activation> = batches.into_iter().map(to_state).collect();
    let mut failed = None;
    run_graph(student.graph(), input, |idx, node, inputs| {
        if failed.is_some() {
            return vec![];
        }
        let outputs =
            go_on(is_interrupted).and_then(|()| compute_node(student, idx, node, &inputs, grids, convs, correct_bias));
        outputs.unwrap_or_else(|error| {
            failed = Some(error);
            vec![]
        })
    });
    failed.map_or(Ok(()), Err)
}

/// A node's output on one batch in both networks, in the layout of [`ops`].
#[derive(Clone)]
struct Activation {
    float: Tensor<4>,
    quantized: Tensor<4>,
}

/// Rounds the node's weights, if it has any, and computes its outputs; `inputs` has all batches of each input.
fn compute_node(
    student: &FoldedStudent,
    idx: usize,
    node: &Node,
    inputs: &[Vec<Activation>],
    grids: &[ActivationGrid],
    convs: &mut BTreeMap<usize, ConvCalibration>,
    correct_bias: bool,
) -> Result<Vec<Activation>, QuantError> {
    let integers = match node.op.conv() {
        Some(conv) => {
            let (calibrated, input) =
                (convs.get_mut(&idx).expect("convolutions are calibrated"), grids[node.inputs[0]]);
            round_conv(student, idx, conv, &inputs[0], calibrated, correct_bias);
            raise_thresholds(node, calibrated, input)?;
            let int8 = integer_conv(node, conv, calibrated, input)?;
            Some((FakeQuantConv::new(&int8, conv, input, student.device()), conv))
        }
        None => None,
    };
    let of_batch = |at: usize| {
        let all = |pick: fn(&Activation) -> &Tensor<4>| inputs.iter().map(|input| pick(&input[at]).clone()).collect();
        let float = student.node_output(idx, node, all(|input| &input.float));
        let quantized: Vec<Tensor<4>> = all(|input| &input.quantized);
        let batch = float.dims()[0];
        let real = match &integers {
            Some((integers, conv)) => integers.apply(quantized, conv, batch),
            None => without_weights(&node.op, quantized),
        };
        Activation { float, quantized: fake_quantize(real, grids[idx]) }
    };
    Ok((0..inputs[0].len()).map(of_batch).collect())
}

/// Puts a convolution's weights on their grid and corrects its bias.
fn round_conv(
    student: &FoldedStudent,
    idx: usize,
    conv: &Conv,
    inputs: &[Activation],
    calibrated: &mut ConvCalibration,
    correct_bias: bool,
) {
    let (folded, shape) = (&student.weights()[&idx], student.graph().nodes()[idx].shape);
    let weight = weight_tensor(folded.weight.values.clone(), conv, student.device());
    let per_group = conv.shape.in_channels / conv.shape.groups * conv.shape.kernel * conv.shape.kernel;
    let outputs_per_group = conv.shape.out_channels / conv.shape.groups;
    let mut groups = vec![Moments::new(per_group, outputs_per_group); conv.shape.groups];
    for input in inputs {
        let [n_images, _, height, width] = ops::to_nchw(input.quantized.clone()).dims();
        let pixels = Pixels { n_images, height, width, out: [shape[1], shape[2]] };
        let chosen = pixels.choose(MAX_PIXELS / inputs.len());
        // What the float layer makes of the difference of its inputs is what the rounded weights have to add.
        let missing = ops::conv2d(input.float.clone() - input.quantized.clone(), weight.clone(), None, &conv.shape);
        let (values, missing) = (host_values(input.quantized.clone()), host_values(missing));
        for (group_idx, group) in groups.iter_mut().enumerate() {
            let taps = pixels.taps(&values, conv, group_idx, &chosen);
            let targets = pixels.outputs(&missing, conv, group_idx, &chosen);
            group.add(&taps, &targets, student);
        }
    }
    let n_values = per_group * outputs_per_group;
    for (group_idx, group) in groups.into_iter().enumerate() {
        let channels = group_idx * outputs_per_group..(group_idx + 1) * outputs_per_group;
        let steps: Vec<f64> =
            calibrated.thresholds[channels.clone()].iter().map(|t| t.step(calibrated.weight_bits)).collect();
        let weights = &mut calibrated.weights[group_idx * n_values..(group_idx + 1) * n_values];
        let added = group.round(weights, &steps, calibrated.weight_bits, correct_bias);
        if correct_bias {
            for (bias, added) in calibrated.bias[channels].iter_mut().zip(added) {
                *bias = (f64::from(*bias) + added) as f32;
            }
        }
    }
}

/// Where a convolution's output pixels are.
struct Pixels {
    n_images: usize,
    height: usize,
    width: usize,
    out: [usize; 2],
}

impl Pixels {
    /// At most `wanted` output pixels of all images: one from each of as many equal parts, not at a regular distance,
    /// which could favour some columns.
    fn choose(&self, wanted: usize) -> Vec<[usize; 3]> {
        let [height, width] = self.out;
        let total = self.n_images * height * width;
        let wanted = wanted.clamp(1, total);
        let pixel = |part: usize| {
            let (start, end) = (part * total / wanted, (part + 1) * total / wanted);
            let at = start + (part.wrapping_mul(0x9e37_79b1) >> 7) % (end - start);
            [at / (height * width), at / width % height, at % width]
        };
        (0..wanted).map(pixel).collect()
    }

    /// What one group's weights are multiplied with at the chosen pixels: `[pixel, weight of a channel]`, flat.
    fn taps(&self, values: &[f32], conv: &Conv, group: usize, chosen: &[[usize; 3]]) -> Vec<f32> {
        let per_group = conv.shape.in_channels / conv.shape.groups;
        let mut taps = Vec::with_capacity(chosen.len() * per_group * conv.shape.kernel * conv.shape.kernel);
        for &[image, y, x] in chosen {
            for channel in group * per_group..(group + 1) * per_group {
                let map = &values[(image * conv.shape.in_channels + channel) * self.height * self.width..];
                for tap in 0..conv.shape.kernel * conv.shape.kernel {
                    // Below 0 becomes very large: outside too.
                    let row = (y * conv.shape.stride + tap / conv.shape.kernel * conv.shape.dilation)
                        .wrapping_sub(conv.shape.padding);
                    let column = (x * conv.shape.stride + tap % conv.shape.kernel * conv.shape.dilation)
                        .wrapping_sub(conv.shape.padding);
                    let inside = row < self.height && column < self.width;
                    taps.push(if inside { map[row * self.width + column] } else { 0.0 });
                }
            }
        }
        taps
    }

    /// One group's output channels at the chosen pixels: `[pixel, channel]`, flat.
    fn outputs(&self, values: &[f32], conv: &Conv, group: usize, chosen: &[[usize; 3]]) -> Vec<f32> {
        let per_group = conv.shape.out_channels / conv.shape.groups;
        let [height, width] = self.out;
        let mut outputs = Vec::with_capacity(chosen.len() * per_group);
        for &[image, y, x] in chosen {
            for channel in group * per_group..(group + 1) * per_group {
                outputs.push(values[((image * conv.shape.out_channels + channel) * height + y) * width + x]);
            }
        }
        outputs
    }
}

/// Sums over pixels of what one group of a convolution reads, `x` of `n_taps` values, and of what its output channels
/// should have beyond `W x + b`, `e` of `n_outputs` values.
#[derive(Clone)]
struct Moments {
    n_taps: usize,
    n_outputs: usize,
    n_pixels: f64,
    /// `x x^T`, row by row.
    square: Vec<f64>,
    /// `e x^T`, row by row.
    cross: Vec<f64>,
    taps: Vec<f64>,
    missing: Vec<f64>,
}

impl Moments {
    fn new(n_taps: usize, n_outputs: usize) -> Self {
        let zeros = |len| vec![0.0; len];
        let (square, cross) = (zeros(n_taps * n_taps), zeros(n_outputs * n_taps));
        Self { n_taps, n_outputs, n_pixels: 0.0, square, cross, taps: zeros(n_taps), missing: zeros(n_outputs) }
    }

    fn add(&mut self, taps: &[f32], missing: &[f32], student: &FoldedStudent) {
        let n_pixels = taps.len() / self.n_taps;
        self.n_pixels += n_pixels as f64;
        add_columns(&mut self.taps, taps);
        add_columns(&mut self.missing, missing);
        if self.n_taps <= DIRECT {
            for (x, e) in taps.chunks_exact(self.n_taps).zip(missing.chunks_exact(self.n_outputs)) {
                for (rows, left) in [(&mut self.square, x), (&mut self.cross, e)] {
                    for (row, &factor) in rows.chunks_exact_mut(x.len()).zip(left) {
                        row.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(factor) * f64::from(x));
                    }
                }
            }
            return;
        }
        let matrix = |values: &[f32], columns: usize| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values.to_vec(), [n_pixels, columns]), student.device())
        };
        let x = matrix(taps, self.n_taps);
        for (sums, left) in [(&mut self.square, x.clone()), (&mut self.cross, matrix(missing, self.n_outputs))] {
            let product = left.transpose().matmul(x.clone()).into_data().try_to_vec::<f32>();
            let product = product.expect("a 32-bit float tensor that its device can read back");
            sums.iter_mut().zip(product).for_each(|(sum, value)| *sum += f64::from(value));
        }
    }

    /// Rounds the weights `[n_outputs, n_taps]` of channels with these steps, and returns what their biases have to add.
    ///
    /// Minimises, over the integers, the squared error of every output channel, with the bias that is best for them if
    /// `free_bias`: `(w' - w) H (w' - w)^T` for the weights `w` that are best without rounding. With `H = L L^T`, weights
    /// are rounded from the last to the first, each to the nearest of what is best given those rounded already. Weights of
    /// taps that carry the most go first, while all others can still make up for them.
    fn round(mut self, weights: &mut [f32], steps: &[f64], weight_bits: u8, free_bias: bool) -> Vec<f64> {
        let n = self.n_taps;
        if free_bias {
            let mean = |sums: &[f64]| sums.iter().map(|sum| sum / self.n_pixels).collect::<Vec<f64>>();
            for (sums, means) in [(&mut self.square, mean(&self.taps)), (&mut self.cross, mean(&self.missing))] {
                for (row, mean) in sums.chunks_exact_mut(n).zip(means) {
                    row.iter_mut().zip(&self.taps).for_each(|(sum, tap)| *sum -= mean * tap);
                }
            }
        }
        let damping = DAMPING * (0..n).map(|tap| self.square[tap * n + tap].max(0.0)).sum::<f64>() / n as f64;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| self.square[a * n + a].total_cmp(&self.square[b * n + b]).then(a.cmp(&b)));
        // Where nothing but zeros was seen, any weight is as good: nearest.
        let factor = (damping > 0.0).then(|| cholesky(&self.square, &order, damping));
        let limit = f64::from(1_i32 << (weight_bits - 1));
        let mut added = Vec::with_capacity(self.n_outputs);
        for (output, (row, &step)) in weights.chunks_exact_mut(n).zip(steps).enumerate() {
            let nearest = |weight: f64| (weight / step).round_ties_even().clamp(-limit, limit - 1.0) * step;
            let before: Vec<f64> = row.iter().map(|&weight| f64::from(weight)).collect();
            let mut best: Vec<f64> = order.iter().map(|&tap| before[tap]).collect();
            let mut pulled = vec![0.0; n];
            if let Some(factor) = &factor {
                let cross: Vec<f64> = order.iter().map(|&tap| self.cross[output * n + tap]).collect();
                best.iter_mut().zip(solve(factor, cross)).for_each(|(best, change)| *best += change);
            }
            for at in (0..n).rev() {
                let (wanted, rounded) = match &factor {
                    Some(factor) => {
                        let wanted = best[at] + pulled[at] / factor[at * n + at];
                        (best[at], nearest(wanted))
                    }
                    None => (best[at], nearest(best[at])),
                };
                row[order[at]] = rounded as f32;
                if let Some(factor) = &factor {
                    let error = wanted - rounded;
                    pulled[..at].iter_mut().zip(&factor[at * n..]).for_each(|(pull, l)| *pull += error * l);
                }
            }
            let shifts = before.iter().zip(row.iter()).zip(&self.taps);
            let shift: f64 = shifts.map(|((before, after), tap)| (before - f64::from(*after)) * tap).sum();
            added.push((self.missing[output] + shift) / self.n_pixels);
        }
        added
    }
}

fn add_columns(sums: &mut [f64], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
}

/// The lower triangle `L` of `L L^T = A + damping`, with rows and columns of `A` in this order; row by row, 0 above.
fn cholesky(square: &[f64], order: &[usize], damping: f64) -> Vec<f64> {
    let n = order.len();
    let mut factor = vec![0.0; n * n];
    for row in 0..n {
        for column in 0..=row {
            let (done, rest) = factor.split_at_mut(row * n);
            let left = if column < row { &done[column * n..column * n + column] } else { &rest[..column] };
            let remaining = square[order[row] * n + order[column]] - dot(left, &rest[..column]);
            rest[column] = if column < row {
                remaining / done[column * n + column]
            } else {
                // Exactly, what remains of the diagonal is never below the damping.
                (remaining + damping).max(damping).sqrt()
            };
        }
    }
    factor
}

/// Solves `L L^T x = right`.
fn solve(factor: &[f64], mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for row in 0..n {
        let line = &factor[row * n..row * n + row];
        right[row] = (right[row] - dot(line, &right[..row])) / factor[row * n + row];
    }
    for row in (0..n).rev() {
        right[row] /= factor[row * n + row];
        let (before, here) = right.split_at_mut(row);
        before.iter_mut().zip(&factor[row * n..]).for_each(|(value, l)| *value -= here[0] * l);
    }
    right
}

/// Eight sums side by side, so that the compiler can use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest + sums.iter().sum::<f64>()
}

/// Images that weights are rounded on, whatever the calibration has: both networks' activations are kept for all of them.
const MAX_IMAGES: usize = 128;
/// Output pixels of a layer that are looked at; neighbours tell nearly the same.
const MAX_PIXELS: usize = 32_768;
/// Added to the diagonal, as a share of its mean; GPTQ's.
const DAMPING: f64 = 0.01;
/// Up to this many weights in a channel, sums are added up directly.
const DIRECT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    /// Sums over rows of `taps` directly.
    fn moments(taps: &[f32], missing: &[f32], n_taps: usize) -> Moments {
        let mut moments = Moments::new(n_taps, 1);
        moments.n_pixels = (taps.len() / n_taps) as f64;
        for (x, e) in taps.chunks_exact(n_taps).zip(missing) {
            for (row, a) in x.iter().enumerate() {
                moments.taps[row] += f64::from(*a);
                moments.cross[row] += f64::from(*e) * f64::from(*a);
                x.iter()
                    .enumerate()
                    .for_each(|(at, b)| moments.square[row * n_taps + at] += f64::from(*a) * f64::from(*b));
            }
            moments.missing[0] += f64::from(*e);
        }
        moments
    }

    /// Mean squared error of a channel against `w x + e`.
    fn error(taps: &[f32], missing: &[f32], before: &[f32], after: &[f32], bias: f64) -> f64 {
        let output = |weights: &[f32], x: &[f32]| -> f64 {
            weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let rows = taps.chunks_exact(before.len()).zip(missing);
        let errors = rows.map(|(x, &e)| (output(before, x) + f64::from(e) - output(after, x) - bias).powi(2));
        errors.sum::<f64>() / missing.len() as f64
    }

    #[test]
    fn taps_that_always_agree_share_their_error() {
        // Four equal taps of weight 0.3 on steps of 1: each alone rounds to 0, together they make 1.2, nearest 1.
        let taps: Vec<f32> = (0..40).flat_map(|i| [i as f32 / 10.0; 4]).collect();
        let mut weights = [0.3_f32; 4];
        moments(&taps, &[0.0; 40], 4).round(&mut weights, &[1.0], 8, false);
        assert_eq!(weights.iter().sum::<f32>(), 1.0, "{weights:?}");
        // Taps that have nothing in common are rounded each to its nearest.
        let taps: Vec<f32> =
            (0..40).flat_map(|i| std::array::from_fn::<f32, 4, _>(|tap| f32::from(i % 4 == tap))).collect();
        let mut weights = [0.3_f32, -0.6, 1.4, 200.0];
        moments(&taps, &[0.0; 40], 4).round(&mut weights, &[1.0], 8, false);
        assert_eq!(weights, [0.0, -1.0, 1.0, 127.0]);
    }

    #[test]
    fn what_is_missing_is_made_up_for_by_weights_and_bias() {
        // The float layer saw twice the input and a constant: weights double, the bias takes the constant.
        let mut next = uniform(3);
        let taps: Vec<f32> = (0..600).map(|_| next()).collect();
        let weights = [0.5_f32, -0.25, 1.0];
        let missing: Vec<f32> = taps.chunks_exact(3).map(|x| 0.5 * x[0] - 0.25 * x[1] + x[2] + 7.0).collect();
        let mut rounded = weights;
        let added = moments(&taps, &missing, 3).round(&mut rounded, &[0.25], 8, true);
        assert_eq!(rounded, [1.0, -0.5, 2.0]);
        assert!((added[0] - 7.0).abs() < 1e-5, "{added:?}");
    }

    #[test]
    fn correlated_inputs_lose_much_less_than_by_nearest_rounding_and_close_to_the_least() {
        let (n_taps, n_rows, step) = (4, 500, 0.25_f32);
        for seed in 0..20 {
            let mut next = uniform(seed);
            let mut taps = Vec::new();
            for _ in 0..n_rows {
                let common = next();
                taps.extend((0..n_taps).map(|_| common + 0.3 * next()));
            }
            let missing = vec![0.0; n_rows];
            let before: Vec<f32> = (0..n_taps).map(|_| next()).collect();
            let mut after = before.clone();
            moments(&taps, &missing, n_taps).round(&mut after, &[f64::from(step)], 8, false);
            assert!(after.iter().all(|weight| (weight / step).fract() == 0.0));
            let of = |weights: &[f32]| error(&taps, &missing, &before, weights, 0.0);
            let nearest: Vec<f32> = before.iter().map(|weight| (weight / step).round_ties_even() * step).collect();
            // Every way to round each weight up or down, one step further included.
            let candidate = |choice: u32| -> Vec<f32> {
                let offset = |tap: usize| (choice / 4_u32.pow(tap as u32) % 4) as f32 - 1.0;
                (0..n_taps).map(|tap| ((before[tap] / step).floor() + offset(tap)) * step).collect()
            };
            let least =
                (0..4_u32.pow(n_taps as u32)).map(|choice| of(&candidate(choice))).fold(f64::INFINITY, f64::min);
            assert!(of(&after) <= of(&nearest) * 1.02, "{seed}: {} against {}", of(&after), of(&nearest));
            assert!(of(&after) <= 4.0 * least + 1e-9, "{seed}: {}, at best {least}", of(&after));
        }
    }

    #[test]
    fn a_factor_multiplies_back_and_solves() {
        let n = 21;
        let mut next = uniform(5);
        let rows: Vec<f32> = (0..n * 60).map(|_| next()).collect();
        let square = moments(&rows, &[0.0; 60], n).square;
        let order: Vec<usize> = (0..n).rev().collect();
        let factor = cholesky(&square, &order, 0.5);
        let at =
            |row: usize, column: usize| square[order[row] * n + order[column]] + if row == column { 0.5 } else { 0.0 };
        let right: Vec<f64> = (0..n).map(|i| i as f64 - 7.0).collect();
        let x = solve(&factor, right.clone());
        for row in 0..n {
            for column in 0..n {
                let product: f64 = (0..n).map(|k| factor[row * n + k] * factor[column * n + k]).sum();
                assert!((product - at(row, column)).abs() < 1e-9);
            }
            let back: f64 = (0..n).map(|column| at(row, column) * x[column]).sum();
            assert!((back - right[row]).abs() < 1e-8);
        }
    }

    #[test]
    fn nothing_but_zeros_rounds_to_the_nearest() {
        let mut weights = [0.3_f32, -0.8];
        let added = moments(&[0.0; 20], &[0.5; 10], 2).round(&mut weights, &[1.0], 4, true);
        assert_eq!((weights, added), ([0.0, -1.0], vec![0.5]));
    }

    #[test]
    fn chosen_pixels_are_distinct_and_in_order() {
        let pixels = Pixels { n_images: 3, height: 8, width: 8, out: [8, 8] };
        for wanted in [1, 50, 191, 192, 1000] {
            let chosen = pixels.choose(wanted);
            assert_eq!(chosen.len(), wanted.min(192));
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(chosen.iter().all(|&[image, y, x]| image < 3 && y < 8 && x < 8));
        }
    }
}
