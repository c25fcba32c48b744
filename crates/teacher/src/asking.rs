//! What a data set is asked, and each of its images in turn.

use std::collections::BTreeMap;

use sensei_answers::asked::{Question, Zoom};
use sensei_answers::features::{FeatureRecord, FeatureValues};
use sensei_answers::kept::{Context, FeatureDtype, Kept, ScaleSource};
use sensei_answers::key::AnswerKey;
use sensei_answers::record::{ImageIdentity, MaskRecord, PointLabel, PromptAnswer, PromptPoint};
use sensei_answers::writer::RecordSink;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageLimits, RgbImage};
use sensei_data::prompt_source::{Prompt, PromptSource};

use crate::build::BuildPlan;
use crate::error::{BadAnnotation, TeacherError};
use crate::frame::Part;
use crate::picture::read_picture;
use crate::record::KeptLogits;
use crate::teacher::{Features, LOGIT_GRID, PROMPTS_AT_ONCE, Seen, Teacher};

/// A teacher before a data set: everything is decided but the answers.
pub(crate) struct Asking<'a> {
    asked: Asked<'a>,
    dataset: &'a Dataset,
    teacher: &'a Teacher,
    limits: &'a ImageLimits,
    /// Each image that is looked at, and the objects in it that are asked about, by their indices.
    pub images: Vec<(usize, Vec<usize>)>,
    prompts: BTreeMap<usize, Vec<Vec<PromptPoint>>>,
}

impl<'a> Asking<'a> {
    /// # Errors
    /// If the question is not one for this teacher, there is nothing to ask about, or annotations cannot be asked about: what the
    /// annotations alone tell, before hours are spent.
    pub fn new(dataset: &'a Dataset, teacher: &'a Teacher, plan: &'a BuildPlan) -> Result<Self, TeacherError> {
        let asked = Asked::new(plan, teacher)?;
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
        let prompts = asked.prompts(dataset, &by_image)?;
        let (limits, images) = (&plan.limits, by_image.into_iter().collect());
        Ok(Self { asked, dataset, teacher, limits, images, prompts })
    }

    /// The key of the answers.
    ///
    /// # Errors
    /// If small objects are to be shown by themselves to a teacher that cannot.
    pub fn key(&self, plan: &BuildPlan) -> Result<AnswerKey, TeacherError> {
        Ok(AnswerKey {
            teacher: self.teacher.digest().to_string(),
            preprocessing: self.teacher.preprocessing(plan.zoom)?,
            question: plan.question.clone(),
            kept: plan.kept.clone(),
            dataset: blake3::Hash::from_bytes(self.dataset.digest).to_hex().to_string(),
        })
    }

    /// Images without an object to ask about, which the teacher does not see.
    pub fn n_without_objects(&self) -> usize {
        self.dataset.images.len() - self.images.len()
    }

    /// Crowd regions, which it is not asked about.
    pub fn n_crowd(&self) -> usize {
        self.dataset.instances.iter().filter(|instance| instance.is_crowd).count()
    }

    /// Asks about one of the images. What is wrong with an image that cannot be used is in the inner result: whether to go on is the
    /// caller's to say.
    ///
    /// # Errors
    /// If an answer is not finite, the sink refuses, or the caller asked to stop.
    pub fn image(
        &self,
        nth: usize,
        sink: &mut dyn RecordSink,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Result<Counts, TeacherError>, TeacherError> {
        if is_interrupted() {
            return Err(TeacherError::Interrupted);
        }
        let (image_idx, instances) = &self.images[nth];
        let record = &self.dataset.images[*image_idx];
        let (image, file_digest) =
            match read_picture(&self.dataset.image_path(*image_idx), Some(record.size), self.limits) {
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            };
        let pixel_digest = Some(*blake3::hash(&image.pixels).as_bytes());
        let identity = ImageIdentity { id: record.id, file_digest, pixel_digest, size: record.size };
        let objects = Objects { dataset: self.dataset, instances, prompts: &self.prompts, is_interrupted };
        self.asked.image(&objects, self.teacher, identity, &image, sink).map(Ok)
    }
}

/// A question, taken apart.
enum Asked<'a> {
    Objects { prompts: &'a [PromptSource], padding_points: u32, kept: KeptLogits, zoom: Option<Zoom> },
    Images { tap: [String; 1], dtype: FeatureDtype },
}

impl<'a> Asked<'a> {
    fn new(plan: &'a BuildPlan, teacher: &Teacher) -> Result<Self, TeacherError> {
        let cannot = |what, expected: &str, found: String| {
            Err(TeacherError::Question { what, expected: expected.into(), found })
        };
        match (&plan.question, &plan.kept) {
            (Question::Object { prompts, padding_points }, Kept::MaskLogits { context, grid, logit_step, masks }) => {
                match context {
                    Context::WholeFrame if *grid != LOGIT_GRID => {
                        return cannot("kept grid", &format!("{LOGIT_GRID} for the whole frame"), grid.to_string());
                    }
                    Context::WholeFrame if plan.zoom.is_some() => {
                        return cannot("kept context", "around_box with zoom", context.to_string());
                    }
                    Context::AroundBox { .. } | Context::WholeFrame => {}
                    Context::ClippedRegion { .. } | Context::NotStated => {
                        return cannot("kept context", "around_box or whole_frame", context.to_string());
                    }
                }
                let kept = KeptLogits { context: context.clone(), grid: *grid, logit_step: *logit_step, masks: *masks };
                if teacher.pads_prompts() && *padding_points > 0 {
                    let expected = format!("0 for {}, which fills prompts up itself", teacher.name());
                    return cannot("padding points", &expected, padding_points.to_string());
                }
                if prompts.is_empty() {
                    return cannot("question", "at least one prompt", "none".into());
                }
                Ok(Self::Objects { prompts, padding_points: *padding_points, kept, zoom: plan.zoom })
            }
            (Question::Image, Kept::ImageFeatures { .. }) if plan.zoom.is_some() => {
                cannot("question", "objects with zoom", "features of images".into())
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

    /// The prompts of every object, by the instance's index: each by every source of the question, in its order.
    ///
    /// # Errors
    /// `Annotations`, with all that have none or of whose box nothing can be kept; `Mask`.
    fn prompts(
        &self,
        dataset: &Dataset,
        by_image: &BTreeMap<usize, Vec<usize>>,
    ) -> Result<BTreeMap<usize, Vec<Vec<PromptPoint>>>, TeacherError> {
        let Self::Objects { prompts, .. } = self else { return Ok(BTreeMap::new()) };
        let (mut of_instances, mut annotations) = (BTreeMap::new(), vec![]);
        for &idx in by_image.values().flatten() {
            let instance = &dataset.instances[idx];
            let [_, _, width, height] = instance.bbox;
            let mut bad = |reason: String| annotations.push(BadAnnotation { annotation_id: instance.id, reason });
            if !(width > 0.0 && height > 0.0) {
                bad(format!("its box is {width} x {height}"));
                continue;
            }
            let mask = dataset.mask(idx)?;
            let on_object = |at| PromptPoint { at, label: PointLabel::Foreground };
            let points = |source: &PromptSource| {
                source.prompt(instance.id, instance.bbox, &mask).map(|prompt| match prompt {
                    Prompt::Box(bbox) => PromptPoint::of_box(bbox),
                    Prompt::Point(at) => vec![on_object(at)],
                    Prompt::Points(points) => points.into_iter().map(on_object).collect(),
                })
            };
            match prompts.iter().map(points).collect::<Result<Vec<_>, _>>() {
                Ok(points) => drop(of_instances.insert(idx, points)),
                Err(error) => bad(error.to_string()),
            }
        }
        if annotations.is_empty() { Ok(of_instances) } else { Err(TeacherError::Annotations { annotations }) }
    }

    /// Asks about one image.
    fn image(
        &self,
        objects: &Objects<'_>,
        teacher: &Teacher,
        identity: ImageIdentity,
        image: &RgbImage,
        sink: &mut dyn RecordSink,
    ) -> Result<Counts, TeacherError> {
        match self {
            Self::Images { tap, dtype } => {
                let mut seen = teacher.look(image, tap)?;
                let features = seen.features.pop().expect("the tap that was asked for");
                sink.push_features(&feature_record(identity, &seen, &features, *dtype)?)?;
                Ok(Counts { n_cut: 0, n_zoomed: 0 })
            }
            Self::Objects { prompts, padding_points, kept, zoom } => {
                let mut answers: BTreeMap<usize, Vec<PromptAnswer>> = BTreeMap::new();
                let mut n_cut = 0;
                let mut ask = |seen: &Seen, instances: &[usize]| {
                    for source_idx in 0..prompts.len() {
                        let found = objects.answers(teacher, seen, instances, source_idx, *padding_points, kept)?;
                        for (idx, (answer, cut)) in instances.iter().zip(found) {
                            answers.entry(*idx).or_default().push(answer);
                            n_cut += cut;
                        }
                    }
                    Ok::<(), TeacherError>(())
                };
                let part = |&idx: &usize| {
                    let bbox = objects.dataset.instances[idx].bbox;
                    let points = objects.prompts[&idx].iter().flatten();
                    let part = kept.part((*zoom)?, bbox, points, image.size, teacher.framing().side())?;
                    Some((idx, part))
                };
                let alone: BTreeMap<usize, Part> = objects.instances.iter().filter_map(part).collect();
                let together: Vec<usize> =
                    objects.instances.iter().copied().filter(|idx| !alone.contains_key(idx)).collect();
                if !together.is_empty() {
                    ask(&teacher.look(image, &[])?, &together)?;
                }
                for (&idx, &part) in &alone {
                    if (objects.is_interrupted)() {
                        return Err(TeacherError::Interrupted);
                    }
                    ask(&teacher.look_at_part(image, part)?, &[idx])?;
                }
                for (idx, prompts) in answers {
                    let annotation_id = objects.dataset.instances[idx].id;
                    let (grid, logit_step) = (kept.grid, kept.logit_step);
                    sink.push_masks(&MaskRecord { annotation_id, image: identity, grid, logit_step, prompts })?;
                }
                Ok(Counts { n_cut, n_zoomed: alone.len() })
            }
        }
    }
}

/// What an image adds to a report.
pub(crate) struct Counts {
    pub n_cut: u64,
    pub n_zoomed: usize,
}

/// The objects of an image.
struct Objects<'a> {
    dataset: &'a Dataset,
    instances: &'a [usize],
    prompts: &'a BTreeMap<usize, Vec<Vec<PromptPoint>>>,
    is_interrupted: &'a dyn Fn() -> bool,
}

impl Objects<'_> {
    /// What is kept of the answers to one prompt of each of these objects, and how many logits of each were cut.
    fn answers(
        &self,
        teacher: &Teacher,
        seen: &Seen,
        instances: &[usize],
        source_idx: usize,
        padding_points: u32,
        kept: &KeptLogits,
    ) -> Result<Vec<(PromptAnswer, u64)>, TeacherError> {
        let mut found = Vec::with_capacity(instances.len());
        for instances in instances.chunks(PROMPTS_AT_ONCE) {
            let points: Vec<Vec<PromptPoint>> =
                instances.iter().map(|idx| self.prompts[idx][source_idx].clone()).collect();
            let answers = teacher.answer(seen, &points, padding_points, kept.choice())?;
            for ((&idx, points), answer) in instances.iter().zip(points).zip(answers) {
                let instance = &self.dataset.instances[idx];
                let subject = || format!("annotation {}", instance.id);
                check_finite(subject, "logits", answer.logits.iter().flatten())?;
                check_finite(subject, "predicted IoU", &answer.predicted_iou)?;
                found.push(kept.answer(points, &answer, &seen.frame, instance.bbox));
            }
        }
        Ok(found)
    }
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
