//! MobileSAM's tensors out of its exported ONNX graphs.
//!
//! Exporters fold batch norms, transpose what a matrix product reads, write a bias table out for each pair of cells, and give most tensors a
//! number for a name. What is left of the published name is the path of the module in the name of the node that reads the tensor.
//!
//! # Source
//! `torch.onnx.export` of ChaoningZhang/MobileSAM `TinyViT`, and of facebookresearch/segment-anything `utils/onnx.py`.

use sensei_tensor::network::{HostTensor, NamedWeights};

use crate::error::SamError;
use crate::mask_decoder::N_MASKS;

/// A constant of an exported graph, where a node reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedConstant {
    /// The node's name, with the path of its module: `/layers.1/blocks.0/attn/qkv/MatMul`.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Which of its inputs.
    pub input_idx: usize,
    /// The constant's own name.
    pub name: String,
    /// Whether it is a parameter of the graph, and not something that the exporter computed.
    pub is_initializer: bool,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// Which part of the network a graph is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportedPart {
    /// The image encoder.
    Encoder,
    /// Prompt encoder and mask decoder.
    Decoder,
}

/// Adds the tensors of a graph under their published names; `origin` names its file in messages.
///
/// # Errors
/// `Unexpected`, for a parameter whose name cannot be told; `Twice`, for two that would have the same name and are not the same.
pub fn add_exported(
    origin: &str,
    part: ExportedPart,
    constants: Vec<ExportedConstant>,
    weights: &mut NamedWeights,
) -> Result<(), SamError> {
    for constant in constants {
        let is_parameter = constant.is_initializer;
        let (name, shape) = (constant.name.clone(), constant.shape.clone());
        let named = published(part, constant);
        if named.is_empty() && is_parameter {
            return Err(SamError::Unexpected { origin: origin.into(), name, found: shape, more: 0 });
        }
        for (name, tensor) in named {
            if weights.get(&name).is_some_and(|known| known.shape != tensor.shape || known.values != tensor.values) {
                return Err(SamError::Twice { origin: origin.into(), name });
            }
            weights.insert(name, tensor);
        }
    }
    Ok(())
}

/// The tensors that a constant is, under their published names; none if it is no tensor of the network.
fn published(part: ExportedPart, constant: ExportedConstant) -> Vec<(String, HostTensor)> {
    let ExportedConstant { node, op, input_idx, name, is_initializer, shape, values } = constant;
    let module = module(part, &node);
    let one = |name: String, shape: Vec<usize>, values: Vec<f32>| vec![(name, HostTensor { shape, values })];
    // Some kept their names, those of the decoder's with the exporter's wrapper before them.
    if is_initializer && !name.starts_with(NUMBERED) {
        return match part {
            ExportedPart::Encoder => one(format!("image_encoder.{name}"), shape, values),
            ExportedPart::Decoder => one(name.strip_prefix("model.").unwrap_or(&name).to_string(), shape, values),
        };
    }
    match (op.as_str(), input_idx, shape.as_slice()) {
        ("MatMul", 1, &[ins, outs]) => one(format!("{module}.weight"), vec![outs, ins], transposed(&values, ins, outs)),
        ("Conv", 1, _) => one(format!("{module}.weight"), shape, values),
        ("Conv", 2, _) => one(format!("{module}.bias"), shape, values),
        // A norm over channels.
        ("Mul", _, &[channels, 1, 1]) => one(format!("{module}.weight"), vec![channels], values),
        ("Add", _, &[channels, 1, 1]) => one(format!("{module}.bias"), vec![channels], values),
        // The bias of each pair of cells, of which the first cell's row has each distance once, in the order of the table.
        ("Add", _, &[heads, cells, others]) if cells == others && module.ends_with(".attn") => {
            let table = values.chunks_exact(cells * cells).flat_map(|head| &head[..cells]).copied().collect();
            one(format!("{module}.attention_biases"), vec![heads, cells], table)
        }
        ("Mul", _, &[1, channels, 1, 1]) if part == ExportedPart::Decoder => {
            one("prompt_encoder.no_mask_embed.weight".into(), vec![1, channels], values)
        }
        ("Expand", 0, &[1, tokens, channels]) if part == ExportedPart::Decoder && tokens == N_MASKS + 1 => {
            let (iou, masks) = values.split_at(channels);
            let tensor = |shape: [usize; 2], values: &[f32]| HostTensor { shape: shape.into(), values: values.into() };
            vec![
                ("mask_decoder.iou_token.weight".into(), tensor([1, channels], iou)),
                ("mask_decoder.mask_tokens.weight".into(), tensor([N_MASKS, channels], masks)),
            ]
        }
        _ => vec![],
    }
}

/// The published path of a node's module: `/patch_embed/seq/seq.0/c/Conv` is in `image_encoder.patch_embed.seq.0.c`.
fn module(part: ExportedPart, node: &str) -> String {
    let mut path: Vec<&str> = node.split('/').filter(|step| !step.is_empty()).collect();
    path.pop();
    // A step of a list repeats the list's own name.
    let steps = path.iter().enumerate().filter(|(idx, step)| {
        let next = path.get(idx + 1);
        !next.is_some_and(|next| next.strip_prefix(**step).is_some_and(|rest| rest.starts_with('.')))
    });
    let path: Vec<&str> = steps.map(|(_, step)| *step).collect();
    let root = match part {
        ExportedPart::Encoder => "image_encoder",
        ExportedPart::Decoder if path.first().is_some_and(|first| first.starts_with("mask_downscaling")) => {
            "prompt_encoder"
        }
        ExportedPart::Decoder => "mask_decoder",
    };
    std::iter::once(root).chain(path).collect::<Vec<_>>().join(".")
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// How tensors begin whose name the exporter replaced.
const NUMBERED: &str = "onnx::";

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(node: &str, op: &str, input_idx: usize, name: &str, shape: &[usize]) -> ExportedConstant {
        let values = (0..shape.iter().product::<usize>()).map(|at| at as f32).collect();
        let (node, op, name, shape) = (node.into(), op.into(), name.into(), shape.to_vec());
        ExportedConstant { node, op, input_idx, name, is_initializer: true, shape, values }
    }

    #[test]
    fn nodes_tell_the_published_names() {
        let check = |part, constant: ExportedConstant, expected: &[(&str, &[usize])]| {
            let mut weights = NamedWeights::new();
            add_exported("x", part, vec![constant], &mut weights).expect("a parameter");
            let found: Vec<_> = weights.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice())).collect();
            assert_eq!(found, expected);
        };
        use ExportedPart::{Decoder, Encoder};
        let conv = |input| constant("/patch_embed/seq/seq.0/c/Conv", "Conv", input, "onnx::Conv_1", &[2, 3, 3, 3]);
        check(Encoder, conv(1), &[("image_encoder.patch_embed.seq.0.c.weight", &[2, 3, 3, 3])]);
        let linear = constant("/layers.1/blocks.0/attn/qkv/MatMul", "MatMul", 1, "onnx::MatMul_2", &[2, 6]);
        check(Encoder, linear, &[("image_encoder.layers.1.blocks.0.attn.qkv.weight", &[6, 2])]);
        let kept = constant("/layers.1/x/Add", "Add", 0, "layers.1.x.bias", &[6]);
        check(Encoder, kept, &[("image_encoder.layers.1.x.bias", &[6])]);
        let norm = constant("/neck/neck.1/Add_1", "Add", 1, "onnx::Add_3", &[5, 1, 1]);
        check(Encoder, norm, &[("image_encoder.neck.1.bias", &[5])]);
        let mut biases = constant("/layers.1/blocks.0/attn/Add", "Add", 1, "/layers.1/blocks.0/attn/c", &[2, 4, 4]);
        biases.is_initializer = false;
        check(Encoder, biases, &[("image_encoder.layers.1.blocks.0.attn.attention_biases", &[2, 4])]);
        let norm = constant("/mask_downscaling/mask_downscaling.1/Mul", "Mul", 0, "onnx::Mul_4", &[4, 1, 1]);
        check(Decoder, norm, &[("prompt_encoder.mask_downscaling.1.weight", &[4])]);
        let wrapped = constant("/Mul_3", "Mul", 0, "model.prompt_encoder.not_a_point_embed.weight", &[1, 8]);
        check(Decoder, wrapped, &[("prompt_encoder.not_a_point_embed.weight", &[1, 8])]);
        let tokens = constant("/Expand_1", "Expand", 0, "onnx::Expand_5", &[1, 5, 2]);
        let expected: [(&str, &[usize]); 2] =
            [("mask_decoder.iou_token.weight", &[1, 2]), ("mask_decoder.mask_tokens.weight", &[4, 2])];
        check(Decoder, tokens, &expected);
    }

    #[test]
    fn matrices_are_transposed_and_tables_read_from_the_first_cell() {
        let linear = constant("/a/MatMul", "MatMul", 1, "onnx::MatMul_2", &[2, 3]);
        assert_eq!(published(ExportedPart::Encoder, linear)[0].1.values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let biases = constant("/l/attn/Add", "Add", 1, "onnx::Add_2", &[2, 2, 2]);
        assert_eq!(published(ExportedPart::Encoder, biases)[0].1.values, [0.0, 1.0, 4.0, 5.0]);
    }

    #[test]
    fn parameters_without_a_name_and_two_of_one_name_are_refused() {
        let mut weights = NamedWeights::new();
        let mut add = |constants| add_exported("x", ExportedPart::Encoder, constants, &mut weights);
        let error = add(vec![constant("/a/Pow", "Pow", 1, "onnx::Pow_1", &[3])]).expect_err("no name").to_string();
        assert!(error.starts_with("x: onnx::Pow_1: expected no such tensor"), "{error}");
        let linear = |shape| constant("/a/MatMul", "MatMul", 1, "onnx::MatMul_2", shape);
        let error = add(vec![linear(&[2, 3]), linear(&[2, 3]), linear(&[3, 2])]).expect_err("two").to_string();
        assert_eq!(error, "x: image_encoder.a.weight: expected one tensor of this name, found two that differ");
    }
}
