//! Prompts in the loop: teacher and student answer, and where they differ the next point is drawn.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_data::geometry::Size;
use sensei_data::sampling::next_point;
use sensei_loss::{PromptTargets, mask_of_bits, prompt_loss};
use sensei_samples::image_batch::ImageBatch;
use sensei_samples::whole_images::{AskedObject, FirstPrompt, ImageFeatures, Letterbox};
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_tensor::network::{Network, host_values};
use sensei_tensor::profile;
use sensei_tensor::prompts::{MaskTokens, PointLabel, PromptPoint, Promptable, Prompted};

use crate::error::TrainError;
use crate::images::{
    ErrorRegion, ImageObjective, ImageTask, MASK_GRID, Means, PADDING, PromptPlan, add, box_points, cells, stored,
};
use crate::task::{Shared, read_term, read_total};

/// The prompts of a batch on their way through the decoder.
pub(crate) struct Asking<'a> {
    pub task: &'a ImageTask<'a>,
    pub student: &'a dyn Promptable,
    pub network: &'a dyn Network,
    pub prompts: &'a PromptPlan,
    pub shared: &'a Shared<'a, ImageObjective>,
    /// Of the batch's loss in the step's.
    pub weight: f64,
}

/// What the prompts of a batch add.
pub(crate) struct AskedGradients {
    pub loss: f64,
    /// Of the embedding, on the device without gradients.
    pub embedding_gradient: Tensor<4>,
    /// By group, as in [`BatchGradients`].
    pub gradients: Vec<Vec<Tensor<1>>>,
}

/// An image during the rounds of a step.
struct Image {
    letterbox: Letterbox,
    /// The student's, without gradients.
    embedding: Tensor<4>,
    /// The sum of gradients of the embedding so far.
    gradient: Tensor<4>,
    /// The teacher's on a CPU, if it is asked.
    teacher: Option<Tensor<4>>,
}

/// An object during the rounds of a step.
struct Asked<'a> {
    object: &'a AskedObject,
    /// In pixels of the square that prompts are given in.
    points: Vec<PromptPoint>,
    /// Prompted by a box: one mask is asked for; else all.
    is_box: bool,
}

impl Asking<'_> {
    pub(crate) fn batch(
        &self,
        batch: &ImageBatch,
        embedding: &Tensor<4>,
        terms: &mut Means,
    ) -> Result<AskedGradients, TrainError> {
        let plain = if embedding.device().is_autodiff() { embedding.clone().inner() } else { embedding.clone() };
        let (mut loss, mut gradients, mut of_images) = (0.0, vec![], vec![]);
        let n_rounds = 1.0 + f64::from(self.prompts.rounds);
        for (idx, objects) in batch.objects.iter().enumerate() {
            let own = plain.clone().narrow(0, idx, 1);
            let (letterbox, teacher) = (batch.letterboxes[idx], self.teacher_embedding(batch, idx)?);
            let mut image = Image { letterbox, teacher, gradient: own.zeros_like(), embedding: own };
            let side = self.student.prompt_side();
            let mut asked: Vec<Asked> = objects.iter().map(|object| Asked::new(object, letterbox, side)).collect();
            // Prompts of a kind have the same number of points, and are decoded together.
            asked.sort_by_key(|asked| asked.is_box);
            let share = 1.0 / (batch.image_ids.len() as f64 * asked.len() as f64 * n_rounds);
            for round in 0..=self.prompts.rounds {
                for of_kind in asked.chunk_by_mut(|a, b| a.is_box == b.is_box) {
                    for chunk in of_kind.chunks_mut(PROMPTS_AT_ONCE) {
                        let share = share * chunk.len() as f64;
                        loss += share * self.chunk(&mut image, chunk, round, share, &mut gradients, terms)?;
                    }
                }
            }
            of_images.push(image.gradient);
        }
        Ok(AskedGradients { loss, embedding_gradient: Tensor::cat(of_images, 0), gradients })
    }

    /// The teacher's embedding of an image, if it is asked.
    fn teacher_embedding(&self, batch: &ImageBatch, idx: usize) -> Result<Option<Tensor<4>>, TrainError> {
        if !self.shared.stage.loss.asks_teacher() {
            return Ok(None);
        }
        let ImageFeatures { shape: [channels, height, width], values } = stored(batch)?;
        let n = channels * height * width;
        let data = TensorData::new(values[idx * n..(idx + 1) * n].to_vec(), [1, *channels, *height, *width]);
        Ok(Some(Tensor::from_data(data, &Device::flex())))
    }

    /// Forward and backward of some prompts of one kind, and a point more for each if a round follows; their mean loss.
    fn chunk(
        &self,
        image: &mut Image,
        chunk: &mut [Asked],
        round: u8,
        share: f64,
        gradients: &mut Vec<Vec<Tensor<1>>>,
        terms: &mut Means,
    ) -> Result<f64, TrainError> {
        let objective = &self.shared.stage.loss;
        let (needs, device) = (objective.loss.needs(), self.network.device());
        let points: Vec<Vec<PromptPoint>> = chunk.iter().map(|asked| asked.points.clone()).collect();
        let tokens = if chunk[0].is_box { MaskTokens::Single } else { MaskTokens::All };
        let span = profile::span("decoder");
        let leaf = Tensor::from_inner(image.embedding.clone()).require_grad();
        let Prompted { masks, scores } = self.student.decode(leaf.clone(), &points, tokens);
        drop(span);
        let span = profile::span("teacher");
        let teacher = match (&image.teacher, self.task.teacher) {
            (Some(embedding), Some(teacher)) => Some(teacher.decode(embedding.clone(), &points, tokens)),
            (Some(_), None) => return Err(TrainError::NoTeacher { stage: self.shared.stage.name.clone() }),
            (None, _) => None,
        };
        drop(span);
        let span = profile::span("loss");
        let own = Answer::new(&masks.0.clone().inner(), &scores.clone().inner());
        let teachers = teacher.as_ref().map(|teacher| Answer::new(&teacher.masks.0, &teacher.scores));
        let target = |answer: &Answer| {
            MaskLogits(Tensor::from_data(TensorData::new(answer.logits.clone(), answer.shape), device))
        };
        let targets = PromptTargets {
            teacher: teachers.as_ref().filter(|_| needs.teacher_masks).map(target),
            truth: needs.truth.then(|| truth_of(chunk, device)),
            used: cells(image.letterbox.used(MASK_GRID as u32)),
        };
        let (total, values) = prompt_loss(&objective.loss, masks, scores, &targets);
        let [_, n_masks, ..] = own.shape;
        for (name, per_mask) in values {
            let id = |at: usize| chunk[at / n_masks].object.annotation_id;
            let mean = read_term(&name, &per_mask, self.shared.step, id)?;
            terms.add(name, mean, share);
        }
        drop(span);
        let mut loss = 0.0;
        if let Some(total) = total {
            let ids: Vec<u64> = chunk.iter().map(|asked| asked.object.annotation_id).collect();
            loss = read_total(&total, self.shared.step, &ids)?;
            let _span = profile::span("decoder backward");
            let mut found = (total * (self.weight * share)).backward();
            if let Some(gradient) = leaf.grad_remove(&mut found) {
                image.gradient = image.gradient.clone() + gradient;
            }
            add(gradients, self.shared.gradients_of(self.network, &mut found));
        }
        if round < self.prompts.rounds {
            for (idx, asked) in chunk.iter_mut().enumerate() {
                let point = self.next_point(idx, asked, round + 1, image.letterbox, &own, teachers.as_ref());
                asked.points.insert(asked.points.len() - usize::from(!asked.is_box), point);
            }
        }
        Ok(loss)
    }

    /// A point where the student's mask is wrong, or one of padding where that is hardly anywhere.
    fn next_point(
        &self,
        idx: usize,
        asked: &Asked,
        round: u8,
        letterbox: Letterbox,
        own: &Answer,
        teachers: Option<&Answer>,
    ) -> PromptPoint {
        // Of several masks the one that the teacher holds for the best, or the student itself without one.
        let mask_idx = teachers.unwrap_or(own).best(idx);
        let student = own.mask(idx, mask_idx);
        let is_wanted: Vec<bool> = match (self.prompts.next_point, teachers) {
            (ErrorRegion::TeacherDisagreement, Some(teachers)) => {
                teachers.mask(idx, mask_idx).iter().map(|logit| *logit > 0.0).collect()
            }
            _ => asked.object.truth.iter().map(|bit| *bit > 0).collect(),
        };
        let Size { width, height } = letterbox.used(MASK_GRID as u32);
        let used = |at: &usize| at % MASK_GRID < width as usize && at / MASK_GRID < height as usize;
        let wrong: Vec<usize> =
            (0..student.len()).filter(used).filter(|&at| (student[at] > 0.0) != is_wanted[at]).collect();
        let n_wrong = u32::try_from(wrong.len()).expect("pixels of a mask grid");
        if n_wrong < self.prompts.min_error_pixels.max(1) {
            return PADDING;
        }
        let Shared { seed, epoch, .. } = *self.shared;
        let at = wrong[next_point(n_wrong, seed, epoch, round, asked.object.annotation_id) as usize];
        let place = |cell: usize| (cell as f64 + 0.5) * self.student.prompt_side() as f64 / MASK_GRID as f64;
        let label = if is_wanted[at] { PointLabel::Foreground } else { PointLabel::Background };
        PromptPoint { x: place(at % MASK_GRID), y: place(at / MASK_GRID), label }
    }
}

impl<'a> Asked<'a> {
    /// An object before the first round.
    fn new(object: &'a AskedObject, letterbox: Letterbox, side: usize) -> Self {
        let (points, is_box) = match object.prompt {
            FirstPrompt::Box(bbox) => (box_points(bbox, letterbox, side).to_vec(), true),
            FirstPrompt::Point(at) => {
                let [x, y] = letterbox.point(at, side);
                (vec![PromptPoint { x, y, label: PointLabel::Foreground }, PADDING], false)
            }
        };
        Self { object, points, is_box }
    }
}

/// An answer in host memory.
struct Answer {
    /// `[prompt, mask, height, width]`.
    shape: [usize; 4],
    logits: Vec<f32>,
    scores: Vec<f32>,
}

impl Answer {
    fn new(logits: &Tensor<4>, scores: &Tensor<2>) -> Self {
        let flat = |values: Tensor<1>| host_values(&values);
        let (n_logits, n_scores) = (logits.shape().num_elements(), scores.shape().num_elements());
        Self {
            shape: logits.dims(),
            logits: flat(logits.clone().reshape([n_logits])),
            scores: flat(scores.clone().reshape([n_scores])),
        }
    }

    fn mask(&self, prompt: usize, mask: usize) -> &[f32] {
        let [_, masks, height, width] = self.shape;
        let pixels = height * width;
        &self.logits[(prompt * masks + mask) * pixels..][..pixels]
    }

    /// The mask of the highest score, of equals the first.
    fn best(&self, prompt: usize) -> usize {
        let [_, masks, ..] = self.shape;
        let scores = &self.scores[prompt * masks..][..masks];
        (0..masks).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
    }
}

fn truth_of(chunk: &[Asked], device: &Device) -> MaskProbs {
    let bits: Vec<u8> = chunk.iter().flat_map(|asked| asked.object.truth.iter().copied()).collect();
    mask_of_bits(&bits, [chunk.len(), 1, MASK_GRID, MASK_GRID], device)
}

/// Prompts whose decodes are in memory together, for their backward pass: about 100 MB each.
const PROMPTS_AT_ONCE: usize = 4;
