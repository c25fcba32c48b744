//! `plan`: what a run would do and cost.

use std::path::Path;

use anyhow::{Context, ensure};
use sensei_graph::summary::summary;
use sensei_imx500::memory::{MemoryEstimate, NetworkShape, memory_estimate};
use serde::Serialize;

use crate::arguments::{FileKind, PlanArguments};
use crate::commands::promptable;
use crate::config::{RunPlan, is_promptable, load_plan, promptable_schema, protocol_schema, run_schema, search_schema};
use crate::device::open as open_devices;
use crate::phases::answers::{OpenQuestion, open_questions};
use crate::phases::data::checked_splits;
use crate::phases::export::{memory_json, memory_line};
use crate::phases::measure::{StageTime, lines, time_stages};
use crate::progress::{log_to_stderr, say, say_result};
use crate::usage;

/// What a run would do and cost.
#[derive(Debug, Serialize)]
struct PlanFacts<'a> {
    name: &'a str,
    plan_digest: &'a str,
    /// Sides of the crop, pixels.
    input_size: usize,
    parameters: usize,
    /// Multiply-accumulates of one answer.
    macs: u64,
    /// On the chip, estimated; none of a run that ends with the float network.
    memory: Option<serde_json::Value>,
    train_instances: usize,
    val_instances: usize,
    steps: u64,
    steps_per_epoch: u64,
    samples_per_step: usize,
    /// Multiply-accumulates of the training, gradients among them, in millions of millions.
    training_tmacs: f64,
    /// What the teacher is asked before training.
    open_questions: Vec<OpenQuestion>,
    /// How long the stages take on this machine, if that was asked for.
    measured: Option<Vec<StageTime>>,
    /// The configuration with everything in it that `--set` changed.
    resolved_toml: &'a str,
}

/// Prints the plan of a configuration and checks what can be checked without training and without asking a teacher; or prints a schema.
pub fn plan(arguments: &PlanArguments) -> anyhow::Result<()> {
    let PlanArguments { config, schema, json, measure, set, place, machine } = arguments;
    match schema {
        Some(FileKind::Run) => say(run_schema().trim_end()),
        Some(FileKind::Promptable) => say(promptable_schema().trim_end()),
        Some(FileKind::Protocol) => say(protocol_schema().trim_end()),
        Some(FileKind::Search) => say(search_schema().trim_end()),
        None => {}
    }
    let Some(config) = config else { return Ok(()) };
    if *json {
        log_to_stderr();
    }
    if !measure && !machine.is_default() {
        return Err(usage(anyhow::anyhow!("expected --measure beside --threads or --device, found none")));
    }
    if is_promptable(config) {
        return promptable::plan(arguments, config);
    }
    let devices = if *measure { Some(open_devices(machine)?) } else { None };
    let mut plan = load_plan(config, &set.overrides).map_err(usage)?;
    say(&plan.resolved_toml);
    say(&summary(&plan.graph));
    let estimate = check_budget(&plan).with_context(|| config.display().to_string()).map_err(usage)?;
    match &estimate {
        Some(estimate) => say(&format!("memory on the chip, estimated: {}", memory_line(estimate))),
        None => say("no [quantize]: the run ends with the float network and its scores"),
    }
    let runs = std::path::absolute(&place.runs).with_context(|| format!("{}: no such folder", place.runs.display()))?;
    let open_questions = unasked(&mut plan, &runs).with_context(|| config.display().to_string())?;
    let (train, val) = checked_splits(&plan, &runs).with_context(|| config.display().to_string())?;
    let (per_epoch, total) =
        (plan.train.steps_per_epoch(train.instances.len()), plan.train.total_steps(train.instances.len()));
    let macs = plan.graph.macs() as f64 * 3.0 * (total as f64) * plan.train.samples_per_step() as f64;
    say(&format!(
        "training: {total} steps, {per_epoch} an epoch, {} samples a step, about {:.1} TMAC with gradients",
        plan.train.samples_per_step(),
        macs / 1e12
    ));
    let measured = match &devices {
        Some(_) if !open_questions.is_empty() => {
            let advice = "`sensei teacher build` or `sensei train` asks it";
            return Err(usage(anyhow::anyhow!("--measure: expected a teacher that has answered; {advice}")));
        }
        Some(devices) => {
            devices.check_batches(plan.train.accumulate_batches).map_err(usage)?;
            Some(time_stages(&mut plan, &train, devices).with_context(|| config.display().to_string())?)
        }
        None => None,
    };
    if let Some(times) = &measured {
        lines(times, plan.logging.keep_checkpoints, plan.train.samples_per_step()).iter().for_each(|line| say(line));
    }
    say(&format!("plan digest {}", plan.train_digest));
    if *json {
        let facts = PlanFacts {
            name: &plan.name,
            plan_digest: &plan.train_digest,
            input_size: plan.graph.input_size(),
            parameters: plan.graph.parameters(),
            macs: plan.graph.macs(),
            memory: estimate.as_ref().map(memory_json),
            train_instances: train.instances.len(),
            val_instances: val.instances.len(),
            steps: total,
            steps_per_epoch: per_epoch,
            samples_per_step: plan.train.samples_per_step(),
            training_tmacs: macs / 1e12,
            open_questions,
            measured,
            resolved_toml: &plan.resolved_toml,
        };
        say_result(&serde_json::to_string_pretty(&facts)?);
    }
    Ok(())
}

/// What the teacher would be asked first. Of a plan with such questions the teacher is taken out: its answers are checked when there are some.
fn unasked(plan: &mut RunPlan, runs: &Path) -> anyhow::Result<Vec<OpenQuestion>> {
    let questions = open_questions(plan, runs)?;
    for OpenQuestion { annotations, n_images, n_annotations } in &questions {
        let shown = annotations.display();
        say(&format!("{shown}: the teacher would be asked about {n_annotations} objects of {n_images} images first"));
    }
    if !questions.is_empty() {
        plan.teacher = None;
        plan.data.also_train_mut().iter_mut().for_each(|part| part.answers = None);
    }
    Ok(questions)
}

/// Refuses a network that the chip has no memory for, before it is trained; nothing is estimated of one that is not for the chip.
///
/// # Errors
/// If it does not fit, with what to change.
pub fn check_budget(plan: &RunPlan) -> anyhow::Result<Option<MemoryEstimate>> {
    let Some(deployment) = &plan.deployment else { return Ok(None) };
    let quantize = &deployment.quantize;
    let estimate = memory_estimate(&NetworkShape::of_graph(
        &plan.graph,
        |conv| quantize.weight_bits_of(conv),
        quantize.output_bits,
    ));
    ensure!(
        estimate.fits(),
        "[student]: expected at most {} bytes on the chip, estimated {} ({} of weights, {} of tensors): make the input \
         or the widest stages smaller",
        estimate.limit,
        estimate.total(),
        estimate.coefficients,
        estimate.runtime
    );
    if let Some(budget) = &quantize.budget {
        let least = |conv: &str| quantize.weight_bits_of(conv).min(budget.weight_bits);
        let (reached, limit) =
            budget.limit.of(&memory_estimate(&NetworkShape::of_graph(&plan.graph, least, quantize.output_bits)));
        ensure!(
            reached <= limit,
            "[quantize.budget]: expected at most {limit} bytes, estimated {reached} with every convolution at {} bits",
            budget.weight_bits
        );
    }
    Ok(Some(estimate))
}
