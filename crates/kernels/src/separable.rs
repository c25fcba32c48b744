//! The block that the students repeat: depthwise convolution, batch norm, activation, 1x1 convolution, batch norm, activation.
//! Before it may be a 2x upsampling, after it a skip connection.
//!
//! Such a block is bound by memory: its maps are large and take few products each. So it is one operator, in which a map
//! crosses memory once where separate operators would take it several times. Statistics are summed while a row is in the
//! cache, and normalised values are computed where they are read:
//!
//! ```text
//! input -> [upsample] -> depthwise -> norm, activation -> 1x1 -> norm, activation -> [+ skip] -> output
//!                            |                       |
//!                        depthwise               pointwise     maps that the backward pass reads,
//!                          output                  output      stored or recomputed: Strategy
//! ```
//!
//! Batch norm needs the statistics of a whole map before it can normalise the first pixel. So the forward pass has three
//! passes over the map: [`forward`] makes both convolutions' outputs and statistics, [`output`] the rest. An upsampled input
//! exists a few rows at a time (bilinear) or not at all (nearest).

use crate::activation::Activation;
use crate::buffer::filled;
use crate::depthwise::DepthwiseShape;
use crate::instruction_set::InstructionSet;
use crate::norm::{ChannelStatistics, Norm, NormGradients};
use crate::pixelwise::{MapShape, Upsampling};

mod covariance;
mod depthwise_rows;
mod inference;
mod pointwise;
mod recompute_depthwise;
mod skip;
mod store_both;
mod stored_depthwise;

use depthwise_rows::{DepthwiseRows, DepthwiseTaps};
pub use inference::PackedSeparable;

/// Sizes of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeparableShape {
    /// The depthwise convolution, which keeps the size; its input is the block's, upsampled if there is an `upsampling`.
    pub depthwise: DepthwiseShape,
    /// How the block's input, of half the height and width, is upsampled first, if it is; then the taps are 3x3 without
    /// dilation.
    pub upsampling: Option<Upsampling>,
    /// Channels written.
    pub out_channels: usize,
}

/// What is trained in the block.
#[derive(Debug, Clone, Copy)]
pub struct SeparableWeights<'a> {
    /// `[in, 1, kernel, kernel]`
    pub depthwise: &'a [f32],
    /// After the depthwise convolution.
    pub norm1: Norm<'a>,
    /// `[out, in, 1, 1]`
    pub pointwise: &'a [f32],
    /// After the 1x1 convolution.
    pub norm2: Norm<'a>,
}

/// What is saved for the backward pass; `T` is owned values or a slice of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SavedForBackward<T> {
    /// Output of the depthwise convolution, `[batch, height, width, in]`; empty if the backward pass recomputes it.
    pub depthwise: T,
    /// Of the depthwise output.
    pub statistics1: ChannelStatistics<T>,
    /// Output of the 1x1 convolution, `[batch, height, width, out]`; empty if the backward pass does without it.
    pub pointwise: T,
    /// Of the 1x1 convolution's output.
    pub statistics2: ChannelStatistics<T>,
}

/// A skip connection: a 1x1 convolution of another feature map, added to the block's output.
#[derive(Debug, Clone, Copy)]
pub struct Skip<'a> {
    /// `[batch, height, width, in]`, of the output's height and width.
    pub input: &'a [f32],
    /// `[out, in, 1, 1]`
    pub weight: &'a [f32],
    /// `[out]`
    pub bias: &'a [f32],
}

/// Gradients of the block, each in the order of what it is the gradient of.
#[derive(Debug, Clone, PartialEq)]
pub struct SeparableGradients {
    /// Of the input.
    pub input: Vec<f32>,
    /// Of the depthwise weight.
    pub depthwise: Vec<f32>,
    /// Of the first batch norm.
    pub norm1: NormGradients,
    /// Of the 1x1 weight.
    pub pointwise: Vec<f32>,
    /// Of the second batch norm.
    pub norm2: NormGradients,
    /// Of the skip connection, if there is one.
    pub skip: Option<SkipGradients>,
}

/// Gradients of a [`Skip`].
#[derive(Debug, Clone, PartialEq)]
pub struct SkipGradients {
    /// Of its input.
    pub input: Vec<f32>,
    /// Of its weight.
    pub weight: Vec<f32>,
    /// Of its bias.
    pub bias: Vec<f32>,
}

/// Weights and biases of a block whose batch norms are folded into them.
#[derive(Debug, Clone, Copy)]
pub struct FoldedSeparable<'a> {
    /// `[in, 1, kernel, kernel]`
    pub depthwise: &'a [f32],
    /// `[in]`
    pub depthwise_bias: &'a [f32],
    /// `[out, in, 1, 1]`
    pub pointwise: &'a [f32],
    /// `[out]`
    pub pointwise_bias: &'a [f32],
    /// After each of the two convolutions.
    pub activation: Activation,
}

/// Both convolutions, with the statistics of the batch; [`output`] makes the block's output of them.
///
/// # Panics
/// If a length is not that of `shape`, or the shape is not one that [`SeparableShape`] allows.
pub fn forward(shape: &SeparableShape, weights: &SeparableWeights, input: &[f32]) -> SavedForBackward<Vec<f32>> {
    forward_on(InstructionSet::detect(), shape, weights, input)
}

/// The second batch norm and activation, plus the skip connection if there is one: `[batch, height, width, out]`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn output(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    saved: &SavedForBackward<&[f32]>,
    skip: Option<Skip>,
) -> Vec<f32> {
    let isa = InstructionSet::detect();
    shape.check_saved(saved);
    let skip = skip.map(|skip| skip::PackedSkip::new(isa, shape.out_channels, &skip));
    match shape.strategy() {
        Strategy::StoreBoth | Strategy::RecomputeDepthwise => {
            pointwise::output(isa, shape, &weights.norm2, saved, skip.as_ref())
        }
        Strategy::Covariance => covariance::output(isa, shape, weights, saved, skip.as_ref()),
    }
}

/// Gradients from that of the output.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn backward(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    backward_on(InstructionSet::detect(), shape, weights, input, skip, saved, grad_output)
}

/// The whole block with fixed statistics: what is between its convolutions never leaves the cache.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn infer(shape: &SeparableShape, weights: &FoldedSeparable, input: &[f32], skip: Option<Skip>) -> Vec<f32> {
    inference::infer_on(InstructionSet::detect(), shape, weights, input, skip)
}

/// What the backward pass finds stored, and what it does instead.
///
/// A map that takes less to compute than to write and read again is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    /// The outputs of both convolutions.
    StoreBoth,
    /// The 1x1 convolution's output; the depthwise output is recomputed in every pass.
    ///
    /// For nearest upsampling: there the depthwise convolution takes four products instead of nine and reads a map of a
    /// quarter of the size.
    RecomputeDepthwise,
    /// The depthwise output; the 1x1 convolution's many channels are never stored, as its statistics and gradients follow
    /// from sums over its few inputs.
    Covariance,
}

impl SeparableShape {
    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.image_len() * self.depthwise.batch
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        self.out_pixels() * self.out_channels
    }

    fn strategy(&self) -> Strategy {
        if self.upsampling == Some(Upsampling::Nearest) {
            Strategy::RecomputeDepthwise
        } else if self.depthwise.channels <= covariance::MAX_INPUTS {
            Strategy::Covariance
        } else {
            Strategy::StoreBoth
        }
    }

    /// Values of an image of the input.
    fn image_len(&self) -> usize {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        if self.upsampling.is_some() { height / 2 * (width / 2) * channels } else { height * width * channels }
    }

    /// An image of an input that is upsampled.
    fn small(&self) -> MapShape {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        MapShape { batch: 1, height: height / 2, width: width / 2, channels }
    }

    /// Pixels of the output of the whole batch.
    fn out_pixels(&self) -> usize {
        self.depthwise.batch * self.depthwise.out_height() * self.depthwise.out_width()
    }

    /// Image rows of about so many pixels: what is computed between two caches at a time.
    fn tile_image_rows(&self, pixels: usize) -> usize {
        pixels.div_ceil(self.depthwise.width).max(1)
    }

    fn check(&self, input: &[f32], pointwise: &[f32]) {
        self.check_weights(pointwise);
        self.check_input(input);
    }

    fn check_input(&self, input: &[f32]) {
        assert_eq!(input.len(), self.input_len(), "separable: input, {self:?}");
    }

    fn check_weights(&self, pointwise: &[f32]) {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        let same = self.depthwise.out_height() == height && self.depthwise.out_width() == width;
        assert!(same, "separable: a depthwise convolution that keeps the size, {self:?}");
        let taps = (self.depthwise.kernel, self.depthwise.dilation);
        let halves = height.is_multiple_of(2) && width.is_multiple_of(2);
        assert!(
            self.upsampling.is_none() || (taps == (3, 1) && halves),
            "separable: upsampling means 3x3 taps on even sides, {self:?}"
        );
        assert_eq!(pointwise.len(), self.out_channels * channels, "separable: 1x1 weight, {self:?}");
    }

    fn check_saved(&self, saved: &SavedForBackward<&[f32]>) {
        let strategy = self.strategy();
        let depthwise = if strategy == Strategy::RecomputeDepthwise { 0 } else { self.depthwise.output_len() };
        let pointwise = if strategy == Strategy::Covariance { 0 } else { self.output_len() };
        assert_eq!(saved.depthwise.len(), depthwise, "separable: depthwise output, {self:?}");
        assert_eq!(saved.pointwise.len(), pointwise, "separable: 1x1 output, {self:?}");
    }
}

impl SavedForBackward<Vec<f32>> {
    /// The same, borrowed.
    pub fn as_slices(&self) -> SavedForBackward<&[f32]> {
        SavedForBackward {
            depthwise: &self.depthwise,
            statistics1: self.statistics1.as_slices(),
            pointwise: &self.pointwise,
            statistics2: self.statistics2.as_slices(),
        }
    }
}

/// A block in training: its weights, laid out for the CPU, and its input.
struct Block<'a> {
    isa: InstructionSet,
    shape: &'a SeparableShape,
    weights: &'a SeparableWeights<'a>,
    taps: DepthwiseTaps,
    input: &'a [f32],
}

impl<'a> Block<'a> {
    fn new(
        isa: InstructionSet,
        shape: &'a SeparableShape,
        weights: &'a SeparableWeights<'a>,
        input: &'a [f32],
    ) -> Self {
        shape.check(input, weights.pointwise);
        Self { isa, shape, weights, taps: DepthwiseTaps::new(shape, weights.depthwise, None, Activation::None), input }
    }

    /// Rows of the depthwise output of an image, from `first` on.
    fn depthwise_rows(&self, image: usize, first: usize) -> DepthwiseRows<'_> {
        DepthwiseRows::new(self.isa, self.shape, &self.taps, self.input, image, first)
    }

    /// The first row of the depthwise output: its first pixel is the centre that moments are taken around.
    fn first_depthwise_row(&self) -> Vec<f32> {
        let mut rows = self.depthwise_rows(0, 0);
        // SAFETY: `write` writes the whole row.
        unsafe { filled(self.shape.depthwise.out_row_len(), |out| rows.write(0, out, |_| {})) }
    }
}

fn forward_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
) -> SavedForBackward<Vec<f32>> {
    let block = Block::new(isa, shape, weights, input);
    match shape.strategy() {
        Strategy::StoreBoth => store_both::forward(&block),
        Strategy::RecomputeDepthwise => recompute_depthwise::forward(&block),
        Strategy::Covariance => covariance::forward(&block),
    }
}

fn backward_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    let block = Block::new(isa, shape, weights, input);
    shape.check_saved(saved);
    assert_eq!(grad_output.len(), shape.output_len(), "separable: output gradient, {shape:?}");
    match shape.strategy() {
        Strategy::StoreBoth => store_both::backward(&block, skip, saved, grad_output),
        Strategy::RecomputeDepthwise => recompute_depthwise::backward(&block, skip, saved, grad_output),
        Strategy::Covariance => covariance::backward(&block, skip, saved, grad_output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{self, ConvShape};
    use crate::reference::{TOLERANCE, assert_near, assert_within, noise};
    use crate::{bilinear, depthwise, norm, pixelwise};

    const NEAREST: Option<Upsampling> = Some(Upsampling::Nearest);
    const BILINEAR: Option<Upsampling> = Some(Upsampling::Bilinear);
    /// Batch, height, width, channels, upsampling, dilation.
    type CaseSizes = (usize, usize, usize, usize, Option<Upsampling>, usize);
    const CASES: [CaseSizes; 15] = [
        (2, 6, 5, 7, None, 1),
        (1, 8, 4, 33, NEAREST, 1),
        (1, 10, 6, 5, NEAREST, 1),
        (3, 4, 6, 16, NEAREST, 1),
        (2, 9, 7, 3, None, 2),
        (2, 3, 1, 20, None, 1),
        (2, 7, 5, 1, None, 1),
        (3, 5, 9, 2, None, 1),
        (1, 20, 31, 4, None, 1),
        (2, 30, 22, 40, NEAREST, 1),
        (1, 8, 4, 33, BILINEAR, 1),
        (1, 10, 6, 5, BILINEAR, 1),
        (3, 2, 2, 16, BILINEAR, 1),
        (1, 2, 6, 1, BILINEAR, 1),
        (2, 30, 22, 40, BILINEAR, 1),
    ];

    fn cases() -> impl Iterator<Item = (CaseSizes, Activation)> {
        CASES.into_iter().flat_map(|case| [Activation::Relu, Activation::Relu6].map(|activation| (case, activation)))
    }

    struct Case {
        shape: SeparableShape,
        input: Vec<f32>,
        depthwise: Vec<f32>,
        pointwise: Vec<f32>,
        scales: [Vec<f32>; 2],
        shifts: [Vec<f32>; 2],
        skip: [Vec<f32>; 3],
        grad: Vec<f32>,
        activation: Activation,
    }

    impl Case {
        fn new((batch, height, width, channels, upsampling, dilation): CaseSizes, activation: Activation) -> Self {
            let depthwise =
                DepthwiseShape { batch, height, width, channels, kernel: 3, dilation, padding: dilation, stride: 1 };
            let (outs, skips) = (channels + 3, 5);
            let shape = SeparableShape { depthwise, upsampling, out_channels: outs };
            let above_half = |len, seed| noise(len, seed).iter().map(|value| 1.0 + value / 2.0).collect();
            // So large for ReLU6 that many values go beyond 6.
            let offset = if activation == Activation::Relu6 { 3.0 } else { 0.0 };
            let shift = |len, seed| noise(len, seed).iter().map(|value| value + offset).collect();
            Self {
                shape,
                input: noise(shape.input_len(), 1),
                depthwise: noise(depthwise.weight_len(), 2),
                // None so small that the batch norm behind it multiplies by thousands what rounding left.
                pointwise: noise(outs * channels, 3).into_iter().map(|value| value + value.signum() / 2.0).collect(),
                scales: [above_half(channels, 4), above_half(outs, 5)],
                shifts: [shift(channels, 6), shift(outs, 7)],
                skip: [noise(shape.out_pixels() * skips, 8), noise(outs * skips, 9), noise(outs, 10)],
                grad: noise(shape.output_len(), 11),
                activation,
            }
        }

        fn weights(&self) -> SeparableWeights<'_> {
            let norm = |idx: usize| Norm {
                scale: &self.scales[idx],
                shift: &self.shifts[idx],
                epsilon: 1e-5,
                activation: self.activation,
            };
            let (norm1, norm2) = (norm(0), norm(1));
            SeparableWeights { depthwise: &self.depthwise, norm1, pointwise: &self.pointwise, norm2 }
        }

        fn skip(&self) -> Skip<'_> {
            let [input, weight, bias] = &self.skip;
            Skip { input, weight, bias }
        }

        /// The 1x1 convolution of `ins` channels to the block's output.
        fn conv(&self, ins: usize) -> ConvShape {
            let DepthwiseShape { batch, height, width, .. } = self.shape.depthwise;
            let out_channels = self.shape.out_channels;
            let (kernel, stride, padding, dilation) = (1, 1, 0, 1);
            ConvShape { batch, height, width, in_channels: ins, out_channels, kernel, stride, padding, dilation }
        }

        fn small(&self) -> MapShape {
            MapShape { batch: self.shape.depthwise.batch, ..self.shape.small() }
        }

        fn upsampled(&self) -> Vec<f32> {
            match self.shape.upsampling {
                None => self.input.clone(),
                NEAREST => pixelwise::upsample_2x(&self.small(), &self.input),
                BILINEAR => bilinear::upsample_2x(&self.small(), &self.input),
            }
        }

        /// Output and gradients (input, depthwise, scale 1, shift 1, 1x1, scale 2, shift 2) by separate operators.
        fn separately(&self) -> Vec<Vec<f32>> {
            let (shape, weights) = (&self.shape.depthwise, self.weights());
            let (upsampled, conv) = (self.upsampled(), self.conv(shape.channels));
            let d = depthwise::forward(shape, &upsampled, weights.depthwise, None, Activation::None);
            let n = norm::forward(&weights.norm1, &d);
            let p = conv::forward(&conv, &n.output, weights.pointwise, None, Activation::None);
            let o = norm::forward(&weights.norm2, &p);
            let skip =
                conv::forward(&self.conv(5), &self.skip[0], &self.skip[1], Some(&self.skip[2]), Activation::None);
            let (grad, norm2) = norm::backward(&weights.norm2, &p, o.statistics.as_slices(), &self.grad);
            let pointwise = conv::backward_weight(&conv, &n.output, &grad);
            let grad = conv::backward_input(&conv, weights.pointwise, &grad);
            let (grad, norm1) = norm::backward(&weights.norm1, &d, n.statistics.as_slices(), &grad);
            let taps = depthwise::backward_weight(shape, &upsampled, &grad);
            let mut input = depthwise::backward_input(shape, weights.depthwise, &grad);
            match self.shape.upsampling {
                None => {}
                NEAREST => input = pixelwise::upsample_2x_backward(&self.small(), &input),
                BILINEAR => input = bilinear::upsample_2x_backward(&self.small(), &input),
            }
            let output = pixelwise::add(&o.output, &skip);
            let skip_input = conv::backward_input(&self.conv(5), &self.skip[1], &self.grad);
            let skip_weight = conv::backward_weight(&self.conv(5), &self.skip[0], &self.grad);
            let skip_bias = norm::channel_sums(&self.grad, self.shape.out_channels);
            let block = vec![output, input, taps, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift];
            [block, vec![skip_input, skip_weight, skip_bias]].concat()
        }

        fn as_one(&self, isa: InstructionSet) -> Vec<Vec<f32>> {
            let weights = self.weights();
            let saved = forward_on(isa, &self.shape, &weights, &self.input);
            let saved = saved.as_slices();
            let output = output(&self.shape, &weights, &saved, Some(self.skip()));
            let alone = backward_on(isa, &self.shape, &weights, &self.input, None, &saved, &self.grad);
            let made = backward_on(isa, &self.shape, &weights, &self.input, Some(self.skip()), &saved, &self.grad);
            // The second batch norm's sums are taken in other parts beside a skip connection.
            assert_near("input, without skip", &alone.input, &doubles(&made.input));
            let SeparableGradients { input, depthwise, norm1, pointwise, norm2, skip } = made;
            let skip = skip.expect("there is a skip connection");
            let block = vec![output, input, depthwise, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift];
            [block, vec![skip.input, skip.weight, skip.bias]].concat()
        }
    }

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    #[test]
    fn block_is_its_operators_one_after_the_other() {
        const NAMES: [&str; 8] = ["output", "input", "depthwise", "scale 1", "shift 1", "1x1", "scale 2", "shift 2"];
        const SKIP: [&str; 3] = ["skip input", "skip weight", "skip bias"];
        for (case, activation) in cases() {
            // Values up to 6 instead of about 1 are summed.
            let tolerance = if activation == Activation::Relu6 { 6.0 * TOLERANCE } else { TOLERANCE };
            let case = Case::new(case, activation);
            let expected = case.separately();
            for isa in InstructionSet::available() {
                for ((got, expected), name) in case.as_one(isa).iter().zip(&expected).zip([&NAMES[..], &SKIP].concat())
                {
                    assert_within(tolerance, &format!("{isa:?}, {:?}, {name}", case.shape), got, &doubles(expected));
                }
            }
        }
    }

    #[test]
    fn folded_block_is_its_operators_one_after_the_other() {
        for (case, activation) in cases() {
            let case = Case::new(case, activation);
            let (shape, [bias1, bias2]) = (&case.shape.depthwise, &case.shifts);
            let d = depthwise::forward(shape, &case.upsampled(), &case.depthwise, Some(bias1), activation);
            let p = conv::forward(&case.conv(shape.channels), &d, &case.pointwise, Some(bias2), activation);
            let skip =
                conv::forward(&case.conv(5), &case.skip[0], &case.skip[1], Some(&case.skip[2]), Activation::None);
            let folded = FoldedSeparable {
                depthwise: &case.depthwise,
                depthwise_bias: bias1,
                pointwise: &case.pointwise,
                pointwise_bias: bias2,
                activation,
            };
            for isa in InstructionSet::available() {
                let name = format!("{isa:?}, {:?}", case.shape);
                assert_near(&name, &inference::infer_on(isa, &case.shape, &folded, &case.input, None), &doubles(&p));
                let got = inference::infer_on(isa, &case.shape, &folded, &case.input, Some(case.skip()));
                let sum = pixelwise::add(&p, &skip);
                assert_near(&name, &got, &doubles(&sum));
                for n_heads in [1, 18] {
                    let (weight, bias) = (noise(n_heads * case.shape.out_channels, 41), noise(n_heads, 42));
                    let dot = |pixel: &[f32], head: usize| {
                        let products = pixel.iter().zip(&weight[head * pixel.len()..]);
                        f64::from(bias[head]) + products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                    };
                    let pixels = sum.chunks_exact(case.shape.out_channels);
                    let expected: Vec<f64> = pixels
                        .flat_map(|pixel| (0..n_heads).map(|head| dot(pixel, head)).collect::<Vec<_>>())
                        .collect();
                    let skip = case.skip();
                    let packed = PackedSeparable::new_on(
                        isa,
                        &case.shape,
                        &folded,
                        Some((skip.weight, skip.bias)),
                        Some((&weight, &bias)),
                    );
                    let got = packed.forward(case.shape.depthwise.batch, &case.input, Some(skip.input));
                    assert_near(&name, &got, &expected);
                }
            }
        }
    }
}
