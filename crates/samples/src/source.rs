//! From an annotation to what the student sees and is compared with.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use sensei_answers::store::Store;
use sensei_data::augment::{Augmentation, Draw, draw, sample_rng};
use sensei_data::crop::{CropGeometry, crop_rle};
use sensei_data::crop_rule::CropRule;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::prompt_source::PromptError;
use sensei_data::rle::Rle;

use crate::error::SampleError;
use crate::images::{ImageCounts, SplitImages};
use crate::packed::key::PackKey;
use crate::packed::pack::PackedSamples;
use crate::selection::{LeftOut, LeftOutReason, SelectionRules, count_by_reason};

/// One split: its annotations, its images, the crop rule and, where there is one, the teacher's answers.
pub struct SampleSource {
    /// Annotations and where the images lie.
    pub dataset: Dataset,
    /// Answers of the teacher, by annotation. Where it was asked by several prompts, the answer to the one of `rules` counts
    /// (the first, if that was not asked); where it gave several masks, the one of the highest predicted IoU.
    pub teacher: Option<Box<dyn Store>>,
    /// Which instances are used, and what is given for them.
    pub rules: SelectionRules,
    /// How a prompt becomes what the student sees.
    pub crop: CropRule,
    /// What an image file may cost.
    pub limits: ImageLimits,
    /// The instances used, as indices into the data set, in the order of the annotation file.
    pub instances: Vec<usize>,
    /// The instances left out and why.
    pub left_out: Vec<LeftOut>,
    choice: InstanceChoice,
    /// Parts of the data set that the teacher is not asked about.
    unanswered_parts: BTreeSet<usize>,
    competitors: Vec<u32>,
    pub(crate) images: SplitImages,
    packed: Option<PackedSamples>,
    n_masks_decoded: AtomicU64,
}

/// Which instances a split uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceChoice {
    /// All that the rules choose and that have a prompt; a missing teacher answer is an error when it is needed.
    All,
    /// Of these, those that the cache has an answer for.
    Cached,
}

/// What the student sees of an instance, and what it is compared with; all at the side of the student's input.
pub struct Sample {
    /// The annotation.
    pub annotation_id: u64,
    /// Which of the data set's [parts](Dataset::parts) it is of.
    pub part_idx: usize,
    /// Where the crop lies in the image.
    pub geometry: CropGeometry,
    /// Box of the prompt, `[x, y, width, height]` in image pixels; the annotated one where the prompt is a point.
    pub bbox: [f64; 4],
    /// RGB pixels, `[grid, grid, 3]`.
    pub pixels: Vec<u8>,
    /// The annotated mask, 0 or 1, `[grid, grid]`.
    pub truth: Vec<u8>,
    /// The annotated mask in the image.
    pub truth_in_image: Rle,
    /// The teacher's mask logits, `[grid, grid]`, if there is a teacher and it is asked about this part of the data set.
    pub teacher: Option<TeacherAnswer>,
}

/// The teacher's answer, cut to a sample's crop.
pub struct TeacherAnswer {
    /// Mask logits, `[grid, grid]`.
    pub logits: Vec<f32>,
    /// Its predicted IoU, clamped to `[0, 1]`.
    pub predicted_iou: f32,
    /// Whether it had to be clamped into that range.
    pub is_clamped: bool,
}

impl SampleSource {
    /// Selects the instances of a split. `crop` is the student's own rule; if the rules have one, they go before it.
    ///
    /// # Errors
    /// If a mask cannot be read, the data set lacks the rules' subset, or nothing is left.
    pub fn new(
        dataset: Dataset,
        teacher: Option<Box<dyn Store>>,
        rules: SelectionRules,
        crop: CropRule,
        limits: ImageLimits,
        choice: InstanceChoice,
    ) -> Result<Self, SampleError> {
        Self::with_unanswered_parts(dataset, teacher, rules, crop, limits, choice, BTreeSet::new())
    }

    /// [`new`](Self::new), where some [parts](Dataset::parts) of the data set, by their index, have no teacher: nothing compares their
    /// samples with one. All of their instances that have a prompt are used.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_unanswered_parts(
        dataset: Dataset,
        teacher: Option<Box<dyn Store>>,
        rules: SelectionRules,
        crop: CropRule,
        limits: ImageLimits,
        choice: InstanceChoice,
        unanswered_parts: BTreeSet<usize>,
    ) -> Result<Self, SampleError> {
        let (chosen, left_out) = rules.select(&dataset)?;
        let (crop, competitors) = (rules.crop.unwrap_or(crop), dataset.competitors());
        let images = SplitImages::new(dataset.images.len(), limits, MAX_KEPT_BYTES);
        let (instances, packed, n_masks_decoded) = (vec![], None, AtomicU64::new(0));
        let mut source = Self {
            dataset,
            teacher,
            rules,
            crop,
            limits,
            instances,
            left_out,
            choice,
            unanswered_parts,
            competitors,
            images,
            packed,
            n_masks_decoded,
        };
        let n_instances = source.dataset.instances.len();
        let reason = |&idx: &usize| source.reason_to_leave_out(idx, choice);
        let reasons: Vec<_> = chosen.par_iter().map(reason).collect::<Result<_, _>>()?;
        for (idx, reason) in chosen.into_iter().zip(reasons) {
            match reason {
                Some(reason) => source.left_out.push(LeftOut { annotation_id: source.annotation_id(idx), reason }),
                None => source.instances.push(idx),
            }
        }
        if source.instances.is_empty() {
            let path = source.dataset.annotations_path.clone();
            return Err(SampleError::NoSamples { path, n_instances, left_out: source.left_out_by_reason() });
        }
        Ok(source)
    }

    /// The instances used, in words for a protocol.
    pub fn subset_name(&self) -> String {
        let subset = self.rules.subset.name();
        match self.choice {
            InstanceChoice::All => subset,
            InstanceChoice::Cached => format!("{subset}: the {} instances with a teacher answer", self.instances.len()),
        }
    }

    /// How many instances are left out for each reason.
    pub fn left_out_by_reason(&self) -> BTreeMap<LeftOutReason, usize> {
        count_by_reason(&self.left_out)
    }

    /// Other annotated objects close to an instance: [`Dataset::competitors`].
    pub fn competitors_of(&self, instance_idx: usize) -> u32 {
        self.competitors[instance_idx]
    }

    /// The annotation of an instance.
    pub fn annotation_id(&self, instance_idx: usize) -> u64 {
        self.dataset.instances[instance_idx].id
    }

    /// The first used instance that the cache has no answer for, if any.
    pub fn first_without_teacher(&self) -> Option<u64> {
        let ids = self.instances.iter().filter(|&&idx| self.is_answered(idx)).map(|&idx| self.annotation_id(idx));
        ids.into_iter().find(|&id| !self.teacher.as_ref().is_some_and(|cache| cache.contains(id)))
    }

    /// Whether the teacher is asked about an instance, if there is one.
    fn is_answered(&self, instance_idx: usize) -> bool {
        !self.unanswered_parts.contains(&self.dataset.part_idx(instance_idx))
    }

    /// The annotated mask of an instance in its crop, 0 or 1, `[grid, grid]`, without reading the image.
    ///
    /// # Errors
    /// If the mask cannot be read or there is no prompt.
    pub fn truth_in_crop(&self, instance_idx: usize) -> Result<Vec<u8>, SampleError> {
        let truth = self.mask(instance_idx)?;
        Ok(crop_rle(&truth, &self.prompted(instance_idx, &truth)?.0))
    }

    /// The sample as it is scored: no augmentation.
    ///
    /// # Errors
    /// If image, mask, prompt or teacher answer cannot be had.
    pub fn sample(&self, instance_idx: usize) -> Result<Sample, SampleError> {
        self.load_one(instance_idx, None)
    }

    /// [`sample`](Self::sample) of each of some instances, in their order. An image that several share is decoded once.
    ///
    /// # Errors
    /// The first instance's for which something cannot be had.
    pub fn samples(&self, instances: &[usize]) -> Result<Vec<Sample>, SampleError> {
        self.load(instances, |_| None)
    }

    /// The sample as it is trained on in an epoch; a function of the seed, the epoch and the annotation alone.
    ///
    /// # Errors
    /// If image, mask, prompt or teacher answer cannot be had.
    /// # Panics
    /// If the picture turns and a teacher has answered: its answer would not turn with it.
    pub fn augmented_sample(
        &self,
        instance_idx: usize,
        augmentation: &Augmentation,
        seed: u64,
        epoch: u64,
    ) -> Result<Sample, SampleError> {
        self.load_one(instance_idx, Some(self.draw(instance_idx, augmentation, seed, epoch)))
    }

    /// [`augmented_sample`](Self::augmented_sample) of each of some instances, in their order. An image that several share is decoded
    /// once.
    ///
    /// # Errors
    /// The first instance's for which something cannot be had.
    /// # Panics
    /// As [`augmented_sample`](Self::augmented_sample).
    pub fn augmented_samples(
        &self,
        instances: &[usize],
        augmentation: &Augmentation,
        seed: u64,
        epoch: u64,
    ) -> Result<Vec<Sample>, SampleError> {
        self.load(instances, |idx| Some(self.draw(idx, augmentation, seed, epoch)))
    }

    /// Takes samples from a pack from now on, and from image files no more. Changes time, no sample.
    ///
    /// Whether the image files are still those that were packed, [`PackedSamples::check_images`] says.
    ///
    /// # Errors
    /// If the pack is of other samples, or lacks an instance.
    pub fn use_pack(&mut self, pack: PackedSamples, augmentations: &[&Augmentation]) -> Result<(), SampleError> {
        pack.check_key(&PackKey::of(self, augmentations))?;
        self.packed = Some(pack);
        Ok(())
    }

    /// The pack that samples come from, if they do.
    pub fn pack(&self) -> Option<&PackedSamples> {
        self.packed.as_ref()
    }

    /// How many of the instances used are shown in a region that is lengthened to the crop rule's shortest side.
    ///
    /// # Errors
    /// If a mask cannot be read.
    pub fn n_lengthened(&self) -> Result<usize, SampleError> {
        if !matches!(self.crop, CropRule::Box { .. }) {
            return Ok(0);
        }
        let is_lengthened = |&idx: &usize| {
            let instance = &self.dataset.instances[idx];
            let no_crop = |error: PromptError| SampleError::Crop { annotation_id: instance.id, source: error.into() };
            let prompt = self.rules.prompt_of(instance, &self.mask(idx)?).map_err(no_crop)?;
            Ok(self.crop.is_lengthened(prompt, self.dataset.images[instance.image_idx].size))
        };
        let found: Vec<bool> = self.instances.par_iter().map(is_lengthened).collect::<Result<_, SampleError>>()?;
        Ok(found.into_iter().filter(|is| *is).count())
    }

    /// How often image files were decoded so far.
    pub fn image_counts(&self) -> ImageCounts {
        self.images.counts()
    }

    /// How often annotated masks were decoded so far, from polygons or runs.
    pub fn n_masks_decoded(&self) -> u64 {
        self.n_masks_decoded.load(Ordering::Relaxed)
    }

    /// Bytes of the decoded images that are kept, at most [`MAX_KEPT_BYTES`] or what [`keep_images`](Self::keep_images) says.
    pub fn kept_bytes(&self) -> usize {
        self.images.kept_bytes()
    }

    /// Keeps up to so many bytes of decoded images from now on, and forgets those that are kept. Changes time and memory, no sample.
    pub fn keep_images(&mut self, max_kept_bytes: usize) {
        self.images = SplitImages::new(self.dataset.images.len(), self.limits, max_kept_bytes);
    }

    /// Checks that the teacher's records hold what every sample of every epoch of a training needs, so that none ends for
    /// want of it after hours. `epochs` has the augmentation of each epoch. Samples are drawn from seed, epoch and annotation id, so
    /// all are known now.
    ///
    /// # Errors
    /// For the first instance one of whose crops is not covered, or whose record cannot be read; `Interrupted` if `is_interrupted`
    /// said so before one of them.
    pub fn check_coverage(
        &self,
        epochs: &[&Augmentation],
        seed: u64,
        is_interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), SampleError> {
        let Some(store) = &self.teacher else { return Ok(()) };
        let prompt_idx = self.teacher_prompt_idx(store.as_ref());
        let check = |&idx: &usize| {
            if is_interrupted() {
                return Err(SampleError::Interrupted);
            }
            if !self.is_answered(idx) {
                return Ok(());
            }
            let annotation_id = self.annotation_id(idx);
            let cannot = |source| SampleError::Teacher { annotation_id, source };
            let record = store.masks(annotation_id).map_err(cannot)?;
            let (geometry, _) = self.prompted(idx, &self.mask(idx)?)?;
            (0..).zip(epochs).try_for_each(|(epoch, augmentation)| {
                let draw = self.draw(idx, augmentation, seed, epoch);
                let shown = self.shown(idx, draw.jittered(&geometry));
                record.check_coverage(prompt_idx, &shown.rect_in_image).map_err(cannot)
            })
        };
        self.instances.par_iter().map(check).find_first(Result::is_err).unwrap_or(Ok(()))
    }

    fn reason_to_leave_out(&self, idx: usize, choice: InstanceChoice) -> Result<Option<LeftOutReason>, SampleError> {
        match self.prompted(idx, &self.mask(idx)?) {
            Ok(_) => {}
            Err(SampleError::Crop { source, .. }) => return Ok(Some(source.into())),
            Err(error) => return Err(error),
        }
        let cached = || self.teacher.as_ref().is_some_and(|cache| cache.contains(self.annotation_id(idx)));
        let is_wanting = choice == InstanceChoice::Cached && self.is_answered(idx) && !cached();
        Ok(is_wanting.then_some(LeftOutReason::NoTeacherRecord))
    }

    pub(crate) fn mask(&self, instance_idx: usize) -> Result<Rle, SampleError> {
        self.n_masks_decoded.fetch_add(1, Ordering::Relaxed);
        let annotation_id = self.annotation_id(instance_idx);
        self.dataset.mask(instance_idx).map_err(|source| SampleError::Mask { annotation_id, source })
    }

    /// The crop for an instance's prompt, and the prompt's box (the annotated one, if it is a point).
    pub(crate) fn prompted(&self, instance_idx: usize, truth: &Rle) -> Result<(CropGeometry, [f64; 4]), SampleError> {
        let instance = &self.dataset.instances[instance_idx];
        let no_crop = |source| SampleError::Crop { annotation_id: instance.id, source };
        let prompt = self.rules.prompt_of(instance, truth).map_err(|error| no_crop(error.into()))?;
        let size = self.dataset.images[instance.image_idx].size;
        let bbox = prompt.bbox().unwrap_or(instance.bbox);
        Ok((self.crop.crop(prompt, size).map_err(no_crop)?, bbox))
    }

    /// What is drawn for an instance in an epoch.
    fn draw(&self, instance_idx: usize, augmentation: &Augmentation, seed: u64, epoch: u64) -> Draw {
        draw(augmentation, &mut sample_rng(seed, epoch, self.annotation_id(instance_idx)))
    }

    /// What the student is shown in place of a crop that was moved.
    fn shown(&self, instance_idx: usize, moved: CropGeometry) -> CropGeometry {
        self.crop.shown(moved, self.dataset.images[self.dataset.instances[instance_idx].image_idx].size)
    }
}

/// Samples for which a turn was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnCounts {
    /// Samples that are turned.
    pub turned: u64,
    /// Samples that are shown as they are.
    pub as_they_are: u64,
}

/// Bytes of decoded images that a split keeps, if nothing else is said: the quickstart's 240 training scenes, or 52 COCO images.
pub const MAX_KEPT_BYTES: usize = 48 << 20;
