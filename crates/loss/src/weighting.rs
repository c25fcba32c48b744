//! How teacher and truth are weighed, sample by sample.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_tensor::masks::{MaskLogits, MaskProbs};

use crate::plan::LossPlan;

/// Alpha: how much of a sample's loss is the teacher's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SampleWeighting {
    /// The teacher's predicted IoU of that sample: what the papers describe.
    TeacherScorePerSample,
    /// The mean of the teacher's predicted IoUs over the batch: what the published code computes, because its
    /// distances are batch means already when they are multiplied by the scores. Where parts of the data have other weightings, the
    /// mean is over the batch's samples that are weighed by this one.
    TeacherScoreBatchMean,
    /// The same for all samples, in `[0, 1]`.
    Constant(f64),
    /// The teacher's predicted IoU as a filter: where it reaches `score`, in `[0, 1]`, alpha is `alpha`, in `(0, 1]`; elsewhere 0.
    TeacherScoreAtLeast {
        /// The lowest predicted IoU with which the teacher is heard.
        score: f64,
        /// Its share there.
        alpha: f64,
    },
    /// Agreement as a filter: where the teacher's mask (logit above 0) and the truth (above one half) have an IoU of `iou` or more in the
    /// crop, in `[0, 1]`, alpha is `alpha`, in `(0, 1]`; elsewhere 0. Two empty masks agree.
    AgreementAtLeast {
        /// The lowest IoU with which the teacher is heard.
        iou: f64,
        /// Its share there.
        alpha: f64,
    },
    /// 0, and the teacher is not asked: training on the truth alone. A plan with it has no teacher terms.
    TruthOnly,
    /// 0, and the teacher's mask (logit above 0) stands in for the truth in every term that reads it: what a teacher's answer is worth
    /// where nobody annotated. A plan in which no sample is weighed otherwise has no teacher terms.
    TeacherHard,
}

/// What the teacher said about a batch.
#[derive(Debug, Clone)]
pub struct TeacherTarget {
    /// Mask logits, `[batch, 1, height, width]`.
    pub logits: MaskLogits,
    /// The IoU it expects of its masks, `[batch]`, in `[0, 1]` (the caller clamps and counts).
    pub predicted_iou: Tensor<1>,
}

impl SampleWeighting {
    /// Whether the sample's loss has teacher terms, which compare with the teacher's probabilities.
    pub fn has_teacher_terms(self) -> bool {
        !matches!(self, Self::TruthOnly | Self::TeacherHard)
    }

    /// Whether it leaves some samples to the truth alone, by what the teacher says of them.
    pub fn is_filter(self) -> bool {
        self.filter_name().is_some()
    }

    /// Its name where it is a filter.
    pub(crate) fn filter_name(self) -> Option<&'static str> {
        match self {
            Self::TeacherScoreAtLeast { .. } => Some("teacher_score_at_least"),
            Self::AgreementAtLeast { .. } => Some("agreement_at_least"),
            _ => None,
        }
    }
}

impl LossPlan {
    /// The share of the teacher terms, `[batch]`; takes no gradient.
    pub(crate) fn alpha(&self, part_idxs: &[usize], teacher: &TeacherTarget, truth: &MaskProbs) -> Tensor<1> {
        let batch = teacher.predicted_iou.dims()[0];
        let mut weightings: Vec<(SampleWeighting, Vec<bool>)> = vec![];
        for (at, &part_idx) in part_idxs.iter().enumerate() {
            let weighting = self.weighting_of(part_idx);
            let known = weightings.iter().position(|(known, _)| *known == weighting);
            let known = known.unwrap_or_else(|| {
                weightings.push((weighting, vec![false; part_idxs.len()]));
                weightings.len() - 1
            });
            weightings[known].1[at] = true;
        }
        match weightings.as_slice() {
            [] => alpha(self.weighting_of(0), teacher, truth),
            [(weighting, _)] => alpha(*weighting, teacher, truth),
            several => {
                let of_weighting = |(weighting, are_of): &(SampleWeighting, Vec<bool>)| {
                    let mask = floats(are_of, &teacher.predicted_iou.device());
                    let count = are_of.iter().filter(|is| **is).count() as f64;
                    // The mean over a batch is that of the samples which it is for.
                    let alpha = match weighting {
                        SampleWeighting::TeacherScoreBatchMean => {
                            let sum = (teacher.predicted_iou.clone().detach() * mask.clone()).sum();
                            (sum / count).expand([batch])
                        }
                        _ => alpha(*weighting, teacher, truth),
                    };
                    alpha * mask
                };
                several.iter().map(of_weighting).reduce(|a, b| a + b).expect("several weightings")
            }
        }
    }

    /// 1 for samples that are compared with the teacher, 0 for others, `[batch]`; `None` where all are.
    pub(crate) fn is_asked(&self, part_idxs: &[usize], alpha: &Tensor<1>) -> Option<Tensor<1>> {
        let are_asked: Vec<bool> =
            part_idxs.iter().map(|&part_idx| self.weighting_of(part_idx).has_teacher_terms()).collect();
        let by_part = are_asked.contains(&false).then(|| floats(&are_asked, &alpha.device()));
        // What a filter lets through has a share above 0. Other weightings may give a sample that is compared a share of 0.
        if !self.filters() {
            return by_part;
        }
        let is_filter: Vec<bool> = match part_idxs {
            [] => vec![self.weighting_of(0).is_filter(); alpha.dims()[0]],
            parts => parts.iter().map(|&part_idx| self.weighting_of(part_idx).is_filter()).collect(),
        };
        let is_filter = floats(&is_filter, &alpha.device());
        let passes = 1.0 - is_filter * alpha.clone().equal_elem(0.0).float();
        Some(match by_part {
            Some(by_part) => by_part * passes,
            None => passes,
        })
    }

    /// Whether some samples are weighed by a filter.
    pub(crate) fn filters(&self) -> bool {
        self.weightings().any(|weighting| weighting.is_filter())
    }

    /// The mask that truth terms compare with: the annotated one, or the teacher's where it stands in for it.
    pub(crate) fn target(&self, part_idxs: &[usize], truth: MaskProbs, teacher: &MaskLogits) -> MaskProbs {
        let [batch, ..] = truth.0.dims();
        let is_hard =
            |at: usize| self.weighting_of(part_idxs.get(at).copied().unwrap_or(0)) == SampleWeighting::TeacherHard;
        let are_hard: Vec<bool> = (0..batch).map(is_hard).collect();
        if !are_hard.contains(&true) {
            return truth;
        }
        let mask = teacher.0.clone().detach().greater_elem(0.0).float();
        if !are_hard.contains(&false) {
            return MaskProbs(mask);
        }
        let hard = floats(&are_hard, &truth.0.device()).reshape([batch, 1, 1, 1]);
        MaskProbs(truth.0 * (1.0 - hard.clone()) + mask * hard)
    }
}

/// The share of the teacher terms by one weighting, `[batch]`; takes no gradient.
fn alpha(weighting: SampleWeighting, teacher: &TeacherTarget, truth: &MaskProbs) -> Tensor<1> {
    let predicted_iou = teacher.predicted_iou.clone().detach();
    let [batch] = predicted_iou.dims();
    match weighting {
        SampleWeighting::TeacherScorePerSample => predicted_iou,
        SampleWeighting::TeacherScoreBatchMean => predicted_iou.mean().expand([batch]),
        SampleWeighting::Constant(alpha) => predicted_iou.full_like(alpha),
        SampleWeighting::TeacherScoreAtLeast { score, alpha } => {
            predicted_iou.greater_equal_elem(score).float() * alpha
        }
        SampleWeighting::AgreementAtLeast { iou, alpha } => {
            let area = |mask: Tensor<4>| mask.sum_dims(&[1, 2, 3]).reshape([batch]);
            let teachers = teacher.logits.0.clone().detach().greater_elem(0.0).float();
            let true_mask = truth.0.clone().detach().greater_elem(0.5).float();
            let both = area(teachers.clone() * true_mask.clone());
            let either = area(teachers) + area(true_mask) - both.clone();
            both.greater_equal(either * iou).float() * alpha
        }
        SampleWeighting::TruthOnly | SampleWeighting::TeacherHard => predicted_iou.zeros_like(),
    }
}

/// 1 for true.
fn floats(values: &[bool], device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|&is| f32::from(u8::from(is))).collect();
    Tensor::from_data(TensorData::from(values.as_slice()), device)
}
