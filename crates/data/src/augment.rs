//! Random changes of a training sample, drawn from its id and the epoch alone.

use rand_chacha::ChaCha8Rng;
use sensei_kernels::colours::{ColourFactors, change_colours};

use crate::crop::CropGeometry;
use crate::geometry::RectInImage;
use crate::sampling::{Purpose, stream, unit};
use crate::turn::Turn;

/// How much a training sample may change. All zeros change nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation {
    /// Probability of a left-right flip, in `[0, 1]`.
    pub flip_probability: f64,
    /// The crop moves by up to this share of its width and height in x and in y, each way; in `[0, 1]`.
    pub roi_shift: f64,
    /// The crop grows or shrinks by up to about `exp(roi_scale)`; in `[0, 1]`. See [`Draw::roi_scale`].
    pub roi_scale: f64,
    /// The crop's width grows or shrinks by up to about `exp(roi_aspect)` and its height by the inverse; in `[0, 1]`. With shift and
    /// scale the sides of the crop are wrong one by one, as a detector's are.
    pub roi_aspect: f64,
    /// The picture turns about the middle of the object's box by up to about this many radians, each way; in `[0, 1]`. The box is drawn anew
    /// around the turned mask. See [`Draw::turn`].
    pub roi_rotation: f64,
    /// Before it turns, it is sheared: x grows by up to this many pixels for each pixel down, each way; in `[0, 1]`.
    pub roi_shear: f64,
    /// Probability that the crop moves, scales and changes its aspect at all, in `[0, 1]`: so that a student sees both a detector's worst boxes
    /// and boxes that are right.
    pub jitter_probability: f64,
    /// Probability that the picture turns and is sheared at all, in `[0, 1]`.
    pub turn_probability: f64,
    /// Brightness is multiplied by up to `1 +- brightness`; in `[0, 1]`.
    pub brightness: f64,
    /// Differences from middle grey are multiplied by up to `1 +- contrast`; in `[0, 1]`.
    pub contrast: f64,
    /// Differences from a pixel's own grey are multiplied by up to `1 +- saturation`; in `[0, 1]`.
    pub saturation: f64,
}

/// An augmentation setting that is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{setting} = {found}: expected a number from 0 to 1")]
pub struct AugmentationError {
    /// Name of the field.
    pub setting: &'static str,
    /// Its value.
    pub found: f64,
}

impl Augmentation {
    /// Changes nothing. What is switched on by a range above 0 happens to every sample.
    pub const NONE: Augmentation = Augmentation {
        flip_probability: 0.0,
        roi_shift: 0.0,
        roi_scale: 0.0,
        roi_aspect: 0.0,
        roi_rotation: 0.0,
        roi_shear: 0.0,
        jitter_probability: 1.0,
        turn_probability: 1.0,
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
    };

    /// Of each change the largest of several: what holds all of their draws.
    pub fn largest(of: &[&Augmentation]) -> Augmentation {
        of.iter().fold(Augmentation::NONE, |most, other| Augmentation {
            flip_probability: most.flip_probability.max(other.flip_probability),
            roi_shift: most.roi_shift.max(other.roi_shift),
            roi_scale: most.roi_scale.max(other.roi_scale),
            roi_aspect: most.roi_aspect.max(other.roi_aspect),
            roi_rotation: most.roi_rotation.max(other.roi_rotation),
            roi_shear: most.roi_shear.max(other.roi_shear),
            jitter_probability: most.jitter_probability.max(other.jitter_probability),
            turn_probability: most.turn_probability.max(other.turn_probability),
            brightness: most.brightness.max(other.brightness),
            contrast: most.contrast.max(other.contrast),
            saturation: most.saturation.max(other.saturation),
        })
    }

    /// Whether pictures turn or are sheared.
    pub fn turns(&self) -> bool {
        self.roi_rotation > 0.0 || self.roi_shear > 0.0
    }

    /// Where the edges of a crop can be after [`Draw::jittered`], but for the rounding of sums.
    pub fn jitter_bounds(&self, crop: &RectInImage) -> JitterBounds {
        let factor = factor(self.roi_scale) * factor(self.roi_aspect);
        let axis = |start: f64, end: f64, direction: f64| {
            let half = (end - start) / 2.0;
            let center = start + half + direction * self.roi_shift * 2.0 * half;
            let (far, near) = (half * factor, half / factor);
            if direction < 0.0 { (center - far, center + near) } else { (center - near, center + far) }
        };
        let [earliest, latest] = [-1.0, 1.0].map(|direction| {
            let ((x0, x1), (y0, y1)) = (axis(crop.x0, crop.x1, direction), axis(crop.y0, crop.y1, direction));
            RectInImage { x0, y0, x1, y1 }
        });
        JitterBounds { earliest, latest }
    }

    /// Checks the ranges, for whoever reads them from a file; [`draw`] panics on what this refuses.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn check(&self) -> Result<(), AugmentationError> {
        let settings = [
            ("flip_probability", self.flip_probability),
            ("roi_shift", self.roi_shift),
            ("roi_scale", self.roi_scale),
            ("roi_aspect", self.roi_aspect),
            ("roi_rotation", self.roi_rotation),
            ("roi_shear", self.roi_shear),
            ("jitter_probability", self.jitter_probability),
            ("turn_probability", self.turn_probability),
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ];
        match settings.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((setting, found)) => Err(AugmentationError { setting, found }),
            None => Ok(()),
        }
    }
}

/// How far the edges of a crop move: with each, the crop whose four edges are there together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JitterBounds {
    /// Every edge as far to the left and up as a draw puts it.
    pub earliest: RectInImage,
    /// Every edge as far to the right and down.
    pub latest: RectInImage,
}

/// What one sample gets in one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Whether input, truth and teacher target are mirrored left to right.
    pub flip: bool,
    /// Shift of the crop in x and y, as a share of its width and height.
    pub roi_shift: [f64; 2],
    /// Factor of the crop's sides: `(2 + t) / (2 - t)` for t uniform in `+-roi_scale`, which is `exp(t)` to 1.4 % up to
    /// t = 0.5 (8 % at 1), has `scale(-t) = 1 / scale(t)`, and is the same on every machine, as `exp` is not.
    pub roi_scale: f64,
    /// Factor of the crop's width and divisor of its height, of the same form.
    pub roi_aspect: f64,
    /// Tangent of half of the angle that the picture turns by: uniform, which makes the angle nearly so.
    pub half_tangent: f64,
    /// How far x is sheared for each pixel down.
    pub roi_shear: f64,
    /// Factor of all values.
    pub brightness: f64,
    /// Factor of the difference from 128.
    pub contrast: f64,
    /// Factor of the difference from the pixel's grey.
    pub saturation: f64,
}

/// The random numbers of a sample in an epoch. They depend on these three and on nothing else: not on the order of
/// samples, the number of threads or where a run was resumed.
pub fn sample_rng(seed: u64, epoch: u64, annotation_id: u64) -> ChaCha8Rng {
    stream(Purpose::Augmentation, seed, epoch, annotation_id)
}

/// Draws a sample's changes. Takes twelve numbers whatever the settings, so that switching one off leaves the others.
///
/// # Panics
/// If [`Augmentation::check`] refuses the settings.
pub fn draw(augmentation: &Augmentation, rng: &mut ChaCha8Rng) -> Draw {
    if let Err(error) = augmentation.check() {
        panic!("draw: {error}");
    }
    let flip = unit(rng) < augmentation.flip_probability;
    let mut within = |range: f64| (2.0 * unit(rng) - 1.0) * range;
    let roi_shift = [within(augmentation.roi_shift), within(augmentation.roi_shift)];
    let roi_scale = factor(within(augmentation.roi_scale));
    let brightness = 1.0 + within(augmentation.brightness);
    let contrast = 1.0 + within(augmentation.contrast);
    let saturation = 1.0 + within(augmentation.saturation);
    // Last, so that the others are those of before there was this one.
    let roi_aspect = factor(within(augmentation.roi_aspect));
    let half_tangent = within(augmentation.roi_rotation / 2.0);
    let roi_shear = within(augmentation.roi_shear);
    let mut drawn =
        Draw { flip, roi_shift, roi_scale, roi_aspect, half_tangent, roi_shear, brightness, contrast, saturation };
    let jitters = unit(rng) < augmentation.jitter_probability;
    let turns = unit(rng) < augmentation.turn_probability;
    if !jitters {
        (drawn.roi_shift, drawn.roi_scale, drawn.roi_aspect) = ([0.0; 2], 1.0, 1.0);
    }
    if !turns {
        (drawn.half_tangent, drawn.roi_shear) = (0.0, 0.0);
    }
    drawn
}

impl Draw {
    /// The turn about the middle of a box `[x, y, width, height]`, if one was drawn.
    pub fn turn(&self, [x, y, width, height]: [f64; 4]) -> Option<Turn> {
        let is_drawn = self.half_tangent != 0.0 || self.roi_shear != 0.0;
        is_drawn.then(|| Turn::new([x + width / 2.0, y + height / 2.0], self.half_tangent, self.roi_shear))
    }

    /// The crop after shift, scale and aspect; the same one, bit for bit, if neither was drawn. It may run past the border.
    pub fn jittered(&self, geometry: &CropGeometry) -> CropGeometry {
        let rect = &geometry.rect_in_image;
        let axis = |start: f64, end: f64, shift: f64, scale: f64| {
            let len = end - start;
            let moved = start + shift * len;
            if scale == 1.0 {
                return (moved, end + shift * len);
            }
            let center = moved + len / 2.0;
            (center - len * scale / 2.0, center + len * scale / 2.0)
        };
        let (x0, x1) = axis(rect.x0, rect.x1, self.roi_shift[0], self.roi_scale * self.roi_aspect);
        let (y0, y1) = axis(rect.y0, rect.y1, self.roi_shift[1], self.roi_scale / self.roi_aspect);
        CropGeometry { rect_in_image: RectInImage { x0, y0, x1, y1 }, grid: geometry.grid }
    }

    /// Saturation, then contrast, then brightness of an RGB crop, with one rounding at the end; values saturate at 0
    /// and 255 as a sensor's do. Padding changes as the picture does.
    ///
    /// # Panics
    /// If the bytes are not whole pixels.
    pub fn photometric(&self, rgb: &mut [u8]) {
        let (pixels, rest) = rgb.as_chunks_mut::<3>();
        assert!(rest.is_empty(), "photometric: bytes of whole RGB pixels");
        if (self.brightness, self.contrast, self.saturation) == (1.0, 1.0, 1.0) {
            return;
        }
        let [saturation, contrast, brightness] =
            [self.saturation, self.contrast, self.brightness].map(|factor| factor as f32);
        change_colours(pixels, ColourFactors { saturation, contrast, brightness });
    }

    /// Mirrors the input, its truth and its teacher target together, if a flip was drawn. Empty slices stay empty.
    ///
    /// # Panics
    /// If a slice is neither empty nor that of a crop of side `grid`.
    pub fn flip_together(&self, grid: u32, rgb: &mut [u8], truth: &mut [u8], teacher: &mut [f32]) {
        if self.flip {
            flip_rows(rgb, grid, 3);
            flip_rows(truth, grid, 1);
            flip_rows(teacher, grid, 1);
        }
    }
}

/// A side's factor for what was drawn: [`Draw::roi_scale`].
fn factor(log: f64) -> f64 {
    (2.0 + log) / (2.0 - log)
}

/// Mirrors a crop left to right: rows of `grid` pixels of `n_channels` values.
///
/// # Panics
/// If there are neither no values nor those of `grid` rows.
pub fn flip_rows<T>(values: &mut [T], grid: u32, n_channels: usize) {
    let row_len = grid as usize * n_channels;
    assert!(values.is_empty() || values.len() == row_len * grid as usize, "flip_rows: {} values", values.len());
    for row in values.chunks_exact_mut(row_len) {
        // Reversing everything mirrors the pixels and each pixel's channels; the second restores the channels.
        row.reverse();
        for pixel in row.chunks_exact_mut(n_channels) {
            pixel.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Augmentation = Augmentation {
        flip_probability: 0.5,
        roi_shift: 0.1,
        roi_scale: 0.2,
        roi_aspect: 0.15,
        roi_rotation: 0.3,
        roi_shear: 0.1,
        brightness: 0.3,
        contrast: 0.3,
        saturation: 0.3,
        ..Augmentation::NONE
    };

    fn geometry() -> CropGeometry {
        CropGeometry { rect_in_image: RectInImage { x0: 10.1, y0: -3.7, x1: 110.4, y1: 96.6 }, grid: 96 }
    }

    fn still() -> Draw {
        draw(&Augmentation::NONE, &mut sample_rng(0, 0, 0))
    }

    /// Computed with an independent ChaCha8 in Python (RFC 8439's block with 4 double rounds and a 64-bit counter).
    #[test]
    fn draws_are_these_on_every_machine() {
        let drawn = draw(&ALL, &mut sample_rng(1, 2, 3));
        assert!(drawn.flip);
        let bits = [
            drawn.roi_shift[0],
            drawn.roi_shift[1],
            drawn.roi_scale,
            drawn.brightness,
            drawn.contrast,
            drawn.saturation,
            drawn.roi_aspect,
        ];
        let expected = [
            0xbfb254e470c1d013,
            0x3f837f8878dc18a7,
            0x3fee358b960cbc3a,
            0x3ff11689ad684fb5,
            0x3ff30ff24623557e,
            0x3ff0588cb2822074,
            0x3febc4eefcb23ec5,
        ];
        assert_eq!(bits.map(f64::to_bits), expected, "{drawn:?}");
        let mut rgb = [0, 255, 128, 12, 200, 77, 128, 128, 128];
        drawn.photometric(&mut rgb);
        assert_eq!(rgb, [0, 255, 136, 0, 230, 70, 137, 137, 137]);
    }

    #[test]
    fn a_sample_draws_by_its_id_and_epoch_alone() {
        let at = |seed, epoch, id| draw(&ALL, &mut sample_rng(seed, epoch, id));
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        assert!(at(1, 2, 3) != at(2, 2, 3) && at(1, 2, 3) != at(1, 3, 3) && at(1, 2, 3) != at(1, 2, 4));
    }

    #[test]
    fn switching_one_change_off_leaves_the_others() {
        let still = draw(&Augmentation { flip_probability: 0.0, roi_shift: 0.0, ..ALL }, &mut sample_rng(1, 2, 3));
        let drawn = draw(&ALL, &mut sample_rng(1, 2, 3));
        assert_eq!(Draw { flip: false, roi_shift: [0.0; 2], ..drawn }, still);
    }

    #[test]
    fn of_the_samples_a_share_moves_and_another_turns() {
        let moves = |draw: &Draw| draw.roi_shift != [0.0; 2];
        let turns = |draw: &Draw| draw.half_tangent != 0.0;
        let some = Augmentation { jitter_probability: 0.3, turn_probability: 0.6, ..ALL };
        let (mut n_moved, mut n_turned, mut n_both) = (0, 0, 0);
        for id in 0..2000 {
            let [all, drawn] = [&ALL, &some].map(|augmentation| draw(augmentation, &mut sample_rng(0, 0, id)));
            let jitter = |draw: &Draw| (draw.roi_shift, draw.roi_scale, draw.roi_aspect);
            let turn = |draw: &Draw| (draw.half_tangent, draw.roi_shear);
            assert_eq!(jitter(&drawn), if moves(&drawn) { jitter(&all) } else { ([0.0; 2], 1.0, 1.0) });
            assert_eq!(turn(&drawn), if turns(&drawn) { turn(&all) } else { (0.0, 0.0) });
            assert_eq!((drawn.flip, drawn.brightness), (all.flip, all.brightness));
            n_moved += usize::from(moves(&drawn));
            n_turned += usize::from(turns(&drawn));
            n_both += usize::from(moves(&drawn) && turns(&drawn));
        }
        let is_near = |n: usize, probability: f64| (n as f64 / 2000.0 - probability).abs() < 0.035;
        assert!(
            is_near(n_moved, 0.3) && is_near(n_turned, 0.6) && is_near(n_both, 0.18),
            "{n_moved}, {n_turned}, {n_both}"
        );
    }

    #[test]
    fn nothing_switched_on_changes_nothing() {
        for id in 0..50 {
            let drawn = draw(&Augmentation::NONE, &mut sample_rng(7, 0, id));
            assert!(!drawn.flip);
            assert_eq!(drawn.jittered(&geometry()), geometry());
            let mut rgb: Vec<u8> = (0..=254).collect();
            drawn.photometric(&mut rgb);
            assert!(rgb.into_iter().eq(0..=254));
        }
    }

    #[test]
    fn draws_stay_in_range_and_fill_it() {
        let drawn: Vec<Draw> = (0..2000).map(|id| draw(&ALL, &mut sample_rng(0, 0, id))).collect();
        let range = |value: fn(&Draw) -> f64| {
            let values = drawn.iter().map(value);
            (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
        };
        let check = |(low, high): (f64, f64), bounds: (f64, f64)| {
            assert!(low >= bounds.0 && high <= bounds.1, "{low}..{high} within {bounds:?}");
            let margin = (bounds.1 - bounds.0) * 0.01;
            assert!(low < bounds.0 + margin && high > bounds.1 - margin, "{low}..{high} fills {bounds:?}");
        };
        check(range(|draw| draw.roi_shift[0]), (-0.1, 0.1));
        check(range(|draw| draw.roi_shift[1]), (-0.1, 0.1));
        check(range(|draw| draw.roi_scale), (1.8 / 2.2, 2.2 / 1.8));
        check(range(|draw| draw.roi_aspect), (1.85 / 2.15, 2.15 / 1.85));
        check(range(|draw| draw.half_tangent), (-0.15, 0.15));
        check(range(|draw| draw.roi_shear), (-0.1, 0.1));
        check(range(|draw| draw.contrast), (0.7, 1.3));
        let n_flipped = drawn.iter().filter(|draw| draw.flip).count();
        assert!((900..1100).contains(&n_flipped), "{n_flipped} of 2000 flipped");
    }

    #[test]
    fn jitter_moves_and_scales_about_the_centre() {
        let still = still();
        let square = CropGeometry { rect_in_image: RectInImage { x0: 10.0, y0: 20.0, x1: 50.0, y1: 60.0 }, grid: 96 };
        let moved = Draw { roi_shift: [0.25, -0.5], ..still }.jittered(&square).rect_in_image;
        assert_eq!(moved, RectInImage { x0: 20.0, y0: 0.0, x1: 60.0, y1: 40.0 });
        let stretched = Draw { roi_aspect: 2.0, ..still }.jittered(&square).rect_in_image;
        assert_eq!(stretched, RectInImage { x0: -10.0, y0: 30.0, x1: 70.0, y1: 50.0 });
        let grown = Draw { roi_scale: 1.5, ..still }.jittered(&square).rect_in_image;
        assert_eq!(grown, RectInImage { x0: 0.0, y0: 10.0, x1: 60.0, y1: 70.0 });
    }

    #[test]
    fn drawn_crops_lie_within_the_bounds_and_come_near_them() {
        let (crop, bounds) = (geometry(), ALL.jitter_bounds(&geometry().rect_in_image));
        let edges = |rect: &RectInImage| [rect.x0, rect.y0, rect.x1, rect.y1];
        let (low, high) = (edges(&bounds.earliest), edges(&bounds.latest));
        let mut found = [[f64::INFINITY; 4], [f64::NEG_INFINITY; 4]];
        for id in 0..20_000 {
            let rect = draw(&ALL, &mut sample_rng(0, 0, id)).jittered(&crop).rect_in_image;
            for (at, edge) in edges(&rect).into_iter().enumerate() {
                assert!(edge >= low[at] - 1e-9 && edge <= high[at] + 1e-9, "{edge} in {}..{}", low[at], high[at]);
                found[0][at] = found[0][at].min(edge);
                found[1][at] = found[1][at].max(edge);
            }
        }
        for at in 0..4 {
            let share = (found[1][at] - found[0][at]) / (high[at] - low[at]);
            assert!(share > 0.85, "edge {at}: {share} of the bounds");
        }
        let bounds = Augmentation::NONE.jitter_bounds(&crop.rect_in_image);
        for (edge, still) in edges(&bounds.earliest).into_iter().zip(edges(&crop.rect_in_image)) {
            assert!((edge - still).abs() < 1e-9, "{edge} / {still}");
        }
    }

    #[test]
    fn photometric_changes_are_what_they_say() {
        let still = still();
        let check = |drawn: Draw, before: [u8; 3], after: [u8; 3]| {
            let mut rgb = before;
            drawn.photometric(&mut rgb);
            assert_eq!(rgb, after, "{drawn:?}");
        };
        check(Draw { brightness: 1.5, ..still }, [0, 100, 200], [0, 150, 255]);
        check(Draw { contrast: 0.5, ..still }, [128, 28, 228], [128, 78, 178]);
        check(Draw { saturation: 0.0, ..still }, [255, 0, 0], [76, 76, 76]);
    }

    /// In one formula per value, as the documentation has it.
    #[test]
    fn photometric_changes_are_the_same_pixel_by_pixel() {
        for id in 0..200 {
            let drawn = draw(&ALL, &mut sample_rng(3, 0, id));
            let rgb: Vec<u8> = (0..3 * (id as u32 + 1)).map(|n| (n * 167 + n * n / 7) as u8).collect();
            let mut changed = rgb.clone();
            drawn.photometric(&mut changed);
            let (brightness, contrast) = (drawn.brightness as f32, drawn.contrast as f32);
            for (before, after) in rgb.as_chunks::<3>().0.iter().zip(changed.as_chunks::<3>().0) {
                let [r, g, b] = before.map(f32::from);
                let grey = 0.299 * r + 0.587 * g + 0.114 * b;
                let expected = before.map(|value| {
                    let saturated = grey + (f32::from(value) - grey) * drawn.saturation as f32;
                    let contrasted = 128.0 + (saturated - 128.0) * contrast;
                    (contrasted * brightness + 0.5).clamp(0.0, 255.0) as u8
                });
                assert_eq!(*after, expected, "{before:?}, {drawn:?}");
            }
        }
    }

    #[test]
    fn a_flip_mirrors_input_truth_and_target_together() {
        let (rgb, truth, teacher) = ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 0, 0, 1], [0.5f32, -1.0, 2.0, -3.0]);
        for flip in [false, true] {
            let drawn = Draw { flip, ..draw(&Augmentation::NONE, &mut sample_rng(0, 0, 0)) };
            let (mut rgb_out, mut truth_out, mut teacher_out) = (rgb, truth, teacher);
            drawn.flip_together(2, &mut rgb_out, &mut truth_out, &mut teacher_out);
            if flip {
                assert_eq!(rgb_out, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
                assert_eq!((truth_out, teacher_out), ([0, 1, 1, 0], [-1.0, 0.5, -3.0, 2.0]));
            } else {
                assert_eq!((rgb_out, truth_out, teacher_out), (rgb, truth, teacher));
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(ALL.check(), Ok(()));
        for found in [-0.1, 1.5, f64::NAN] {
            let error = Augmentation { contrast: found, ..ALL }.check().unwrap_err();
            assert_eq!(error.setting, "contrast");
        }
    }
}
