//! A scale and a shift per channel, then ReLU: batch norm once its statistics are known.

use std::mem::MaybeUninit;

use super::pixel_groups::PixelGroups;
use super::{ChannelStatistics, Norm};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// `input * scale + shift` per channel, then ReLU if asked for, over any range of whole pixels.
pub(crate) struct Affine {
    groups: PixelGroups,
    /// Repeated for a group of pixels, as `shift`.
    scale: Vec<f32>,
    shift: Vec<f32>,
    relu: bool,
}

impl Affine {
    pub(crate) fn new(scale: &[f32], shift: &[f32], relu: bool) -> Self {
        assert_eq!(scale.len(), shift.len(), "affine: scale and shift");
        let groups = PixelGroups::new(scale.len());
        Self { scale: groups.repeat(scale), shift: groups.repeat(shift), groups, relu }
    }

    /// The batch norm with these statistics.
    pub(crate) fn from_norm(norm: &Norm, statistics: ChannelStatistics<&[f32]>) -> Self {
        let channels = norm.scale.len();
        assert_eq!(norm.shift.len(), channels, "batch norm: scale and shift");
        let lens = (statistics.mean.len(), statistics.variance.len());
        assert_eq!(lens, (channels, channels), "batch norm: statistics and scale");
        let (scale, shift) = norm.folded(statistics);
        Self::new(&scale, &shift, norm.relu)
    }

    /// Writes all of `out`, as long as `input`.
    pub(crate) fn apply(&self, isa: InstructionSet, input: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!(input.len(), out.len(), "affine: lengths");
        apply(isa, input, self.gate(), out);
    }

    pub(super) fn chunk_len(&self, len: usize) -> usize {
        self.groups.chunk_len(len)
    }

    pub(super) fn gate(&self) -> ReluGate<'_> {
        ReluGate { scale: &self.scale, shift: &self.shift, relu: self.relu }
    }
}

/// The gradient of an [`Affine`]'s ReLU, recomputed from the input: it passes where `input * scale + shift` is positive, or
/// everywhere if there is no ReLU.
#[derive(Clone, Copy)]
pub(super) struct ReluGate<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    relu: bool,
}

impl<'a> ReluGate<'a> {
    /// The same, with lengths that the compiler sees: no bounds are checked in the loops.
    #[inline(always)]
    pub(super) fn with_width(self, width: usize) -> ReluGate<'a> {
        ReluGate { scale: &self.scale[..width], shift: &self.shift[..width], relu: self.relu }
    }

    /// The gradient where the ReLU let the value through, else zero; computed as the forward pass computed the value.
    #[inline(always)]
    pub(super) fn pass<const FUSED: bool>(self, input: f32, grad: f32, lane: usize) -> f32 {
        let value = multiply_add::<FUSED>(input, self.scale[lane], self.shift[lane]);
        if !self.relu || value > 0.0 { grad } else { 0.0 }
    }
}

for_each_instruction_set! {
    fn apply(input: &[f32], gate: ReluGate, out: &mut [MaybeUninit<f32>]) = apply_body
}

#[inline(always)]
fn apply_body<const FUSED: bool, const LANES: usize>(input: &[f32], gate: ReluGate, out: &mut [MaybeUninit<f32>]) {
    let width = gate.scale.len();
    let minimum = if gate.relu { 0.0 } else { f32::NEG_INFINITY };
    for (out, input) in out.chunks_mut(width).zip(input.chunks(width)) {
        for (((out, input), scale), shift) in out.iter_mut().zip(input).zip(gate.scale).zip(gate.shift) {
            let value = multiply_add::<FUSED>(*input, *scale, *shift);
            out.write(if value < minimum { minimum } else { value });
        }
    }
}
