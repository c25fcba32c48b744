//! A run whose student sees whole images and answers prompts: its data, its networks, its training.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use burn::tensor::Device;
use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize};
use sensei_answers::features::feature_record_bytes;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::Kept;
use sensei_answers::key::AnswerKey;
use sensei_answers::store::Store;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_files::digest::{sha256_of_file, sha256_of_lines};
use sensei_loss::{Adapter, ImageNeeds};
use sensei_report::run_folder::RunFolder;
use sensei_sam::adapters::{ADAPTERS, AdapterConfig, fresh_adapters};
use sensei_sam::granularity::{GRANULARITY, fresh_granularity};
use sensei_sam::masked_vit::{MaskedConfig, MaskedVit};
use sensei_sam::mobile_sam::INPUT_SIZE;
use sensei_sam::prompted::{MASK_DECODER, PROMPT_ENCODER, PromptedDecoder};
use sensei_sam::scope::Tensors;
use sensei_sam::student::PromptableStudent;
use sensei_sam::tiny_vit_student::{TinyVitStudent, fresh_tiny_vit, published_tiny_vit};
use sensei_sam::vit::NECK;
use sensei_sam::vit_student::VitStudent;
use sensei_sam::vit_weights::{fresh_masked_decoder, fresh_neck, fresh_trunk};
use sensei_samples::selection::{count_by_reason, in_words};
use sensei_samples::whole_images::ImageSource;
use sensei_student::init::initial_weights;
use sensei_student::pyramid::{EMBEDDING, EMBEDDING_CHANNELS, EMBEDDING_GRID};
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::weights::{read_weights, with_published_encoder, write_weights};
use sensei_tensor::network::{NamedWeights, Network, Tap, weights_digest};
use sensei_train::fit::{Fitted, RunOptions, fit};
use sensei_train::images::{ErrorRegion, ImageObjective, ImageTask};
use sensei_train::run_digests::RunDigests;
use sensei_train::stages::{StageError, StageNetworks};

use crate::config::{ComparedTaps, EmbeddingPlace, EncoderPlan, FirstWeights, PromptablePlan, TeacherFiles};
use crate::device::Devices;
use crate::phases::answers::{OpenQuestion, asked_here, is_cached};
use crate::phases::data::{Split, check_annotated, check_disjoint_images, dataset, load_part};
use crate::phases::images::check_images_of;
use crate::phases::shared;
use crate::phases::train::TrainOptions;
use crate::progress::{TrainProgress, Validate, on_one_line, say, warn};
use crate::run_folder;
use crate::usage;

/// The teacher's tensors and digest.
pub struct SamTeacher {
    tensors: NamedWeights,
    origin: String,
}

impl SamTeacher {
    /// Reads the plan's teacher.
    ///
    /// # Errors
    /// If the file cannot be read, or is another teacher's.
    pub fn open(plan: &PromptablePlan) -> anyhow::Result<Self> {
        let path = &plan.teacher_weights;
        let found = sha256_of_lines(&[sha256_of_file(path)?]);
        let (shown, expected) = (path.display(), &plan.teacher_digest);
        ensure!(found == *expected, "{shown}: expected weights of [teacher] digest {expected:?}, found {found:?}");
        Ok(Self { tensors: read_weights(path)?.tensors, origin: shown.to_string() })
    }

    /// The part that answers prompts, on the CPU.
    ///
    /// # Errors
    /// If a tensor of it is missing or of another shape.
    pub fn decoder(&self) -> anyhow::Result<PromptedDecoder> {
        let own = self.tensors.iter().filter(|(name, _)| is_of_decoder(name));
        let own: NamedWeights = own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        let tensors = Tensors::new(&self.origin, &own, &Device::flex());
        Ok(PromptedDecoder::sam(INPUT_SIZE, EMBEDDING_GRID, &tensors.root())?)
    }
}

/// Both splits, with the teacher's embeddings, for which it is asked the first time. Everything is checked that can be before training.
///
/// # Errors
/// As of [`image_splits`], or if the teacher cannot be asked.
pub fn checked_image_splits(plan: &PromptablePlan, runs: &Path) -> anyhow::Result<(ImageSource, ImageSource)> {
    let (mut train, mut val) = image_splits(plan, runs)?;
    for (split, source) in [(Split::Train, &mut train), (Split::Val, &mut val)] {
        ask_teacher(plan, split, source, runs)?;
    }
    Ok((train, val))
}

/// Opens both splits, and asks nobody.
///
/// # Errors
/// If a data set or image cannot be used, the splits share an image, or a teacher's masks are taken for the truth.
pub fn image_splits(plan: &PromptablePlan, runs: &Path) -> anyhow::Result<(ImageSource, ImageSource)> {
    let mut train = dataset(&plan.data, Split::Train, runs)?;
    let val = dataset(&plan.data, Split::Val, runs)?;
    check_annotated(&val)?;
    let own = train.clone();
    for part in plan.data.also_train() {
        train.join(load_part(&plan.data, part, &own, runs)?)?;
    }
    check_truth(plan, &train)?;
    check_first_weights(plan)?;
    let side = u32::try_from(plan.encoder.input_size()).context("[student] input_size")?;
    let open = |split: Split, dataset: Dataset| {
        let all: Vec<usize> = (0..dataset.images.len()).collect();
        check_images_of(split.name(), &dataset, &all)?;
        let source = ImageSource::new(dataset, None, side, ImageLimits::default())?;
        let n: usize = source.images.iter().map(|used| used.instances.len()).sum();
        let left_out = in_words(&count_by_reason(&source.left_out));
        let without = match all.len() - source.images.len() {
            0 => String::new(),
            n => format!("; images without an object, not used: {n}"),
        };
        let n_images = source.images.len();
        say(&format!("{}: {n_images} images with {n} instances; left out: {left_out}{without}", split.name()));
        anyhow::Ok(source)
    };
    check_disjoint_images(&train, &val, &(0..val.images.len()).collect())?;
    let (train, val) = (open(Split::Train, train)?, open(Split::Val, val)?);
    plan.train.check_batches(plan.encoder.min_train_batch(), train.images.len()).map_err(usage)?;
    Ok((train, val))
}

/// The points of the teacher whose features a split needs besides its embedding: only training compares further ones.
fn further_taps(plan: &PromptablePlan, split: Split) -> Vec<&Tap> {
    let mut taps: Vec<&Tap> = vec![];
    for ComparedTaps { teacher, .. } in plan.compared.iter().filter(|_| split == Split::Train) {
        if taps.iter().all(|tap| tap.name != teacher.name) {
            taps.push(teacher);
        }
    }
    taps
}

/// Bytes of the teacher's features of the training images, by the point that they are of. Nobody is asked.
pub fn features_bytes(plan: &PromptablePlan, train: &ImageSource) -> BTreeMap<String, u64> {
    let bytes = |Tap { name, shape: [channels, grid, _] }: &Tap| {
        let of_image = feature_record_bytes(plan.features, *grid as u32, *channels as u32);
        (name.clone(), of_image * train.images.len() as u64)
    };
    let embedding = embedding_tap();
    std::iter::once(&embedding).chain(further_taps(plan, Split::Train)).map(bytes).collect()
}

/// Data sets of which a run would ask the teacher for features first.
pub fn unasked_features(
    plan: &PromptablePlan,
    (train, val): (&ImageSource, &ImageSource),
    runs: &Path,
) -> Vec<OpenQuestion> {
    let is_asked = |split: Split, source: &ImageSource| {
        let mut keys: Vec<AnswerKey> =
            further_taps(plan, split).into_iter().map(|tap| tap_key(plan, &source.dataset, tap)).collect();
        if place_of(plan, split).is_none() {
            keys.push(features_key(plan, &source.dataset));
        }
        keys.iter().all(|key| is_cached(key, runs))
    };
    let splits = [(Split::Train, train), (Split::Val, val)].into_iter();
    let open = splits.filter(|(split, source)| !is_asked(*split, source));
    let question = |source: &ImageSource| OpenQuestion {
        annotations: source.dataset.annotations_path.clone(),
        n_images: source.images.len(),
        n_annotations: source.dataset.instances.len(),
    };
    open.map(|(_, source)| question(source)).collect()
}

fn place_of(plan: &PromptablePlan, split: Split) -> Option<&EmbeddingPlace> {
    let [train, val] = &plan.embeddings;
    match split {
        Split::Train => train.as_ref(),
        Split::Val => val.as_ref(),
    }
}

/// Gives a split the teacher's features, which it is asked for the first time.
///
/// # Errors
/// If they are missing, broken or another teacher's, or the teacher cannot be asked.
pub fn ask_teacher(plan: &PromptablePlan, split: Split, source: &mut ImageSource, runs: &Path) -> anyhow::Result<()> {
    let store = |key: AnswerKey| -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(asked_here(&teacher_files(plan), &key, &source.dataset, runs)?))
    };
    let key = features_key(plan, &source.dataset);
    let features: Box<dyn Store> = match place_of(plan, split) {
        None => store(key)?,
        Some(EmbeddingPlace::Cache(folder)) => Box::new(FolderStore::open(folder, &key)?),
        Some(EmbeddingPlace::Store(address)) => shared::answers(address, &key, plan.logging.fetched_shards_gib, runs)?,
    };
    let taps = further_taps(plan, split).into_iter();
    let taps = taps.map(|tap| anyhow::Ok((tap.name.clone(), store(tap_key(plan, &source.dataset, tap))?)));
    let taps = taps.collect::<Result<Vec<_>, _>>()?;
    (source.features, source.taps) = (Some(features), taps);
    match source.first_without_features() {
        Some(image_id) => bail!("image {image_id} ({} split): no features of the teacher", split.name()),
        None => Ok(()),
    }
}

/// Refuses first weights that are not of the plan's network.
fn check_first_weights(plan: &PromptablePlan) -> anyhow::Result<()> {
    let cpu = Device::flex();
    match &plan.first_weights {
        FirstWeights::File(path) => {
            let tensors = read_weights(path)?.tensors;
            student_of(plan, &path.display().to_string(), &tensors, &cpu).map(drop)
        }
        FirstWeights::PublishedEncoder(path) => published_encoder(plan, path, &cpu).map(drop),
        FirstWeights::Shipped(_) | FirstWeights::Random => Ok(()),
    }
}

/// Refuses terms and next points by annotated masks where some were drawn by a teacher.
fn check_truth(plan: &PromptablePlan, train: &Dataset) -> anyhow::Result<()> {
    let proposed = train.parts.iter().find(|part| part.proposed_by.is_some());
    let needs_truth = |needs: ImageNeeds| needs.truth || needs.proposals;
    let points_by_truth = |loss: &ImageObjective| {
        loss.prompts
            .as_ref()
            .is_some_and(|prompts| prompts.rounds > 0 && prompts.next_point == ErrorRegion::TruthDisagreement)
    };
    let stages = &plan.train.stages;
    let stage = stages.iter().find(|stage| needs_truth(stage.loss.loss.needs()) || points_by_truth(&stage.loss));
    if let (Some(part), Some(stage)) = (proposed, stage) {
        anyhow::bail!(
            "{}: masks that a teacher proposed (info.proposed_by) are no truth: stage {:?}: expected terms and next points by the teacher alone",
            part.annotations_path.display(),
            stage.name
        );
    }
    Ok(())
}

fn teacher_files(plan: &PromptablePlan) -> TeacherFiles {
    TeacherFiles::Native(plan.teacher_weights.clone())
}

/// What the teacher's embeddings of a data set are kept under.
pub fn features_key(plan: &PromptablePlan, dataset: &Dataset) -> AnswerKey {
    tap_key(plan, dataset, &embedding_tap())
}

fn embedding_tap() -> Tap {
    Tap { name: EMBEDDING.into(), shape: [EMBEDDING_CHANNELS, EMBEDDING_GRID, EMBEDDING_GRID] }
}

/// What the teacher's features of a data set at a point of it are kept under.
fn tap_key(plan: &PromptablePlan, dataset: &Dataset, Tap { name, shape: [channels, grid, _] }: &Tap) -> AnswerKey {
    AnswerKey {
        teacher: plan.teacher_digest.clone(),
        preprocessing: Preprocessing::Letterbox {
            longest_side: INPUT_SIZE as u32,
            resize: Resize::PillowBilinear,
            normalization: Normalization::Imagenet,
            zoom: None,
        },
        question: Question::Image,
        kept: Kept::ImageFeatures {
            tap: name.clone(),
            grid: *grid as u32,
            channels: *channels as u32,
            dtype: plan.features,
        },
        dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
    }
}

/// Trains, or goes on training, and writes the student's weights.
///
/// # Errors
/// Whatever ends the training early, other than being asked to.
pub fn train_images(
    plan: &PromptablePlan,
    folder: &RunFolder,
    train: &ImageSource,
    teacher: &SamTeacher,
    devices: &Devices,
    how: TrainOptions,
) -> anyhow::Result<Fitted> {
    let initial = initial_student(plan, teacher, &devices.main.clone().autodiff())?;
    let store = train.features.as_ref().context("images of a student that learns from a teacher have features")?;
    let hex = |digest: [u8; 32]| blake3::Hash::from_bytes(digest).to_hex().to_string();
    let digests = RunDigests {
        configuration: plan.train_digest.clone(),
        first_weights: weights_digest(&all_tensors(&initial)),
        annotations: hex(train.dataset.digest),
        teacher: Some(hex(store.manifest().key.digest())),
    };
    let validate: Validate = Box::new(|_| anyhow::bail!("a student of whole images is scored after training"));
    let logging = &plan.logging;
    let mut progress = TrainProgress::new(folder, logging.log_every_steps, 0, validate)?;
    if how.profile {
        progress.profile(folder.profile());
    }
    let options = RunOptions {
        checkpoint_dir: &folder.checkpoints(),
        run_digests: &digests,
        resume: how.resume,
        checkpoint_every_steps: logging.checkpoint_every_steps,
        keep_checkpoints: logging.keep_checkpoints,
        data_threads: logging.data_threads,
        other_devices: &devices.others,
        device_names: &devices.names,
    };
    let asks = plan.train.stages.iter().any(|stage| stage.loss.asks_teacher());
    let decoder = if asks { Some(teacher.decoder()?) } else { None };
    let task = ImageTask { source: train, teacher: decoder.as_ref().map(|decoder| decoder as _) };
    let mut forms = PromptableForms { plan, teacher };
    let fitted = fit(&plan.train, Box::new(initial), &mut forms, &task, &options, &mut progress)?;
    if let Some(error) = progress.log_failure() {
        warn(&format!("{}: the log is incomplete: {error}", folder.events().display()));
    }
    if fitted.stopped {
        say(&format!("stopped after step {}; --resume goes on from here", fitted.step));
        return Ok(fitted);
    }
    let weights = published(&fitted.groups);
    let metadata = [("sensei.plan".to_string(), plan.train_digest.clone())].into();
    write_weights(&folder.student(), &weights, &metadata)?;
    run_folder::record(folder, &[folder.student()])?;
    say(&format!("weights digest {} (state {})", weights_digest(&weights), fitted.state_digest));
    Ok(fitted)
}

/// The trained student of a run, from its folder, for answers without gradients.
///
/// # Errors
/// If it has none yet, or its weights are of another network.
pub fn trained_student(
    plan: &PromptablePlan,
    folder: &RunFolder,
    device: &Device,
) -> anyhow::Result<PromptableStudent> {
    run_folder::expect_trained(folder)?;
    let path = folder.student();
    let tensors = read_weights(&path)?.tensors;
    student_of(plan, &path.display().to_string(), &tensors, device)
}

/// The forms of a student from stage to stage: on masked images first, if the plan says so, then whole.
pub struct PromptableForms<'a> {
    /// What training does.
    pub plan: &'a PromptablePlan,
    /// Whose decoder it may start from.
    pub teacher: &'a SamTeacher,
}

impl PromptableForms<'_> {
    /// The form that reconstructs masked images, with this trunk.
    fn masked(
        &self,
        masked: MaskedConfig,
        network: &dyn Network,
        trunk: &NamedWeights,
    ) -> anyhow::Result<Box<dyn Network>> {
        let EncoderPlan::Vit(config) = &self.plan.encoder else { bail!("expected an encoder that sees masked images") };
        let decoder = fresh_masked_decoder(config, &masked, self.plan.train.seed);
        let (digest, device) = (network.structure_digest(), network.device());
        Ok(Box::new(MaskedVit::new(config.clone(), masked, trunk, &decoder, digest, device)?))
    }
}

impl StageNetworks for PromptableForms<'_> {
    fn enter(
        &mut self,
        stage_idx: usize,
        network: &mut Box<dyn Network>,
        _result: &BTreeMap<String, NamedWeights>,
    ) -> Result<(), StageError> {
        let trunk = network.tensors(WEIGHTS);
        match self.plan.masked_decoders[stage_idx] {
            Some(masked) => *network = self.masked(masked, &**network, &trunk)?,
            None if network.masked().is_some() => {
                let mut student = initial_student(self.plan, self.teacher, network.device())?;
                student.set_tensors(WEIGHTS, trunk)?;
                *network = Box::new(student);
            }
            None => {}
        }
        Ok(())
    }

    fn shape(&mut self, stage_idx: usize, network: &mut Box<dyn Network>) -> Result<(), StageError> {
        if let Some(masked) = self.plan.masked_decoders[stage_idx] {
            let trunk = network.tensors(WEIGHTS);
            *network = self.masked(masked, &**network, &trunk)?;
        }
        Ok(())
    }
}

/// The student of weights under the names that a run writes.
///
/// # Errors
/// If a tensor is missing, of another shape or not of this network.
pub fn student_of(
    plan: &PromptablePlan,
    origin: &str,
    tensors: &NamedWeights,
    device: &Device,
) -> anyhow::Result<PromptableStudent> {
    let prefix = format!("{IMAGE_ENCODER}.");
    let (mut of_encoder, mut of_granularity) = (NamedWeights::new(), NamedWeights::new());
    for (name, tensor) in tensors {
        match name.strip_prefix(&prefix) {
            Some(own) => drop(of_encoder.insert(own.into(), tensor.clone())),
            None if name.strip_prefix(GRANULARITY).is_some_and(|rest| rest.starts_with('.')) => {
                of_granularity.insert(name.clone(), tensor.clone());
            }
            None => {
                ensure!(is_of_decoder(name), "{origin}: {name}: expected no such tensor in this network, found one")
            }
        }
    }
    let encoder = encoder_of(plan, &of_encoder, device).with_context(|| format!("{origin}: the image encoder"))?;
    let student = PromptableStudent::new(encoder, EMBEDDING, origin, tensors)?;
    match of_granularity.is_empty() {
        true => with_proposals(plan, student),
        false => Ok(student.with_granularity(&of_granularity)?),
    }
}

/// The student with a fresh part that proposes boxes, if a stage trains one.
fn with_proposals(plan: &PromptablePlan, student: PromptableStudent) -> anyhow::Result<PromptableStudent> {
    let proposes = plan.train.stages.iter().any(|stage| stage.group(GRANULARITY).is_some());
    Ok(if proposes { student.with_granularity(&fresh_granularity(plan.train.seed))? } else { student })
}

/// The image encoder of these tensors.
fn encoder_of(plan: &PromptablePlan, tensors: &NamedWeights, device: &Device) -> anyhow::Result<Box<dyn Network>> {
    Ok(match &plan.encoder {
        EncoderPlan::Graph(graph) => Box::new(Student::from_weights(graph.clone(), tensors, device)?),
        EncoderPlan::TinyVit(config) => Box::new(TinyVitStudent::new(config.clone(), EMBEDDING_GRID, tensors, device)?),
        EncoderPlan::Vit(config) => Box::new(VitStudent::new(config.clone(), EMBEDDING_GRID, tensors, device)?),
    })
}

/// The student that training starts from.
///
/// # Errors
/// If its first weights cannot be read, or are of another network.
pub fn initial_student(
    plan: &PromptablePlan,
    teacher: &SamTeacher,
    device: &Device,
) -> anyhow::Result<PromptableStudent> {
    let encoder = match &plan.first_weights {
        FirstWeights::File(path) => {
            let tensors = read_weights(path)?.tensors;
            return with_adapters(plan, student_of(plan, &path.display().to_string(), &tensors, device)?);
        }
        FirstWeights::PublishedEncoder(path) => {
            let (encoder, note) = published_encoder(plan, path, device)?;
            say(&note);
            encoder
        }
        FirstWeights::Shipped(model) => {
            unreachable!(
                "the configuration of a student of whole images has no initial_model, the plan has {}",
                model.name
            )
        }
        FirstWeights::Random => encoder_of(plan, &random_encoder(plan), device)?,
    };
    let student = PromptableStudent::new(encoder, EMBEDDING, &teacher.origin, &teacher.tensors)?;
    with_adapters(plan, with_proposals(plan, student)?)
}

fn random_encoder(plan: &PromptablePlan) -> NamedWeights {
    let seed = plan.train.seed;
    match &plan.encoder {
        EncoderPlan::Graph(graph) => initial_weights(graph, seed),
        EncoderPlan::TinyVit(config) => fresh_tiny_vit(config, seed),
        EncoderPlan::Vit(config) => fresh_trunk(config, seed).into_iter().chain(fresh_neck(config, seed)).collect(),
    }
}

/// The image encoder from a published file, and in words what was taken.
fn published_encoder(
    plan: &PromptablePlan,
    path: &Path,
    device: &Device,
) -> anyhow::Result<(Box<dyn Network>, String)> {
    let shown = on_one_line(&path.display().to_string());
    let file = read_weights(path)?;
    let (weights, note) = match &plan.encoder {
        EncoderPlan::Graph(graph) => {
            let (weights, note) = with_published_encoder(graph, random_encoder(plan), &file)?;
            (weights, format!("{} tensors of the encoder taken, {} left out", note.taken, note.left_out.len()))
        }
        EncoderPlan::TinyVit(_) => {
            let weights = published_tiny_vit(&shown, &file.tensors)?;
            let note = format!("{} tensors of the encoder taken, batch norms folded", weights.len());
            (weights, note)
        }
        EncoderPlan::Vit(_) => bail!("{shown}: expected an encoder that published weights are known for"),
    };
    let encoder = encoder_of(plan, &weights, device).with_context(|| format!("{shown}: the image encoder"))?;
    Ok((encoder, format!("{shown}: {note}")))
}

/// The student with fresh adapters, if a stage compares features through some.
fn with_adapters(plan: &PromptablePlan, student: PromptableStudent) -> anyhow::Result<PromptableStudent> {
    let adapted = plan.compared.iter().filter(|taps| taps.pair.adapter == Adapter::Pointwise);
    let adapter = |ComparedTaps { pair, channels, teacher }: &ComparedTaps| AdapterConfig {
        name: pair.name(),
        ins: *channels,
        outs: teacher.shape[0],
    };
    let adapters: Vec<AdapterConfig> = adapted.map(adapter).collect();
    if adapters.is_empty() {
        return Ok(student);
    }
    let tensors = fresh_adapters(&adapters, plan.train.seed);
    Ok(student.with_adapters(adapters, &tensors)?)
}

/// All tensors of a student by the names that its file has.
fn all_tensors(student: &PromptableStudent) -> NamedWeights {
    let groups = student.groups().into_iter().map(|group| (group.name.clone(), student.tensors(&group.name)));
    published(&groups.collect())
}

/// Tensors by group, by the names that a run's file has: those of the decoder are the published ones. Adapters, which training alone needs, are
/// left out.
fn published(groups: &BTreeMap<String, NamedWeights>) -> NamedWeights {
    let mut all = NamedWeights::new();
    for (group, tensors) in groups.iter().filter(|(group, _)| *group != ADAPTERS) {
        for (name, tensor) in tensors {
            let is_of_encoder = group == WEIGHTS || group == NECK;
            let name = if is_of_encoder { format!("{IMAGE_ENCODER}.{name}") } else { name.clone() };
            all.insert(name, tensor.clone());
        }
    }
    all
}

fn is_of_decoder(name: &str) -> bool {
    let starts = |part: &str| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
    starts(PROMPT_ENCODER) || starts(MASK_DECODER)
}

/// What the names of the image encoder's tensors begin with in a run's file, before a dot.
pub const IMAGE_ENCODER: &str = "image_encoder";
