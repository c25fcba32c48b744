//! The command line.

mod data;
mod predict;
mod run;
mod search;
mod teacher;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::examples;

pub use data::{AnnotationFormat, Compared, DataCommand, Unusable};
pub use predict::{NetworkChoice, PredictArguments};
pub use run::{ConvertArguments, EvalArguments, FileKind, Machine, PlanArguments, RunArguments, Set};
pub use search::SearchArguments;
pub use teacher::{
    BuildArguments, BuildDtype, BuildMasks, BuildPrompt, ProposeArguments, ShowArguments, TeacherArguments,
    TeacherCommand,
};

use run::{parse_share, parse_threads};

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
    #[command(after_help = examples::EVAL_MASKS)]
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
    #[command(after_help = examples::PROMPTS)]
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
    #[command(after_help = examples::EVAL_COCO)]
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
    #[command(after_help = examples::QUANTIZE)]
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
    #[command(after_help = examples::REPLAY)]
    Replay {
        /// A package folder
        package: PathBuf,
        /// A folder of NAME.input and NAME.output; the package's own test_vectors is one
        recording: PathBuf,
    },
    /// Make network.rpk, which the camera loads, of the converter's packerOut.zip
    #[command(after_help = examples::RPK)]
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
    #[command(after_help = examples::BASELINE)]
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
    #[command(after_help = examples::VERIFY)]
    Verify {
        /// A run folder or a package
        folder: PathBuf,
    },
    /// Write report.html of a run
    #[command(after_help = examples::REPORT)]
    Report {
        /// A run folder
        run: PathBuf,
    },
    /// Say what this program and this machine have: version, CPU, memory, devices, converter
    #[command(after_help = examples::DOCTOR)]
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
    #[command(after_help = examples::MAN)]
    Man {
        /// A folder that does not exist yet or is empty
        folder: PathBuf,
    },
    /// Put runs beside the first of them: paired differences by size and crowding, configurations, curves, pictures
    #[command(after_help = examples::COMPARE)]
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
    #[command(after_help = examples::RUNS)]
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
    /// Weights to start from; default: sensei-box, a model that ships with this program
    #[arg(long, value_name = "FILE", conflicts_with = "from_random")]
    pub initial_weights: Option<PathBuf>,
    /// Start from random weights
    #[arg(long)]
    pub from_random: bool,
}
