//! A teacher's answer as a record: the part of its logits that is kept, in steps of 8 bits.

use sensei_answers::asked::Zoom;
use sensei_answers::kept::{Context, KeptMasks};
use sensei_answers::record::{MaskAnswer, PromptAnswer, PromptPoint};
use sensei_data::geometry::{PointInImage, RectInImage, Size};
use sensei_data::mask::Mask;
use sensei_sam::mask_decoder::MaskChoice;

use crate::frame::{Frame, Part};
use crate::teacher::{Answer, LOGIT_GRID};

/// What is kept of an answer's logits.
pub(crate) struct KeptLogits {
    pub context: Context,
    pub grid: u32,
    pub logit_step: f32,
    pub masks: KeptMasks,
}

impl KeptLogits {
    /// Which masks the decoder is asked for.
    pub(crate) fn choice(&self) -> MaskChoice {
        match self.masks {
            KeptMasks::Single => MaskChoice::Single,
            KeptMasks::BestOfThree | KeptMasks::Three => MaskChoice::Multiple,
            KeptMasks::Four => MaskChoice::All,
        }
    }

    /// The record of an answer to a prompt at an object with this annotated box, `[x, y, width, height]`, and how many logits were cut to
    /// what 8 bits hold.
    pub(crate) fn answer(
        &self,
        points: Vec<PromptPoint>,
        answer: &Answer,
        frame: &Frame,
        bbox: [f64; 4],
    ) -> (PromptAnswer, u64) {
        let (rect, grid) = self.area(frame, bbox);
        let idxs = match self.masks {
            KeptMasks::BestOfThree => {
                let best = |best: usize, idx: usize| {
                    if answer.predicted_iou[idx] > answer.predicted_iou[best] { idx } else { best }
                };
                let best = (1..answer.predicted_iou.len()).fold(0, best);
                best..best + 1
            }
            KeptMasks::Single | KeptMasks::Three | KeptMasks::Four => 0..answer.logits.len(),
        };
        let mut n_cut = 0;
        let masks = idxs.map(|idx| {
            let (logits, cut) = match self.context {
                Context::WholeFrame => self.in_steps(answer.logits[idx].iter().map(|logit| Some(*logit))),
                _ => self.in_steps(sampled(&answer.logits[idx], frame, &rect, grid).into_iter()),
            };
            n_cut += cut;
            let (predicted_iou, stability) = (answer.predicted_iou[idx], Some(stability(&answer.logits[idx], frame)));
            MaskAnswer { logits, predicted_iou, stability }
        });
        let masks = masks.collect();
        (PromptAnswer { points, rect_in_image: rect, masks }, n_cut)
    }

    /// The part of an image on which a small object is shown by itself; none if it is not small, or if whole frames are kept. All that is kept
    /// of the image lies in it, and so do the prompts' points. `side` is the frame's.
    pub(crate) fn part<'p>(
        &self,
        zoom: Zoom,
        bbox: [f64; 4],
        points: impl Iterator<Item = &'p PromptPoint>,
        image: Size,
        side: u32,
    ) -> Option<Part> {
        let [x, y, width, height] = bbox;
        let longer = width.max(height);
        let is_small = longer * f64::from(side) < f64::from(zoom.below) * f64::from(image.width.max(image.height));
        let side = self.side(bbox)?.max(f64::from(zoom.surroundings) * longer);
        let middle = PointInImage { x: x + width / 2.0, y: y + height / 2.0 };
        let reach = |point: &PromptPoint| 2.0 * (point.at.x - middle.x).abs().max((point.at.y - middle.y).abs());
        let side = points.map(reach).fold(side, f64::max);
        is_small.then(|| Part::around(middle, side, image))
    }

    /// Side of the square around a box that is kept, in the image's pixels; none if the whole frame is.
    fn side(&self, [_, _, width, height]: [f64; 4]) -> Option<f64> {
        match self.context {
            Context::AroundBox { region_scale, context_scale, min_side } => {
                Some((context_scale * region_scale * width.max(height)).max(min_side))
            }
            Context::WholeFrame | Context::ClippedRegion { .. } | Context::NotStated => None,
        }
    }

    /// The part of the image that is kept.
    fn area(&self, frame: &Frame, bbox: [f64; 4]) -> (RectInImage, u32) {
        let [x, y, width, height] = bbox;
        let rect = match self.side(bbox) {
            Some(side) => {
                let (x0, y0) = (x + width / 2.0 - side / 2.0, y + height / 2.0 - side / 2.0);
                RectInImage { x0, y0, x1: x0 + side, y1: y0 + side }
            }
            None => {
                let [columns, rows] = frame.cells_per_pixel(LOGIT_GRID);
                let side = f64::from(LOGIT_GRID);
                RectInImage { x0: 0.0, y0: 0.0, x1: side / columns, y1: side / rows }
            }
        };
        (rect, self.grid)
    }

    /// Logits in steps; those beyond the image are marked. How many did not fit.
    fn in_steps(&self, logits: impl Iterator<Item = Option<f32>>) -> (Vec<i8>, u64) {
        let mut n_cut = 0;
        let step = |logit: Option<f32>| {
            let Some(logit) = logit else { return OUTSIDE };
            let step = (logit / self.logit_step).round_ties_even();
            n_cut += u64::from(step.abs() > 127.0);
            step.clamp(-127.0, 127.0) as i8
        };
        (logits.map(step).collect(), n_cut)
    }
}

/// Logits at the centres of an area's cells; none beyond what the frame shows.
fn sampled(logits: &[f32], frame: &Frame, rect: &RectInImage, grid: u32) -> Vec<Option<f32>> {
    let [columns, rows] = frame.cells_per_pixel(LOGIT_GRID);
    let [left, top] = frame.origin.map(f64::from);
    let xs = taps(rect.x0 - left, rect.x1 - left, grid, columns, frame.size.width);
    let ys = taps(rect.y0 - top, rect.y1 - top, grid, rows, frame.size.height);
    let side = LOGIT_GRID as usize;
    let mut found = Vec::with_capacity((grid * grid) as usize);
    for y in &ys {
        for x in &xs {
            found.push(y.as_ref().zip(x.as_ref()).map(|(y, x)| {
                let column = |at: usize| {
                    logits[y.low * side + at] * (1.0 - y.fraction) + logits[(y.low + 1) * side + at] * y.fraction
                };
                column(x.low) * (1.0 - x.fraction) + column(x.low + 1) * x.fraction
            }));
        }
    }
    found
}

/// The mask of logits over the frame, in what it shows: a pixel is set if they are above 0 at its centre.
pub(crate) fn mask_in_image(logits: &[f32], frame: &Frame) -> Mask {
    let (size, side) = (frame.size, LOGIT_GRID as usize);
    let [columns, rows] = frame.cells_per_pixel(LOGIT_GRID);
    let all = |extent: u32, cells: f64| taps(0.0, f64::from(extent), extent, cells, extent).into_iter().flatten();
    let (xs, ys): (Vec<Tap>, Vec<Tap>) = (all(size.width, columns).collect(), all(size.height, rows).collect());
    let mut bits = Vec::with_capacity(size.n_pixels());
    for y in &ys {
        let rows = logits[y.low * side..].iter().zip(&logits[(y.low + 1) * side..]).take(side);
        let row: Vec<f32> = rows.map(|(above, below)| above * (1.0 - y.fraction) + below * y.fraction).collect();
        let logit = |x: &Tap| row[x.low] * (1.0 - x.fraction) + row[x.low + 1] * x.fraction;
        bits.extend(xs.iter().map(|x| u8::from(logit(x) > 0.0)));
    }
    Mask { size, bits }
}

/// Between which two cells a point lies.
struct Tap {
    low: usize,
    fraction: f32,
}

/// Along one axis: the logits around the centre of each cell of the area; none beyond what is shown.
fn taps(start: f64, end: f64, grid: u32, cells_per_pixel: f64, extent: u32) -> Vec<Option<Tap>> {
    let cell = (end - start) / f64::from(grid);
    let tap = |idx: u32| {
        let at = start + (f64::from(idx) + 0.5) * cell;
        (0.0..f64::from(extent)).contains(&at).then(|| {
            let at = (at * cells_per_pixel - 0.5).clamp(0.0, f64::from(LOGIT_GRID - 1));
            let low = (at as usize).min(LOGIT_GRID as usize - 2);
            Tap { low, fraction: (at - low as f64) as f32 }
        })
    };
    (0..grid).map(tap).collect()
}

/// Area of the logits above 1 as a share of that above -1, over the cells that show the image; 0 where none is above -1.
///
/// # Source
/// facebookresearch/segment-anything, `calculate_stability_score` with threshold 0 and offset 1.
pub(crate) fn stability(logits: &[f32], frame: &Frame) -> f32 {
    let Size { width, height } = frame.used_cells(LOGIT_GRID);
    let rows = logits.chunks_exact(LOGIT_GRID as usize).take(height as usize);
    let (mut above, mut around) = (0u32, 0u32);
    for logit in rows.flat_map(|row| &row[..width as usize]) {
        above += u32::from(*logit > 1.0);
        around += u32::from(*logit > -1.0);
    }
    if around == 0 { 0.0 } else { above as f32 / around as f32 }
}

/// A sample beyond the image.
const OUTSIDE: i8 = -128;
