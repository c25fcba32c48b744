//! The command line of `data`, and how annotation files are read.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use sensei_data::dataset::UnusableRule;
use sensei_data::paste::FIRST_COMPOSED_ID;

use super::{Set, parse_share, parse_threads};
use crate::examples;

/// Data set tools.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Render the synthetic scenes of the quickstart
    #[command(after_help = examples::DATA_SYNTH)]
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
    /// Split an annotation file by image: some to train on, some to score on
    #[command(after_help = examples::DATA_SPLIT)]
    Split {
        /// The annotation file, COCO's or LVIS's
        annotations: PathBuf,
        /// Where train.json and val.json go
        out: PathBuf,
        /// Share of the images to score on
        #[arg(long, default_value_t = 0.2, value_parser = parse_share)]
        val_share: f64,
        /// Another seed is another split
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Compose training pictures: objects of one image pasted onto another, with the masks of what stays visible
    #[command(after_help = examples::DATA_PASTE)]
    Paste {
        /// The annotation file, of images to train on
        annotations: PathBuf,
        /// The folder of its images
        images: PathBuf,
        /// A new or empty folder: images/ and annotations.json
        out: PathBuf,
        /// Composed pictures of each image
        #[arg(long, default_value_t = 1)]
        copies: u32,
        /// Fewest objects that are pasted onto a picture; where an image has fewer, all of them
        #[arg(long, default_value_t = 2)]
        min_objects: u32,
        /// Most of them
        #[arg(long, default_value_t = 5)]
        max_objects: u32,
        /// Other pictures
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The number that pictures and annotations are counted from: files that are trained on together have other ids
        #[arg(long, default_value_t = FIRST_COMPOSED_ID, value_parser = clap::value_parser!(u64).range(1..=9_000_000_000_000_000))]
        first_id: u64,
        /// How the annotation file is written
        #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco)]
        format: AnnotationFormat,
        /// What is done with annotations that cannot be used
        #[arg(long, value_enum, default_value_t = Unusable::Refuse)]
        unusable: Unusable,
        /// Threads; results do not depend on it. 0: one per core
        #[arg(long, default_value_t = 0, value_parser = parse_threads)]
        threads: usize,
    },
    /// Pack a run's training and validation samples, so that no image is decoded any more; they stay the same, bit for bit
    #[command(after_help = examples::DATA_PACK)]
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
    #[command(after_help = examples::DATA_FETCH)]
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
