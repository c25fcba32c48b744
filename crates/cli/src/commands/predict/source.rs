//! What answers: the network that a path stands for, and how its crop is cut.

mod promptable;

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use sensei_answers::asked::Question;
use sensei_data::crop_rule::CropRule;
use sensei_eval::protocol::MaskChoice;
use sensei_files::digest_list::DigestList;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::read_model;
use sensei_sam::student::PromptableStudent;
use sensei_student::inference::InferenceStudent;
use sensei_teacher::teacher::Teacher;
use sensei_tensor::network::{NamedWeights, weights_digest};

use crate::arguments::{NetworkChoice, PredictArguments};
use crate::commands::run::foreign_weights;
use crate::commands::verify::{model_of, read_manifest};
use crate::config::{RunPlan, TeacherAnswers, TeacherFiles, is_promptable, load_plan, load_protocol};
use crate::phases::export::int8_model;
use crate::phases::teacher::open_checked;
use crate::phases::train::trained_weights;
use crate::shipped_models::shipped;
use crate::{run_folder, usage};

/// A network that can be asked.
pub struct Source {
    /// Which of those that the path has.
    pub choice: NetworkChoice,
    /// Digest of the integer model or the weights.
    pub digest: String,
    /// The network.
    pub network: AskedNetwork,
}

/// What it sees.
pub enum AskedNetwork {
    /// Crops of one rule.
    Crop { crop: CropRule, network: CropNetwork },
    /// Whole images.
    Image(ImageNetwork),
}

/// A network that is shown crops.
pub enum CropNetwork {
    /// In the chip's integers.
    Integer(IntegerModel),
    /// In floats.
    Float(Box<InferenceStudent>),
}

/// A network that is shown whole images.
pub enum ImageNetwork {
    /// A run's teacher.
    Teacher { teacher: Box<Teacher>, box_padding_points: u32 },
    /// A student that answers prompts; it sees images in a square of so many pixels.
    Student { student: Box<PromptableStudent>, side: u32, choice: MaskChoice },
}

impl Source {
    /// How the crop is cut that the network sees, if it sees one.
    pub fn crop(&self) -> Option<CropRule> {
        match self.network {
            AskedNetwork::Crop { crop, .. } => Some(crop),
            AskedNetwork::Image(_) => None,
        }
    }

    fn integer(origin: &Path, model: IntegerModel, crop: CropRule) -> anyhow::Result<Self> {
        check_side(origin, crop, model.input().shape[1])?;
        let digest = blake3::Hash::from_bytes(model.digest()).to_hex().to_string();
        let network = AskedNetwork::Crop { crop, network: CropNetwork::Integer(model) };
        Ok(Self { choice: NetworkChoice::Int8, digest, network })
    }

    fn float(origin: &Path, plan: &RunPlan, weights: &NamedWeights, crop: CropRule) -> anyhow::Result<Self> {
        check_side(origin, crop, plan.graph.input_size())?;
        let student = Box::new(InferenceStudent::new(plan.graph.clone(), weights)?);
        let digest = weights_digest(weights);
        let network = AskedNetwork::Crop { crop, network: CropNetwork::Float(student) };
        Ok(Self { choice: NetworkChoice::Float, digest, network })
    }

    fn teacher(files: &TeacherFiles, digest: &str, box_padding_points: u32) -> anyhow::Result<Self> {
        let teacher = Box::new(open_checked(files, digest)?);
        let network = AskedNetwork::Image(ImageNetwork::Teacher { teacher, box_padding_points });
        Ok(Self { choice: NetworkChoice::Teacher, digest: digest.into(), network })
    }
}

/// How names of pictures end.
const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];

/// Opens what the path stands for, and the network of it that was asked for.
///
/// # Errors
/// If it is none of the kinds that can answer, has no such network, was changed since it was written, or does not say how its crop is cut
/// and no protocol does.
pub fn open(arguments: &PredictArguments) -> anyhow::Result<Source> {
    let (source, shown) = (arguments.source.as_path(), arguments.source.display());
    let extension = source.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_weights = !source.is_dir() && ["safetensors", "pt", "pth"].contains(&extension);
    if arguments.config.is_some() && !is_weights {
        let advice = "runs, packages and int8 models say what their network is";
        return Err(usage(anyhow!(
            "--config: expected weights (.safetensors, .pt, .pth) as the source, found {shown}; {advice}"
        )));
    }
    if [Some(source.join("plan.toml")), arguments.config.clone()].iter().flatten().any(|plan| is_promptable(plan)) {
        return promptable::open(arguments, is_weights);
    }
    let other_crop = arguments.protocol.as_deref().map(protocol_crop).transpose().map_err(usage)?;
    if source.join("plan.toml").is_file() {
        run(source, arguments.network, other_crop)
    } else if source.join("manifest.json").is_file() {
        package(source, arguments.network, other_crop)
    } else if is_weights {
        weights(source, arguments, other_crop)
    } else if extension == "s8m" && !source.is_dir() {
        only_int8(source, arguments.network)?;
        let advice = "expected --protocol beside a bare .s8m, which does not say how its crop is cut; found none";
        let crop = other_crop.with_context(|| format!("{shown}: {advice}")).map_err(usage)?;
        check_listed(source)?;
        Source::integer(source, read_model(source)?, crop)
    } else if let (false, Some(Ok(model))) = (source.exists(), source.to_str().map(shipped)) {
        only_int8(source, arguments.network)?;
        let crop = other_crop.map_or_else(|| model.crop(), Ok)?;
        Source::integer(source, model.int8()?, crop)
    } else {
        let found = match (source.is_dir(), source.exists()) {
            (true, _) => "a folder that is neither",
            (false, true) if PICTURES.contains(&extension.to_lowercase().as_str()) => "a picture; pictures go after it",
            (false, true) => "another file",
            (false, false) => "nothing",
        };
        let expected = "a run folder (plan.toml), a package (manifest.json), an int8 model (.s8m), weights (.safetensors, .pt, .pth) or a model \
                        that ships (sensei-box, quickstart)";
        Err(usage(anyhow!("{shown}: expected {expected}, found {found}")))
    }
}

/// A run's own network.
fn run(root: &Path, choice: Option<NetworkChoice>, other_crop: Option<CropRule>) -> anyhow::Result<Source> {
    let root = std::path::absolute(root).with_context(|| format!("{}: no such folder", root.display()))?;
    let folder = run_folder::open(&root).map_err(usage)?;
    let plan = load_plan(&folder.plan_toml(), &[]).map_err(usage)?;
    let crop = other_crop.unwrap_or(plan.crop);
    let default = if folder.int8().exists() { NetworkChoice::Int8 } else { NetworkChoice::Float };
    match choice.unwrap_or(default) {
        NetworkChoice::Int8 => {
            plan.deployment().map_err(usage)?;
            Source::integer(&root, int8_model(&folder)?, crop)
        }
        NetworkChoice::Float => Source::float(&root, &plan, &trained_weights(&plan, &folder)?, crop),
        NetworkChoice::Teacher => teacher(&plan),
    }
}

/// The integer network of a package, whose manifest says how its crop is cut.
fn package(folder: &Path, choice: Option<NetworkChoice>, other_crop: Option<CropRule>) -> anyhow::Result<Source> {
    only_int8(folder, choice)?;
    let file = folder.join("manifest.json");
    let manifest = read_manifest(&file)?;
    let model = model_of(folder, &manifest)?;
    DigestList::read(folder)?.check(&folder.join(format!("{}.s8m", model.name())))?;
    let crop = match (other_crop, manifest["crop"].as_str()) {
        (Some(crop), _) => crop,
        (None, Some(name)) => CropRule::from_name(name).with_context(|| file.display().to_string())?,
        (None, None) => {
            bail!("{}: expected the name of a crop rule in \"crop\", found none; --protocol says one", file.display())
        }
    };
    Source::integer(folder, model, crop)
}

/// Weights, of the student that a configuration says.
fn weights(file: &Path, arguments: &PredictArguments, other_crop: Option<CropRule>) -> anyhow::Result<Source> {
    let shown = file.display();
    if let Some(choice @ (NetworkChoice::Int8 | NetworkChoice::Teacher)) = arguments.network {
        return Err(usage(anyhow!("--network {}: {shown}: weights are the float network alone", choice.name())));
    }
    let expected = "expected --config RUN.toml beside weights, which do not say their student and its crop; found none";
    let config = arguments.config.as_deref().with_context(|| format!("{shown}: {expected}")).map_err(usage)?;
    let plan = load_plan(config, &[]).map_err(usage)?;
    check_listed(file)?;
    let weights = foreign_weights(&plan, file, false)?;
    Source::float(file, &plan, &weights, other_crop.unwrap_or(plan.crop))
}

/// A run's teacher, if the run says where its weights are.
fn teacher(plan: &RunPlan) -> anyhow::Result<Source> {
    let expected =
        "--network teacher: expected a run that names its teacher's weights, as [teacher] val = { native = FILE }";
    let Some(of_run) = &plan.teacher else {
        return Err(usage(anyhow!("{expected}; found one without a teacher")));
    };
    let files = [of_run.train.as_ref(), Some(&of_run.val)].into_iter().flatten().find_map(|answers| match answers {
        TeacherAnswers::Asked(files) => Some(files),
        TeacherAnswers::Cache(_) | TeacherAnswers::Dump(_) | TeacherAnswers::Store(_) => None,
    });
    let files = files.ok_or_else(|| usage(anyhow!("{expected}; found one with stored answers alone")))?;
    let box_padding_points = match of_run.question {
        Question::Object { padding_points, .. } => padding_points,
        _ => 0,
    };
    Source::teacher(files, &of_run.digest, box_padding_points)
}

/// The crop that a protocol shows every student.
fn protocol_crop(name_or_file: &str) -> anyhow::Result<CropRule> {
    let rules = load_protocol(name_or_file)?;
    let expected = "expected a protocol with a crop, which says what the network is shown; found one without";
    rules.selection.crop.with_context(|| format!("--protocol {name_or_file}: {expected}"))
}

fn check_side(origin: &Path, crop: CropRule, side: usize) -> anyhow::Result<()> {
    if crop.grid() as usize == side {
        return Ok(());
    }
    let (shown, name) = (origin.display(), crop.name());
    Err(usage(anyhow!("{shown}: expected a crop rule for a network of {side} x {side} pixels, found {name}")))
}

fn only_int8(source: &Path, choice: Option<NetworkChoice>) -> anyhow::Result<()> {
    match choice {
        None | Some(NetworkChoice::Int8) => Ok(()),
        Some(other) => {
            let shown = source.display();
            Err(usage(anyhow!("--network {}: expected int8, the only network of {shown}", other.name())))
        }
    }
}

/// Holds a file to the list of digests in its folder, if there is one.
fn check_listed(file: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(file).with_context(|| file.display().to_string())?;
    match absolute.parent() {
        Some(folder) => Ok(DigestList::read(folder)?.check(&absolute)?),
        None => Ok(()),
    }
}
