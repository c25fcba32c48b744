//! SAM 2.1 Tiny against the package sam2, with made-up weights: none are at hand.

mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, prompts, some_features, some_logits, weights};
use sensei_sam::hiera::HieraConfig;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::sam2::Sam2;
use sensei_tensor::network::HostTensor;
use sensei_testing::golden;

#[test]
fn made_up_weights_give_the_packages_values() {
    let case = golden("sam2");
    let (device, mut weights) = (Device::flex(), weights(&case));
    // Published files have this and more for video.
    weights.insert("memory_attention.norm.weight".into(), HostTensor { shape: vec![256], values: vec![1.0; 256] });
    let network = Sam2::new(HieraConfig::tiny(), "made up", &weights, &device).expect("SAM 2.1 Tiny's tensors");
    let image = made_up("image.pixels", &[1, 1024, 1024, 3]);
    let image = network.encode(Tensor::from_data(TensorData::new(image.values, [1, 1024, 1024, 3]), &device));
    close("embedding", &some_features(image.embedding.clone().reshape([1, 64, 64, 256])), &case.f32s("embedding"));
    let [quarter, eighth] = image.fine.clone();
    close("quarter", &some_features(quarter), &case.f32s("quarter"));
    close("eighth", &some_features(eighth), &case.f32s("eighth"));

    let prompts = prompts(&case);
    let masks = network.decode(&image, &prompts, MaskChoice::All);
    close("logits", &some_logits(masks.logits), &case.f32s("logits"));
    close("predicted IoU", &host(masks.predicted_iou), &case.f32s("predicted_iou"));
    close("object", &host(masks.object.expect("SAM 2 says so")), &case.f32s("object"));

    let mask: Vec<f32> = made_up("image.mask", &[1, 1, 256, 256]).values.iter().map(|value| value * 4.0).collect();
    let mask = Tensor::from_data(TensorData::new(mask, [1, 256, 256]), &device);
    let refined = network.refine(&image, &prompts[..1], mask, MaskChoice::All);
    close("logits on a mask", &some_logits(refined.logits), &case.f32s("refined"));
}
