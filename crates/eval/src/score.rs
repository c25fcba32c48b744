//! The overlap of one prediction with its truth, in crop space and in full-image space.

use sensei_data::crop::{CropGeometry, crop_mask, paste_logits};
use sensei_data::dataset::{Dataset, Frequency};
use sensei_data::geometry::Size;
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;
use serde::{Deserialize, Serialize};

/// One instance as an evaluation sees it: the truth in both spaces and the map between them.
#[derive(Debug, Clone)]
pub struct EvalSample {
    /// COCO id of the annotation; orders all results.
    pub annotation_id: u64,
    /// COCO id of the image; instances of one image form one cluster of the bootstrap.
    pub image_id: u64,
    /// COCO id of the category.
    pub category_id: u64,
    /// The annotation's own `area` in square image pixels; decides the [`Stratum`].
    pub area: f64,
    /// Box of the prompt as x, y, width, height in image pixels; the annotated one where the prompt is a point.
    pub bbox: [f64; 4],
    /// Size of the whole image.
    pub image_size: Size,
    /// Other annotated objects close by: [`Dataset::competitors`](sensei_data::dataset::Dataset::competitors).
    pub competitors: u32,
    /// How common its category is, in LVIS.
    pub rarity: Option<Rarity>,
    /// The annotated mask of the whole image.
    pub truth_in_image: Rle,
    /// What a student is shown; without it, only masks of the whole image can be scored.
    pub crop: Option<SampleCrop>,
}

/// The part of the image that a student is shown.
#[derive(Debug, Clone)]
pub struct SampleCrop {
    /// Where it lies in the image.
    pub geometry: CropGeometry,
    /// The annotated mask on its grid, row-major, 0 or 1, `grid * grid` values.
    pub truth: Vec<u8>,
}

/// What a predictor answers for one sample.
#[derive(Debug, Clone)]
pub enum Prediction {
    /// Logits on the crop's grid, row-major, `grid * grid` values: foreground where greater than 0. In image space: resampled
    /// bilinearly to the crop's pixels, then thresholded; background outside of the crop.
    CropLogits(Vec<f32>),
    /// A mask of the whole image, brought to the crop's grid as the truth is (nearest).
    ImageMask(Mask),
    /// A shape that is known exactly in both spaces (the floors).
    CropAndImage {
        /// Row-major, 0 or 1, `grid * grid` values.
        in_crop: Vec<u8>,
        /// The whole image.
        in_image: Mask,
    },
}

/// Size class by the annotation's area: small below 32², medium from 32² to 96², large above 96² square pixels.
///
/// Both borders belong to medium; COCO's own area ranges count an area on a border in both neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stratum {
    /// `area < 1024`.
    S,
    /// `1024 <= area <= 9216`.
    M,
    /// `area > 9216`.
    L,
}

/// LVIS's class of a category by its number of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rarity {
    /// Rare: 1 to 10.
    R,
    /// Common: 11 to 100.
    C,
    /// Frequent: above 100.
    F,
}

/// Pixel counts of one prediction against its truth in one space. Stored as `[intersection, truth, prediction]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[u64; 3]", try_from = "[u64; 3]")]
pub struct Overlap {
    /// Pixels in both.
    pub intersection: u64,
    /// Pixels of the truth.
    pub truth: u64,
    /// Pixels of the prediction.
    pub prediction: u64,
}

/// The stored result of one predictor on one instance: counts, from which every metric follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceScore {
    /// COCO id of the annotation.
    pub annotation_id: u64,
    /// COCO id of the image.
    pub image_id: u64,
    /// COCO id of the category.
    pub category_id: u64,
    /// Size class.
    pub stratum: Stratum,
    /// Other annotated objects close by.
    pub competitors: u32,
    /// How common its category is, in LVIS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rarity: Option<Rarity>,
    /// On the crop's grid, if the protocol has a crop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_crop: Option<Overlap>,
    /// At the image's own resolution.
    pub in_image: Overlap,
}

/// A prediction that cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// Truth or prediction is not as large as the crop's grid.
    #[error("annotation {annotation_id}: {what}: expected {expected} values for the crop's grid, found {found}")]
    CropLength {
        /// The instance.
        annotation_id: u64,
        /// Truth, logits or mask.
        what: &'static str,
        /// `grid * grid`.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// An answer on the crop's grid to a sample that has no crop.
    #[error("annotation {annotation_id}: expected a mask of the whole image, found one of a crop")]
    NoCrop {
        /// The instance.
        annotation_id: u64,
    },
    /// Truth or prediction is not as large as the image.
    #[error("annotation {annotation_id}: {what}: expected the image's {expected} pixels, found {found}")]
    ImageSize {
        /// The instance.
        annotation_id: u64,
        /// Truth or prediction.
        what: &'static str,
        /// The image.
        expected: Size,
        /// The mask.
        found: Size,
    },
    /// A logit that is NaN or infinite would pass as background or foreground unnoticed.
    #[error("annotation {annotation_id}: logit {idx}: expected a finite number, found {found}")]
    NotFinite {
        /// The instance.
        annotation_id: u64,
        /// Row-major index in the crop.
        idx: usize,
        /// The value.
        found: f32,
    },
}

impl EvalSample {
    /// An instance of a data set, prompted by a box or, if the prompt is a point, with the annotated one.
    ///
    /// # Panics
    /// If `instance_idx` is not an index into the data set's instances.
    pub fn new(
        dataset: &Dataset,
        instance_idx: usize,
        bbox: [f64; 4],
        competitors: u32,
        truth_in_image: Rle,
        crop: Option<SampleCrop>,
    ) -> Self {
        let instance = &dataset.instances[instance_idx];
        let image = &dataset.images[instance.image_idx];
        Self {
            annotation_id: instance.id,
            image_id: image.id,
            category_id: instance.category_id,
            area: instance.area,
            bbox,
            image_size: image.size,
            competitors,
            rarity: dataset.frequency(instance_idx).map(Rarity::from),
            truth_in_image,
            crop,
        }
    }
}

/// Counts the pixels of `prediction` and truth in both spaces.
pub fn score(sample: &EvalSample, prediction: &Prediction) -> Result<InstanceScore, ScoreError> {
    score_against(sample, &sample.truth_in_image.to_mask(), prediction)
}

impl Stratum {
    /// The class of an annotation's area in square image pixels.
    pub fn of(area: f64) -> Self {
        if area < SMALL_BELOW {
            Self::S
        } else if area <= LARGE_ABOVE {
            Self::M
        } else {
            Self::L
        }
    }
}

impl From<Frequency> for Rarity {
    fn from(frequency: Frequency) -> Self {
        match frequency {
            Frequency::Rare => Self::R,
            Frequency::Common => Self::C,
            Frequency::Frequent => Self::F,
        }
    }
}

impl Overlap {
    /// Whether the IoU is at least `parts / of`, in whole numbers. Two empty masks have an IoU of 1.
    pub fn reaches(&self, parts: u64, of: u64) -> bool {
        let (intersection, union) = match self.union() {
            0 => (1, 1),
            union => (self.intersection, union),
        };
        of * intersection >= parts * union
    }

    /// Counts two masks of equal length whose values are 0 or 1.
    ///
    /// ```
    /// use sensei_eval::score::Overlap;
    ///
    /// let overlap = Overlap::of(&[1, 1, 0, 0], &[1, 0, 0, 1]);
    /// assert_eq!(overlap.iou(), 1.0 / 3.0);
    /// assert_eq!(Overlap::of(&[0, 0], &[0, 0]).iou(), 1.0);
    /// ```
    ///
    /// # Panics
    /// If the lengths differ: a bug in the caller.
    pub fn of(truth: &[u8], prediction: &[u8]) -> Self {
        assert_eq!(truth.len(), prediction.len(), "Overlap::of: truth and prediction pixels");
        // Bytes summed as bytes: eight times the width of a sum of u64, and 255 of them cannot overflow.
        let count = |mask: &[u8]| mask.chunks(255).map(|bits| u64::from(bits.iter().sum::<u8>())).sum();
        let both = |(truth, prediction): (&[u8], &[u8])| {
            u64::from(truth.iter().zip(prediction).map(|(&truth, &prediction)| truth & prediction).sum::<u8>())
        };
        let intersection = truth.chunks(255).zip(prediction.chunks(255)).map(both).sum();
        Self { intersection, truth: count(truth), prediction: count(prediction) }
    }

    /// Pixels in at least one.
    pub fn union(&self) -> u64 {
        self.truth + self.prediction - self.intersection
    }

    /// Intersection over union in `[0, 1]`; 1 if both masks are empty.
    pub fn iou(&self) -> f64 {
        match self.union() {
            0 => 1.0,
            union => self.intersection as f64 / union as f64,
        }
    }
}

/// Counts that no two masks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "[intersection, truth, prediction]: expected an intersection within both of at most {MAX_PIXELS} pixels, found {found:?}"
)]
pub struct OverlapError {
    /// Intersection, truth and prediction.
    pub found: [u64; 3],
}

impl From<Overlap> for [u64; 3] {
    fn from(overlap: Overlap) -> Self {
        [overlap.intersection, overlap.truth, overlap.prediction]
    }
}

impl TryFrom<[u64; 3]> for Overlap {
    type Error = OverlapError;

    fn try_from([intersection, truth, prediction]: [u64; 3]) -> Result<Self, OverlapError> {
        if intersection > truth.min(prediction) || truth.max(prediction) > MAX_PIXELS {
            return Err(OverlapError { found: [intersection, truth, prediction] });
        }
        Ok(Self { intersection, truth, prediction })
    }
}

/// [`score`] with the truth already decoded, for several predictors on one sample.
pub(crate) fn score_against(
    sample: &EvalSample,
    truth_in_image: &Mask,
    prediction: &Prediction,
) -> Result<InstanceScore, ScoreError> {
    let id = sample.annotation_id;
    let crop = sample.crop.as_ref();
    if let Some(crop) = crop {
        check_length(id, crop, "truth", crop.truth.len())?;
    }
    check_size(sample, "truth", truth_in_image.size)?;
    let in_image = |mask: &Mask| Overlap::of(&truth_in_image.bits, &mask.bits);
    let (in_crop, in_image) = match prediction {
        Prediction::CropLogits(logits) => {
            let crop = crop.ok_or(ScoreError::NoCrop { annotation_id: id })?;
            check_length(id, crop, "logits", logits.len())?;
            if let Some(idx) = logits.iter().position(|logit| !logit.is_finite()) {
                return Err(ScoreError::NotFinite { annotation_id: id, idx, found: logits[idx] });
            }
            let in_crop: Vec<u8> = logits.iter().map(|&logit| u8::from(logit > 0.0)).collect();
            let pasted = paste_logits(logits, &crop.geometry, sample.image_size);
            (Some(Overlap::of(&crop.truth, &in_crop)), in_image(&pasted))
        }
        Prediction::ImageMask(mask) => {
            check_size(sample, "prediction", mask.size)?;
            let of_crop = |crop: &SampleCrop| Overlap::of(&crop.truth, &crop_mask(mask, &crop.geometry));
            (crop.map(of_crop), in_image(mask))
        }
        Prediction::CropAndImage { in_crop, in_image: mask } => {
            check_size(sample, "prediction", mask.size)?;
            let of_crop = |crop: &SampleCrop| {
                check_length(id, crop, "prediction", in_crop.len())?;
                Ok(Overlap::of(&crop.truth, in_crop))
            };
            (crop.map(of_crop).transpose()?, in_image(mask))
        }
    };
    Ok(InstanceScore {
        annotation_id: sample.annotation_id,
        image_id: sample.image_id,
        category_id: sample.category_id,
        stratum: Stratum::of(sample.area),
        competitors: sample.competitors,
        rarity: sample.rarity,
        in_crop,
        in_image,
    })
}

fn check_length(annotation_id: u64, crop: &SampleCrop, what: &'static str, found: usize) -> Result<(), ScoreError> {
    let expected = crop.geometry.grid as usize * crop.geometry.grid as usize;
    if found != expected {
        return Err(ScoreError::CropLength { annotation_id, what, expected, found });
    }
    Ok(())
}

fn check_size(sample: &EvalSample, what: &'static str, found: Size) -> Result<(), ScoreError> {
    let expected = sample.image_size;
    if found != expected {
        return Err(ScoreError::ImageSize { annotation_id: sample.annotation_id, what, expected, found });
    }
    Ok(())
}

/// In square pixels.
const SMALL_BELOW: f64 = 32.0 * 32.0;
/// In square pixels.
const LARGE_ABOVE: f64 = 96.0 * 96.0;
/// Keeps sums of stored counts far from overflow; far above any image that is decoded.
const MAX_PIXELS: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use sensei_data::geometry::RectInImage;
    use sensei_testing::golden;

    use super::*;
    use crate::fixtures;

    #[test]
    fn counts_of_hand_made_masks_are_numpys() {
        let case = golden("eval/scores");
        let (n_cases, n_pixels, n_cells) = (case.shape("truth")[0], 20 * 28, 8 * 8);
        let (truths, predictions, logits) = (case.u8s("truth"), case.u8s("prediction"), case.f32s("logits"));
        let (rects, truths_in_crop) = (case.f64s("rects"), case.u8s("truth_in_crop"));
        let counts = |name: &str, idx: usize| -> [u64; 3] {
            let values = case.i64s(name);
            std::array::from_fn(|part| values[3 * idx + part] as u64)
        };
        for idx in 0..n_cases {
            let size = Size { width: 28, height: 20 };
            let mask = |masks: &[u8]| Mask { size, bits: masks[idx * n_pixels..(idx + 1) * n_pixels].to_vec() };
            let [x0, y0, x1, y1] = std::array::from_fn(|part| rects[4 * idx + part]);
            let geometry = CropGeometry { rect_in_image: RectInImage { x0, y0, x1, y1 }, grid: 8 };
            let sample = fixtures::sample(idx as u64, &mask(&truths), geometry);
            let cells = idx * n_cells..(idx + 1) * n_cells;
            assert_eq!(sample.crop.as_ref().unwrap().truth, truths_in_crop[cells.clone()], "case {idx}: truth in crop");

            let of_mask = score(&sample, &Prediction::ImageMask(mask(&predictions))).unwrap();
            assert_eq!(<[u64; 3]>::from(of_mask.in_crop.unwrap()), counts("crop_counts", idx), "case {idx}: crop");
            assert_eq!(<[u64; 3]>::from(of_mask.in_image), counts("image_counts", idx), "case {idx}: image");
            assert_eq!(of_mask.in_crop.unwrap().iou(), case.f64s("crop_iou")[idx], "case {idx}: crop IoU");
            assert_eq!(of_mask.in_image.iou(), case.f64s("image_iou")[idx], "case {idx}: image IoU");

            let of_logits = score(&sample, &Prediction::CropLogits(logits[cells].to_vec())).unwrap();
            assert_eq!(
                <[u64; 3]>::from(of_logits.in_crop.unwrap()),
                counts("logit_crop_counts", idx),
                "case {idx}: crop"
            );
            assert_eq!(<[u64; 3]>::from(of_logits.in_image), counts("logit_image_counts", idx), "case {idx}: image");
        }
    }

    #[test]
    fn both_borders_belong_to_medium() {
        let cases = [(0.0, "S"), (1023.9, "S"), (1024.0, "M"), (9216.0, "M"), (9216.1, "L")];
        for (area, expected) in cases {
            assert_eq!(format!("{:?}", Stratum::of(area)), expected, "area {area}");
        }
    }

    #[test]
    fn what_cannot_be_scored_is_an_error_that_names_the_annotation() {
        let size = Size { width: 4, height: 4 };
        let geometry = CropGeometry { rect_in_image: size.rect(), grid: 2 };
        let sample = fixtures::sample(4711, &Mask::empty(size), geometry);
        let check = |sample: &EvalSample, prediction: Prediction, expected: &str| {
            assert_eq!(score(sample, &prediction).unwrap_err().to_string(), expected);
        };
        let other = Mask::empty(Size { width: 4, height: 5 });
        let expected = "annotation 4711: logits: expected 4 values for the crop's grid, found 3";
        check(&sample, Prediction::CropLogits(vec![0.0; 3]), expected);
        let expected = "annotation 4711: logit 1: expected a finite number, found NaN";
        check(&sample, Prediction::CropLogits(vec![0.0, f32::NAN, 0.0, 0.0]), expected);
        let expected = "annotation 4711: logit 0: expected a finite number, found inf";
        check(&sample, Prediction::CropLogits(vec![f32::INFINITY; 4]), expected);
        let expected = "annotation 4711: prediction: expected the image's 4 x 4 pixels, found 4 x 5";
        check(&sample, Prediction::ImageMask(other.clone()), expected);
        check(&sample, Prediction::CropAndImage { in_crop: vec![0; 4], in_image: other.clone() }, expected);
        let expected = "annotation 4711: prediction: expected 4 values for the crop's grid, found 0";
        check(&sample, Prediction::CropAndImage { in_crop: vec![], in_image: Mask::empty(size) }, expected);
        let wrong_truth = EvalSample { truth_in_image: Rle::from_mask(&other), ..sample.clone() };
        let expected = "annotation 4711: truth: expected the image's 4 x 4 pixels, found 4 x 5";
        check(&wrong_truth, Prediction::CropLogits(vec![0.0; 4]), expected);
        let wrong_crop = SampleCrop { geometry, truth: vec![0; 9] };
        let wrong_truth = EvalSample { crop: Some(wrong_crop), ..sample.clone() };
        let expected = "annotation 4711: truth: expected 4 values for the crop's grid, found 9";
        check(&wrong_truth, Prediction::CropLogits(vec![0.0; 4]), expected);
        let whole = EvalSample { crop: None, ..sample };
        let expected = "annotation 4711: expected a mask of the whole image, found one of a crop";
        check(&whole, Prediction::CropLogits(vec![0.0; 4]), expected);
        let scored = score(&whole, &Prediction::ImageMask(Mask::empty(size))).unwrap();
        assert_eq!((scored.in_crop, scored.in_image.iou()), (None, 1.0));
    }

    #[test]
    fn stored_counts_that_no_masks_have_are_refused() {
        assert!(serde_json::from_str::<Overlap>("[2,3,4]").is_ok());
        for impossible in ["[3,2,4]", "[3,4,2]", "[1,2]", "[0,0,18446744073709551615]", "[-1,2,2]"] {
            assert!(serde_json::from_str::<Overlap>(impossible).is_err(), "{impossible}");
        }
    }
}
