//! Training on whole images: features against the teacher's, and prompts in the loop.
//!
//! The embedding is computed once for a batch. Each image's prompts are then decoded a few at a time, with a backward pass of their own down to
//! the embedding, so that memory does not grow with the number of prompts. One backward pass through the encoder ends the batch.

use std::borrow::Cow;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::sampling::visible_patches;
use sensei_loss::{
    Adapter, ImageLossPlan, ProposalTargets, ReconstructionTarget, TermValues, UsedCells, embedding_loss,
    masked_features, masked_pixels, proposal_loss, tap_loss,
};
use sensei_samples::error::SampleError;
use sensei_samples::image_batch::ImageBatch;
use sensei_samples::whole_images::{AskPlan, AskedObject, FirstPrompt, ImageFeatures, ImageSource, Letterbox};
use sensei_tensor::network::{Inputs, Network, Pass};
use sensei_tensor::profile;
use sensei_tensor::prompts::{Decode, Encoded, PointLabel, PromptPoint, Proposals};

use crate::error::TrainError;
use crate::plan::{StagePlan, TrainPlan};
use crate::prompt_rounds::Asking;
use crate::proposal_targets::match_anchors;
use crate::task::{BatchGradients, Shared, Task, read_term, read_total};

/// What a stage over whole images minimises.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageObjective {
    /// The distances.
    pub loss: ImageLossPlan,
    /// What is asked about each image; needed by terms about masks.
    pub prompts: Option<PromptPlan>,
    /// Share of an image's patches that is hidden, in a stage that reconstructs them; needed by terms about that.
    pub hidden_share: Option<f64>,
}

/// Prompts in the loop.
///
/// # Source
/// EdgeSAM (arXiv 2312.06660), section 3.3. What the paper leaves open is chosen here: errors count where the image is, missing and superfluous
/// pixels are one pool, and too small an error gives a point of padding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptPlan {
    /// Which instances, and their first prompts.
    pub ask: AskPlan,
    /// Further rounds, each with a point more.
    pub rounds: u8,
    /// Where the next point is drawn.
    pub next_point: ErrorRegion,
    /// Fewest pixels of the mask grid of an error that a point is drawn in.
    pub min_error_pixels: u32,
}

/// Where the student's mask is wrong, as a stage sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorRegion {
    /// Where it differs from the teacher's.
    TeacherDisagreement,
    /// Where it differs from the annotated mask.
    TruthDisagreement,
}

/// Whole images, and the teacher that is asked in the loop.
pub struct ImageTask<'a> {
    /// The images.
    pub source: &'a ImageSource,
    /// The part of the teacher that answers prompts, on a CPU without gradients; it reads the stored features.
    pub teacher: Option<&'a dyn Decode>,
}

/// Side of the masks that SAM's decoder puts out.
pub const MASK_GRID: usize = 256;

impl Task for ImageTask<'_> {
    type Loss = ImageObjective;
    type Batch = ImageBatch;

    fn n_samples(&self) -> usize {
        self.source.images.len()
    }

    fn batches(
        &self,
        plan: &TrainPlan<ImageObjective>,
        stage: &StagePlan<ImageObjective>,
        epoch: u64,
        samples: &[usize],
    ) -> Result<Vec<ImageBatch>, SampleError> {
        // Proposals are compared with all objects of an image.
        let all = AskPlan { per_image: usize::MAX, box_probability: 1.0 };
        let all = stage.loss.loss.needs().proposals.then_some(&all);
        let ask = stage.loss.prompts.as_ref().map(|prompts| &prompts.ask).or(all);
        let batch = |places: &[usize]| {
            let samples = self.source.samples(places, ask, MASK_GRID as u32, &stage.augmentation, plan.seed, epoch)?;
            Ok(ImageBatch::new(samples))
        };
        samples.chunks(plan.batch_size).map(batch).collect()
    }

    fn ids(batch: &ImageBatch) -> &[u64] {
        &batch.image_ids
    }

    fn clamped_predicted_ious(_batch: &ImageBatch) -> usize {
        0
    }

    fn gradients(
        &self,
        network: &dyn Network,
        batch: &ImageBatch,
        shared: &Shared<'_, ImageObjective>,
    ) -> Result<BatchGradients, TrainError> {
        let (device, objective) = (network.device(), &shared.stage.loss);
        let needs = objective.loss.needs();
        if let Some(target) = needs.reconstruction {
            return reconstruction(network, batch, shared, target);
        }
        let student = network.promptable().ok_or(TrainError::NotPromptable)?;
        let trains_encoder = shared.stage.group(student.encoder_group()).is_some();
        let span = profile::span("forward");
        let shape = [batch.image_ids.len(), 3, batch.side, batch.side];
        let images = Tensor::from_data(TensorData::new(batch.input.clone(), shape), device);
        // The running statistics of a frozen encoder do not move.
        let pass = if trains_encoder { shared.pass } else { Pass::Eval };
        let taps: Vec<String> = objective.loss.tap_pairs().map(|pair| pair.student.clone()).collect();
        let Encoded { embedding, taps, norm_stats } = student.encode(Inputs { images, taps: &taps }, pass)?;
        drop(span);

        let weight = shared.weight(batch.image_ids.len());
        let (mut loss, mut terms) = (0.0, Means::default());
        let mut of_embedding: Option<Tensor<1>> = None;
        if needs.embedding {
            let _span = profile::span("loss");
            let target = features(batch, device)?;
            let [_, _, grid, _] = embedding.dims();
            let used: Vec<UsedCells> = batch.used(grid).into_iter().map(cells).collect();
            let (total, values) = embedding_loss(&objective.loss, &embedding, &target, &used);
            read(values, batch, shared.step, &mut terms)?;
            if let Some(total) = total {
                loss += read_total(&total, shared.step, &batch.image_ids)?;
                add_total(&mut of_embedding, total * weight);
            }
        }
        if !taps.is_empty() {
            let _span = profile::span("loss");
            let (total, values) = self.tap_loss(network, batch, &objective.loss, taps)?;
            read(values, batch, shared.step, &mut terms)?;
            if let Some(total) = total {
                loss += read_total(&total, shared.step, &batch.image_ids)?;
                add_total(&mut of_embedding, total * weight);
            }
        }
        if needs.proposals {
            let _span = profile::span("proposals");
            let proposer = network.proposer().ok_or(TrainError::NoProposals)?;
            let anchors = proposer.anchors();
            let mut targets = ProposalTargets::default();
            for (objects, letterbox) in batch.objects.iter().zip(&batch.letterboxes) {
                let boxes: Vec<[f64; 4]> =
                    objects.iter().filter_map(|object| centred(object, *letterbox, student.prompt_side())).collect();
                match_anchors(&anchors, &boxes, &mut targets);
            }
            let seen = if embedding.device().is_autodiff() {
                embedding.clone()
            } else {
                Tensor::from_inner(embedding.clone())
            };
            let Proposals { scores, deltas } = proposer.propose(seen);
            let (total, values) = proposal_loss(&objective.loss, &scores, &deltas, &targets);
            read(values, batch, shared.step, &mut terms)?;
            if let Some(total) = total {
                loss += read_total(&total, shared.step, &batch.image_ids)?;
                add_total(&mut of_embedding, total * weight);
            }
        }
        let mut asked = None;
        if let (true, Some(prompts)) = (needs.masks, &objective.prompts) {
            let asking = Asking { task: self, student, network, prompts, shared, weight };
            let found = asking.batch(batch, &embedding, &mut terms)?;
            loss += found.loss;
            if trains_encoder {
                let through = (embedding * Tensor::from_inner(found.embedding_gradient.clone())).sum();
                add_total(&mut of_embedding, through);
            }
            asked = Some(found);
        }
        let _span = profile::span("backward");
        let has_own_graph = trains_encoder || needs.proposals;
        let mut gradients = match of_embedding.filter(|_| has_own_graph) {
            Some(total) => shared.gradients_of(network, &mut total.backward()),
            None => asked.as_ref().map_or_else(Vec::new, |asked| {
                // The encoder has no part in it; its groups are frozen.
                asked.gradients.clone()
            }),
        };
        if let Some(asked) = asked.filter(|_| has_own_graph) {
            add(&mut gradients, asked.gradients);
        }
        Ok(BatchGradients { loss, terms: terms.finish(), gradients, norm_stats })
    }
}

impl ImageTask<'_> {
    /// The loss of the features at some points, `[batch, channels, height, width]`, against the teacher's.
    fn tap_loss(
        &self,
        network: &dyn Network,
        batch: &ImageBatch,
        plan: &ImageLossPlan,
        taps: Vec<Tensor<4>>,
    ) -> Result<(Option<Tensor<1>>, Vec<TermValues>), TrainError> {
        let (mut compared, mut used) = (vec![], vec![]);
        for (pair, features) in plan.tap_pairs().zip(taps) {
            let known = self.source.taps.iter().position(|(name, _)| *name == pair.teacher);
            let stored = known.and_then(|at| batch.taps.get(at));
            let stored = stored.ok_or_else(|| TrainError::NoTap { name: pair.teacher.clone() })?;
            let features = match pair.adapter {
                Adapter::None => features,
                Adapter::Pointwise => network.adapters().ok_or(TrainError::NoAdapters)?.adapt(&pair.name(), features),
            };
            let [_, _, side, _] = features.dims();
            used.push(batch.used(side).into_iter().map(cells).collect());
            compared.push([features, on_device(stored, batch, network.device())]);
        }
        Ok(tap_loss(plan, compared, &used))
    }
}

/// Adds what terms are on average.
fn read(values: Vec<TermValues>, batch: &ImageBatch, step: u64, terms: &mut Means) -> Result<(), TrainError> {
    for (name, per_image) in values {
        let mean = read_term(&name, &per_image, step, |at| batch.image_ids[at])?;
        terms.add(name, mean, 1.0);
    }
    Ok(())
}

fn add_total(sum: &mut Option<Tensor<1>>, more: Tensor<1>) {
    *sum = Some(match sum.take() {
        Some(before) => before + more,
        None => more,
    });
}

/// Forward and backward pass of a batch of masked images.
fn reconstruction(
    network: &dyn Network,
    batch: &ImageBatch,
    shared: &Shared<'_, ImageObjective>,
    target: ReconstructionTarget,
) -> Result<BatchGradients, TrainError> {
    let masked = network.masked().ok_or(TrainError::NotMasked)?;
    let device = network.device();
    let shape = [batch.image_ids.len(), 3, batch.side, batch.side];
    let images: Tensor<4> = Tensor::from_data(TensorData::new(batch.input.clone(), shape), device);
    let n_patches = masked.token_grid() * masked.token_grid();
    let share = shared.stage.loss.hidden_share.ok_or(TrainError::NotMasked)?;
    let n_visible = (((1.0 - share) * n_patches as f64).round() as usize).clamp(1, n_patches - 1);
    let visible = |&image_id: &u64| -> Vec<usize> {
        let chosen = visible_patches(n_patches, n_visible, shared.seed, shared.epoch, image_id);
        chosen.into_iter().map(|at| at as usize).collect()
    };
    let visible: Vec<Vec<usize>> = batch.image_ids.iter().map(visible).collect();
    let span = profile::span("forward");
    let said = masked.reconstruct(images.clone(), &visible);
    drop(span);
    let span = profile::span("loss");
    let distances = match target {
        ReconstructionTarget::TeacherEmbedding => masked_features(said, features(batch, device)?),
        ReconstructionTarget::Pixels => masked_pixels(said, masked.patches(images), &visible),
    };
    let term = &shared.stage.loss.loss.terms()[0];
    let name = term.kind.name();
    let mean = read_term(name, &distances.clone().detach(), shared.step, |at| batch.image_ids[at])?;
    let total = distances.mean() * term.weight;
    let loss = read_total(&total, shared.step, &batch.image_ids)?;
    drop(span);
    let _span = profile::span("backward");
    let gradients = shared.gradients_of(network, &mut (total * shared.weight(batch.image_ids.len())).backward());
    Ok(BatchGradients { loss, terms: vec![(name.to_string(), mean)], gradients, norm_stats: vec![] })
}

/// The box of an object in the square that prompts are given in, by its centre; nothing for a point.
fn centred(object: &AskedObject, letterbox: Letterbox, side: usize) -> Option<[f64; 4]> {
    let FirstPrompt::Box(bbox) = object.prompt else { return None };
    let [from, to] = box_points(bbox, letterbox, side);
    let (width, height) = (to.x - from.x, to.y - from.y);
    (width > 0.0 && height > 0.0).then(|| [from.x + width / 2.0, from.y + height / 2.0, width, height])
}

/// A box as SAM is told it: its corners, in pixels of the square that prompts are given in.
pub fn box_points([x, y, width, height]: [f64; 4], letterbox: Letterbox, side: usize) -> [PromptPoint; 2] {
    let corner = |x: f64, y: f64, label: PointLabel| {
        let [x, y] = letterbox.point(PointInImage { x, y }, side);
        PromptPoint { x, y, label }
    };
    [corner(x, y, PointLabel::UpperLeft), corner(x + width, y + height, PointLabel::LowerRight)]
}

/// Behind a prompt without a box, as SAM's code has it.
pub const PADDING: PromptPoint = PromptPoint { x: 0.0, y: 0.0, label: PointLabel::Padding };

impl ImageObjective {
    /// Whether the teacher's decoder is asked in the loop.
    pub fn asks_teacher(&self) -> bool {
        let compares =
            |prompts: &PromptPlan| prompts.rounds > 0 && prompts.next_point == ErrorRegion::TeacherDisagreement;
        self.loss.needs().teacher_masks || self.prompts.as_ref().is_some_and(compares)
    }

    /// Whether the teacher's stored features are read.
    pub fn needs_features(&self) -> bool {
        let needs = self.loss.needs();
        let of_patches = needs.reconstruction == Some(ReconstructionTarget::TeacherEmbedding);
        needs.embedding || of_patches || self.asks_teacher()
    }
}

/// Means of terms over what they are of.
#[derive(Default)]
pub(crate) struct Means(Vec<(Cow<'static, str>, f64, f64)>);

impl Means {
    pub(crate) fn add(&mut self, name: Cow<'static, str>, mean: f64, share: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, sum, shares)) => {
                *sum += share * mean;
                *shares += share;
            }
            None => self.0.push((name, share * mean, share)),
        }
    }

    fn finish(self) -> Vec<(String, f64)> {
        self.0.into_iter().map(|(name, sum, shares)| (name.into_owned(), sum / shares)).collect()
    }
}

pub(crate) fn add(sum: &mut Vec<Vec<Tensor<1>>>, more: Vec<Vec<Tensor<1>>>) {
    *sum = match std::mem::take(sum) {
        none if none.is_empty() => more,
        before => {
            let added = |(a, b): (Vec<Tensor<1>>, Vec<Tensor<1>>)| a.into_iter().zip(b).map(|(a, b)| a + b).collect();
            before.into_iter().zip(more).map(added).collect()
        }
    };
}

pub(crate) fn stored(batch: &ImageBatch) -> Result<&ImageFeatures, TrainError> {
    batch.features.as_ref().ok_or(TrainError::NoFeatures { image_id: batch.image_ids[0] })
}

/// The teacher's features on a device, `[batch, channels, height, width]`.
fn features(batch: &ImageBatch, device: &Device) -> Result<Tensor<4>, TrainError> {
    Ok(on_device(stored(batch)?, batch, device))
}

fn on_device(features: &ImageFeatures, batch: &ImageBatch, device: &Device) -> Tensor<4> {
    let ImageFeatures { shape: [channels, height, width], values } = features;
    let shape = [batch.image_ids.len(), *channels, *height, *width];
    Tensor::from_data(TensorData::new(values.clone(), shape), device)
}

pub(crate) fn cells(used: Size) -> UsedCells {
    UsedCells { rows: used.height as usize, columns: used.width as usize }
}
