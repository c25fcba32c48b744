//! Mean and covariance of a few channels, in 64 bits: there, products of two single-precision values are exact.

use super::MAX_INPUTS;

/// Mean and covariance of the 1x1 convolution's inputs.
pub(super) struct InputMoments {
    pub mean: [f64; MAX_INPUTS],
    covariance: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

impl InputMoments {
    /// A row of the weight times the covariance.
    pub(super) fn times_covariance(&self, row: &[f32]) -> [f64; MAX_INPUTS] {
        let product = |covariances: [f64; MAX_INPUTS]| {
            row.iter().zip(covariances).map(|(weight, covariance)| f64::from(*weight) * covariance).sum()
        };
        self.covariance.map(product)
    }
}

/// Sums of the inputs, and of products of two of them, of which the first is not before the second.
#[derive(Default)]
pub(super) struct MomentSums {
    values: [f64; MAX_INPUTS],
    products: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

impl MomentSums {
    /// Adds whole pixels.
    pub(super) fn add<const INPUTS: usize>(&mut self, values: &[f32]) {
        for pixel in values.as_chunks::<INPUTS>().0 {
            let pixel = pixel.map(f64::from);
            for a in 0..INPUTS {
                self.values[a] += pixel[a];
                for b in 0..=a {
                    self.products[a][b] += pixel[a] * pixel[b];
                }
            }
        }
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for a in 0..MAX_INPUTS {
            self.values[a] += other.values[a];
            for b in 0..=a {
                self.products[a][b] += other.products[a][b];
            }
        }
    }

    pub(super) fn moments(&self, n_pixels: usize) -> InputMoments {
        let n_pixels = n_pixels as f64;
        let mean = self.values.map(|sum| sum / n_pixels);
        let mut covariance = [[0.0; MAX_INPUTS]; MAX_INPUTS];
        for a in 0..MAX_INPUTS {
            for b in 0..=a {
                covariance[a][b] = self.products[a][b] / n_pixels - mean[a] * mean[b];
                covariance[b][a] = covariance[a][b];
            }
        }
        InputMoments { mean, covariance }
    }
}
