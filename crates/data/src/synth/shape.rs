//! Outlines of objects, and which pixels they cover.

use rand_chacha::ChaCha8Rng;

use crate::geometry::Size;
use crate::sampling::{below, unit};

/// The categories of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShapeKind {
    Ellipse,
    Polygon,
    Star,
    Blob,
}

impl ShapeKind {
    pub(super) const ALL: [ShapeKind; 4] = [ShapeKind::Ellipse, ShapeKind::Polygon, ShapeKind::Star, ShapeKind::Blob];

    pub(super) fn category_id(self) -> u64 {
        self as u64 + 1
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            ShapeKind::Ellipse => "ellipse",
            ShapeKind::Polygon => "polygon",
            ShapeKind::Star => "star",
            ShapeKind::Blob => "blob",
        }
    }
}

/// A closed polygon in image pixels.
pub(super) struct Outline(Vec<[f64; 2]>);

/// What an outline covers of an image, row-major.
pub(super) struct Coverage {
    /// Covered ones of the pixel's 3 x 3 samples, 0 to [`N_SAMPLES`].
    pub(super) samples: Vec<u8>,
    /// Whether the pixel's centre is covered.
    pub(super) center: Vec<bool>,
}

pub(super) const N_SAMPLES: u8 = 9;

impl Outline {
    /// A shape about `center` that reaches about `radius` far, turned, squeezed and varied at random.
    pub(super) fn draw(kind: ShapeKind, center: [f64; 2], radius: f64, rng: &mut ChaCha8Rng) -> Outline {
        let unit_circle = match kind {
            ShapeKind::Ellipse => (0..48).map(|idx| direction(f64::from(idx) / 48.0)).collect(),
            ShapeKind::Polygon => {
                let n_corners = 3 + below(rng, 4);
                let jittered = |idx| direction((f64::from(idx) + 0.35 * unit(rng)) / f64::from(n_corners));
                rounded((0..n_corners).map(jittered).collect(), 1)
            }
            ShapeKind::Star => {
                let n_corners = 2 * (4 + below(rng, 4));
                let inner = 0.42 + 0.23 * unit(rng);
                let corner = |idx: u32| {
                    let [x, y] = direction(f64::from(idx) / f64::from(n_corners));
                    if idx.is_multiple_of(2) { [x, y] } else { [x * inner, y * inner] }
                };
                (0..n_corners).map(corner).collect()
            }
            ShapeKind::Blob => {
                let n_corners = 7 + below(rng, 4);
                let mut corner = |idx: u32| {
                    let [x, y] = direction(f64::from(idx) / f64::from(n_corners));
                    let reach = 0.5 + 0.75 * unit(rng);
                    [x * reach, y * reach]
                };
                rounded((0..n_corners).map(&mut corner).collect(), 3)
            }
        };
        let squeeze = 0.5 + 0.5 * unit(rng);
        let [cos, sin] = direction(unit(rng));
        let place = |[x, y]: [f64; 2]| {
            let (x, y) = (x * radius, y * radius * squeeze);
            [center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]
        };
        Outline(unit_circle.into_iter().map(place).collect())
    }

    /// A bar of the given half thickness through `center`, longer than any image.
    pub(super) fn bar(center: [f64; 2], half_thickness: f64, rng: &mut ChaCha8Rng) -> Outline {
        let [cos, sin] = direction(unit(rng));
        let corner =
            |along: f64, across: f64| [center[0] + along * cos - across * sin, center[1] + along * sin + across * cos];
        let (far, half) = (10_000.0, half_thickness);
        Outline(vec![corner(-far, -half), corner(far, -half), corner(far, half), corner(-far, half)])
    }

    /// Even-odd coverage, three sample rows a pixel.
    pub(super) fn cover(&self, size: Size) -> Coverage {
        let width = size.width as usize;
        let mut coverage = Coverage { samples: vec![0; size.n_pixels()], center: vec![false; size.n_pixels()] };
        let edges = || self.0.iter().zip(self.0.iter().cycle().skip(1));
        let mut crossings = Vec::new();
        for sample_row in 0..size.height as usize * 3 {
            let y = (sample_row as f64 + 0.5) / 3.0;
            crossings.clear();
            let crossed = edges().filter(|(a, b)| (a[1] <= y) != (b[1] <= y));
            crossings.extend(crossed.map(|(a, b)| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0])));
            crossings.sort_by(f64::total_cmp);
            for span in crossings.as_chunks::<2>().0 {
                let [start, end] = span.map(|x| (x * 3.0 - 0.5).ceil().clamp(0.0, width as f64 * 3.0) as usize);
                for sample in start..end {
                    let pixel = sample_row / 3 * width + sample / 3;
                    coverage.samples[pixel] += 1;
                    coverage.center[pixel] |= sample_row % 3 == 1 && sample % 3 == 1;
                }
            }
        }
        coverage
    }
}

/// The point of the unit circle at this share of a turn, in `[0, 1)`.
#[expect(clippy::approx_constant, reason = "a rounded coefficient: another digit would change every picture")]
pub(super) fn direction(turn: f64) -> [f64; 2] {
    let quarters = turn * 4.0;
    let share = quarters - quarters.floor();
    // tan(share * pi / 4) to 0.006; from it the point of the circle exactly, without a sine.
    let half_tangent = share * (0.7854 + 0.2146 * share * share);
    let square = half_tangent * half_tangent;
    let (x, y) = ((1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square));
    match quarters.floor() as i64 % 4 {
        0 => [x, y],
        1 => [-y, x],
        2 => [-x, -y],
        _ => [y, -x],
    }
}

/// Cuts every corner off at a quarter of its edges, `n_times` (Chaikin).
fn rounded(mut corners: Vec<[f64; 2]>, n_times: usize) -> Vec<[f64; 2]> {
    for _ in 0..n_times {
        let cut = |(a, b): (&[f64; 2], &[f64; 2])| {
            let between = |share: f64| [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share];
            [between(0.25), between(0.75)]
        };
        corners = corners.iter().zip(corners.iter().cycle().skip(1)).flat_map(cut).collect();
    }
    corners
}
