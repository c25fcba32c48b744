//! EfficientSAM and SAM 2.1 as teachers, with made-up weights: what a teacher says is what its network says.

#[allow(dead_code, reason = "of the helpers this file needs two")]
#[path = "../../sam/tests/made_up/mod.rs"]
mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{host, weights};
use sensei_answers::record::PromptPoint;
use sensei_data::geometry::Size;
use sensei_data::image_file::RgbImage;
use sensei_sam::hiera::HieraConfig;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::prompt_encoder::{PointLabel, PromptPoint as PointInFrame};
use sensei_sam::sam2::{Sam2, stable_mask_idx};
use sensei_teacher::teacher::Teacher;
use sensei_tensor::network::NamedWeights;
use sensei_testing::golden;

fn picture() -> RgbImage {
    let size = Size { width: 50, height: 40 };
    RgbImage { size, pixels: (0..size.n_pixels() * 3).map(|at| (at * 37 % 251) as u8).collect() }
}

fn the_box() -> Vec<PromptPoint> {
    PromptPoint::of_box([10.0, 8.0, 25.0, 20.0])
}

fn teacher(weights: &NamedWeights) -> Teacher {
    Teacher::native("made up", weights, "digest".into(), &Device::flex()).expect("a network that is known by its names")
}

#[test]
fn sam_2_is_asked_on_stretched_pictures_and_takes_the_stable_mask() {
    let weights = weights(&golden("sam2"));
    let teacher = teacher(&weights);
    assert_eq!((teacher.name(), teacher.pads_prompts()), ("SAM 2.1 Tiny", false));
    let seen = teacher.look(&picture(), &["embedding".into()]).expect("a look");
    assert_eq!(seen.features[0].shape, [256, 64, 64]);

    let network = Sam2::new(HieraConfig::tiny(), "made up", &weights, &Device::flex()).expect("SAM 2.1 Tiny");
    let pixels = TensorData::new(seen.frame.values.clone(), [1, 1024, 1024, 3]);
    let image = network.encode(Tensor::from_data(pixels, &Device::flex()));
    let at = |x: f64, y: f64, label| PointInFrame { x: x * 1024.0 / 50.0, y: y * 1024.0 / 40.0, label };
    let padding = PointInFrame { x: 0.0, y: 0.0, label: PointLabel::Padding };
    let prompt = vec![at(10.0, 8.0, PointLabel::UpperLeft), at(35.0, 28.0, PointLabel::LowerRight), padding];
    let masks = network.decode(&image, &[prompt], MaskChoice::All);
    let (logits, ious) = (host(masks.logits), host(masks.predicted_iou));

    let answer = |choice| teacher.answer(&seen, &[the_box()], 1, choice).expect("an answer").remove(0);
    let all = answer(MaskChoice::All);
    assert_eq!((all.logits.concat(), &all.predicted_iou), (logits.clone(), &ious));
    let stable = stable_mask_idx(&logits, &ious);
    let single = answer(MaskChoice::Single);
    assert_eq!((&single.logits[0], single.predicted_iou[0]), (&all.logits[stable], ious[stable]));
    assert_eq!(answer(MaskChoice::Multiple).logits, all.logits[1..]);
}

#[test]
fn efficient_sam_fills_prompts_up_itself() {
    let weights = weights(&golden("sam_efficient"));
    let teacher = teacher(&weights);
    assert_eq!((teacher.name(), teacher.pads_prompts()), ("EfficientSAM-Ti", true));
    let seen = teacher.look(&picture(), &[]).expect("a look");
    let answers = teacher.answer(&seen, &[the_box(), the_box()], 0, MaskChoice::Multiple).expect("answers");
    assert_eq!((answers.len(), answers[0].logits.len(), answers[0].logits[0].len()), (2, 3, 256 * 256));
    assert_eq!(answers[0].logits, answers[1].logits);
}

#[test]
fn networks_are_told_by_their_tensors() {
    let error = |weights: &NamedWeights| {
        Teacher::native("w.pt", weights, "digest".into(), &Device::flex()).err().expect("no network").to_string()
    };
    let mut sam2 = weights(&golden("sam2/small"));
    assert_eq!(teacher(&sam2).name(), "SAM 2.1 Small");
    sam2.remove("image_encoder.trunk.blocks.3.attn.qkv.bias");
    let expected = "taken for SAM 2.1 Small: w.pt: image_encoder.trunk.blocks.3.attn.qkv.bias: expected a tensor of shape [1152], found none";
    assert_eq!(error(&sam2), expected);
    let mut other = NamedWeights::new();
    other.insert("image_encoder.patch_embed.proj.weight".into(), made_up::made_up("x", &[100, 3, 16, 16]));
    let words =
        "w.pt: expected the tensors of MobileSAM, EfficientSAM-Ti or -S, or SAM 2.1 Tiny, Small, Base+ or Large";
    assert!(error(&other).starts_with(words));
}
