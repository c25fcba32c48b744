//! One pass over the samples, scored by every predictor: all are scored on the same instances.

use std::collections::BTreeSet;

use rayon::prelude::*;
use sensei_samples::selection::LeftOut;
use serde::{Deserialize, Serialize};

use crate::score::{EvalSample, InstanceScore, Prediction, ScoreError, score_against};

/// A sample together with what predictors need to answer it: crop pixels, a teacher record.
#[derive(Debug, Clone)]
pub struct EvalItem<T> {
    /// Truth and geometry.
    pub sample: EvalSample,
    /// Read by predictors only.
    pub input: T,
}

/// What became of one instance of the protocol's subset.
#[derive(Debug, Clone)]
pub enum Candidate<T> {
    /// To be scored.
    Item(EvalItem<T>),
    /// Not scored by any predictor; the report counts it.
    LeftOut(LeftOut),
}

/// Answers a batch: as many predictions as items, in their order.
pub type PredictFn<'a, T, E> = Box<dyn FnMut(&[EvalItem<T>]) -> Result<Vec<Prediction>, E> + 'a>;

/// A name and a function from a batch to its predictions.
pub struct Predictor<'a, T, E> {
    /// The row's name in reports.
    pub name: String,
    /// The function.
    pub predict: PredictFn<'a, T, E>,
}

/// Results of one predictor, sorted by annotation id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictorScores {
    /// Its name.
    pub predictor: String,
    /// One per instance.
    pub instances: Vec<InstanceScore>,
}

/// Results of all predictors on the same instances.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// In the order of the predictors.
    pub scores: Vec<PredictorScores>,
    /// Sorted by annotation id.
    pub left_out: Vec<LeftOut>,
}

/// An evaluation that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A prediction that cannot be scored.
    #[error("predictor {predictor}")]
    Score {
        /// Whose.
        predictor: String,
        /// What is wrong with it.
        source: ScoreError,
    },
    /// A predictor left samples unanswered.
    #[error("predictor {predictor}: expected {expected} predictions for a batch, found {found}")]
    PredictionCount {
        /// Whose.
        predictor: String,
        /// Items in the batch.
        expected: usize,
        /// Predictions returned.
        found: usize,
    },
    /// An instance would count twice.
    #[error("annotation {annotation_id}: expected once, found again")]
    DuplicateAnnotation {
        /// The instance.
        annotation_id: u64,
    },
    /// Two rows of one name could not be told apart.
    #[error("predictor {predictor}: expected distinct names, found it twice")]
    DuplicatePredictor {
        /// The name.
        predictor: String,
    },
}

/// Scores every predictor on every item, `batch` items at a time; the first error ends the evaluation.
///
/// # Panics
/// If `batch` is 0.
pub fn evaluate<T, E>(
    candidates: impl IntoIterator<Item = Result<Candidate<T>, E>>,
    predictors: &mut [Predictor<'_, T, E>],
    batch: usize,
) -> Result<Evaluation, E>
where
    T: Sync,
    E: From<EvalError>,
{
    assert!(batch > 0, "evaluate: items per batch");
    let mut evaluation = Evaluation { scores: no_scores(predictors)?, left_out: Vec::new() };
    let mut seen = BTreeSet::new();
    let mut items = Vec::with_capacity(batch);
    for candidate in candidates {
        let annotation_id = match candidate? {
            Candidate::Item(item) => {
                items.push(item);
                items[items.len() - 1].sample.annotation_id
            }
            Candidate::LeftOut(left_out) => {
                evaluation.left_out.push(left_out);
                left_out.annotation_id
            }
        };
        if !seen.insert(annotation_id) {
            return Err(EvalError::DuplicateAnnotation { annotation_id }.into());
        }
        if items.len() == batch {
            score_batch(&items, predictors, &mut evaluation.scores)?;
            items.clear();
        }
    }
    if !items.is_empty() {
        score_batch(&items, predictors, &mut evaluation.scores)?;
    }
    for scores in &mut evaluation.scores {
        scores.instances.sort_by_key(|instance| instance.annotation_id);
    }
    evaluation.left_out.sort_by_key(|left_out| left_out.annotation_id);
    Ok(evaluation)
}

fn no_scores<T, E: From<EvalError>>(predictors: &[Predictor<'_, T, E>]) -> Result<Vec<PredictorScores>, E> {
    let mut names = BTreeSet::new();
    if let Some(twice) = predictors.iter().find(|predictor| !names.insert(&predictor.name)) {
        return Err(EvalError::DuplicatePredictor { predictor: twice.name.clone() }.into());
    }
    let empty =
        |predictor: &Predictor<'_, T, E>| PredictorScores { predictor: predictor.name.clone(), instances: vec![] };
    Ok(predictors.iter().map(empty).collect())
}

fn score_batch<T, E>(
    items: &[EvalItem<T>],
    predictors: &mut [Predictor<'_, T, E>],
    scores: &mut [PredictorScores],
) -> Result<(), E>
where
    T: Sync,
    E: From<EvalError>,
{
    let mut predictions = Vec::with_capacity(predictors.len());
    for predictor in predictors.iter_mut() {
        let answers = (predictor.predict)(items)?;
        if answers.len() != items.len() {
            let (expected, found) = (items.len(), answers.len());
            return Err(EvalError::PredictionCount { predictor: predictor.name.clone(), expected, found }.into());
        }
        predictions.push(answers);
    }
    // Decoding the truth costs as much as scoring one prediction: once per item, not per predictor.
    let score_item = |(item_idx, item): (usize, &EvalItem<T>)| -> Result<Vec<InstanceScore>, (usize, ScoreError)> {
        let truth_in_image = item.sample.truth_in_image.to_mask();
        let score = |(predictor_idx, answers): (usize, &Vec<Prediction>)| {
            score_against(&item.sample, &truth_in_image, &answers[item_idx]).map_err(|source| (predictor_idx, source))
        };
        predictions.iter().enumerate().map(score).collect()
    };
    let results: Vec<_> = items.par_iter().enumerate().map(score_item).collect();
    for result in results {
        let row = result.map_err(|(predictor_idx, source)| {
            let predictor = predictors[predictor_idx].name.clone();
            EvalError::Score { predictor, source }
        })?;
        scores.iter_mut().zip(row).for_each(|(scores, instance)| scores.instances.push(instance));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sensei_data::crop::CropGeometry;
    use sensei_data::geometry::Size;
    use sensei_data::mask::Mask;

    use sensei_samples::selection::LeftOutReason;

    use super::*;
    use crate::fixtures;

    #[derive(Debug, thiserror::Error)]
    enum TestError {
        #[error("image {0} cannot be read")]
        Image(u64),
        #[error(transparent)]
        Eval(#[from] EvalError),
    }

    type Candidates = Vec<Result<Candidate<f32>, TestError>>;

    /// The sample's input is the logit that its predictor answers everywhere.
    fn item(annotation_id: u64, input: f32) -> Result<Candidate<f32>, TestError> {
        let size = Size { width: 4, height: 4 };
        let truth = Mask { size, bits: vec![1; 16] };
        let geometry = CropGeometry { rect_in_image: size.rect(), grid: 2 };
        Ok(Candidate::Item(EvalItem { sample: fixtures::sample(annotation_id, &truth, geometry), input }))
    }

    fn left_out(annotation_id: u64, reason: LeftOutReason) -> Result<Candidate<f32>, TestError> {
        Ok(Candidate::LeftOut(LeftOut { annotation_id, reason }))
    }

    fn echo(items: &[EvalItem<f32>]) -> Result<Vec<Prediction>, TestError> {
        Ok(items.iter().map(|item| Prediction::CropLogits(vec![item.input; 4])).collect())
    }

    fn run(candidates: Candidates, batch: usize) -> Result<(Evaluation, Vec<usize>), TestError> {
        let mut batches = Vec::new();
        let counting = |items: &[EvalItem<f32>]| {
            batches.push(items.len());
            echo(items)
        };
        let ceiling =
            |items: &[EvalItem<f32>]| Ok(items.iter().map(|item| crate::floors::grid_ceiling(&item.sample)).collect());
        let mut predictors = [
            Predictor { name: "echo".to_string(), predict: Box::new(counting) },
            Predictor { name: "ceiling".to_string(), predict: Box::new(ceiling) },
        ];
        let evaluation = evaluate(candidates, &mut predictors, batch)?;
        drop(predictors);
        Ok((evaluation, batches))
    }

    #[test]
    fn every_predictor_is_scored_on_every_item_whatever_the_order_and_the_batch() {
        let candidates = || vec![item(30, 1.0), left_out(25, LeftOutReason::Crowd), item(10, -1.0), item(20, 1.0)];
        let (evaluation, batches) = run(candidates(), 2).unwrap();
        assert_eq!(batches, [2, 1]);
        let results = |of: usize| -> Vec<(u64, f64)> {
            let instances = &evaluation.scores[of].instances;
            instances.iter().map(|instance| (instance.annotation_id, instance.in_image.iou())).collect()
        };
        assert_eq!(results(0), [(10, 0.0), (20, 1.0), (30, 1.0)]);
        assert_eq!(results(1), [(10, 1.0), (20, 1.0), (30, 1.0)]);
        assert_eq!(evaluation.left_out, [LeftOut { annotation_id: 25, reason: LeftOutReason::Crowd }]);
        let reversed = candidates().into_iter().rev().collect();
        assert_eq!(run(reversed, 7).unwrap().0, evaluation);
    }

    #[test]
    fn nothing_is_skipped_silently() {
        let check = |candidates: Candidates, expected: &str| {
            let error = run(candidates, 2).unwrap_err();
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            assert_eq!(format!("{error}{source}"), expected);
        };
        check(vec![item(1, 1.0), Err(TestError::Image(7))], "image 7 cannot be read");
        check(vec![item(1, 1.0), item(1, 1.0)], "annotation 1: expected once, found again");
        let twice = vec![item(1, 1.0), left_out(1, LeftOutReason::EmptyTruth)];
        check(twice, "annotation 1: expected once, found again");
        let expected = "predictor echo: annotation 3: logit 0: expected a finite number, found NaN";
        check(vec![item(3, f32::NAN)], expected);
    }

    #[test]
    fn a_predictor_that_answers_less_than_it_was_asked_is_an_error() {
        let short = |items: &[EvalItem<f32>]| Ok(echo(items)?.into_iter().skip(1).collect());
        let mut predictors = [Predictor { name: "short".to_string(), predict: Box::new(short) }];
        let error = evaluate(vec![item(1, 1.0), item(2, 1.0)], &mut predictors, 8).unwrap_err();
        assert_eq!(error.to_string(), "predictor short: expected 2 predictions for a batch, found 1");
    }

    #[test]
    fn two_predictors_of_one_name_are_an_error() {
        let named = || Predictor { name: "float".to_string(), predict: Box::new(echo) };
        let error = evaluate(vec![item(1, 1.0)], &mut [named(), named()], 8).unwrap_err();
        assert_eq!(error.to_string(), "predictor float: expected distinct names, found it twice");
    }
}
