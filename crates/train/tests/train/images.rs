//! Training on whole images: resumed to the bit with prompts in the loop, gradients as of one graph, frozen parts, what is refused.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize};
use sensei_answers::features::{FeatureRecord, FeatureValues, channel_scales};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{FeatureDtype, Kept, ScaleSource};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::record::ImageIdentity;
use sensei_answers::store::Store;
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::augment::Augmentation;
use sensei_data::image_file::ImageLimits;
use sensei_loss::{
    Cells, FeatureDistance, ImageLossPlan, ImageTerm, ImageTermKind, MaskDistance, MaskTarget, PromptTargets,
    PromptWeighting, UsedCells, embedding_loss, prompt_loss,
};
use sensei_sam::prompted::{MASK_DECODER, PROMPT_ENCODER, PromptedDecoder};
use sensei_sam::scope::Tensors;
use sensei_sam::student::PromptableStudent;
use sensei_samples::whole_images::{AskPlan, AskedObject, FirstPrompt, ImageSource, Letterbox};
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::pyramid::EMBEDDING;
use sensei_student::student::{Student, WEIGHTS};
use sensei_tensor::network::{Inputs, NamedWeights, Network, Pass, host_values};
use sensei_tensor::prompts::{Decode, MaskTokens, PromptPoint, Promptable};
use sensei_testing::{golden, relative_l2};
use sensei_train::error::TrainError;
use sensei_train::fit::{RunOptions, fit};
use sensei_train::images::{ErrorRegion, ImageObjective, ImageTask, MASK_GRID, PADDING, PromptPlan, box_points};
use sensei_train::optimizer::AdamWConfig;
use sensei_train::plan::{AveragePlan, GroupPlan, GroupRate, StagePlan, TrainPlan};
use sensei_train::schedule::{Decay, Schedule};
use sensei_train::stages::SameNetwork;
use sensei_train::task::{Shared, Task};

use crate::made_up::{made_up, weights};
use crate::{Fixture, Ran, Recorder, run_digests, text};

/// Six scenes as whole images, with a made-up teacher's embedding of each.
struct Images {
    fixture: Fixture,
    source: ImageSource,
    teacher: PromptedDecoder,
    tensors: NamedWeights,
}

impl Images {
    fn new() -> Self {
        let fixture = Fixture::new();
        let dataset = fixture.source.dataset.clone();
        let store = embeddings(&fixture);
        let source = ImageSource::new(dataset, Some(store), 128, ImageLimits::default()).unwrap();
        let tensors = weights(&golden("sam"));
        let own = tensors.iter().filter(|(name, _)| name.starts_with(PROMPT_ENCODER) || name.starts_with(MASK_DECODER));
        let own: NamedWeights = own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        let scope = Tensors::new("made up", &own, &Device::flex());
        let teacher = PromptedDecoder::sam(1024, 64, &scope.root()).unwrap();
        Self { fixture, source, teacher, tensors }
    }

    fn task(&self) -> ImageTask<'_> {
        ImageTask { source: &self.source, teacher: Some(&self.teacher) }
    }

    fn student(&self) -> PromptableStudent {
        let config = LiteFpnConfig { input_size: 128, encoder_blocks: 1, pyramid_channels: 16, refine_blocks: 0 };
        let encoder = Student::new(config.graph().unwrap(), 5, &Device::flex().autodiff());
        PromptableStudent::new(Box::new(encoder), EMBEDDING, "made up", &self.tensors).unwrap()
    }

    fn run(
        &self,
        name: &str,
        plan: &TrainPlan<ImageObjective>,
        resume: bool,
        stop_after: u64,
    ) -> Result<Ran, TrainError> {
        let options = RunOptions {
            other_devices: &[],
            device_names: &[],
            checkpoint_dir: &self.fixture.checkpoints(name),
            run_digests: &run_digests(),
            resume,
            checkpoint_every_steps: 1,
            keep_checkpoints: 2,
            data_threads: 1,
        };
        let mut observer = Recorder { steps_left: stop_after, events: vec![] };
        let task = self.task();
        let fitted = fit(plan, Box::new(self.student()), &mut SameNetwork, &task, &options, &mut observer)?;
        Ok(Ran { fitted, events: observer.events })
    }
}

/// A store of a made-up embedding of each scene.
fn embeddings(fixture: &Fixture) -> Box<dyn Store> {
    let dataset = &fixture.source.dataset;
    let key = AnswerKey {
        teacher: "7ea".into(),
        preprocessing: Preprocessing::Letterbox {
            longest_side: 1024,
            resize: Resize::PillowBilinear,
            normalization: Normalization::Imagenet,
            zoom: None,
        },
        question: Question::Image,
        kept: Kept::ImageFeatures {
            tap: "embedding".into(),
            grid: 64,
            channels: 256,
            dtype: FeatureDtype::Int8 { scales: ScaleSource::Image },
        },
        dataset: "da7a".into(),
    };
    let path = fixture.checkpoints("embeddings");
    let description = TeacherDescription { name: "Test teacher".into(), licence: "MIT".into() };
    let mut writer = CacheWriter::create(&path, key.clone(), description, vec![]).unwrap();
    for (idx, image) in dataset.images.iter().enumerate() {
        let file = std::fs::read(dataset.image_path(idx)).unwrap();
        let values = made_up(&format!("image.{idx}"), &[256, 64, 64]).values;
        let letterbox = Letterbox { image: image.size };
        writer
            .push_features(&FeatureRecord {
                image: ImageIdentity {
                    id: image.id,
                    file_digest: *blake3::hash(&file).as_bytes(),
                    pixel_digest: None,
                    size: image.size,
                },
                resized: letterbox.resized(1024),
                used: letterbox.used(64),
                grid: 64,
                channels: 256,
                values: FeatureValues::int8(&values, channel_scales(&values, 256, 127)),
            })
            .unwrap();
    }
    writer.finish().unwrap();
    Box::new(FolderStore::open(&path, &key).unwrap())
}

fn embedding_term(weight: f64) -> ImageTerm {
    let kind = ImageTermKind::Embedding { distance: FeatureDistance::Mse, cells: Cells::Used };
    ImageTerm { kind, weight }
}

fn mask_terms() -> Vec<ImageTerm> {
    let term =
        |distance| ImageTerm { kind: ImageTermKind::Masks { target: MaskTarget::TeacherHard, distance }, weight: 1.0 };
    vec![term(MaskDistance::Bce), term(MaskDistance::Dice)]
}

fn prompts(per_image: usize, box_probability: f64, rounds: u8) -> Option<PromptPlan> {
    let ask = AskPlan { per_image, box_probability };
    Some(PromptPlan { ask, rounds, next_point: ErrorRegion::TeacherDisagreement, min_error_pixels: 10 })
}

fn stage(name: &str, groups: &[&str], terms: Vec<ImageTerm>, prompts: Option<PromptPlan>) -> StagePlan<ImageObjective> {
    let group = |group: &&str| GroupPlan {
        group: (*group).into(),
        rate: GroupRate::Stage,
        slower: None,
        weight_decay: 0.01,
        clipped: true,
        hold_after: None,
    };
    StagePlan {
        name: name.into(),
        epochs: 1,
        schedule: Schedule { learning_rate: 1e-3, warmup_steps: 0, decay: Decay::Constant },
        loss: ImageObjective {
            loss: ImageLossPlan::new(terms, PromptWeighting::Uniform).unwrap(),
            prompts,
            hidden_share: None,
        },
        augmentation: Augmentation { brightness: 0.2, ..Augmentation::NONE },
        groups: groups.iter().map(group).collect(),
        on_grid: None,
    }
}

fn plan(stages: Vec<StagePlan<ImageObjective>>) -> TrainPlan<ImageObjective> {
    TrainPlan {
        seed: 4,
        batch_size: 3,
        accumulate_batches: 1,
        optimizer: AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 },
        clip_gradient_norm: Some(5.0),
        average: Some(AveragePlan { decay: 0.9, groups: vec![WEIGHTS.into()] }),
        recalibrate_norms: None,
        mixed_precision: None,
        stages,
    }
}

#[test]
fn a_run_with_prompts_in_the_loop_resumes_to_the_bit() {
    let images = Images::new();
    let first = stage("embedding", &[WEIGHTS], vec![embedding_term(1.0)], None);
    let second = stage("prompts", &[WEIGHTS, MASK_DECODER], mask_terms(), prompts(1, 0.5, 1));
    let plan = plan(vec![first, second]);
    let straight = images.run("straight", &plan, false, u64::MAX).unwrap();
    assert_eq!((straight.fitted.step, straight.losses().len()), (4, 4));
    // Within the second stage.
    let stopped = images.run("stopped", &plan, false, 3).unwrap();
    assert!(stopped.fitted.stopped && stopped.fitted.step == 3);
    let resumed = images.run("stopped", &plan, true, u64::MAX).unwrap();
    assert_eq!(resumed.fitted.state_digest, straight.fitted.state_digest);
    assert_eq!(resumed.losses(), straight.losses()[3..]);
    assert!(resumed.fitted.groups == straight.fitted.groups);
    let before = images.student();
    assert!(straight.fitted.groups[MASK_DECODER] != before.tensors(MASK_DECODER));
    assert!(straight.fitted.groups[PROMPT_ENCODER] == before.tensors(PROMPT_ENCODER), "tokens are shared");
}

#[test]
fn learning_the_embedding_brings_it_nearer() {
    let images = Images::new();
    let first = StagePlan { epochs: 10, ..stage("embedding", &[WEIGHTS], vec![embedding_term(1.0)], None) };
    let losses = images.run("nearer", &plan(vec![first]), false, u64::MAX).unwrap().losses();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[18..]) < 0.95 * mean(&losses[..2]), "{losses:?}");
}

#[test]
fn a_frozen_encoder_keeps_its_weights_and_statistics() {
    let images = Images::new();
    let only = stage("decoder", &[MASK_DECODER], mask_terms(), prompts(1, 1.0, 0));
    // An average of equal values is equal but for rounding.
    let plan = TrainPlan { average: None, ..plan(vec![only]) };
    let groups = images.run("frozen", &plan, false, u64::MAX).unwrap().fitted.groups;
    assert!(groups[WEIGHTS] == images.student().tensors(WEIGHTS));
    assert!(groups[MASK_DECODER] != images.student().tensors(MASK_DECODER));
}

/// A few prompts at a time and a backward pass in two halves, against one graph of everything.
#[test]
fn gradients_are_those_of_the_whole_graph() {
    let images = Images::new();
    let terms = mask_terms().into_iter().chain([embedding_term(0.5)]).collect();
    let mut both = plan(vec![stage("both", &[WEIGHTS, MASK_DECODER], terms, prompts(5, 1.0, 0))]);
    both.batch_size = 1;
    let (task, student) = (images.task(), images.student());
    let mut batch = task.batches(&both, &both.stages[0], 0, &[2]).unwrap().remove(0);
    // More than are decoded together, all by boxes.
    let objects = batch.objects[0].clone();
    let doubled = |at: usize| {
        let object = &objects[at % objects.len()];
        let FirstPrompt::Box([x, y, width, height]) = object.prompt else { panic!("expected a box") };
        AskedObject { prompt: FirstPrompt::Box([x + at as f64, y, width, height]), ..object.clone() }
    };
    batch.objects[0] = (0..5).map(doubled).collect();
    let shared =
        Shared { stage: &both.stages[0], pass: Pass::Train, n_samples: 1, loss_scale: 1.0, step: 0, seed: 4, epoch: 0 };
    let found = task.gradients(&student, &batch, &shared).unwrap();

    let device = Device::flex().autodiff();
    let pixels = Tensor::from_data(TensorData::new(batch.input.clone(), [1, 3, 128, 128]), &device);
    let embedding = student.encode(Inputs { images: pixels, taps: &[] }, Pass::Train).unwrap().embedding;
    let values = batch.features.as_ref().unwrap().values.clone();
    let target = |device: &Device| Tensor::from_data(TensorData::new(values.clone(), [1, 256, 64, 64]), device);
    let used = |grid: usize| UsedCells { rows: grid, columns: grid };
    let objective = &both.stages[0].loss;
    let (of_embedding, _) = embedding_loss(&objective.loss, &embedding, &target(&device), &[used(64)]);
    let points: Vec<Vec<PromptPoint>> = batch.objects[0]
        .iter()
        .map(|object| {
            let FirstPrompt::Box(bbox) = object.prompt else { panic!("expected a box") };
            box_points(bbox, batch.letterboxes[0], 1024).to_vec()
        })
        .collect();
    let answer = student.decode(embedding, &points, MaskTokens::Single);
    let teacher = images.teacher.decode(target(&Device::flex()), &points, MaskTokens::Single).masks.0;
    let teacher = sensei_tensor::masks::MaskLogits(Tensor::from_data(teacher.into_data(), &device));
    let targets = PromptTargets { teacher: Some(teacher), truth: None, used: used(MASK_GRID) };
    let (of_masks, _) = prompt_loss(&objective.loss, answer.masks, answer.scores, &targets);
    let total = of_embedding.unwrap() + of_masks.unwrap();
    assert!((f64::from(host_values(&total)[0]) - found.loss).abs() < 1e-5, "{} {total}", found.loss);
    let mut expected = total.backward();
    for (group, found) in student.groups().into_iter().zip(&found.gradients).take(2) {
        assert_eq!(group.parameters.len(), found.len(), "{}", group.name);
        let flat = |gradients: Vec<Tensor<1>>| gradients.iter().flat_map(host_values).collect::<Vec<f32>>();
        let expected = group.parameters.iter().map(|parameter| {
            let gradient = parameter.values.grad_remove(&mut expected);
            gradient.unwrap_or_else(|| parameter.values.clone().inner().zeros_like())
        });
        let distance = relative_l2(&flat(found.clone()), &flat(expected.collect()));
        assert!(distance < 2e-5, "{}: {distance:e}", group.name);
    }
    assert!(found.gradients[2].is_empty() && found.gradients[3].is_empty(), "scores and tokens are frozen");
}

#[test]
fn a_point_more_is_drawn_where_the_masks_differ() {
    let images = Images::new();
    // Two rounds ask the made-up teacher and student, who agree on nothing: their losses are other ones than of one round.
    let losses = |rounds: u8| {
        let only = stage("rounds", &[WEIGHTS], mask_terms(), prompts(1, 0.0, rounds));
        images.run(&format!("rounds{rounds}"), &plan(vec![only]), false, 1).unwrap().losses()
    };
    assert_ne!(losses(0), losses(1));
    assert_eq!((PADDING.x, PADDING.y), (0.0, 0.0));
}

#[test]
fn a_stage_that_lacks_its_teacher_is_refused() {
    let images = Images::new();
    let only = plan(vec![stage("prompts", &[WEIGHTS], mask_terms(), prompts(1, 1.0, 0))]);
    let task = ImageTask { source: &images.source, teacher: None };
    let batch = task.batches(&only, &only.stages[0], 0, &[0]).unwrap().remove(0);
    let shared =
        Shared { stage: &only.stages[0], pass: Pass::Train, n_samples: 1, loss_scale: 1.0, step: 0, seed: 4, epoch: 0 };
    let Err(error) = task.gradients(&images.student(), &batch, &shared) else { panic!("expected an error") };
    assert_eq!(text(&error), "stage \"prompts\": expected a teacher to ask in the loop, found none");

    let mut without = task.batches(&only, &only.stages[0], 0, &[0]).unwrap().remove(0);
    without.features = None;
    let Err(error) = images.task().gradients(&images.student(), &without, &shared) else { panic!("expected an error") };
    assert!(matches!(error, TrainError::NoFeatures { .. }), "{error}");

    let crops = crate::student();
    let Err(error) = images.task().gradients(&crops, &batch, &shared) else { panic!("expected an error") };
    assert!(matches!(error, TrainError::NotPromptable), "{error}");
}
