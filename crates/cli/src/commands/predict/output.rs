//! What `predict` leaves: masks, overlays, a COCO result file, and what is to be known beside it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use sensei_data::crop::CropGeometry;
use sensei_data::image_file::{RgbImage, encode_mask_png, encode_png_fast};
use sensei_data::prompt_source::Prompt;
use sensei_data::rle::Rle;
use sensei_eval::scene::{SceneMask, draw_scene};
use sensei_files::folder::sync_below;
use sensei_files::whole::{beside, sync_folder_of, write_unsynced};
use serde::Serialize;
use serde_json::json;

use super::answers::{Answer, Answers};
use super::asked::{Asked, AskedImage, AskedPrompt, stem};
use super::source::Source;
use crate::usage;

/// Refuses a folder that holds something.
///
/// # Errors
/// If it does, or is no folder.
pub fn check_free(out: &Path) -> anyhow::Result<()> {
    if out.exists() {
        let shown = out.display();
        let mut there = fs::read_dir(out).with_context(|| format!("{shown}: cannot list the folder"))?;
        if there.next().is_some() {
            return Err(usage(anyhow::anyhow!("--out {shown}: expected a new or empty folder, found files in it")));
        }
    }
    Ok(())
}

/// Fills a folder beside `out`, which takes its name when it is complete: then all of it is on disk.
///
/// # Errors
/// Those of `fill`, and if the folder cannot be made or take its name. Nothing stands under the name then that was not there.
pub fn whole_folder<T>(
    out: &Path,
    has_logits: bool,
    fill: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let partial = beside(out, "", &format!(".partial-{}", std::process::id()))?;
    let make = || -> anyhow::Result<T> {
        for folder in [MASKS, OVERLAYS].into_iter().chain(has_logits.then_some(LOGITS)) {
            let folder = partial.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
        }
        let filled = fill(&partial)?;
        sync_below(&partial)?;
        fs::rename(&partial, out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
        sync_folder_of(out)?;
        Ok(filled)
    };
    let made = make();
    if made.is_err() {
        // The first error is the one to report; what cannot be removed has a name that says what it is.
        let _ = fs::remove_dir_all(&partial);
    }
    made
}

/// Writes a mask as a PNG of its image's size.
///
/// # Errors
/// If the file cannot be written.
pub fn write_mask(folder: &Path, stem: &str, nth: usize, mask: &Rle) -> anyhow::Result<()> {
    Ok(write_unsynced(&folder.join(mask_name(stem, nth)), &encode_mask_png(mask.to_mask()))?)
}

/// Writes the logits of a crop as a NumPy array.
///
/// # Errors
/// If the file cannot be written.
pub fn write_logits(folder: &Path, stem: &str, nth: usize, logits: &[f32]) -> anyhow::Result<()> {
    let side = logits.len().isqrt();
    let description = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({side}, {side}), }}");
    // Magic bytes, version and length take 10 bytes; the header ends in a line end, 64 bytes or a multiple from the start.
    let header = format!("{description:<width$}\n", width = (10 + description.len() + 1).next_multiple_of(64) - 11);
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).context("a short header")?.to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    Ok(write_unsynced(&folder.join(logits_name(stem, nth)), &file)?)
}

/// Draws all masks of an image on it.
///
/// # Errors
/// If the file cannot be written.
pub fn write_overlay(folder: &Path, image: &AskedImage, pixels: &RgbImage, answers: &[Answer]) -> anyhow::Result<()> {
    let masks = (1..).zip(&image.prompts).zip(answers).map(|((nth, asked), answer)| SceneMask {
        mask: &answer.mask,
        prompt: asked.prompt.clone(),
        label: format!("{nth} {:.2}", final_score(asked, answer)),
    });
    let scene = draw_scene(pixels, &masks.collect::<Vec<_>>());
    Ok(write_unsynced(&folder.join(overlay_name(&stem(image))), &encode_png_fast(&scene))?)
}

/// What a mask is ranked by: the network's score, times the detector's where there is one.
pub fn final_score(asked: &AskedPrompt, answer: &Answer) -> f64 {
    asked.detector_score.unwrap_or(1.0) * answer.score
}

/// One entry of a COCO result file.
#[derive(Serialize)]
struct Prediction {
    image_id: u64,
    category_id: u64,
    /// The smallest box around the mask, all 0 of an empty one.
    bbox: [f64; 4],
    segmentation: Runs,
    score: f64,
    /// Not part of the format: whose prompt it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    annotation_id: Option<u64>,
}

/// A compressed mask.
#[derive(Serialize)]
struct Runs {
    /// Height, width.
    size: [u32; 2],
    counts: String,
}

/// Writes `predictions.json`.
///
/// # Errors
/// If a score is not finite, or the file cannot be written.
pub fn write_predictions(folder: &Path, asked: &Asked, answers: &Answers) -> anyhow::Result<()> {
    let mut predictions = vec![];
    for (image, answers) in asked.images.iter().zip(&answers.of_images) {
        for (prompt, answer) in image.prompts.iter().zip(answers) {
            let (mask, score) = (&answer.mask, final_score(prompt, answer));
            ensure!(score.is_finite(), "{}: expected a finite score, found {score}", image.path.display());
            let (size, counts) = ([mask.size().height, mask.size().width], mask.to_compressed_string());
            predictions.push(Prediction {
                image_id: image.id,
                category_id: prompt.category_id,
                bbox: mask.bbox(),
                segmentation: Runs { size, counts },
                score,
                annotation_id: prompt.annotation_id,
            });
        }
    }
    let mut json = serde_json::to_vec(&predictions)?;
    json.push(b'\n');
    Ok(write_unsynced(&folder.join("predictions.json"), &json)?)
}

/// How long it took.
pub struct Times {
    /// From the start of the command.
    pub whole: Duration,
    /// All threads together.
    pub in_network: Duration,
    /// All threads together.
    pub decoding: Duration,
    /// Threads.
    pub n_threads: usize,
}

impl Times {
    /// Milliseconds of a prompt in the network.
    pub fn network_per_prompt(&self, n_prompts: usize) -> f64 {
        1e3 * self.in_network.as_secs_f64() / n_prompts as f64
    }

    /// Milliseconds of the whole command for each prompt.
    pub fn whole_per_prompt(&self, n_prompts: usize) -> f64 {
        1e3 * self.whole.as_secs_f64() / n_prompts as f64
    }
}

/// Writes `about.json`: what answered, which file is which, and how long it took.
///
/// # Errors
/// If the file cannot be written.
pub fn write_about(
    folder: &Path,
    origin: &Path,
    source: &Source,
    (asked, answers): (&Asked, &Answers),
    times: &Times,
) -> anyhow::Result<()> {
    let (mut images, mut predictions) = (vec![], vec![]);
    for (image, answers) in asked.images.iter().zip(&answers.of_images) {
        let stem = stem(image);
        images.push(json!({
            "image_id": image.id,
            "path": image.path.to_string_lossy(),
            "width": image.size.width,
            "height": image.size.height,
            "overlay": overlay_name(&stem),
        }));
        for ((nth, prompt), answer) in (0..).zip(&image.prompts).zip(answers) {
            let asked = match &prompt.prompt {
                Prompt::Box(bbox) => json!({ "box": bbox }),
                Prompt::Point(at) => json!({ "point": [at.x, at.y] }),
                Prompt::Points(points) => json!({ "points": points.iter().map(|at| [at.x, at.y]).collect::<Vec<_>>() }),
            };
            predictions.push(json!({
                "mask": mask_name(&stem, nth),
                "image_id": image.id,
                "prompt": asked,
                "crop": answer.crop.map(|CropGeometry { rect_in_image: rect, .. }| [rect.x0, rect.y0, rect.x1, rect.y1]),
                "network_score": answer.score,
                "detector_score": prompt.detector_score,
            }));
        }
    }
    let n_prompts = asked.n_prompts();
    let about = json!({
        "sensei_version": env!("CARGO_PKG_VERSION"),
        "source": origin.to_string_lossy(),
        "network": source.choice.name(),
        "network_digest": source.digest,
        "crop": source.crop().map(|crop| crop.name()),
        "threads": times.n_threads,
        "milliseconds": {
            "network_per_prompt": times.network_per_prompt(n_prompts),
            "whole_per_prompt": times.whole_per_prompt(n_prompts),
            "decoding_per_image": 1e3 * times.decoding.as_secs_f64() / asked.images.len() as f64,
            "whole": 1e3 * times.whole.as_secs_f64(),
        },
        "boxes_beyond_image": asked.n_beyond_image(),
        "boxes_lengthened": source.crop().map(|crop| asked.n_lengthened(crop)),
        "crowd_regions_left_out": asked.n_crowd,
        "left_out": asked.left_out,
        "images": images,
        "predictions": predictions,
    });
    let mut json = serde_json::to_vec_pretty(&about)?;
    json.push(b'\n');
    Ok(write_unsynced(&folder.join("about.json"), &json)?)
}

fn mask_name(stem: &str, nth: usize) -> String {
    format!("{MASKS}/{stem}-{}.png", nth + 1)
}

fn logits_name(stem: &str, nth: usize) -> String {
    format!("{LOGITS}/{stem}-{}.npy", nth + 1)
}

fn overlay_name(stem: &str) -> String {
    format!("{OVERLAYS}/{stem}.png")
}

const MASKS: &str = "masks";
const OVERLAYS: &str = "overlays";
const LOGITS: &str = "logits";
