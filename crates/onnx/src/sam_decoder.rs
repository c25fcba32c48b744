//! SAM's prompt encoder and mask decoder, with the inputs and outputs of its official exports.

use std::collections::BTreeMap;
use std::f32::consts::TAU;

use crate::builder::{GraphBuilder, Length, NamedValues, OnnxTensorError, int, ints, text};
use crate::layers::{self, channel_norm, gelu, layer_norm, linear};

/// The ONNX file of SAM's decoder from tensors under their published names, for images of `side` pixels and an embedding of `grid` cells.
///
/// # Inputs
/// - `image_embeddings`: `[1, 256, grid, grid]`
/// - `point_coords`: `[1, points, 2]`, in pixels of the square; `point_labels`: `[1, points]`: -1 padding, 0 background, 1 foreground, 2 and 3 a
///   box's corners
/// - `mask_input`: `[1, 1, 4 * grid, 4 * grid]`, logits; `has_mask_input`: `[1]`, 1 if they count
/// - `orig_im_size`: `[2]`, height and width of the image
///
/// # Outputs
/// - `masks`: `[1, 1, height, width]`, logits in the image; `iou_predictions`: `[1, 1]`; `low_res_masks`: `[1, 1, 4 * grid, 4 * grid]`
///
/// Of the four masks one is chosen: the first token's for three points and more, padding counted, else the best of the three others.
///
/// # Source
/// facebookresearch/segment-anything `utils/onnx.py`: `SamOnnxModel` with `return_single_mask`.
///
/// # Errors
/// If a tensor is missing or of another shape.
pub fn sam_decoder(
    tensors: &NamedValues,
    side: usize,
    grid: usize,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, OnnxTensorError> {
    let mut decoder = Decoder { g: GraphBuilder::default(), tensors, side, grid };
    let mask_side = Length::Fixed(4 * grid);
    let one = Length::Fixed(1);
    let g = &mut decoder.g;
    let embedding =
        g.input("image_embeddings", &[one, Length::Fixed(CHANNELS), Length::Fixed(grid), Length::Fixed(grid)]);
    let points = g.input("point_coords", &[one, Length::Named("num_points"), Length::Fixed(2)]);
    let labels = g.input("point_labels", &[one, Length::Named("num_points")]);
    let mask_input = g.input("mask_input", &[one, one, mask_side, mask_side]);
    let has_mask = g.input("has_mask_input", &[one]);
    let image_size = g.input("orig_im_size", &[Length::Fixed(2)]);

    let prompt = decoder.prompt_tokens(&points, &labels)?;
    let dense = decoder.dense_prompt(&mask_input, &has_mask)?;
    let image = decoder.g.node("Add", &[&embedding, &dense]);
    let image = decoder.cells(&image);
    let (tokens, image) = decoder.transformer(&prompt, &image)?;
    let (masks, scores) = decoder.masks(&tokens, &image)?;
    let (low_res, score) = decoder.chosen(&masks, &scores, &points);
    let full = decoder.in_image(&low_res, &image_size);

    let g = &mut decoder.g;
    g.output("masks", &full, &[one, one, Length::Named("height"), Length::Named("width")]);
    g.output("iou_predictions", &score, &[one, one]);
    g.output("low_res_masks", &low_res, &[one, one, mask_side, mask_side]);
    Ok(decoder.g.finish("sam_decoder", metadata))
}

const CHANNELS: usize = 256;
const HEADS: usize = 8;
const CROSS_CHANNELS: usize = 128;
const MLP_CHANNELS: usize = 2048;
const N_MASKS: usize = 4;
const VECTOR_CHANNELS: usize = 32;

struct Decoder<'a> {
    g: GraphBuilder,
    tensors: &'a NamedValues,
    side: usize,
    grid: usize,
}

type Value = Result<String, OnnxTensorError>;

impl Decoder<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Value {
        self.g.tensor(self.tensors, name, shape)
    }

    /// Sine and cosine of places in 0 to 1, `[1, n, 2]`.
    fn position_code(&mut self, places: &str) -> Value {
        let frequencies =
            self.tensor("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", &[2, CHANNELS / 2])?;
        let (two, one, tau) = (self.g.float(2.0), self.g.float(1.0), self.g.float(TAU));
        let doubled = self.g.node("Mul", &[places, &two]);
        let centred = self.g.node("Sub", &[&doubled, &one]);
        let angles = self.g.node("MatMul", &[&centred, &frequencies]);
        let angles = self.g.node("Mul", &[&angles, &tau]);
        let (sine, cosine) = (self.g.node("Sin", &[&angles]), self.g.node("Cos", &[&angles]));
        Ok(self.g.concat(&[&sine, &cosine], 2))
    }

    /// `[1, points, channels]`.
    fn prompt_tokens(&mut self, points: &str, labels: &str) -> Value {
        let (half, side) = (self.g.float(0.5), self.g.float(self.side as f32));
        let shifted = self.g.node("Add", &[points, &half]);
        let places = self.g.node("Div", &[&shifted, &side]);
        let code = self.position_code(&places)?;
        let labels = self.g.reshape(labels, &[1, -1, 1]);
        let is = |g: &mut GraphBuilder, label: f32| {
            let label = g.float(label);
            let equal = g.node("Equal", &[&labels, &label]);
            g.node_with("Cast", &[&equal], vec![int("to", 1)])
        };
        let is_padding = is(&mut self.g, -1.0);
        let one = self.g.float(1.0);
        let is_point = self.g.node("Sub", &[&one, &is_padding]);
        let mut tokens = self.g.node("Mul", &[&code, &is_point]);
        let names = (0..4).map(|label| format!("prompt_encoder.point_embeddings.{label}.weight"));
        let names = std::iter::once("prompt_encoder.not_a_point_embed.weight".to_string()).chain(names);
        for (label, name) in (-1i8..).zip(names) {
            let (of_label, row) = (is(&mut self.g, f32::from(label)), self.tensor(&name, &[1, CHANNELS])?);
            let weighed = self.g.node("Mul", &[&of_label, &row]);
            tokens = self.g.node("Add", &[&tokens, &weighed]);
        }
        Ok(tokens)
    }

    /// What a mask, or none, adds to the embedding.
    fn dense_prompt(&mut self, mask: &str, has_mask: &str) -> Value {
        let name = |idx: usize, part: &str| format!("prompt_encoder.mask_downscaling.{idx}.{part}");
        let mut map = mask.to_string();
        for (idx, ins, outs, taps) in [(0, 1, 4, 2), (3, 4, 16, 2), (6, 16, CHANNELS, 1)] {
            let weight = self.tensor(&name(idx, "weight"), &[outs, ins, taps, taps])?;
            let bias = self.tensor(&name(idx, "bias"), &[outs])?;
            let strides = vec![ints("strides", &[taps as i64; 2])];
            map = self.g.node_with("Conv", &[&map, &weight, &bias], strides);
            if idx < 6 {
                map = self.channel_norm(&map, &format!("prompt_encoder.mask_downscaling.{}", idx + 1), outs)?;
                map = self.gelu(&map);
            }
        }
        let none = self.tensor("prompt_encoder.no_mask_embed.weight", &[1, CHANNELS])?;
        let none = self.g.reshape(&none, &[1, CHANNELS as i64, 1, 1]);
        let (has, one) = (self.g.reshape(has_mask, &[1, 1, 1, 1]), self.g.float(1.0));
        let has_none = self.g.node("Sub", &[&one, &has]);
        let (given, not_given) = (self.g.node("Mul", &[&map, &has]), self.g.node("Mul", &[&none, &has_none]));
        Ok(self.g.node("Add", &[&given, &not_given]))
    }

    /// A map `[1, channels, height, width]` as `[1, cell, channels]`.
    fn cells(&mut self, map: &str) -> String {
        let flat = self.g.reshape(map, &[1, CHANNELS as i64, -1]);
        self.g.transpose(&flat, &[0, 2, 1])
    }

    fn transformer(&mut self, prompt: &str, image: &str) -> Result<(String, String), OnnxTensorError> {
        let iou = self.tensor("mask_decoder.iou_token.weight", &[1, CHANNELS])?;
        let own = self.tensor("mask_decoder.mask_tokens.weight", &[N_MASKS, CHANNELS])?;
        let own = self.g.concat(&[&iou, &own], 0);
        let own = self.g.reshape(&own, &[1, 1 + N_MASKS as i64, CHANNELS as i64]);
        let prompt = self.g.concat(&[&own, prompt], 1);
        let positions = self.grid_positions()?;
        let (mut tokens, mut image) = (prompt.clone(), image.to_string());
        for idx in 0..2 {
            let name = |part: &str| format!("mask_decoder.transformer.layers.{idx}.{part}");
            // The first block's self-attention takes the tokens' place, without positions.
            tokens = if idx == 0 {
                self.attention(&name("self_attn"), CHANNELS, [&tokens, &tokens, &tokens])?
            } else {
                let placed = self.g.node("Add", &[&tokens, &prompt]);
                let attended = self.attention(&name("self_attn"), CHANNELS, [&placed, &placed, &tokens])?;
                self.g.node("Add", &[&tokens, &attended])
            };
            tokens = self.layer_norm(&tokens, &name("norm1"), CHANNELS, 1e-5)?;
            let (queries, keys) = (self.g.node("Add", &[&tokens, &prompt]), self.g.node("Add", &[&image, &positions]));
            let attended =
                self.attention(&name("cross_attn_token_to_image"), CROSS_CHANNELS, [&queries, &keys, &image])?;
            tokens = self.g.node("Add", &[&tokens, &attended]);
            tokens = self.layer_norm(&tokens, &name("norm2"), CHANNELS, 1e-5)?;
            let wide = self.linear(&tokens, &name("mlp.lin1"), CHANNELS, MLP_CHANNELS)?;
            let wide = self.g.node("Relu", &[&wide]);
            let narrow = self.linear(&wide, &name("mlp.lin2"), MLP_CHANNELS, CHANNELS)?;
            tokens = self.g.node("Add", &[&tokens, &narrow]);
            tokens = self.layer_norm(&tokens, &name("norm3"), CHANNELS, 1e-5)?;
            let keys = self.g.node("Add", &[&tokens, &prompt]);
            let queries = self.g.node("Add", &[&image, &positions]);
            let attended =
                self.attention(&name("cross_attn_image_to_token"), CROSS_CHANNELS, [&queries, &keys, &tokens])?;
            image = self.g.node("Add", &[&image, &attended]);
            image = self.layer_norm(&image, &name("norm4"), CHANNELS, 1e-5)?;
        }
        let (queries, keys) = (self.g.node("Add", &[&tokens, &prompt]), self.g.node("Add", &[&image, &positions]));
        let name = "mask_decoder.transformer.final_attn_token_to_image";
        let attended = self.attention(name, CROSS_CHANNELS, [&queries, &keys, &image])?;
        let tokens = self.g.node("Add", &[&tokens, &attended]);
        Ok((self.layer_norm(&tokens, "mask_decoder.transformer.norm_final_attn", CHANNELS, 1e-5)?, image))
    }

    /// The position code of the embedding's cells, `[1, cell, channels]`.
    fn grid_positions(&mut self) -> Value {
        let grid = self.grid;
        let cell = |idx: usize| (idx as f32 + 0.5) / grid as f32;
        let places: Vec<f32> = (0..grid * grid).flat_map(|at| [cell(at % grid), cell(at / grid)]).collect();
        let places = self.g.floats(&[1, grid * grid, 2], &places);
        self.position_code(&places)
    }

    fn attention(&mut self, name: &str, inner: usize, [queries, keys, values]: [&str; 3]) -> Value {
        let width = inner / HEADS;
        let heads = |this: &mut Self, value: &str, part: &str, order: &[i64]| -> Value {
            let value = this.linear(value, &format!("{name}.{part}"), CHANNELS, inner)?;
            let value = this.g.reshape(&value, &[1, -1, HEADS as i64, width as i64]);
            Ok(this.g.transpose(&value, order))
        };
        let queries = heads(self, queries, "q_proj", &[0, 2, 1, 3])?;
        let keys = heads(self, keys, "k_proj", &[0, 2, 3, 1])?;
        let values = heads(self, values, "v_proj", &[0, 2, 1, 3])?;
        let attended = layers::attention(&mut self.g, [&queries, &keys, &values], width, inner);
        self.linear(&attended, &format!("{name}.out_proj"), inner, CHANNELS)
    }

    fn linear(&mut self, value: &str, name: &str, ins: usize, outs: usize) -> Value {
        linear(&mut self.g, self.tensors, value, name, [ins, outs])
    }

    fn layer_norm(&mut self, value: &str, name: &str, channels: usize, epsilon: f32) -> Value {
        layer_norm(&mut self.g, self.tensors, value, name, channels, epsilon)
    }

    fn channel_norm(&mut self, map: &str, name: &str, channels: usize) -> Value {
        channel_norm(&mut self.g, self.tensors, map, name, channels)
    }

    fn gelu(&mut self, value: &str) -> String {
        gelu(&mut self.g, value)
    }

    /// All masks, `[1, mask, 4 * grid, 4 * grid]`, and their scores, `[1, mask]`.
    fn masks(&mut self, tokens: &str, image: &str) -> Result<(String, String), OnnxTensorError> {
        let (grid, side) = (self.grid as i64, 4 * self.grid as i64);
        let map = self.g.transpose(image, &[0, 2, 1]);
        let mut map = self.g.reshape(&map, &[1, CHANNELS as i64, grid, grid]);
        for (idx, ins, outs) in [(0, CHANNELS, CHANNELS / 4), (3, CHANNELS / 4, VECTOR_CHANNELS)] {
            let name = |part: &str| format!("mask_decoder.output_upscaling.{idx}.{part}");
            let (weight, bias) =
                (self.tensor(&name("weight"), &[ins, outs, 2, 2])?, self.tensor(&name("bias"), &[outs])?);
            map = self.g.node_with("ConvTranspose", &[&map, &weight, &bias], vec![ints("strides", &[2, 2])]);
            if idx == 0 {
                map = self.channel_norm(&map, "mask_decoder.output_upscaling.1", outs)?;
            }
            map = self.gelu(&map);
        }
        let flat = self.g.reshape(&map, &[1, VECTOR_CHANNELS as i64, side * side]);
        let mut vectors = vec![];
        for idx in 0..N_MASKS {
            let token = self.token(tokens, 1 + idx as i64);
            vectors.push(self.perceptron(
                &token,
                &format!("mask_decoder.output_hypernetworks_mlps.{idx}"),
                VECTOR_CHANNELS,
            )?);
        }
        let vectors: Vec<&str> = vectors.iter().map(String::as_str).collect();
        let vectors = self.g.concat(&vectors, 1);
        let masks = self.g.node("MatMul", &[&vectors, &flat]);
        let masks = self.g.reshape(&masks, &[1, N_MASKS as i64, side, side]);
        let token = self.token(tokens, 0);
        let scores = self.perceptron(&token, "mask_decoder.iou_prediction_head", N_MASKS)?;
        let scores = self.g.reshape(&scores, &[1, N_MASKS as i64]);
        Ok((masks, scores))
    }

    /// One token, `[1, 1, channels]`.
    fn token(&mut self, tokens: &str, at: i64) -> String {
        let at = self.g.whole_numbers(&[at]);
        self.g.node_with("Gather", &[tokens, &at], vec![int("axis", 1)])
    }

    fn perceptron(&mut self, value: &str, name: &str, outs: usize) -> Value {
        let mut value = value.to_string();
        for (idx, outs) in [CHANNELS, CHANNELS, outs].into_iter().enumerate() {
            value = self.linear(&value, &format!("{name}.layers.{idx}"), CHANNELS, outs)?;
            if idx < 2 {
                value = self.g.node("Relu", &[&value]);
            }
        }
        Ok(value)
    }

    /// One mask and its score.
    fn chosen(&mut self, masks: &str, scores: &str, points: &str) -> (String, String) {
        let g = &mut self.g;
        let shape = g.node("Shape", &[points]);
        let second = g.whole_numbers(&[1]);
        let n_points = g.node("Gather", &[&shape, &second]);
        let n_points = g.node_with("Cast", &[&n_points], vec![int("to", 1)]);
        let (limit, weight) = (g.float(2.5), g.floats(&[1, N_MASKS], &[1000.0, 0.0, 0.0, 0.0]));
        let beyond = g.node("Sub", &[&n_points, &limit]);
        let favour = g.node("Mul", &[&beyond, &weight]);
        let weighed = g.node("Add", &[scores, &favour]);
        let best = g.node_with("ArgMax", &[&weighed], vec![int("axis", 1), int("keepdims", 0)]);
        let of = |g: &mut GraphBuilder, all: &str| g.node_with("Gather", &[all, &best], vec![int("axis", 1)]);
        (of(g, masks), of(g, scores))
    }

    /// Logits at the image's size, without the padding.
    fn in_image(&mut self, low_res: &str, image_size: &str) -> String {
        let side = self.side;
        let linear = || vec![text("coordinate_transformation_mode", "half_pixel"), text("mode", "linear")];
        let g = &mut self.g;
        let sizes = g.whole_numbers(&[1, 1, side as i64, side as i64]);
        let square = g.node_with("Resize", &[low_res, "", "", &sizes], linear());
        let longest = g.node_with("ReduceMax", &[image_size], vec![int("keepdims", 1)]);
        let (of_square, half) = (g.float(side as f32), g.float(0.5));
        let scale = g.node("Div", &[&of_square, &longest]);
        let scaled = g.node("Mul", &[image_size, &scale]);
        let rounded = g.node("Add", &[&scaled, &half]);
        let rounded = g.node("Floor", &[&rounded]);
        let whole = |g: &mut GraphBuilder, value: &str| g.node_with("Cast", &[value], vec![int("to", 7)]);
        let (start, end, axes) = (g.whole_numbers(&[0, 0]), whole(g, &rounded), g.whole_numbers(&[2, 3]));
        let cut = g.node("Slice", &[&square, &start, &end, &axes]);
        let (ones, size) = (g.whole_numbers(&[1, 1]), whole(g, image_size));
        let sizes = g.concat(&[&ones, &size], 0);
        g.node_with("Resize", &[&cut, "", "", &sizes], linear())
    }
}
