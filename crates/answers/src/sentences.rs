//! Sentences by which dumps and format 1 said how a teacher was asked, as typed parts of a key.
//!
//! A sentence that is not known stays as it is, in a `Foreign` part.

use sensei_data::prompt_source::PromptSource;

use crate::asked::{Normalization, Preprocessing, Question, Resize};
use crate::kept::Context;
use crate::record::RecordFault;

/// What a sentence about the teacher's input says.
pub fn preprocessing(sentence: &str) -> Preprocessing {
    let normalization = Normalization::Imagenet;
    match sentence {
        SAM1_INPUT => {
            let resize = Resize::PillowBilinear;
            Preprocessing::Letterbox { longest_side: 1024, resize, normalization, zoom: None }
        }
        SAM2_INPUT => Preprocessing::Stretch { side: 1024, resize: Resize::Sam2Transforms, normalization },
        NOT_STATED => Preprocessing::NotStated,
        _ => Preprocessing::Foreign(sentence.into()),
    }
}

/// What a sentence about prompt and kept crop says, of records of this grid.
///
/// The exporter writes `PROMPT; context C x 1.2 x longer side, grid G`, or `..., at least M pixels, grid G`; other programs
/// that keep the same crops may end their sentences so.
///
/// # Errors
/// If the sentence gives the grid and it is another.
pub fn question_and_context(sentence: &str, grid: u32) -> Result<(Question, Context), RecordFault> {
    if sentence == ROI96 && grid == 96 {
        return Ok((padded_box(), Context::ClippedRegion { region_scale: REGION_SCALE }));
    }
    let Some((prompt, context, stated_grid)) = split(sentence) else {
        return Ok((Question::Foreign(sentence.into()), Context::NotStated));
    };
    if stated_grid != grid {
        return Err(RecordFault::new("prompt", format!("grid {grid}"), format!("grid {stated_grid}")));
    }
    let question = match prompt {
        SAM1_BOX | SAM2_BOX => padded_box(),
        _ => Question::Foreign(prompt.into()),
    };
    Ok((question, context))
}

/// A box and the padding point that SAM's decoders want after it.
fn padded_box() -> Question {
    Question::Object { prompts: vec![PromptSource::Box], padding_points: 1 }
}

/// Prompt, context and grid of a sentence of the exporter's form.
fn split(sentence: &str) -> Option<(&str, Context, u32)> {
    let (prompt, context) = sentence.rsplit_once("; context ")?;
    let (scales, grid) = context.rsplit_once(", grid ")?;
    let (scales, min_side) = match scales.split_once(", at least ") {
        Some((scales, pixels)) => (scales, number(pixels.strip_suffix(" pixels")?)?),
        None => (scales, 0.0),
    };
    let (context_scale, region_scale) = scales.strip_suffix(" x longer side")?.split_once(" x ")?;
    let context =
        Context::AroundBox { region_scale: number(region_scale)?, context_scale: number(context_scale)?, min_side };
    Some((prompt, context, grid.parse().ok()?)).filter(|_| !prompt.is_empty())
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
}

const NOT_STATED: &str = "not stated";
const SAM1_INPUT: &str =
    "sam1: RGB, Pillow bilinear to longest side 1024, ImageNet mean/std, zero-pad right and bottom";
const SAM2_INPUT: &str = "sam2: RGB, SAM2Transforms stretch to 1024x1024, ImageNet mean/std";
const SAM1_BOX: &str =
    "box: corners as points of labels 2 and 3, and one padding point of label -1 at (0, 0): single-mask token";
/// The package itself takes a box as two corners and appends a padding point.
const SAM2_BOX: &str = "box: SAM2ImagePredictor.predict(box, multimask_output=False)";
/// The words of the single-file dumps of PicoSAM3's regions.
const ROI96: &str = "box: points=[(x,y),(x+w,y+h),(0,0)] labels=[2,3,-1] (the extra -1 point makes the decoder pick its \
                     single-mask token); logit = i8 * 0.125, clipped to +-15.875; ROI = square(max(w,h)*1.2) on the box centre, \
                     clipped to the image, truncated to int; cropped from image-size logits; bilinear (half-pixel, no \
                     antialias) to 96x96";
const REGION_SCALE: f64 = 1.2;

#[cfg(test)]
mod tests {
    use super::*;

    fn around_box(context_scale: f64, min_side: f64) -> Context {
        Context::AroundBox { region_scale: 1.2, context_scale, min_side }
    }

    #[test]
    fn the_exporters_sentences_are_known() {
        let check = |end: &str, grid: u32, context: Context| {
            for prompt in [SAM1_BOX, SAM2_BOX] {
                let sentence = format!("{prompt}; context {end}");
                assert_eq!(question_and_context(&sentence, grid).unwrap(), (padded_box(), context.clone()));
            }
        };
        check("1.5 x 1.2 x longer side, grid 96", 96, around_box(1.5, 0.0));
        check("2.0 x 1.2 x longer side, at least 192.0 pixels, grid 128", 128, around_box(2.0, 192.0));
        assert!(matches!(preprocessing(SAM1_INPUT), Preprocessing::Letterbox { longest_side: 1024, .. }));
        assert!(matches!(preprocessing(SAM2_INPUT), Preprocessing::Stretch { side: 1024, .. }));
        assert_eq!(preprocessing(NOT_STATED), Preprocessing::NotStated);
    }

    /// The exporter's own text: a sentence that it writes otherwise tomorrow has to be known tomorrow.
    #[test]
    fn the_exporter_still_writes_these_sentences() {
        let exporter = sensei_testing::workspace_root().join("scripts/teacher/export.py");
        let text = std::fs::read_to_string(exporter).unwrap();
        for sentence in [SAM1_INPUT, SAM2_INPUT, SAM1_BOX, SAM2_BOX] {
            assert!(text.contains(&format!("= \"{sentence}\"\n")), "{sentence}");
        }
        assert!(text.contains("context {args.context_scale} x {ROI_SCALE} x longer side{at_least}, grid {args.grid}"));
        assert!(text.contains("f\", at least {args.min_side} pixels\""));
    }

    #[test]
    fn regions_of_interest_are_known_with_their_own_grid_alone() {
        let known = question_and_context(ROI96, 96).unwrap();
        assert_eq!(known, (padded_box(), Context::ClippedRegion { region_scale: 1.2 }));
        let unknown = question_and_context(ROI96, 48).unwrap();
        assert_eq!(unknown, (Question::Foreign(ROI96.into()), Context::NotStated));
    }

    #[test]
    fn unknown_sentences_stay_as_they_are() {
        let foreign = |sentence: &str| {
            let unknown = question_and_context(sentence, 16).unwrap();
            assert_eq!(unknown, (Question::Foreign(sentence.into()), Context::NotStated));
        };
        foreign("box");
        foreign("");
        foreign("; context 2.0 x 1.2 x longer side, grid 16");
        foreign("box; context two x 1.2 x longer side, grid 16");
        foreign("box; context 2.0 x 1.2 x longer side, at most 9 pixels, grid 16");
        foreign("box; context -2.0 x 1.2 x longer side, grid 16");
        let known_context = question_and_context("a click; context 2.0 x 1.2 x longer side, grid 16", 16).unwrap();
        assert_eq!(known_context, (Question::Foreign("a click".into()), around_box(2.0, 0.0)));
        assert_eq!(preprocessing("sam3"), Preprocessing::Foreign("sam3".into()));
    }

    #[test]
    fn another_grid_than_the_sentence_says_is_refused() {
        let sentence = format!("{SAM1_BOX}; context 1.5 x 1.2 x longer side, grid 96");
        let fault = question_and_context(&sentence, 128).unwrap_err();
        assert_eq!(fault.to_string(), "prompt: expected grid 128, found grid 96");
    }
}
