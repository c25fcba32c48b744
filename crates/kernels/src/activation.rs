//! Elementwise activations after a convolution or a batch norm, and their derivatives.

/// What ends an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The greater of each value and 0.
    Relu,
    /// The same, and the smaller of that and 6.
    Relu6,
}

impl Activation {
    /// Where values are cut off.
    pub(crate) fn limits(self) -> Limits {
        let (low, high) = match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        };
        Limits { low, high }
    }
}

/// The ends of an activation; infinite where it has none. NaN is not cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub low: f32,
    pub high: f32,
}

impl Limits {
    /// The value, cut off.
    #[inline(always)]
    pub(crate) fn clamp(self, value: f32) -> f32 {
        let value = if value < self.low { self.low } else { value };
        if value > self.high { self.high } else { value }
    }

    /// The gradient of a value before or after the activation: 0 where it was cut off, at the ends too.
    #[inline(always)]
    pub(crate) fn gradient(self, value: f32, gradient: f32) -> f32 {
        if value > self.low && value < self.high { gradient } else { 0.0 }
    }
}
