//! How work is cut: into chunks for the threads, and a chunk into tiles for the caches.
//!
//! ```text
//! rows of a product   |------- chunk of task 0 -------|------- chunk of task 1 -------| ...
//!                     |- tile -|- tile -|- tile -|- ..|- tile -| ...
//! ```
//!
//! A chunk depends on the number of threads alone and sums of chunks are added in order, so that results are the same bits
//! for the same number of threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Chunks of a pointwise pass per thread: two, so that a thread that was late does not make the other wait long.
pub(crate) const TASKS_PER_THREAD: usize = 2;
/// Rows of a product below which a task costs more than it saves.
pub(crate) const MIN_ROWS_PER_TASK: usize = 64;
/// Rows of a tile where a weight's gradient is summed.
pub(crate) const WEIGHT_TILE_ROWS: usize = 192;

/// Length of a chunk of `total` units for `per_thread` tasks per thread, at least `minimum` units.
pub(crate) fn chunk_len(total: usize, per_thread: usize, minimum: usize) -> usize {
    total.div_ceil(rayon::current_num_threads() * per_thread).max(minimum).max(1)
}

/// Rows of `columns` values of a tile: they fill about half of a second-level cache.
pub(crate) fn tile_rows(columns: usize) -> usize {
    (TILE_VALUES / columns).clamp(MIN_TILE_ROWS, MAX_TILE_ROWS) / MIN_TILE_ROWS * MIN_TILE_ROWS
}

/// Rows of an image per task: whole images where there are enough of them.
pub(crate) fn band_rows(batch: usize, rows_per_image: usize) -> usize {
    let tasks_per_image = (2 * rayon::current_num_threads()).div_ceil(batch.max(1));
    rows_per_image.div_ceil(tasks_per_image).max(1)
}

/// Calls `run(image, band, values)` for every band of `band_len` values of every image of `out`, in parallel; its
/// results in order.
pub(crate) fn map_bands<T: Send>(
    image_len: usize,
    band_len: usize,
    out: &mut [MaybeUninit<f32>],
    run: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) -> T + Sync + Send,
) -> Vec<T> {
    bands(image_len, band_len, out).into_par_iter().map(|(image, band, out)| run(image, band, out)).collect()
}

/// Calls `run(sums, image, band, values)` as [`map_bands`] does, with the sums of the task it belongs to; the sums of all
/// tasks, in order.
pub(crate) fn fold_bands<T: Send>(
    image_len: usize,
    band_len: usize,
    tasks_per_thread: usize,
    out: &mut [MaybeUninit<f32>],
    zeros: impl Fn() -> T + Sync,
    run: impl Fn(&mut T, usize, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<T> {
    let mut bands = bands(image_len, band_len, out);
    let chunk = chunk_len(bands.len(), tasks_per_thread, 1);
    let sums = bands.par_chunks_mut(chunk).map(|bands| {
        let mut sums = zeros();
        bands.iter_mut().for_each(|(image, band, out)| run(&mut sums, *image, *band, out));
        sums
    });
    sums.collect()
}

/// Index of the image, index of the band in it, and values of each band.
fn bands(
    image_len: usize,
    band_len: usize,
    out: &mut [MaybeUninit<f32>],
) -> Vec<(usize, usize, &mut [MaybeUninit<f32>])> {
    let images = out.chunks_mut(image_len).enumerate();
    let bands = images.flat_map(|(image, out)| {
        let bands = out.chunks_mut(band_len).enumerate();
        bands.map(move |(band, out)| (image, band, out))
    });
    bands.collect()
}

/// The sum of the tasks' sums, added in their order.
///
/// # Panics
/// If there is none.
pub(crate) fn sum_in_order(sums: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sums = sums.into_iter();
    let mut total = sums.next().expect("an image has at least one pixel");
    let others: Vec<Vec<f32>> = sums.collect();
    total.par_chunks_mut(SUM_CHUNK).enumerate().for_each(|(idx, total)| {
        for other in &others {
            total.iter_mut().zip(&other[idx * SUM_CHUNK..]).for_each(|(total, value)| *total += value);
        }
    });
    total
}

/// Values of a tile.
const TILE_VALUES: usize = 64 * 1024;
/// A multiple of the rows that each instruction set multiplies at once.
const MIN_TILE_ROWS: usize = 60;
const MAX_TILE_ROWS: usize = 1020;
/// Values that a task of [`sum_in_order`] adds up.
const SUM_CHUNK: usize = 16384;
