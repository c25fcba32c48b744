//! The file of a trained student that answers prompts: programs that know the published names can read it.

use std::collections::BTreeMap;
use std::fs;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_sam::efficient_sam::EfficientSam;
use sensei_sam::encoder_student::EMBEDDING as TAP;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::mobile_sam::{EncodedImage, MobileSam};
use sensei_sam::student::PromptableStudent;
use sensei_sam::vit::VitConfig;
use sensei_sam::vit_student::VitStudent;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{HostTensor, Inputs, NamedWeights, Network, Pass, host_values};
use sensei_tensor::prompts::{Decode, MaskTokens, PointLabel, PromptPoint};
use sensei_testing::golden;

use crate::Place;
use crate::promptable::{EMBEDDING, PROMPTS, VIT, config, weights};

const LAYOUT: VitConfig =
    VitConfig { input_size: 64, patch: 8, table_grid: 8, channels: 16, heads: 2, blocks: 1, out_channels: 256 };

/// Names and shapes of a published network, as PyTorch's code of the case has them.
fn published(case: &str) -> BTreeMap<String, Vec<usize>> {
    let case = golden(case);
    let shape = |key: &str| case.i64s(key).iter().map(|&side| side as usize).collect();
    let names = case.names();
    names.iter().filter_map(|key| Some((key.strip_prefix("shape.")?.to_string(), shape(key)))).collect()
}

/// A side of EfficientSAM-Ti's tensors at the widths of this test's encoder.
fn at_our_width(side: usize) -> usize {
    match side {
        192 | 576 | 768 => side / 192 * LAYOUT.channels,
        16 => LAYOUT.patch,
        197 => LAYOUT.table_grid * LAYOUT.table_grid + 1,
        other => other,
    }
}

fn starting_with(tensors: &NamedWeights, starts: &[&str]) -> NamedWeights {
    let own = |name: &str| starts.iter().any(|start| name.starts_with(start));
    tensors.iter().filter(|(name, _)| own(name)).map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
}

fn values(n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|idx| scale * (0.618 * (idx as f32 % 10_007.0 + 1.0)).sin()).collect()
}

#[test]
fn a_trained_students_file_is_read_by_published_names() {
    let Some(teacher) = weights("a_trained_students_file_is_read_by_published_names") else { return };
    let place = Place::new();
    fs::write(place.path("names.toml"), config(&teacher, VIT, &format!("{EMBEDDING}{PROMPTS}"))).unwrap();
    place.does(&["train", "names.toml"]);
    let tensors = read_weights(&place.path("runs/names/student.safetensors")).unwrap().tensors;
    let shapes = |tensors: &NamedWeights| -> BTreeMap<String, Vec<usize>> {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
    };

    // Prompt encoder and mask decoder: all of SAM's, and nothing else.
    let decoder = starting_with(&tensors, &["prompt_encoder.", "mask_decoder."]);
    let mut expected = published("sam");
    expected.retain(|name, _| !name.starts_with("image_encoder."));
    assert_eq!(shapes(&decoder), expected);
    // The image encoder: all of EfficientSAM's of as many blocks, at our widths.
    let encoder = starting_with(&tensors, &["image_encoder."]);
    let mut expected = published("sam_efficient");
    expected.retain(|name, _| {
        let is_of_later_block =
            (LAYOUT.blocks..12).any(|idx| name.starts_with(&format!("image_encoder.blocks.{idx}.")));
        name.starts_with("image_encoder.") && !is_of_later_block
    });
    expected.values_mut().flatten().for_each(|side| *side = at_our_width(*side));
    assert_eq!(shapes(&encoder), expected);
    assert_eq!(encoder.len() + decoder.len(), tensors.len(), "nothing but these two");

    // MobileSAM with this decoder, and EfficientSAM with this encoder, take every tensor, and say what the student says.
    let device = Device::flex();
    let own_names = encoder.iter().map(|(name, tensor)| (name["image_encoder.".len()..].to_string(), tensor.clone()));
    let own_names: NamedWeights = own_names.collect();
    let student = VitStudent::new(LAYOUT, 64, &own_names, &device).unwrap();
    let student = PromptableStudent::new(Box::new(student), TAP, "student", &tensors).unwrap();
    let trained = &tensors["mask_decoder.output_upscaling.0.weight"];
    let teacher = read_weights(teacher.as_ref()).unwrap().tensors;
    assert_ne!(trained.values, teacher["mask_decoder.output_upscaling.0.weight"].values, "the decoder was trained");
    let mut mobile_sam = starting_with(&teacher, &["image_encoder."]);
    mobile_sam.extend(decoder);
    let mobile_sam = MobileSam::new("MobileSAM with this decoder", &mobile_sam, &device).unwrap();
    let embedding = TensorData::new(values(256 * 64 * 64, 0.2), [1, 256, 64, 64]);
    let embedding: Tensor<4> = Tensor::from_data(embedding, &device);
    let cells = embedding.clone().reshape([1, 256, 4096]).swap_dims(1, 2);
    let point = |x: f64, y: f64, label| PromptPoint { x, y, label };
    let prompts = vec![vec![point(200.0, 300.0, PointLabel::UpperLeft), point(700.0, 650.0, PointLabel::LowerRight)]];
    let expected = mobile_sam.decode(&EncodedImage { embedding: cells }, &prompts, MaskChoice::All).logits;
    let found = student.decode(embedding, &prompts, MaskTokens::All).masks.0;
    assert_eq!(host_values(&found.reshape([4 * 65536])), host_values(&expected.reshape([4 * 65536])));

    let zeros = |shape: Vec<usize>| HostTensor { values: vec![0.0; shape.iter().product()], shape };
    let mut efficient_sam: NamedWeights =
        published("sam_efficient").into_iter().map(|(name, shape)| (name, zeros(shape))).collect();
    efficient_sam.retain(|name, _| !name.starts_with("image_encoder."));
    efficient_sam.extend(encoder);
    let network = EfficientSam::new(LAYOUT, "EfficientSAM with this encoder", &efficient_sam, &device).unwrap();
    let image: Tensor<4> = Tensor::from_data(TensorData::new(values(3 * 64 * 64, 1.0), [1, 3, 64, 64]), &device);
    let expected = network.encode(image.clone().permute([0, 2, 3, 1])).swap_dims(1, 2);
    // Without the upsampling, which EfficientSAM has not.
    let encoder = VitStudent::new(LAYOUT, 8, &own_names, &device).unwrap();
    let found = encoder.forward(Inputs { images: image, taps: &[TAP.into()] }, Pass::Eval).unwrap().taps.remove(0);
    assert_eq!(host_values(&found.reshape([256 * 64])), host_values(&expected.reshape([256 * 64])));
}
