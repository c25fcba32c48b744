//! Prompts, and networks that answer them about an image that was encoded before.

use burn::tensor::Tensor;

use crate::masks::MaskLogits;
use crate::network::{BatchStats, Inputs, NetworkError, Pass};

/// A point of a prompt, in pixels of the network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptPoint {
    /// From the left; a pixel's centre is at 0.5.
    pub x: f64,
    /// From above.
    pub y: f64,
    /// What it says.
    pub label: PointLabel,
}

/// What a point says; the numbers are those of the published code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointLabel {
    /// Nothing: it fills up a prompt.
    Padding = -1,
    /// Not on the object.
    Background = 0,
    /// On the object.
    Foreground = 1,
    /// Upper left corner of the box.
    UpperLeft = 2,
    /// Lower right corner of the box.
    LowerRight = 3,
}

/// Which of its masks a network answers a prompt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskTokens {
    /// The first, for clear prompts.
    Single,
    /// All four, the single one first.
    All,
}

/// What a network answers to some prompts about one image.
#[derive(Debug, Clone)]
pub struct Prompted {
    /// `[prompt, mask, height, width]`, over the whole square that the image was put into.
    pub masks: MaskLogits,
    /// The IoU that it expects of each mask, `[prompt, mask]`; not bounded.
    pub scores: Tensor<2>,
}

/// An image, or several, on the way to their masks.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[image, channels, grid, grid]`.
    pub embedding: Tensor<4>,
    /// Features of the taps that were asked for, in that order, each `[image, channels, height, width]`.
    pub taps: Vec<Tensor<4>>,
    /// What the batch norms saw, in the order of the network; empty in a pass that uses the running statistics.
    pub norm_stats: Vec<BatchStats>,
}

/// What answers prompts about an image's embedding.
pub trait Decode: Send + Sync {
    /// Side of the square that prompts are given in, in pixels.
    fn prompt_side(&self) -> usize;

    /// Masks for some prompts about one image. On an embedding of an autodiff device it has gradients.
    ///
    /// # Shapes
    /// - `embedding`: `[1, channels, grid, grid]`
    ///
    /// # Panics
    /// If the embedding is of another shape, there is no prompt, or they have different numbers of points.
    fn decode(&self, embedding: Tensor<4>, prompts: &[Vec<PromptPoint>], masks: MaskTokens) -> Prompted;
}

/// A network that encodes an image once and then answers prompts about it.
pub trait Promptable: Decode {
    /// Name of the group of parameters that makes the embedding.
    fn encoder_group(&self) -> &str;

    /// Channels, height and width of the embedding.
    fn embedding_shape(&self) -> [usize; 3];

    /// Encodes images.
    ///
    /// # Errors
    /// If a tap does not exist, or the network does not compute such a pass.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    fn encode(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Encoded, NetworkError>;
}

/// Boxes that a network proposes for an image, relative to fixed anchors.
#[derive(Debug, Clone)]
pub struct Proposals {
    /// Logits of there being an object, `[image, anchor]`.
    pub scores: Tensor<2>,
    /// `(x - anchor x) / anchor width`, the same of y, `ln(width / anchor width)` and the same of the height, `[image, anchor, 4]`.
    pub deltas: Tensor<3>,
}

/// A network that proposes boxes of whole objects, from an embedding.
pub trait Propose: Send + Sync {
    /// Name of the group of parameters that makes them.
    fn group(&self) -> &str;

    /// `[centre x, centre y, width, height]` of each anchor, in pixels of the square that prompts are given in.
    fn anchors(&self) -> Vec<[f64; 4]>;

    /// Proposals for images.
    ///
    /// # Shapes
    /// - `embedding`: `[image, channels, grid, grid]`
    ///
    /// # Panics
    /// If the embedding is of another shape.
    fn propose(&self, embedding: Tensor<4>) -> Proposals;
}

/// Parts of a network that bring features of its taps to a teacher's width, in training alone.
pub trait Adapt: Send + Sync {
    /// Name of the group of parameters that they are made of.
    fn group(&self) -> &str;

    /// Features through the adapter of this name, `[image, channels, height, width]`.
    ///
    /// # Panics
    /// If there is no such adapter, or it reads other channels.
    fn adapt(&self, name: &str, features: Tensor<4>) -> Tensor<4>;
}

/// IoU of two boxes `[centre x, centre y, width, height]`; 0 if both are empty.
pub fn box_iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let along = |axis: usize| {
        let start = (a[axis] - a[axis + 2] / 2.0).max(b[axis] - b[axis + 2] / 2.0);
        let end = (a[axis] + a[axis + 2] / 2.0).min(b[axis] + b[axis + 2] / 2.0);
        (end - start).max(0.0)
    };
    let both = along(0) * along(1);
    let either = a[2] * a[3] + b[2] * b[3] - both;
    if either > 0.0 { both / either } else { 0.0 }
}
