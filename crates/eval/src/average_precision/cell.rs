//! One image: its detections and truths by category, compared.

use std::collections::HashMap;

use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;

use super::matching::{Mark, Marks, Truth, match_greedily};
use super::overlap::{Outline, overlaps};
use super::{AREAS, ApError, COCO_LIMITS, IouKind, LVIS_LIMIT, Rules};

/// The detections and truths of one category in one image.
pub(super) struct Cell {
    pub(super) category_idx: usize,
    /// Falling.
    pub(super) scores: Vec<f64>,
    /// By detection.
    pub(super) marks: Vec<Marks>,
    /// Truths that can be found, by [`AREAS`].
    pub(super) n_truths: [u32; AREAS.len()],
}

/// What became of an image.
pub(super) struct ImageCells {
    pub(super) cells: Vec<Cell>,
    pub(super) n_beyond_limit: u64,
    pub(super) n_unverified: u64,
    pub(super) n_detections_without_area: u64,
    pub(super) n_annotations_without_area: u64,
}

/// Detections and truths by image.
pub(super) struct Images<'a> {
    dataset: &'a Dataset,
    detections: &'a Detections,
    rules: Rules,
    iou: IouKind,
    category_idx_by_id: HashMap<u64, usize>,
    /// Indices of instances, by image, in the file's order.
    instances: Vec<Vec<usize>>,
    /// Indices of detections, by image, in the file's order.
    answers: Vec<Vec<usize>>,
}

/// A detection or annotation of the image at hand.
struct Entry<T> {
    category_idx: usize,
    outline: Outline,
    of: T,
}

struct Answer {
    score: f64,
    area: f64,
}

impl<'a> Images<'a> {
    pub(super) fn new(dataset: &'a Dataset, detections: &'a Detections, rules: Rules, iou: IouKind) -> Self {
        let mut instances = vec![Vec::new(); dataset.images.len()];
        for (idx, instance) in dataset.instances.iter().enumerate() {
            instances[instance.image_idx].push(idx);
        }
        let mut answers = vec![Vec::new(); dataset.images.len()];
        for (idx, detection) in detections.items.iter().enumerate() {
            answers[detection.image_idx].push(idx);
        }
        let category_idx_by_id = dataset.categories.iter().enumerate().map(|(idx, of)| (of.id, idx)).collect();
        Self { dataset, detections, rules, iou, category_idx_by_id, instances, answers }
    }

    /// Indices of the images by rising id: the order in which equal scores of a category are ranked.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.images.len()).collect();
        order.sort_by_key(|&idx| self.dataset.images[idx].id);
        order
    }

    pub(super) fn score(&self, image_idx: usize) -> Result<ImageCells, ApError> {
        let mut scored = ImageCells {
            cells: Vec::new(),
            n_beyond_limit: 0,
            n_unverified: 0,
            n_detections_without_area: 0,
            n_annotations_without_area: 0,
        };
        let mut truths = self.truths(image_idx)?;
        let mut answers = self.answers(image_idx, &mut scored)?;
        if self.rules == Rules::Lvis {
            self.keep_what_lvis_sees(image_idx, &mut truths, &mut answers, &mut scored);
        }
        truths.sort_by_key(|truth| truth.category_idx);
        answers.sort_by(|a, b| a.category_idx.cmp(&b.category_idx).then_with(|| descending(&a.of.score, &b.of.score)));
        let (mut truths, mut answers) = (truths.as_slice(), answers.as_slice());
        let first = |truths: &[Entry<Truth>], answers: &[Entry<Answer>]| {
            let of_both = [truths.first().map(|truth| truth.category_idx), answers.first().map(|of| of.category_idx)];
            of_both.into_iter().flatten().min()
        };
        while let Some(category_idx) = first(truths, answers) {
            let n_truths = truths.partition_point(|truth| truth.category_idx == category_idx);
            let n_answers = answers.partition_point(|answer| answer.category_idx == category_idx);
            let n_kept = match self.rules {
                Rules::Coco => n_answers.min(COCO_LIMITS[2]),
                Rules::Lvis => n_answers,
            };
            scored.n_beyond_limit += (n_answers - n_kept) as u64;
            scored.cells.push(self.cell(image_idx, category_idx, &answers[..n_kept], &truths[..n_truths]));
            (truths, answers) = (&truths[n_truths..], &answers[n_answers..]);
        }
        Ok(scored)
    }

    fn cell(&self, image_idx: usize, category_idx: usize, answers: &[Entry<Answer>], truths: &[Entry<Truth>]) -> Cell {
        let of_truths: Vec<Truth> = truths.iter().map(|truth| truth.of).collect();
        let outlines: Vec<(&Outline, bool)> = truths.iter().map(|truth| (&truth.outline, truth.of.crowd)).collect();
        let ious = overlaps(self.iou, answers.iter().map(|answer| &answer.outline), &outlines);
        let category_id = self.dataset.categories[category_idx].id;
        let may_be_missing = self.dataset.images[image_idx].not_exhaustive_category_ids.contains(&category_id);
        let excused = |answer: &Entry<Answer>| -> Mark {
            AREAS.map(|(_, [low, high])| {
                let outside = answer.of.area < low || answer.of.area > high;
                outside || (self.rules == Rules::Lvis && may_be_missing)
            })
        };
        Cell {
            category_idx,
            scores: answers.iter().map(|answer| answer.of.score).collect(),
            marks: match_greedily(&ious, &of_truths, &answers.iter().map(excused).collect::<Vec<_>>()),
            n_truths: std::array::from_fn(|area| of_truths.iter().filter(|of| !of.ignored_in(area)).count() as u32),
        }
    }

    fn truths(&self, image_idx: usize) -> Result<Vec<Entry<Truth>>, ApError> {
        let truth = |&idx: &usize| {
            let instance = &self.dataset.instances[idx];
            let outline = match self.iou {
                IouKind::Bbox => Outline::of_box(instance.bbox),
                IouKind::Segm | IouKind::Boundary => Outline::of_mask(self.dataset.mask(idx)?),
            };
            let of = Truth {
                counts_as_found: instance.id != 0,
                area: instance.area,
                crowd: self.rules == Rules::Coco && instance.is_crowd,
            };
            Ok(Entry { category_idx: self.category_idx_by_id[&instance.category_id], outline, of })
        };
        self.instances[image_idx].iter().map(truth).collect()
    }

    /// The image's detections; of LVIS's, the best 300.
    fn answers(&self, image_idx: usize, scored: &mut ImageCells) -> Result<Vec<Entry<Answer>>, ApError> {
        let items = &self.detections.items;
        let answer = |&idx: &usize| {
            let item = &items[idx];
            let (outline, area) = match (self.iou, item.bbox) {
                (IouKind::Bbox, Some(bbox)) => (Outline::of_box(bbox), bbox[2] * bbox[3]),
                (IouKind::Bbox, None) => {
                    let mask = self.detections.mask(idx, self.dataset)?;
                    (Outline::of_box(mask.bbox()), mask.area() as f64)
                }
                (IouKind::Segm | IouKind::Boundary, bbox) => {
                    let outline = Outline::of_mask(self.detections.mask(idx, self.dataset)?);
                    let area = bbox.map_or(outline.area, |bbox| bbox[2] * bbox[3]);
                    (outline, area)
                }
            };
            Ok(Entry { category_idx: item.category_idx, outline, of: Answer { score: item.score, area } })
        };
        let mut answers = self.answers[image_idx].iter().map(answer).collect::<Result<Vec<_>, ApError>>()?;
        if self.rules == Rules::Lvis && answers.len() > LVIS_LIMIT {
            answers.sort_by(|a, b| descending(&a.of.score, &b.of.score));
            scored.n_beyond_limit += (answers.len() - LVIS_LIMIT) as u64;
            answers.truncate(LVIS_LIMIT);
        }
        Ok(answers)
    }

    fn keep_what_lvis_sees(
        &self,
        image_idx: usize,
        truths: &mut Vec<Entry<Truth>>,
        answers: &mut Vec<Entry<Answer>>,
        scored: &mut ImageCells,
    ) {
        let n_truths = truths.len();
        truths.retain(|truth| truth.of.area > 0.0);
        scored.n_annotations_without_area += (n_truths - truths.len()) as u64;
        let n_answers = answers.len();
        answers.retain(|answer| answer.of.area > 0.0);
        scored.n_detections_without_area += (n_answers - answers.len()) as u64;
        let absent = self.dataset.images[image_idx].neg_category_ids.iter().map(|id| self.category_idx_by_id[id]);
        let mut verified: Vec<usize> = truths.iter().map(|truth| truth.category_idx).chain(absent).collect();
        verified.sort_unstable();
        let n_answers = answers.len();
        answers.retain(|answer| verified.binary_search(&answer.category_idx).is_ok());
        scored.n_unverified += (n_answers - answers.len()) as u64;
    }
}

/// For stable sorts, so that equal scores keep the file's order. Scores are finite.
pub(super) fn descending(a: &f64, b: &f64) -> std::cmp::Ordering {
    b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal)
}
