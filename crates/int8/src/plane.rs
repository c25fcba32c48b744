//! A tensor between two operators, channels last.

use crate::conv::{LANES, Requantization};
use crate::grid::ActivationGrid;
use crate::simd::{Baseline, Simd, round_clamped};

/// A tensor in height, width, channel order; channels are padded to whole vectors, with any values.
///
/// `u8` holds `q - qmin`, `i16` holds `q`.
#[derive(Debug, Clone)]
pub(crate) struct Plane<T> {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Distance of neighbouring stored pixels: `channels` rounded up to [`LANES`].
    pub stride: usize,
    /// 1 if every stored pixel stands for a square of 2 x 2, else 0.
    pub log2_upsampling: usize,
    pub values: Vec<T>,
}

/// What a plane's values are: bytes, or 16-bit integers for the network's output.
pub(crate) trait PlaneElement: Copy + Default + Send + Sync {
    fn from_integer(q: i32, grid: ActivationGrid) -> Self;
    fn integer(self, grid: ActivationGrid) -> i32;
    /// Sums, rescaled, rounded and clamped.
    fn requantize<S: Simd>(simd: S, sums: S::Sums, scale: &[f32; LANES], how: Requantization) -> [Self; LANES];
}

impl PlaneElement for u8 {
    #[inline(always)]
    fn from_integer(q: i32, grid: ActivationGrid) -> Self {
        (q - grid.qmin()) as u8
    }

    #[inline(always)]
    fn integer(self, grid: ActivationGrid) -> i32 {
        i32::from(self) + grid.qmin()
    }

    #[inline(always)]
    fn requantize<S: Simd>(simd: S, sums: S::Sums, scale: &[f32; LANES], how: Requantization) -> [u8; LANES] {
        if how.floats_are_exact {
            simd.requantize(sums, scale, how.range)
        } else {
            Baseline.requantize(simd.totals(sums), scale, how.range)
        }
    }
}

impl PlaneElement for i16 {
    fn from_integer(q: i32, _: ActivationGrid) -> Self {
        q as i16
    }

    fn integer(self, _: ActivationGrid) -> i32 {
        i32::from(self)
    }

    /// Exact: sums have 31 bits, mantissas 8, an `f64` 53.
    #[inline(always)]
    fn requantize<S: Simd>(simd: S, sums: S::Sums, scale: &[f32; LANES], how: Requantization) -> [i16; LANES] {
        let sums = simd.totals(sums);
        std::array::from_fn(|lane| round_clamped(f64::from(sums[lane]) * f64::from(scale[lane]), how.clamp))
    }
}

impl<T: PlaneElement> Plane<T> {
    /// A plane that takes its memory from `values`.
    pub(crate) fn new([channels, height, width]: [usize; 3], mut values: Vec<T>) -> Self {
        let stride = channels.next_multiple_of(LANES);
        values.resize(height * width * stride, T::default());
        Self { channels, height, width, stride, log2_upsampling: 0, values }
    }

    /// The stored channels of a pixel.
    #[inline(always)]
    pub(crate) fn pixel(&self, y: usize, x: usize) -> &[T] {
        let idx = (y >> self.log2_upsampling) * (self.width >> self.log2_upsampling) + (x >> self.log2_upsampling);
        &self.values[idx * self.stride..(idx + 1) * self.stride]
    }
}
