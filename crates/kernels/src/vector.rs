//! Vector registers of `f32`, for the loops that have to keep many of them at a time: the matrix product's and the
//! covariance pass's.
//!
//! Everywhere else the compiler vectorises plain loops ([`crate::instruction_set`]); here it would spill the sums to memory.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::activation::Limits;
use crate::instruction_set::{BASELINE_FUSED, multiply_add};

/// A register of values.
///
/// # Safety
/// Every function needs a CPU with the register's instructions; pointers must be valid for `LANES` values.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `n` values, fewer than `LANES`, then zeros; `from` need only be valid for `n`.
    unsafe fn load_partial(from: *const f32, n: usize) -> Self;
    /// Stores the first `n` values, fewer than `LANES`; `to` need only be valid for `n`.
    unsafe fn store_partial(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    /// `max(value, 0)` of each value; NaN stays NaN.
    unsafe fn clamp(self, limits: Limits) -> Self;
    /// Each value where `condition` is between the limits, else 0.
    unsafe fn where_between(self, condition: Self, limits: Limits) -> Self;
    /// The sum of all values, half by half.
    unsafe fn reduce_sum(self) -> f32;
}

/// Four values, the register of SSE2 and NEON; vectorised by the compiler.
#[derive(Clone, Copy)]
pub(crate) struct BaselineVector([f32; 4]);

impl Vector for BaselineVector {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises four values.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for four values.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self {
        // SAFETY: the caller promises `n` values.
        Self(std::array::from_fn(|lane| if lane < n { unsafe { from.add(lane).read() } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, n: usize) {
        // SAFETY: the caller promises room for `n` values.
        self.0.into_iter().take(n).enumerate().for_each(|(lane, value)| unsafe { to.add(lane).write(value) });
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        let product = |lane: usize| multiply_add::<BASELINE_FUSED>(self.0[lane], factor.0[lane], sum.0[lane]);
        Self(std::array::from_fn(product))
    }

    #[inline(always)]
    unsafe fn clamp(self, limits: Limits) -> Self {
        Self(self.0.map(|value| limits.clamp(value)))
    }

    #[inline(always)]
    unsafe fn where_between(self, condition: Self, limits: Limits) -> Self {
        Self(std::array::from_fn(|lane| limits.gradient(condition.0[lane], self.0[lane])))
    }

    #[inline(always)]
    unsafe fn reduce_sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }
}

/// Implements [`Vector`] by the intrinsics of one x86 instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_vector {
    (
        $register:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $fma:ident, $max:ident,
        $min:ident, $mask:ident, $load_masked:expr, $store_masked:expr, $where_between:expr, $reduce_sum:ident
    ) => {
        // SAFETY of all: the trait's contract is the intrinsics': the CPU's instructions, and valid pointers.
        impl Vector for $register {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            unsafe fn load_partial(from: *const f32, n: usize) -> Self {
                unsafe { $load_masked(from, $mask(n)) }
            }

            #[inline(always)]
            unsafe fn store_partial(self, to: *mut f32, n: usize) {
                unsafe { $store_masked(to, $mask(n), self) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
                unsafe { $fma(self, factor, sum) }
            }

            #[inline(always)]
            unsafe fn clamp(self, limits: Limits) -> Self {
                // The instructions return their second operand if either is NaN.
                unsafe { $min($splat(limits.high), $max($splat(limits.low), self)) }
            }

            #[inline(always)]
            unsafe fn where_between(self, condition: Self, limits: Limits) -> Self {
                unsafe { $where_between(self, condition, $splat(limits.low), $splat(limits.high)) }
            }

            #[inline(always)]
            unsafe fn reduce_sum(self) -> f32 {
                unsafe { $reduce_sum(self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    mask_of_first_8,
    _mm256_maskload_ps,
    _mm256_maskstore_ps,
    |values, condition, low, high| {
        let above = _mm256_cmp_ps::<_CMP_GT_OQ>(condition, low);
        _mm256_and_ps(_mm256_and_ps(above, _mm256_cmp_ps::<_CMP_LT_OQ>(condition, high)), values)
    },
    reduce_sum_8
);
#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps,
    mask_of_first_16,
    |from, mask| _mm512_maskz_loadu_ps(mask, from),
    |to, mask, value| _mm512_mask_storeu_ps(to, mask, value),
    |values, condition, low, high| {
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(condition, low);
        _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, condition, high), values)
    },
    reduce_sum_16
);

/// All bits of the first `n` lanes.
///
/// # Safety
/// Needs AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn mask_of_first_8(n: usize) -> __m256i {
    // SAFETY: the contract.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// A bit for each of the first `n` lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn mask_of_first_16(n: usize) -> u16 {
    (1u32 << n).wrapping_sub(1) as u16
}

/// # Safety
/// Needs AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn reduce_sum_8(values: __m256) -> f32 {
    // SAFETY: the contract.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// # Safety
/// Needs AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn reduce_sum_16(values: __m512) -> f32 {
    // SAFETY: the contract; its CPUs have AVX2.
    unsafe {
        let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(values)));
        reduce_sum_8(_mm256_add_ps(_mm512_castps512_ps256(values), upper))
    }
}
