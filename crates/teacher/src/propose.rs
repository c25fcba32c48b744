//! Objects on pictures that nobody annotated: a grid of points asked one by one, and what passes for an object.

use std::path::{Path, PathBuf};

use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::{ImageLimits, RgbImage};
use sensei_data::rle::Rle;
use sensei_sam::mask_decoder::MaskChoice;

use crate::error::TeacherError;
use crate::picture::{Failures, read_picture};
use crate::record::{mask_in_image, stability};
use crate::teacher::{Answer, LOGIT_GRID, PROMPTS_AT_ONCE, Seen, Teacher};

/// What is asked, and what is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct ProposePlan {
    /// Points along each side of a picture, at the centres of equal cells.
    pub points: u32,
    /// Points along each side in a second pass, of which those are asked that no mask of the first is sure of which passed; 0 for none.
    ///
    /// # Source
    /// TinySAM's hierarchical mask generation (arXiv 2312.13789): [`SURE_LOGIT`].
    pub fine_points: u32,
    /// Minimum IoU that the teacher expects of its mask.
    pub min_predicted_iou: f32,
    /// Minimum [stability](sensei_answers::record::MaskAnswer::stability).
    pub min_stability: f32,
    /// Minimum area, in pixels of the image.
    pub min_area: u64,
    /// Maximum area, as a share of the image.
    pub max_area_share: f64,
    /// Two masks of a larger IoU are one object: of them the one is kept that the teacher thinks better. Annotated objects count too; of a
    /// crowd region, the share of the mask that lies in it.
    pub max_iou: f64,
    /// Images that may be unusable; each is counted and named.
    pub max_failed_images: usize,
    /// What an image file may cost.
    pub limits: ImageLimits,
}

/// A picture, and what is known to be on it.
pub struct Picture {
    /// Its file.
    pub path: PathBuf,
    /// Its size, where somebody said it.
    pub size: Option<Size>,
    /// Annotated masks, and whether each is a crowd region.
    pub annotated: Vec<(Rle, bool)>,
}

/// An object that the teacher found.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Its mask, in the image.
    pub mask: Rle,
    /// The IoU that the teacher expects.
    pub predicted_iou: f32,
    /// Area of the logits above 1 as a share of that above -1.
    pub stability: f32,
    /// The point that it was found by.
    pub point: PointInImage,
}

/// How many masks there were, and why most are no proposals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProposeCounts {
    /// Points asked.
    pub points: u64,
    /// Points of the second pass that a mask was sure of already.
    pub sure_points: u64,
    /// The teacher thinks little of them.
    pub low_predicted_iou: u64,
    /// They change with the threshold.
    pub unstable: u64,
    /// Below the minimum area.
    pub small: u64,
    /// Above the maximum.
    pub large: u64,
    /// A better mask of the same object is kept.
    pub duplicates: u64,
    /// The object is annotated.
    pub annotated: u64,
    /// Kept.
    pub kept: u64,
}

/// The pictures of a data set, with its annotated masks.
///
/// # Errors
/// If a mask cannot be read.
pub fn pictures_of(dataset: &Dataset) -> Result<Vec<Picture>, TeacherError> {
    let mut pictures: Vec<Picture> = (0..dataset.images.len())
        .map(|idx| Picture { path: dataset.image_path(idx), size: Some(dataset.images[idx].size), annotated: vec![] })
        .collect();
    for (idx, instance) in dataset.instances.iter().enumerate() {
        pictures[instance.image_idx].annotated.push((dataset.mask(idx)?, instance.is_crowd));
    }
    Ok(pictures)
}

/// The teacher's proposals on each picture, with the picture's size; `None` for one that could not be used.
pub type Proposed = Vec<Option<(Size, Vec<Proposal>)>>;

/// Asks the teacher about every picture. `progress` hears of each: how many are done, of how many.
///
/// # Errors
/// If more pictures are unusable than allowed, an answer is not finite, or `is_interrupted` said so before one of them.
pub fn propose(
    pictures: &[Picture],
    teacher: &Teacher,
    plan: &ProposePlan,
    progress: &mut dyn FnMut(usize, usize),
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(Proposed, ProposeCounts, Vec<String>), TeacherError> {
    let (mut counts, mut proposed) = (ProposeCounts::default(), vec![]);
    let mut failures = Failures::new(pictures.len(), plan.max_failed_images);
    for (n_done, picture) in pictures.iter().enumerate() {
        if is_interrupted() {
            return Err(TeacherError::Interrupted);
        }
        match read_picture(&picture.path, picture.size, &plan.limits) {
            Ok((image, _)) => {
                let found = on_image(&image, picture, teacher, plan, &mut counts)?;
                proposed.push(Some((image.size, found)));
            }
            Err(error) => {
                failures.add(&error)?;
                proposed.push(None);
            }
        }
        progress(n_done + 1, pictures.len());
    }
    Ok((proposed, counts, failures.finish()?))
}

fn on_image(
    image: &RgbImage,
    picture: &Picture,
    teacher: &Teacher,
    plan: &ProposePlan,
    counts: &mut ProposeCounts,
) -> Result<Vec<Proposal>, TeacherError> {
    let seen = teacher.look(image, &[])?;
    let pass = Pass { seen: &seen, teacher, plan, path: &picture.path };
    let mut candidates = pass.ask(&grid_points(image.size, plan.points), counts)?;
    if plan.fine_points > 0 {
        let is_sure = |point: &PointInImage| candidates.iter().any(|candidate| candidate.is_sure_at(&seen, *point));
        let (sure, unsure): (Vec<PointInImage>, Vec<PointInImage>) =
            grid_points(image.size, plan.fine_points).into_iter().partition(is_sure);
        counts.sure_points += sure.len() as u64;
        candidates.iter_mut().for_each(|candidate| candidate.logits = vec![]);
        candidates.extend(pass.ask(&unsure, counts)?);
    }
    // The best first; of equals, in the order of the points.
    candidates.sort_by(|a, b| b.proposal.predicted_iou.total_cmp(&a.proposal.predicted_iou));
    let mut kept: Vec<Proposal> = vec![];
    for Candidate { proposal, .. } in candidates {
        let is_known = |mask: &Rle, is_crowd: bool| proposal.mask.iou(mask, is_crowd) > plan.max_iou;
        if picture.annotated.iter().any(|(mask, is_crowd)| is_known(mask, *is_crowd)) {
            counts.annotated += 1;
        } else if kept.iter().any(|kept| is_known(&kept.mask, false)) {
            counts.duplicates += 1;
        } else {
            counts.kept += 1;
            kept.push(proposal);
        }
    }
    Ok(kept)
}

/// A mask that may be kept, with its logits over the frame.
struct Candidate {
    proposal: Proposal,
    logits: Vec<f32>,
}

impl Candidate {
    fn is_sure_at(&self, seen: &Seen, point: PointInImage) -> bool {
        let [columns, rows] = seen.frame.cells_per_pixel(LOGIT_GRID);
        let cell = |at: f64, cells: f64| ((at * cells) as usize).min(LOGIT_GRID as usize - 1);
        self.logits[cell(point.y, rows) * LOGIT_GRID as usize + cell(point.x, columns)] > SURE_LOGIT
    }
}

/// Points of one picture that are asked together.
struct Pass<'a> {
    seen: &'a Seen,
    teacher: &'a Teacher,
    plan: &'a ProposePlan,
    path: &'a Path,
}

impl Pass<'_> {
    fn ask(&self, points: &[PointInImage], counts: &mut ProposeCounts) -> Result<Vec<Candidate>, TeacherError> {
        let mut candidates = vec![];
        for points in points.chunks(PROMPTS_AT_ONCE) {
            let prompts: Vec<Vec<PromptPoint>> =
                points.iter().map(|&at| vec![PromptPoint { at, label: PointLabel::Foreground }]).collect();
            let padding = if self.teacher.pads_prompts() { 0 } else { POINT_PADDING };
            let answers = self.teacher.answer(self.seen, &prompts, padding, MaskChoice::Single)?;
            for (&point, answer) in points.iter().zip(answers) {
                counts.points += 1;
                candidates.extend(self.candidate(point, answer, counts)?);
            }
        }
        Ok(candidates)
    }

    fn candidate(
        &self,
        point: PointInImage,
        mut answer: Answer,
        counts: &mut ProposeCounts,
    ) -> Result<Option<Candidate>, TeacherError> {
        let (predicted_iou, logits) = (answer.predicted_iou[0], answer.logits.swap_remove(0));
        if let Some(&found) = std::iter::once(&predicted_iou).chain(&logits).find(|value| !value.is_finite()) {
            let subject = self.path.display().to_string();
            return Err(TeacherError::NotFinite { subject, what: "logits", found });
        }
        let stability = stability(&logits, &self.seen.frame);
        let reason = if predicted_iou < self.plan.min_predicted_iou {
            &mut counts.low_predicted_iou
        } else if stability < self.plan.min_stability {
            &mut counts.unstable
        } else {
            let mask = Rle::from_mask(&mask_in_image(&logits, &self.seen.frame));
            let (area, n_pixels) = (mask.area(), self.seen.frame.size.n_pixels());
            if area < self.plan.min_area.max(1) {
                &mut counts.small
            } else if area as f64 > self.plan.max_area_share * n_pixels as f64 {
                &mut counts.large
            } else {
                let proposal = Proposal { mask, predicted_iou, stability, point };
                return Ok(Some(Candidate { proposal, logits }));
            }
        };
        *reason += 1;
        Ok(None)
    }
}

fn grid_points(size: Size, n: u32) -> Vec<PointInImage> {
    let at = |idx: u32, extent: u32| (f64::from(idx) + 0.5) * f64::from(extent) / f64::from(n);
    (0..n)
        .flat_map(|row| (0..n).map(move |column| (row, column)))
        .map(|(row, column)| PointInImage { x: at(column, size.width), y: at(row, size.height) })
        .collect()
}

/// Above it a mask is sure of a point.
pub const SURE_LOGIT: f32 = 8.5;

/// Points of padding behind a point, as SAM's PyTorch code has it.
const POINT_PADDING: u32 = 1;
