//! One scene: ground, clutter, objects with shadows, light and a camera's blur and noise.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::SynthConfig;
use super::shape::{Coverage, N_SAMPLES, Outline, ShapeKind, direction};
use super::texture::{Color, Paint, draw_color, draw_color_away_from, fractal_noise, hash, mix};
use crate::geometry::Size;
use crate::image_file::RgbImage;
use crate::mask::Mask;
use crate::sampling::{Purpose, below, stream, unit};

/// One rendered image and its objects, back to front.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The picture.
    pub image: RgbImage,
    /// The annotated objects.
    pub objects: Vec<SceneObject>,
    /// Objects with too little visible.
    pub n_dropped: usize,
}

/// One object of a scene.
#[derive(Debug, Clone)]
pub struct SceneObject {
    /// From 1: ellipse, polygon, star, blob.
    pub category_id: u64,
    /// The pixels whose centre shows the object.
    pub visible: Mask,
}

/// Renders one image of `config`, which [`write_synth`](super::write_synth) has found in range.
pub fn render_scene(config: &SynthConfig, image_id: u32) -> Scene {
    let mut rng = stream(Purpose::Synth, config.seed, u64::from(image_id), 0);
    let size = config.image_size;
    let unit_len = f64::from(size.width.min(size.height)) / 256.0;
    let mut canvas = Canvas::ground(size, unit_len, &mut rng);
    canvas.clutter(unit_len, &mut rng);

    let n_objects = config.min_objects + below(&mut rng, config.max_objects - config.min_objects + 1);
    let kinds: Vec<ShapeKind> = (0..n_objects).map(|_| canvas.object(unit_len, &mut rng)).collect();
    if unit(&mut rng) < 0.3 {
        canvas.bar_in_front(unit_len, &mut rng);
    }

    let image = canvas.photograph(&mut rng);
    let visible = |idx: usize| {
        let bits = canvas.owner.iter().map(|owner| u8::from(*owner == Some(idx))).collect();
        Mask { size, bits }
    };
    let objects = kinds.iter().enumerate();
    let objects = objects.map(|(idx, kind)| SceneObject { category_id: kind.category_id(), visible: visible(idx) });
    let (objects, dropped): (Vec<_>, Vec<_>) =
        objects.partition(|object| object.visible.area() >= u64::from(config.min_visible_area));
    Scene { image, objects, n_dropped: dropped.len() }
}

/// The picture as it is painted over, back to front.
struct Canvas {
    size: Size,
    colors: Vec<Color>,
    /// The object that each pixel's centre shows.
    owner: Vec<Option<usize>>,
    n_objects: usize,
    ground: [Color; 2],
    /// Colours of the objects so far.
    used: Vec<Color>,
    /// From where the light comes: a point of the unit circle.
    light: [f64; 2],
}

impl Canvas {
    /// A wall and a floor, or one ground.
    fn ground(size: Size, unit_len: f64, rng: &mut ChaCha8Rng) -> Canvas {
        let ground = [draw_color(rng), draw_color(rng)];
        let grain = (18.0 + 60.0 * unit(rng)) * unit_len;
        let wall_tone = mix(ground[0], draw_color(rng), 0.25);
        let wall = Paint::noise([ground[0], wall_tone], grain, rng);
        let floor = Paint::draw(ground[1], 0.18, grain * 0.6, rng);
        let horizon = f64::from(size.height) * (0.25 + 1.1 * unit(rng));
        let slope = 0.5 * unit(rng) - 0.25;
        let color = |x: f64, y: f64| {
            let below_horizon = (y - horizon - slope * x + 0.5).clamp(0.0, 1.0);
            mix(wall.color_at(x, y), floor.color_at(x, y), below_horizon)
        };
        let colors = pixel_centers(size).map(|[x, y]| color(x, y)).collect();
        let owner = vec![None; size.n_pixels()];
        Canvas { size, colors, owner, n_objects: 0, ground, used: Vec::new(), light: direction(unit(rng)) }
    }

    /// Small things in colours near the ground's, and a few lines: nothing of it is annotated.
    fn clutter(&mut self, unit_len: f64, rng: &mut ChaCha8Rng) {
        for _ in 0..12 + below(rng, 14) {
            let outline = if below(rng, 6) == 0 {
                Outline::bar(self.point(0.0, rng), (0.6 + 1.2 * unit(rng)) * unit_len, rng)
            } else {
                let kind = ShapeKind::ALL[below(rng, 4) as usize];
                Outline::draw(kind, self.point(0.0, rng), (2.0 + 6.0 * unit(rng)) * unit_len, rng)
            };
            let ground = self.ground[below(rng, 2) as usize];
            let color = mix(ground, draw_color(rng), 0.4);
            self.paint(&outline.cover(self.size), |_, _| color);
        }
    }

    /// One object with its shadow; becomes the owner of the pixels it covers.
    fn object(&mut self, unit_len: f64, rng: &mut ChaCha8Rng) -> ShapeKind {
        let kind = ShapeKind::ALL[below(rng, 4) as usize];
        let spread = unit(rng);
        let radius = (14.0 + 56.0 * spread * spread) * unit_len;
        let center = self.point(0.06, rng);
        let coverage = Outline::draw(kind, center, radius, rng).cover(self.size);

        let mut others = self.ground.to_vec();
        others.extend(&self.used);
        let base = draw_color_away_from(&others, 95.0, rng);
        self.used.push(base);
        let period = (radius * (0.25 + 0.35 * unit(rng))).max(4.0);
        let paint = Paint::draw(base, 0.2 + 0.35 * unit(rng), period, rng);

        let shadow_len = (2.0 + 4.0 * unit(rng)) * unit_len;
        self.shadow(&coverage, shadow_len, 0.25 + 0.25 * unit(rng));
        let (light, slant) = (self.light, 0.1 + 0.2 * unit(rng));
        self.paint(&coverage, |x, y| {
            let (x, y) = (x - center[0], y - center[1]);
            let toward_light = (x * light[0] + y * light[1]) / radius;
            let from_center = (x * x + y * y) / (radius * radius);
            paint.color_at(x, y).map(|value| value * (1.05 + slant * toward_light - 0.15 * from_center))
        });
        for (owner, _) in self.owner.iter_mut().zip(&coverage.center).filter(|(_, inside)| **inside) {
            *owner = Some(self.n_objects);
        }
        self.n_objects += 1;
        kind
    }

    /// A pole or a branch in front of everything.
    fn bar_in_front(&mut self, unit_len: f64, rng: &mut ChaCha8Rng) {
        let coverage = Outline::bar(self.point(0.2, rng), (1.5 + 3.0 * unit(rng)) * unit_len, rng).cover(self.size);
        let color = draw_color_away_from(&self.used, 60.0, rng);
        let grain = Paint::noise([color, mix(color, [60.0; 3], 0.4)], 12.0 * unit_len, rng);
        self.paint(&coverage, |x, y| grain.color_at(x, y));
        for (owner, _) in self.owner.iter_mut().zip(&coverage.center).filter(|(_, inside)| **inside) {
            *owner = None;
        }
    }

    /// Darkens what lies away from the light behind a shape, with soft edges.
    fn shadow(&mut self, coverage: &Coverage, len: f64, darkness: f64) {
        let (width, height) = (i64::from(self.size.width), i64::from(self.size.height));
        let shift = self.light.map(|toward| (toward * len + 0.5).floor() as i64);
        let (mut shaded, side) = (Vec::with_capacity(self.colors.len()), 2 * SHADOW_BLUR + 1);
        for y in 0..height {
            for x in 0..width {
                let mut sum = 0u32;
                for sy in (y + shift[1] - SHADOW_BLUR).max(0)..(y + shift[1] + SHADOW_BLUR + 1).min(height) {
                    for sx in (x + shift[0] - SHADOW_BLUR).max(0)..(x + shift[0] + SHADOW_BLUR + 1).min(width) {
                        sum += u32::from(coverage.samples[(sy * width + sx) as usize]);
                    }
                }
                shaded.push(f64::from(sum) / (side * side * i64::from(N_SAMPLES)) as f64);
            }
        }
        for (color, shaded) in self.colors.iter_mut().zip(shaded).filter(|(_, shaded)| *shaded > 0.0) {
            *color = color.map(|value| value * (1.0 - darkness * shaded));
        }
    }

    fn paint(&mut self, coverage: &Coverage, color_at: impl Fn(f64, f64) -> Color) {
        let pixels = self.colors.iter_mut().zip(&coverage.samples).zip(pixel_centers(self.size));
        for ((color, samples), [x, y]) in pixels.filter(|((_, samples), _)| **samples > 0) {
            *color = mix(*color, color_at(x, y), f64::from(*samples) / f64::from(N_SAMPLES));
        }
    }

    /// A point of the picture, at least this share of its size away from the border.
    fn point(&self, margin: f64, rng: &mut ChaCha8Rng) -> [f64; 2] {
        [self.size.width, self.size.height].map(|len| f64::from(len) * (margin + (1.0 - 2.0 * margin) * unit(rng)))
    }

    /// Light that falls off across the scene, the lens's blur, and the sensor's noise.
    fn photograph(&self, rng: &mut ChaCha8Rng) -> RgbImage {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let falloff = 0.25 * unit(rng);
        let (patches, noise, grain) = (rng.next_u64(), rng.next_u64(), 4.0 + 8.0 * unit(rng));
        let mut pixels = Vec::with_capacity(self.colors.len() * 3);
        for (idx, [x, y]) in pixel_centers(self.size).enumerate() {
            let (column, row) = (idx % width, idx / width);
            let (from_x, from_y) = (x / width as f64 * 2.0 - 1.0, y / height as f64 * 2.0 - 1.0);
            let patch = fractal_noise(patches, from_x * 1.5, from_y * 1.5) - 0.5;
            let light = 1.0 + falloff * (from_x * self.light[0] + from_y * self.light[1]) + 0.2 * patch;
            for channel in 0..3 {
                let mut blurred = 0.0;
                for (dy, weight_y) in [(0, 1.0), (1, 2.0), (2, 1.0)] {
                    let line = (row + dy).saturating_sub(1).min(height - 1) * width;
                    for (dx, weight_x) in [(0, 1.0), (1, 2.0), (2, 1.0)] {
                        let near = (column + dx).saturating_sub(1).min(width - 1);
                        blurred += self.colors[line + near][channel] * (weight_x * weight_y / 16.0);
                    }
                }
                let draws = (0..3).map(|draw| hash(noise, (idx * 3 + channel) as i64, draw) - 0.5);
                let speckle: f64 = draws.sum::<f64>() * grain;
                pixels.push((blurred * light + speckle + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        RgbImage { size: self.size, pixels }
    }
}

/// Centres of the pixels of an image, row-major.
fn pixel_centers(size: Size) -> impl Iterator<Item = [f64; 2]> {
    let row = move |y: u32| (0..size.width).map(move |x| [f64::from(x) + 0.5, f64::from(y) + 0.5]);
    (0..size.height).flat_map(row)
}

/// Half the side of the box that softens a shadow, in pixels.
const SHADOW_BLUR: i64 = 2;
