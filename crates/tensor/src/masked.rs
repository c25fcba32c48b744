//! Networks that reconstruct what is hidden of an image: pretraining by masked autoencoding.

use burn::tensor::Tensor;

/// A network that sees some patches of an image and says something about all of them.
pub trait Reconstruct: Send + Sync {
    /// Patches along each side of an image.
    fn token_grid(&self) -> usize;

    /// Values that it says of each patch.
    fn n_outputs(&self) -> usize;

    /// What it says of every patch, `[image, patch, output]`, row by row.
    ///
    /// # Shapes
    /// - `images`: `[image, 3, side, side]`
    /// - `visible`: for each image the patches that are shown, ascending; as many for each, fewer than there are, and at least one
    ///
    /// # Panics
    /// If the images are of another size, or the patches are not as said.
    fn reconstruct(&self, images: Tensor<4>, visible: &[Vec<usize>]) -> Tensor<3>;

    /// The pixels of each patch, `[image, patch, 3 * patch side * patch side]`.
    ///
    /// # Panics
    /// If the images are of another size.
    fn patches(&self, images: Tensor<4>) -> Tensor<3>;
}
