//! The pass over the output's gradient: per pixel many values are read, and few are written.
//!
//! For each pixel with inputs `x` and gradient `g` of the output, over the output channels:
//!
//! ```text
//! value = V x + bias                  V: the weight with batch norm folded in
//! g     = g where low < value < high, else 0   the activation, recomputed
//! s    += g                           sums over pixels, one per output
//! G    += g x'                        and `inputs` more
//! out   = V' g                        the term of the inputs' gradient, a sum over outputs
//! ```

use std::mem::MaybeUninit;

use crate::activation::Limits;
use crate::instruction_set::InstructionSet;
use crate::matrix::Panels;
use crate::norm::{ChannelStatistics, Norm};
use crate::vector::Vector;

/// The weight and the batch norm after it as one product and sum.
pub(super) struct FoldedPointwise {
    n_inputs: usize,
    n_outputs: usize,
    /// `[inputs, outputs]`, the outputs padded with zeros to whole vectors.
    weight: Vec<f32>,
    /// Padded too.
    bias: Vec<f32>,
    limits: Limits,
}

impl FoldedPointwise {
    /// `weight`: `[outputs, inputs]`
    pub(super) fn new(weight: &[f32], n_inputs: usize, norm2: &Norm, statistics2: ChannelStatistics<&[f32]>) -> Self {
        let (scale, mut bias) = norm2.folded(statistics2);
        let n_outputs = scale.len();
        assert_eq!(weight.len(), n_inputs * n_outputs, "covariance: weight and batch norm");
        let padded = n_outputs.next_multiple_of(MAX_LANES);
        bias.resize(padded, 0.0);
        let mut folded = vec![0.0; n_inputs * padded];
        for (out, row) in weight.chunks_exact(n_inputs).enumerate() {
            row.iter().enumerate().for_each(|(input, value)| folded[input * padded + out] = value * scale[out]);
        }
        Self { n_inputs, n_outputs, weight: folded, bias, limits: norm2.activation.limits() }
    }

    pub(super) fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// The second factor of the product that makes the block's output, and its bias.
    pub(super) fn panels(&self, isa: InstructionSet) -> (Panels, Vec<f32>) {
        let padded = self.bias.len();
        let panels = Panels::pack(isa, [self.n_inputs, self.n_outputs], &self.weight, |input| input * padded, 1);
        let bias = panels.padded(&self.bias[..self.n_outputs]);
        (panels, bias)
    }

    /// Writes the inputs' gradient, all of `out`, for a tile of pixels, and adds to `sums`, `[1 + inputs, outputs]`.
    pub(super) fn gradient_pass(
        &self,
        isa: InstructionSet,
        inputs: &[f32],
        grads: &[f32],
        sums: &mut [f64],
        out: &mut [MaybeUninit<f32>],
    ) {
        match self.n_inputs {
            1 => self.gradient_pass_of::<1>(isa, inputs, grads, sums, out),
            2 => self.gradient_pass_of::<2>(isa, inputs, grads, sums, out),
            3 => self.gradient_pass_of::<3>(isa, inputs, grads, sums, out),
            _ => self.gradient_pass_of::<4>(isa, inputs, grads, sums, out),
        }
    }

    fn gradient_pass_of<const INPUTS: usize>(
        &self,
        isa: InstructionSet,
        inputs: &[f32],
        grads: &[f32],
        sums: &mut [f64],
        out: &mut [MaybeUninit<f32>],
    ) {
        let outs = self.n_outputs;
        let (inputs, out) = (inputs.as_chunks::<INPUTS>().0, out.as_chunks_mut::<INPUTS>().0);
        assert_eq!((grads.len(), out.len()), (inputs.len() * outs, inputs.len()), "covariance: tile");
        assert_eq!(sums.len(), (1 + INPUTS) * outs, "covariance: sums");
        // SAFETY: the instruction set is this CPU's (see `InstructionSet`); the lengths were asserted.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => tile_avx512(self, inputs, grads, sums, out),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => tile_avx2(self, inputs, grads, sums, out),
                _ => tile::<crate::vector::BaselineVector, INPUTS>(self, inputs, grads, sums, out),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn tile_avx512<const INPUTS: usize>(
    folded: &FoldedPointwise,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    // SAFETY: the caller's promise.
    unsafe { tile::<std::arch::x86_64::__m512, INPUTS>(folded, inputs, grads, sums, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const INPUTS: usize>(
    folded: &FoldedPointwise,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    // SAFETY: the caller's promise.
    unsafe { tile::<std::arch::x86_64::__m256, INPUTS>(folded, inputs, grads, sums, out) }
}

/// Pixel by pixel, as the gradient lies in memory. Weights and sums are copied so that what belongs to one vector of outputs
/// lies together, in the first-level cache.
///
/// # Safety
/// As [`FoldedPointwise::gradient_pass_of`], whose assertions must hold, on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn tile<V: Vector, const INPUTS: usize>(
    folded: &FoldedPointwise,
    inputs: &[[f32; INPUTS]],
    grads: &[f32],
    sums: &mut [f64],
    out: &mut [[MaybeUninit<f32>; INPUTS]],
) {
    let (outs, padded) = (folded.n_outputs, folded.bias.len());
    // For each vector of outputs: bias, weights, sum of the gradient, sums of its products.
    let block_len = (2 + 2 * INPUTS) * V::LANES;
    let n_vectors = outs.div_ceil(V::LANES);
    let mut blocks = vec![0.0; n_vectors * block_len];
    for (block, first) in blocks.chunks_exact_mut(block_len).zip((0..).step_by(V::LANES)) {
        block[..V::LANES].copy_from_slice(&folded.bias[first..][..V::LANES]);
        for (input, weight) in block[V::LANES..][..INPUTS * V::LANES].chunks_exact_mut(V::LANES).enumerate() {
            weight.copy_from_slice(&folded.weight[input * padded + first..][..V::LANES]);
        }
    }
    let (n_whole, rest) = (outs / V::LANES, outs % V::LANES);
    let vectors = OutputVectors { blocks: blocks.as_mut_ptr(), n_whole, rest, limits: folded.limits, outs };
    let (mut pixel, n_pixels) = (0, inputs.len());
    // SAFETY: the pixels are below `n_pixels`, of which each has `outs` gradients; there are as many vectors as `blocks` was
    // made for.
    unsafe {
        let pixel_grads = |pixel: usize| grads.as_ptr().add(pixel * outs);
        while pixel + PIXELS_AT_ONCE <= n_pixels {
            vectors.pixels::<V, INPUTS, PIXELS_AT_ONCE>(&inputs[pixel..], pixel_grads(pixel), &mut out[pixel..]);
            pixel += PIXELS_AT_ONCE;
        }
        for pixel in pixel..n_pixels {
            vectors.pixels::<V, INPUTS, 1>(&inputs[pixel..], pixel_grads(pixel), &mut out[pixel..]);
        }
    }
    for (row, sums) in sums.chunks_exact_mut(outs).enumerate() {
        for (out, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(blocks[out / V::LANES * block_len + (1 + INPUTS + row) * V::LANES + out % V::LANES]);
        }
    }
}

/// The outputs, a vector at a time.
struct OutputVectors {
    blocks: *mut f32,
    /// Vectors that are full.
    n_whole: usize,
    /// Outputs in the last one, if it is not.
    rest: usize,
    limits: Limits,
    outs: usize,
}

impl OutputVectors {
    /// `PIXELS` pixels at a time.
    ///
    /// # Safety
    /// `blocks` must be valid for reading and writing bias, weights and sums of all vectors, `grads` for reading `outs`
    /// values of each pixel; the CPU must have the instructions of `V`.
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
            let mut grad_inputs = [[V::splat(0.0); INPUTS]; PIXELS];
            for vector in 0..self.n_whole + usize::from(self.rest > 0) {
                let slot = |idx: usize| self.blocks.add((vector * (2 + 2 * INPUTS) + idx) * V::LANES);
                let (bias, mut total) = (V::load(slot(0)), V::load(slot(1 + INPUTS)));
                let (mut weights, mut products) = ([bias; INPUTS], [bias; INPUTS]);
                for input in 0..INPUTS {
                    weights[input] = V::load(slot(1 + input));
                    products[input] = V::load(slot(2 + INPUTS + input));
                }
                for pixel in 0..PIXELS {
                    let source = grads.add(pixel * self.outs + vector * V::LANES);
                    let grad = if vector < self.n_whole { V::load(source) } else { V::load_partial(source, self.rest) };
                    let mut value = bias;
                    for input in 0..INPUTS {
                        value = V::multiply_add(V::splat(inputs[pixel][input]), weights[input], value);
                    }
                    let grad = grad.where_between(value, self.limits);
                    total = V::add(total, grad);
                    for input in 0..INPUTS {
                        products[input] = V::multiply_add(V::splat(inputs[pixel][input]), grad, products[input]);
                        grad_inputs[pixel][input] = V::multiply_add(weights[input], grad, grad_inputs[pixel][input]);
                    }
                }
                total.store(slot(1 + INPUTS));
                for input in 0..INPUTS {
                    products[input].store(slot(2 + INPUTS + input));
                }
            }
            for pixel in 0..PIXELS {
                for input in 0..INPUTS {
                    out[pixel][input].write(grad_inputs[pixel][input].reduce_sum());
                }
            }
        }
    }
}

/// Pixels whose sums are in registers together.
const PIXELS_AT_ONCE: usize = 2;
/// The widest vector, to which outputs are padded.
const MAX_LANES: usize = 16;
