//! `[quantize]`: from floats to the chip's integers.

use std::collections::BTreeMap;

use anyhow::ensure;
use schemars::JsonSchema;
use sensei_graph::layer_graph::{LayerGraph, Op};
use sensei_imx500::memory::MemoryEstimate;
use sensei_quant::calibration::CalibrationConfig;
use sensei_quant::equalize::Equalization;
use sensei_quant::gptq::Rounding;
use sensei_quant::thresholds::ThresholdSearch;
use serde::{Deserialize, Serialize};

/// How the student becomes integers. Activations have 8 bits.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuantizeToml {
    /// Training instances that thresholds are chosen on; at most as many as there are.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub calibration_instances: usize,
    /// How thresholds of activations and weights are chosen.
    pub threshold_search: SearchToml,
    /// Each channel's bias takes up the mean error of its rounded weights.
    pub bias_correction: bool,
    /// What scales are moved by, from a convolution to the one after its ReLU, before anything is rounded.
    pub equalization: EqualizationToml,
    /// How weights become integers.
    pub rounding: RoundingToml,
    /// Bits of the weights of every convolution.
    pub weight_bits: WeightBitsToml,
    /// Bits of the mask logits.
    pub output_bits: OutputBitsToml,
    /// Convolutions with other `weight_bits`, by name: `down1 = 4`. `sensei plan` lists the names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_bits_of: BTreeMap<String, WeightBitsToml>,
    /// Narrows as many convolutions as the memory asks for, those that cost the logits the least first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<WeightBudgetToml>,
}

/// Bits of weights.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("enum" = [8, 4, 2]))]
pub struct WeightBitsToml(u8);

/// Bits of the mask logits.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("enum" = [8, 16]))]
pub struct OutputBitsToml(u8);

/// How thresholds are chosen.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchToml {
    /// Nothing is cut off.
    MinMax,
    /// Smallest mean squared error.
    Mse,
    /// Smallest Kullback-Leibler divergence (TensorRT's search; channels of few weights keep them all).
    Kl,
}

/// What scales between convolutions are chosen by.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EqualizationToml {
    /// No scale is moved.
    None,
    /// Ranges of the weights on both sides become equal.
    Weights,
    /// Channels get the same range over the images, as far as the weights that read them allow.
    Activations,
}

/// How weights become integers.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundingToml {
    /// To the nearest.
    Nearest,
    /// Convolution by convolution so that outputs stay where the float network has them, on up to 128 of the calibration images; biases
    /// too with `bias_correction`.
    Gptq,
}

/// Which convolutions get fewer bits: as many as it takes.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightBudgetToml {
    /// What the chosen ones get.
    pub weight_bits: WeightBitsToml,
    /// What must not be exceeded; refused if all convolutions together do not reach it.
    pub limit: MemoryLimitToml,
}

/// Bytes of the chip's memory, as estimated.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimitToml {
    /// Of weights, biases and rescales.
    CoefficientBytes(u64),
    /// Of everything: with tensors and reserve.
    TotalBytes(u64),
}

/// How the student is quantized.
#[derive(Debug, Clone)]
pub struct QuantizePlan {
    /// Training instances that thresholds are chosen on.
    pub calibration_instances: usize,
    /// How thresholds are chosen.
    pub threshold_search: ThresholdSearch,
    /// Whether biases are corrected for the mean error of the rounded weights.
    pub bias_correction: bool,
    /// What scales between convolutions are chosen by, if they are.
    pub equalization: Option<Equalization>,
    /// How weights become integers.
    pub rounding: Rounding,
    /// Bits of the weights.
    pub weight_bits: u8,
    /// Bits of the weights of single convolutions, by name.
    pub weight_bits_of: BTreeMap<String, u8>,
    /// Bits of the logits.
    pub output_bits: u8,
    /// What the weights may take, if fewer bits are to be chosen by it.
    pub budget: Option<WeightBudget>,
}

/// Which convolutions get fewer bits: as many as it takes.
#[derive(Debug, Clone, Copy)]
pub struct WeightBudget {
    /// The bits they get.
    pub weight_bits: u8,
    /// What must not be exceeded.
    pub limit: MemoryLimit,
}

/// Bytes of the chip's memory, as estimated.
#[derive(Debug, Clone, Copy)]
pub enum MemoryLimit {
    /// Weights, biases and rescales.
    Coefficients(u64),
    /// Everything.
    Total(u64),
}

impl QuantizeToml {
    /// The plan of quantization.
    ///
    /// # Errors
    /// If `weight_bits_of` names what is no convolution of the graph.
    pub fn resolve(self, graph: &LayerGraph) -> anyhow::Result<QuantizePlan> {
        for name in self.weight_bits_of.keys() {
            let is_conv = graph.nodes().iter().any(|node| node.name == *name && matches!(node.op, Op::Conv(_)));
            ensure!(
                is_conv,
                "[quantize.weight_bits_of] {name:?}: expected the name of a convolution (`sensei plan` lists them)"
            );
        }
        Ok(QuantizePlan {
            calibration_instances: self.calibration_instances,
            threshold_search: match self.threshold_search {
                SearchToml::MinMax => ThresholdSearch::MinMax,
                SearchToml::Mse => ThresholdSearch::Mse,
                SearchToml::Kl => ThresholdSearch::Kl,
            },
            bias_correction: self.bias_correction,
            equalization: match self.equalization {
                EqualizationToml::None => None,
                EqualizationToml::Weights => Some(Equalization::Weights),
                EqualizationToml::Activations => Some(Equalization::Activations),
            },
            rounding: match self.rounding {
                RoundingToml::Nearest => Rounding::Nearest,
                RoundingToml::Gptq => Rounding::Gptq,
            },
            weight_bits: self.weight_bits.0,
            weight_bits_of: self.weight_bits_of.into_iter().map(|(name, bits)| (name, bits.0)).collect(),
            output_bits: self.output_bits.0,
            budget: self.budget.map(|budget| WeightBudget {
                weight_bits: budget.weight_bits.0,
                limit: match budget.limit {
                    MemoryLimitToml::CoefficientBytes(limit) => MemoryLimit::Coefficients(limit),
                    MemoryLimitToml::TotalBytes(limit) => MemoryLimit::Total(limit),
                },
            }),
        })
    }
}

impl QuantizePlan {
    /// How grids are chosen.
    pub fn calibration(&self) -> CalibrationConfig {
        CalibrationConfig {
            method: self.threshold_search,
            weight_bits: self.weight_bits,
            weight_bits_of: self.weight_bits_of.clone(),
            output_bits: self.output_bits,
            bias_correction: self.bias_correction,
            rounding: self.rounding,
        }
    }

    /// Bits of a convolution's weights as configured.
    pub fn weight_bits_of(&self, conv: &str) -> u8 {
        self.weight_bits_of.get(conv).copied().unwrap_or(self.weight_bits)
    }
}

impl MemoryLimit {
    /// What counts of an estimate, and its limit.
    pub fn of(self, estimate: &MemoryEstimate) -> (u64, u64) {
        match self {
            Self::Coefficients(limit) => (estimate.coefficients, limit),
            Self::Total(limit) => (estimate.total(), limit),
        }
    }
}
