//! One pass of AdamW over flat parameters, their moving average, and the norm of gradients.

use rayon::prelude::*;

use crate::instruction_set::{InstructionSet, for_each_instruction_set};
use crate::tiling::{TASKS_PER_THREAD, chunk_len};

/// Constants of [`adamw_step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight of the old first moment, the mean of gradients.
    pub beta1: f64,
    /// Weight of the old second moment, the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay, as a share of the parameter per unit of learning rate.
    pub weight_decay: f64,
}

/// Updates `parameters` and both moments in place. `step` counts from 1. With gradient `g` and learning rate `r`:
///
/// ```text
/// m = beta1 * m + (1 - beta1) * g              m^ = m / (1 - beta1^step)
/// v = beta2 * v + (1 - beta2) * g^2            v^ = v / (1 - beta2^step)
/// p = (1 - r * weight_decay) * p - r * m^ / (sqrt(v^) + epsilon)
/// ```
///
/// # Panics
/// If the lengths differ or `step` is 0.
///
/// # Source
/// Decoupled weight decay, arXiv 1711.05101, as `torch.optim.AdamW`: the epsilon is added after the bias correction.
pub fn adamw_step(
    config: &AdamW,
    step: u64,
    parameters: &mut [f32],
    gradients: &[f32],
    first_moments: &mut [f32],
    second_moments: &mut [f32],
) {
    assert!(step > 0, "adamw_step: steps count from 1");
    let len = parameters.len();
    let lens = [gradients.len(), first_moments.len(), second_moments.len()];
    assert_eq!(lens, [len; 3], "adamw_step: gradients, moments and parameters");
    let exponent = i32::try_from(step).unwrap_or(i32::MAX);
    let constants = Constants {
        decay: (1.0 - config.learning_rate * config.weight_decay) as f32,
        step_size: (config.learning_rate / (1.0 - config.beta1.powi(exponent))) as f32,
        inverse_root: (1.0 / (1.0 - config.beta2.powi(exponent)).sqrt()) as f32,
        beta1: config.beta1 as f32,
        beta2: config.beta2 as f32,
        new1: (1.0 - config.beta1) as f32,
        new2: (1.0 - config.beta2) as f32,
        epsilon: config.epsilon as f32,
    };
    let (isa, chunk) = (InstructionSet::detect(), chunk_len(len, TASKS_PER_THREAD, MIN_CHUNK));
    let moments = first_moments.par_chunks_mut(chunk).zip(second_moments.par_chunks_mut(chunk));
    parameters.par_chunks_mut(chunk).zip(gradients.par_chunks(chunk)).zip(moments).for_each(
        |((parameters, gradients), (first, second))| update(isa, &constants, parameters, gradients, first, second),
    );
}

/// Replaces `average` by `decay * average + (1 - decay) * values`.
///
/// # Panics
/// If the lengths differ.
pub fn moving_average(average: &mut [f32], values: &[f32], decay: f64) {
    assert_eq!(average.len(), values.len(), "moving_average: lengths");
    let (decay, new) = (decay as f32, (1.0 - decay) as f32);
    let chunk = chunk_len(average.len(), TASKS_PER_THREAD, MIN_CHUNK);
    average.par_chunks_mut(chunk).zip(values.par_chunks(chunk)).for_each(|(average, values)| {
        average.iter_mut().zip(values).for_each(|(average, value)| *average = *average * decay + value * new);
    });
}

/// Sum of the squares: the root of this is the norm that gradients are clipped by.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let chunk = chunk_len(values.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let sums: Vec<f64> = values
        .par_chunks(chunk)
        .map(|values| {
            let mut lanes = [0.0f64; 8];
            for values in values.chunks(8) {
                lanes.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*value));
            }
            lanes.iter().sum()
        })
        .collect();
    sums.iter().sum()
}

struct Constants {
    decay: f32,
    step_size: f32,
    inverse_root: f32,
    beta1: f32,
    beta2: f32,
    new1: f32,
    new2: f32,
    epsilon: f32,
}

for_each_instruction_set! {
    fn update(
        constants: &Constants,
        parameters: &mut [f32],
        gradients: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) = update_body
}

#[inline(always)]
fn update_body<const FUSED: bool, const LANES: usize>(
    constants: &Constants,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let c = constants;
    for (((parameter, gradient), first), second) in parameters.iter_mut().zip(gradients).zip(first).zip(second) {
        *first = c.beta1 * *first + c.new1 * gradient;
        *second = c.beta2 * *second + c.new2 * gradient * gradient;
        let denominator = second.sqrt() * c.inverse_root + c.epsilon;
        *parameter = *parameter * c.decay - c.step_size * *first / denominator;
    }
}

/// Values below which a task costs more than it saves.
const MIN_CHUNK: usize = 16384;
