//! From instances to samples: crops first, then each image once, then what is cut from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use sensei_answers::store::Store;
use sensei_data::augment::Draw;
use sensei_data::crop::{CropGeometry, crop_rle, crop_upper_rows, rows_needed};
use sensei_data::dataset::Instance;
use sensei_data::rle::Rle;
use sensei_files::digest::hex;

use super::{Sample, SampleSource, TeacherAnswer};
use crate::error::SampleError;
use crate::images::{DecodedImage, ImageRequest};

impl SampleSource {
    pub(super) fn framed(&self, instance_idx: usize, draw: Option<Draw>) -> Result<Framed, SampleError> {
        let truth_in_image = self.mask(instance_idx)?;
        let (geometry, bbox) = self.prompted(instance_idx, &truth_in_image)?;
        let geometry = draw.map_or(geometry, |draw| self.shown(instance_idx, draw.jittered(&geometry)));
        Ok(Framed { instance_idx, truth_in_image, geometry, bbox, draw })
    }

    /// The samples of some instances, in their order.
    pub(super) fn load(
        &self,
        instances: &[usize],
        frame: impl Fn(usize) -> Result<Framed, SampleError> + Sync,
    ) -> Result<Vec<Sample>, SampleError> {
        // Crops come first: they say how many rows of an image its samples need together.
        let framed: Vec<_> = instances.par_iter().map(|&idx| frame(idx)).collect();
        let mut by_image: BTreeMap<usize, Vec<(usize, Framed)>> = BTreeMap::new();
        for (at, framed) in framed.into_iter().enumerate() {
            let framed = framed?;
            by_image.entry(self.dataset.instances[framed.instance_idx].image_idx).or_default().push((at, framed));
        }
        let cut_all = |of_image: Vec<(usize, Framed)>| -> Vec<(usize, Result<Sample, SampleError>)> {
            match self.image_of(of_image.iter().map(|(_, framed)| framed)) {
                Ok(image) => {
                    let cut = |(at, framed)| (at, self.cut(framed, &image));
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

    pub(super) fn cut_alone(&self, framed: Framed) -> Result<Sample, SampleError> {
        let image = self.image_of(std::iter::once(&framed))?;
        self.cut(framed, &image)
    }

    /// The image of some samples of one image, as far down as they need it. An error names the first.
    ///
    /// # Panics
    /// If there is no sample.
    fn image_of<'f>(&self, framed: impl Iterator<Item = &'f Framed> + Clone) -> Result<Arc<DecodedImage>, SampleError> {
        let first = framed.clone().next().expect("an image is asked for by its samples");
        let instance = &self.dataset.instances[first.instance_idx];
        let annotated_size = self.dataset.images[instance.image_idx].size;
        let n_rows = framed.map(|framed| rows_needed(&framed.geometry, annotated_size)).max().unwrap_or(0);
        let path = self.dataset.image_path(instance.image_idx);
        let (image_idx, annotation_id) = (instance.image_idx, instance.id);
        self.images.get(&ImageRequest { image_idx, path: &path, annotated_size, n_rows, annotation_id })
    }

    fn cut(&self, framed: Framed, image: &DecodedImage) -> Result<Sample, SampleError> {
        let Framed { instance_idx, truth_in_image, geometry, bbox, draw } = framed;
        let instance = &self.dataset.instances[instance_idx];
        let mut teacher = match &self.teacher {
            Some(store) if self.is_answered(instance_idx) => {
                Some(self.answer(store.as_ref(), instance, image.digest, &geometry)?)
            }
            _ => None,
        };
        let (mut truth, mut pixels) = (crop_rle(&truth_in_image, &geometry), crop_upper_rows(&image.rows, &geometry));
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
pub(super) struct Framed {
    instance_idx: usize,
    truth_in_image: Rle,
    geometry: CropGeometry,
    bbox: [f64; 4],
    draw: Option<Draw>,
}
