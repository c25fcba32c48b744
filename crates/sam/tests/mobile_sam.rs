//! MobileSAM against values of its own PyTorch modules, and weights that are not its own.

mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, prompts, some_features, some_logits, weights};
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::mobile_sam::{EncodedImage, MobileSam};
use sensei_sam::prompt_encoder::{PointLabel, PromptEncoder, PromptPoint};
use sensei_sam::scope::Tensors;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_testing::{Tolerance, assert_close, golden, shared_dir};

/// The weights of the shared folder, widened from 16 bits, and the values that PyTorch computes with them, from an embedding that the
/// published weights of 32 bits made.
struct Golden {
    weights: NamedWeights,
    values: NamedWeights,
    embedding: HostTensor,
}

fn pytorchs(test: &str) -> Option<Golden> {
    let shared = shared_dir(test)?;
    let read = |path: &str| read_weights(&shared.join(path)).expect("a file of the shared folder").tensors;
    let weights = read("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors");
    let mut published = read("data/teacher_cache/golden_teacher.safetensors");
    let embedding = published.remove("embedding.358083").expect("the image's embedding");
    Some(Golden { weights, values: read("golden/mobilesam/f16weights.safetensors"), embedding })
}

/// `[channels, cells]` to `[1, cells, channels]`.
fn cells(embedding: &HostTensor, device: &Device) -> Tensor<3> {
    let channels = embedding.shape[0];
    let flat: Tensor<2> = Tensor::from_data(
        TensorData::new(embedding.values.clone(), [channels, embedding.values.len() / channels]),
        device,
    );
    flat.swap_dims(0, 1).unsqueeze()
}

fn prompt(points: &HostTensor, name: &str) -> Vec<PromptPoint> {
    let labels: &[PointLabel] = match name.rsplit('.').next() {
        Some("box") => &[PointLabel::UpperLeft, PointLabel::LowerRight],
        Some("box_pad") => &[PointLabel::UpperLeft, PointLabel::LowerRight, PointLabel::Padding],
        _ => &[PointLabel::Foreground, PointLabel::Padding],
    };
    let points = points.values.as_chunks::<2>().0.iter().zip(labels);
    points.map(|(&[x, y], &label)| PromptPoint { x: x.into(), y: y.into(), label }).collect()
}

/// Batch norms are not fused here, as in published checkpoints, and PyTorch computes in double precision.
#[test]
fn made_up_weights_give_pytorchs_values() {
    let case = golden("sam");
    let (device, weights) = (Device::flex(), weights(&case));
    let network = MobileSam::new("made up", &weights, &device).expect("MobileSAM's tensors");
    let image = made_up("image.pixels", &[1, 1024, 1024, 3]);
    let image = Tensor::from_data(TensorData::new(image.values, [1, 1024, 1024, 3]), &device);
    let taps: Vec<String> = network.taps().into_iter().map(|tap| tap.name).collect();
    let (images, features) = network.encode(image, &taps).expect("its own taps");
    for (name, features) in taps.iter().zip(features) {
        close(name, &some_features(features), &case.f32s(&format!("tap.{name}")));
    }
    let prompts = prompts(&case);
    let masks = network.decode(&images[0], &prompts, MaskChoice::All);
    close("tokens", &host(masks.tokens), &case.f32s("tokens_out"));
    close("logits", &some_logits(masks.logits), &case.f32s("logits"));
    close("predicted IoU", &host(masks.predicted_iou), &case.f32s("predicted_iou"));

    let mask: Vec<f32> = made_up("image.mask", &[1, 1, 256, 256]).values.iter().map(|value| value * 4.0).collect();
    let mask = Tensor::from_data(TensorData::new(mask, [1, 256, 256]), &device);
    let refined = network.refine(&images[0], &prompts[..1], mask, MaskChoice::All);
    close("logits on a mask", &some_logits(refined.logits), &case.f32s("refined"));
}

#[test]
fn masks_are_pytorchs() {
    let Some(Golden { weights, values, embedding }) = pytorchs("masks_are_pytorchs") else { return };
    for device in [Device::flex().autodiff(), Device::flex()] {
        let network = MobileSam::new("the shared folder", &weights, &device).expect("MobileSAM's tensors");
        let image = EncodedImage { embedding: cells(&embedding, &device) };
        let mut n_prompts = 0;
        for (name, points) in &values {
            let Some(name) = name.strip_prefix("points_1024.") else { continue };
            // With gradients, burn's own operators: one prompt of each kind tells enough.
            if device.is_autodiff() && n_prompts == 3 {
                break;
            }
            n_prompts += 1;
            let masks = network.decode(&image, &[prompt(points, name)], MaskChoice::All);
            let of = |what: &str| &values[&format!("{what}.{name}")].values;
            let within = |absolute| Tolerance { absolute, relative: 0.0 };
            assert_close(&format!("tokens of {name}"), &host(masks.tokens), of("tokens_out"), within(5e-5));
            assert_close(&format!("logits of {name}"), &host(masks.logits), of("masks4"), within(2e-3));
            assert_close(&format!("IoU of {name}"), &host(masks.predicted_iou), of("iou4"), within(1e-4));
        }
        assert!(n_prompts >= 3, "{n_prompts} prompts");
    }
}

/// The published weights of 32 bits in onnxruntime, from their own embeddings: rounding the weights to 16 bits alone moves logits by up to
/// 0.115.
#[test]
fn masks_are_those_of_the_published_weights() {
    let Some(shared) = shared_dir("masks_are_those_of_the_published_weights") else { return };
    let read = |path: &str| read_weights(&shared.join(path)).expect("a file of the shared folder").tensors;
    let weights = read("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors");
    let published = read("data/teacher_cache/golden_teacher.safetensors");
    let points = read("golden/mobilesam/f16weights.safetensors");
    let device = Device::flex();
    let network = MobileSam::new("the shared folder", &weights, &device).expect("MobileSAM's tensors");
    let image = EncodedImage { embedding: cells(&published["embedding.358083"], &device) };
    let mut n_prompts = 0;
    for (name, points) in &points {
        let Some(name) = name.strip_prefix("points_1024.").filter(|name| name.ends_with("box_pad")) else { continue };
        let masks = network.decode(&image, &[prompt(points, name)], MaskChoice::Single);
        let within = Tolerance { absolute: 0.15, relative: 0.0 };
        assert_close(name, &host(masks.logits), &published[&format!("low_res.{name}")].values, within);
        n_prompts += 1;
    }
    assert_eq!(n_prompts, 3);
}

#[test]
fn prompts_are_pytorchs_tokens() {
    let Some(Golden { weights, values, .. }) = pytorchs("prompts_are_pytorchs_tokens") else { return };
    let device = Device::flex();
    let tensors = Tensors::new("the shared folder", &weights, &device);
    let encoder = PromptEncoder::sam(1024, 64, &tensors.root().at("prompt_encoder")).expect("its tensors");
    for (name, points) in &values {
        let Some(name) = name.strip_prefix("points_1024.") else { continue };
        let (found, expected) = (encoder.tokens(&[prompt(points, name)]), &values[&format!("sparse.{name}")].values);
        assert_close(name, &host(found), expected, Tolerance { absolute: 2e-6, relative: 0.0 });
    }
}

#[test]
fn prompts_of_a_batch_are_answered_as_alone() {
    let Some(Golden { weights, values, embedding }) = pytorchs("prompts_of_a_batch_are_answered_as_alone") else {
        return;
    };
    let device = Device::flex();
    let network = MobileSam::new("the shared folder", &weights, &device).expect("MobileSAM's tensors");
    let image = EncodedImage { embedding: cells(&embedding, &device) };
    let prompts: Vec<_> = values
        .iter()
        .filter_map(|(name, points)| name.strip_prefix("points_1024.").map(|name| (name, points)))
        .filter(|(name, _)| name.ends_with("box_pad"))
        .map(|(name, points)| prompt(points, name))
        .collect();
    let together = network.decode(&image, &prompts, MaskChoice::Multiple);
    let together = (host(together.logits), host(together.predicted_iou));
    let len = together.0.len() / prompts.len();
    for (idx, prompt) in prompts.iter().enumerate() {
        let alone = network.decode(&image, std::slice::from_ref(prompt), MaskChoice::Multiple);
        assert_eq!(host(alone.logits), together.0[idx * len..][..len], "prompt {idx}");
        assert_eq!(host(alone.predicted_iou), together.1[idx * 3..][..3], "prompt {idx}");
    }
}

#[test]
fn other_tensors_are_refused_by_name() {
    let Some(Golden { weights, .. }) = pytorchs("other_tensors_are_refused_by_name") else { return };
    let check = |change: &dyn Fn(&mut NamedWeights), expected: &str| {
        let mut changed = weights.clone();
        change(&mut changed);
        let error = MobileSam::new("x.safetensors", &changed, &Device::flex()).err().expect(expected);
        assert_eq!(error.to_string(), expected);
    };
    let name = "mask_decoder.transformer.layers.1.mlp.lin1.bias";
    check(
        &|weights| drop(weights.remove(name)),
        "x.safetensors: mask_decoder.transformer.layers.1.mlp.lin1.bias: expected a tensor of shape [2048], found none",
    );
    check(
        &|weights| weights.get_mut(name).expect("there").values[7] = f32::NAN,
        "x.safetensors: mask_decoder.transformer.layers.1.mlp.lin1.bias[7]: expected a finite number, found NaN",
    );
    check(
        &|weights| {
            weights.insert(name.into(), HostTensor { shape: vec![3], values: vec![0.0; 3] });
        },
        "x.safetensors: mask_decoder.transformer.layers.1.mlp.lin1.bias: expected shape [2048], found [3]",
    );
    check(
        &|weights| {
            weights.insert(
                "mask_decoder.pred_obj_score_head.weight".into(),
                HostTensor { shape: vec![1, 256], values: vec![0.0; 256] },
            );
            weights.insert("memory_encoder.x".into(), HostTensor { shape: vec![1], values: vec![0.0] });
        },
        "x.safetensors: mask_decoder.pred_obj_score_head.weight: expected no such tensor in this network, found one of shape [1, 256] \
         (and 1 more)",
    );
    let bias = "image_encoder.patch_embed.seq.0.c.bias";
    check(
        &|weights| {
            weights.retain(|name, _| name != bias && !name.starts_with("image_encoder.patch_embed.seq.0.bn."));
        },
        "x.safetensors: image_encoder.patch_embed.seq.0.c.bias or bn.*: expected a tensor of shape [32], found none",
    );
    check(
        &|weights| weights.clear(),
        "x.safetensors: image_encoder.patch_embed.seq.0.c.weight: expected a tensor of shape [32, 3, 3, 3], found none",
    );
}
