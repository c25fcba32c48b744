//! Pictures of single instances: the crop with its prompt, the truth and every prediction, side by side.

use sensei_data::crop::CropGeometry;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;

use crate::glyphs;

/// One instance to draw. Masks and crop are on the same `grid * grid` pixels.
#[derive(Debug, Clone)]
pub struct OverlayInstance<'a> {
    /// Above the first panel, as `ANN 4711`.
    pub title: String,
    /// What the student sees: `grid * grid * 3` bytes, rows of RGB pixels.
    pub crop: &'a [u8],
    /// Where the crop lies in the image; its grid is the masks' grid.
    pub geometry: CropGeometry,
    /// The prompt box as x, y, width, height in image pixels.
    pub bbox: [f64; 4],
    /// The annotated mask, 0 or 1.
    pub truth: &'a [u8],
    /// Teacher and students.
    pub predictions: Vec<OverlayMask<'a>>,
}

/// A prediction to draw.
#[derive(Debug, Clone)]
pub struct OverlayMask<'a> {
    /// Above its panel, as `INT8 0.71`.
    pub label: String,
    /// 0 or 1, `grid * grid` values.
    pub in_crop: &'a [u8],
}

/// One row of panels, every crop pixel drawn as `scale * scale` pixels: prompt box, truth (green), then each prediction
/// (magenta) with the truth's contour (white).
///
/// # Panics
/// If crop or masks are not on the geometry's grid, or `scale` is 0.
pub fn overlay_row(instance: &OverlayInstance<'_>, scale: u32) -> RgbImage {
    assert!(scale > 0, "overlay_row: scale");
    let (grid, scale) = (instance.geometry.grid as usize, scale as usize);
    assert_eq!(instance.crop.len(), grid * grid * 3, "overlay_row: bytes of the crop");
    let side = grid * scale;
    let n_panels = 2 + instance.predictions.len();
    let mut canvas = Canvas::new(n_panels * side + (n_panels + 1) * GAP, side + LABEL_HEIGHT + GAP);
    let left_of = |panel: usize| GAP + panel * (side + GAP);
    for panel in 0..n_panels {
        canvas.enlarge(left_of(panel), LABEL_HEIGHT, instance.crop, grid, scale);
    }
    canvas.text(left_of(0), &instance.title, side);
    canvas.outline(left_of(0), LABEL_HEIGHT, side, box_in_panel(instance, scale));
    let truth = Enlarged::new(instance.truth, grid, scale);
    canvas.text(left_of(1), "TRUTH", side);
    canvas.tint(left_of(1), LABEL_HEIGHT, &truth, TRUTH_COLOUR);
    canvas.contour(left_of(1), LABEL_HEIGHT, &truth, TRUTH_COLOUR);
    for (panel, prediction) in (2..).zip(&instance.predictions) {
        let mask = Enlarged::new(prediction.in_crop, grid, scale);
        canvas.text(left_of(panel), &prediction.label, side);
        canvas.tint(left_of(panel), LABEL_HEIGHT, &mask, PREDICTION_COLOUR);
        canvas.contour(left_of(panel), LABEL_HEIGHT, &truth, WHITE);
        canvas.contour(left_of(panel), LABEL_HEIGHT, &mask, PREDICTION_COLOUR);
    }
    canvas.image
}

/// Two panels: what a student is shown, and the same with its answer (magenta), both of `grid * grid` pixels, each drawn as `scale * scale`.
///
/// # Panics
/// If crop or mask are not on the grid.
pub fn answer_row(crop: &[u8], answer: &[u8], grid: usize, scale: usize) -> RgbImage {
    assert_eq!(crop.len(), grid * grid * 3, "answer_row: bytes of the crop");
    let side = grid * scale;
    let mask = Enlarged::new(answer, grid, scale);
    let mut canvas = Canvas::new(2 * side + 3 * GAP, side + 2 * GAP);
    for left in [GAP, side + 2 * GAP] {
        canvas.enlarge(left, GAP, crop, grid, scale);
    }
    canvas.tint(side + 2 * GAP, GAP, &mask, PREDICTION_COLOUR);
    canvas.contour(side + 2 * GAP, GAP, &mask, PREDICTION_COLOUR);
    canvas.image
}

/// Rows below each other, as wide as the widest; without rows, a picture of 1 x 1.
pub fn contact_sheet(rows: &[RgbImage]) -> RgbImage {
    let width = rows.iter().map(|row| row.size.width as usize).max().unwrap_or(1);
    let height = rows.iter().map(|row| row.size.height as usize).sum::<usize>().max(1);
    let mut sheet = Canvas::new(width, height);
    let mut top = 0;
    for row in rows {
        let row_width = row.size.width as usize * 3;
        for (y, pixels) in row.pixels.chunks_exact(row_width.max(1)).enumerate() {
            let start = (top + y) * width * 3;
            sheet.image.pixels[start..start + row_width].copy_from_slice(pixels);
        }
        top += row.size.height as usize;
    }
    sheet.image
}

/// A mask whose pixels are looked up in a panel's pixels; outside of it there is background.
struct Enlarged<'a> {
    mask: &'a [u8],
    grid: usize,
    scale: usize,
}

impl<'a> Enlarged<'a> {
    fn new(mask: &'a [u8], grid: usize, scale: usize) -> Self {
        assert_eq!(mask.len(), grid * grid, "overlay_row: values of a mask");
        Self { mask, grid, scale }
    }

    fn is_set(&self, x: usize, y: usize) -> bool {
        let (column, row) = (x / self.scale, y / self.scale);
        column < self.grid && row < self.grid && self.mask[row * self.grid + column] == 1
    }

    /// Set, with a direct neighbour that is not.
    fn is_contour(&self, x: usize, y: usize) -> bool {
        // Left of column 0 wraps to a column outside of the panel: background.
        let around = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        self.is_set(x, y) && around.iter().any(|&(x, y)| !self.is_set(x, y))
    }

    fn pixels(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let side = self.grid * self.scale;
        (0..side).flat_map(move |y| (0..side).map(move |x| (x, y)))
    }
}

/// A picture that is drawn on.
pub(crate) struct Canvas {
    pub(crate) image: RgbImage,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        let size = Size { width: width as u32, height: height as u32 };
        Self { image: RgbImage { size, pixels: vec![BACKGROUND; width * height * 3] } }
    }

    pub(crate) fn pixel(&mut self, x: usize, y: usize) -> &mut [u8] {
        let start = (y * self.image.size.width as usize + x) * 3;
        &mut self.image.pixels[start..start + 3]
    }

    fn enlarge(&mut self, left: usize, top: usize, crop: &[u8], grid: usize, scale: usize) {
        for y in 0..grid * scale {
            for x in 0..grid * scale {
                let start = (y / scale * grid + x / scale) * 3;
                self.pixel(left + x, top + y).copy_from_slice(&crop[start..start + 3]);
            }
        }
    }

    fn tint(&mut self, left: usize, top: usize, mask: &Enlarged<'_>, colour: [u8; 3]) {
        for (x, y) in mask.pixels().filter(|&(x, y)| mask.is_set(x, y)) {
            for (value, colour) in self.pixel(left + x, top + y).iter_mut().zip(colour) {
                *value = ((u16::from(*value) * 3 + u16::from(colour) * 2) / 5) as u8;
            }
        }
    }

    fn contour(&mut self, left: usize, top: usize, mask: &Enlarged<'_>, colour: [u8; 3]) {
        for (x, y) in mask.pixels().filter(|&(x, y)| mask.is_contour(x, y)) {
            self.pixel(left + x, top + y).copy_from_slice(&colour);
        }
    }

    /// The border of a rectangle `[x0, y0, x1, y1]` of panel pixels, inclusive; parts outside of the panel are not drawn.
    fn outline(&mut self, left: usize, top: usize, side: usize, [x0, y0, x1, y1]: [i64; 4]) {
        for y in 0..side {
            for x in 0..side {
                let (column, row) = (x as i64, y as i64);
                let inside = (x0..=x1).contains(&column) && (y0..=y1).contains(&row);
                let on_border = column == x0 || column == x1 || row == y0 || row == y1;
                if inside && on_border {
                    self.pixel(left + x, top + y).copy_from_slice(&BOX_COLOUR);
                }
            }
        }
    }

    /// As many characters as fit into `max_width` pixels.
    fn text(&mut self, left: usize, text: &str, max_width: usize) {
        let text: String = text.chars().take(max_width / TEXT_ADVANCE).collect();
        self.write([left, GAP], &text, WHITE);
    }

    /// Characters of [`TEXT_ADVANCE`] x [`TEXT_HEIGHT`] pixels, from their upper left pixel on.
    ///
    /// # Panics
    /// If they do not lie in the picture.
    pub(crate) fn write(&mut self, [left, top]: [usize; 2], text: &str, colour: [u8; 3]) {
        for (idx, character) in text.chars().enumerate() {
            for y in 0..TEXT_HEIGHT {
                for x in 0..glyphs::WIDTH * TEXT_SCALE {
                    if glyphs::is_set(character, x / TEXT_SCALE, y / TEXT_SCALE) {
                        self.pixel(left + idx * TEXT_ADVANCE + x, top + y).copy_from_slice(&colour);
                    }
                }
            }
        }
    }
}

fn box_in_panel(instance: &OverlayInstance<'_>, scale: usize) -> [i64; 4] {
    let [x, y, width, height] = instance.bbox;
    let corner = |x, y| {
        let in_crop = instance.geometry.point_in_crop(PointInImage { x, y });
        in_crop.map(|at| (at * scale as f64).floor() as i64)
    };
    let ([x0, y0], [x1, y1]) = (corner(x, y), corner(x + width, y + height));
    [x0, y0, x1 - 1, y1 - 1]
}

/// Between panels, in pixels.
const GAP: usize = 4;
/// Panel pixels per font pixel.
const TEXT_SCALE: usize = 2;
/// From one character to the next, in pixels.
pub(crate) const TEXT_ADVANCE: usize = (glyphs::WIDTH + 1) * TEXT_SCALE;
/// Height of a character, in pixels.
pub(crate) const TEXT_HEIGHT: usize = glyphs::HEIGHT * TEXT_SCALE;
/// Above the panels, in pixels.
const LABEL_HEIGHT: usize = glyphs::HEIGHT * TEXT_SCALE + 2 * GAP;
const BACKGROUND: u8 = 24;
const WHITE: [u8; 3] = [255, 255, 255];
const BOX_COLOUR: [u8; 3] = [255, 220, 0];
const TRUTH_COLOUR: [u8; 3] = [0, 200, 80];
const PREDICTION_COLOUR: [u8; 3] = [255, 0, 200];

#[cfg(test)]
mod tests {
    use sensei_data::geometry::RectInImage;

    use super::*;

    fn at(image: &RgbImage, x: usize, y: usize) -> [u8; 3] {
        let start = (y * image.size.width as usize + x) * 3;
        image.pixels[start..start + 3].try_into().unwrap()
    }

    #[test]
    fn an_answer_is_tinted_in_its_own_panel_alone() {
        let answer: Vec<u8> = (0..16).map(|idx| u8::from(idx == 5)).collect();
        let image = answer_row(&[100; 48], &answer, 4, 2);
        let panel = |panel: usize, [x, y]: [usize; 2]| at(&image, GAP + panel * (8 + GAP) + x, GAP + y);
        for [x, y] in (0..8).flat_map(|y| (0..8).map(move |x| [x, y])) {
            assert_eq!(panel(0, [x, y]), [100; 3], "what it was shown");
            // Pixel 1, 1 of the crop, enlarged to two by two, all of them its border.
            let expected = if (2..4).contains(&x) && (2..4).contains(&y) { PREDICTION_COLOUR } else { [100; 3] };
            assert_eq!(panel(1, [x, y]), expected, "{x}, {y}");
        }
    }

    fn row() -> RgbImage {
        // An 8 x 8 crop of grey; the truth is the left half, the prediction one crop pixel at column 5, row 2.
        let truth: Vec<u8> = (0..64).map(|idx| u8::from(idx % 8 < 4)).collect();
        let prediction: Vec<u8> = (0..64).map(|idx| u8::from(idx == 2 * 8 + 5)).collect();
        let instance = OverlayInstance {
            title: "ANN 1".to_string(),
            crop: &[100; 64 * 3],
            geometry: CropGeometry { rect_in_image: RectInImage { x0: 10.0, y0: 20.0, x1: 26.0, y1: 36.0 }, grid: 8 },
            bbox: [12.0, 22.0, 8.0, 12.0],
            truth: &truth,
            predictions: vec![OverlayMask { label: "int8".to_string(), in_crop: &prediction }],
        };
        overlay_row(&instance, 4)
    }

    #[test]
    fn panels_show_box_truth_and_prediction_where_they_are() {
        let row = row();
        assert_eq!((row.size.width, row.size.height), (3 * 32 + 4 * 4, 32 + 18 + 4));
        assert_eq!(row.pixels.len(), row.size.n_pixels() * 3);
        let in_panel = |panel: usize, x: usize, y: usize| at(&row, 4 + panel * 36 + x, 18 + y);
        // The box is 2 image pixels into the crop, and an image pixel is 2 panel pixels.
        assert_eq!(in_panel(0, 4, 4), BOX_COLOUR);
        assert_eq!((in_panel(0, 19, 27), in_panel(0, 20, 28)), (BOX_COLOUR, [100; 3]));
        assert_eq!((in_panel(0, 3, 4), in_panel(0, 5, 5)), ([100; 3], [100; 3]));
        assert_eq!((in_panel(1, 0, 9), in_panel(1, 15, 9), in_panel(1, 16, 9)), (TRUTH_COLOUR, TRUTH_COLOUR, [100; 3]));
        assert_eq!(in_panel(1, 5, 9), [60, 140, 92], "three parts picture, two parts green");
        assert_eq!((in_panel(2, 20, 8), in_panel(2, 23, 11)), (PREDICTION_COLOUR, PREDICTION_COLOUR));
        assert_eq!((in_panel(2, 21, 9), in_panel(2, 24, 9)), ([162, 60, 140], [100; 3]));
        assert_eq!(in_panel(2, 15, 9), WHITE, "the truth's contour");
        assert_eq!(at(&row, 4 + 32, 18), [BACKGROUND; 3], "between panels");
    }

    #[test]
    fn labels_are_legible() {
        let row = row();
        // The first character of the title, `A`, two panel pixels per font pixel.
        let drawn: Vec<String> = (0..5)
            .map(|y| (0..3).map(|x| if at(&row, 4 + 2 * x, 4 + 2 * y) == WHITE { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(drawn, [".#.", "#.#", "###", "#.#", "#.#"]);
        let known = "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ.,:-_+=/%";
        let pixels = |c: char| (0..15).map(|idx| glyphs::is_set(c, idx % 3, idx / 3)).collect::<Vec<bool>>();
        for (idx, a) in known.char_indices() {
            assert_ne!(pixels(a), pixels('\u{1F600}'), "{a} is in the font");
            for b in known[idx + 1..].chars() {
                assert_ne!(pixels(a), pixels(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_sheet_is_as_wide_as_its_widest_row() {
        let small = RgbImage { size: Size { width: 2, height: 1 }, pixels: vec![7; 6] };
        let sheet = contact_sheet(&[small.clone(), row(), small]);
        assert_eq!((sheet.size.width, sheet.size.height), (row().size.width, row().size.height + 2));
        assert_eq!((at(&sheet, 1, 0), at(&sheet, 2, 0)), ([7; 3], [BACKGROUND; 3]));
        assert_eq!(at(&sheet, 8, 1 + 22), BOX_COLOUR);
        assert_eq!(at(&sheet, 1, 1 + row().size.height as usize), [7; 3]);
        assert_eq!(contact_sheet(&[]).pixels, [BACKGROUND; 3]);
    }
}
