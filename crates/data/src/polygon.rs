//! Polygons to masks, pixel-exact with pycocotools.

use crate::geometry::Size;
use crate::rle::{Merge, Rle, RleError};

/// A polygon that cannot be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolygonError {
    /// No polygon at all.
    #[error("expected at least 1 polygon, found none")]
    NoPolygon,
    /// Not `x, y` pairs of three points or more.
    #[error("polygon {polygon_idx}: expected an even number of at least 6 coordinates, found {found}")]
    NumCoordinates {
        /// Which of the annotation's polygons.
        polygon_idx: usize,
        /// Number of coordinates.
        found: usize,
    },
    /// Not a number, or so far away that it can only be damage.
    #[error("polygon {polygon_idx}: expected coordinates within +-{MAX_COORDINATE} pixels, found {found}")]
    Coordinate {
        /// Which of the annotation's polygons.
        polygon_idx: usize,
        /// The coordinate.
        found: f64,
    },
    /// The image's size.
    #[error(transparent)]
    Size(RleError),
}

/// Largest coordinate that is drawn, in pixels: twice the largest side of a JPEG image.
pub const MAX_COORDINATE: f64 = 131_072.0;

/// Checks what [`rasterize`] requires of an annotation's polygons.
pub fn check_polygons<P: AsRef<[f64]>>(polygons: &[P]) -> Result<(), PolygonError> {
    if polygons.is_empty() {
        return Err(PolygonError::NoPolygon);
    }
    for (polygon_idx, polygon) in polygons.iter().enumerate() {
        let coordinates = polygon.as_ref();
        if coordinates.len() < 6 || !coordinates.len().is_multiple_of(2) {
            return Err(PolygonError::NumCoordinates { polygon_idx, found: coordinates.len() });
        }
        if let Some(&found) = coordinates.iter().find(|c| c.is_nan() || c.abs() > MAX_COORDINATE) {
            return Err(PolygonError::Coordinate { polygon_idx, found });
        }
    }
    Ok(())
}

/// The union of an annotation's polygons, each `[x0, y0, x1, y1, ...]` in pixels, as pycocotools draws it.
///
/// # Source
/// pycocotools 2.0, `rleFrPoly` in `maskApi.c`: the outline on a grid of fifths of a pixel, a crossing at each column's
/// centre, pixels between crossings filled by the even-odd rule.
pub fn rasterize<P: AsRef<[f64]>>(polygons: &[P], size: Size) -> Result<Rle, PolygonError> {
    check_polygons(polygons)?;
    Rle::empty(size).map_err(PolygonError::Size)?;
    let masks: Result<Vec<Rle>, RleError> = polygons.iter().map(|p| rasterize_one(p.as_ref(), size)).collect();
    let masks = masks.map_err(PolygonError::Size)?;
    Rle::merge(&masks, Merge::Union).ok_or(PolygonError::NoPolygon)
}

fn rasterize_one(coordinates: &[f64], size: Size) -> Result<Rle, RleError> {
    // As in maskApi.c: a truncating cast of `5 * x + 0.5`, which rounds towards zero left of the image.
    let fifths = |coordinate: f64| (UPSAMPLING * coordinate + 0.5) as i32;
    let corners: Vec<[i32; 2]> = coordinates.as_chunks::<2>().0.iter().map(|[x, y]| [fifths(*x), fifths(*y)]).collect();
    let mut crossings = Crossings { size, previous: None, pixels: Vec::new() };
    for (corner_idx, &start) in corners.iter().enumerate() {
        walk_edge(start, corners[(corner_idx + 1) % corners.len()], |point| crossings.visit(point));
    }
    let mut starts = crossings.pixels;
    starts.sort_unstable();
    // Each crossing turns the fill on or off, from its pixel on to the end of the mask.
    let mut counts = Vec::with_capacity(starts.len() + 1);
    let mut end = 0;
    for start in starts {
        counts.push(start - end);
        end = start;
    }
    counts.push((u64::from(size.width) * u64::from(size.height)).saturating_sub(u64::from(end)) as u32);
    Rle::from_counts(size, &counts)
}

/// Visits the points of an edge on the grid of fifths, both ends included, one for each step along its longer axis.
fn walk_edge(start: [i32; 2], end: [i32; 2], mut visit: impl FnMut([i32; 2])) {
    let long = if (end[0] - start[0]).abs() >= (end[1] - start[1]).abs() { 0 } else { 1 };
    let short = 1 - long;
    // Both directions of an edge give the same points: interpolation is from the lower end on the longer axis.
    let flipped = start[long] > end[long];
    let (low, high) = if flipped { (end, start) } else { (start, end) };
    let n_steps = high[long] - low[long];
    // 0 / 0 where both ends are one point; the cast of NaN is never looked at, as the point before has the same column.
    let slope = f64::from(high[short] - low[short]) / f64::from(n_steps);
    for step in 0..=n_steps {
        let along = if flipped { n_steps - step } else { step };
        let mut point = [0; 2];
        point[long] = low[long] + along;
        point[short] = (f64::from(low[short]) + slope * f64::from(along) + 0.5) as i32;
        visit(point);
    }
}

/// Where the outline crosses the centre line of a column of pixels.
struct Crossings {
    size: Size,
    previous: Option<[i32; 2]>,
    /// Column-major index of the first pixel below the crossing; the next column's first if it is below the image.
    pixels: Vec<u32>,
}

impl Crossings {
    fn visit(&mut self, point: [i32; 2]) {
        let Some(previous) = self.previous.replace(point) else { return };
        if previous[0] == point[0] {
            return;
        }
        let left = if point[0] < previous[0] { point[0] } else { point[0] - 1 };
        // `(left + 0.5) / 5 - 0.5` is whole for these alone, and doubles have it exactly.
        let fifths = i64::from(left) - 2;
        if fifths % 5 != 0 || fifths < 0 || fifths / 5 >= i64::from(self.size.width) {
            return;
        }
        let upper = f64::from(point[1].min(previous[1]));
        let row = ((upper + 0.5) / UPSAMPLING - 0.5).clamp(0.0, f64::from(self.size.height)).ceil();
        self.pixels.push((fifths as u64 / 5 * u64::from(self.size.height) + row as u64) as u32);
    }
}

/// Points of the outline's grid per pixel.
const UPSAMPLING: f64 = 5.0;
