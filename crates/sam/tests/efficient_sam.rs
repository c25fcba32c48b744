//! EfficientSAM against PyTorch, with made-up weights: none are at hand.

mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, prompts, some_features, some_logits, weights};
use sensei_sam::efficient_sam::EfficientSam;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::vit::VitConfig;
use sensei_testing::golden;

#[test]
fn made_up_weights_give_pytorchs_values() {
    let case = golden("sam_efficient");
    let (device, weights) = (Device::flex(), weights(&case));
    let network = EfficientSam::new(VitConfig::efficient_sam_ti(), "made up", &weights, &device);
    let network = network.expect("EfficientSAM-Ti's tensors");
    let image = made_up("image.pixels", &[1, 1024, 1024, 3]);
    let image = network.encode(Tensor::from_data(TensorData::new(image.values, [1, 1024, 1024, 3]), &device));
    close("embedding", &some_features(image.clone().reshape([1, 64, 64, 256])), &case.f32s("embedding"));

    let prompts = prompts(&case);
    let masks = network.decode(image, &prompts, MaskChoice::All);
    close("tokens", &host(masks.tokens), &case.f32s("tokens_out"));
    close("logits", &some_logits(masks.logits), &case.f32s("logits"));
    close("predicted IoU", &host(masks.predicted_iou), &case.f32s("predicted_iou"));
}

#[test]
fn the_other_size_is_refused() {
    let weights = weights(&golden("sam_efficient"));
    let network = EfficientSam::new(VitConfig::efficient_sam_s(), "made up", &weights, &Device::flex());
    let expected =
        "made up: image_encoder.patch_embed.proj.weight: expected shape [384, 3, 16, 16], found [192, 3, 16, 16]";
    assert_eq!(network.err().expect("another size").to_string(), expected);
}
