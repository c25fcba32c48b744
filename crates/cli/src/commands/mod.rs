//! One function per subcommand.

mod data;
mod gate;
mod inspect;
pub mod plan;
mod rpk;
mod run;
mod teacher;

use std::process::ExitCode;

use anyhow::Context;
use burn::tensor::Device;

use crate::arguments::{Arguments, Command, DeviceName, Machine};

/// Does what the command line asks for.
///
/// # Errors
/// Whatever kept it from being done.
pub fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments).map(done),
        Command::Train(arguments) => run::train_only(&arguments).map(done),
        Command::Plan { config, place } => plan::plan(&config, &place).map(done),
        Command::Data(command) => data::execute(command).map(done),
        Command::Teacher(command) => teacher::execute(command).map(done),
        Command::Eval { run, weights, imagenet_normalised, out, machine } => {
            run::eval(&run, weights.as_deref(), imagenet_normalised, out.as_deref(), machine).map(done)
        }
        Command::Quantize { run, machine } => run::quantize(&run, machine).map(done),
        Command::Export { run, converter, rpk } => run::export(&run, converter.as_deref(), rpk).map(done),
        Command::Rpk { packer_out, out, input_format, intrinsics } => {
            rpk::rpk(&packer_out, &out, &input_format, intrinsics.as_deref()).map(done)
        }
        Command::Gate { baseline, candidate, predictor, max_drop } => {
            gate::gate(&baseline, &candidate, &predictor, max_drop)
        }
        Command::Inspect { file } => inspect::inspect(&file).map(done),
        Command::Report { run } => run::report(&run).map(done),
    }
}

/// The device that was asked for, after setting the number of threads.
///
/// # Errors
/// If the threads cannot be started.
pub fn device(machine: Machine) -> anyhow::Result<Device> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(machine.threads)
        .build_global()
        .context("cannot start the computation's threads")?;
    Ok(match machine.device {
        DeviceName::Flex => Device::flex(),
    })
}
