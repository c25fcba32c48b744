//! Instances for the tests of this crate.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sensei_data::crop::{CropGeometry, crop_mask};
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;

use crate::evaluate::PredictorScores;
use crate::protocol::{EvalProtocol, MaskChoice, SCORING, Space};
use crate::score::{EvalSample, InstanceScore, Overlap, Rarity, SampleCrop, Stratum};
use sensei_samples::selection::{CrowdRule, EmptyTruthRule};

pub(crate) fn sample(annotation_id: u64, truth: &Mask, geometry: CropGeometry) -> EvalSample {
    EvalSample {
        annotation_id,
        image_id: annotation_id / 10,
        category_id: 1,
        area: truth.area() as f64,
        bbox: [0.0, 0.0, f64::from(truth.size.width), f64::from(truth.size.height)],
        image_size: truth.size,
        competitors: 0,
        rarity: None,
        truth_in_image: Rle::from_mask(truth),
        crop: Some(SampleCrop { geometry, truth: crop_mask(truth, &geometry) }),
    }
}

/// The same overlap, `[intersection, truth, prediction]`, in both spaces.
pub(crate) fn instance(annotation_id: u64, image_id: u64, stratum: Stratum, overlap: [u64; 3]) -> InstanceScore {
    let overlap = Overlap::try_from(overlap).unwrap();
    InstanceScore {
        annotation_id,
        image_id,
        category_id: 1,
        stratum,
        competitors: (annotation_id % 5) as u32,
        rarity: [Some(Rarity::R), Some(Rarity::C), Some(Rarity::F)][annotation_id as usize % 3],
        in_crop: Some(overlap),
        in_image: overlap,
    }
}

/// `n_images` images with one to five instances each, of all strata, with IoU between `quality` and 1.
pub(crate) fn run(predictor: &str, n_images: u64, quality: f64, seed: u64) -> PredictorScores {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = |n: u64| (u64::from(rng.next_u32()) * n) >> 32;
    let mut instances = Vec::new();
    for image_id in 0..n_images {
        for nth in 0..=image_id % 5 {
            let intersection = (quality * 1000.0) as u64 + uniform(((1.0 - quality) * 1000.0) as u64 + 1);
            let stratum = [Stratum::S, Stratum::M, Stratum::L][((image_id + nth) % 3) as usize];
            instances.push(instance(10 * image_id + nth, image_id, stratum, [intersection, 1000, intersection]));
        }
    }
    PredictorScores { predictor: predictor.to_string(), instances }
}

pub(crate) fn protocol() -> EvalProtocol {
    EvalProtocol {
        name: "picosam3-roi96".to_string(),
        dataset: "00ff".to_string(),
        subset: "all".to_string(),
        prompt: "box".to_string(),
        crop: Some("roi-96-pad0.1-reference".to_string()),
        space: Space::Crop,
        min_area: 0.0,
        crowd: CrowdRule::LeftOut,
        empty_truth: EmptyTruthRule::LeftOut,
        n_unusable: 0,
        mask_choice: MaskChoice::Single,
        scoring: SCORING,
    }
}
