//! A whole data set asked, image by image.

use std::collections::BTreeMap;
use std::path::Path;

use sensei_answers::asked::Question;
use sensei_answers::features::{FeatureRecord, FeatureValues};
use sensei_answers::kept::{Context, FeatureDtype, Kept, KeptMasks, ScaleSource};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::manifest::Manifest;
use sensei_answers::record::{ImageIdentity, MaskRecord, PointLabel, PromptPoint};
use sensei_answers::writer::CacheWriter;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageFile, ImageLimits, RgbImage};
use sensei_data::prompt_source::{Prompt, PromptSource};

use crate::error::TeacherError;
use crate::native::{Features, LOGIT_GRID, NativeTeacher, Seen};
use crate::record::KeptLogits;

/// What is asked, and what is kept of the answers.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildPlan {
    /// What the teacher is asked about each object, or nothing.
    pub question: Question,
    /// What of its answers is kept.
    pub kept: Kept,
    /// Prompts that are decoded together; changes memory and time, no answer.
    pub batch: usize,
    /// Images that may be unusable; each is counted and named.
    pub max_failed_images: usize,
    /// What an image file may cost.
    pub limits: ImageLimits,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildReport {
    /// The cache's.
    pub manifest: Manifest,
    /// Images that the teacher has looked at.
    pub n_images: usize,
    /// Images without an object to ask about, which it has not seen.
    pub n_without_objects: usize,
    /// Crowd regions, which it is not asked about.
    pub n_crowd: usize,
    /// Logits that were cut to what 8 bits hold.
    pub n_cut: u64,
    /// Images that could not be used, with the reason.
    pub failures: Vec<String>,
}

/// Asks the teacher about every object of a data set that is no crowd region, and writes the cache `out`. `progress` hears of each image:
/// how many are done, of how many.
///
/// # Errors
/// If the question is not one for this teacher, more images are unusable than allowed, an answer is not finite, or the cache cannot be
/// written. Then nothing stands at `out`.
pub fn build(
    dataset: &Dataset,
    teacher: &NativeTeacher,
    description: TeacherDescription,
    plan: &BuildPlan,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
    is_interrupted: &dyn Fn() -> bool,
) -> Result<BuildReport, TeacherError> {
    let asked = Asked::new(plan, teacher)?;
    let key = AnswerKey {
        teacher: teacher.digest().to_string(),
        preprocessing: teacher.preprocessing(),
        question: plan.question.clone(),
        kept: plan.kept.clone(),
        dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
    };
    let provenance = vec![format!("asked by sensei {}", env!("CARGO_PKG_VERSION"))];
    let mut writer = CacheWriter::create(out, key, description, provenance)?;
    let mut by_image: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (idx, instance) in dataset.instances.iter().enumerate().filter(|(_, instance)| !instance.is_crowd) {
        by_image.entry(instance.image_idx).or_default().push(idx);
    }
    if asked.is_about_images() {
        by_image = (0..dataset.images.len()).map(|idx| (idx, vec![])).collect();
    }
    if by_image.is_empty() {
        return Err(TeacherError::Nothing { path: dataset.annotations_path.clone() });
    }
    let (n_images, mut n_cut, mut failures) = (by_image.len(), 0, vec![]);
    for (n_done, (image_idx, instances)) in by_image.into_iter().enumerate() {
        if is_interrupted() {
            return Err(TeacherError::Interrupted);
        }
        match read_image(dataset, image_idx, &plan.limits) {
            Ok((identity, image)) => {
                n_cut += asked.image(dataset, teacher, &instances, identity, &image, &mut writer)?;
            }
            Err(error) => failures.push(error.to_string()),
        }
        progress(n_done + 1, n_images);
    }
    if failures.len() > plan.max_failed_images {
        return Err(TeacherError::Failures { failures, n_images, allowed: plan.max_failed_images });
    }
    Ok(BuildReport {
        manifest: writer.finish()?,
        n_images: n_images - failures.len(),
        n_without_objects: dataset.images.len() - n_images,
        n_crowd: dataset.instances.iter().filter(|instance| instance.is_crowd).count(),
        n_cut,
        failures,
    })
}

/// A question, taken apart.
enum Asked<'a> {
    Objects { prompts: &'a [PromptSource], padding_points: u32, kept: KeptLogits, batch: usize },
    Images { tap: [String; 1], dtype: FeatureDtype },
}

impl<'a> Asked<'a> {
    fn new(plan: &'a BuildPlan, teacher: &NativeTeacher) -> Result<Self, TeacherError> {
        let cannot = |what, expected: &str, found: String| {
            Err(TeacherError::Question { what, expected: expected.into(), found })
        };
        match (&plan.question, &plan.kept) {
            (Question::Object { prompts, padding_points }, Kept::MaskLogits { context, grid, logit_step, masks }) => {
                match context {
                    Context::WholeFrame if *grid != LOGIT_GRID => {
                        return cannot("kept grid", &format!("{LOGIT_GRID} for the whole frame"), grid.to_string());
                    }
                    Context::AroundBox { .. } | Context::WholeFrame => {}
                    Context::ClippedRegion { .. } | Context::NotStated => {
                        return cannot("kept context", "around_box or whole_frame", context.to_string());
                    }
                }
                let kept = KeptLogits { context: context.clone(), grid: *grid, logit_step: *logit_step, masks: *masks };
                if prompts.is_empty() || plan.batch == 0 {
                    return cannot("question", "at least one prompt, decoded one or more at a time", "none".into());
                }
                Ok(Self::Objects { prompts, padding_points: *padding_points, kept, batch: plan.batch })
            }
            (Question::Image, Kept::ImageFeatures { tap, grid, channels, dtype }) => {
                let taps = teacher.taps();
                let Some(known) = taps.iter().find(|known| known.name == *tap) else {
                    let names: Vec<&str> = taps.iter().map(|tap| tap.name.as_str()).collect();
                    return cannot("kept tap", &format!("one of {}", names.join(", ")), tap.clone());
                };
                let [known_channels, height, width] = known.shape;
                if [known_channels, height, width] != [*channels as usize, *grid as usize, *grid as usize] {
                    let found = format!("{channels} channels of {grid} x {grid}");
                    return cannot("kept tap", &format!("{known_channels} channels of {height} x {width}"), found);
                }
                if let FeatureDtype::Int8 { scales: ScaleSource::Dataset }
                | FeatureDtype::Int4 { scales: ScaleSource::Dataset } = dtype
                {
                    return cannot("kept dtype", "scales of each image", "scales of the data set".into());
                }
                Ok(Self::Images { tap: [tap.clone()], dtype: *dtype })
            }
            (question, kept) => {
                let found = format!("{question} with {}", kept.kind());
                cannot("question", "objects with mask logits, or images with their features", found)
            }
        }
    }

    fn is_about_images(&self) -> bool {
        matches!(self, Self::Images { .. })
    }

    /// Asks about one image; how many logits were cut.
    fn image(
        &self,
        dataset: &Dataset,
        teacher: &NativeTeacher,
        instances: &[usize],
        identity: ImageIdentity,
        image: &RgbImage,
        writer: &mut CacheWriter,
    ) -> Result<u64, TeacherError> {
        match self {
            Self::Images { tap, dtype } => {
                let mut seen = teacher.look(image, tap);
                let features = seen.features.pop().expect("the tap that was asked for");
                writer.push_features(&feature_record(identity, &seen, &features, *dtype)?)?;
                Ok(0)
            }
            Self::Objects { prompts, padding_points, kept, batch } => {
                let seen = teacher.look(image, &[]);
                let asked = Objects {
                    dataset,
                    teacher,
                    seen: &seen,
                    instances,
                    padding_points: *padding_points,
                    batch: *batch,
                };
                asked.records(prompts, kept, identity, writer)
            }
        }
    }
}

/// The objects of an image that the teacher has looked at.
struct Objects<'a> {
    dataset: &'a Dataset,
    teacher: &'a NativeTeacher,
    seen: &'a Seen,
    instances: &'a [usize],
    padding_points: u32,
    batch: usize,
}

impl Objects<'_> {
    fn records(
        &self,
        prompts: &[PromptSource],
        kept: &KeptLogits,
        identity: ImageIdentity,
        writer: &mut CacheWriter,
    ) -> Result<u64, TeacherError> {
        let mut n_cut = 0;
        let mut answers = vec![vec![]; self.instances.len()];
        for source in prompts {
            let points: Vec<Vec<PromptPoint>> =
                self.instances.iter().map(|&idx| self.points(idx, source)).collect::<Result<_, _>>()?;
            let mut at = 0;
            for points in points.chunks(self.batch) {
                for answer in self.teacher.answer(self.seen, points, self.padding_points, kept.choice()) {
                    let instance = &self.dataset.instances[self.instances[at]];
                    let subject = || format!("annotation {}", instance.id);
                    check_finite(subject, "logits", answer.logits.iter().flatten())?;
                    check_finite(subject, "predicted IoU", &answer.predicted_iou)?;
                    let points = points[at % self.batch].clone();
                    let (answer, cut) = kept.answer(points, &answer, &self.seen.frame, instance.bbox);
                    answers[at].push(answer);
                    n_cut += cut;
                    at += 1;
                }
            }
        }
        for (&idx, prompts) in self.instances.iter().zip(answers) {
            let annotation_id = self.dataset.instances[idx].id;
            let (grid, logit_step) = (kept.grid, kept.logit_step);
            writer.push_masks(&MaskRecord { annotation_id, image: identity, grid, logit_step, prompts })?;
        }
        Ok(n_cut)
    }

    /// A prompt for an object, in image pixels.
    fn points(&self, instance_idx: usize, source: &PromptSource) -> Result<Vec<PromptPoint>, TeacherError> {
        let instance = &self.dataset.instances[instance_idx];
        let mask = self.dataset.mask(instance_idx)?;
        let prompt = source.prompt(instance.id, instance.bbox, &mask);
        let prompt = prompt.map_err(|source| TeacherError::Prompt { annotation_id: instance.id, source })?;
        Ok(match prompt {
            Prompt::Box(bbox) => PromptPoint::of_box(bbox),
            Prompt::Point(at) => vec![PromptPoint { at, label: PointLabel::Foreground }],
        })
    }
}

fn read_image(
    dataset: &Dataset,
    image_idx: usize,
    limits: &ImageLimits,
) -> Result<(ImageIdentity, RgbImage), TeacherError> {
    let (record, path) = (&dataset.images[image_idx], dataset.image_path(image_idx));
    let file = ImageFile::read(&path, limits)?;
    let image = file.decode(limits)?;
    if image.size != record.size {
        let (expected, found) = (record.size.to_string(), image.size.to_string());
        return Err(TeacherError::ImageSize { path, expected, found });
    }
    let pixel_digest = Some(*blake3::hash(&image.pixels).as_bytes());
    Ok((ImageIdentity { id: record.id, file_digest: file.digest(), pixel_digest, size: record.size }, image))
}

fn feature_record(
    identity: ImageIdentity,
    seen: &Seen,
    features: &Features,
    dtype: FeatureDtype,
) -> Result<FeatureRecord<'static>, TeacherError> {
    check_finite(|| format!("image {}", identity.id), "features", &features.values)?;
    let [channels, grid, _] = features.shape;
    let scales = |largest: f32| -> Vec<f32> {
        let maximum = |channel: &[f32]| channel.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        features.values.chunks_exact(grid * grid).map(|channel| maximum(channel) / largest).collect()
    };
    let values = match dtype {
        FeatureDtype::F32 => FeatureValues::from_f32(&features.values),
        FeatureDtype::F16 => FeatureValues::f16(&features.values),
        FeatureDtype::Int8 { .. } => FeatureValues::int8(&features.values, scales(127.0)),
        FeatureDtype::Int4 { .. } => FeatureValues::int4(&features.values, scales(7.0)),
    };
    let (resized, used) = (seen.frame.resized, seen.frame.used_cells(grid as u32));
    Ok(FeatureRecord { image: identity, resized, used, grid: grid as u32, channels: channels as u32, values })
}

fn check_finite<'v>(
    subject: impl Fn() -> String,
    what: &'static str,
    values: impl IntoIterator<Item = &'v f32>,
) -> Result<(), TeacherError> {
    match values.into_iter().find(|value| !value.is_finite()) {
        Some(&found) => Err(TeacherError::NotFinite { subject: subject(), what, found }),
        None => Ok(()),
    }
}

/// What the Python exporter keeps, and so what its caches and those of a build have in common: see `scripts/teacher/README.md`.
pub fn default_kept() -> Kept {
    Kept::MaskLogits {
        context: Context::AroundBox { region_scale: 1.2, context_scale: 2.0, min_side: 0.0 },
        grid: 128,
        logit_step: 0.125,
        masks: KeptMasks::Single,
    }
}
