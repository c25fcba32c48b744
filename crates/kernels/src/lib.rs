//! CPU kernels over slices: forward and backward of the student family's operators, a transformer's, filters and colours of pictures.
//!
//! This crate never sees tensors, graphs or files, and no autodiff framework.
//!
//! Feature maps are NHWC: `[batch, height, width, channels]`, channels contiguous. Convolution weights keep
//! PyTorch's order `[out, in / groups, kernel, kernel]`. Work is split by the number of threads of the current rayon
//! pool and sums are taken in a fixed order: results are the same bits for the same number of threads and CPU.
//! Every function panics if a slice has not the length that its shape says: a bug in the caller, not bad input.

pub mod activation;
pub mod attention;
pub mod bilinear;
mod buffer;
pub mod colours;
pub mod conv;
pub mod depthwise;
pub mod gelu;
mod implicit_im2col;
mod instruction_set;
mod lanes;
pub mod layer_norm;
pub mod linear;
pub mod mask;
pub mod mask_products;
mod matrix;
#[cfg(not(target_family = "wasm"))]
pub mod memory;
pub mod norm;
pub mod optimizer;
pub mod pixelwise;
pub mod planes;
#[cfg(test)]
mod reference;
pub mod resample;
pub mod round;
pub mod separable;
mod softmax;
mod tiling;
mod upsampled_depthwise;
mod vector;
pub mod windows;
