//! Layers of SAM-type networks, of tensors under PyTorch's names.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::builder::{GraphBuilder, NamedValues, OnnxTensorError, float, int};

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
pub(crate) fn attention(
    g: &mut GraphBuilder,
    [queries, keys, values]: [&str; 3],
    width: usize,
    channels: usize,
) -> String {
    let scale = g.float((width as f32).powf(-0.5));
    let scores = g.node("MatMul", &[queries, keys]);
    let scores = g.node("Mul", &[&scores, &scale]);
    let shares = g.node_with("Softmax", &[&scores], vec![int("axis", -1)]);
    let attended = g.node("MatMul", &[&shares, values]);
    let attended = g.transpose(&attended, &[0, 2, 1, 3]);
    g.reshape(&attended, &[1, -1, channels as i64])
}
