//! The marks of the real validation sample: what is reached without looking, and by the teacher.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use sensei_data::crop::crop_mask;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::prompt_source::Prompt;
use sensei_eval::evaluate::{Candidate, EvalError, EvalItem, Predictor, evaluate};
use sensei_eval::floors::{filled_box, fit_centred_disc, fit_constant_mask, grid_ceiling, inscribed_ellipse};
use sensei_eval::metric::Metric;
use sensei_eval::score::{EvalSample, Prediction, SampleCrop};
use sensei_samples::selection::{LeftOut, LeftOutReason};

const ROI: CropRule = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };

fn load(shared: &Path, split: &str) -> Dataset {
    let coco = shared.join("data/coco");
    let annotations = coco.join(format!("annotations/instances_{split}.json"));
    Dataset::load_coco(&annotations, &coco.join("images").join(split)).expect("the shared sample is sound")
}

fn candidates(dataset: &Dataset) -> Vec<Result<Candidate<()>, EvalError>> {
    let candidate = |(idx, instance): (usize, &sensei_data::dataset::Instance)| {
        let annotation_id = instance.id;
        let left_out = |reason| Candidate::LeftOut(LeftOut { annotation_id, reason });
        if instance.is_crowd {
            return left_out(LeftOutReason::Crowd);
        }
        let image = &dataset.images[instance.image_idx];
        let truth_in_image = dataset.mask(idx).expect("the shared sample is sound");
        let mask = truth_in_image.to_mask();
        let geometry = match ROI.crop(Prompt::Box(instance.bbox), image.size) {
            Ok(geometry) => geometry,
            Err(error) => return left_out(error.into()),
        };
        let sample = EvalSample {
            annotation_id,
            image_id: image.id,
            category_id: instance.category_id,
            area: instance.area,
            bbox: instance.bbox,
            image_size: image.size,
            competitors: 0,
            rarity: None,
            truth_in_image,
            crop: Some(SampleCrop { geometry, truth: crop_mask(&mask, &geometry) }),
        };
        Candidate::Item(EvalItem { sample, input: () })
    };
    dataset.instances.iter().enumerate().map(candidate).map(Ok).collect()
}

fn check(what: &str, got: Option<f64>, expected: f64, tolerance: f64) {
    let got = got.unwrap_or(f64::NAN);
    assert!((got - expected).abs() <= tolerance, "{what}: got {got:.5}, expected {expected} within {tolerance}");
}

/// Expected values: numpy, Pillow and pycocotools on the same 915 instances. The crop marks are published to three digits;
/// 1e-4 leaves room for their
/// rounding and for a pixel on the border of a shape, not for another rule.
#[test]
fn floors_of_the_real_sample() {
    let Some(shared) = sensei_testing::shared_dir("floors_of_the_real_sample") else { return };
    let train = candidates(&load(&shared, "train"));
    let truths: Vec<&[u8]> = train
        .iter()
        .filter_map(|candidate| match candidate {
            Ok(Candidate::Item(item)) => item.sample.crop.as_ref().map(|crop| crop.truth.as_slice()),
            _ => None,
        })
        .collect();
    let disc = fit_centred_disc(&truths, 96).unwrap();
    let constant = fit_constant_mask(&truths, 96).unwrap();
    assert_eq!(truths.len(), 2609);
    check("disc's radius", Some(disc.fitted), 33.948, 1e-3);
    check("constant mask's share", Some(constant.fitted), 0.3108, 1e-4);

    let each = |floor: fn(&EvalSample) -> Prediction| {
        move |items: &[EvalItem<()>]| Ok(items.iter().map(|item| floor(&item.sample)).collect())
    };
    let same =
        |prediction: Prediction| move |items: &[EvalItem<()>]| Ok(items.iter().map(|_| prediction.clone()).collect());
    let mut predictors = [
        Predictor { name: "disc".to_string(), predict: Box::new(same(disc.prediction())) },
        Predictor { name: "constant".to_string(), predict: Box::new(same(constant.prediction())) },
        Predictor { name: "box".to_string(), predict: Box::new(each(filled_box)) },
        Predictor { name: "ellipse".to_string(), predict: Box::new(each(inscribed_ellipse)) },
        Predictor { name: "ceiling".to_string(), predict: Box::new(each(grid_ceiling)) },
    ];
    let evaluation = evaluate::<(), EvalError>(candidates(&load(&shared, "val")), &mut predictors, 64).unwrap();
    let count = |reason| evaluation.left_out.iter().filter(|left_out| left_out.reason == reason).count();
    assert_eq!(count(LeftOutReason::Crowd), 11);
    assert_eq!(count(LeftOutReason::RoiTooSmall), 1);
    assert_eq!((evaluation.scores[0].instances.len(), evaluation.left_out.len()), (915, 12));

    let marks = [
        ("disc", 0.429584, None),
        ("constant", 0.434378, None),
        ("box", 0.5729, Some(0.5754)),
        ("ellipse", 0.6093, Some(0.6120)),
        ("ceiling", 1.0, None),
    ];
    for (scores, (name, in_crop, in_image)) in evaluation.scores.iter().zip(marks) {
        check(&format!("{name} in crop"), Metric::MeanIouInCrop.of(&scores.instances), in_crop, 1e-4);
        if let Some(in_image) = in_image {
            check(&format!("{name} in image"), Metric::MeanIouInImage.of(&scores.instances), in_image, 1e-4);
        }
    }
    let ceiling = Metric::MeanIouInImage.of(&evaluation.scores[4].instances).unwrap();
    assert!((0.97..1.0).contains(&ceiling), "the grid's ceiling in the image: {ceiling}");
}

/// The teacher's stored answers, 444 instances: .713 in the crop; at full resolution, before they were stored on 96 x 96
/// pixels, .71499.
#[test]
fn the_teacher_on_the_real_sample() {
    let Some(shared) = sensei_testing::shared_dir("the_teacher_on_the_real_sample") else { return };
    let bytes =
        std::fs::read(shared.join("data/teacher_cache/roi96_box_val.safetensors")).expect("shared teacher answers");
    let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
    let data = |name: &str| tensors.tensor(name).expect("a known tensor").data();
    let logits =
        data("logits_i8").chunks(96 * 96).map(|bytes| bytes.iter().map(|&b| f32::from(b as i8) * 0.125).collect());
    let ids = data("ann_id").as_chunks::<8>().0.iter().map(|&id| i64::from_le_bytes(id) as u64);
    let answers: BTreeMap<u64, Vec<f32>> = ids.zip(logits).collect();

    let candidates = candidates(&load(&shared, "val")).into_iter().map(|candidate| match candidate {
        Ok(Candidate::Item(item)) if !answers.contains_key(&item.sample.annotation_id) => {
            Ok(Candidate::LeftOut(LeftOut {
                annotation_id: item.sample.annotation_id,
                reason: LeftOutReason::NoTeacherRecord,
            }))
        }
        candidate => candidate,
    });
    let teacher = |items: &[EvalItem<()>]| {
        let answer = |item: &EvalItem<()>| Prediction::CropLogits(answers[&item.sample.annotation_id].clone());
        Ok(items.iter().map(answer).collect())
    };
    let mut predictors = [Predictor { name: "teacher".to_string(), predict: Box::new(teacher) }];
    let evaluation = evaluate::<(), EvalError>(candidates, &mut predictors, 64).unwrap();
    let instances = &evaluation.scores[0].instances;
    assert_eq!(instances.len(), 444);
    check("teacher in crop", Metric::MeanIouInCrop.of(instances), 0.71345, 2e-4);
    check("teacher in image", Metric::MeanIouInImage.of(instances), 0.71499, 5e-3);
}
