//! `MODEL_CARD.md` and `picture.png` of a package: what a person wants to know of a model before using it.

use std::path::Path;

use sensei_data::crop_rule::CropRule;
use sensei_data::image_file::RgbImage;
use sensei_data::paste::PasteConfig;
use sensei_eval::overlay::{answer_row, contact_sheet};
use sensei_eval::report::EvalReport;
use sensei_eval::verdict::Verdict;
use sensei_imx500::memory::MemoryEstimate;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;
use sensei_report::training::date;

use crate::config::{AlsoTrainPlan, DataPlan, FilesPlan, PartPictures, RunPlan, TeacherAnswers, TeacherFiles};
use crate::phases::export::{Origin, memory_line};
use crate::phases::kept_samples::{DataDigests, KeptCrop};
use crate::progress::on_one_line;

/// What a card is made of.
pub struct ModelCard<'a> {
    /// The run.
    pub plan: &'a RunPlan,
    /// The package's integer model.
    pub model: &'a IntegerModel,
    /// Digests of what made it.
    pub origin: Option<&'a Origin<'a>>,
    /// Its scores.
    pub scores: Option<&'a EvalReport>,
    /// Memory by our estimate.
    pub estimate: &'a MemoryEstimate,
    /// Memory by the converter, if it ran.
    pub converted: Option<&'a MemoryEstimate>,
    /// When its training ended, in seconds since 1970.
    pub trained: Option<f64>,
}

impl ModelCard<'_> {
    /// The card, as Markdown.
    ///
    /// # Errors
    /// If rows of the scores are not of the same instances.
    pub fn text(&self) -> anyhow::Result<String> {
        let Self { plan, model, origin, scores, estimate, converted, trained } = self;
        let side = model.input().shape[1];
        let digests = origin.map_or("not known".into(), |origin| {
            let DataDigests { train, val, teacher } = origin.data;
            let teacher = teacher.as_deref().unwrap_or("none");
            format!(
                "annotations {train} (training), {val} (validation), teacher key {teacher}, weights {}",
                origin.weights
            )
        });
        let verdict = scores.map(Verdict::of).transpose()?.flatten();
        let verdict = verdict.map_or_else(String::new, |verdict| format!("{}.\n\n", verdict.sentence()));
        let scores = scores.map_or("None: it was not scored.\n".into(), |scores| {
            let protocol = &scores.protocol.name;
            format!("{verdict}Protocol {protocol} ({}).\n\n```\n{}```\n", scores.protocol_hash, scores.table())
        });
        let region = match plan.crop {
            CropRule::Box { .. } => {
                "a region of interest, the object's padded box whatever its shape and scaled per axis,"
            }
            CropRule::CenterWindow { .. } | CropRule::Roi { .. } => "a square region of interest",
        };
        let by_converter = converted.map_or_else(
            || "The vendor's converter has not been asked.".into(),
            |memory| format!("By the vendor's converter: {}.", memory_line(memory)),
        );
        Ok(format!(
            "# {name}\n\n\
             Answers {region} with the mask of the object in its middle. Input: {side} x {side} RGB, `pixel - 128` as signed \
             bytes. Output: {side} x {side} mask logits, foreground above 0; the chip sends them column by column.\n\n\
             {parameters} parameters and {macs} multiply-accumulates a mask. Made by Sensei {version}{trained}.\n\n\
             ![What it was shown, and what it answered](picture.png)\n\n\
             ## Trained on\nData: {data}. Teacher: {teacher}.\n\nDigests: {digests}; plan {plan}.\n\n\
             ## Scores\n{scores}\n\
             The `int8` row is the integer model of this package, read back from its file. The picture's objects are of the validation \
             split, spread evenly over it.\n\n\
             ## On the chip\nMemory, estimated: {memory}. {by_converter} `test_vectors/` has inputs and outputs as the chip should have them; \
             `camera.py` records what a camera has, and `sensei replay` compares. Nothing of this has run on a camera of the authors'.\n\n\
             ## Limits\nOne object, given by its region; no classes. A score follows from its logits, as `sensei predict` takes it. Whatever the \
             training data leave out, the model has not seen.\n\n\
             ## Licence\n{licence}. Licences of training data and teacher bind the user.\n",
            name = model.name(),
            licence = plan.deployment()?.export.licence.as_deref().unwrap_or("None is stated by the run"),
            parameters = plan.graph.parameters(),
            macs = plan.graph.macs(),
            version = env!("SENSEI_VERSION"),
            trained = trained.map_or_else(String::new, |time| format!("; its training ended {} (UTC)", date(time))),
            data = data_name(&plan.data),
            teacher = teacher_name(plan),
            plan = plan.train_digest,
            memory = memory_line(estimate),
        ))
    }
}

/// Some crops of the validation split, each beside the model's answer.
///
/// # Errors
/// If a crop is not of the model's size.
pub fn picture(model: &IntegerModel, examples: &[KeptCrop]) -> anyhow::Result<RgbImage> {
    let interpreter = Interpreter::new(model);
    let side = model.input().shape[1];
    let mut rows = vec![];
    for example in examples.iter().take(SHOWN) {
        let output = interpreter.run(&interpreter.from_pixels(&example.pixels)?)?;
        let mask: Vec<u8> = output.values.iter().map(|&logit| u8::from(logit > 0)).collect();
        rows.push(answer_row(&example.pixels, &mask, side, 2));
    }
    Ok(contact_sheet(&rows))
}

/// The annotation files, by their names: where they lie is a matter of this machine.
fn data_name(data: &DataPlan) -> String {
    let of_files = |kind: &str, files: &FilesPlan| {
        let name = |part: &AlsoTrainPlan| match &part.pictures {
            PartPictures::Files(split) => format!(", {}", file_name(&split.annotations)),
            PartPictures::Composed(PasteConfig { copies, .. }) => {
                format!(" and {copies} pictures composed of each of its images")
            }
        };
        let also = files.also_train.iter().map(name);
        let also: String = also.collect();
        format!(
            "{kind} files {}{also} (training), {} (validation)",
            file_name(&files.train.annotations),
            file_name(&files.val.annotations)
        )
    };
    match data {
        DataPlan::Coco(files) => of_files("COCO", files),
        DataPlan::Lvis(files) => of_files("LVIS", files),
        DataPlan::Synthetic(config) => format!("rendered scenes, seed {}", config.seed),
    }
}

/// The teacher's files, by their names.
fn teacher_name(plan: &RunPlan) -> String {
    let Some(teacher) = &plan.teacher else { return "none".into() };
    let answers = teacher.train.as_ref().unwrap_or(&teacher.val);
    let source = match answers {
        TeacherAnswers::Asked(TeacherFiles::Native(weights)) => format!("{}, asked by the run", file_name(weights)),
        TeacherAnswers::Asked(TeacherFiles::Onnx { encoder, decoder, .. }) => {
            format!("{} and {}, asked by the run", file_name(encoder), file_name(decoder))
        }
        TeacherAnswers::Cache(path) | TeacherAnswers::Dump(path) | TeacherAnswers::Store(path) => {
            format!("stored answers {}", file_name(path))
        }
    };
    let use_of = if teacher.train.is_some() { "" } else { ", for the table of scores alone" };
    format!("{source} (weights {}){use_of}", teacher.digest)
}

fn file_name(path: &Path) -> String {
    on_one_line(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// Crops in the picture.
const SHOWN: usize = 6;
