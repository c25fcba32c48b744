//! The command line of `run`, `train`, `plan`, `eval` and `convert`, and what they share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::AnnotationFormat;
use crate::config::Override;
use crate::device::DeviceName;

/// A run from a configuration.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The configuration
    pub config: PathBuf,
    #[command(flatten)]
    pub set: Set,
    #[command(flatten)]
    pub place: Place,
    /// Go on with a run that was stopped or killed
    #[arg(long)]
    pub resume: bool,
    /// Print the time of each layer over some training steps, and write profile.json, a trace for Perfetto
    #[arg(long)]
    pub profile: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// A configuration, or what one can have.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The configuration
    #[arg(required_unless_present = "schema")]
    pub config: Option<PathBuf>,
    /// Print the JSON schema of a run's configuration, or of a protocol or search file, instead: what editors complete and check by
    #[arg(long, value_enum, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "run")]
    #[arg(conflicts_with_all = ["config", "overrides"])]
    pub schema: Option<FileKind>,
    /// As JSON; what is checked goes to standard error
    #[arg(long, conflicts_with = "schema")]
    pub json: bool,
    /// Train some steps of each stage, keep nothing of them, and say how long training takes here and what it leaves on the disk
    #[arg(long, conflicts_with = "schema")]
    pub measure: bool,
    #[command(flatten)]
    pub set: Set,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub machine: Machine,
}

/// Keys that the command line sets.
#[derive(Debug, Args)]
pub struct Set {
    /// A key of the configuration in place of the file's, as train.batch_size=16, train.stage.0.epochs=2 or crop.border=reference;
    /// may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<Override>,
}

/// The files that this program has a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    /// A run's configuration
    Run,
    /// The same, of a student that sees whole images and answers prompts
    Promptable,
    /// A protocol
    Protocol,
    /// A search
    Search,
}

/// What is scored, by which protocol.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// A run folder; with --package also a package
    pub run: PathBuf,
    /// Score the integer model of the package, read back from it, without the training data; on a run's validation split, or on
    /// --annotations and --images
    #[arg(long, conflicts_with_all = ["weights", "robustness", "write_inputs", "recorded"])]
    pub package: bool,
    /// Weights to score instead of the run's: .safetensors, or a PyTorch checkpoint; docs/formats/weights.md
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Says that these weights were trained on ImageNet-normalised images: their normalisation is folded into the
    /// first convolution
    #[arg(long, requires = "weights")]
    pub imagenet_normalised: bool,
    /// A protocol's name or file instead of the run's own, see configs/protocols
    #[arg(long)]
    pub protocol: Option<String>,
    /// Annotations to score instead of the run's validation split; needs --protocol, but for a package
    #[arg(long, requires = "images")]
    pub annotations: Option<PathBuf>,
    /// The folder of their images
    #[arg(long, requires = "annotations")]
    pub images: Option<PathBuf>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco, requires = "annotations")]
    pub format: AnnotationFormat,
    /// Score with boxes that are wrong by up to 0, 5, 10, 20 and 30 % of their sides
    #[arg(long)]
    pub robustness: bool,
    /// Write the network's input of each instance into this folder, ANNOTATION.input, for camera.py inject; score nothing
    #[arg(long, conflicts_with_all = ["weights", "robustness", "recorded", "out"])]
    pub write_inputs: Option<PathBuf>,
    /// Score also what a camera answered to these inputs, as the row device: the folder that camera.py inject wrote
    #[arg(long, conflicts_with_all = ["weights", "robustness"])]
    pub recorded: Option<PathBuf>,
    /// Where the report goes; default: a folder of the run, eval/ for its own networks and protocol
    #[arg(long)]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// A network for the vendor's converter.
#[derive(Debug, Args)]
pub struct ConvertArguments {
    /// A run folder, a package or an ONNX file of the dialect
    pub source: PathBuf,
    /// The vendor's imxconv-pt, see scripts/imx500/setup.sh; default: the one on PATH
    #[arg(long, value_name = "PROGRAM")]
    pub converter: Option<PathBuf>,
    /// Make packerOut.zip too, in twice the time
    #[arg(long)]
    pub packer_out: bool,
    /// A new folder to keep what the converter writes; default: nothing is kept
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Let the converter drop the input tensor on the chip, which leaves more memory
    #[arg(long)]
    pub no_input_persistency: bool,
}

/// Where results go.
#[derive(Debug, Args)]
pub struct Place {
    /// Folder of all runs; the run's own folder in it is named after the configuration
    #[arg(long, default_value = "runs")]
    pub runs: PathBuf,
    /// Name of the run's folder, if not the configuration's
    #[arg(long)]
    pub name: Option<String>,
}

/// What computes.
#[derive(Debug, Clone, Args)]
pub struct Machine {
    /// Where tensors live: flex (the CPU), or in builds that have them wgpu, wgpu:N, wgpu:integrated, wgpu:software, cuda, cuda:N,
    /// ndarray. Several, separated by commas, share the batches of a training step, of which accumulate_batches in the
    /// configuration has to be at least as many
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', default_value = "flex")]
    pub device: Vec<DeviceName>,
    /// Threads of the CPU's computation; results are the same bits for the same number. 0: one per core
    #[arg(long, default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

impl Machine {
    /// Whether the command line said nothing of it.
    pub fn is_default(&self) -> bool {
        self.threads == 0 && matches!(self.device[..], [DeviceName::Flex])
    }
}

/// A share that leaves something on both sides.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "expected a number between 0 and 1, as 0.2".to_string())
}

/// A number of threads; a machine has no use for more, and takes minutes to start them.
pub(super) fn parse_threads(text: &str) -> Result<usize, String> {
    let threads: usize = text.parse().map_err(|_| format!("expected a whole number from 0 to {MAX_THREADS}"))?;
    if threads > MAX_THREADS {
        return Err(format!("expected at most {MAX_THREADS}"));
    }
    Ok(threads)
}

const MAX_THREADS: usize = 1024;
