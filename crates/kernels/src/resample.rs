//! Filters of pictures in fixed point: each output is a weighted sum of bytes of neighbouring pixels, rounded to a byte.
//!
//! The sums are of whole numbers, so that every instruction set and every order of adding gives the same bytes. Loops go by index: over
//! pairs the compiler did not vectorise them, and crops took twice as long.

use std::ops::Range;

use crate::instruction_set::{InstructionSet, for_each_instruction_set};

/// One output along an axis: the neighbours that it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taps {
    /// First of them, counted from the first pixel that is there.
    pub first: usize,
    /// How many.
    pub len: usize,
    /// Where their weights start.
    pub first_weight: usize,
    /// Added to the weighted sum: what rounds, and what pixels add that are not there.
    pub rest: i32,
}

/// The filter of an axis; weights have [`WEIGHT_BITS`] bits of fraction and sum to 1 at most, so that no sum overflows.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// One for each output.
    pub taps: &'a [Taps],
    /// Of all taps.
    pub weights: &'a [i32],
}

/// Fraction bits of a weight: 8 bits of pixel and 2 of headroom leave 22 of 32.
pub const WEIGHT_BITS: u32 = 22;

/// Rows of RGB pixels, of which some columns are looked at.
#[derive(Debug, Clone)]
pub struct PixelRows<'a> {
    /// Whole rows, three bytes a pixel.
    pub bytes: &'a [u8],
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Pixels of each row that are there for the filter.
    pub columns: Range<usize>,
}

/// Filters the columns of rows of pixels: rows of three bytes for each of the filter's outputs.
///
/// # Panics
/// If the bytes are not whole rows, the columns not in them, or taps lead out of the columns or of the weights.
pub fn filter_columns(filter: Filter, rows: &PixelRows) -> Vec<u8> {
    columns_on(InstructionSet::detect(), filter, rows)
}

/// Filters rows of bytes, `row_bytes` each: a row for each of the filter's outputs.
///
/// # Panics
/// If the bytes are not whole rows, or taps lead out of them or of the weights.
pub fn filter_rows(filter: Filter, rows: &[u8], row_bytes: usize) -> Vec<u8> {
    rows_on(InstructionSet::detect(), filter, rows, row_bytes)
}

fn columns_on(isa: InstructionSet, filter: Filter, rows: &PixelRows) -> Vec<u8> {
    let (n_bytes, row_bytes) = (rows.bytes.len(), rows.row_bytes);
    assert!(
        row_bytes > 0 && n_bytes.is_multiple_of(row_bytes),
        "filter_columns: {n_bytes} bytes in rows of {row_bytes}"
    );
    assert!(rows.columns.end * 3 <= row_bytes, "filter_columns: columns {:?} of {row_bytes} bytes", rows.columns);
    let mut out = vec![0; n_bytes / row_bytes * filter.taps.len() * 3];
    if !out.is_empty() {
        filter_columns_for(isa, filter, rows, &mut out);
    }
    out
}

fn rows_on(isa: InstructionSet, filter: Filter, rows: &[u8], row_bytes: usize) -> Vec<u8> {
    assert!(row_bytes > 0 && rows.len().is_multiple_of(row_bytes), "filter_rows: {} bytes", rows.len());
    let mut out = vec![0; filter.taps.len() * row_bytes];
    filter_rows_for(isa, filter, rows, row_bytes, &mut out);
    out
}

for_each_instruction_set! {
    fn filter_columns_for(filter: Filter, rows: &PixelRows, out: &mut [u8]) = columns_body
}

for_each_instruction_set! {
    fn filter_rows_for(filter: Filter, rows: &[u8], row_bytes: usize, out: &mut [u8]) = rows_body
}

/// Sixteen rows at a time, transposed: what is computed for the bytes of one row is computed for those of all, side by side.
#[inline(always)]
fn columns_body<const FUSED: bool, const LANES: usize>(filter: Filter, rows: &PixelRows, out: &mut [u8]) {
    let (row_bytes, out_bytes) = (rows.row_bytes, filter.taps.len() * 3);
    let in_row = rows.columns.start * 3..rows.columns.end * 3;
    let mut columns = vec![[0; SIDE]; in_row.len().next_multiple_of(SIDE)];
    let mut filtered = vec![[0; SIDE]; out_bytes.next_multiple_of(SIDE)];
    let groups = rows.bytes.chunks(SIDE * row_bytes).zip(out.chunks_mut(SIDE * out_bytes));
    for (rows, out) in groups {
        transpose_rows(rows.chunks_exact(row_bytes).map(|row| &row[in_row.clone()]), in_row.len(), &mut columns);
        for (taps, out) in filter.taps.iter().zip(filtered.as_chunks_mut::<3>().0) {
            let columns = columns[taps.first * 3..][..taps.len * 3].as_chunks::<3>().0;
            let weights = &filter.weights[taps.first_weight..][..taps.len];
            let mut sums = [[taps.rest; SIDE]; 3];
            for (pixel, weight) in columns.iter().zip(weights) {
                // Else the compiler vectorises over the taps, of which there are few, and not over the rows.
                let weight = std::hint::black_box(*weight);
                for (sums, bytes) in sums.iter_mut().zip(pixel) {
                    for lane in 0..SIDE {
                        sums[lane] += i32::from(bytes[lane]) * weight;
                    }
                }
            }
            out.iter_mut().zip(&sums).for_each(|(out, sums)| to_bytes(sums, out));
        }
        untranspose_rows(&filtered, out_bytes, out);
    }
}

#[inline(always)]
fn rows_body<const FUSED: bool, const LANES: usize>(filter: Filter, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    for (out, taps) in out.chunks_exact_mut(row_bytes).zip(filter.taps) {
        let weights = &filter.weights[taps.first_weight..][..taps.len];
        let rows = &rows[taps.first * row_bytes..][..taps.len * row_bytes];
        let mut at = 0;
        while at < row_bytes {
            if row_bytes < BLOCK {
                let product = |(row, weight): (&[u8], &i32)| i32::from(row[at]) * weight;
                out[at] = to_byte(taps.rest + rows.chunks_exact(row_bytes).zip(weights).map(product).sum::<i32>());
                at += 1;
                continue;
            }
            // The last block may overlap the one before it, so that all of them are full.
            at = at.min(row_bytes - BLOCK);
            let mut sums = [taps.rest; BLOCK];
            for (row, weight) in rows.chunks_exact(row_bytes).zip(weights) {
                let weight = std::hint::black_box(*weight);
                let bytes: &[u8; BLOCK] = row[at..].first_chunk().expect("a row has the whole block");
                for lane in 0..BLOCK {
                    sums[lane] += i32::from(bytes[lane]) * weight;
                }
            }
            to_bytes(&sums, out[at..].first_chunk_mut().expect("a row has the whole block"));
            at += BLOCK;
        }
    }
}

/// Up to sixteen rows as columns; rows that are not there are zeros.
#[inline(always)]
fn transpose_rows<'a>(rows: impl Iterator<Item = &'a [u8]> + Clone, row_bytes: usize, columns: &mut [[u8; SIDE]]) {
    for (at, columns) in (0..row_bytes).step_by(SIDE).zip(columns.as_chunks_mut::<SIDE>().0) {
        let mut block = [[0; SIDE]; SIDE];
        for (row, block) in rows.clone().zip(&mut block) {
            match row[at..].first_chunk() {
                Some(bytes) => *block = *bytes,
                None => block[..row_bytes - at].copy_from_slice(&row[at..]),
            }
        }
        *columns = transposed(block);
    }
}

/// The other way round.
#[inline(always)]
fn untranspose_rows(columns: &[[u8; SIDE]], row_bytes: usize, rows: &mut [u8]) {
    for (at, columns) in (0..row_bytes).step_by(SIDE).zip(columns.as_chunks::<SIDE>().0) {
        let block = transposed(*columns);
        for (row, block) in rows.chunks_exact_mut(row_bytes).zip(&block) {
            match row[at..].first_chunk_mut() {
                Some(bytes) => *bytes = *block,
                None => row[at..].copy_from_slice(&block[..row_bytes - at]),
            }
        }
    }
}

/// A square of bytes with rows and columns exchanged: four times the bytes of rows eight apart are taken in turns.
#[inline(always)]
fn transposed(mut block: [[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
    for _ in 0..4 {
        let before = block;
        for pair in 0..SIDE / 2 {
            let (a, b) = (before[pair], before[pair + SIDE / 2]);
            block[2 * pair] = std::array::from_fn(|at| if at % 2 == 0 { a[at / 2] } else { b[at / 2] });
            block[2 * pair + 1] = std::array::from_fn(|at| if at % 2 == 0 { a[8 + at / 2] } else { b[8 + at / 2] });
        }
    }
    block
}

#[inline(always)]
fn to_bytes<const N: usize>(sums: &[i32; N], bytes: &mut [u8; N]) {
    for lane in 0..N {
        bytes[lane] = to_byte(sums[lane]);
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Rows, and bytes of a row, that are transposed together.
const SIDE: usize = 16;
/// Bytes of rows that are filtered together.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(seed: u64, idx: usize) -> u64 {
        ((idx as u64) ^ seed).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
    }

    /// Taps of one to nine neighbours whose weights sum to 1, but for some that are taken away.
    fn taps(n_outputs: usize, n_pixels: usize, seed: u64) -> (Vec<Taps>, Vec<i32>) {
        let (mut taps, mut weights) = (vec![], vec![]);
        for out in 0..n_outputs {
            let len = 1 + random(seed, out) as usize % n_pixels.min(9);
            let first = random(seed ^ 7, out) as usize % (n_pixels - len + 1);
            taps.push(Taps { first, len, first_weight: weights.len(), rest: 1 << (WEIGHT_BITS - 1) });
            let even = (1 << WEIGHT_BITS) / len as i32;
            weights.extend((0..len).map(|tap| even - (random(seed, out * 16 + tap) as i32 & 0xffff).min(even)));
        }
        (taps, weights)
    }

    proptest! {
        #[test]
        fn filters_are_sums_of_products(
            n_pixels in 1usize..60, n_rows in 1usize..40, n_outputs in 1usize..40, margins in (0usize..4, 0usize..4),
            row_bytes in 1usize..120, seed: u64,
        ) {
            let byte = |idx: usize| random(seed, idx) as u8;
            let (taps, weights) = taps(n_outputs, n_pixels, seed);
            let filter = Filter { taps: &taps, weights: &weights };
            let sum = |taps: &Taps, value: &dyn Fn(usize) -> u8| {
                let products = (0..taps.len).map(|tap| i64::from(value(taps.first + tap)) * i64::from(weights[taps.first_weight + tap]));
                ((products.sum::<i64>() + i64::from(taps.rest)) >> WEIGHT_BITS) as u8
            };
            let width = margins.0 + n_pixels + margins.1;
            let bytes: Vec<u8> = (0..n_rows * width * 3).map(byte).collect();
            let rows = PixelRows { bytes: &bytes, row_bytes: width * 3, columns: margins.0..margins.0 + n_pixels };
            let at = |row: usize, pixel: usize, channel: usize| bytes[(row * width + margins.0 + pixel) * 3 + channel];
            let expected: Vec<u8> = (0..n_rows)
                .flat_map(|row| taps.iter().flat_map(move |taps| [0, 1, 2].map(|channel| (row, taps, channel))))
                .map(|(row, taps, channel)| sum(taps, &|pixel| at(row, pixel, channel)))
                .collect();
            // As many rows as the taps may lead to.
            let lines: Vec<u8> = (0..n_pixels * row_bytes).map(byte).collect();
            let filtered: Vec<u8> = taps
                .iter()
                .flat_map(|taps| (0..row_bytes).map(move |column| (taps, column)))
                .map(|(taps, column)| sum(taps, &|row| lines[row * row_bytes + column]))
                .collect();
            for isa in InstructionSet::available() {
                prop_assert_eq!(&columns_on(isa, filter, &rows), &expected, "columns, {:?}", isa);
                prop_assert_eq!(&rows_on(isa, filter, &lines, row_bytes), &filtered, "rows, {:?}", isa);
            }
        }
    }

    #[test]
    fn a_square_is_transposed() {
        let block: [[u8; SIDE]; SIDE] =
            std::array::from_fn(|row| std::array::from_fn(|column| (row * 16 + column) as u8));
        let expected: [[u8; SIDE]; SIDE] =
            std::array::from_fn(|row| std::array::from_fn(|column| (column * 16 + row) as u8));
        assert_eq!(transposed(block), expected);
    }
}
