//! Protocol files: everything that fixes a score besides data set and predictor.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use sensei_data::prompt_source::PromptSource;
use sensei_eval::protocol::{MaskChoice, ProtocolRules, Space};
use sensei_samples::selection::{CrowdRule, EmptyTruthRule, SelectionRules, Subset};
use serde::Deserialize;

use super::read::read;
use super::sections::crop::CropToml;

/// The protocols that this program knows by name.
const SHIPPED: [(&str, &str); 11] = [
    ("picosam2-crop96", include_str!("../../../../configs/protocols/picosam2-crop96.toml")),
    ("picosam3-roi96", include_str!("../../../../configs/protocols/picosam3-roi96.toml")),
    ("edgesam-box", include_str!("../../../../configs/protocols/edgesam-box.toml")),
    ("edgesam-center", include_str!("../../../../configs/protocols/edgesam-center.toml")),
    ("efficientsam-box", include_str!("../../../../configs/protocols/efficientsam-box.toml")),
    ("efficientsam-click", include_str!("../../../../configs/protocols/efficientsam-click.toml")),
    ("efficientsam-3-clicks", include_str!("../../../../configs/protocols/efficientsam-3-clicks.toml")),
    ("efficientvit-sam-box", include_str!("../../../../configs/protocols/efficientvit-sam-box.toml")),
    ("lvis-minival", include_str!("../../../../configs/protocols/lvis-minival.toml")),
    ("sensei-box", include_str!("../../../../configs/protocols/sensei-box.toml")),
    ("sensei-jittered-box", include_str!("../../../../configs/protocols/sensei-jittered-box.toml")),
];

/// Everything that fixes a score besides data set and predictor.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtocolToml {
    /// Whose protocol it is.
    source: String,
    /// What is not as there, and what the source leaves open.
    differences: String,
    /// What is given for an object.
    prompt: PromptToml,
    /// What part of the image every student is shown. Without it, each student's own rule, and no crop space: such numbers could not be
    /// compared.
    crop: Option<CropToml>,
    /// Side of the crop in pixels of the student's input; with a `crop` only.
    #[schemars(range(min = 1, max = 1024))]
    grid: Option<u32>,
    /// Where the protocol's number is computed: `gate` and the robustness curve look there.
    space: SpaceToml,
    /// Which instances, of those that the other rules let pass.
    subset: SubsetToml,
    /// Annotations with a smaller `area` are left out, in square image pixels.
    #[schemars(range(min = 0.0))]
    min_area: f64,
    /// What happens to crowd regions.
    crowd: CrowdToml,
    /// What happens to annotations without a mask pixel.
    empty_truth: EmptyTruthToml,
    /// Which of several masks for one prompt counts.
    mask_choice: MaskChoiceToml,
}

/// What is given for an object.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
enum PromptToml {
    /// The annotation's box.
    Box {},
    /// The annotation's box, wrong by a random amount: `docs/metrics.md`.
    JitteredBox {
        /// Each side of the box, and its centre, is wrong by up to this share of the sides.
        #[schemars(range(min = 0.0, max = 0.5))]
        jitter: f64,
        /// Of the random numbers.
        seed: u64,
    },
    /// The smallest box around the mask.
    MaskBox {},
    /// The middle of the annotation's box.
    BoxCenter {},
    /// PicoSAM2's point: the middle of the mask's box, or the mask's pixel nearest to it.
    MaskCenter {},
    /// The mask's pixel with the largest exact distance to what is not mask, the image's border included; of several the first in
    /// row-major order.
    InnermostPoint {},
    /// A pixel of the mask, by seed and annotation id.
    RandomPoint {
        /// Of the random numbers.
        seed: u64,
    },
    /// Several pixels of the mask, given together, each drawn from all of them by seed and annotation id. The first is that of
    /// `random_point`.
    RandomPoints {
        /// How many.
        #[schemars(range(min = 1, max = 16))]
        count: u32,
        /// Of the random numbers.
        seed: u64,
    },
}

/// Where a prediction is compared with the truth.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SpaceToml {
    /// On the crop's grid; needs a `crop`.
    Crop,
    /// At the image's own resolution.
    Image,
}

/// Which instances, of those that the other rules let pass.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SubsetToml {
    /// Every one.
    All,
    /// As many in the order of the annotation file.
    First(#[schemars(range(min = 1))] usize),
    /// As many, drawn at random.
    Random(RandomSubsetToml),
    /// Those of images whose file name begins so.
    ImagesIn(String),
}

/// A number of instances, drawn at random.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RandomSubsetToml {
    /// How many.
    #[schemars(range(min = 1))]
    count: usize,
    /// Of the random numbers.
    seed: u64,
}

/// What happens to crowd regions.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CrowdToml {
    /// They are left out and counted.
    LeftOut,
    /// They are scored like any object.
    Scored,
}

/// What happens to annotations without a mask pixel.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum EmptyTruthToml {
    /// They are left out and counted.
    LeftOut,
    /// They are scored; an empty prediction is right, any other is wrong. Where the prompt is a point, it is the image's middle.
    Scored,
}

/// Which of several masks for one prompt counts.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MaskChoiceToml {
    /// There is one; several are an error.
    Single,
    /// The one with the highest score of its own, of equals the first.
    HighestScore,
}

/// A protocol by its name, or from a file.
///
/// # Errors
/// If there is no such name or file, or the file has an unknown, missing or wrong key.
pub fn load_protocol(name_or_file: &str) -> anyhow::Result<ProtocolRules> {
    if let Some((name, text)) = SHIPPED.into_iter().find(|(name, _)| *name == name_or_file) {
        return parse(Path::new(name), text, name);
    }
    let path = Path::new(name_or_file);
    let names = SHIPPED.map(|(name, _)| name).join(", ");
    let text = fs::read_to_string(path).with_context(|| {
        format!("{name_or_file}: cannot read this protocol file, and it is no protocol's name; those are {names}")
    })?;
    parse(path, &text, &path.file_stem().unwrap_or_default().to_string_lossy())
}

/// All protocols that this program knows by name, sorted by it.
#[cfg(test)]
pub(super) fn shipped() -> Vec<ProtocolRules> {
    let mut names = SHIPPED.map(|(name, _)| name);
    names.sort_unstable();
    names.map(|name| load_protocol(name).expect("a shipped protocol is sound")).to_vec()
}

fn parse(path: &Path, text: &str, name: &str) -> anyhow::Result<ProtocolRules> {
    let file: ProtocolToml = read(path, text, &[])?;
    file.resolve(name).with_context(|| path.display().to_string())
}

impl ProtocolToml {
    fn resolve(self, name: &str) -> anyhow::Result<ProtocolRules> {
        for (key, text) in [("source", &self.source), ("differences", &self.differences)] {
            ensure!(
                !text.trim().is_empty(),
                "{key}: expected whose protocol it is and what is not as there, found nothing"
            );
        }
        let prompt = self.prompt.resolve();
        let crop = match (&self.crop, self.grid) {
            (Some(crop), Some(grid)) => Some(crop.resolve(grid)),
            (None, None) => None,
            (Some(_), None) => bail!("grid: expected the side of the crop in pixels, found none"),
            (None, Some(grid)) => bail!("grid: expected none where there is no crop, found {grid}"),
        };
        ensure!(
            crop.is_none() || !prompt.is_of_several_points(),
            "crop: expected none where the prompt is several points, found prompt {}",
            prompt.name()
        );
        ensure!(
            prompt.is_box() || !crop.is_some_and(|crop| crop.needs_box()),
            "crop.rule: a region of interest is made of a box, found prompt {}",
            prompt.name()
        );
        let space = match self.space {
            SpaceToml::Crop => Space::Crop,
            SpaceToml::Image => Space::Image,
        };
        ensure!(crop.is_some() || space == Space::Image, "space: expected \"image\" where there is no crop");
        Ok(ProtocolRules {
            name: name.to_string(),
            selection: SelectionRules {
                prompt,
                crop,
                subset: self.subset.resolve(),
                min_area: self.min_area,
                crowd: match self.crowd {
                    CrowdToml::LeftOut => CrowdRule::LeftOut,
                    CrowdToml::Scored => CrowdRule::Scored,
                },
                empty_truth: match self.empty_truth {
                    EmptyTruthToml::LeftOut => EmptyTruthRule::LeftOut,
                    EmptyTruthToml::Scored => EmptyTruthRule::Scored,
                },
            },
            space,
            mask_choice: match self.mask_choice {
                MaskChoiceToml::Single => MaskChoice::Single,
                MaskChoiceToml::HighestScore => MaskChoice::HighestScore,
            },
        })
    }
}

impl PromptToml {
    fn resolve(&self) -> PromptSource {
        match *self {
            Self::Box {} => PromptSource::Box,
            Self::JitteredBox { jitter, seed } => PromptSource::JitteredBox { jitter, seed },
            Self::MaskBox {} => PromptSource::MaskBox,
            Self::BoxCenter {} => PromptSource::BoxCenter,
            Self::MaskCenter {} => PromptSource::MaskCenter,
            Self::InnermostPoint {} => PromptSource::InnermostPoint,
            Self::RandomPoint { seed } => PromptSource::RandomPoint { seed },
            Self::RandomPoints { count, seed } => PromptSource::RandomPoints { count, seed },
        }
    }
}

impl SubsetToml {
    fn resolve(self) -> Subset {
        match self {
            Self::All => Subset::All,
            Self::First(count) => Subset::First(count),
            Self::Random(RandomSubsetToml { count, seed }) => Subset::Random { count, seed },
            Self::ImagesIn(folder) => Subset::ImagesIn(folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_protocols_are_the_files_of_the_repository() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/protocols");
        let mut names: Vec<String> = fs::read_dir(&folder)
            .expect("the folder of protocols")
            .map(|entry| entry.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        let mut shipped = SHIPPED.map(|(name, _)| name.to_string());
        shipped.sort();
        assert_eq!(names, shipped);
        for name in names {
            let rules = load_protocol(&name).expect("a shipped protocol is sound");
            let file = folder.join(format!("{name}.toml"));
            assert_eq!(load_protocol(&file.to_string_lossy()).expect("the same"), rules);
        }
    }

    #[test]
    fn what_cannot_be_scored_is_refused_with_the_key() {
        let (_, good) = SHIPPED[1];
        let refused = |from: &str, to: &str| {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            format!("{:#}", parse(Path::new("p.toml"), &text, "p").expect_err("a broken protocol"))
        };
        let check = |from: &str, to: &str, expected: &str| {
            let message = refused(from, to);
            assert!(message.contains(expected) && message.starts_with("p.toml"), "{message}");
        };
        check(
            "subset = \"all\"",
            "subset = { first = 0 }",
            "subset.first: expected a whole number, 1 or above, found 0",
        );
        check("grid = 96", "grid = 0", "grid: expected a whole number from 1 to 1024, found 0");
        check("padding = 0.1", "padding = -0.1", "crop.padding: expected a number from 0 to 4, found -0.1");
        check("{ source = \"box\" }", "{ source = \"mask_center\" }", "a region of interest is made of a box");
        check(
            "{ source = \"box\" }",
            "{ source = \"jittered_box\", jitter = 0.6, seed = 0 }",
            "prompt.jitter: expected a number from 0 to 0.5, found 0.6",
        );
        let several = "{ source = \"random_points\", count = 3, seed = 0 }";
        check("{ source = \"box\" }", several, "crop: expected none where the prompt is several points");
        check(
            "{ source = \"box\" }",
            &several.replace("count = 3", "count = 17"),
            "prompt.count: expected a whole number from 1 to 16, found 17",
        );
        check("min_area = 0.0", "min_area = -1.0", "min_area: expected a number, 0 or above, found -1.0");
        check("min_area = 0.0", "min_size = 0.0", "min_size: unknown key; the keys here are `crop`, `crowd`");
        check("min_area = 0.0\n", "", "missing key `min_area`");
        let without_crop: String =
            good.lines().filter(|line| !line.starts_with("crop")).map(|line| format!("{line}\n")).collect();
        let error = parse(Path::new("p.toml"), &without_crop, "p").expect_err("a grid without a crop");
        assert!(format!("{error:#}").contains("grid: expected none where there is no crop, found 96"), "{error:#}");
        let without_crop = without_crop.replace("grid = 96\n", "");
        let error = parse(Path::new("p.toml"), &without_crop, "p").expect_err("no crop to compare in");
        assert!(format!("{error:#}").contains("expected \"image\" where there is no crop"), "{error:#}");
        let message = format!("{:#}", load_protocol("picosam4").expect_err("no such protocol"));
        assert!(message.contains("picosam2-crop96, picosam3-roi96"), "{message}");
    }
}
