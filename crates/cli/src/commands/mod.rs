//! One function per subcommand.

mod about;
mod compare;
mod convert;
mod data;
mod doctor;
mod eval_coco;
mod eval_masks;
mod eval_package;
mod gate;
mod init;
mod inspect;
mod inspect_folder;
mod inspect_json;
pub mod plan;
mod predict;
mod promptable;
mod prompts;
mod replay;
mod rpk;
mod run;
mod runs;
mod search;
mod shell;
mod teacher;
mod teacher_build;
mod teacher_propose;
mod teacher_show;
mod teacher_store;
mod teacher_weights;
mod verify;

use std::process::ExitCode;

use crate::arguments::{Arguments, Command};
use crate::config::is_promptable;
use crate::device::{on_device, start_threads};
use crate::usage;

/// Does what the command line asks for.
///
/// # Errors
/// Whatever kept it from being done.
pub fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match arguments.command {
        Command::Eval(arguments) if arguments.package => eval_package::eval_package(&arguments).map(done),
        Command::Run(arguments) if is_promptable(&arguments.config) => {
            on_device(&arguments.machine, || promptable::run(&arguments)).map(done)
        }
        Command::Train(arguments) if is_promptable(&arguments.config) => {
            on_device(&arguments.machine, || promptable::train_only(&arguments)).map(done)
        }
        Command::Eval(arguments) if is_promptable(&arguments.run.join("plan.toml")) => {
            on_device(&arguments.machine, || promptable::eval(&arguments)).map(done)
        }
        Command::Run(arguments) => on_device(&arguments.machine, || run::run(&arguments)).map(done),
        Command::Train(arguments) => on_device(&arguments.machine, || run::train_only(&arguments)).map(done),
        Command::Init(arguments) => init::init(&arguments).map(done),
        Command::Plan(arguments) => plan::plan(&arguments).map(done),
        Command::Search(arguments) => search::search(&arguments).map(done),
        Command::Data(command) => data::execute(command).map(done),
        Command::Teacher(command) => teacher::execute(command).map(done),
        Command::Eval(arguments) => on_device(&arguments.machine, || run::eval(&arguments)).map(done),
        Command::Predict(arguments) => {
            start_threads(arguments.threads)?;
            predict::predict(&arguments).map(done)
        }
        Command::EvalMasks { annotations, predictions, protocol, format, unusable, name, out, threads } => {
            start_threads(threads)?;
            let name = name.as_deref();
            eval_masks::eval_masks(&annotations, &predictions, &protocol, (format, unusable), name, out.as_deref())
                .map(done)
        }
        Command::Prompts { annotations, protocol, format, unusable, out } => {
            prompts::prompts(&annotations, &protocol, (format, unusable), &out).map(done)
        }
        Command::EvalCoco { annotations, detections, format, iou, out, threads } => {
            start_threads(threads)?;
            eval_coco::eval_coco(&annotations, &detections, format, iou, out.as_deref()).map(done)
        }
        Command::Quantize { run, reuse, sensitivity, threads } => {
            run::quantize(&run, reuse, sensitivity, threads).map(done)
        }
        Command::Export { run, converter, rpk, no_input_persistency, int8 }
            if is_promptable(&run.join("plan.toml")) =>
        {
            promptable::export(&run, converter.is_some() || rpk || no_input_persistency, int8).map(done)
        }
        Command::Export { run, int8: true, .. } => {
            let found = "expected a student that answers prompts, found one whose integers are always written";
            Err(usage(anyhow::anyhow!("{}: --int8: {found}", run.display())))
        }
        Command::Export { run, converter, rpk, no_input_persistency, int8: false } => {
            run::export(&run, converter.as_deref(), rpk, !no_input_persistency).map(done)
        }
        Command::Convert(arguments) => convert::convert(&arguments).map(done),
        Command::Rpk { packer_out, out, input_format, intrinsics } => {
            rpk::rpk(&packer_out, &out, &input_format, intrinsics.as_deref()).map(done)
        }
        Command::Replay { package, recording } => replay::replay(&package, &recording).map(done),
        Command::Gate { baseline, candidate, predictor, max_drop_points, junit, markdown, json } => {
            let files =
                gate::GateFiles { junit: junit.as_deref(), markdown: markdown.as_deref(), json: json.as_deref() };
            gate::gate(&baseline, &candidate, &predictor, max_drop_points, &files)
        }
        Command::Baseline { run, file, predictor } => gate::baseline(&run, &file, &predictor).map(done),
        Command::Verify { folder } => verify::verify(&folder).map(done),
        Command::Inspect { file, json } => inspect::inspect(&file, json).map(done),
        Command::Report { run } => run::report(&run).map(done),
        Command::Doctor { json } => doctor::doctor(json).map(done),
        Command::Completions { shell } => shell::completions(shell).map(done),
        Command::Man { folder } => shell::man(&folder).map(done),
        Command::Compare { runs, predictor, out } => {
            compare::compare(&runs, predictor.as_deref(), out.as_deref()).map(done)
        }
        Command::Runs { folder, json } => runs::runs(&folder, json).map(done),
    }
}
