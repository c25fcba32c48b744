//! The two number grids of the chip: powers of two for activations, eight-bit mantissas for weight thresholds.

use sensei_graph::op::Activation;

/// A threshold or bit width that the chip's grid does not have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// Activations are stored in 8 bits, the network's output also in 16 signed bits.
    #[error("activation grid: expected 8 bits, or 16 signed bits, found {bits} {}signed bits", if *signed { "" } else { "un" })]
    ActivationBits {
        /// The width asked for.
        bits: u8,
        /// Whether the grid is signed.
        signed: bool,
    },
    /// Thresholds lie between `2^-24` and `2^24`.
    #[error("threshold exponent: expected -24 to 24, found {found}")]
    Exponent {
        /// The exponent asked for.
        found: i32,
    },
    /// The mantissa of a weight threshold has its top bit set.
    #[error("weight threshold mantissa: expected 128 to 255, found {found}")]
    Mantissa {
        /// The mantissa asked for.
        found: u8,
    },
    /// Not a positive finite number, or not on the grid that is asked for.
    #[error("threshold: expected {expected}, found {found}")]
    Threshold {
        /// What the grid needs.
        expected: &'static str,
        /// The number given.
        found: f64,
    },
}

/// Smallest and largest exponent of any threshold.
pub(crate) const EXPONENTS: std::ops::RangeInclusive<i32> = -24..=24;

/// The values of one stored tensor: `q * step()`, `q` an integer in `[qmin(), qmax()]`.
///
/// # Source
/// `mct_quantizers`' `ActivationPOTQuantizer`, which the converter compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationGrid {
    bits: u8,
    signed: bool,
    log2_threshold: i32,
}

impl ActivationGrid {
    /// What the sensor delivers to a network that wants `(pixel - 128) / 128`: `q = pixel - 128`.
    pub const SIGNED_PIXELS: Self = Self { bits: 8, signed: true, log2_threshold: 0 };
    /// What the sensor delivers to a network that wants `pixel / 256`: `q = pixel`.
    pub const UNSIGNED_PIXELS: Self = Self { bits: 8, signed: false, log2_threshold: 0 };

    /// A grid that ends at `2^log2_threshold`.
    ///
    /// ```
    /// use sensei_int8::grid::ActivationGrid;
    ///
    /// let grid = ActivationGrid::new(8, true, 2)?;
    /// assert_eq!((grid.threshold(), grid.step()), (4.0, 1.0 / 32.0));
    /// assert_eq!(grid.quantize(1.0), 32);
    /// // Beyond its ends it saturates.
    /// assert_eq!((grid.quantize(100.0), grid.quantize(-100.0)), (127, -128));
    /// # Ok::<(), sensei_int8::grid::GridError>(())
    /// ```
    ///
    /// # Errors
    /// If it is neither 8 bits wide nor 16 signed bits, or the exponent is outside of -24..=24.
    pub fn new(bits: u8, signed: bool, log2_threshold: i32) -> Result<Self, GridError> {
        if bits != 8 && !(bits == 16 && signed) {
            return Err(GridError::ActivationBits { bits, signed });
        }
        if !EXPONENTS.contains(&log2_threshold) {
            return Err(GridError::Exponent { found: log2_threshold });
        }
        Ok(Self { bits, signed, log2_threshold })
    }

    /// Bits of a stored value: 8 or 16.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether negative values exist.
    pub fn signed(self) -> bool {
        self.signed
    }

    /// Logarithm of the threshold.
    pub fn log2_threshold(self) -> i32 {
        self.log2_threshold
    }

    /// The threshold: what the smallest value is the negative of (signed), or what the largest stays one step below.
    pub fn threshold(self) -> f64 {
        f64::from(self.log2_threshold).exp2()
    }

    /// Logarithm of the distance between two neighbouring values.
    pub fn log2_step(self) -> i32 {
        self.log2_threshold - i32::from(self.bits) + i32::from(self.signed)
    }

    /// Distance between two neighbouring values.
    pub fn step(self) -> f64 {
        f64::from(self.log2_step()).exp2()
    }

    /// Smallest integer.
    pub fn qmin(self) -> i32 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }

    /// Largest integer.
    pub fn qmax(self) -> i32 {
        (1 << (self.bits - u8::from(self.signed))) - 1
    }

    /// The nearest integer of the grid, ties to even; beyond its ends, the end. NaN gives 0.
    pub fn quantize(self, value: f64) -> i32 {
        (value / self.step()).round_ties_even().clamp(f64::from(self.qmin()), f64::from(self.qmax())) as i32
    }

    /// Smallest and largest integer that an activation leaves: its limits, rounded to the grid. To clamp there after rounding
    /// is to clamp to the limits before, because rounding keeps the order of values.
    pub fn range_after(self, activation: Activation) -> [i32; 2] {
        activation.range().map(|limit| self.quantize(limit))
    }

    /// The value of an integer of the grid.
    pub fn dequantize(self, q: i32) -> f64 {
        f64::from(q) * self.step()
    }
}

/// A weight threshold `mantissa / 128 * 2^exponent`, on which the chip's eight-bit rescale is exact.
///
/// # Source
/// Read back from compiled networks: the chip keeps `step_in * step_weights / step_out` of each output channel as an
/// eight-bit mantissa and a shift. Other thresholds are silently rounded there, by up to 0.39 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightThreshold {
    mantissa: u8,
    exponent: i32,
}

impl WeightThreshold {
    /// A threshold of the grid.
    ///
    /// # Errors
    /// If the mantissa is below 128 or the exponent outside of -24..=24.
    pub fn new(mantissa: u8, exponent: i32) -> Result<Self, GridError> {
        if mantissa < 128 {
            return Err(GridError::Mantissa { found: mantissa });
        }
        if !EXPONENTS.contains(&exponent) {
            return Err(GridError::Exponent { found: exponent });
        }
        Ok(Self { mantissa, exponent })
    }

    /// The smallest threshold that is not below `bound`; the smallest of all for a bound of 0 (a dead channel).
    ///
    /// # Errors
    /// If `bound` is negative, not finite, or above the largest threshold.
    pub fn at_least(bound: f64) -> Result<Self, GridError> {
        if !bound.is_finite() || bound < 0.0 {
            return Err(GridError::Threshold { expected: "a finite number, 0 or above", found: bound });
        }
        let smallest = Self { mantissa: 128, exponent: *EXPONENTS.start() };
        if bound <= smallest.value() {
            return Ok(smallest);
        }
        // Exact: the bits of a finite f64 hold its exponent, and dividing by a power of two rounds nothing here.
        let exponent = ((bound.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let mantissa = (bound / f64::from(exponent - 7).exp2()).ceil();
        let (mantissa, exponent) = if mantissa > 255.0 { (128, exponent + 1) } else { (mantissa as u8, exponent) };
        Self::new(mantissa, exponent)
            .map_err(|_| GridError::Threshold { expected: "at most 2^24 * 255/128", found: bound })
    }

    /// The smallest threshold for a channel's weights and bias: not below the largest absolute weight, and large enough
    /// for the bias to stay below 2^23 steps of the accumulator (exact in the ONNX file, far from overflow).
    ///
    /// # Errors
    /// As [`WeightThreshold::at_least`].
    pub fn for_channel(
        max_abs_weight: f64,
        bias: f64,
        input: ActivationGrid,
        weight_bits: u8,
    ) -> Result<Self, GridError> {
        let steps = (f64::from(weight_bits) - 1.0).exp2();
        let for_bias = bias.abs() * steps / (input.step() * f64::from(1 << 23));
        Self::at_least(max_abs_weight.max(for_bias))
    }

    /// The threshold of exactly this value.
    ///
    /// # Errors
    /// If the grid does not have it.
    pub fn exactly(value: f64) -> Result<Self, GridError> {
        match Self::at_least(value) {
            Ok(threshold) if threshold.value() == value => Ok(threshold),
            _ => Err(GridError::Threshold { expected: "m/128 * 2^e with m in 128..=255", found: value }),
        }
    }

    /// The eight-bit mantissa, 128..=255.
    pub fn mantissa(self) -> u8 {
        self.mantissa
    }

    /// The exponent.
    pub fn exponent(self) -> i32 {
        self.exponent
    }

    /// The threshold as a number; exact in `f32` too.
    pub fn value(self) -> f64 {
        f64::from(self.mantissa) * f64::from(self.exponent - 7).exp2()
    }

    /// Distance of two neighbouring weights of `weight_bits` bits; exact in `f32` too.
    pub fn step(self, weight_bits: u8) -> f64 {
        self.value() / f64::from(1_u32 << (weight_bits - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activation_grids_end_where_the_quantizer_says() {
        let signed = ActivationGrid::new(8, true, 2).expect("a grid");
        assert_eq!((signed.step(), signed.qmin(), signed.qmax()), (4.0 / 128.0, -128, 127));
        let unsigned = ActivationGrid::new(8, false, 3).expect("a grid");
        assert_eq!((unsigned.step(), unsigned.qmin(), unsigned.qmax()), (8.0 / 256.0, 0, 255));
        let wide = ActivationGrid::new(16, true, 4).expect("a grid");
        assert_eq!((wide.step(), wide.qmin(), wide.qmax()), (16.0 / 32768.0, -32768, 32767));
    }

    #[test]
    fn quantizing_rounds_ties_to_even_and_clips() {
        let grid = ActivationGrid::SIGNED_PIXELS;
        let steps = |value: f64| grid.quantize(value / 128.0);
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(steps), [0, 2, 2, 0, -2]);
        assert_eq!([500.0, -500.0, f64::NAN, f64::INFINITY].map(steps), [127, -128, 0, 127]);
    }

    #[test]
    fn an_activation_clamps_where_rounding_its_limits_ends() {
        let range = |signed, exponent, activation| {
            ActivationGrid::new(8, signed, exponent).expect("a grid").range_after(activation)
        };
        assert_eq!(range(true, 3, Activation::None), [-128, 127]);
        assert_eq!(range(true, 3, Activation::Relu), [0, 127]);
        assert_eq!(range(false, 3, Activation::Relu), [0, 255]);
        // 6 lies beyond a grid that ends at 4, is 192 steps of 1/32, 96 of 1/16, and a tie between 1 and 2 steps of 4.
        assert_eq!([2, 3, 4, 10].map(|exponent| range(false, exponent, Activation::Relu6)[1]), [255, 192, 96, 2]);
        // Rounding first and clamping then is clamping first and rounding then.
        for exponent in -2..=12 {
            let grid = ActivationGrid::new(8, false, exponent).expect("a grid");
            let [low, high] = grid.range_after(Activation::Relu6);
            for value in (-2000..2000).map(|idx| f64::from(idx) * 0.007) {
                assert_eq!(grid.quantize(value).clamp(low, high), grid.quantize(value.clamp(0.0, 6.0)), "{value}");
            }
        }
    }

    #[test]
    fn grids_the_chip_does_not_have_are_refused() {
        assert_eq!(ActivationGrid::new(16, false, 0), Err(GridError::ActivationBits { bits: 16, signed: false }));
        assert_eq!(ActivationGrid::new(4, true, 0), Err(GridError::ActivationBits { bits: 4, signed: true }));
        assert_eq!(ActivationGrid::new(8, true, 25), Err(GridError::Exponent { found: 25 }));
        assert_eq!(WeightThreshold::new(127, 0), Err(GridError::Mantissa { found: 127 }));
        for bound in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(WeightThreshold::at_least(bound).is_err(), "{bound}");
        }
        assert!(WeightThreshold::exactly(1.37).is_err() && WeightThreshold::exactly(0.0).is_err());
    }

    #[test]
    fn thresholds_round_up_to_the_next_of_the_grid() {
        let at_least = |bound| {
            let threshold = WeightThreshold::at_least(bound).expect("in range");
            (threshold.mantissa(), threshold.exponent())
        };
        assert_eq!(at_least(1.0), (128, 0));
        assert_eq!(at_least(1.0 + 1e-12), (129, 0));
        assert_eq!(at_least(255.0 / 128.0), (255, 0));
        assert_eq!(at_least(1.999), (128, 1));
        assert_eq!(at_least(0.3), (154, -2));
        assert_eq!(at_least(0.0), (128, -24));
    }

    #[test]
    fn a_large_bias_raises_the_threshold_of_a_dead_channel() {
        let input = ActivationGrid::SIGNED_PIXELS;
        let threshold = WeightThreshold::for_channel(0.0, 3.0, input, 8).expect("in range");
        let steps = 3.0 / (input.step() * threshold.step(8));
        assert!(steps <= f64::from(1 << 23) && steps > f64::from(1 << 22), "{steps}");
    }
}
