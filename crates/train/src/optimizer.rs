//! AdamW, clipping by the global norm, and the moving average of the weights.

use burn::tensor::{Tensor, TensorData};
use sensei_tensor::network::Parameter;
use sensei_tensor::ops::{self, AdamWConstants};

/// AdamW's constants; PyTorch's defaults are 0.9, 0.999, 1e-8, 1e-2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, of every trained tensor, batch norm and biases included, as PyTorch does by default.
    pub weight_decay: f64,
}

/// AdamW with its state, one pair of moments per parameter.
///
/// # Source
/// Loshchilov and Hutter 2019, algorithm 2; the order of operations is `torch.optim.AdamW`'s.
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    moments: Vec<Moments>,
}

/// First and second moment of one parameter, flat.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Moving mean of the gradient.
    pub first: Tensor<1>,
    /// Moving mean of the squared gradient.
    pub second: Tensor<1>,
}

impl AdamW {
    /// Starts with zero moments.
    pub fn new(config: AdamWConfig, parameters: &[Parameter]) -> Self {
        let zeros = |parameter: &Parameter| parameter.values.clone().inner().zeros_like();
        let moments = parameters.iter().map(|p| Moments { first: zeros(p), second: zeros(p) }).collect();
        Self { config, step: 0, moments }
    }

    /// Goes on from saved moments after `step` steps.
    ///
    /// # Panics
    /// If there are not as many moments as the optimiser is later given parameters; checkpoints check that.
    pub fn resume(config: AdamWConfig, step: u64, moments: Vec<Moments>) -> Self {
        Self { config, step, moments }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The moments, in the order of the parameters.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Moves every parameter one step against its gradient (flat, same order, not tracked); `learning_rate` is that of a parameter's
    /// name.
    ///
    /// # Panics
    /// If the numbers of parameters, gradients and moments differ.
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: Vec<Tensor<1>>,
        learning_rate: impl Fn(&str) -> f64,
    ) {
        assert_eq!(parameters.len(), gradients.len(), "AdamW: parameters and gradients");
        assert_eq!(parameters.len(), self.moments.len(), "AdamW: parameters and moments");
        self.step += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        for ((parameter, moments), gradient) in parameters.iter_mut().zip(&mut self.moments).zip(gradients) {
            let learning_rate = learning_rate(&parameter.name);
            let constants = AdamWConstants { learning_rate, beta1, beta2, epsilon, weight_decay };
            // Taken out of their places, so that a device may work in place.
            let empty = || Tensor::empty([0], &gradient.device());
            let values = std::mem::replace(&mut parameter.values, empty()).inner();
            let before = std::mem::replace(moments, Moments { first: empty(), second: empty() });
            let (values, [first, second]) =
                ops::adamw_step(&constants, self.step, values, gradient, [before.first, before.second]);
            parameter.values = Tensor::from_inner(values).require_grad();
            *moments = Moments { first, second };
        }
    }
}

/// Scales the gradients so that their global L2 norm is at most `max_norm`, if one is given; returns the norm before,
/// which is infinite if its square is past 32 bits.
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`: the factor is `max_norm / (norm + 1e-6)`, at most 1.
pub fn clip_global_norm(gradients: &mut [Tensor<1>], max_norm: Option<f64>) -> f64 {
    let squares = ops::sum_of_squares(gradients);
    // Where 32 bits cannot hold the square, AdamW's second moment cannot either.
    let norm = if squares > f64::from(f32::MAX) { f64::INFINITY } else { squares.sqrt() };
    if let Some(max_norm) = max_norm {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            for gradient in gradients {
                *gradient = gradient.clone() * factor;
            }
        }
    }
    norm
}

/// Exponential moving average of the trained values.
pub struct Ema {
    decay: f64,
    averages: Vec<Tensor<1>>,
}

impl Ema {
    /// Starts at the parameters.
    pub fn new(decay: f64, parameters: &[Parameter]) -> Self {
        Self { decay, averages: parameters.iter().map(|p| p.values.clone().inner()).collect() }
    }

    /// Goes on from saved averages.
    pub fn resume(decay: f64, averages: Vec<Tensor<1>>) -> Self {
        Self { decay, averages }
    }

    /// The averages, in the order of the parameters.
    pub fn averages(&self) -> &[Tensor<1>] {
        &self.averages
    }

    /// `average = decay * average + (1 - decay) * parameter`.
    pub fn update(&mut self, parameters: &[Parameter]) {
        for (average, parameter) in self.averages.iter_mut().zip(parameters) {
            let before = std::mem::replace(average, Tensor::empty([0], &average.device()));
            *average = ops::moving_average(before, parameter.values.clone().inner(), self.decay);
        }
    }
}

/// A flat tensor on `device`.
pub fn flat(values: Vec<f32>, device: &burn::tensor::Device) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

#[cfg(test)]
mod tests {
    use sensei_tensor::network::host_values;

    use super::*;
    use burn::tensor::Device;
    use sensei_testing::{Tolerance, assert_close};

    /// One rounding of a 32-bit float.
    const ROUNDED: Tolerance = Tolerance { absolute: 0.0, relative: 1.2e-7 };

    fn tensor(values: &[f32]) -> Tensor<1> {
        flat(values.to_vec(), &Device::flex())
    }

    fn parameter(values: &[f32]) -> Parameter {
        let leaf = flat(values.to_vec(), &Device::flex().autodiff()).require_grad();
        Parameter { name: "x".into(), shape: vec![values.len()], values: leaf }
    }

    #[test]
    fn norm_is_over_all_tensors_and_larger_ones_are_scaled_to_the_bound() {
        // 3-4-12 and 84: the norm is 85.
        let gradients = || vec![tensor(&[3.0, -4.0]), tensor(&[12.0]), tensor(&[84.0])];
        let check = |max_norm: Option<f64>, factor: f32| {
            let mut clipped = gradients();
            assert_eq!(clip_global_norm(&mut clipped, max_norm), 85.0);
            let clipped: Vec<f32> = clipped.into_iter().flat_map(|tensor| host_values(&tensor)).collect();
            let expected = [3.0, -4.0, 12.0, 84.0].map(|value: f32| value * factor);
            assert_close("clipped", &clipped, &expected, Tolerance { absolute: 0.0, relative: 2e-7 });
        };
        check(None, 1.0);
        check(Some(1e6), 1.0);
        check(Some(85.0), 1.0);
        check(Some(17.0), 0.2);
        check(Some(0.85), 0.01);
    }

    #[test]
    fn zero_gradient_stays_zero() {
        let mut gradients = vec![tensor(&[0.0, 0.0])];
        assert_eq!(clip_global_norm(&mut gradients, Some(1e-6)), 0.0);
        assert_eq!(host_values(&gradients.remove(0)), [0.0, 0.0]);
    }

    #[test]
    fn one_nan_makes_the_norm_nan() {
        let mut gradients = vec![tensor(&[1.0]), tensor(&[f32::NAN, 1.0])];
        assert!(clip_global_norm(&mut gradients, Some(1.0)).is_nan());
    }

    #[test]
    fn average_moves_by_its_share_of_the_difference() {
        let mut ema = Ema::new(0.75, &[parameter(&[1.0, -8.0])]);
        assert_eq!(host_values(&ema.averages()[0]), [1.0, -8.0]);
        ema.update(&[parameter(&[5.0, 0.0])]);
        assert_eq!(host_values(&ema.averages()[0]), [2.0, -6.0]);
        ema.update(&[parameter(&[-2.0, 2.0])]);
        assert_eq!(host_values(&ema.averages()[0]), [1.0, -4.0]);
    }

    #[test]
    fn first_steps_are_those_computed_by_hand() {
        let config = AdamWConfig { beta1: 0.5, beta2: 0.75, epsilon: 1.0, weight_decay: 0.5 };
        let mut parameters = [parameter(&[2.0, -1.0])];
        let mut adamw = AdamW::new(config, &parameters);
        // m = 2, v = 4; both corrected: 4 and 16; decay 1 - 0.1 * 0.5: 2 * 0.95 - 0.1 * 4 / (4 + 1).
        adamw.step(&mut parameters, vec![tensor(&[4.0, 0.0])], |_| 0.1);
        assert_close("step 1", &host_values(&parameters[0].values), &[1.82, -0.95], ROUNDED);
        // m = 1, v = 3; corrected by 0.75 and 0.4375: 4 / 3 and root 2.618615: 1.82 * 0.95 - 0.1 * (4 / 3) / 3.618615.
        adamw.step(&mut parameters, vec![tensor(&[0.0, 0.0])], |_| 0.1);
        assert_close("step 2", &host_values(&parameters[0].values), &[1.692_153_6, -0.9025], ROUNDED);
        assert!(parameters[0].values.is_require_grad(), "the new values are leaves of the next step");
    }
}
