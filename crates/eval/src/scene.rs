//! A picture with the masks that were found on it, each with its prompt and a label.

use sensei_data::image_file::RgbImage;
use sensei_data::prompt_source::Prompt;
use sensei_data::rle::Rle;

use crate::overlay::{Canvas, TEXT_ADVANCE, TEXT_HEIGHT};

/// A mask to draw.
#[derive(Debug, Clone)]
pub struct SceneMask<'a> {
    /// Of the whole picture.
    pub mask: &'a Rle,
    /// What it answers.
    pub prompt: Prompt,
    /// At the prompt, or below other labels there, as `1 0.87`; left out where the picture has no room for it.
    pub label: String,
}

/// The picture with masks tinted and outlined, boxes and points drawn, labels written; colours go round.
///
/// # Panics
/// If a mask is not as large as the picture.
pub fn draw_scene(image: &RgbImage, masks: &[SceneMask<'_>]) -> RgbImage {
    let mut canvas = Canvas { image: image.clone() };
    for (SceneMask { mask, .. }, colour) in masks.iter().zip(COLOURS.iter().cycle()) {
        draw_mask(&mut canvas, mask, *colour);
    }
    let mut labels = vec![];
    // Prompts and labels lie above all masks.
    for (SceneMask { prompt, label, .. }, colour) in masks.iter().zip(COLOURS.iter().cycle()) {
        let at = match *prompt {
            Prompt::Box([x, y, width, height]) => {
                outline(&mut canvas, [x, y, x + width, y + height], *colour);
                [x + 2.0, y + 2.0]
            }
            Prompt::Point(_) | Prompt::Points(_) => {
                let mut label_at = [0.0; 2];
                for at in prompt.points() {
                    cross(&mut canvas, [at.x, at.y], *colour);
                    label_at = [at.x + ARM as f64 + 2.0, at.y];
                }
                label_at
            }
        };
        write_label(&mut canvas, at, label, *colour, &mut labels);
    }
    canvas.image
}

fn draw_mask(canvas: &mut Canvas, mask: &Rle, colour: [u8; 3]) {
    let size = canvas.image.size;
    assert_eq!(mask.size(), size, "draw_scene: size of a mask");
    let (bits, [x0, y0, box_width, box_height]) = (mask.to_mask().bits, mask.bbox().map(|edge| edge as usize));
    let width = size.width as usize;
    let row = |y: usize| bits.get(y * width..(y + 1) * width);
    for y in y0..y0 + box_height {
        let own = row(y).expect("rows of a mask's box are in the mask");
        let (above, below) = (y.checked_sub(1).and_then(row), row(y + 1));
        let is_set = |row: Option<&[u8]>, x: usize| row.is_some_and(|row| row[x] == 1);
        for x in (x0..x0 + box_width).filter(|&x| own[x] == 1) {
            let inside = x > 0 && own[x - 1] == 1 && x + 1 < width && own[x + 1] == 1;
            let is_contour = !(inside && is_set(above, x) && is_set(below, x));
            for (value, colour) in canvas.pixel(x, y).iter_mut().zip(colour) {
                *value = if is_contour { colour } else { ((u16::from(*value) * 3 + u16::from(colour) * 2) / 5) as u8 };
            }
        }
    }
}

/// The pixels that the edges of a box lie in, as far as they are in the picture.
fn outline(canvas: &mut Canvas, [x0, y0, x1, y1]: [f64; 4], colour: [u8; 3]) {
    let (first, last) = ([x0, y0].map(f64::floor), [x1, y1].map(|edge| edge.ceil() - 1.0));
    let size = canvas.image.size;
    let columns = inside(first[0], last[0], size.width);
    let rows = inside(first[1], last[1], size.height);
    for y in [first[1], last[1]].into_iter().filter(|&y| (0.0..f64::from(size.height)).contains(&y)) {
        columns.clone().for_each(|x| canvas.pixel(x, y as usize).copy_from_slice(&colour));
    }
    for x in [first[0], last[0]].into_iter().filter(|&x| (0.0..f64::from(size.width)).contains(&x)) {
        rows.clone().for_each(|y| canvas.pixel(x as usize, y).copy_from_slice(&colour));
    }
}

/// From one pixel to another, both included, as far as they are in the picture.
fn inside(first: f64, last: f64, len: u32) -> std::ops::Range<usize> {
    let within = |edge: f64| edge.clamp(0.0, f64::from(len)) as usize;
    within(first)..within(last + 1.0)
}

fn cross(canvas: &mut Canvas, [x, y]: [f64; 2], colour: [u8; 3]) {
    let size = canvas.image.size;
    let (column, row) = (x.floor(), y.floor());
    let arm = ARM as f64;
    for x in inside(column - arm, column + arm, size.width) {
        canvas.pixel(x, row as usize).copy_from_slice(&colour);
    }
    for y in inside(row - arm, row + arm, size.height) {
        canvas.pixel(column as usize, y).copy_from_slice(&colour);
    }
}

/// Pixels of a label: left, top, and behind its last column and row.
type LabelPlace = [usize; 4];

/// A label on dark ground, as near to a place as it lies in the picture whole; below others that are there, if a few steps lead below them.
fn write_label(canvas: &mut Canvas, at: [f64; 2], label: &str, colour: [u8; 3], others: &mut Vec<LabelPlace>) {
    let (width, height) = (canvas.image.size.width as usize, canvas.image.size.height as usize);
    let (label_width, label_height) = (label.chars().count() * TEXT_ADVANCE + 2, TEXT_HEIGHT + 4);
    if label_width > width || label_height > height || label.is_empty() {
        return;
    }
    let place = |at: f64, room: usize| at.clamp(0.0, room as f64) as usize;
    let (left, first_top) = (place(at[0], width - label_width), place(at[1], height - label_height));
    let tops =
        (0..MOST_STEPS).map(|step| first_top + step * label_height).take_while(|top| top + label_height <= height);
    let is_free = |top: &usize| {
        let apart = |&[x0, y0, x1, y1]: &LabelPlace| {
            x1 <= left || left + label_width <= x0 || y1 <= *top || top + label_height <= y0
        };
        others.iter().all(apart)
    };
    let top = tops.into_iter().find(is_free).unwrap_or(first_top);
    others.push([left, top, left + label_width, top + label_height]);
    for y in top..top + label_height {
        for x in left..left + label_width {
            canvas.pixel(x, y).iter_mut().for_each(|value| *value /= 3);
        }
    }
    canvas.write([left + 2, top + 2], label, colour);
}

/// How many labels may stand below each other before they cover one another.
const MOST_STEPS: usize = 8;

/// Half of a cross, in pixels.
const ARM: usize = 5;

/// Bright, and far from each other for most eyes.
const COLOURS: [[u8; 3]; 8] = [
    [255, 90, 200],
    [90, 220, 255],
    [255, 220, 0],
    [110, 240, 110],
    [255, 140, 40],
    [170, 130, 255],
    [0, 220, 180],
    [255, 110, 110],
];

#[cfg(test)]
mod tests {
    use sensei_data::geometry::{PointInImage, Size};
    use sensei_data::mask::Mask;

    use super::*;

    const SIZE: Size = Size { width: 40, height: 30 };

    fn drawn(prompt: Prompt, label: &str) -> RgbImage {
        // Columns 10 to 19 of rows 5 to 14.
        let bits =
            (0..SIZE.n_pixels()).map(|at| u8::from((10..20).contains(&(at % 40)) && (5..15).contains(&(at / 40))));
        let mask = Rle::from_mask(&Mask { size: SIZE, bits: bits.collect() });
        let image = RgbImage { size: SIZE, pixels: vec![100; SIZE.n_pixels() * 3] };
        draw_scene(&image, &[SceneMask { mask: &mask, prompt, label: label.into() }])
    }

    fn at(image: &RgbImage, x: usize, y: usize) -> [u8; 3] {
        image.pixels[(y * 40 + x) * 3..][..3].try_into().unwrap()
    }

    #[test]
    fn masks_boxes_and_points_are_where_they_are() {
        let image = drawn(Prompt::Box([8.0, 3.0, 14.0, 14.0]), "");
        assert_eq!((at(&image, 10, 5), at(&image, 19, 14)), (COLOURS[0], COLOURS[0]), "contour");
        assert_eq!(at(&image, 12, 8), [162, 96, 140], "three parts picture, two parts colour");
        assert_eq!((at(&image, 20, 5), at(&image, 9, 9)), ([100; 3], [100; 3]));
        assert_eq!((at(&image, 8, 3), at(&image, 21, 16)), (COLOURS[0], COLOURS[0]), "corners of the box");
        assert_eq!((at(&image, 7, 3), at(&image, 22, 16)), ([100; 3], [100; 3]));
        let image = drawn(Prompt::Point(PointInImage { x: 30.9, y: 20.2 }), "");
        assert_eq!((at(&image, 30, 20), at(&image, 25, 20), at(&image, 30, 25)), (COLOURS[0], COLOURS[0], COLOURS[0]));
        assert_eq!((at(&image, 24, 20), at(&image, 31, 21)), ([100; 3], [100; 3]));
    }

    #[test]
    fn labels_stand_below_each_other() {
        let mask = Rle::empty(SIZE).unwrap();
        let image = RgbImage { size: SIZE, pixels: vec![90; SIZE.n_pixels() * 3] };
        // Two labels are nearly as high as the picture: the first has to stand at its top.
        let prompt = Prompt::Box([1.0, -10.0, 30.0, 36.0]);
        let labelled = |labels: &[&str]| {
            let masks: Vec<SceneMask> = labels
                .iter()
                .map(|label| SceneMask { mask: &mask, prompt: prompt.clone(), label: (*label).into() })
                .collect();
            draw_scene(&image, &masks)
        };
        // Darkened rows in a column that no letter reaches.
        let n_dark = |image: &RgbImage| (4..SIZE.height as usize - 4).filter(|&y| at(image, 3, y) == [30; 3]).count();
        let label_height = TEXT_HEIGHT + 4;
        assert!(2 * label_height < SIZE.height as usize);
        let (one, two) = (labelled(&["1"]), labelled(&["1", "2"]));
        assert!(n_dark(&two) > n_dark(&one), "{} and {}", n_dark(&two), n_dark(&one));
        // With no room below, the third covers the first, whose ground is darkened again.
        let three = labelled(&["1", "2", "3"]);
        assert!((4..10).all(|y| at(&two, 3, y) == [30; 3] && at(&three, 3, y) == [10; 3]));
    }

    #[test]
    fn what_runs_past_the_picture_is_drawn_as_far_as_it_goes() {
        let image = drawn(Prompt::Box([-5.0, -5.0, 400.0, 30.5]), "");
        assert_eq!((at(&image, 0, 25), at(&image, 39, 25), at(&image, 0, 24)), (COLOURS[0], COLOURS[0], [100; 3]));
        for prompt in [
            Prompt::Box([39.5, 29.5, 4.0, 4.0]),
            Prompt::Box([1e15, 0.0, 1e15, 4.0]),
            Prompt::Point(PointInImage { x: 39.9, y: 29.9 }),
        ] {
            assert_eq!(drawn(prompt, "1 0.5").pixels.len(), SIZE.n_pixels() * 3);
        }
        // No room: no label.
        let [with, without] =
            ["A LABEL FOR A WIDE PICTURE", ""].map(|label| drawn(Prompt::Box([8.0, 3.0, 14.0, 14.0]), label));
        assert_eq!(with, without);
        assert_ne!(drawn(Prompt::Box([8.0, 3.0, 14.0, 14.0]), "1"), without);
    }
}
