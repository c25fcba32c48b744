//! Distances of feature maps, one number per image.

use burn::tensor::{Tensor, TensorData};

/// Which cells of a map count: the upper left `rows` times `columns`, the rest shows padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedCells {
    /// From above.
    pub rows: usize,
    /// From the left.
    pub columns: usize,
}

/// Mean squared difference over channels and cells.
///
/// # Shapes
/// - `student`, `teacher`: `[batch, channels, height, width]`; `used`: one for each image, or empty where all cells count
/// - output: `[batch]`, not reduced
/// # Panics
/// If the shapes differ: a bug in the caller, not bad input.
/// # Source
/// MobileSAM (arXiv 2306.14289), section 3.2, and EdgeSAM (arXiv 2312.06660), `L_p`: mean over all cells.
pub fn feature_mse(student: Tensor<4>, teacher: Tensor<4>, used: &[UsedCells]) -> Tensor<1> {
    let difference = checked("feature_mse", student, teacher);
    cell_mean(difference.clone() * difference, used)
}

/// Mean absolute difference over channels and cells; shapes and panics as [`feature_mse`].
///
/// # Source
/// TinySAM (arXiv 2312.13789), section 3.1: distillation of the embedding.
pub fn feature_l1(student: Tensor<4>, teacher: Tensor<4>, used: &[UsedCells]) -> Tensor<1> {
    cell_mean(checked("feature_l1", student, teacher).abs(), used)
}

/// Mean over channels and cells of `d² / 2` where `|d| <= delta` and `delta (|d| - delta / 2)` beyond; shapes and panics as
/// [`feature_mse`].
///
/// # Source
/// NanoSAM `nanosam/tools/train.py`; PyTorch `huber_loss`.
pub fn feature_huber(student: Tensor<4>, teacher: Tensor<4>, delta: f64, used: &[UsedCells]) -> Tensor<1> {
    let size = checked("feature_huber", student, teacher).abs();
    // With the smaller of |d| and delta, one formula serves both sides.
    let near = size.clone().clamp_max(delta);
    cell_mean(near.clone() * size - near.clone() * near * 0.5, used)
}

/// Mean over cells of `1 - cos` of the angle between the channels of student and teacher; shapes and panics as [`feature_mse`].
///
/// A cell whose channels are all 0 has no angle: its cosine counts as 0.
///
/// # Source
/// EfficientSAM (arXiv 2312.00863), ablation of the reconstruction loss.
pub fn feature_cosine(student: Tensor<4>, teacher: Tensor<4>, used: &[UsedCells]) -> Tensor<1> {
    assert_eq!(student.dims(), teacher.dims(), "feature_cosine: shapes of the student's features and of the teacher's");
    let along = |a: Tensor<4>, b: Tensor<4>| (a * b).sum_dim(1);
    let norms = along(student.clone(), student.clone()) * along(teacher.clone(), teacher.clone());
    let cosine = along(student, teacher) / (norms + COSINE_EPSILON).sqrt();
    cell_mean(1.0 - cosine, used)
}

fn checked(who: &str, student: Tensor<4>, teacher: Tensor<4>) -> Tensor<4> {
    assert_eq!(student.dims(), teacher.dims(), "{who}: shapes of the student's features and of the teacher's");
    student - teacher
}

/// Mean over channels and used cells, `[batch]`.
fn cell_mean(x: Tensor<4>, used: &[UsedCells]) -> Tensor<1> {
    let [batch, ..] = x.dims();
    if used.is_empty() {
        return x.flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1);
    }
    assert_eq!(used.len(), batch, "used cells: one entry for each image");
    let image = |(idx, used): (usize, &UsedCells)| {
        x.clone().narrow(0, idx, 1).narrow(2, 0, used.rows).narrow(3, 0, used.columns).mean()
    };
    Tensor::cat(used.iter().enumerate().map(image).collect(), 0)
}

/// What is said of all patches of a masked image against the teacher's features of the whole image, averaged over the cells of each patch:
/// the mean squared difference over patches, visible ones too, and channels.
///
/// # Shapes
/// - `said`: `[batch, patch, channels]`; `teacher`: `[batch, channels, grid, grid]`, where `grid` is a multiple of the patches along a side
/// - output: `[batch]`, not reduced
/// # Panics
/// If the shapes do not fit: a bug in the caller.
/// # Source
/// EfficientSAM (arXiv 2312.00863), equation 3, which sums over channels: this is that divided by their number. The grid of the teacher's
/// features is pooled to that of the patches: the paper does not say how they meet.
pub fn masked_features(said: Tensor<3>, teacher: Tensor<4>) -> Tensor<1> {
    let ([batch, n_patches, channels], [_, of_teacher, grid, _]) = (said.dims(), teacher.dims());
    let side = n_patches.isqrt();
    let fits = side * side == n_patches && of_teacher == channels && grid.is_multiple_of(side);
    assert!(
        fits,
        "masked_features: {n_patches} patches of {channels} channels, {of_teacher} channels of {grid} x {grid}"
    );
    let pooled = teacher.reshape([batch, channels, side, grid / side, side, grid / side]).mean_dim(5).mean_dim(3);
    let target: Tensor<3> = pooled.reshape([batch, channels, n_patches]).swap_dims(1, 2);
    let difference = said - target;
    (difference.clone() * difference).flatten::<2>(1, 2).mean_dim(1).squeeze_dim::<1>(1)
}

/// What is said of the hidden patches of a masked image against their pixels, each patch brought to mean 0 and variance 1: the mean squared
/// difference over hidden patches and values.
///
/// # Shapes
/// - `said`, `pixels`: `[batch, patch, value]`; `visible`: for each image the patches that were shown
/// - output: `[batch]`, not reduced
/// # Panics
/// If the shapes do not fit, or all patches of an image were shown: bugs in the caller.
/// # Source
/// He et al. 2022, "Masked Autoencoders", `forward_loss` with `norm_pix_loss`: unbiased variance, plus 1e-6.
pub fn masked_pixels(said: Tensor<3>, pixels: Tensor<3>, visible: &[Vec<usize>]) -> Tensor<1> {
    assert_eq!(said.dims(), pixels.dims(), "masked_pixels: shapes of what is said and of the pixels");
    let [batch, n_patches, n_values] = pixels.dims();
    assert_eq!(visible.len(), batch, "masked_pixels: visible patches of each image");
    let mean = pixels.clone().mean_dim(2);
    let centred = pixels - mean;
    let variance = (centred.clone() * centred.clone()).sum_dim(2) / (n_values as f64 - 1.0);
    let difference = said - centred / (variance + PIXEL_EPSILON).sqrt();
    let per_patch = (difference.clone() * difference).mean_dim(2);
    let mut is_hidden = vec![1.0f32; batch * n_patches];
    for (image, visible) in visible.iter().enumerate() {
        visible.iter().for_each(|patch| is_hidden[image * n_patches + patch] = 0.0);
    }
    let counts: Vec<f32> = visible.iter().map(|visible| (n_patches - visible.len()) as f32).collect();
    assert!(counts.iter().all(|count| *count > 0.0), "masked_pixels: hidden patches of each image");
    let device = per_patch.device();
    let is_hidden: Tensor<2> = Tensor::from_data(TensorData::new(is_hidden, [batch, n_patches]), &device);
    let counts: Tensor<1> = Tensor::from_data(TensorData::new(counts, [batch]), &device);
    (per_patch.squeeze_dim::<2>(2) * is_hidden).sum_dim(1).squeeze_dim::<1>(1) / counts
}

/// Keeps the variance of a patch of one colour away from 0.
const PIXEL_EPSILON: f64 = 1e-6;

/// Keeps the root of a product of norms away from 0; far below the norms of any features.
const COSINE_EPSILON: f64 = 1e-12;
