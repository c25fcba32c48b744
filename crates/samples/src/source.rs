//! From an annotation to what the student sees and is compared with.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use sensei_answers::store::Store;
use sensei_data::augment::{Augmentation, draw, sample_rng};
use sensei_data::crop::{CropGeometry, crop_image, crop_mask};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{EncodedImage, ImageLimits, read_image};
use sensei_data::prompt::PromptRule;
use sensei_data::rle::Rle;
use sensei_files::digest::hex;

use crate::error::SampleError;
use crate::selection::{LeftOut, LeftOutReason, SelectionRules};

/// One split: its annotations, its images, the prompt rule and, where there is one, the teacher's answers.
pub struct SampleSource {
    /// Annotations and where the images lie.
    pub dataset: Dataset,
    /// Answers of the teacher, by annotation. Where it was asked by several prompts, the answer to the one of `rules` counts
    /// (the first, if that was not asked); where it gave several masks, the one of the highest predicted IoU.
    pub teacher: Option<Box<dyn Store>>,
    /// Which instances are used, and what is given for them.
    pub rules: SelectionRules,
    /// How a prompt becomes what the student sees.
    pub crop: PromptRule,
    /// What an image file may cost.
    pub limits: ImageLimits,
    /// The instances used, as indices into the data set, in the order of the annotation file.
    pub instances: Vec<usize>,
    /// The instances left out and why.
    pub left_out: Vec<LeftOut>,
    choice: InstanceChoice,
    competitors: Vec<u32>,
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
    /// The teacher's mask logits, `[grid, grid]`, if there is a teacher.
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
        crop: PromptRule,
        limits: ImageLimits,
        choice: InstanceChoice,
    ) -> Result<Self, SampleError> {
        let (chosen, left_out) = rules.select(&dataset)?;
        let (crop, competitors) = (rules.crop.unwrap_or(crop), dataset.competitors());
        let mut source =
            Self { dataset, teacher, rules, crop, limits, instances: vec![], left_out, choice, competitors };
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
        let mut counts = BTreeMap::new();
        for left_out in &self.left_out {
            *counts.entry(left_out.reason).or_default() += 1;
        }
        counts
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
        let ids = self.instances.iter().map(|&idx| self.annotation_id(idx));
        ids.into_iter().find(|&id| !self.teacher.as_ref().is_some_and(|cache| cache.contains(id)))
    }

    /// The annotated mask of an instance in its crop, 0 or 1, `[grid, grid]`, without reading the image.
    ///
    /// # Errors
    /// If the mask cannot be read or there is no prompt.
    pub fn truth_in_crop(&self, instance_idx: usize) -> Result<Vec<u8>, SampleError> {
        let truth = self.mask(instance_idx)?;
        Ok(crop_mask(&truth.to_mask(), &self.prompted(instance_idx, &truth)?.0))
    }

    /// The sample as it is scored: no augmentation.
    ///
    /// # Errors
    /// If image, mask, prompt or teacher answer cannot be had.
    pub fn sample(&self, instance_idx: usize) -> Result<Sample, SampleError> {
        let truth_in_image = self.mask(instance_idx)?;
        let (geometry, bbox) = self.prompted(instance_idx, &truth_in_image)?;
        self.cut(instance_idx, truth_in_image, geometry, bbox)
    }

    /// The sample as it is trained on in an epoch; a function of the seed, the epoch and the annotation alone.
    ///
    /// # Errors
    /// If image, mask, prompt or teacher answer cannot be had.
    pub fn augmented_sample(
        &self,
        instance_idx: usize,
        augmentation: &Augmentation,
        seed: u64,
        epoch: u64,
    ) -> Result<Sample, SampleError> {
        let truth_in_image = self.mask(instance_idx)?;
        let (geometry, bbox) = self.prompted(instance_idx, &truth_in_image)?;
        let draw = draw(augmentation, &mut sample_rng(seed, epoch, self.annotation_id(instance_idx)));
        let mut sample = self.cut(instance_idx, truth_in_image, draw.jittered(&geometry), bbox)?;
        draw.photometric(&mut sample.pixels);
        let logits = sample.teacher.as_mut().map_or(&mut [][..], |teacher| &mut teacher.logits);
        draw.flip_together(geometry.grid, &mut sample.pixels, &mut sample.truth, logits);
        Ok(sample)
    }

    /// Checks that the teacher's records hold what every sample of every epoch of a training needs, so that none ends for
    /// want of it after hours. `epochs` has the augmentation of each epoch. Samples are drawn from seed, epoch and annotation id, so
    /// all are known now.
    ///
    /// # Errors
    /// For the first instance one of whose crops is not covered, or whose record cannot be read.
    pub fn check_coverage(&self, epochs: &[&Augmentation], seed: u64) -> Result<(), SampleError> {
        let Some(store) = &self.teacher else { return Ok(()) };
        let prompt_idx = self.teacher_prompt_idx(store.as_ref());
        let check = |&idx: &usize| {
            let annotation_id = self.annotation_id(idx);
            let cannot = |source| SampleError::Teacher { annotation_id, source };
            let record = store.masks(annotation_id).map_err(cannot)?;
            let (geometry, _) = self.prompted(idx, &self.mask(idx)?)?;
            (0..).zip(epochs).try_for_each(|(epoch, augmentation)| {
                let draw = draw(augmentation, &mut sample_rng(seed, epoch, annotation_id));
                record.check_coverage(prompt_idx, &draw.jittered(&geometry).rect_in_image).map_err(cannot)
            })
        };
        self.instances.par_iter().map(check).find_first(Result::is_err).unwrap_or(Ok(()))
    }

    fn reason_to_leave_out(&self, idx: usize, choice: InstanceChoice) -> Result<Option<LeftOutReason>, SampleError> {
        match self.prompted(idx, &self.mask(idx)?) {
            Ok(_) => {}
            Err(SampleError::Prompt { source, .. }) => return Ok(Some(source.into())),
            Err(error) => return Err(error),
        }
        let cached = || self.teacher.as_ref().is_some_and(|cache| cache.contains(self.annotation_id(idx)));
        Ok((choice == InstanceChoice::Cached && !cached()).then_some(LeftOutReason::NoTeacherRecord))
    }

    fn mask(&self, instance_idx: usize) -> Result<Rle, SampleError> {
        let annotation_id = self.annotation_id(instance_idx);
        self.dataset.mask(instance_idx).map_err(|source| SampleError::Mask { annotation_id, source })
    }

    /// The crop for an instance's prompt, and the prompt's box (the annotated one, if it is a point).
    fn prompted(&self, instance_idx: usize, truth: &Rle) -> Result<(CropGeometry, [f64; 4]), SampleError> {
        let instance = &self.dataset.instances[instance_idx];
        let no_prompt = |source| SampleError::Prompt { annotation_id: instance.id, source };
        let prompt = self.rules.prompt_of(instance, &truth.to_mask()).map_err(no_prompt)?;
        let size = self.dataset.images[instance.image_idx].size;
        let bbox = prompt.bbox().unwrap_or(instance.bbox);
        Ok((self.crop.crop(prompt, size).map_err(no_prompt)?, bbox))
    }

    fn cut(
        &self,
        instance_idx: usize,
        truth_in_image: Rle,
        geometry: CropGeometry,
        bbox: [f64; 4],
    ) -> Result<Sample, SampleError> {
        let instance = &self.dataset.instances[instance_idx];
        let annotation_id = instance.id;
        let path = self.dataset.image_path(instance.image_idx);
        let EncodedImage { image, digest } =
            read_image(&path, &self.limits).map_err(|source| SampleError::Image { annotation_id, source })?;
        let annotated_size = self.dataset.images[instance.image_idx].size;
        if image.size != annotated_size {
            let (expected, found) = (annotated_size.to_string(), image.size.to_string());
            return Err(SampleError::ImageSize { path, expected, found });
        }
        let teacher = match &self.teacher {
            Some(store) => Some(self.answer(store.as_ref(), annotation_id, &path, digest, &geometry)?),
            None => None,
        };
        let truth = crop_mask(&truth_in_image.to_mask(), &geometry);
        let pixels = crop_image(&image, &geometry);
        Ok(Sample { annotation_id, geometry, bbox, pixels, truth, truth_in_image, teacher })
    }

    fn teacher_prompt_idx(&self, store: &dyn Store) -> usize {
        store.manifest().key.question.prompt_idx(&self.rules.prompt)
    }

    fn answer(
        &self,
        store: &dyn Store,
        annotation_id: u64,
        image_path: &Path,
        image_digest: [u8; 32],
        geometry: &CropGeometry,
    ) -> Result<TeacherAnswer, SampleError> {
        let cannot = |source| SampleError::Teacher { annotation_id, source };
        let record = store.masks(annotation_id).map_err(cannot)?;
        if record.image.file_digest != image_digest {
            let (expected, found) = (hex(&record.image.file_digest), hex(&image_digest));
            return Err(SampleError::OtherImage { path: image_path.to_path_buf(), expected, found });
        }
        let prompt_idx = self.teacher_prompt_idx(store);
        let mask_idx = record.prompts[prompt_idx].best_mask_idx();
        let (predicted_iou, is_clamped) = record.prompts[prompt_idx].masks[mask_idx].clamped_predicted_iou();
        let logits = record.mask(prompt_idx, mask_idx).logits_in_crop(geometry).map_err(cannot)?;
        Ok(TeacherAnswer { logits, predicted_iou, is_clamped })
    }
}
