//! EfficientSAM against PyTorch, with made-up weights: none are at hand.

mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, prompts, some_features, some_logits, weights};
use sensei_sam::efficient_sam::EfficientSam;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::vit::VitConfig;
use sensei_testing::golden;

fn check(case: &str, config: VitConfig) {
    let (case, side, grid) = (golden(case), config.input_size, config.grid());
    let (device, weights) = (Device::flex(), weights(&case));
    let network = EfficientSam::new(config, "made up", &weights, &device).expect("EfficientSAM's tensors");
    let image = made_up("image.pixels", &[1, side, side, 3]);
    let image = network.encode(Tensor::from_data(TensorData::new(image.values, [1, side, side, 3]), &device));
    close("embedding", &some_features(image.clone().reshape([1, grid, grid, 256])), &case.f32s("embedding"));

    let prompts = prompts(&case);
    let masks = network.decode(image, &prompts, MaskChoice::All);
    close("tokens", &host(masks.tokens), &case.f32s("tokens_out"));
    close("logits", &some_logits(masks.logits), &case.f32s("logits"));
    close("predicted IoU", &host(masks.predicted_iou), &case.f32s("predicted_iou"));
}

#[test]
fn ti_gives_pytorchs_values() {
    check("sam_efficient", VitConfig::efficient_sam_ti());
}

#[test]
fn s_gives_pytorchs_values() {
    check("sam_efficient/small", VitConfig { input_size: 256, ..VitConfig::efficient_sam_s() });
}

#[test]
fn the_other_size_is_refused() {
    let weights = weights(&golden("sam_efficient"));
    let network = EfficientSam::new(VitConfig::efficient_sam_s(), "made up", &weights, &Device::flex());
    let expected =
        "made up: image_encoder.patch_embed.proj.weight: expected shape [384, 3, 16, 16], found [192, 3, 16, 16]";
    assert_eq!(network.err().expect("another size").to_string(), expected);
}
