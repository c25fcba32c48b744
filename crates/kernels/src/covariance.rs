//! The 1x1 convolution, batch norm and ReLU of a block with few input channels, which is what every network begins with.
//!
//! The convolution's output is many channels of few values: it is never stored. Its mean and variance are the inputs' mean and covariance
//! through the weight, `mean = W m` and `variance = diag(W C W')`, and so is what the batch norm's gradient takes from the
//! output's: with the sums of the masked gradient, `s`, and of its products with the inputs, `G`, over one pass,
//! `sum(g (p - mean)) = W (G - s m')`. What depends on these sums is linear in the inputs, and is added to their gradient afterwards.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{Scratch, chunk_len, filled};
use crate::conv::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, WEIGHT_TILE_ROWS};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::norm::{Affine, ChannelStatistics, GradientSums, Norm, NormGradients};
use crate::vector::Vector;

/// Inputs up to which this takes fewer products than the output has bytes.
pub(crate) const MAX_INPUTS: usize = 4;

/// The convolution's input and what it is multiplied with.
pub(crate) struct CovariancePointwise<'a> {
    isa: InstructionSet,
    /// The batch norm and ReLU before the convolution.
    affine: Affine,
    /// What that reads, `[pixels, inputs]`.
    values: &'a [f32],
    /// `[outputs, inputs]`
    weight: &'a [f32],
    n_inputs: usize,
}

/// Mean and covariance of the convolution's input, in 64 bits: products of two values are exact there.
struct InputMoments {
    mean: [f64; MAX_INPUTS],
    covariance: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

/// Gradients from that of the output.
pub(crate) struct CovarianceGradients {
    /// Of the convolution's input.
    pub input: Vec<f32>,
    pub weight: Vec<f32>,
    pub norm: NormGradients,
    /// Of the batch norm before the convolution: [`GradientSums`].
    pub sums: Vec<f64>,
}

impl<'a> CovariancePointwise<'a> {
    pub(crate) fn new(
        isa: InstructionSet,
        affine: Affine,
        values: &'a [f32],
        n_inputs: usize,
        weight: &'a [f32],
    ) -> Self {
        assert!((1..=MAX_INPUTS).contains(&n_inputs), "few inputs: {n_inputs}");
        assert!(values.len().is_multiple_of(n_inputs) && weight.len().is_multiple_of(n_inputs), "few inputs: lengths");
        Self { isa, affine, values, weight, n_inputs }
    }

    /// Mean and biased variance of each of the convolution's outputs.
    pub(crate) fn statistics(&self) -> ChannelStatistics {
        let moments = self.moments();
        let of = |each: &dyn Fn(&[f32]) -> f64| -> Vec<f32> {
            self.weight.chunks_exact(self.n_inputs).map(|line| each(line) as f32).collect()
        };
        let mean = of(&|line| line.iter().zip(moments.mean).map(|(weight, mean)| f64::from(*weight) * mean).sum());
        let variance = of(&|line| {
            let through = moments.through_covariance(line);
            line.iter().zip(through).map(|(weight, value)| f64::from(*weight) * value).sum::<f64>().max(0.0)
        });
        ChannelStatistics { mean, variance }
    }

    fn moments(&self) -> InputMoments {
        let parts = self.values.par_chunks(self.chunk_len(TASKS_PER_THREAD)).map(|values| {
            let (mut scratch, mut sums) = (Scratch::default(), MomentSums::default());
            for values in values.chunks(WEIGHT_TILE_ROWS * self.n_inputs) {
                let normalised = self.normalise(values, &mut scratch);
                match self.n_inputs {
                    1 => sums.add::<1>(normalised),
                    2 => sums.add::<2>(normalised),
                    3 => sums.add::<3>(normalised),
                    _ => sums.add::<4>(normalised),
                }
            }
            sums
        });
        let (n_pixels, mut total) = (self.n_pixels() as f64, MomentSums::default());
        parts.collect::<Vec<_>>().into_iter().for_each(|sums| total.add_all(&sums));
        let mean = total.values.map(|sum| sum / n_pixels);
        let mut covariance = [[0.0; MAX_INPUTS]; MAX_INPUTS];
        for a in 0..MAX_INPUTS {
            for b in 0..=a {
                covariance[a][b] = total.products[a][b] / n_pixels - mean[a] * mean[b];
                covariance[b][a] = covariance[a][b];
            }
        }
        InputMoments { mean, covariance }
    }

    /// The batch norm with these statistics, and ReLU, of the convolution's output, `[pixels, outputs]`. `done` gets each tile that is written,
    /// with its first pixel.
    pub(crate) fn write(
        &self,
        norm: &Norm,
        statistics: [&[f32]; 2],
        done: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let folded = Folded::new(self, norm, statistics);
        let outs = folded.n_outputs;
        let (panels, bias) = folded.panels(self.isa);
        let finish = Epilogue { bias: Some(&bias), relu: norm.relu };
        let part = self.chunk_len(TASKS_PER_THREAD);
        let run = |out: &mut [MaybeUninit<f32>]| {
            let parts = out.par_chunks_mut(part / self.n_inputs * outs).zip(self.values.par_chunks(part)).enumerate();
            parts.for_each(|(idx, (out, values))| {
                let mut scratch = Scratch::default();
                let tiles =
                    out.chunks_mut(WEIGHT_TILE_ROWS * outs).zip(values.chunks(WEIGHT_TILE_ROWS * self.n_inputs));
                for (first, (out, values)) in (idx * part / self.n_inputs..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                    let normalised = self.normalise(values, &mut scratch);
                    panels.multiply(LhsRows::dense(normalised, self.n_inputs), finish, out);
                    // SAFETY: `multiply` has written all of it.
                    done(first, unsafe { out.assume_init_mut() });
                }
            });
        };
        // SAFETY: the parts and tiles cover the output, and `multiply` writes all of each.
        unsafe { filled(self.n_pixels() * outs, run) }
    }

    /// Gradients from that of what [`CovariancePointwise::write`] wrote; `before` is the batch norm before the convolution.
    pub(crate) fn backward(
        &self,
        norm: &Norm,
        statistics: [&[f32]; 2],
        grad_output: &[f32],
        before: &GradientSums,
    ) -> CovarianceGradients {
        let folded = Folded::new(self, norm, statistics);
        let (ins, outs) = (self.n_inputs, folded.n_outputs);
        assert_eq!(grad_output.len(), self.n_pixels() * outs, "few inputs: output gradient");
        let part = self.chunk_len(1);
        let mut parts = vec![];
        let run = |out: &mut [MaybeUninit<f32>]| {
            let maps = self.values.par_chunks(part).zip(grad_output.par_chunks(part / ins * outs));
            let chunks = out.par_chunks_mut(part).zip(maps).map(|(out, (values, grads))| {
                let (mut normalised, mut sums) = (Scratch::default(), vec![0.0f64; (1 + ins) * outs]);
                let maps = values.chunks(WEIGHT_TILE_ROWS * ins).zip(grads.chunks(WEIGHT_TILE_ROWS * outs));
                for (out, (values, grads)) in out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(maps) {
                    folded.pass(self.isa, self.normalise(values, &mut normalised), grads, &mut sums, out);
                }
                sums
            });
            parts = chunks.collect();
        };
        // SAFETY: the parts and tiles cover the gradient, and `pass` writes all of each.
        let mut input = unsafe { filled(self.values.len(), run) };
        let mut sums = vec![0.0; (1 + ins) * outs];
        parts.into_iter().for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
        let (weight, norm, rest) = self.finish(norm, statistics[1], &sums);

        let part = self.chunk_len(TASKS_PER_THREAD);
        let parts = input.par_chunks_mut(part).zip(self.values.par_chunks(part)).map(|(input, values)| {
            let (mut scratch, mut sums) = (Scratch::default(), before.wide.zeros());
            let tiles = input.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(values.chunks(WEIGHT_TILE_ROWS * ins));
            for (input, values) in tiles {
                let normalised = self.normalise(values, &mut scratch);
                match ins {
                    1 => rest.add::<1>(normalised, input),
                    2 => rest.add::<2>(normalised, input),
                    3 => rest.add::<3>(normalised, input),
                    _ => rest.add::<4>(normalised, input),
                }
                before.add(self.isa, values, input, &mut sums);
            }
            sums
        });
        let sums = before.wide.total(parts.collect());
        CovarianceGradients { input, weight, norm, sums }
    }

    /// Gradients of weight and batch norm from the sums of a pass over the output's gradient, and what the input's still lacks.
    fn finish(&self, norm: &Norm, variance: &[f32], sums: &[f64]) -> (Vec<f32>, NormGradients, Linear) {
        let (ins, n_pixels, moments) = (self.n_inputs, self.n_pixels() as f64, self.moments());
        let outs = variance.len();
        let mut weight = Vec::with_capacity(self.weight.len());
        let (mut scale, mut shift) = (Vec::with_capacity(outs), Vec::with_capacity(outs));
        let mut rest = Linear::default();
        for (out, line) in self.weight.chunks_exact(ins).enumerate() {
            let sum = sums[out];
            let centred = |input: usize| sums[(1 + input) * outs + out] - sum * moments.mean[input];
            let inverse = 1.0 / (f64::from(variance[out]) + f64::from(norm.epsilon)).sqrt();
            let gain = f64::from(norm.scale[out]) * inverse;
            let grad_scale = inverse * (0..ins).map(|input| f64::from(line[input]) * centred(input)).sum::<f64>();
            let slope = gain * grad_scale * inverse / n_pixels;
            let through = moments.through_covariance(line);
            weight.extend((0..ins).map(|input| (gain * centred(input) - slope * n_pixels * through[input]) as f32));
            scale.push(grad_scale as f32);
            shift.push(sum as f32);
            for (a, weight_a) in line.iter().enumerate() {
                rest.constant[a] -= f64::from(*weight_a) * gain * sum / n_pixels;
                for (b, weight_b) in line.iter().enumerate() {
                    let slope = f64::from(*weight_a) * slope * f64::from(*weight_b);
                    rest.slopes[a][b] -= slope;
                    rest.constant[a] += slope * moments.mean[b];
                }
            }
        }
        (weight, NormGradients { scale, shift }, rest)
    }

    fn normalise<'s>(&self, values: &[f32], scratch: &'s mut Scratch) -> &'s [f32] {
        // SAFETY: `apply` writes all of its output.
        unsafe { scratch.filled(values.len(), |out| self.affine.apply(self.isa, values, out)) }
    }

    fn n_pixels(&self) -> usize {
        self.values.len() / self.n_inputs
    }

    /// Input values of a task's part: whole pixels.
    fn chunk_len(&self, tasks_per_thread: usize) -> usize {
        chunk_len(self.n_pixels(), tasks_per_thread, MIN_ROWS_PER_TASK) * self.n_inputs
    }
}

impl InputMoments {
    /// A line of the weight times the covariance.
    fn through_covariance(&self, line: &[f32]) -> [f64; MAX_INPUTS] {
        let of = |covariances: [f64; MAX_INPUTS]| {
            line.iter().zip(covariances).map(|(weight, covariance)| f64::from(*weight) * covariance).sum()
        };
        self.covariance.map(of)
    }
}

/// Sums of the inputs, and of products of two of them, the first not before the second.
#[derive(Default)]
struct MomentSums {
    values: [f64; MAX_INPUTS],
    products: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

impl MomentSums {
    fn add<const INPUTS: usize>(&mut self, values: &[f32]) {
        for pixel in values.as_chunks::<INPUTS>().0 {
            let pixel = pixel.map(f64::from);
            for a in 0..INPUTS {
                self.values[a] += pixel[a];
                for b in 0..=a {
                    self.products[a][b] += pixel[a] * pixel[b];
                }
            }
        }
    }

    fn add_all(&mut self, other: &Self) {
        for a in 0..MAX_INPUTS {
            self.values[a] += other.values[a];
            for b in 0..=a {
                self.products[a][b] += other.products[a][b];
            }
        }
    }
}

/// What is added to the inputs' gradient: a linear function of the inputs.
#[derive(Default)]
struct Linear {
    constant: [f64; MAX_INPUTS],
    slopes: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

impl Linear {
    fn add<const INPUTS: usize>(&self, inputs: &[f32], gradient: &mut [f32]) {
        let (constant, slopes) =
            (self.constant.map(|value| value as f32), self.slopes.map(|line| line.map(|value| value as f32)));
        for (gradient, inputs) in gradient.as_chunks_mut::<INPUTS>().0.iter_mut().zip(inputs.as_chunks::<INPUTS>().0) {
            for a in 0..INPUTS {
                let mut rest = constant[a];
                for b in 0..INPUTS {
                    rest += slopes[a][b] * inputs[b];
                }
                gradient[a] += rest;
            }
        }
    }
}

/// The weight and the batch norm after it as one product and sum.
struct Folded {
    n_inputs: usize,
    n_outputs: usize,
    /// `[inputs, outputs]`, the outputs padded with zeros to whole vectors.
    weight: Vec<f32>,
    /// Padded too.
    bias: Vec<f32>,
    relu: bool,
}

impl Folded {
    fn new(inputs: &CovariancePointwise, norm: &Norm, [mean, variance]: [&[f32]; 2]) -> Self {
        let (scale, mut bias) = norm.folded(mean, variance);
        let (n_inputs, n_outputs) = (inputs.n_inputs, scale.len());
        assert_eq!(inputs.weight.len(), n_inputs * n_outputs, "few inputs: weight and batch norm");
        let padded = n_outputs.next_multiple_of(MOST_LANES);
        bias.resize(padded, 0.0);
        let mut weight = vec![0.0; n_inputs * padded];
        for (out, line) in inputs.weight.chunks_exact(n_inputs).enumerate() {
            line.iter().enumerate().for_each(|(input, value)| weight[input * padded + out] = value * scale[out]);
        }
        Self { n_inputs, n_outputs, weight, bias, relu: norm.relu }
    }

    /// The second factor of the product, and its bias.
    fn panels(&self, isa: InstructionSet) -> (Panels, Vec<f32>) {
        let padded = self.bias.len();
        let panels = Panels::pack(isa, [self.n_inputs, self.n_outputs], &self.weight, |input| input * padded, 1);
        let bias = panels.padded(&self.bias[..self.n_outputs]);
        (panels, bias)
    }

    /// Writes the part of the inputs' gradient that comes straight from the output's where the ReLU passes that, and adds this gradient
    /// of the output, and its products with each input, to `sums`, `[1 + inputs, outputs]`.
    fn pass(&self, isa: InstructionSet, inputs: &[f32], grads: &[f32], sums: &mut [f64], out: &mut [MaybeUninit<f32>]) {
        match self.n_inputs {
            1 => self.pass_of::<1>(isa, inputs, grads, sums, out),
            2 => self.pass_of::<2>(isa, inputs, grads, sums, out),
            3 => self.pass_of::<3>(isa, inputs, grads, sums, out),
            _ => self.pass_of::<4>(isa, inputs, grads, sums, out),
        }
    }

    fn pass_of<const INPUTS: usize>(
        &self,
        isa: InstructionSet,
        inputs: &[f32],
        grads: &[f32],
        sums: &mut [f64],
        out: &mut [MaybeUninit<f32>],
    ) {
        let outs = self.n_outputs;
        let (inputs, out) = (inputs.as_chunks::<INPUTS>().0, out.as_chunks_mut::<INPUTS>().0);
        assert_eq!((grads.len(), out.len()), (inputs.len() * outs, inputs.len()), "few inputs: tile");
        assert_eq!(sums.len(), (1 + INPUTS) * outs, "few inputs: sums");
        // SAFETY: the features of `isa` are there (see `InstructionSet`); the lengths were asserted.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => pass_avx512(self, inputs, grads, sums, out),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => pass_avx2(self, inputs, grads, sums, out),
                _ => pass::<crate::vector::BaselineVector, INPUTS>(self, inputs, grads, sums, out),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn pass_avx512<const INPUTS: usize>(
    folded: &Folded,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    // SAFETY: the caller's promise.
    unsafe { pass::<std::arch::x86_64::__m512, INPUTS>(folded, inputs, grads, sums, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pass_avx2<const INPUTS: usize>(
    folded: &Folded,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    // SAFETY: the caller's promise.
    unsafe { pass::<std::arch::x86_64::__m256, INPUTS>(folded, inputs, grads, sums, out) }
}

/// Pixel by pixel, as the gradient lies in memory; what belongs to a vector of outputs is in the first-level cache.
///
/// # Safety
/// As [`Folded::pass_of`], whose assertions must hold, on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn pass<V: Vector, const INPUTS: usize>(
    folded: &Folded,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    let (outs, padded) = (folded.n_outputs, folded.bias.len());
    // For each vector: bias, weights, sum of the gradient, sums of its products.
    let line = (2 + 2 * INPUTS) * V::LANES;
    let n_vectors = outs.div_ceil(V::LANES);
    let mut blocks = vec![0.0; n_vectors * line];
    for (block, first) in blocks.chunks_exact_mut(line).zip((0..).step_by(V::LANES)) {
        block[..V::LANES].copy_from_slice(&folded.bias[first..][..V::LANES]);
        for (input, weight) in block[V::LANES..][..INPUTS * V::LANES].chunks_exact_mut(V::LANES).enumerate() {
            weight.copy_from_slice(&folded.weight[input * padded + first..][..V::LANES]);
        }
    }
    let (whole, rest) = (outs / V::LANES, outs % V::LANES);
    let tile = Tile { blocks: blocks.as_mut_ptr(), whole, rest, relu: folded.relu, outs };
    let (mut pixel, n_pixels) = (0, inputs.len());
    // SAFETY: the pixels are below `n_pixels`, of which each has `outs` gradients; there are as many vectors as `blocks` was made for.
    unsafe {
        let grads_of = |pixel: usize| grads.as_ptr().add(pixel * outs);
        while pixel + AT_ONCE <= n_pixels {
            tile.pixels::<V, INPUTS, AT_ONCE>(&inputs[pixel..], grads_of(pixel), &mut out[pixel..]);
            pixel += AT_ONCE;
        }
        for pixel in pixel..n_pixels {
            tile.pixels::<V, INPUTS, 1>(&inputs[pixel..], grads_of(pixel), &mut out[pixel..]);
        }
    }
    for (row, sums) in sums.chunks_exact_mut(outs).enumerate() {
        for (out, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(blocks[out / V::LANES * line + (1 + INPUTS + row) * V::LANES + out % V::LANES]);
        }
    }
}

/// The outputs' vectors.
struct Tile {
    blocks: *mut f32,
    /// Vectors that are full.
    whole: usize,
    /// Outputs behind them.
    rest: usize,
    relu: bool,
    outs: usize,
}

impl Tile {
    /// `PIXELS` pixels at a time.
    ///
    /// # Safety
    /// `blocks` must be valid for reading and writing bias, weights and sums of all vectors, `grads` for reading `outs` values of each
    /// pixel; the CPU must have the instructions of `V`.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
    unsafe fn pixels<V: Vector, const INPUTS: usize, const PIXELS: usize>(
        &self,
        inputs: &[[f32; INPUTS]],
        grads: *const f32,
        out: &mut [[MaybeUninit<f32>; INPUTS]],
    ) {
        let inputs: &[[f32; INPUTS]; PIXELS] = inputs.first_chunk().expect("a caller with as many pixels");
        // SAFETY: the contract.
        unsafe {
            let mut through = [[V::splat(0.0); INPUTS]; PIXELS];
            for vector in 0..self.whole + usize::from(self.rest > 0) {
                let at = |idx: usize| self.blocks.add((vector * (2 + 2 * INPUTS) + idx) * V::LANES);
                let (bias, mut total) = (V::load(at(0)), V::load(at(1 + INPUTS)));
                let (mut weights, mut products) = ([bias; INPUTS], [bias; INPUTS]);
                for input in 0..INPUTS {
                    weights[input] = V::load(at(1 + input));
                    products[input] = V::load(at(2 + INPUTS + input));
                }
                for pixel in 0..PIXELS {
                    let place = grads.add(pixel * self.outs + vector * V::LANES);
                    let grad = if vector < self.whole { V::load(place) } else { V::load_partial(place, self.rest) };
                    let mut value = bias;
                    for input in 0..INPUTS {
                        value = V::multiply_add(V::splat(inputs[pixel][input]), weights[input], value);
                    }
                    let grad = if self.relu { grad.where_positive(value) } else { grad };
                    total = V::add(total, grad);
                    for input in 0..INPUTS {
                        products[input] = V::multiply_add(V::splat(inputs[pixel][input]), grad, products[input]);
                        through[pixel][input] = V::multiply_add(weights[input], grad, through[pixel][input]);
                    }
                }
                total.store(at(1 + INPUTS));
                for input in 0..INPUTS {
                    products[input].store(at(2 + INPUTS + input));
                }
            }
            for pixel in 0..PIXELS {
                for input in 0..INPUTS {
                    out[pixel][input].write(through[pixel][input].sum());
                }
            }
        }
    }
}

/// Pixels whose sums are in registers together.
const AT_ONCE: usize = 2;
/// The widest vector, to which outputs are padded.
const MOST_LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::noise;

    /// The block's own tests (`separable.rs`) compare all of this with separate operators.
    #[test]
    fn variance_survives_a_mean_far_from_zero() {
        let (n_inputs, outs, n_pixels) = (3, 5, 4000);
        let values: Vec<f32> = noise(n_pixels * n_inputs, 9).into_iter().map(|value| value * 1e-2 + 100.0).collect();
        let weight = noise(outs * n_inputs, 10);
        let affine = Affine::new(&[1.0; 3], &[0.0; 3], true);
        let ChannelStatistics { mean, variance } =
            CovariancePointwise::new(InstructionSet::detect(), affine, &values, n_inputs, &weight).statistics();
        for (out, line) in weight.chunks_exact(n_inputs).enumerate() {
            let dot = |pixel: &[f32]| pixel.iter().zip(line).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            let outputs: Vec<f64> = values.chunks_exact(n_inputs).map(dot).collect();
            let expected = outputs.iter().sum::<f64>() / n_pixels as f64;
            assert!((f64::from(mean[out]) - expected).abs() <= 1e-6 * expected.abs(), "{} {expected}", mean[out]);
            let spread = outputs.iter().map(|value| (value - expected).powi(2)).sum::<f64>() / n_pixels as f64;
            assert!((f64::from(variance[out]) / spread - 1.0).abs() < 1e-5, "{} {spread}", variance[out]);
        }
    }
}
