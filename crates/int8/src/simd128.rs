//! The vectors of 128 bits that browsers have, for builds of WebAssembly with `-C target-feature=+simd128`.
//!
//! `scripts/check/web.mjs` holds its integers to those of the other instruction sets: there is no test of this processor here.

use std::arch::wasm32::*;

use crate::simd::{ByteRange, Simd, Tile};

/// WebAssembly's 128-bit vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simd128;

/// Bytes are widened to 16 bits. A quad is two pairs, `[first pairs of 4 channels, second pairs of them]` for each four of the 16 channels;
/// an instruction multiplies four channels' pairs and adds the two products of each, exactly.
impl Simd for Simd128 {
    type Quads = [[v128; 2]; 4];
    type Taps = [[v128; 2]; 4];
    type Sums = [v128; 4];
    const TILE: Tile = Tile::Small;

    #[inline(always)]
    fn taps(self, bytes: &[i8; 64]) -> [[v128; 2]; 4] {
        let (parts, _) = bytes.as_chunks::<16>();
        std::array::from_fn(|part| {
            let quads = v128_of(parts[part].map(i8::cast_unsigned));
            let pairs = i8x16_shuffle::<0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15>(quads, quads);
            [i16x8_extend_low_i8x16(pairs), i16x8_extend_high_i8x16(pairs)]
        })
    }

    #[inline(always)]
    fn splat(self, [a, b, c, d]: [u8; 4]) -> [[v128; 2]; 4] {
        let pair = |low: u8, high: u8| i32x4_splat(i32::from(low) | i32::from(high) << 16);
        [[pair(a, b), pair(c, d)]; 4]
    }

    #[inline(always)]
    fn interleave(self, rows: [&[u8; 16]; 4]) -> [[v128; 2]; 4] {
        let [a, b, c, d] = rows.map(|row| v128_of(*row));
        let low = |a, b| i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
        let high = |a, b| i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
        let (low_first, low_second, high_first, high_second) = (low(a, b), low(c, d), high(a, b), high(c, d));
        [
            [u16x8_extend_low_u8x16(low_first), u16x8_extend_low_u8x16(low_second)],
            [u16x8_extend_high_u8x16(low_first), u16x8_extend_high_u8x16(low_second)],
            [u16x8_extend_low_u8x16(high_first), u16x8_extend_low_u8x16(high_second)],
            [u16x8_extend_high_u8x16(high_first), u16x8_extend_high_u8x16(high_second)],
        ]
    }

    #[inline(always)]
    fn sums(self, values: &[i32; 16]) -> [v128; 4] {
        let (parts, _) = values.as_chunks::<4>();
        std::array::from_fn(|part| {
            let [a, b, c, d] = parts[part];
            i32x4(a, b, c, d)
        })
    }

    #[inline(always)]
    fn dot(self, sums: [v128; 4], quads: [[v128; 2]; 4], taps: [[v128; 2]; 4]) -> [v128; 4] {
        std::array::from_fn(|part| {
            let products = |pair: usize| i32x4_dot_i16x8(quads[part][pair], taps[part][pair]);
            i32x4_add(sums[part], i32x4_add(products(0), products(1)))
        })
    }

    #[inline(always)]
    fn totals(self, sums: [v128; 4]) -> [i32; 16] {
        let mut totals = [0; 16];
        for (sums, totals) in sums.into_iter().zip(totals.as_chunks_mut::<4>().0) {
            *totals = [
                i32x4_extract_lane::<0>(sums),
                i32x4_extract_lane::<1>(sums),
                i32x4_extract_lane::<2>(sums),
                i32x4_extract_lane::<3>(sums),
            ];
        }
        totals
    }

    /// In `f64`, where the product is exact: there is no fused multiply-add.
    #[inline(always)]
    fn requantize(self, sums: [v128; 4], scale: &[f32; 16], range: ByteRange) -> [u8; 16] {
        let low = f64x2_splat(f64::from(range.low - range.offset));
        let high = f64x2_splat(f64::from(range.high - range.offset));
        let offset = i32x4_splat(range.offset);
        let two = |sums: v128, scale: [f32; 2]| {
            let product = f64x2_mul(f64x2_convert_low_i32x4(sums), f64x2(f64::from(scale[0]), f64::from(scale[1])));
            // Half to even.
            i32x4_trunc_sat_f64x2_zero(f64x2_nearest(f64x2_pmin(high, f64x2_pmax(low, product))))
        };
        let (scales, _) = scale.as_chunks::<4>();
        let part = |part: usize| {
            let (sums, [a, b, c, d]) = (sums[part], scales[part]);
            let upper = i32x4_shuffle::<2, 3, 2, 3>(sums, sums);
            i32x4_add(i32x4_shuffle::<0, 1, 4, 5>(two(sums, [a, b]), two(upper, [c, d])), offset)
        };
        let words = [i16x8_narrow_i32x4(part(0), part(1)), i16x8_narrow_i32x4(part(2), part(3))];
        bytes_of(u8x16_narrow_i16x8(words[0], words[1]))
    }
}

#[inline(always)]
fn v128_of(bytes: [u8; 16]) -> v128 {
    // SAFETY: a vector is 16 bytes of any value.
    unsafe { std::mem::transmute(bytes) }
}

#[inline(always)]
fn bytes_of(vector: v128) -> [u8; 16] {
    // SAFETY: a vector is 16 bytes of any value.
    unsafe { std::mem::transmute(vector) }
}
