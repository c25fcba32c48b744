//! The filter that shrinks or enlarges a part of an image onto a student's grid: a triangle in fixed point, along the columns' axis
//! first, then along the rows'.

use std::ops::Range;

use sensei_kernels::resample::{Filter, PixelRows, Taps, WEIGHT_BITS, filter_columns, filter_rows};

/// The filter of one axis: for each output pixel its taps inside the image, and what the padding adds.
pub(crate) struct AxisFilter {
    /// Their first pixels are counted from the first [touched](Self::touched) one.
    taps: Vec<Taps>,
    weights: Vec<i32>,
    touched: Range<usize>,
}

impl AxisFilter {
    /// Triangle filter for `grid` outputs over `[start, end)` of an axis of `image_len` pixels, in fixed point; pixels outside of the
    /// image are `padding`.
    pub(crate) fn new(start: f64, end: f64, grid: usize, image_len: usize, padding: u8) -> Self {
        let window_start = start.floor();
        let window_len = end.ceil() - window_start;
        let scale = (end - start) / grid as f64;
        let support = scale.max(1.0);
        let mut filter = AxisFilter { taps: Vec::with_capacity(grid), weights: Vec::new(), touched: 0..0 };
        let mut exact = Vec::new();
        for out in 0..grid {
            let center = (start - window_start) + (out as f64 + 0.5) * scale;
            let low = (center - support + 0.5).trunc().max(0.0);
            let high = (center + support + 0.5).trunc().min(window_len);
            exact.clear();
            exact.extend((0..(high - low) as usize).map(|tap| {
                let distance = ((tap as f64 + low - center + 0.5) * (1.0 / support)).abs();
                if distance < 1.0 { 1.0 - distance } else { 0.0 }
            }));
            let total: f64 = exact.iter().sum();
            let first_in_image = (window_start + low) as i64;
            let mut taps = Taps { first: 0, len: 0, first_weight: filter.weights.len(), rest: HALF };
            for (position, weight) in (first_in_image..).zip(&exact) {
                let weight = (0.5 + weight / total * f64::from(1 << WEIGHT_BITS)) as i32;
                if position < 0 || position >= image_len as i64 {
                    taps.rest += weight * i32::from(padding);
                    continue;
                }
                if taps.len == 0 {
                    taps.first = position as usize;
                }
                taps.len += 1;
                filter.weights.push(weight);
            }
            filter.taps.push(taps);
        }
        let used = || filter.taps.iter().filter(|taps| taps.len > 0);
        let start = used().map(|taps| taps.first).min().unwrap_or(0);
        filter.touched = start..used().map(|taps| taps.first + taps.len).max().unwrap_or(start);
        filter.taps.iter_mut().for_each(|taps| taps.first = taps.first.saturating_sub(start));
        filter
    }

    /// The source pixels that some output needs; empty if there is none.
    pub(crate) fn touched(&self) -> Range<usize> {
        self.touched.clone()
    }

    /// Filters the columns of RGB rows of `row_bytes` bytes, which begin with the image's column `first_column`: rows of three bytes
    /// for each of the filter's outputs.
    pub(crate) fn filter_columns(&self, rows: &[u8], row_bytes: usize, first_column: usize) -> Vec<u8> {
        let Range { start, end } = self.touched;
        let columns = start.saturating_sub(first_column)..end.saturating_sub(first_column);
        filter_columns(self.as_filter(), &PixelRows { bytes: rows, row_bytes, columns })
    }

    /// Filters rows of bytes, of which the first is the image's first [touched](Self::touched) one: a row for each of the filter's
    /// outputs.
    pub(crate) fn filter_rows(&self, rows: &[u8], row_bytes: usize) -> Vec<u8> {
        filter_rows(self.as_filter(), rows, row_bytes)
    }

    fn as_filter(&self) -> Filter<'_> {
        Filter { taps: &self.taps, weights: &self.weights }
    }
}

const HALF: i32 = 1 << (WEIGHT_BITS - 1);
