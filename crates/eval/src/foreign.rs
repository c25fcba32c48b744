//! Masks that another program made for the prompts of a protocol, scored as a student's are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;
use sensei_data::crop::crop_rle;
use sensei_data::dataset::{Dataset, DatasetError};
use sensei_data::detections::{DetectionError, Detections};
use sensei_samples::selection::{LeftOut, SelectionError, SelectionRules};

use crate::bootstrap::BootstrapConfig;
use crate::evaluate::{Candidate, EvalError, EvalItem, Predictor, evaluate};
use crate::floors::{filled_box, grid_ceiling, inscribed_ellipse};
use crate::paired::PairingError;
use crate::protocol::{MaskChoice, ProtocolRules};
use crate::report::EvalReport;
use crate::score::{EvalSample, Prediction, SampleCrop};

/// A result file's scores, beside the floors that need no training data.
#[derive(Debug)]
pub struct ForeignScores {
    /// The scores.
    pub report: EvalReport,
    /// Masks for annotations that the protocol does not score.
    pub n_not_scored: usize,
    /// Masks that another of the same annotation was chosen before.
    pub n_not_chosen: usize,
}

/// A result file that cannot be scored by a protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// A mask that does not say what it answers.
    #[error("{}: detection {detection_idx}: expected annotation_id, the annotation whose prompt it answers, found none", path.display())]
    NoAnnotation {
        /// The result file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
    },
    /// A mask for an annotation of another image, or of none.
    #[error("{}: detection {detection_idx}: expected an annotation of its image, found annotation {annotation_id}", path.display())]
    OtherImage {
        /// The result file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// The annotation it names.
        annotation_id: u64,
    },
    /// Several masks for one prompt where the protocol allows one.
    #[error("{}: detection {detection_idx}: expected one mask for annotation {annotation_id}, found another", path.display())]
    SecondMask {
        /// The result file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// The annotation.
        annotation_id: u64,
    },
    /// Instances that the protocol scores and the file does not answer: an average over the others would be another number.
    #[error("{}: expected a mask for each of {expected} instances, found none for {missing} (first: annotation {first})", path.display())]
    Missing {
        /// The result file.
        path: PathBuf,
        /// Instances that are scored.
        expected: usize,
        /// Those without a mask.
        missing: usize,
        /// The first of them.
        first: u64,
    },
    /// A mask of the result file.
    #[error(transparent)]
    Detection(#[from] DetectionError),
    /// A mask of the annotation file.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The subset.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The scores.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The differences.
    #[error(transparent)]
    Pairing(#[from] PairingError),
}

/// Scores the masks of a result file under `name`. Each says by `annotation_id` whose prompt it answers.
///
/// # Errors
/// See [`ForeignError`].
pub fn score_masks(
    dataset: &Dataset,
    detections: &Detections,
    name: &str,
    rules: &ProtocolRules,
    bootstrap: BootstrapConfig,
) -> Result<ForeignScores, ForeignError> {
    let (chosen, left_out) = rules.selection.select(dataset)?;
    let competitors = dataset.competitors();
    let item = |&idx: &usize| candidate(dataset, &rules.selection, idx, competitors[idx]);
    let mut candidates: Vec<Candidate<()>> = chosen.par_iter().map(item).collect::<Result<_, _>>()?;
    candidates.extend(left_out.into_iter().map(Candidate::LeftOut));

    let answers = answers(dataset, detections, rules.mask_choice)?;
    let scored = candidates.iter().filter_map(|candidate| match candidate {
        Candidate::Item(item) => Some(item.sample.annotation_id),
        Candidate::LeftOut(_) => None,
    });
    let (answered, missing): (Vec<u64>, Vec<u64>) = scored.partition(|id| answers.contains_key(id));
    if let Some(&first) = missing.iter().min() {
        let (path, expected) = (detections.path.clone(), answered.len() + missing.len());
        return Err(ForeignError::Missing { path, expected, missing: missing.len(), first });
    }
    let n_not_scored = answers.len() - answered.len();
    let n_not_chosen = detections.items.len() - answers.len();

    let masks = |items: &[EvalItem<()>]| {
        let mask = |item: &EvalItem<()>| {
            let mask = detections.mask(answers[&item.sample.annotation_id], dataset)?;
            Ok(Prediction::ImageMask(mask.to_mask()))
        };
        items.par_iter().map(mask).collect()
    };
    let mut predictors = vec![
        floor("filled_box", filled_box),
        floor("inscribed_ellipse", inscribed_ellipse),
        Predictor { name: name.to_string(), predict: Box::new(masks) },
    ];
    if rules.selection.crop.is_some() {
        predictors.insert(2, floor("grid_ceiling", grid_ceiling));
    }
    let evaluation = evaluate::<(), ForeignError>(candidates.into_iter().map(Ok), &mut predictors, BATCH)?;
    let differences = [("inscribed_ellipse", name)];
    let report =
        EvalReport::new(rules.on(dataset, rules.selection.subset.name()), evaluation, bootstrap, &differences)?;
    Ok(ForeignScores { report, n_not_scored, n_not_chosen })
}

/// An instance with its prompt, or why it has none.
fn candidate(
    dataset: &Dataset,
    rules: &SelectionRules,
    idx: usize,
    competitors: u32,
) -> Result<Candidate<()>, DatasetError> {
    let instance = &dataset.instances[idx];
    let truth = dataset.mask(idx)?;
    Ok(match rules.prompt_and_crop(instance, &truth) {
        Err(error) => Candidate::LeftOut(LeftOut { annotation_id: instance.id, reason: error.into() }),
        Ok((prompt, crop)) => {
            let bbox = prompt.bbox().unwrap_or(instance.bbox);
            let crop = crop.map(|geometry| SampleCrop { geometry, truth: crop_rle(&truth, &geometry) });
            Candidate::Item(EvalItem {
                sample: EvalSample::new(dataset, idx, bbox, competitors, truth, crop),
                input: (),
            })
        }
    })
}

/// The detection that counts for each annotation.
fn answers(
    dataset: &Dataset,
    detections: &Detections,
    choice: MaskChoice,
) -> Result<BTreeMap<u64, usize>, ForeignError> {
    let image_of: BTreeMap<u64, usize> =
        dataset.instances.iter().map(|instance| (instance.id, instance.image_idx)).collect();
    let mut answers: BTreeMap<u64, usize> = BTreeMap::new();
    for (detection_idx, detection) in detections.items.iter().enumerate() {
        let path = || detections.path.clone();
        let Some(annotation_id) = detection.annotation_id else {
            return Err(ForeignError::NoAnnotation { path: path(), detection_idx });
        };
        if image_of.get(&annotation_id) != Some(&detection.image_idx) {
            return Err(ForeignError::OtherImage { path: path(), detection_idx, annotation_id });
        }
        let Some(&before) = answers.get(&annotation_id) else {
            answers.insert(annotation_id, detection_idx);
            continue;
        };
        match choice {
            MaskChoice::Single => {
                return Err(ForeignError::SecondMask { path: path(), detection_idx, annotation_id });
            }
            MaskChoice::HighestScore if detection.score > detections.items[before].score => {
                answers.insert(annotation_id, detection_idx);
            }
            MaskChoice::HighestScore => {}
        }
    }
    Ok(answers)
}

fn floor<'a>(name: &str, answer: fn(&EvalSample) -> Prediction) -> Predictor<'a, (), ForeignError> {
    let predict = move |items: &[EvalItem<()>]| Ok(items.iter().map(|item| answer(&item.sample)).collect());
    Predictor { name: name.to_string(), predict: Box::new(predict) }
}

/// Instances whose masks are decoded at a time.
const BATCH: usize = 64;
