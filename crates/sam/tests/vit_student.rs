//! A vision transformer as student: the published network's embedding, and pretraining that sees nothing of what is hidden.

#[allow(dead_code, reason = "of the helpers these tests need three")]
mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{host, made_up, weights};
use sensei_sam::efficient_sam::EfficientSam;
use sensei_sam::encoder_student::EMBEDDING;
use sensei_sam::masked_vit::{MASKED_DECODER, MaskedConfig, MaskedVit};
use sensei_sam::vit::{NECK, VitConfig};
use sensei_sam::vit_student::{TRUNK, VitStudent};
use sensei_sam::vit_weights::{fresh_masked_decoder, fresh_neck, fresh_trunk};
use sensei_tensor::masked::Reconstruct;
use sensei_tensor::network::{Inputs, NamedWeights, Network, Pass};
use sensei_testing::golden;

const SMALL: VitConfig =
    VitConfig { input_size: 32, patch: 8, table_grid: 4, channels: 16, heads: 2, blocks: 2, out_channels: 12 };

fn small_tensors() -> NamedWeights {
    fresh_trunk(&SMALL, 3).into_iter().chain(fresh_neck(&SMALL, 3)).collect()
}

fn images(name: &str, side: usize, device: &Device) -> Tensor<4> {
    let values = made_up(&format!("image.{name}"), &[2, 3, side, side]).values;
    Tensor::from_data(TensorData::new(values, [2, 3, side, side]), device)
}

#[test]
fn its_embedding_is_the_published_networks() {
    let case = golden("sam_efficient/small");
    let (tensors, device) = (weights(&case), Device::flex());
    let config = VitConfig { input_size: 256, ..VitConfig::efficient_sam_s() };
    let network = EfficientSam::new(config.clone(), "made up", &tensors, &device).expect("EfficientSAM");
    let encoder = tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("image_encoder.")?.to_string(), tensor.clone())));
    let student = VitStudent::new(config.clone(), config.grid(), &encoder.collect(), &device).expect("its encoder");
    let pictures = images("vit", 256, &device);
    let expected = network.encode(pictures.clone().permute([0, 2, 3, 1]));
    let outputs = student.forward(Inputs { images: pictures, taps: &[EMBEDDING.into()] }, Pass::Eval).expect("its tap");
    let found = outputs.taps[0].clone().reshape([2, 256, 256]).swap_dims(1, 2);
    assert_eq!(host(found), host(expected));
}

#[test]
fn a_small_grid_is_upsampled_and_everything_learns() {
    let device = Device::flex().autodiff();
    let student = VitStudent::new(SMALL, 8, &small_tensors(), &device).expect("its tensors");
    assert_eq!(student.taps()[0].shape, [12, 8, 8]);
    let inputs = Inputs { images: images("small", 32, &device), taps: &[EMBEDDING.into()] };
    let map = student.forward(inputs, Pass::Train).expect("its tap").taps.remove(0);
    assert_eq!(map.dims(), [2, 12, 8, 8]);
    let mut found = (map.clone() * map).mean().backward();
    for group in student.groups() {
        for parameter in &group.parameters {
            let gradient =
                parameter.values.grad_remove(&mut found).unwrap_or_else(|| panic!("{}: no gradient", parameter.name));
            assert!(host(gradient).iter().all(|value| value.is_finite()), "{}", parameter.name);
        }
    }
}

#[test]
fn what_is_hidden_is_not_seen() {
    let device = Device::flex().autodiff();
    let masked = MaskedConfig { channels: 8, heads: 2, blocks: 2, n_outputs: 5 };
    let decoder = fresh_masked_decoder(&SMALL, &masked, 3);
    let network = MaskedVit::new(SMALL, masked, &fresh_trunk(&SMALL, 3), &decoder, "digest".into(), &device)
        .expect("its tensors");
    let visible = vec![vec![0, 5, 9, 15], vec![1, 2, 3, 14]];
    let pictures = images("masked", 32, &device);
    let said = network.reconstruct(pictures.clone(), &visible);
    assert_eq!(said.dims(), [2, 16, 5]);
    // Another colour in patch 6 of both images changes nothing; in patch 9 it changes the first image alone.
    let with_grey = |patch: usize| {
        let (x, y) = (patch % 4 * 8, patch / 4 * 8);
        let grey = Tensor::<4>::zeros([2, 3, 8, 8], &device);
        host(network.reconstruct(pictures.clone().slice_assign([0..2, 0..3, y..y + 8, x..x + 8], grey), &visible))
    };
    let plain = host(said.clone());
    assert_eq!(with_grey(6), plain);
    let changed = with_grey(9);
    assert!(changed[..80] != plain[..80] && changed[80..] == plain[80..]);

    let mut found = (said.clone() * said).mean().backward();
    for group in network.groups() {
        for parameter in &group.parameters {
            assert!(parameter.values.grad_remove(&mut found).is_some(), "{}: no gradient", parameter.name);
        }
    }
    let patches = host(network.patches(pictures.clone()));
    let pixels = host(pictures);
    // Patch 5 begins at row 8, column 8; values are row by row, red, green and blue together.
    assert_eq!(patches[5 * 192..][..3], [0, 1, 2].map(|channel| pixels[channel * 1024 + 8 * 32 + 8]));
}

#[test]
fn fresh_weights_are_the_same_for_a_seed_and_fit_the_network() {
    assert_eq!(fresh_trunk(&SMALL, 3), fresh_trunk(&SMALL, 3));
    assert_ne!(fresh_trunk(&SMALL, 3)["blocks.0.attn.qkv.weight"], fresh_trunk(&SMALL, 4)["blocks.0.attn.qkv.weight"]);
    let mut network = VitStudent::new(SMALL, 4, &small_tensors(), &Device::flex()).expect("its tensors");
    let names: Vec<&str> = network.groups().into_iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, [TRUNK, NECK]);
    let changed = fresh_trunk(&SMALL, 4);
    network.set_tensors(TRUNK, changed.clone()).expect("its own tensors");
    assert_eq!(network.tensors(TRUNK), changed);
    assert!(network.set_tensors(MASKED_DECODER, changed).is_err(), "no such group");
    let mut less = small_tensors();
    less.remove("neck.2.weight");
    let error = VitStudent::new(SMALL, 4, &less, &Device::flex()).map(drop).expect_err("refused");
    assert!(
        error.to_string().contains("neck.2.weight: expected a tensor of shape [12, 12, 3, 3], found none"),
        "{error}"
    );
}
