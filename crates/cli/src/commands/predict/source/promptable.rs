//! Students that see whole images and answer prompts: from a run, or from weights and a configuration.

use std::path::Path;

use anyhow::{Context, anyhow};
use burn::tensor::Device;
use sensei_eval::protocol::MaskChoice;
use sensei_student::weights::read_weights;
use sensei_tensor::network::weights_digest;

use super::{AskedNetwork, ImageNetwork, Source, check_listed};
use crate::arguments::{NetworkChoice, PredictArguments};
use crate::config::{PromptablePlan, TeacherFiles, load_promptable, load_protocol};
use crate::phases::promptable::student_of;
use crate::{run_folder, usage};

/// The student, or its teacher. Masks are chosen by the protocol that was named, or the first of the run's own.
///
/// # Errors
/// If a file cannot be read or was changed, the network is none that such a run has, or the protocol is one of crops.
pub fn open(arguments: &PredictArguments, is_weights: bool) -> anyhow::Result<Source> {
    if is_weights {
        let config = arguments.config.as_deref().context("weights of a student that answers prompts")?;
        let plan = load_promptable(config, &[]).map_err(usage)?;
        check_listed(&arguments.source)?;
        return of_plan(arguments, &plan, &arguments.source);
    }
    let shown = arguments.source.display();
    let root = std::path::absolute(&arguments.source).with_context(|| format!("{shown}: no such folder"))?;
    let folder = run_folder::open(&root).map_err(usage)?;
    let plan = load_promptable(&folder.plan_toml(), &[]).map_err(usage)?;
    if arguments.network == Some(NetworkChoice::Teacher) {
        return Source::teacher(&TeacherFiles::Native(plan.teacher_weights.clone()), &plan.teacher_digest, 0);
    }
    run_folder::expect_trained(&folder)?;
    of_plan(arguments, &plan, &folder.student())
}

fn of_plan(arguments: &PredictArguments, plan: &PromptablePlan, weights: &Path) -> anyhow::Result<Source> {
    if let Some(choice @ (NetworkChoice::Int8 | NetworkChoice::Teacher)) = arguments.network {
        let (name, shown) = (choice.name(), arguments.source.display());
        let expected = "expected float or, of a run, teacher: a student that answers prompts has no other";
        return Err(usage(anyhow!("--network {name}: {shown}: {expected}")));
    }
    let choice = mask_choice(arguments, plan).map_err(usage)?;
    let tensors = read_weights(weights)?.tensors;
    let student = Box::new(student_of(plan, &weights.display().to_string(), &tensors, &Device::flex())?);
    let side = u32::try_from(plan.encoder.input_size()).context("[student] input_size")?;
    let network = AskedNetwork::Image(ImageNetwork::Student { student, side, choice });
    Ok(Source { choice: NetworkChoice::Float, digest: weights_digest(&tensors), network })
}

fn mask_choice(arguments: &PredictArguments, plan: &PromptablePlan) -> anyhow::Result<MaskChoice> {
    let protocol = arguments.protocol.as_ref().or(plan.eval.protocols.first());
    let protocol = protocol.context("[eval] protocols: expected at least one")?;
    let rules = load_protocol(protocol)?;
    if let Some(crop) = rules.selection.crop {
        return Err(anyhow!(
            "--protocol {protocol}: expected one of whole images, found one with the crop {}",
            crop.name()
        ));
    }
    Ok(rules.mask_choice)
}
