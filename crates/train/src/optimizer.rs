//! AdamW, clipping by the global norm, and the moving average of the weights.

use burn::tensor::{Tensor, TensorData};
use sensei_student::student::Parameter;

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

    /// The moments, in the order of the parameters.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Moves every parameter one step against its gradient (flat, same order, not tracked).
    ///
    /// # Panics
    /// If the numbers of parameters, gradients and moments differ.
    pub fn step(&mut self, parameters: &mut [Parameter], gradients: Vec<Tensor<1>>, learning_rate: f64) {
        assert_eq!(parameters.len(), gradients.len(), "AdamW: parameters and gradients");
        assert_eq!(parameters.len(), self.moments.len(), "AdamW: parameters and moments");
        self.step += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let correction1 = 1.0 - beta1.powi(self.step as i32);
        let correction2_root = (1.0 - beta2.powi(self.step as i32)).sqrt();
        for ((parameter, moments), gradient) in parameters.iter_mut().zip(&mut self.moments).zip(gradients) {
            let first = moments.first.clone() * beta1 + gradient.clone() * (1.0 - beta1);
            let second = moments.second.clone() * beta2 + gradient.clone() * gradient * (1.0 - beta2);
            let denominator = second.clone().sqrt() / correction2_root + epsilon;
            let decayed = parameter.values.clone().inner() * (1.0 - learning_rate * weight_decay);
            let values = decayed - first.clone() * (learning_rate / correction1) / denominator;
            parameter.values = Tensor::from_inner(values).require_grad();
            *moments = Moments { first, second };
        }
    }
}

/// Scales the gradients so that their global L2 norm is at most `max_norm`, if one is given; returns the norm before.
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`: the factor is `max_norm / (norm + 1e-6)`, at most 1.
pub fn clip_global_norm(gradients: &mut [Tensor<1>], max_norm: Option<f64>) -> f64 {
    let squares = gradients.iter().map(|gradient| (gradient.clone() * gradient.clone()).sum()).collect();
    let norm = host(Tensor::cat(squares, 0)).into_iter().map(f64::from).sum::<f64>().sqrt();
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
            *average = average.clone() * self.decay + parameter.values.clone().inner() * (1.0 - self.decay);
        }
    }
}

/// Values of a flat tensor on the host.
///
/// # Panics
/// If the device cannot give its memory back, or holds another element type: both are faults of the device.
pub fn host(values: Tensor<1>) -> Vec<f32> {
    values.into_data().try_to_vec().expect("a float tensor holds 32-bit floats")
}

/// A flat tensor on `device`.
pub fn flat(values: Vec<f32>, device: &burn::tensor::Device) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
