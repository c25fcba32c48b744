//! From instances to samples: crops first, then each image once, then what is cut from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use sensei_answers::store::Store;
use sensei_data::augment::{Augmentation, Draw};
use sensei_data::crop::{CropGeometry, crop_part, crop_rle, pixels_needed};
use sensei_data::dataset::Instance;
use sensei_data::geometry::{PixelRect, Size};
use sensei_data::image_part::ImagePart;
use sensei_data::prompt_source::Prompt;
use sensei_data::rle::Rle;
use sensei_data::turn::Turn;
use sensei_files::digest::hex;

use super::{Sample, SampleSource, TeacherAnswer, TurnCounts};
use crate::error::SampleError;
use crate::images::{DecodedImage, ImageRequest};
use crate::packed::pack::PackedSamples;

impl SampleSource {
    /// The samples of some instances, in their order; `draw_of` says what is drawn for an instance, if anything.
    pub(super) fn load(
        &self,
        instances: &[usize],
        draw_of: impl Fn(usize) -> Option<Draw> + Sync,
    ) -> Result<Vec<Sample>, SampleError> {
        if let Some(pack) = &self.packed {
            return instances.par_iter().map(|&idx| self.unpacked(pack, idx, draw_of(idx))).collect();
        }
        // Crops come first: they say how many rows of an image its samples need together.
        let framed: Vec<_> = instances.par_iter().map(|&idx| self.framed(idx, draw_of(idx))).collect();
        let mut by_image: BTreeMap<usize, Vec<(usize, Framed)>> = BTreeMap::new();
        for (at, framed) in framed.into_iter().enumerate() {
            let framed = framed?;
            by_image.entry(self.dataset.instances[framed.instance_idx].image_idx).or_default().push((at, framed));
        }
        let cut_all = |of_image: Vec<(usize, Framed)>| -> Vec<(usize, Result<Sample, SampleError>)> {
            match self.image_of(of_image.iter().map(|(_, framed)| framed)) {
                Ok(image) => {
                    let cut = |(at, framed)| (at, self.cut(framed, &image.rows.as_part(), image.digest));
                    of_image.into_par_iter().map(cut).collect()
                }
                Err(error) => of_image.first().map(|(at, _)| (*at, Err(error))).into_iter().collect(),
            }
        };
        let groups: Vec<_> = by_image.into_values().collect();
        let mut samples: Vec<_> = groups.into_par_iter().flat_map_iter(cut_all).collect();
        samples.sort_by_key(|(at, _)| *at);
        samples.into_iter().map(|(_, sample)| sample).collect()
    }

    pub(super) fn load_one(&self, instance_idx: usize, draw: Option<Draw>) -> Result<Sample, SampleError> {
        if let Some(pack) = &self.packed {
            return self.unpacked(pack, instance_idx, draw);
        }
        let framed = self.framed(instance_idx, draw)?;
        let image = self.image_of(std::iter::once(&framed))?;
        self.cut(framed, &image.rows.as_part(), image.digest)
    }

    fn framed(&self, instance_idx: usize, draw: Option<Draw>) -> Result<Framed, SampleError> {
        let truth_in_image = self.mask(instance_idx)?;
        let (geometry, bbox) = self.prompted(instance_idx, &truth_in_image)?;
        Ok(self.drawn(Framed { instance_idx, truth_in_image, geometry, bbox, draw, turn: None }))
    }

    /// What is shown in place of a crop, if something was drawn: the object turned in its image, then the crop around it moved.
    fn drawn(&self, framed: Framed) -> Framed {
        let Some(draw) = framed.draw else { return framed };
        let framed = draw.turn(framed.bbox).and_then(|turn| self.turned(&framed, turn)).unwrap_or(framed);
        Framed { geometry: self.shown(framed.instance_idx, draw.jittered(&framed.geometry)), ..framed }
    }

    /// An object that was turned; none of one that would lose too much beyond the image's border, which is shown as it is.
    fn turned(&self, framed: &Framed, turn: Turn) -> Option<Framed> {
        let truth_in_image = turn.mask(&framed.truth_in_image);
        if (truth_in_image.area() as f64) < LEAST_KEPT * framed.truth_in_image.area() as f64 {
            return None;
        }
        let bbox = truth_in_image.bbox();
        let geometry = self.crop.crop(Prompt::Box(bbox), truth_in_image.size()).ok()?;
        Some(Framed { truth_in_image, geometry, bbox, turn: Some(turn), ..*framed })
    }

    /// How many samples of a training are turned, and how many are shown as they are because too much of them would leave their image.
    /// `epochs` has the augmentation of each epoch.
    ///
    /// # Errors
    /// If a mask cannot be read; `Interrupted` if `is_interrupted` said so before one of them.
    pub fn n_turned(
        &self,
        epochs: &[&Augmentation],
        seed: u64,
        is_interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<TurnCounts, SampleError> {
        let count = |&idx: &usize| {
            if is_interrupted() {
                return Err(SampleError::Interrupted);
            }
            let mut counts = TurnCounts::default();
            let framed = self.framed(idx, None)?;
            for (epoch, augmentation) in (0..).zip(epochs) {
                if let Some(turn) = self.draw(idx, augmentation, seed, epoch).turn(framed.bbox) {
                    match self.turned(&framed, turn) {
                        Some(_) => counts.turned += 1,
                        None => counts.as_they_are += 1,
                    }
                }
            }
            Ok(counts)
        };
        let add = |a: TurnCounts, b: TurnCounts| TurnCounts {
            turned: a.turned + b.turned,
            as_they_are: a.as_they_are + b.as_they_are,
        };
        if !epochs.iter().any(|augmentation| augmentation.turns()) {
            return Ok(TurnCounts::default());
        }
        let counts: Vec<TurnCounts> = self.instances.par_iter().map(count).collect::<Result<_, SampleError>>()?;
        Ok(counts.into_iter().fold(TurnCounts::default(), add))
    }

    /// A sample of what is packed.
    fn unpacked(&self, pack: &PackedSamples, instance_idx: usize, draw: Option<Draw>) -> Result<Sample, SampleError> {
        let annotation_id = self.annotation_id(instance_idx);
        let record = pack.record(annotation_id)?;
        let (image_digest, pixels) = (pack.image_digest(&record), record.pixels);
        let size = self.dataset.images[self.dataset.instances[instance_idx].image_idx].size;
        if pixels.image != size {
            let (expected, found) = (size.to_string(), pixels.image.to_string());
            return Err(pack.damaged(annotation_id, "size of the image".into(), expected, found).into());
        }
        let crop = CropGeometry { rect_in_image: record.crop, grid: self.crop.grid() };
        let (truth_in_image, bbox) = (record.truth_in_image, record.bbox);
        let framed = self.drawn(Framed { instance_idx, truth_in_image, geometry: crop, bbox, draw, turn: None });
        let needed = framed.pixels_needed(size);
        if !pixels.place.holds(needed) {
            return Err(pack.not_covered(annotation_id, needed, pixels.place).into());
        }
        self.cut(framed, &pixels, image_digest)
    }

    /// The image of some samples of one image, as far down as they need it. An error names the first.
    ///
    /// # Panics
    /// If there is no sample.
    fn image_of<'f>(&self, framed: impl Iterator<Item = &'f Framed> + Clone) -> Result<Arc<DecodedImage>, SampleError> {
        let first = framed.clone().next().expect("an image is asked for by its samples");
        let instance = &self.dataset.instances[first.instance_idx];
        let annotated_size = self.dataset.images[instance.image_idx].size;
        let n_rows = framed.map(|framed| framed.pixels_needed(annotated_size).y1).max().unwrap_or(0);
        let path = self.dataset.image_path(instance.image_idx);
        let (image_idx, annotation_id) = (instance.image_idx, instance.id);
        self.images.get(&ImageRequest { image_idx, path: &path, annotated_size, n_rows, annotation_id })
    }

    fn cut(&self, framed: Framed, pixels: &ImagePart, image_digest: [u8; 32]) -> Result<Sample, SampleError> {
        let Framed { instance_idx, truth_in_image, geometry, bbox, draw, turn } = framed;
        let instance = &self.dataset.instances[instance_idx];
        let is_answered = self.teacher.is_some() && self.is_answered(instance_idx);
        assert!(turn.is_none() || !is_answered, "annotation {}: a teacher's answer does not turn", instance.id);
        let mut teacher = match &self.teacher {
            Some(store) if self.is_answered(instance_idx) => {
                Some(self.answer(store.as_ref(), instance, image_digest, &geometry)?)
            }
            _ => None,
        };
        let mut truth = crop_rle(&truth_in_image, &geometry);
        let mut pixels = match turn {
            Some(turn) => {
                let (image, place) = (pixels.image, pixels_needed(&geometry, pixels.image));
                crop_part(&ImagePart { image, place, pixels: &turn.pixels(pixels, place) }, &geometry)
            }
            None => crop_part(pixels, &geometry),
        };
        if let Some(draw) = draw {
            draw.photometric(&mut pixels);
            let logits = teacher.as_mut().map_or(&mut [][..], |teacher| &mut teacher.logits);
            draw.flip_together(geometry.grid, &mut pixels, &mut truth, logits);
        }
        let part_idx = self.dataset.part_idx(instance_idx);
        Ok(Sample { annotation_id: instance.id, part_idx, geometry, bbox, pixels, truth, truth_in_image, teacher })
    }

    pub(super) fn teacher_prompt_idx(&self, store: &dyn Store) -> usize {
        store.manifest().key.question.prompt_idx(&self.rules.prompt)
    }

    fn answer(
        &self,
        store: &dyn Store,
        instance: &Instance,
        image_digest: [u8; 32],
        geometry: &CropGeometry,
    ) -> Result<TeacherAnswer, SampleError> {
        let annotation_id = instance.id;
        let cannot = |source| SampleError::Teacher { annotation_id, source };
        let record = store.masks(annotation_id).map_err(cannot)?;
        if record.image.file_digest != image_digest {
            let (expected, found) = (hex(&record.image.file_digest), hex(&image_digest));
            let path = self.dataset.image_path(instance.image_idx);
            return Err(SampleError::OtherImage { path, expected, found });
        }
        let prompt_idx = self.teacher_prompt_idx(store);
        let mask_idx = record.prompts[prompt_idx].best_mask_idx();
        let (predicted_iou, is_clamped) = record.prompts[prompt_idx].masks[mask_idx].clamped_predicted_iou();
        let logits = record.mask(prompt_idx, mask_idx).logits_in_crop(geometry).map_err(cannot)?;
        Ok(TeacherAnswer { logits, predicted_iou, is_clamped })
    }
}

/// An instance with its crop, before its image is there.
struct Framed {
    instance_idx: usize,
    truth_in_image: Rle,
    geometry: CropGeometry,
    bbox: [f64; 4],
    draw: Option<Draw>,
    /// How the object was turned in its image, before its crop was laid.
    turn: Option<Turn>,
}

impl Framed {
    /// The pixels of the image file that its crop is made of.
    fn pixels_needed(&self, image: Size) -> PixelRect {
        let needed = pixels_needed(&self.geometry, image);
        self.turn.map_or(needed, |turn| turn.pixels_needed(needed, image))
    }
}

/// The share of an object's pixels that has to stay in the image when it is turned.
const LEAST_KEPT: f64 = 0.6;
