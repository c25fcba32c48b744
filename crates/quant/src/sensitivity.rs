//! What fewer bits for one convolution's weights cost, and which convolutions to take them from.

use std::collections::BTreeMap;
use std::fmt::Write;

use burn::tensor::Tensor;
use sensei_tensor::ops;

use crate::calibration::{Calibration, CalibrationConfig, calibrate_unless, go_on};
use crate::compare::decibels;
use crate::error::QuantError;
use crate::fake_quant::FakeQuantStudent;
use crate::folded::{FoldedStudent, host_values};
use crate::gptq::Rounding;
use crate::lower::lower;

/// How far a quantized network's logits are from the float network's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitError {
    /// Mean squared difference.
    pub noise: f64,
    /// Power of the float logits over that of the difference, in decibels.
    pub sqnr_db: f64,
    /// Mean over images of the IoU of the two networks' masks (logits above 0); two empty masks agree.
    pub mask_agreement: f64,
}

/// One convolution at few bits, all others as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvSensitivity {
    /// The node's name.
    pub name: String,
    /// Its bits as configured.
    pub weight_bits: u8,
    /// What the network's logits become.
    pub error: LogitError,
    /// Bytes of the chip's memory that it saves.
    pub bytes_saved: u64,
}

/// All convolutions that have more bits than the narrow width, in the order of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct SensitivityReport {
    /// The width that each is tried at.
    pub narrow_bits: u8,
    /// Nothing narrowed.
    pub base: LogitError,
    /// Each narrowed alone.
    pub convs: Vec<ConvSensitivity>,
    /// Images of the comparison.
    pub n_images: usize,
}

impl ConvSensitivity {
    /// What it adds to the logits' mean squared error for each byte that it saves.
    pub fn cost_per_byte(&self, base: &LogitError) -> f64 {
        (self.error.noise - base.noise).max(0.0) / self.bytes_saved as f64
    }
}

impl SensitivityReport {
    /// A table to print, one line per convolution.
    pub fn table(&self) -> String {
        let LogitError { noise, sqnr_db, mask_agreement } = self.base;
        let mut table = format!(
            "weights of one convolution at {} bits, {} images; as configured: SQNR {sqnr_db:.2} dB, mask agreement \
             {mask_agreement:.4}, noise {noise:.3e}\n{:<20} {:>4} {:>8} {:>9} {:>10} {:>8} {:>11}\n",
            self.narrow_bits, self.n_images, "layer", "bits", "SQNR dB", "agreement", "noise +", "bytes -", "per byte"
        );
        for conv in &self.convs {
            let LogitError { noise, sqnr_db, mask_agreement } = conv.error;
            let _ = writeln!(
                table,
                "{:<20} {:>4} {sqnr_db:>8.2} {mask_agreement:>9.4} {:>10.3e} {:>8} {:>11.3e}",
                conv.name,
                conv.weight_bits,
                noise - self.base.noise,
                conv.bytes_saved,
                conv.cost_per_byte(&self.base),
            );
        }
        table
    }

    /// The convolutions to narrow so that `bytes`, of their names, is at most `limit`.
    ///
    /// Greedy by [`cost_per_byte`](ConvSensitivity::cost_per_byte), the errors taken to add up; of those chosen, the most
    /// harmful that turn out not to be needed are left as they are.
    ///
    /// # Errors
    /// If all together are not enough.
    pub fn choose(&self, limit: u64, bytes: impl Fn(&[&str]) -> u64) -> Result<Vec<String>, QuantError> {
        let mut by_cost: Vec<&ConvSensitivity> = self.convs.iter().filter(|conv| conv.bytes_saved > 0).collect();
        by_cost.sort_by(|a, b| a.cost_per_byte(&self.base).total_cmp(&b.cost_per_byte(&self.base)));
        let mut chosen: Vec<&ConvSensitivity> = vec![];
        let names =
            |convs: &[&ConvSensitivity]| bytes(&convs.iter().map(|conv| conv.name.as_str()).collect::<Vec<_>>());
        for conv in by_cost {
            if names(&chosen) <= limit {
                break;
            }
            chosen.push(conv);
        }
        let reached = names(&chosen);
        if reached > limit {
            return Err(QuantError::Budget { limit, reached, bits: self.narrow_bits });
        }
        let mut by_harm = chosen.clone();
        by_harm.sort_by(|a, b| b.error.noise.total_cmp(&a.error.noise));
        for conv in by_harm {
            let without: Vec<&ConvSensitivity> = chosen.iter().copied().filter(|kept| kept.name != conv.name).collect();
            if names(&without) <= limit {
                chosen = without;
            }
        }
        Ok(chosen.into_iter().map(|conv| conv.name.clone()).collect())
    }
}

/// Quantizes the network once for every convolution whose weights have more than `narrow_bits`, with that one narrowed.
///
/// `bytes_saved` is what narrowing the convolution of a name saves of the chip's memory.
///
/// Weights are rounded to the nearest, whatever `config` says: other roundings make layers depend on each other.
///
/// # Shapes
/// - `batches`: each `[batch, 3, height, width]`, values `(pixel - 128) / 128`; all calibrate, the first of them, up to
///   64 images, are compared
/// # Errors
/// As [`calibrate_unless`] and [`lower`].
pub fn sensitivity(
    student: &FoldedStudent,
    batches: &[Tensor<4>],
    config: &CalibrationConfig,
    narrow_bits: u8,
    bytes_saved: impl Fn(&str) -> u64,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<SensitivityReport, QuantError> {
    let graph = student.graph();
    let config = CalibrationConfig { rounding: Rounding::Nearest, ..config.clone() };
    let wide = calibrate_unless(student, batches, &config, is_interrupted)?;
    let narrow = CalibrationConfig { weight_bits: narrow_bits, weight_bits_of: BTreeMap::new(), ..config.clone() };
    let narrow = calibrate_unless(student, batches, &narrow, is_interrupted)?;

    let mut n_images = 0;
    let enough = |batch: &&Tensor<4>| {
        let wanted = n_images < MAX_IMAGES;
        n_images += if wanted { batch.dims()[0] } else { 0 };
        wanted
    };
    let compared: Vec<&Tensor<4>> = batches.iter().take_while(enough).collect();
    let logits =
        |batch: &&Tensor<4>| host_values(ops::to_internal(student.forward((*batch).clone(), |_, output| output)));
    let float: Vec<Vec<f32>> = compared.iter().map(logits).collect();
    let error = |calibration: &Calibration| {
        let quantized = FakeQuantStudent::new(graph, lower(student, calibration, "sensitivity")?, student.device())?;
        let fake = compared.iter().map(|batch| host_values(ops::to_internal(quantized.forward((*batch).clone()))));
        Ok::<_, QuantError>(logit_error(&float, &fake.collect::<Vec<_>>(), graph.input_size().pow(2)))
    };

    let mut report = SensitivityReport { narrow_bits, base: error(&wide)?, convs: vec![], n_images };
    for (idx, node) in graph.nodes().iter().enumerate() {
        let weight_bits = config.weight_bits_of(&node.name);
        if node.op.conv().is_none() || weight_bits <= narrow_bits {
            continue;
        }
        go_on(is_interrupted)?;
        let mut one = wide.clone();
        one.convs.insert(idx, narrow.convs[&idx].clone());
        report.convs.push(ConvSensitivity {
            name: node.name.clone(),
            weight_bits,
            error: error(&one)?,
            bytes_saved: bytes_saved(&node.name),
        });
    }
    Ok(report)
}

/// `[batch][pixel]` against the same, with `n_pixels` an image.
fn logit_error(float: &[Vec<f32>], fake: &[Vec<f32>], n_pixels: usize) -> LogitError {
    let (mut signal, mut noise, mut agreement, mut n_images) = (0.0, 0.0, 0.0, 0.0);
    let images = |batches: &[Vec<f32>]| {
        batches.iter().flat_map(|batch| batch.chunks_exact(n_pixels)).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    for (float, fake) in images(float).iter().zip(&images(fake)) {
        let (mut both, mut either) = (0_u32, 0_u32);
        for (&float, &fake) in float.iter().zip(fake) {
            signal += f64::from(float).powi(2);
            noise += (f64::from(float) - f64::from(fake)).powi(2);
            both += u32::from(float > 0.0 && fake > 0.0);
            either += u32::from(float > 0.0 || fake > 0.0);
        }
        agreement += if either == 0 { 1.0 } else { f64::from(both) / f64::from(either) };
        n_images += 1.0;
    }
    LogitError {
        noise: noise / (n_images * n_pixels as f64),
        sqnr_db: decibels(signal, noise),
        mask_agreement: agreement / n_images,
    }
}

/// Images of the comparison, whatever the calibration has.
const MAX_IMAGES: usize = 64;
