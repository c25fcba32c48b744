//! SAM 2.1 against the package sam2, with made-up weights: none are at hand.

mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, prompts, some_features, some_logits, weights};
use sensei_sam::hiera::HieraConfig;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::sam2::Sam2;
use sensei_tensor::network::HostTensor;
use sensei_testing::golden;

fn check(case: &str, config: HieraConfig) {
    let (case, side) = (golden(case), config.input_size);
    let (grid, device, mut weights) = (config.grid(), Device::flex(), weights(&case));
    // Published files have this and more for video.
    weights.insert("memory_attention.norm.weight".into(), HostTensor { shape: vec![256], values: vec![1.0; 256] });
    let network = Sam2::new(config, "made up", &weights, &device).expect("the tensors of SAM 2.1");
    let image = made_up("image.pixels", &[1, side, side, 3]);
    let image = network.encode(Tensor::from_data(TensorData::new(image.values, [1, side, side, 3]), &device));
    close("embedding", &some_features(image.embedding.clone().reshape([1, grid, grid, 256])), &case.f32s("embedding"));
    let [quarter, eighth] = image.fine.clone();
    close("quarter", &some_features(quarter), &case.f32s("quarter"));
    close("eighth", &some_features(eighth), &case.f32s("eighth"));

    let prompts = prompts(&case);
    let masks = network.decode(&image, &prompts, MaskChoice::All);
    close("logits", &some_logits(masks.logits), &case.f32s("logits"));
    close("predicted IoU", &host(masks.predicted_iou), &case.f32s("predicted_iou"));
    close("object", &host(masks.object.expect("SAM 2 says so")), &case.f32s("object"));

    let mask = made_up("image.mask", &[1, 1, side / 4, side / 4]);
    let mask: Vec<f32> = mask.values.iter().map(|value| value * 4.0).collect();
    let mask = Tensor::from_data(TensorData::new(mask, [1, side / 4, side / 4]), &device);
    let refined = network.refine(&image, &prompts[..1], mask, MaskChoice::All);
    close("logits on a mask", &some_logits(refined.logits), &case.f32s("refined"));
}

#[test]
fn tiny_gives_the_packages_values() {
    check("sam2", HieraConfig::tiny());
}

#[test]
fn the_other_sizes_give_the_packages_values() {
    for (case, config) in [
        ("sam2/small", HieraConfig::small()),
        ("sam2/base_plus", HieraConfig::base_plus()),
        ("sam2/large", HieraConfig::large()),
    ] {
        check(case, HieraConfig { input_size: 256, ..config });
    }
}
