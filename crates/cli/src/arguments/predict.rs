//! The command line of `predict`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use sensei_data::geometry::PointInImage;

use super::{AnnotationFormat, Unusable, parse_threads};

/// What is asked, about which images.
#[derive(Debug, Args)]
pub struct PredictArguments {
    /// What answers: a run folder, a deployment package (a folder), an int8 model (.s8m), weights (.safetensors, .pt, .pth), or
    /// sensei-box or quickstart, the models that ship with this program
    pub source: PathBuf,
    /// JPEG and PNG files, folders of them, or - for a list of paths on standard input, one a line. With --boxes: the one folder that the
    /// annotation file's file names are relative to
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// A box to ask about on each image, in pixels of the stored image; may be given several times
    #[arg(long = "box", value_name = "X,Y,W,H", allow_hyphen_values = true)]
    pub bbox: Vec<BoxArgument>,
    /// A point to ask about on each image, in pixels of the stored image; may be given several times
    #[arg(long, value_name = "X,Y", allow_hyphen_values = true)]
    pub point: Vec<PointArgument>,
    /// Ask about the boxes of a file: an annotation file, or a detector's result file, a list of {image_id, category_id, bbox, score}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bbox", "point"])]
    pub boxes: Option<PathBuf>,
    /// The annotation file that says which images a result file's image_ids are
    #[arg(long, value_name = "FILE", requires = "boxes")]
    pub annotations: Option<PathBuf>,
    /// How the annotation file is written
    #[arg(long, value_enum, default_value_t = AnnotationFormat::Coco, requires = "boxes")]
    pub format: AnnotationFormat,
    /// What is done with boxes that cannot be used, and with annotations
    #[arg(long, value_enum, default_value_t = Unusable::Refuse, requires = "boxes")]
    pub unusable: Unusable,
    /// Which network answers; default: int8 where there is one, else float
    #[arg(long, value_enum)]
    pub network: Option<NetworkChoice>,
    /// The configuration of the student that weights are of
    #[arg(long, value_name = "RUN.toml")]
    pub config: Option<PathBuf>,
    /// A protocol's name or file, see configs/protocols, whose crop is cut in place of the source's own. A bare .s8m needs one
    #[arg(long)]
    pub protocol: Option<String>,
    /// Where masks, overlays, predictions.json and about.json go: a folder that does not exist yet or is empty
    #[arg(long)]
    pub out: PathBuf,
    /// Write also the logits of each crop, as NumPy arrays: to choose another threshold or score
    #[arg(long)]
    pub logits: bool,
    /// Threads; masks and scores do not depend on it. 0: one per core
    #[arg(long, default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

/// A network that a source may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkChoice {
    /// The integers of the chip.
    Int8,
    /// The trained weights.
    Float,
    /// The teacher of a run that names its weights.
    Teacher,
}

impl NetworkChoice {
    /// In messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Float => "float",
            Self::Teacher => "teacher",
        }
    }
}

/// `x,y,width,height`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxArgument(pub [f64; 4]);

impl FromStr for BoxArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bbox @ [_, _, width, height] = numbers(text).ok_or("expected four numbers: x,y,width,height")?;
        match width > 0.0 && height > 0.0 {
            true => Ok(Self(bbox)),
            false => Err("expected x,y,width,height with a width and height above 0".into()),
        }
    }
}

/// `x,y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointArgument(pub PointInImage);

impl FromStr for PointArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [x, y] = numbers(text).ok_or("expected two numbers: x,y")?;
        Ok(Self(PointInImage { x, y }))
    }
}

/// As many finite numbers, separated by commas.
fn numbers<const N: usize>(text: &str) -> Option<[f64; N]> {
    let parts: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let numbers: [f64; N] = parts?.try_into().ok()?;
    numbers.iter().all(|number| number.is_finite()).then_some(numbers)
}

/// Shown below the options.
pub const EXAMPLES: &str = "\
Examples:
  sensei predict runs/quickstart photo.jpg --box 40,60,120,80 --out masks
  sensei predict runs/quickstart photos/ --box 40,60,120,80 --network float --out masks
  sensei predict runs/my/package val2017/ --boxes instances_val2017.json --out masks
  sensei predict runs/my val2017/ --boxes detections.json --annotations instances_val2017.json --out masks
  sensei eval-coco instances_val2017.json masks/predictions.json
  sensei predict student.s8m photo.jpg --box 40,60,120,80 --protocol picosam3-roi96 --out masks
  sensei predict student.safetensors photo.jpg --box 40,60,120,80 --config my.toml --out masks
  find photos -name '*.jpg' | sensei predict runs/my - --box 40,60,120,80 --out masks";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_and_points_are_finite_numbers_and_boxes_have_an_area() {
        assert_eq!("1,2.5, 3,4".parse(), Ok(BoxArgument([1.0, 2.5, 3.0, 4.0])));
        assert_eq!("-1,2".parse(), Ok(PointArgument(PointInImage { x: -1.0, y: 2.0 })));
        for text in ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,nan,4", "1,2,inf,4", "1,2,0,4", "1,2,3,-4"] {
            assert!(text.parse::<BoxArgument>().is_err(), "{text}");
        }
        for text in ["1", "1,2,3", "1,", "NaN,1"] {
            assert!(text.parse::<PointArgument>().is_err(), "{text}");
        }
    }
}
