//! Which distances are minimised, and how teacher and truth are weighed.

use std::borrow::Cow;

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use sensei_tensor::mask_sums::MaskSums;
use sensei_tensor::masks::{MaskLogits, MaskProbs};

use crate::distance::{dice_of_areas, shortfall_of_areas};
use crate::weighting::{SampleWeighting, TeacherTarget};

/// The loss of one training stage.
///
/// `mean over samples of  alpha * (teacher terms) + (1 - alpha) * (truth terms) + (other terms)`, each term times its
/// weight, with alpha from [`SampleWeighting`].
#[derive(Debug, Clone, PartialEq)]
pub struct LossPlan {
    sharpness: f64,
    weighting: SampleWeighting,
    part_weightings: BTreeMap<usize, SampleWeighting>,
    terms: Vec<LossTerm>,
}

/// One distance and its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossTerm {
    /// The distance.
    pub kind: TermKind,
    /// Its factor in the sum; 0 or above. A term of weight 0 is reported, not minimised.
    pub weight: f64,
}

/// The distances there are. `p` are the student's probabilities, `t` the teacher's, `y` the true mask.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum TermKind {
    /// Teacher term: [`mse_distance`](crate::mse_distance) of `p` and `t`.
    TeacherMse,
    /// Teacher term: [`dice_distance`](crate::dice_distance) of `p` and `t`.
    TeacherDice,
    /// Truth term: [`bce_distance`](crate::bce_distance) of `p` and `y`.
    TruthBce,
    /// Truth term: [`dice_distance`](crate::dice_distance) of `p` and `y`.
    TruthDice,
    /// Neither teacher nor truth term, so never scaled by alpha: [`area_shortfall`](crate::area_shortfall) of `p` and
    /// `y`.
    AreaShortfall {
        /// Share of the true area below which a prediction is too small, in `(0, 1]`; PicoSAM3: 0.4.
        floor: f64,
    },
}

/// What a loss reads: loader, checks and plan fetch this and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The teacher's mask logits and predicted IoU of every sample.
    pub teacher_masks: bool,
    /// The annotated mask of every sample.
    pub truth: bool,
    /// Features of the student at these taps.
    pub taps: Vec<String>,
}

/// A loss that means nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossPlanError {
    /// A number outside of its range.
    #[error("{key}: expected {expected}, found {found}")]
    Range {
        /// What the number is.
        key: &'static str,
        /// Its range in words.
        expected: &'static str,
        /// The number.
        found: f64,
    },
    /// A distance named twice.
    #[error("{term}: expected once, found twice")]
    Twice {
        /// The term's name, and what it is about, if that tells it from others.
        term: Cow<'static, str>,
    },
    /// A teacher term in a plan that has no teacher.
    #[error("{term}: expected no teacher terms, because no sample's weighting gives them a share")]
    NoTeacher {
        /// The term's name.
        term: &'static str,
    },
    /// A weighting that leaves samples to the truth, in a plan that compares with none.
    #[error(
        "{weighting}: expected a truth term with a weight above 0 for samples that the teacher is not heard about, found none"
    )]
    NoTruth {
        /// The weighting's name.
        weighting: &'static str,
    },
    /// A term that goes with no other.
    #[error("{term}: expected no other term beside it, as its network sees masked images")]
    NotAlone {
        /// The term's name.
        term: &'static str,
    },
    /// No term with a weight above 0.
    #[error("terms: expected at least one with a weight above 0, found none")]
    Nothing,
}

/// A batch's loss.
pub struct LossOutput {
    /// What to minimise: `[1]`.
    pub total: Tensor<1>,
    /// Each term of the plan, in its order: name and distances, `[batch]`, without weight and alpha. Detached from the
    /// gradient. If `total` is not finite, one of these says which term and sample it was. Teacher terms are 0 for samples whose
    /// weighting gives them no share. Where a weighting is a filter, `teacher_share` follows: alpha.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl TermKind {
    /// The name in configurations, logs and errors.
    pub fn name(self) -> &'static str {
        match self {
            TermKind::TeacherMse => "teacher_mse",
            TermKind::TeacherDice => "teacher_dice",
            TermKind::TruthBce => "truth_bce",
            TermKind::TruthDice => "truth_dice",
            TermKind::AreaShortfall { .. } => "area_shortfall",
        }
    }

    fn source(self) -> TermSource {
        match self {
            TermKind::TeacherMse | TermKind::TeacherDice => TermSource::Teacher,
            TermKind::TruthBce | TermKind::TruthDice => TermSource::Truth,
            TermKind::AreaShortfall { .. } => TermSource::Neither,
        }
    }
}

impl LossPlan {
    /// A loss of these terms on `sigma(sharpness * logit)`.
    ///
    /// # Errors
    /// If a number is out of range, a term comes twice, nothing is minimised, or a plan without teacher has teacher
    /// terms.
    pub fn new(sharpness: f64, weighting: SampleWeighting, terms: Vec<LossTerm>) -> Result<Self, LossPlanError> {
        Self::with_parts(sharpness, weighting, BTreeMap::new(), terms)
    }

    /// [`new`](Self::new), with another weighting for the samples of some parts of the data set, by the part's index.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_parts(
        sharpness: f64,
        weighting: SampleWeighting,
        part_weightings: BTreeMap<usize, SampleWeighting>,
        terms: Vec<LossTerm>,
    ) -> Result<Self, LossPlanError> {
        let range = |key, expected, found: f64, allowed: bool| match found.is_finite() && allowed {
            true => Ok(()),
            false => Err(LossPlanError::Range { key, expected, found }),
        };
        range("sharpness", "a finite number above 0", sharpness, sharpness > 0.0)?;
        let weightings = || std::iter::once(&weighting).chain(part_weightings.values());
        for weighting in weightings() {
            match *weighting {
                SampleWeighting::Constant(alpha) => range("alpha", "0 to 1", alpha, (0.0..=1.0).contains(&alpha))?,
                SampleWeighting::TeacherScoreAtLeast { score: threshold, alpha }
                | SampleWeighting::AgreementAtLeast { iou: threshold, alpha } => {
                    range("alpha", "above 0, at most 1", alpha, alpha > 0.0 && alpha <= 1.0)?;
                    range("score or iou", "0 to 1", threshold, (0.0..=1.0).contains(&threshold))?;
                }
                _ => {}
            }
            let leaves = |term: &LossTerm| term.kind.source() == TermSource::Truth && term.weight > 0.0;
            if let Some(weighting) = weighting.filter_name().filter(|_| !terms.iter().any(leaves)) {
                return Err(LossPlanError::NoTruth { weighting });
            }
        }
        let shares_nothing = weightings().all(|weighting| !weighting.has_teacher_terms());
        for (idx, term) in terms.iter().enumerate() {
            let name = term.kind.name();
            range(name, "a finite weight, 0 or above", term.weight, term.weight >= 0.0)?;
            if let TermKind::AreaShortfall { floor } = term.kind {
                range("area_shortfall floor", "above 0, at most 1", floor, floor > 0.0 && floor <= 1.0)?;
            }
            if terms[..idx].iter().any(|earlier| earlier.kind.name() == name) {
                return Err(LossPlanError::Twice { term: name.into() });
            }
            if shares_nothing && term.kind.source() == TermSource::Teacher {
                return Err(LossPlanError::NoTeacher { term: name });
            }
        }
        match terms.iter().any(|term| term.weight > 0.0) {
            true => Ok(Self { sharpness, weighting, part_weightings, terms }),
            false => Err(LossPlanError::Nothing),
        }
    }

    /// PicoSAM2: `alpha (MSE + Dice)(p, t) + (1 - alpha) (BCE + Dice)(p, y)` on `sigma(x)`.
    ///
    /// # Source
    /// pbonazzi/picosam2 `picosam2_model_distillation.py`; its alpha is [`SampleWeighting::TeacherScoreBatchMean`]. The
    /// paper's text has other factors (1/2 before BCE and Dice) than its code; this is the code.
    pub fn picosam2(weighting: SampleWeighting) -> Self {
        let one = |kind| LossTerm { kind, weight: 1.0 };
        let teacher = [TermKind::TeacherMse, TermKind::TeacherDice].map(one);
        let truth = [TermKind::TruthBce, TermKind::TruthDice].map(one);
        let terms = if weighting.has_teacher_terms() { [teacher, truth].concat() } else { truth.to_vec() };
        Self { sharpness: 1.0, weighting, part_weightings: BTreeMap::new(), terms }
    }

    /// PicoSAM3: PicoSAM2's terms on `sigma(5 x)`, plus `0.4 relu(0.4 - area(p) / area(y))`.
    ///
    /// # Source
    /// picosam3 `model_compression/utils.py` and arXiv 2603.11917; its alpha is
    /// [`SampleWeighting::TeacherScoreBatchMean`].
    pub fn picosam3(weighting: SampleWeighting) -> Self {
        let mut plan = Self { sharpness: 5.0, ..Self::picosam2(weighting) };
        plan.terms.push(LossTerm { kind: TermKind::AreaShortfall { floor: 0.4 }, weight: 0.4 });
        plan
    }

    /// The factor of the logits before the sigmoid.
    pub fn sharpness(&self) -> f64 {
        self.sharpness
    }

    /// All weightings that some sample may have.
    pub(crate) fn weightings(&self) -> impl Iterator<Item = SampleWeighting> + '_ {
        std::iter::once(&self.weighting).chain(self.part_weightings.values()).copied()
    }

    /// Where alpha comes from, for the samples of a part of the data set.
    pub fn weighting_of(&self, part_idx: usize) -> SampleWeighting {
        self.part_weightings.get(&part_idx).copied().unwrap_or(self.weighting)
    }

    /// The same loss where the masks of a part are the teacher's already: [`TeacherHard`](SampleWeighting::TeacherHard) is then their truth
    /// alone, and the teacher is not asked.
    pub fn with_teachers_masks_in_part(mut self, part_idx: usize) -> Self {
        if self.weighting_of(part_idx) == SampleWeighting::TeacherHard {
            self.part_weightings.insert(part_idx, SampleWeighting::TruthOnly);
        }
        self
    }

    /// The terms.
    pub fn terms(&self) -> &[LossTerm] {
        &self.terms
    }

    /// What has to be fetched for this plan.
    pub fn needs(&self) -> Needs {
        let has = |source| self.terms.iter().any(|term| term.kind.source() == source);
        Needs {
            teacher_masks: self.weightings().any(|weighting| weighting != SampleWeighting::TruthOnly),
            // A filter is never without a truth term: `with_parts`.
            truth: has(TermSource::Truth) || has(TermSource::Neither),
            taps: vec![],
        }
    }
}

/// The loss of one batch. `part_idxs` says which part of the data set each sample is of.
///
/// # Shapes
/// - `part_idxs`: `[batch]`, or empty where all are of part 0
/// - `student`, `teacher.logits`, `truth`: `[batch, 1, height, width]`
/// - `total`: `[1]`; each term: `[batch]`
/// # Panics
/// If the shapes or numbers of samples differ, or the plan needs a teacher and there is none: bugs in the caller, not bad input.
pub fn distillation_loss(
    plan: &LossPlan,
    student: MaskLogits,
    teacher: Option<&TeacherTarget>,
    truth: MaskProbs,
    part_idxs: &[usize],
) -> LossOutput {
    let teacher =
        if plan.needs().teacher_masks { Some(teacher.expect("a plan with teacher terms has a teacher")) } else { None };
    let truth = match teacher {
        Some(teacher) => plan.target(part_idxs, truth, &teacher.logits),
        None => truth,
    };
    let soft = teacher.filter(|_| plan.terms.iter().any(|term| term.kind.source() == TermSource::Teacher));
    let alpha = teacher.map(|teacher| plan.alpha(part_idxs, teacher, &truth));
    let is_asked = alpha.as_ref().and_then(|alpha| plan.is_asked(part_idxs, alpha));
    let sums = MaskSums::new(plan.sharpness, student, soft.map(|teacher| teacher.logits.clone()), truth);

    let mut weighed: [Option<Tensor<1>>; 3] = [None, None, None];
    let mut terms = Vec::with_capacity(plan.terms.len());
    for term in &plan.terms {
        let mut distance = distance(term.kind, &sums);
        if let Some(is_asked) = is_asked.clone().filter(|_| term.kind.source() == TermSource::Teacher) {
            distance = distance * is_asked;
        }
        terms.push((term.kind.name(), distance.clone().detach()));
        if term.weight == 0.0 {
            continue;
        }
        let weighted = if term.weight == 1.0 { distance } else { distance * term.weight };
        let sum = &mut weighed[term.kind.source() as usize];
        *sum = Some(match sum.take() {
            Some(sum) => sum + weighted,
            None => weighted,
        });
    }
    if let Some(alpha) = alpha.as_ref().filter(|_| plan.filters()) {
        terms.push(("teacher_share", alpha.clone()));
    }
    let [teacher_sum, truth_sum, other_sum] = weighed;
    let (teacher_sum, truth_sum) = match alpha {
        Some(alpha) => (teacher_sum.map(|sum| sum * alpha.clone()), truth_sum.map(|sum| sum * (1.0 - alpha))),
        None => (None, truth_sum),
    };
    let sum = [teacher_sum, truth_sum, other_sum].into_iter().flatten().reduce(|a, b| a + b);
    let total = sum.expect("a plan minimises at least one term: LossPlan::new").mean();
    LossOutput { total, terms }
}

/// One distance of each sample, `[batch]`.
fn distance(kind: TermKind, sums: &MaskSums) -> Tensor<1> {
    let teacher = || sums.teacher.clone().expect("a plan without teacher has no teacher terms: LossPlan::new");
    let (student, truth) = (sums.student.clone(), sums.truth.clone());
    match kind {
        TermKind::TeacherMse => teacher().squared_difference / sums.pixels,
        TermKind::TeacherDice => dice_of_areas(teacher().student_teacher, student, teacher().teacher),
        TermKind::TruthBce => sums.cross_entropy.clone() / sums.pixels,
        TermKind::TruthDice => dice_of_areas(sums.student_truth.clone(), student, truth),
        TermKind::AreaShortfall { floor } => shortfall_of_areas(student, truth, floor),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TermSource {
    Teacher,
    Truth,
    Neither,
}
