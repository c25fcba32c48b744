//! Layers of SAM-type networks, of tensors under PyTorch's names.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::builder::{GraphBuilder, NamedValues, OnnxTensorError, float, int, text};

/// `weight` `[outs, ins]` and `bias` `[outs]`, over the last dimension.
pub(crate) fn linear(
    g: &mut GraphBuilder,
    tensors: &NamedValues,
    value: &str,
    name: &str,
    [ins, outs]: [usize; 2],
) -> Result<String, OnnxTensorError> {
    let weight = g.tensor(tensors, &format!("{name}.weight"), &[outs, ins])?;
    let weight = g.transpose(&weight, &[1, 0]);
    let bias = g.tensor(tensors, &format!("{name}.bias"), &[outs])?;
    let product = g.node("MatMul", &[value, &weight]);
    Ok(g.node("Add", &[&product, &bias]))
}

/// Over the last dimension.
pub(crate) fn layer_norm(
    g: &mut GraphBuilder,
    tensors: &NamedValues,
    value: &str,
    name: &str,
    channels: usize,
    epsilon: f32,
) -> Result<String, OnnxTensorError> {
    let scale = g.tensor(tensors, &format!("{name}.weight"), &[channels])?;
    let shift = g.tensor(tensors, &format!("{name}.bias"), &[channels])?;
    let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
    Ok(g.node_with("LayerNormalization", &[value, &scale, &shift], attributes))
}

/// Over the channels of a map `[1, channels, height, width]`, with SAM's epsilon for maps.
pub(crate) fn channel_norm(
    g: &mut GraphBuilder,
    tensors: &NamedValues,
    map: &str,
    name: &str,
    channels: usize,
) -> Result<String, OnnxTensorError> {
    let last = g.transpose(map, &[0, 2, 3, 1]);
    let normal = layer_norm(g, tensors, &last, name, channels, 1e-6)?;
    Ok(g.transpose(&normal, &[0, 3, 1, 2]))
}

/// With the error function, not its approximation.
pub(crate) fn gelu(g: &mut GraphBuilder, value: &str) -> String {
    let (root, one, half) = (g.float(FRAC_1_SQRT_2), g.float(1.0), g.float(0.5));
    let scaled = g.node("Mul", &[value, &root]);
    let erf = g.node("Erf", &[&scaled]);
    let share = g.node("Add", &[&erf, &one]);
    let product = g.node("Mul", &[value, &share]);
    g.node("Mul", &[&product, &half])
}

/// Softmax attention of heads of `width` channels, side by side again: `[1, token, channels]`.
///
/// # Shapes
/// - queries: `[1, head, token, width]`; keys: `[1, head, width, other token]`, transposed; values: `[1, head, other token, width]`
pub(crate) fn attention(g: &mut GraphBuilder, factors: [&str; 3], width: usize, channels: usize) -> String {
    let attended = attention_with_bias(g, factors, width, None);
    g.reshape(&attended, &[1, -1, channels as i64])
}

/// The same of several images, `[image, token, head, width]`, with what is added to the scores, `[1, head, token, other token]`.
pub(crate) fn attention_with_bias(
    g: &mut GraphBuilder,
    [queries, keys, values]: [&str; 3],
    width: usize,
    bias: Option<&str>,
) -> String {
    let scale = g.float((width as f32).powf(-0.5));
    let scores = g.node("MatMul", &[queries, keys]);
    let mut scores = g.node("Mul", &[&scores, &scale]);
    if let Some(bias) = bias {
        scores = g.node("Add", &[&scores, bias]);
    }
    let shares = g.node_with("Softmax", &[&scores], vec![int("axis", -1)]);
    let attended = g.node("MatMul", &[&shares, values]);
    g.transpose(&attended, &[0, 2, 1, 3])
}

/// A map upsampled bilinearly by a whole factor.
pub(crate) fn enlarged(g: &mut GraphBuilder, map: String, scale: usize) -> String {
    if scale == 1 {
        return map;
    }
    let scales = g.floats(&[4], &[1.0, 1.0, scale as f32, scale as f32]);
    let attributes = vec![text("coordinate_transformation_mode", "half_pixel"), text("mode", "linear")];
    g.node_with("Resize", &[&map, "", &scales], attributes)
}
