//! What can be said of an object that was clicked on without looking at the picture: a disc around the click.

use rayon::prelude::*;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;

use crate::floors::FloorError;
use crate::score::Overlap;

/// Discs of one radius around the points of a prompt, the best on a train split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClickDisc {
    /// As a share of the image's longest side: a multiple of 1 / [`STEPS`].
    pub radius: f64,
    /// Mean IoU in the image on the objects it was fitted to.
    pub train_mean_iou: f64,
}

/// An object of the train split.
#[derive(Debug, Clone)]
pub struct Clicked {
    /// The prompt's points, in image pixels.
    pub points: Vec<PointInImage>,
    /// The annotated mask.
    pub mask: Rle,
}

/// The discs of the best radius, of equally good ones the smallest.
///
/// # Errors
/// If there is no object.
pub fn fit_click_disc(objects: &[Clicked]) -> Result<ClickDisc, FloorError> {
    if objects.is_empty() {
        return Err(FloorError::NoMasks);
    }
    let by_object: Vec<Vec<f64>> = objects.par_iter().map(ious).collect();
    let mut sums = vec![0.0; STEPS];
    for ious in &by_object {
        sums.iter_mut().zip(ious).for_each(|(sum, iou)| *sum += iou);
    }
    let best = (0..STEPS).fold(0, |best, idx| if sums[idx] > sums[best] { idx } else { best });
    Ok(ClickDisc { radius: (best + 1) as f64 / STEPS as f64, train_mean_iou: sums[best] / objects.len() as f64 })
}

impl ClickDisc {
    /// The pixels of an image whose centre is at most the radius from the nearest of some points.
    pub fn mask(&self, points: &[PointInImage], image: Size) -> Mask {
        let last = (self.radius * STEPS as f64).round() as usize;
        Mask { size: image, bits: rings(points, image).map(|ring| u8::from(ring <= last)).collect() }
    }
}

/// The IoU of the discs of each radius with an object's mask.
fn ious(Clicked { points, mask }: &Clicked) -> Vec<f64> {
    let (mut all, mut covered) = (vec![0u64; STEPS + 1], vec![0u64; STEPS + 1]);
    for (ring, bit) in rings(points, mask.size()).zip(mask.to_mask().bits) {
        let ring = ring.min(STEPS + 1);
        if ring <= STEPS {
            all[ring] += 1;
            covered[ring] += u64::from(bit);
        }
    }
    let truth = mask.area();
    let (mut prediction, mut intersection) = (all[0], covered[0]);
    let steps = all.iter().zip(&covered).skip(1);
    steps
        .map(|(all, covered)| {
            prediction += all;
            intersection += covered;
            Overlap { intersection, truth, prediction }.iou()
        })
        .collect()
}

/// By pixel, row-major: the smallest number of steps whose disc has the pixel's centre in it.
fn rings(points: &[PointInImage], image: Size) -> impl Iterator<Item = usize> {
    let steps_per_pixel = STEPS as f64 / f64::from(image.width.max(image.height));
    let distance = move |x: f64, y: f64| {
        points.iter().map(|point| ((x - point.x).powi(2) + (y - point.y).powi(2)).sqrt()).fold(f64::INFINITY, f64::min)
    };
    let centre = |idx: u32| f64::from(idx) + 0.5;
    (0..image.height).flat_map(move |row| {
        (0..image.width).map(move |column| (distance(centre(column), centre(row)) * steps_per_pixel).ceil() as usize)
    })
}

/// Radii that are tried, up to the image's longest side.
pub const STEPS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    /// An object of the pixels whose centre is at most so far from the point.
    fn disc(at: [f64; 2], radius: f64) -> Clicked {
        let size = Size { width: 128, height: 64 };
        let inside = |idx: usize| {
            let (x, y) = ((idx % 128) as f64 + 0.5, (idx / 128) as f64 + 0.5);
            u8::from((x - at[0]).hypot(y - at[1]) <= radius)
        };
        let bits = (0..size.n_pixels()).map(inside).collect();
        Clicked { points: vec![PointInImage { x: at[0], y: at[1] }], mask: Rle::from_mask(&Mask { size, bits }) }
    }

    #[test]
    fn the_best_disc_is_found_and_drawn() {
        let objects = [disc([30.5, 30.5], 9.0), disc([60.5, 20.5], 9.0), disc([100.5, 40.5], 15.0)];
        let best = fit_click_disc(&objects).unwrap();
        // A pixel is a step here. Two of three discs have this radius, and the third has 0.36 of its pixels with it.
        assert_eq!(best.radius, 9.0 / 128.0);
        assert_eq!(best.mask(&objects[1].points, objects[1].mask.size()), objects[1].mask.to_mask());
        let third = best.mask(&objects[2].points, objects[2].mask.size());
        let share = third.area() as f64 / objects[2].mask.area() as f64;
        assert!((best.train_mean_iou - (2.0 + share) / 3.0).abs() < 1e-12);
        assert!((share - 81.0 / 225.0).abs() < 0.02, "{share}");
    }

    #[test]
    fn several_clicks_have_a_disc_each() {
        let (left, right) = (disc([30.5, 30.5], 5.0), disc([60.5, 20.5], 5.0));
        let points = [left.points.clone(), right.points.clone()].concat();
        let both = Rle::merge(&[left.mask, right.mask], sensei_data::rle::Merge::Union).unwrap();
        let best = fit_click_disc(&[Clicked { points: points.clone(), mask: both.clone() }]).unwrap();
        assert_eq!((best.radius, best.train_mean_iou), (5.0 / 128.0, 1.0));
        assert_eq!(best.mask(&points, both.size()), both.to_mask());
        assert!(fit_click_disc(&[]).is_err());
    }
}
