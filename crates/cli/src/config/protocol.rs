//! Protocol files: everything that fixes a score besides data set and predictor.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use sensei_data::crop_rule::CropRule;
use sensei_data::prompt_source::PromptSource;
use sensei_eval::protocol::{MaskChoice, ProtocolRules, Space};
use sensei_samples::selection::{CrowdRule, EmptyTruthRule, SelectionRules, Subset};
use serde::Deserialize;

use super::file::BorderToml;
use super::plan::{border, one_line};

/// The protocols that this program knows by name.
const SHIPPED: [(&str, &str); 8] = [
    ("picosam2-crop96", include_str!("../../../../configs/protocols/picosam2-crop96.toml")),
    ("picosam3-roi96", include_str!("../../../../configs/protocols/picosam3-roi96.toml")),
    ("edgesam-box", include_str!("../../../../configs/protocols/edgesam-box.toml")),
    ("edgesam-center", include_str!("../../../../configs/protocols/edgesam-center.toml")),
    ("efficientvit-sam-box", include_str!("../../../../configs/protocols/efficientvit-sam-box.toml")),
    ("lvis-minival", include_str!("../../../../configs/protocols/lvis-minival.toml")),
    ("sensei-box", include_str!("../../../../configs/protocols/sensei-box.toml")),
    ("sensei-jittered-box", include_str!("../../../../configs/protocols/sensei-jittered-box.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProtocolToml {
    source: String,
    differences: String,
    prompt: PromptToml,
    crop: Option<CropToml>,
    space: Space,
    subset: SubsetToml,
    min_area: f64,
    crowd: CrowdRule,
    empty_truth: EmptyTruthRule,
    mask_choice: MaskChoice,
}

#[derive(Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
enum PromptToml {
    Box {},
    JitteredBox { jitter: f64, seed: u64 },
    MaskBox {},
    BoxCenter {},
    MaskCenter {},
    InnermostPoint {},
    RandomPoint { seed: u64 },
}

#[derive(Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
enum CropToml {
    CenterWindow { border: BorderToml, grid: u32 },
    Roi { border: BorderToml, padding: f64, grid: u32 },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubsetToml {
    All,
    First(usize),
    Random { count: usize, seed: u64 },
    ImagesIn(String),
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

fn parse(path: &Path, text: &str, name: &str) -> anyhow::Result<ProtocolRules> {
    let file: ProtocolToml = toml::from_str(text).map_err(|error| one_line(path, text, &error))?;
    resolve(file, name).with_context(|| path.display().to_string())
}

fn resolve(file: ProtocolToml, name: &str) -> anyhow::Result<ProtocolRules> {
    for (key, text) in [("source", &file.source), ("differences", &file.differences)] {
        ensure!(
            !text.trim().is_empty(),
            "{key}: expected whose protocol it is and what is not as there, found nothing"
        );
    }
    let prompt = match file.prompt {
        PromptToml::Box {} => PromptSource::Box,
        PromptToml::JitteredBox { jitter, seed } => {
            ensure!((0.0..=0.5).contains(&jitter), "prompt.jitter: expected 0 to 0.5, found {jitter}");
            PromptSource::JitteredBox { jitter, seed }
        }
        PromptToml::MaskBox {} => PromptSource::MaskBox,
        PromptToml::BoxCenter {} => PromptSource::BoxCenter,
        PromptToml::MaskCenter {} => PromptSource::MaskCenter,
        PromptToml::InnermostPoint {} => PromptSource::InnermostPoint,
        PromptToml::RandomPoint { seed } => PromptSource::RandomPoint { seed },
    };
    let crop = match file.crop {
        None => None,
        Some(CropToml::CenterWindow { border: at, grid }) => Some(CropRule::CenterWindow { grid, border: border(at) }),
        Some(CropToml::Roi { border: at, padding, grid }) => {
            ensure!((0.0..=4.0).contains(&padding), "crop.padding: expected 0 to 4, found {padding}");
            ensure!(
                prompt.is_box(),
                "crop.rule: a region of interest is made of a box, found prompt {}",
                prompt.name()
            );
            Some(CropRule::Roi { padding, grid, border: border(at) })
        }
    };
    if let Some(CropRule::CenterWindow { grid, .. } | CropRule::Roi { grid, .. }) = crop {
        ensure!((1..=1024).contains(&grid), "crop.grid: expected 1 to 1024, found {grid}");
    }
    ensure!(crop.is_some() || file.space == Space::Image, "space: expected \"image\" where there is no crop");
    ensure!(
        file.min_area.is_finite() && file.min_area >= 0.0,
        "min_area: expected at least 0, found {}",
        file.min_area
    );
    let subset = match file.subset {
        SubsetToml::All => Subset::All,
        SubsetToml::First(0) | SubsetToml::Random { count: 0, .. } => bail!("subset: expected at least one instance"),
        SubsetToml::First(count) => Subset::First(count),
        SubsetToml::Random { count, seed } => Subset::Random { count, seed },
        SubsetToml::ImagesIn(folder) => Subset::ImagesIn(folder),
    };
    Ok(ProtocolRules {
        name: name.to_string(),
        selection: SelectionRules {
            prompt,
            crop,
            subset,
            min_area: file.min_area,
            crowd: file.crowd,
            empty_truth: file.empty_truth,
        },
        space: file.space,
        mask_choice: file.mask_choice,
    })
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
        check("subset = \"all\"", "subset = { first = 0 }", "subset: expected at least one instance");
        check("grid = 96", "grid = 0", "crop.grid: expected 1 to 1024, found 0");
        check("padding = 0.1", "padding = -0.1", "crop.padding: expected 0 to 4, found -0.1");
        check("{ source = \"box\" }", "{ source = \"mask_center\" }", "a region of interest is made of a box");
        check("{ source = \"box\" }", "{ source = \"jittered_box\", jitter = 0.6, seed = 0 }", "expected 0 to 0.5");
        check("min_area = 0.0", "min_area = -1.0", "min_area: expected at least 0, found -1");
        check("min_area = 0.0", "min_size = 0.0", "unknown field `min_size`");
        check("min_area = 0.0\n", "", "missing field `min_area`");
        let without_crop: String =
            good.lines().filter(|line| !line.starts_with("crop")).map(|line| format!("{line}\n")).collect();
        let error = parse(Path::new("p.toml"), &without_crop, "p").expect_err("no crop to compare in");
        assert!(format!("{error:#}").contains("expected \"image\" where there is no crop"), "{error:#}");
        let message = format!("{:#}", load_protocol("picosam4").expect_err("no such protocol"));
        assert!(message.contains("picosam2-crop96, picosam3-roi96"), "{message}");
    }
}
