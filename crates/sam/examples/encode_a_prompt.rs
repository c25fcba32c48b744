//! A prompt as the tokens that SAM's mask decoder reads, and what is said of a file that lacks a tensor.

#![expect(clippy::print_stdout, reason = "a program")]

use burn::tensor::Device;
use sensei_sam::prompt_encoder::{PointLabel, PromptEncoder, PromptPoint};
use sensei_sam::scope::Tensors;
use sensei_tensor::network::{HostTensor, NamedWeights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A file's tensors come from a reader; these are zeros but for the label of a click.
    let mut tensors = NamedWeights::new();
    let mut add = |name: &str, shape: &[usize], value: f32| {
        let values = vec![value; shape.iter().product()];
        tensors.insert(name.into(), HostTensor { shape: shape.into(), values });
    };
    add("pe_layer.positional_encoding_gaussian_matrix", &[2, 128], 0.0);
    for name in ["not_a_point_embed", "no_mask_embed", "point_embeddings.0", "point_embeddings.2", "point_embeddings.3"]
    {
        add(&format!("{name}.weight"), &[1, 256], 0.0);
    }
    add("point_embeddings.1.weight", &[1, 256], 0.5);
    for (idx, ins, outs) in [(0, 1, 4), (3, 4, 16)] {
        add(&format!("mask_downscaling.{idx}.weight"), &[outs, ins, 2, 2], 0.0);
        add(&format!("mask_downscaling.{idx}.bias"), &[outs], 0.0);
        add(&format!("mask_downscaling.{}.weight", idx + 1), &[outs], 1.0);
        add(&format!("mask_downscaling.{}.bias", idx + 1), &[outs], 0.0);
    }
    add("mask_downscaling.6.weight", &[256, 16, 1, 1], 0.0);

    let encoder = |tensors: &NamedWeights| {
        let tensors = Tensors::new("made up", tensors, &Device::flex());
        let encoder = PromptEncoder::sam(1024, 64, &tensors.root())?;
        tensors.finish(&[]).map(|_| encoder)
    };
    if let Err(error) = encoder(&tensors) {
        println!("{error}");
    }
    tensors.insert("mask_downscaling.6.bias".into(), HostTensor { shape: vec![256], values: vec![0.0; 256] });
    let click = PromptPoint { x: 300.0, y: 200.0, label: PointLabel::Foreground };
    let padding = PromptPoint { x: 0.0, y: 0.0, label: PointLabel::Padding };
    let tokens = encoder(&tensors)?.tokens(&[vec![click, padding]]);
    println!("{:?}", tokens.dims());
    let values = tokens.try_to_vec_as::<f32>()?;
    println!("click: sine {}, cosine {}; padding: {}", values[0], values[128], values[256]);
    Ok(())
}
