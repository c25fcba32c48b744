//! A scale and a shift per channel, then an activation: batch norm once its statistics are known.

use std::mem::MaybeUninit;

use super::pixel_groups::PixelGroups;
use super::{ChannelStatistics, Norm};
use crate::activation::{Activation, Limits};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// `input * scale + shift` per channel, then the activation, over any range of whole pixels.
pub(crate) struct Affine {
    groups: PixelGroups,
    /// Repeated for a group of pixels, as `shift`.
    scale: Vec<f32>,
    shift: Vec<f32>,
    limits: Limits,
}

impl Affine {
    pub(crate) fn new(scale: &[f32], shift: &[f32], activation: Activation) -> Self {
        assert_eq!(scale.len(), shift.len(), "affine: scale and shift");
        let groups = PixelGroups::new(scale.len());
        Self { scale: groups.repeat(scale), shift: groups.repeat(shift), groups, limits: activation.limits() }
    }

    /// The batch norm with these statistics.
    pub(crate) fn from_norm(norm: &Norm, statistics: ChannelStatistics<&[f32]>) -> Self {
        let channels = norm.scale.len();
        assert_eq!(norm.shift.len(), channels, "batch norm: scale and shift");
        let lens = (statistics.mean.len(), statistics.variance.len());
        assert_eq!(lens, (channels, channels), "batch norm: statistics and scale");
        let (scale, shift) = norm.folded(statistics);
        Self::new(&scale, &shift, norm.activation)
    }

    /// Writes all of `out`, as long as `input`.
    pub(crate) fn apply(&self, isa: InstructionSet, input: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!(input.len(), out.len(), "affine: lengths");
        apply(isa, input, self.gate(), out);
    }

    pub(super) fn chunk_len(&self, len: usize) -> usize {
        self.groups.chunk_len(len)
    }

    pub(super) fn gate(&self) -> ActivationGate<'_> {
        ActivationGate { scale: &self.scale, shift: &self.shift, limits: self.limits }
    }
}

/// The gradient of an [`Affine`]'s activation, recomputed from the input: it passes where `input * scale + shift` is between
/// the activation's limits.
#[derive(Clone, Copy)]
pub(super) struct ActivationGate<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    limits: Limits,
}

impl<'a> ActivationGate<'a> {
    /// The same, with lengths that the compiler sees: no bounds are checked in the loops.
    #[inline(always)]
    pub(super) fn with_width(self, width: usize) -> ActivationGate<'a> {
        ActivationGate { scale: &self.scale[..width], shift: &self.shift[..width], limits: self.limits }
    }

    /// The gradient where the activation let the value through, else zero; computed as the forward pass computed the value.
    #[inline(always)]
    pub(super) fn pass<const FUSED: bool>(self, input: f32, grad: f32, lane: usize) -> f32 {
        let value = multiply_add::<FUSED>(input, self.scale[lane], self.shift[lane]);
        self.limits.gradient(value, grad)
    }
}

for_each_instruction_set! {
    fn apply(input: &[f32], gate: ActivationGate, out: &mut [MaybeUninit<f32>]) = apply_body
}

#[inline(always)]
fn apply_body<const FUSED: bool, const LANES: usize>(
    input: &[f32],
    gate: ActivationGate,
    out: &mut [MaybeUninit<f32>],
) {
    let width = gate.scale.len();
    for (out, input) in out.chunks_mut(width).zip(input.chunks(width)) {
        for (((out, input), scale), shift) in out.iter_mut().zip(input).zip(gate.scale).zip(gate.shift) {
            let value = multiply_add::<FUSED>(*input, *scale, *shift);
            out.write(gate.limits.clamp(value));
        }
    }
}
