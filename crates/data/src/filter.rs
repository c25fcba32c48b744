//! The filter that shrinks or enlarges a part of an image onto a student's grid: a triangle in fixed point, along the columns' axis
//! first, then along the rows'.
//!
//! Products are of a byte and half a weight, 11 bits each: every CPU multiplies several pairs of 16 bits at once, and the sum of the
//! halves' sums is the sum of the whole products.

use std::ops::Range;

/// The filter of one axis: for each output pixel its taps inside the image, and what the padding adds.
pub(crate) struct AxisFilter {
    taps: Vec<Taps>,
    weights: Vec<Weight>,
}

struct Taps {
    /// First source pixel, an index into the image's row or column.
    first: usize,
    len: usize,
    first_weight: usize,
    /// Sum over the taps outside of the image of weight times the padding, and the half that rounds.
    rest: i32,
}

/// `high * 2^HALF_BITS + low`, of at most [`WEIGHT_BITS`] bits.
#[derive(Clone, Copy)]
struct Weight {
    high: i16,
    low: i16,
}

impl AxisFilter {
    /// Triangle filter for `grid` outputs over `[start, end)` of an axis of `image_len` pixels, in fixed point; pixels outside of the
    /// image are `padding`.
    pub(crate) fn new(start: f64, end: f64, grid: usize, image_len: usize, padding: u8) -> Self {
        let window_start = start.floor();
        let window_len = end.ceil() - window_start;
        let scale = (end - start) / grid as f64;
        let support = scale.max(1.0);
        let mut filter = AxisFilter { taps: Vec::with_capacity(grid), weights: Vec::new() };
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
                filter
                    .weights
                    .push(Weight { high: (weight >> HALF_BITS) as i16, low: (weight & ((1 << HALF_BITS) - 1)) as i16 });
            }
            filter.taps.push(taps);
        }
        filter
    }

    /// The source pixels that some output needs; empty if there is none.
    pub(crate) fn touched(&self) -> Range<usize> {
        let used = || self.taps.iter().filter(|taps| taps.len > 0);
        let first = used().map(|taps| taps.first).min().unwrap_or(0);
        first..used().map(|taps| taps.first + taps.len).max().unwrap_or(first)
    }

    /// Filters the columns of RGB rows of `row_bytes` bytes, which begin with the image's column `first_column`: rows of three bytes
    /// for each of the filter's outputs.
    pub(crate) fn filter_columns(&self, rows: &[u8], row_bytes: usize, first_column: usize) -> Vec<u8> {
        let (touched, out_bytes) = (self.touched(), self.taps.len() * 3);
        let mut out = vec![0; rows.len() / row_bytes * out_bytes];
        // Of each touched column the pixels of some rows, side by side: what is computed for one row is computed for all.
        let mut columns = vec![[0i16; 3 * ROWS]; touched.len()];
        for (out, rows) in out.chunks_mut(ROWS * out_bytes).zip(rows.chunks(ROWS * row_bytes)) {
            for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                let pixels =
                    row[(touched.start - first_column) * 3..(touched.end - first_column) * 3].as_chunks::<3>().0;
                for (column, pixel) in columns.iter_mut().zip(pixels) {
                    for channel in 0..3 {
                        column[channel * ROWS + lane] = i16::from(pixel[channel]);
                    }
                }
            }
            for (idx, taps) in self.taps.iter().enumerate() {
                let columns = &columns[taps.first.saturating_sub(touched.start)..][..taps.len];
                let bytes = weighted_bytes(columns.iter().copied(), self.weights_of(taps), taps.rest);
                for (lane, out) in out.chunks_exact_mut(out_bytes).enumerate() {
                    let pixel = [0, 1, 2].map(|channel| bytes[channel * ROWS + lane]);
                    out[idx * 3..idx * 3 + 3].copy_from_slice(&pixel);
                }
            }
        }
        out
    }

    /// Filters rows of bytes, of which the first is the image's first [touched](Self::touched) one: a row for each of the filter's
    /// outputs.
    pub(crate) fn filter_rows(&self, rows: &[u8], row_bytes: usize) -> Vec<u8> {
        let first_row = self.touched().start;
        let mut out = vec![0; self.taps.len() * row_bytes];
        for (out, taps) in out.chunks_exact_mut(row_bytes).zip(&self.taps) {
            let rows = &rows[taps.first.saturating_sub(first_row) * row_bytes..];
            let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
            let n_in_blocks = blocks.len() * BLOCK;
            for (block_idx, block) in blocks.iter_mut().enumerate() {
                let of_rows =
                    rows.chunks_exact(row_bytes).map(|row| row.as_chunks::<BLOCK>().0[block_idx].map(i16::from));
                *block = weighted_bytes(of_rows, self.weights_of(taps), taps.rest);
            }
            for (at, out) in (n_in_blocks..).zip(rest) {
                let product = |(row, weight): (usize, &Weight)| i32::from(rows[row * row_bytes + at]) * weight.whole();
                *out = to_byte(taps.rest + self.weights_of(taps).iter().enumerate().map(product).sum::<i32>());
            }
        }
        out
    }

    fn weights_of(&self, taps: &Taps) -> &[Weight] {
        &self.weights[taps.first_weight..taps.first_weight + taps.len]
    }
}

impl Weight {
    fn whole(self) -> i32 {
        (i32::from(self.high) << HALF_BITS) + i32::from(self.low)
    }
}

/// The weighted sums of some values side by side, as bytes.
#[inline(always)]
fn weighted_bytes<const LANES: usize>(
    values: impl Iterator<Item = [i16; LANES]>,
    weights: &[Weight],
    rest: i32,
) -> [u8; LANES] {
    let (mut high, mut low) = ([0i32; LANES], [rest; LANES]);
    for (values, weight) in values.zip(weights) {
        // Else the compiler vectorises over the taps, of which there are few, and not over the lanes.
        let weight = std::hint::black_box(*weight);
        for lane in 0..LANES {
            high[lane] += i32::from(values[lane]) * i32::from(weight.high);
            low[lane] += i32::from(values[lane]) * i32::from(weight.low);
        }
    }
    std::array::from_fn(|lane| to_byte((high[lane] << HALF_BITS) + low[lane]))
}

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Rows whose columns are filtered together.
const ROWS: usize = 8;
/// Bytes of rows that are filtered together.
const BLOCK: usize = 16;
/// Fraction bits of a filter weight: 8 bits of pixel and 2 of headroom leave 22 of 32 (Pillow's choice).
const WEIGHT_BITS: u32 = 22;
const HALF_BITS: u32 = WEIGHT_BITS / 2;
const HALF: i32 = 1 << (WEIGHT_BITS - 1);
