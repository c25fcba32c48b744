//! SAM's prompt encoder: points, boxes and masks as tokens and maps.

use std::f64::consts::TAU;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, module};
use sensei_tensor::layers::{LayerNorm, Linear, Then};
pub use sensei_tensor::prompts::{PointLabel, PromptPoint};

use crate::error::SamError;
use crate::scope::Scope;
use crate::two_way::CHANNELS;

/// The encoder, of SAM or of EfficientSAM.
///
/// # Source
/// facebookresearch/segment-anything `modeling/prompt_encoder.py`; yformer/EfficientSAM `efficient_sam/efficient_sam_decoder.py`.
pub struct PromptEncoder {
    input_size: usize,
    grid: usize,
    /// `[2, channels / 2]`, never trained.
    frequencies: Tensor<2>,
    /// A row for each label, from padding to the lower right corner.
    labels: Tensor<2>,
    /// Whether a point of padding keeps the code of its place, as EfficientSAM's do.
    places_padding: bool,
    /// What EfficientSAM has not.
    masks: Option<MaskEncoder>,
}

/// The part that reads masks.
struct MaskEncoder {
    /// What stands for none.
    none: Tensor<1>,
    /// Two convolutions of 2x2 taps and stride 2, each with its norm.
    convs: [(Tensor<4>, Tensor<1>, LayerNorm); 2],
    /// Then a 1x1 convolution.
    out: Linear,
}

impl PromptEncoder {
    /// SAM's, for images of `input_size` pixels and an embedding of `grid` cells a side.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn sam(input_size: usize, grid: usize, scope: &Scope) -> Result<Self, SamError> {
        let points = scope.at("point_embeddings");
        let row = |scope: &Scope| scope.tensor("weight", [1, CHANNELS]);
        let mut labels = vec![row(&scope.at("not_a_point_embed"))?];
        for label in 0..4 {
            labels.push(row(&points.at(&label.to_string()))?);
        }
        let downscaling = scope.at("mask_downscaling");
        let conv = |idx: usize, ins: usize, outs: usize| -> Result<_, SamError> {
            let at = downscaling.at(&idx.to_string());
            let norm = downscaling.at(&(idx + 1).to_string()).layer_norm(outs, NORM_EPSILON, Then::Gelu)?;
            Ok((at.tensor("weight", [outs, ins, 2, 2])?, at.tensor("bias", [outs])?, norm))
        };
        let last = downscaling.at("6");
        let weight = last.tensor("weight", [CHANNELS, 16, 1, 1])?.reshape([CHANNELS, 16]);
        let frequencies = scope.at("pe_layer").tensor("positional_encoding_gaussian_matrix", [2, CHANNELS / 2])?;
        Ok(Self {
            input_size,
            grid,
            frequencies,
            labels: Tensor::cat(labels, 0),
            places_padding: false,
            masks: Some(MaskEncoder {
                none: row(&scope.at("no_mask_embed"))?.reshape([CHANNELS]),
                convs: [conv(0, 1, 4)?, conv(3, 4, 16)?],
                out: Linear::new(weight, Some(last.tensor("bias", [CHANNELS])?), Then::Nothing),
            }),
        })
    }

    /// EfficientSAM's: it knows no masks, and a point that is not on the object by its place alone.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn efficient_sam(input_size: usize, grid: usize, scope: &Scope) -> Result<Self, SamError> {
        let row = |name: &str| scope.at(name).tensor("weight", [1, CHANNELS]);
        let point = row("point_embeddings")?;
        let labels = vec![
            row("invalid_points")?,
            point.zeros_like(),
            point,
            row("bbox_top_left_embeddings")?,
            row("bbox_bottom_right_embeddings")?,
        ];
        let frequencies = scope.at("pe_layer").tensor("positional_encoding_gaussian_matrix", [2, CHANNELS / 2])?;
        Ok(Self { input_size, grid, frequencies, labels: Tensor::cat(labels, 0), places_padding: true, masks: None })
    }

    /// The tokens of some prompts, `[prompt, point, channels]`.
    ///
    /// # Panics
    /// If there is no prompt, or they have different numbers of points.
    pub fn tokens(&self, prompts: &[Vec<PromptPoint>]) -> Tensor<3> {
        let n_points = prompts.first().expect("a prompt").len();
        assert!(prompts.iter().all(|points| points.len() == n_points), "prompts: numbers of points");
        let rows = prompts.len() * n_points;
        let (mut places, mut labels, mut is_point) = (vec![], vec![0.0f32; rows * N_LABELS], vec![]);
        for (row, point) in prompts.iter().flatten().enumerate() {
            // Half a pixel is added to points and corners, as the published code does.
            places.extend([point.x, point.y].map(|at| (at + 0.5) / self.input_size as f64));
            labels[row * N_LABELS + (point.label as i32 + 1) as usize] = 1.0;
            let has_place = self.places_padding || point.label != PointLabel::Padding;
            is_point.push(if has_place { 1.0f32 } else { 0.0 });
        }
        let device = self.frequencies.device();
        let rows_of = |values: Vec<f32>, columns: usize| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, [rows, columns]), &device)
        };
        let code = self.position_code(&places, &device) * rows_of(is_point, 1);
        let tokens = code + rows_of(labels, N_LABELS).matmul(self.labels.clone());
        tokens.reshape([prompts.len(), n_points, CHANNELS])
    }

    /// The position code of the embedding's cells, `[1, cell, channels]`.
    pub fn grid_positions(&self) -> Tensor<3> {
        let cell = |idx: usize| (idx as f64 + 0.5) / self.grid as f64;
        let places: Vec<f64> =
            (0..self.grid * self.grid).flat_map(|at| [cell(at % self.grid), cell(at / self.grid)]).collect();
        let code = self.position_code(&places, &self.frequencies.device());
        code.reshape([1, self.grid * self.grid, CHANNELS])
    }

    /// What is added to the embedding where no mask is given, `[channels]`; nothing by EfficientSAM.
    pub fn no_mask(&self) -> Option<Tensor<1>> {
        self.masks.as_ref().map(|masks| masks.none.clone())
    }

    /// What is added to the embedding where mask logits are given, `[prompt, 4 * grid, 4 * grid]`: `[prompt, cell, channels]`.
    ///
    /// # Panics
    /// If the masks are of another size, or the network is EfficientSAM, which takes none.
    pub fn masks(&self, logits: Tensor<3>) -> Tensor<3> {
        let [prompts, height, width] = logits.dims();
        assert_eq!([height, width], [4 * self.grid; 2], "prompts: sides of a mask");
        let masks = self.masks.as_ref().expect("a network that takes masks as prompts");
        let mut x: Tensor<4> = logits.reshape([prompts, 1, height, width]);
        for (weight, bias, norm) in &masks.convs {
            let options = ConvOptions::new([2, 2], [0, 0], [1, 1], 1);
            let map = module::conv2d(x, weight.clone(), Some(bias.clone()), options).permute([0, 2, 3, 1]);
            x = norm.forward(map).permute([0, 3, 1, 2]);
        }
        let map = masks.out.forward(x.permute([0, 2, 3, 1]));
        map.reshape([prompts, self.grid * self.grid, CHANNELS])
    }

    /// Sine and cosine of places in 0 to 1, two for each row.
    fn position_code(&self, places: &[f64], device: &Device) -> Tensor<2> {
        let centred: Vec<f32> = places.iter().map(|at| (2.0 * at - 1.0) as f32).collect();
        let centred: Tensor<2> = Tensor::from_data(TensorData::new(centred, [places.len() / 2, 2]), device);
        let angles = centred.matmul(self.frequencies.clone()) * TAU;
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
    }
}

/// Labels of points, from -1 on.
const N_LABELS: usize = 5;

/// Of the norms between the convolutions of a mask.
const NORM_EPSILON: f64 = 1e-6;
