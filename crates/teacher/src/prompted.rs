//! A teacher's masks for a user's prompts, at the image's own resolution.

use std::collections::BTreeMap;

use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_data::mask::Mask;
use sensei_data::prompt_source::Prompt;
use sensei_sam::mask_decoder::MaskChoice;

use crate::error::TeacherError;
use crate::record::mask_in_image;
use crate::teacher::{PROMPTS_AT_ONCE, Seen, Teacher};

/// A mask and the teacher's own opinion of it.
#[derive(Debug, Clone)]
pub struct PromptedMask {
    /// In the image.
    pub mask: Mask,
    /// The IoU that the teacher expects, as it gives it: MobileSAM goes up to 1.02.
    pub predicted_iou: f32,
}

impl Teacher {
    /// The teacher's single mask for each prompt about an image that it has looked at whole. A point has one point of padding behind it, a box
    /// as many as said; none for a teacher that fills prompts up itself.
    ///
    /// # Errors
    /// If an answer is not finite, or onnxruntime fails.
    ///
    /// # Panics
    /// If another teacher has looked at the image.
    pub fn masks(
        &self,
        seen: &Seen,
        prompts: &[Prompt],
        box_padding_points: u32,
    ) -> Result<Vec<PromptedMask>, TeacherError> {
        let mut masks: Vec<Option<PromptedMask>> = vec![None; prompts.len()];
        // Prompts that are answered together have the same number of points.
        let mut kinds: BTreeMap<(bool, usize), Vec<Asked>> = BTreeMap::new();
        for (at, prompt) in prompts.iter().enumerate() {
            let points = points(prompt);
            kinds.entry((prompt.bbox().is_none(), points.len())).or_default().push((at, points));
        }
        for ((is_point, _), of_kind) in kinds {
            let padding = match (self.pads_prompts(), is_point) {
                (true, _) => 0,
                (false, false) => box_padding_points,
                (false, true) => POINT_PADDING,
            };
            for some in of_kind.chunks(PROMPTS_AT_ONCE) {
                let asked: Vec<Vec<PromptPoint>> = some.iter().map(|(_, points)| points.clone()).collect();
                let answers = self.answer(seen, &asked, padding, MaskChoice::Single)?;
                for ((at, _), answer) in some.iter().zip(answers) {
                    let (logits, predicted_iou) = (&answer.logits[0], answer.predicted_iou[0]);
                    if let Some(&found) = logits.iter().chain([&predicted_iou]).find(|value| !value.is_finite()) {
                        let subject = format!("prompt {}", at + 1);
                        return Err(TeacherError::NotFinite { subject, what: "logits", found });
                    }
                    masks[*at] = Some(PromptedMask { mask: mask_in_image(logits, &seen.frame), predicted_iou });
                }
            }
        }
        Ok(masks.into_iter().map(|mask| mask.expect("a prompt is a box or a point")).collect())
    }
}

/// A prompt's place among all, and its points.
type Asked = (usize, Vec<PromptPoint>);

fn points(prompt: &Prompt) -> Vec<PromptPoint> {
    match prompt {
        Prompt::Box(bbox) => PromptPoint::of_box(*bbox),
        Prompt::Point(_) | Prompt::Points(_) => {
            prompt.points().iter().map(|&at| PromptPoint { at, label: PointLabel::Foreground }).collect()
        }
    }
}

/// Points of padding behind a point, as SAM's PyTorch code has it.
const POINT_PADDING: u32 = 1;
