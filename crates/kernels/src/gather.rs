//! Copies of the pixels that a convolution's taps read, side by side, so that a convolution is a matrix product.

use std::mem::MaybeUninit;
use std::ops::Range;

/// For each pixel `(y, x)` of a grid: the source pixels `(y * step + taps_y[i], x * step + taps_x[j])`, zero outside.
pub(crate) struct Gather {
    pub source_height: usize,
    pub source_width: usize,
    pub channels: usize,
    pub taps_y: Vec<isize>,
    pub taps_x: Vec<isize>,
    pub step: usize,
    pub grid_height: usize,
    pub grid_width: usize,
}

impl Gather {
    /// Values per grid pixel: taps in rows, then columns, then channels.
    pub(crate) fn columns(&self) -> usize {
        self.taps_y.len() * self.taps_x.len() * self.channels
    }

    /// Writes the grid pixels `rows`, counted through the batch, into `out`, `[rows.len(), columns]`.
    pub(crate) fn fill(&self, source: &[f32], rows: Range<usize>, out: &mut [MaybeUninit<f32>]) {
        assert_eq!(out.len(), rows.len() * self.columns(), "gather: output");
        let image_len = self.source_height * self.source_width * self.channels;
        let consecutive = self.taps_x.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let run = self.taps_x.len() * self.channels;
        let mut out = out.chunks_exact_mut(run);
        for row in rows {
            let (line, x) = (row / self.grid_width, row % self.grid_width);
            let (image, y) = (line / self.grid_height, line % self.grid_height);
            let image = &source[image * image_len..][..image_len];
            let x_start = (x * self.step) as isize + self.taps_x[0];
            let inside = x_start >= 0 && x_start as usize + self.taps_x.len() <= self.source_width;
            for tap_y in &self.taps_y {
                let out = out.next().expect("asserted above: one run per row and tap row");
                let source_y = (y * self.step) as isize + tap_y;
                if source_y < 0 || source_y as usize >= self.source_height {
                    out.fill(MaybeUninit::new(0.0));
                    continue;
                }
                let line = &image[source_y as usize * self.source_width * self.channels..];
                if consecutive && inside {
                    out.write_copy_of_slice(&line[x_start as usize * self.channels..][..run]);
                    continue;
                }
                for (tap_x, out) in self.taps_x.iter().zip(out.chunks_exact_mut(self.channels)) {
                    let source_x = (x * self.step) as isize + tap_x;
                    if source_x < 0 || source_x as usize >= self.source_width {
                        out.fill(MaybeUninit::new(0.0));
                    } else {
                        out.write_copy_of_slice(&line[source_x as usize * self.channels..][..self.channels]);
                    }
                }
            }
        }
    }
}
