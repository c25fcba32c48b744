//! Groups of neighbouring pixels, taken as one pixel of more channels where a pixel's own are too few to fill vectors.
//!
//! ```text
//! 3 channels:   r g b r g b r g b ...   16 pixels are one group of 48 values;
//!               scale, shift and sums are repeated to [48] and folded back to [3]
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::tiling::{TASKS_PER_THREAD, chunk_len};

/// How many values of a map are taken together: a whole number of pixels.
pub(crate) struct PixelGroups {
    channels: usize,
    /// Values of a group.
    width: usize,
}

impl PixelGroups {
    pub(super) fn new(channels: usize) -> Self {
        assert!(channels > 0, "batch norm: channels");
        Self { channels, width: channels * MIN_WIDTH.div_ceil(channels) }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// One value per channel, repeated for all pixels of a group.
    pub(super) fn repeat(&self, values: &[f32]) -> Vec<f32> {
        values.iter().copied().cycle().take(self.width).collect()
    }

    /// Length of a task's chunk of `len` values: whole groups.
    pub(super) fn chunk_len(&self, len: usize) -> usize {
        let minimum = MIN_CHUNK.div_ceil(self.width);
        chunk_len(len.div_ceil(self.width), TASKS_PER_THREAD, minimum) * self.width
    }

    /// Room for two sums per channel, `[2, width]`.
    pub(crate) fn zeros(&self) -> Vec<f64> {
        vec![0.0; 2 * self.width]
    }

    /// The total of the sums of several tasks ([`PixelGroups::zeros`]), `[2, channels]`.
    pub(crate) fn total(&self, tasks: Vec<Vec<f64>>) -> Vec<f64> {
        let mut totals = vec![0.0; 2 * self.channels];
        for sums in tasks {
            for (idx, sum) in sums.into_iter().enumerate() {
                totals[idx / self.width * self.channels + idx % self.width % self.channels] += sum;
            }
        }
        totals
    }

    /// Two sums per channel over `len` values, `[2, channels]`: `add(range, sums)` adds those of a task's chunk.
    pub(crate) fn sums(&self, len: usize, add: impl Fn(Range<usize>, &mut [f64]) + Sync) -> Vec<f64> {
        let chunk = self.chunk_len(len);
        let tasks = (0..len.div_ceil(chunk)).into_par_iter().map(|idx| {
            let mut sums = self.zeros();
            add(idx * chunk..((idx + 1) * chunk).min(len), &mut sums);
            sums
        });
        self.total(tasks.collect())
    }
}

/// Minimum number of values of a group.
const MIN_WIDTH: usize = 48;
/// Values below which a task costs more than it saves.
const MIN_CHUNK: usize = 4096;
