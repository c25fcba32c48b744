//! Builds of one loop for several instruction sets, and the choice between them at run time.
//!
//! A program runs on many CPUs, which differ in the width of their vectors. So each hot loop is written once and compiled
//! once per [`InstructionSet`]; the best one that the CPU has is found when the loop is called.

/// The instruction sets that kernels are built for, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// What every CPU of the target has: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// 256-bit vectors and fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl InstructionSet {
    /// The best instruction set of this CPU.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return InstructionSet::Avx512;
            }
            if avx2 {
                return InstructionSet::Avx2;
            }
        }
        InstructionSet::Baseline
    }

    /// All instruction sets of this CPU.
    #[cfg(test)]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [InstructionSet::Baseline, InstructionSet::Avx2, InstructionSet::Avx512]
            .into_iter()
            .filter(|isa| *isa <= InstructionSet::detect())
    }
}

/// `a * b + c`; in one rounding if `FUSED`, which only some instruction sets do without a library call.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Whether the baseline has a fused multiply-add.
pub(crate) const BASELINE_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Defines `fn name(isa, arguments)` that runs `body::<FUSED, LANES>`, compiled once for each [`InstructionSet`].
///
/// `FUSED` says whether to use fused multiply-add, `LANES` how many values a vector of the instruction set holds.
/// `body` must be `#[inline(always)]`: it is vectorised by the compiler for the instruction set it is inlined into.
macro_rules! for_each_instruction_set {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name(isa: crate::instruction_set::InstructionSet, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) {
                    $body::<true, 8>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) {
                    $body::<true, 16>($($arg),*)
                }
                // SAFETY: anything above the baseline comes only from `InstructionSet::detect`, which asked this CPU for
                // the features, or from `InstructionSet::available`, which stays below it.
                match isa {
                    crate::instruction_set::InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    crate::instruction_set::InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    crate::instruction_set::InstructionSet::Baseline => {}
                }
            }
            let _ = isa;
            $body::<{ crate::instruction_set::BASELINE_FUSED }, 8>($($arg),*)
        }
    };
}
pub(crate) use for_each_instruction_set;
