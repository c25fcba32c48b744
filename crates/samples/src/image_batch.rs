//! Whole images packed for a network.

use sensei_data::geometry::Size;

use crate::batch::push_input;
use crate::whole_images::{AskedObject, ImageFeatures, ImageSample, Letterbox};

/// One batch of whole images on the host.
pub struct ImageBatch {
    /// COCO ids, in batch order.
    pub image_ids: Vec<u64>,
    /// How each image lies in every square.
    pub letterboxes: Vec<Letterbox>,
    /// Network input, `[batch, 3, side, side]`, `(pixel - 128) / 128`; padding is 0.
    pub input: Vec<f32>,
    /// Side of the input.
    pub side: usize,
    /// The teacher's features, `[batch, channels, height, width]`, if there are some.
    pub features: Option<ImageFeatures>,
    /// The same at the source's further points, in their order.
    pub taps: Vec<ImageFeatures>,
    /// What is asked about each image.
    pub objects: Vec<Vec<AskedObject>>,
}

impl ImageBatch {
    /// Packs images of one size.
    ///
    /// # Panics
    /// If there is none, or some have features of other shapes than others.
    pub fn new(samples: Vec<ImageSample>) -> Self {
        let side = (samples.first().expect("an image of a batch").pixels.len() / 3).isqrt();
        let n = samples.len();
        let mut batch = Self {
            image_ids: Vec::with_capacity(n),
            letterboxes: Vec::with_capacity(n),
            input: Vec::with_capacity(n * 3 * side * side),
            side,
            features: None,
            taps: vec![],
            objects: Vec::with_capacity(n),
        };
        for (at, ImageSample { image_id, letterbox, pixels, features, taps, objects }) in
            samples.into_iter().enumerate()
        {
            push_input(&pixels, &mut batch.input);
            batch.image_ids.push(image_id);
            batch.letterboxes.push(letterbox);
            batch.objects.push(objects);
            match (&mut batch.features, features) {
                (Some(all), Some(features)) => all.push(features),
                (all @ None, features) => *all = features,
                (Some(_), None) => panic!("image {image_id}: expected features, as others of the batch have"),
            }
            match at {
                0 => batch.taps = taps,
                _ => {
                    assert_eq!(batch.taps.len(), taps.len(), "image batch: points of features");
                    batch.taps.iter_mut().zip(taps).for_each(|(all, features)| all.push(features));
                }
            }
        }
        if let Some(ImageFeatures { shape, values }) = &batch.features {
            assert_eq!(values.len(), n * shape.iter().product::<usize>(), "image batch: images with features");
        }
        batch
    }

    /// Columns and rows of a grid over each square whose centre lies in the image.
    pub fn used(&self, grid: usize) -> Vec<Size> {
        let grid = u32::try_from(grid).expect("a grid of fewer than 2^32 cells");
        self.letterboxes.iter().map(|letterbox| letterbox.used(grid)).collect()
    }
}

impl ImageFeatures {
    /// Another image's, behind those that are there.
    ///
    /// # Panics
    /// If they are of another shape.
    fn push(&mut self, ImageFeatures { shape, values }: ImageFeatures) {
        assert_eq!(self.shape, shape, "image batch: shapes of features");
        self.values.extend(values);
    }
}
