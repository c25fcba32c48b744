//! A student of the SAM family: the same masks as the network that its decoder is of, gradients where it is trained, and its tensors.

#[allow(dead_code, reason = "of the helpers these tests need four")]
mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{host, made_up, prompts, weights};
use sensei_sam::granularity::{GRANULARITY, fresh_granularity};
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::mobile_sam::{EncodedImage, MobileSam};
use sensei_sam::prompted::{MASK_DECODER, PROMPT_ENCODER};
use sensei_sam::student::{PromptableStudent, SCORE_HEAD};
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::pyramid::EMBEDDING;
use sensei_student::student::{Student, WEIGHTS};
use sensei_tensor::network::{Inputs, NamedWeights, Network, Pass};
use sensei_tensor::prompts::{Decode, MaskTokens, Promptable};
use sensei_testing::golden;

/// A small encoder before the decoder of these tensors.
fn student(tensors: &NamedWeights, device: &Device) -> PromptableStudent {
    let config = LiteFpnConfig { input_size: 128, encoder_blocks: 1, pyramid_channels: 16, refine_blocks: 0 };
    let encoder = Student::new(config.graph().expect("a valid setting"), 3, device);
    PromptableStudent::new(Box::new(encoder), EMBEDDING, "made up", tensors).expect("a decoder's tensors")
}

fn image(device: &Device) -> Tensor<4> {
    let values = made_up("image.student", &[2, 3, 128, 128]).values;
    Tensor::from_data(TensorData::new(values, [2, 3, 128, 128]), device)
}

#[test]
fn its_decoder_is_the_published_one() {
    let case = golden("sam");
    let (tensors, device) = (weights(&case), Device::flex());
    let (network, student) =
        (MobileSam::new("made up", &tensors, &device).expect("MobileSAM"), student(&tensors, &device));
    let embedding = made_up("image.embedding", &[1, 256, 64, 64]).values;
    let embedding: Tensor<4> = Tensor::from_data(TensorData::new(embedding, [1, 256, 64, 64]), &device);
    let cells = embedding.clone().reshape([1, 256, 4096]).swap_dims(1, 2);
    let expected = network.decode(&EncodedImage { embedding: cells }, &prompts(&case), MaskChoice::All);
    let found = student.decode(embedding.clone(), &prompts(&case), MaskTokens::All);
    assert_eq!(host(found.masks.0.clone()), host(expected.logits.clone()));
    assert_eq!(host(found.scores), host(expected.predicted_iou));
    let single = student.decode(embedding, &prompts(&case), MaskTokens::Single);
    assert_eq!(host(single.masks.0), host(expected.logits.narrow(1, 0, 1)));
}

#[test]
fn gradients_reach_what_is_trained_through_what_is_frozen() {
    let case = golden("sam");
    let device = Device::flex().autodiff();
    let mut student = student(&weights(&case), &device);
    // As a stage does that trains the encoder alone.
    for group in student.groups_mut().into_iter().skip(1) {
        for parameter in &mut group.parameters {
            parameter.values = Tensor::from_inner(parameter.values.clone().inner());
        }
    }
    let encoded =
        student.encode(Inputs { images: image(&device), taps: &["fpn0.0".into()] }, Pass::Train).expect("its tap");
    assert_eq!((encoded.embedding.dims(), encoded.taps[0].dims()), ([2, 256, 64, 64], [2, 16, 64, 64]));
    assert_eq!(encoded.norm_stats.len(), 4);
    let answer = student.decode(encoded.embedding.narrow(0, 1, 1), &prompts(&case)[..1], MaskTokens::All);
    let mut found = (answer.masks.0.clone() * answer.masks.0).mean().backward();
    let has_gradient = |group: &&sensei_tensor::network::ParameterGroup, found: &mut burn::tensor::Gradients| {
        let gradients = group.parameters.iter().map(|parameter| parameter.values.grad_remove(found));
        gradients
            .map(|gradient| gradient.is_some_and(|gradient| host(gradient).iter().any(|value| *value != 0.0)))
            .collect()
    };
    let of_groups: Vec<Vec<bool>> = student.groups().iter().map(|group| has_gradient(group, &mut found)).collect();
    assert!(of_groups[0].iter().filter(|has| **has).count() > of_groups[0].len() / 2, "the encoder learns");
    assert!(of_groups[1..].iter().flatten().all(|has| !has), "the decoder is frozen");
}

#[test]
fn groups_have_every_tensor_once_and_take_them_back() {
    let case = golden("sam");
    let (tensors, device) = (weights(&case), Device::flex());
    let mut own = student(&tensors, &device);
    let names: Vec<&str> = own.groups().into_iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, [WEIGHTS, MASK_DECODER, SCORE_HEAD, PROMPT_ENCODER]);
    let (decoder, prompts_tensors) = (own.tensors(MASK_DECODER), own.tensors(PROMPT_ENCODER));
    let n_published =
        tensors.keys().filter(|name| name.starts_with("mask_decoder.") || name.starts_with("prompt_encoder.")).count();
    assert_eq!(decoder.len() + own.tensors(SCORE_HEAD).len() + prompts_tensors.len(), n_published);
    assert!(prompts_tensors.contains_key("mask_decoder.iou_token.weight"), "tokens are shared, not trained");
    assert!(decoder.iter().all(|(name, tensor)| tensors[name] == *tensor));

    let embedding: Tensor<4> = Tensor::ones([1, 256, 64, 64], &device);
    let before = host(own.decode(embedding.clone(), &prompts(&case), MaskTokens::Single).masks.0);
    let mut changed = decoder.clone();
    changed.values_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value *= 1.01));
    own.set_tensors(MASK_DECODER, changed).expect("its own tensors");
    assert_ne!(host(own.decode(embedding.clone(), &prompts(&case), MaskTokens::Single).masks.0), before);
    own.set_tensors(MASK_DECODER, decoder.clone()).expect("its own tensors");
    assert_eq!(host(own.decode(embedding, &prompts(&case), MaskTokens::Single).masks.0), before);

    let mut refused = |edit: &dyn Fn(&mut NamedWeights)| {
        let mut tensors = decoder.clone();
        edit(&mut tensors);
        let error = own.set_tensors(MASK_DECODER, tensors).expect_err("refused");
        std::error::Error::source(&error).expect("a cause").to_string()
    };
    let name = "mask_decoder.output_hypernetworks_mlps.0.layers.0.bias";
    let words = refused(&|tensors| drop(tensors.remove(name)));
    assert_eq!(words, format!("weights: {name}: expected a tensor of shape [256], found none"));
    let words = refused(&|tensors| tensors.get_mut(name).expect("it").values[3] = f32::NAN);
    assert_eq!(words, format!("weights: {name}[3]: expected a finite number, found NaN"));
    let words = refused(&|tensors| drop(tensors.insert("mask_decoder.x".into(), tensors[name].clone())));
    assert!(words.contains("mask_decoder.x: expected no such tensor"), "{words}");
}

#[test]
fn parts_that_are_no_student_are_refused() {
    let case = golden("sam");
    let (tensors, device) = (weights(&case), Device::flex());
    let config = LiteFpnConfig { input_size: 128, encoder_blocks: 1, pyramid_channels: 16, refine_blocks: 0 };
    let refused = |tap: &str, tensors: &NamedWeights| {
        let encoder = Student::new(config.graph().expect("a valid setting"), 3, &device);
        let made = PromptableStudent::new(Box::new(encoder), tap, "file", tensors);
        made.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let words = refused("fpn0.0", &tensors);
    assert!(
        words.contains("expected 256 channels on a square grid, which the decoder reads, found [16, 64, 64]"),
        "{words}"
    );
    assert!(refused("neck", &tensors).contains("tap \"neck\": expected one of encoder._conv_stem [32, 64, 64]"));
    let mut less = tensors.clone();
    less.remove("prompt_encoder.no_mask_embed.weight");
    assert!(refused(EMBEDDING, &less).contains("file: prompt_encoder.no_mask_embed.weight: expected a tensor"));
    let mut more = tensors;
    more.insert("mask_decoder.hq_token.weight".into(), made_up("x", &[1, 256]));
    assert!(refused(EMBEDDING, &more).contains("mask_decoder.hq_token.weight: expected no such tensor"));
}

#[test]
fn boxes_are_proposed_for_every_anchor_and_learn() {
    let case = golden("sam");
    let device = Device::flex().autodiff();
    let student = student(&weights(&case), &device);
    assert!(student.proposer().is_none());
    let tensors = fresh_granularity(3);
    assert_eq!(tensors, fresh_granularity(3));
    let student = student.with_granularity(&tensors).expect("its tensors");
    let proposer = student.proposer().expect("a student that proposes");
    let anchors = proposer.anchors();
    assert_eq!(anchors.len(), 9 * (64 * 64 + 32 * 32 + 16 * 16 + 8 * 8));
    // The first cell's, of four cells' side; the last level's last cell.
    assert_eq!(anchors[..2], [[8.0, 8.0, 64.0, 64.0], [8.0, 8.0, 64.0 * 1.4, 64.0 * 0.7]]);
    assert_eq!(anchors[anchors.len() - 9], [960.0, 960.0, 512.0, 512.0]);
    let embedding = made_up("image.embedding", &[2, 256, 64, 64]).values;
    let embedding: Tensor<4> = Tensor::from_data(TensorData::new(embedding, [2, 256, 64, 64]), &device);
    let found = proposer.propose(embedding);
    assert_eq!((found.scores.dims(), found.deltas.dims()), ([2, anchors.len()], [2, anchors.len(), 4]));
    let mean = host(found.scores.clone()).iter().sum::<f32>() / (2 * anchors.len()) as f32;
    assert!((mean + 99f32.ln()).abs() < 1.0, "at first nothing is an object: {mean}");
    let total = found.scores.powf_scalar(2.0).mean() + found.deltas.powf_scalar(2.0).mean();
    let mut gradients = total.backward();
    let groups = student.groups();
    for parameter in &groups[4].parameters {
        assert!(parameter.values.grad_remove(&mut gradients).is_some(), "{}: no gradient", parameter.name);
    }
    assert_eq!(groups[4].name, GRANULARITY);
}
