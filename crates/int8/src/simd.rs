//! Vectors of sixteen channels, for the instruction sets that the interpreter's loops are built for.
//!
//! All of them compute the same integers. `unsafe` is here and nowhere else in the interpreter: calls of instructions
//! that the value at hand proves the processor to have, and loads and stores of whole arrays.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Loops over vectors, written once and built for each [`InstructionSet`].
pub(crate) trait SimdLoop {
    /// Does it. Implementations are `#[inline(always)]`, so that they are compiled for the caller's instructions.
    fn run<S: Simd>(self, simd: S);
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InstructionSet {
    /// What every processor of the target has.
    Baseline,
    /// AVX2 and fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
}

impl InstructionSet {
    /// The best of this processor.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(vnni) = Vnni::detect() {
                return InstructionSet::Vnni(vnni);
            }
            if let Some(avx2) = Avx2::detect() {
                return InstructionSet::Avx2(avx2);
            }
        }
        InstructionSet::Baseline
    }

    /// All of this processor.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![InstructionSet::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::detect().map(InstructionSet::Avx2));
            levels.extend(Vnni::detect().map(InstructionSet::Vnni));
        }
        levels
    }

    /// Runs `work` in the build for this isa.
    pub(crate) fn run(self, work: impl SimdLoop) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn avx2(simd: Avx2, work: impl SimdLoop) {
                work.run(simd);
            }
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
            fn vnni(simd: Vnni, work: impl SimdLoop) {
                work.run(simd);
            }
            // SAFETY: an `Avx2` and a `Vnni` are made by their `detect` alone, which found just these features.
            match self {
                InstructionSet::Vnni(simd) => return unsafe { vnni(simd, work) },
                InstructionSet::Avx2(simd) => return unsafe { avx2(simd, work) },
                InstructionSet::Baseline => {}
            }
        }
        #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
        work.run(crate::simd128::Simd128);
        #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
        work.run(Baseline);
    }
}

/// How 32-bit sums become bytes: `round(sum * scale) + offset`, cut off below `low` and above `high`.
///
/// Rounding is half to even by one fused multiply-add, `sum * scale + (1.5 * 2^23 + offset)`: floats of that size are
/// the integers, and the addition rounds once. Exact where the sum is a float and the product is far below 2^22, which
/// `PackedConv` proves of a convolution before it comes here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteRange {
    /// Minus the smallest integer of the output's grid: 0 or 128.
    pub offset: i32,
    /// Lower end of the bytes: `offset` with ReLU, else 0.
    pub low: i32,
    /// Upper end of the bytes: 255, or less with ReLU6.
    pub high: i32,
}

/// `1.5 * 2^23`.
pub(crate) const UNITS: f32 = 12_582_912.0;

/// Operations on 16 channels. A *quad* is four neighbours in depth: four input channels or four taps.
pub(crate) trait Simd: Copy {
    /// Four unsigned bytes for each of 16 channels.
    type Quads: Copy;
    /// Four signed bytes for each of 16 channels.
    type Taps: Copy;
    /// A sum for each of 16 channels, modulo 2^32.
    type Sums: Copy;
    /// Pixels and blocks of 16 channels of a tile whose sums fit the registers.
    const TILE: Tile;

    fn taps(self, bytes: &[i8; 64]) -> Self::Taps;
    /// The same four bytes for every channel.
    fn splat(self, quad: [u8; 4]) -> Self::Quads;
    /// Byte `i` of the four rows becomes the quad of channel `i`.
    fn interleave(self, rows: [&[u8; 16]; 4]) -> Self::Quads;
    fn sums(self, values: &[i32; 16]) -> Self::Sums;
    fn dot(self, sums: Self::Sums, quads: Self::Quads, taps: Self::Taps) -> Self::Sums;
    fn totals(self, sums: Self::Sums) -> [i32; 16];
    fn requantize(self, sums: Self::Sums, scale: &[f32; 16], range: ByteRange) -> [u8; 16];
}

/// Shapes of the tiles of a dense product.
pub(crate) enum Tile {
    /// For 32 registers.
    Large,
    /// For 16 registers of half the size.
    Small,
}

/// Plain arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Baseline;

impl Simd for Baseline {
    type Quads = [u8; 64];
    type Taps = [i8; 64];
    type Sums = [i32; 16];
    const TILE: Tile = Tile::Small;

    #[inline(always)]
    fn taps(self, bytes: &[i8; 64]) -> [i8; 64] {
        *bytes
    }

    #[inline(always)]
    fn splat(self, quad: [u8; 4]) -> [u8; 64] {
        std::array::from_fn(|idx| quad[idx % 4])
    }

    #[inline(always)]
    fn interleave(self, rows: [&[u8; 16]; 4]) -> [u8; 64] {
        std::array::from_fn(|idx| rows[idx % 4][idx / 4])
    }

    #[inline(always)]
    fn sums(self, values: &[i32; 16]) -> [i32; 16] {
        *values
    }

    #[inline(always)]
    fn dot(self, mut sums: [i32; 16], quads: [u8; 64], taps: [i8; 64]) -> [i32; 16] {
        for (channel, sum) in sums.iter_mut().enumerate() {
            for at in 4 * channel..4 * channel + 4 {
                *sum = sum.wrapping_add(i32::from(quads[at]) * i32::from(taps[at]));
            }
        }
        sums
    }

    #[inline(always)]
    fn totals(self, sums: [i32; 16]) -> [i32; 16] {
        sums
    }

    /// In `f64`, as a fused multiply-add is a library call where there is no instruction.
    #[inline(always)]
    fn requantize(self, sums: [i32; 16], scale: &[f32; 16], range: ByteRange) -> [u8; 16] {
        let clamp = (f64::from(range.low - range.offset), f64::from(range.high - range.offset));
        std::array::from_fn(|lane| {
            (i32::from(round_clamped(f64::from(sums[lane]) * f64::from(scale[lane]), clamp)) + range.offset) as u8
        })
    }
}

/// The integer nearest to `value` between the integers `low` and `high` of 16 bits, ties to even.
///
/// Adding `1.5 * 2^52` rounds half to even at the units and leaves the integer in the low bits; unlike
/// `f64::round_ties_even`, every processor does it without a function call.
#[inline(always)]
pub(crate) fn round_clamped(value: f64, (low, high): (f64, f64)) -> i16 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    (value.max(low).min(high) + ROUND).to_bits() as i16
}

/// Proof that the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Bytes are widened to 16 bits, of which two products at a time are added exactly; so a channel has two partial sums.
///
/// Instructions are called one by one and in no closure. `map` and `from_fn` of an array are not always inlined; what stays a function of its
/// own is not compiled for these instructions, and then each of them becomes a call (a third of the interpreter's time).
#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type Quads = [__m256i; 4];
    type Taps = [__m256i; 4];
    type Sums = [__m256i; 4];
    const TILE: Tile = Tile::Small;

    #[inline(always)]
    fn taps(self, bytes: &[i8; 64]) -> [__m256i; 4] {
        let parts: &[[i8; 16]; 4] = bytes.as_chunks().0.as_array().expect("four times 16 of 64");
        // SAFETY: `self` proves the features; 16 bytes are read of 16.
        unsafe {
            [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(parts[0].as_ptr().cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(parts[1].as_ptr().cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(parts[2].as_ptr().cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(parts[3].as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn splat(self, quad: [u8; 4]) -> [__m256i; 4] {
        // SAFETY: `self` proves the features.
        [unsafe { _mm256_cvtepu8_epi16(_mm_set1_epi32(i32::from_le_bytes(quad))) }; 4]
    }

    #[inline(always)]
    fn interleave(self, rows: [&[u8; 16]; 4]) -> [__m256i; 4] {
        // SAFETY: `self` proves the features; each row has the 16 bytes that are read.
        unsafe {
            let [a, b, c, d] = rows.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
            let (ab, cd) = (
                [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)],
                [_mm_unpacklo_epi8(c, d), _mm_unpackhi_epi8(c, d)],
            );
            [
                _mm256_cvtepu8_epi16(_mm_unpacklo_epi16(ab[0], cd[0])),
                _mm256_cvtepu8_epi16(_mm_unpackhi_epi16(ab[0], cd[0])),
                _mm256_cvtepu8_epi16(_mm_unpacklo_epi16(ab[1], cd[1])),
                _mm256_cvtepu8_epi16(_mm_unpackhi_epi16(ab[1], cd[1])),
            ]
        }
    }

    #[inline(always)]
    fn sums(self, values: &[i32; 16]) -> [__m256i; 4] {
        let parts: &[[i32; 4]; 4] = values.as_chunks().0.as_array().expect("four times 4 of 16");
        // SAFETY: `self` proves the features; 4 integers are read of 4.
        unsafe {
            [
                _mm256_cvtepu32_epi64(_mm_loadu_si128(parts[0].as_ptr().cast())),
                _mm256_cvtepu32_epi64(_mm_loadu_si128(parts[1].as_ptr().cast())),
                _mm256_cvtepu32_epi64(_mm_loadu_si128(parts[2].as_ptr().cast())),
                _mm256_cvtepu32_epi64(_mm_loadu_si128(parts[3].as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn dot(self, sums: [__m256i; 4], quads: [__m256i; 4], taps: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: `self` proves the features.
        unsafe {
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(quads[0], taps[0])),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(quads[1], taps[1])),
                _mm256_add_epi32(sums[2], _mm256_madd_epi16(quads[2], taps[2])),
                _mm256_add_epi32(sums[3], _mm256_madd_epi16(quads[3], taps[3])),
            ]
        }
    }

    #[inline(always)]
    fn totals(self, sums: [__m256i; 4]) -> [i32; 16] {
        let mut totals = [0; 16];
        for (part, totals) in self.halves(sums).into_iter().zip(totals.as_chunks_mut::<8>().0) {
            // SAFETY: `self` proves the features; 8 integers are written to 8.
            unsafe { _mm256_storeu_si256(totals.as_mut_ptr().cast(), part) };
        }
        totals
    }

    #[inline(always)]
    fn requantize(self, sums: [__m256i; 4], scale: &[f32; 16], range: ByteRange) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: `self` proves the features; 8 floats are read at 0 and 8 of 16, and 16 bytes written to 16.
        unsafe {
            let [a, b] = self.halves(sums);
            let a = self.bytes_of(a, _mm256_loadu_ps(scale.as_ptr()), range);
            let b = self.bytes_of(b, _mm256_loadu_ps(scale.as_ptr().add(8)), range);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
            let packed = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed);
        }
        bytes
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Adds the partial sums: channels 0 to 7 and 8 to 15.
    #[inline(always)]
    fn halves(self, sums: [__m256i; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves the features.
        unsafe {
            [
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1])),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[2], sums[3])),
            ]
        }
    }

    /// Eight sums as integers of the output's grid, between the ends of `range`.
    #[inline(always)]
    fn bytes_of(self, sums: __m256i, scale: __m256, range: ByteRange) -> __m256i {
        // SAFETY: `self` proves the features.
        unsafe {
            let units = _mm256_set1_ps(UNITS + range.offset as f32);
            let rounded = _mm256_castps_si256(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, units));
            let byte = _mm256_sub_epi32(rounded, _mm256_set1_epi32(UNITS.to_bits() as i32));
            let byte = _mm256_max_epi32(byte, _mm256_set1_epi32(range.low));
            _mm256_min_epi32(byte, _mm256_set1_epi32(range.high))
        }
    }
}

/// Proof that the processor has AVX-512 F, BW and VNNI, besides AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni {
    /// Four channels of each of four rows into each quarter of a vector.
    quarters: [i32; 16],
    /// Transposes the 4 x 4 bytes in a quarter.
    transpose: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl Vnni {
    fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        found.then(|| Self {
            // Not constants in the loop: the compiler would replace the two shuffles by several smaller ones.
            quarters: std::array::from_fn(|at| (at % 4 * 4 + at / 4) as i32),
            transpose: std::array::from_fn(|at| (at % 4 * 4 + at / 4) as u8),
        })
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Vnni {
    type Quads = __m512i;
    type Taps = __m512i;
    type Sums = __m512i;
    const TILE: Tile = Tile::Large;

    #[inline(always)]
    fn taps(self, bytes: &[i8; 64]) -> __m512i {
        // SAFETY: `self` proves the features; 64 bytes are read of 64.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn splat(self, quad: [u8; 4]) -> __m512i {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_set1_epi32(i32::from_le_bytes(quad)) }
    }

    #[inline(always)]
    fn interleave(self, rows: [&[u8; 16]; 4]) -> __m512i {
        // SAFETY: `self` proves the features; each row has the 16 bytes that are read, as has `transpose`, and
        // `quarters` 16 integers.
        unsafe {
            let [a, b, c, d] = rows.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
            let rows = _mm512_castsi128_si512(a);
            let rows = _mm512_inserti32x4::<1>(rows, b);
            let rows = _mm512_inserti32x4::<2>(rows, c);
            let rows = _mm512_inserti32x4::<3>(rows, d);
            let quarters = _mm512_loadu_si512(self.quarters.as_ptr().cast());
            let transpose = _mm512_broadcast_i32x4(_mm_loadu_si128(self.transpose.as_ptr().cast()));
            _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, rows), transpose)
        }
    }

    #[inline(always)]
    fn sums(self, values: &[i32; 16]) -> __m512i {
        // SAFETY: `self` proves the features; 16 integers are read of 16.
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, quads: __m512i, taps: __m512i) -> __m512i {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_dpbusd_epi32(sums, quads, taps) }
    }

    #[inline(always)]
    fn totals(self, sums: __m512i) -> [i32; 16] {
        let mut totals = [0; 16];
        // SAFETY: `self` proves the features; 16 integers are written to 16.
        unsafe { _mm512_storeu_si512(totals.as_mut_ptr().cast(), sums) };
        totals
    }

    #[inline(always)]
    fn requantize(self, sums: __m512i, scale: &[f32; 16], range: ByteRange) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: `self` proves the features; 16 floats are read of 16, and 16 bytes written to 16.
        unsafe {
            let units = _mm512_set1_ps(UNITS + range.offset as f32);
            let rounded = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scale.as_ptr()), units);
            let byte = _mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(UNITS.to_bits() as i32));
            let byte = _mm512_max_epi32(byte, _mm512_set1_epi32(range.low));
            let byte = _mm512_min_epi32(byte, _mm512_set1_epi32(range.high));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(byte));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_clamped() {
        for idx in -40_000..=40_000 {
            let value = f64::from(idx) / 8.0;
            let expected = value.round_ties_even().clamp(-300.0, 255.0);
            assert_eq!(f64::from(round_clamped(value, (-300.0, 255.0))), expected, "{value}");
        }
        assert_eq!(round_clamped(1e300, (-32768.0, 32767.0)), 32767);
        assert_eq!(round_clamped(-1e300, (-32768.0, 32767.0)), -32768);
    }
}
