//! `plan`: what a run would do and cost.

use anyhow::{Context, ensure};
use sensei_graph::summary::summary;
use sensei_imx500::memory::{MemoryEstimate, NetworkShape, memory_estimate};

use crate::arguments::{FileKind, PlanArguments};
use crate::commands::promptable;
use crate::config::{RunPlan, is_promptable, load_plan, promptable_schema, protocol_schema, run_schema};
use crate::phases::data::checked_splits;
use crate::phases::export::memory_line;
use crate::progress::say;
use crate::usage;

/// Prints the plan of a configuration and checks what can be checked without training; or prints a schema.
pub fn plan(arguments: &PlanArguments) -> anyhow::Result<()> {
    let PlanArguments { config, schema, set, place } = arguments;
    match schema {
        Some(FileKind::Run) => say(run_schema().trim_end()),
        Some(FileKind::Promptable) => say(promptable_schema().trim_end()),
        Some(FileKind::Protocol) => say(protocol_schema().trim_end()),
        None => {}
    }
    let Some(config) = config else { return Ok(()) };
    if is_promptable(config) {
        return promptable::plan(config, &set.overrides, &place.runs);
    }
    let plan = load_plan(config, &set.overrides).map_err(usage)?;
    say(&plan.resolved_toml);
    say(&summary(&plan.graph));
    match check_budget(&plan).with_context(|| config.display().to_string()).map_err(usage)? {
        Some(estimate) => say(&format!("memory on the chip, estimated: {}", memory_line(&estimate))),
        None => say("no [quantize]: the run ends with the float network and its scores"),
    }
    let runs = std::path::absolute(&place.runs).with_context(|| format!("{}: no such folder", place.runs.display()))?;
    let (train, _) = checked_splits(&plan, &runs).with_context(|| config.display().to_string())?;
    let (per_epoch, total) =
        (plan.train.steps_per_epoch(train.instances.len()), plan.train.total_steps(train.instances.len()));
    let macs = plan.graph.macs() as f64 * 3.0 * (total as f64) * plan.train.samples_per_step() as f64;
    say(&format!(
        "training: {total} steps, {per_epoch} an epoch, {} samples a step, about {:.1} TMAC with gradients",
        plan.train.samples_per_step(),
        macs / 1e12
    ));
    say(&format!("plan digest {}", plan.train_digest));
    Ok(())
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
