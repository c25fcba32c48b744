//! Colours and patterns of surfaces.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::shape::direction;
use crate::sampling::{below, unit};

/// Red, green, blue, each from 0 to 255 (and beyond, before light and clipping).
pub(super) type Color = [f64; 3];

/// A surface: two colours and how they alternate.
pub(super) struct Paint {
    colors: [Color; 2],
    pattern: Pattern,
    /// Direction of stripes and checks.
    along: [f64; 2],
    /// Pixels until the pattern repeats.
    period: f64,
    seed: u64,
}

enum Pattern {
    Gradient,
    Stripes,
    Checks,
    Dots,
    Noise,
}

impl Paint {
    /// A pattern between `base` and a second colour that has `contrast` (0 to 1) of another one.
    pub(super) fn draw(base: Color, contrast: f64, period: f64, rng: &mut ChaCha8Rng) -> Paint {
        let other = draw_color(rng);
        let pattern = match below(rng, 7) {
            0 | 1 => Pattern::Gradient,
            2 => Pattern::Stripes,
            3 => Pattern::Checks,
            4 => Pattern::Dots,
            _ => Pattern::Noise,
        };
        let along = direction(unit(rng));
        Paint { colors: [base, mix(base, other, contrast)], pattern, along, period, seed: rng.next_u64() }
    }

    /// Value noise only, for grounds.
    pub(super) fn noise(colors: [Color; 2], period: f64, rng: &mut ChaCha8Rng) -> Paint {
        Paint { colors, pattern: Pattern::Noise, along: [1.0, 0.0], period, seed: rng.next_u64() }
    }

    /// Colour at a point, in pixels from wherever the surface is anchored.
    pub(super) fn color_at(&self, x: f64, y: f64) -> Color {
        let (u, v) = (x * self.along[0] + y * self.along[1], y * self.along[0] - x * self.along[1]);
        let (u, v) = (u / self.period, v / self.period);
        // Edges between the colours are about a pixel and a half wide.
        let edge = |signed: f64| (0.5 + signed * self.period * 0.33).clamp(0.0, 1.0);
        let share = match self.pattern {
            Pattern::Gradient => (0.5 + 0.25 * u).clamp(0.0, 1.0),
            Pattern::Stripes => edge(zigzag(u)),
            Pattern::Checks => edge(zigzag(u) * zigzag(v) * 2.0),
            Pattern::Dots => {
                let (du, dv) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                edge(0.3 - (du * du + dv * dv).sqrt())
            }
            Pattern::Noise => fractal_noise(self.seed, u * 2.0, v * 2.0),
        };
        mix(self.colors[0], self.colors[1], share)
    }
}

/// A colour that is neither black nor white.
pub(super) fn draw_color(rng: &mut ChaCha8Rng) -> Color {
    let mut channel = || 25.0 + 210.0 * unit(rng);
    [channel(), channel(), channel()]
}

/// A colour at least `distance` away from `others`, or the farthest of a few tries.
pub(super) fn draw_color_away_from(others: &[Color], distance: f64, rng: &mut ChaCha8Rng) -> Color {
    let mut best = (-1.0, [0.0; 3]);
    for _ in 0..30 {
        let color = draw_color(rng);
        let nearest = others.iter().map(|other| color_distance(color, *other)).fold(f64::INFINITY, f64::min);
        if nearest > best.0 {
            best = (nearest, color);
        }
        if nearest >= distance {
            break;
        }
    }
    best.1
}

pub(super) fn mix(a: Color, b: Color, share_of_b: f64) -> Color {
    std::array::from_fn(|channel| a[channel] + (b[channel] - a[channel]) * share_of_b)
}

/// Smooth value noise of three octaves, in `[0, 1]`.
pub(super) fn fractal_noise(seed: u64, x: f64, y: f64) -> f64 {
    (value_noise(seed, x, y) * 4.0
        + value_noise(seed ^ 1, x * 2.0, y * 2.0) * 2.0
        + value_noise(seed ^ 2, x * 4.0, y * 4.0))
        / 7.0
}

/// A number in `[0, 1)` for a point of a grid.
pub(super) fn hash(seed: u64, x: i64, y: i64) -> f64 {
    // Two rounds of the mixer of SplitMix64.
    let mixed = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let z = mixed(seed.wrapping_add((x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (mixed(z.wrapping_add((y as u64).wrapping_mul(0xd1b5_4a32_d192_ed03))) >> 11) as f64 / (1u64 << 53) as f64
}

fn value_noise(seed: u64, x: f64, y: f64) -> f64 {
    let (column, row) = (x.floor(), y.floor());
    let smooth = |t: f64| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - column), smooth(y - row));
    let corner = |dx: i64, dy: i64| hash(seed, column as i64 + dx, row as i64 + dy);
    let upper = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * tx;
    let lower = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * tx;
    upper + (lower - upper) * ty
}

/// Between -0.5 and 0.5, with period 1.
fn zigzag(t: f64) -> f64 {
    (t - t.floor() - 0.5).abs() * 2.0 - 0.5
}

fn color_distance(a: Color, b: Color) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}
