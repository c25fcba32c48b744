//! Predictors that never look at the picture. A student that is not above them has learnt nothing from it.

use sensei_data::geometry::PointInImage;
use sensei_data::mask::Mask;

use rayon::prelude::*;

use crate::score::{EvalSample, Overlap, Prediction, SampleCrop};

/// A mask that is the same for every crop, the best of its family on a train split.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantMask {
    /// Side of the crop.
    pub grid: u32,
    /// Row-major, 0 or 1.
    pub in_crop: Vec<u8>,
    /// Mean IoU in crop space on the masks it was fitted to.
    pub train_mean_iou: f64,
    /// What was fitted: the lowest share of masks that cover a pixel inside, or the disc's radius in crop pixels.
    pub fitted: f64,
}

/// Train masks that no constant mask can be fitted to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// Nothing to fit to.
    #[error("constant mask: expected at least one train mask, found none")]
    NoMasks,
    /// Another grid.
    #[error("constant mask: train mask {idx}: expected {expected} values, found {found}")]
    MaskLength {
        /// Position in the argument.
        idx: usize,
        /// `grid * grid`.
        expected: usize,
        /// Its values.
        found: usize,
    },
}

/// The prompt box, filled: pixels whose centre lies in it.
pub fn filled_box(sample: &EvalSample) -> Prediction {
    let [x, y, width, height] = sample.bbox;
    shape(sample, |p| p.x >= x && p.x < x + width && p.y >= y && p.y < y + height)
}

/// The ellipse that touches the prompt box's four sides: pixels whose centre lies in it or on it.
pub fn inscribed_ellipse(sample: &EvalSample) -> Prediction {
    let [x, y, width, height] = sample.bbox;
    shape(sample, |p| {
        let from_centre_x = (p.x - (x + width / 2.0)) / (width / 2.0);
        let from_centre_y = (p.y - (y + height / 2.0)) / (height / 2.0);
        from_centre_x * from_centre_x + from_centre_y * from_centre_y <= 1.0
    })
}

/// The truth on the crop's own grid, as a student with perfect logits of +-1 would answer: the ceiling of image space. Without a
/// crop, the truth itself.
pub fn grid_ceiling(sample: &EvalSample) -> Prediction {
    match &sample.crop {
        Some(crop) => certain_logits(&crop.truth),
        None => Prediction::ImageMask(sample.truth_in_image.to_mask()),
    }
}

/// The best constant mask: the pixels that at least a share `s` of the train masks cover, `s` chosen among all shares that
/// occur for the highest mean IoU on the train masks.
pub fn fit_constant_mask<M: AsRef<[u8]> + Sync>(truths_in_crop: &[M], grid: u32) -> Result<ConstantMask, FloorError> {
    check_masks(truths_in_crop, grid)?;
    let mut n_covering = vec![0u32; n_pixels(grid)];
    for truth in truths_in_crop {
        n_covering.iter_mut().zip(truth.as_ref()).for_each(|(n, &bit)| *n += u32::from(bit));
    }
    let n_masks = truths_in_crop.len() as f64;
    // Negated: pixels enter the mask in ascending order of their key.
    let keys: Vec<i64> = n_covering.iter().map(|&n| -i64::from(n)).collect();
    Ok(fit_by_key(truths_in_crop, grid, &keys, |key| -key as f64 / n_masks))
}

/// The best disc around the crop's centre, its radius chosen among all that differ on the grid for the highest mean IoU on
/// the train masks.
pub fn fit_centred_disc<M: AsRef<[u8]> + Sync>(truths_in_crop: &[M], grid: u32) -> Result<ConstantMask, FloorError> {
    check_masks(truths_in_crop, grid)?;
    let side = i64::from(grid);
    // Four times the squared distance of pixel centre and crop centre, a whole number.
    let key = |idx: i64| (2 * (idx % side) + 1 - side).pow(2) + (2 * (idx / side) + 1 - side).pow(2);
    let keys: Vec<i64> = (0..side * side).map(key).collect();
    Ok(fit_by_key(truths_in_crop, grid, &keys, |key| (key as f64).sqrt() / 2.0))
}

impl ConstantMask {
    /// The same answer for every sample on this grid: logits of +-1.
    pub fn prediction(&self) -> Prediction {
        certain_logits(&self.in_crop)
    }
}

/// The best of the masks `{ pixels with key <= k }`, k any key; of equally good ones the smallest.
fn fit_by_key<M: AsRef<[u8]> + Sync>(
    truths: &[M],
    grid: u32,
    keys: &[i64],
    fitted: impl Fn(i64) -> f64,
) -> ConstantMask {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&idx| (keys[idx], idx));
    // The last position of every run of equal keys closes one candidate mask.
    let is_last = |at: &usize| order.get(at + 1).is_none_or(|&next| keys[next] != keys[order[*at]]);
    let ends: Vec<usize> = (0..order.len()).filter(is_last).collect();
    let chunk_sums: Vec<Vec<f64>> =
        truths.par_chunks(TRUTHS_PER_SUM).map(|chunk| iou_sums(chunk, &order, &ends)).collect();
    let mut sums = vec![0.0; ends.len()];
    for chunk in &chunk_sums {
        sums.iter_mut().zip(chunk).for_each(|(sum, part)| *sum += part);
    }
    let best = (0..ends.len()).fold(0, |best, idx| if sums[idx] > sums[best] { idx } else { best });
    let mut in_crop = vec![0; keys.len()];
    order[..=ends[best]].iter().for_each(|&idx| in_crop[idx] = 1);
    ConstantMask {
        grid,
        in_crop,
        train_mean_iou: sums[best] / truths.len() as f64,
        fitted: fitted(keys[order[ends[best]]]),
    }
}

/// For each candidate mask, the IoU with each truth, summed.
fn iou_sums<M: AsRef<[u8]>>(truths: &[M], order: &[usize], ends: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; ends.len()];
    for truth in truths {
        let truth = truth.as_ref();
        let n_truth = truth.iter().map(|&bit| u64::from(bit)).sum();
        let (mut intersection, mut at) = (0, 0);
        for (sum, &end) in sums.iter_mut().zip(ends) {
            intersection += order[at..=end].iter().map(|&idx| u64::from(truth[idx])).sum::<u64>();
            at = end + 1;
            *sum += Overlap { intersection, truth: n_truth, prediction: at as u64 }.iou();
        }
    }
    sums
}

/// A shape within the sample's box, by the centres of the pixels in either space.
fn shape(sample: &EvalSample, contains: impl Fn(PointInImage) -> bool) -> Prediction {
    let centre = |idx: u32| f64::from(idx) + 0.5;
    let image = sample.image_size;
    let mut in_crop = vec![];
    if let Some(SampleCrop { geometry, .. }) = &sample.crop {
        for row in 0..geometry.grid {
            let inside = |column| contains(geometry.point_in_image([centre(column), centre(row)]));
            in_crop.extend((0..geometry.grid).map(|column| u8::from(inside(column))));
        }
    }
    let [x, y, width, height] = sample.bbox;
    // Casts saturate, so a box outside of the image visits no pixel.
    let touched = |low: f64, length: f64, n: u32| (low.floor() as u32).min(n)..((low + length).ceil() as u32).min(n);
    let mut in_image = Mask::empty(image);
    for row in touched(y, height, image.height) {
        for column in touched(x, width, image.width) {
            let inside = contains(PointInImage { x: centre(column), y: centre(row) });
            in_image.bits[row as usize * image.width as usize + column as usize] = u8::from(inside);
        }
    }
    Prediction::CropAndImage { in_crop, in_image }
}

fn certain_logits(mask: &[u8]) -> Prediction {
    Prediction::CropLogits(mask.iter().map(|&bit| if bit == 1 { 1.0 } else { -1.0 }).collect())
}

fn check_masks<M: AsRef<[u8]>>(truths: &[M], grid: u32) -> Result<(), FloorError> {
    if truths.is_empty() {
        return Err(FloorError::NoMasks);
    }
    let expected = n_pixels(grid);
    match truths.iter().map(|truth| truth.as_ref().len()).enumerate().find(|&(_, found)| found != expected) {
        Some((idx, found)) => Err(FloorError::MaskLength { idx, expected, found }),
        None => Ok(()),
    }
}

fn n_pixels(grid: u32) -> usize {
    grid as usize * grid as usize
}

/// Fixed, so that sums round alike on any number of threads.
const TRUTHS_PER_SUM: usize = 64;

#[cfg(test)]
mod tests {
    use sensei_data::crop::CropGeometry;
    use sensei_data::geometry::{RectInImage, Size};
    use sensei_testing::golden;

    use super::*;
    use crate::fixtures;

    const GRID: u32 = 12;

    #[test]
    fn fitted_masks_are_the_best_of_all() {
        let case = golden("eval/floors");
        let truths: Vec<Vec<u8>> = case.u8s("truths").chunks(12 * 12).map(<[u8]>::to_vec).collect();
        let check = |fitted: ConstantMask, name: &str| {
            assert_eq!(fitted.in_crop, case.u8s(name), "{name}");
            let expected = case.f64s(&format!("{name}_iou"))[0];
            assert!(
                (fitted.train_mean_iou - expected).abs() < 1e-12,
                "{name}: {} vs {expected}",
                fitted.train_mean_iou
            );
        };
        check(fit_constant_mask(&truths, GRID).unwrap(), "constant");
        check(fit_centred_disc(&truths, GRID).unwrap(), "disc");
    }

    #[test]
    fn shapes_in_the_box_are_numpys_in_both_spaces() {
        let case = golden("eval/floors");
        let size = Size { width: 40, height: 30 };
        let (boxes, rects) = (case.f64s("boxes"), case.f64s("rects"));
        for (idx, (bbox, rect)) in boxes.as_chunks::<4>().0.iter().zip(rects.as_chunks::<4>().0).enumerate() {
            let [x0, y0, x1, y1] = *rect;
            let geometry = CropGeometry { rect_in_image: RectInImage { x0, y0, x1, y1 }, grid: GRID };
            let sample = EvalSample { bbox: *bbox, ..fixtures::sample(1, &Mask::empty(size), geometry) };
            let check = |prediction: Prediction, name: &str| {
                let Prediction::CropAndImage { in_crop, in_image } = prediction else {
                    panic!("{name}: {prediction:?}")
                };
                let expected = case.u8s(&format!("{name}_in_crop"));
                assert_eq!(in_crop, expected[idx * 144..(idx + 1) * 144], "{name} {idx} in crop");
                let expected = case.u8s(&format!("{name}_in_image"));
                assert_eq!(in_image.bits, expected[idx * 1200..(idx + 1) * 1200], "{name} {idx} in image");
            };
            check(filled_box(&sample), "box");
            check(inscribed_ellipse(&sample), "ellipse");
        }
    }

    #[test]
    fn a_mask_cannot_be_fitted_to_nothing() {
        let none: [Vec<u8>; 0] = [];
        let expected = "constant mask: expected at least one train mask, found none";
        assert_eq!(fit_constant_mask(&none, GRID).unwrap_err().to_string(), expected);
        let expected = "constant mask: train mask 1: expected 144 values, found 9";
        assert_eq!(fit_centred_disc(&[vec![0; 144], vec![0; 9]], GRID).unwrap_err().to_string(), expected);
    }
}
