//! Pieces of constant length of a row of values, which the compiler turns into vectors of the instruction set at hand.

/// Starts of blocks of `LANES` values that cover `width`, which is at least `LANES`. The last block may overlap the one
/// before it, so that all of them are full.
#[inline(always)]
pub(crate) fn lane_blocks<const LANES: usize>(width: usize) -> impl Iterator<Item = usize> {
    (0..width.div_ceil(LANES)).map(move |block| (block * LANES).min(width - LANES))
}

/// The `LANES` values from `start` on, with a length that the compiler knows.
#[inline(always)]
pub(crate) fn load_lanes<const LANES: usize>(values: &[f32], start: usize) -> &[f32; LANES] {
    values[start..start + LANES].try_into().expect("a slice of this length")
}
