//! Run-length encoded masks as COCO writes them: runs down the columns, background first.
//!
//! Same results as pycocotools 2.0 (`maskApi.c`), held by the golden cases in `tests/golden/rle`. Unlike there, runs must
//! sum to the number of pixels and masks of different sizes never mix.

use std::ops::Range;

use crate::geometry::Size;
use crate::mask::Mask;

/// A run-length encoded binary mask.
///
/// Always canonical: the first run is background and may be empty, every other run has at least one pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    size: Size,
    counts: Vec<u32>,
}

/// How [`Rle::merge`] joins masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Foreground of any mask.
    Union,
    /// Foreground of all masks.
    Intersection,
}

/// Runs that are not a mask of the given size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RleError {
    /// A side is 0, or there are more pixels than a 32-bit run can hold.
    #[error("mask of {size} pixels: expected 1 to {} pixels", u32::MAX)]
    Size {
        /// What was asked for.
        size: Size,
    },
    /// The runs do not end where the mask does.
    #[error("runs cover {found} pixels, a {size} mask has {expected}")]
    Sum {
        /// Size of the mask.
        size: Size,
        /// Its number of pixels.
        expected: u64,
        /// Sum of the runs; where the sum runs over the end, up to the first run that does.
        found: u64,
    },
    /// A byte outside of the 64 that COCO's string uses.
    #[error("byte {found:#04x} at {at}: a compressed mask is made of the characters '0' to 'o'")]
    Character {
        /// Offset into the string.
        at: usize,
        /// The byte.
        found: u8,
    },
    /// A number that is cut off at the end of the string, negative, or above 32 bits.
    #[error("run {run_idx}, ending at byte {at}: not a run length of 32 bits")]
    Run {
        /// Which run.
        run_idx: usize,
        /// Offset behind its last character.
        at: usize,
    },
}

impl Rle {
    /// A mask from runs down the columns, background first. Empty runs are allowed and joined.
    pub fn from_counts(size: Size, counts: &[u32]) -> Result<Rle, RleError> {
        let n_pixels = checked_pixels(size)?;
        let mut runs = Runs::default();
        for (run_idx, &count) in counts.iter().enumerate() {
            runs.push(run_idx % 2 == 1, count);
            if runs.total > n_pixels {
                break;
            }
        }
        runs.finish(size)
    }

    /// A mask from COCO's compressed string: each run, from the fourth on less the one two before it, in groups of five
    /// bits, least significant first, the sixth bit telling that more follow, plus 48.
    pub fn from_compressed_str(size: Size, compressed: &str) -> Result<Rle, RleError> {
        let n_pixels = checked_pixels(size)?;
        let bytes = compressed.as_bytes();
        let mut runs = Runs { counts: Vec::with_capacity(bytes.len() / 2 + 2), total: 0 };
        let mut before = [0i64; 2];
        let (mut at, mut run_idx) = (0, 0);
        while at < bytes.len() {
            let (value, end) = read_number(bytes, at, run_idx)?;
            at = end;
            let value = if run_idx > 2 { value + before[0] } else { value };
            let count = u32::try_from(value).map_err(|_| RleError::Run { run_idx, at })?;
            before = [before[1], value];
            runs.push(run_idx % 2 == 1, count);
            run_idx += 1;
            if runs.total > n_pixels {
                break;
            }
        }
        runs.finish(size)
    }

    /// COCO's compressed string; see [`Rle::from_compressed_str`].
    pub fn to_compressed_string(&self) -> String {
        let mut out = String::with_capacity(self.counts.len() * 2);
        for (run_idx, &count) in self.counts.iter().enumerate() {
            let before = if run_idx > 2 { i64::from(self.counts[run_idx - 2]) } else { 0 };
            write_number(&mut out, i64::from(count) - before);
        }
        out
    }

    /// Encodes a mask; any value but 0 is foreground.
    ///
    /// ```
    /// use sensei_data::geometry::Size;
    /// use sensei_data::mask::Mask;
    /// use sensei_data::rle::Rle;
    ///
    /// let mask = Mask { size: Size { width: 3, height: 2 }, bits: vec![0, 1, 1, 0, 1, 0] };
    /// let rle = Rle::from_mask(&mask);
    /// // Column by column, background first, as COCO writes it.
    /// assert_eq!(rle.counts(), [2, 3, 1]);
    /// assert_eq!((rle.area(), rle.bbox()), (3, [1.0, 0.0, 2.0, 2.0]));
    /// assert_eq!(rle.to_mask(), mask);
    /// ```
    ///
    /// # Panics
    /// If `mask.bits` does not have one value a pixel, a side is 0, or there are more than `u32::MAX` pixels.
    pub fn from_mask(mask: &Mask) -> Rle {
        let (width, height) = (mask.size.width as usize, mask.size.height as usize);
        assert_eq!(mask.bits.len(), width * height, "values of a {} mask", mask.size);
        assert!(checked_pixels(mask.size).is_ok(), "a mask of {} pixels", mask.size);
        let mut runs = Runs::default();
        for column in 0..width {
            let mut start = 0;
            while start < height {
                let foreground = mask.bits[start * width + column] != 0;
                let same = |row: &usize| (mask.bits[row * width + column] != 0) == foreground;
                let n_rows = (start..height).take_while(same).count();
                runs.push(foreground, n_rows as u32);
                start += n_rows;
            }
        }
        Rle { size: mask.size, counts: runs.counts }
    }

    /// The mask, a byte a pixel.
    pub fn to_mask(&self) -> Mask {
        let mut mask = Mask::empty(self.size);
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        // Runs go down the columns, the mask goes along the rows: sixteen columns are collected, a byte each, and written together.
        let mut rows = vec![0u128; height];
        let (mut group, mut touched) = (0, 0..0);
        let mut write = |group: usize, rows: &mut [u128], touched: Range<usize>| {
            let columns = group * 16..width.min(group * 16 + 16);
            for row in touched {
                let line = &mut mask.bits[row * width..][columns.clone()];
                match <&mut [u8; 16]>::try_from(&mut *line) {
                    Ok(all) => *all = rows[row].to_le_bytes(),
                    Err(_) => line.copy_from_slice(&rows[row].to_le_bytes()[..columns.len()]),
                }
                rows[row] = 0;
            }
        };
        for (start, end) in self.foreground() {
            let (mut column, mut row, mut left) =
                (start as usize / height, start as usize % height, (end - start) as usize);
            while left > 0 {
                if column / 16 != group {
                    write(group, &mut rows, std::mem::take(&mut touched));
                    group = column / 16;
                }
                let last = height.min(row + left);
                let byte = 1u128 << (column % 16 * 8);
                rows[row..last].iter_mut().for_each(|columns| *columns |= byte);
                touched = if touched.is_empty() { row..last } else { touched.start.min(row)..touched.end.max(last) };
                left -= last - row;
                (column, row) = (column + 1, 0);
            }
        }
        write(group, &mut rows, touched);
        mask
    }

    /// A mask without foreground.
    pub fn empty(size: Size) -> Result<Rle, RleError> {
        let n_pixels = checked_pixels(size)?;
        Ok(Rle { size, counts: vec![n_pixels as u32] })
    }

    /// Size of the image that is masked.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The runs down the columns, background first; they sum to the number of pixels.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> u64 {
        self.foreground().map(|(start, end)| u64::from(end - start)).sum()
    }

    /// Whether no pixel is foreground.
    pub fn is_empty(&self) -> bool {
        self.counts.len() < 2
    }

    /// The smallest box around the foreground as `[x, y, width, height]`; all 0 if there is none.
    pub fn bbox(&self) -> [f64; 4] {
        let height = self.size.height;
        let (mut x0, mut y0, mut x1, mut y1) = (u32::MAX, u32::MAX, 0, 0);
        for (start, end) in self.foreground() {
            let last = end - 1;
            x0 = x0.min(start / height);
            x1 = x1.max(last / height + 1);
            let spans_columns = start / height != last / height;
            y0 = y0.min(if spans_columns { 0 } else { start % height });
            y1 = y1.max(if spans_columns { height } else { last % height + 1 });
        }
        if x1 == 0 { [0.0; 4] } else { [x0, y0, x1 - x0, y1 - y0].map(f64::from) }
    }

    /// Number of pixels that are foreground in both masks.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn intersection_area(&self, other: &Rle) -> u64 {
        assert_eq!(self.size, other.size, "two masks of one image");
        let (mut these, mut those) = (self.foreground(), other.foreground());
        let (mut this, mut that) = (these.next(), those.next());
        let mut area = 0;
        while let (Some((start, end)), Some((other_start, other_end))) = (this, that) {
            area += u64::from(end.min(other_end).saturating_sub(start.max(other_start)));
            if end < other_end {
                this = these.next();
            } else {
                that = those.next();
            }
        }
        area
    }

    /// Intersection over union, `0..=1`; 0 if nothing overlaps, also where both masks are empty. Where `other` is a
    /// `crowd` region, the intersection is divided by the area of `self` alone.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn iou(&self, other: &Rle, crowd: bool) -> f64 {
        let intersection = self.intersection_area(other);
        if intersection == 0 {
            return 0.0;
        }
        let union = if crowd { self.area() } else { self.area() + other.area() - intersection };
        intersection as f64 / union as f64
    }

    /// Joins masks of one size; `None` if there are none.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn merge(masks: &[Rle], how: Merge) -> Option<Rle> {
        let (first, rest) = masks.split_first()?;
        Some(rest.iter().fold(first.clone(), |joined, mask| {
            let mut runs = Runs::default();
            joined.walk_with(mask, |a, b, n_pixels| {
                runs.push(if how == Merge::Union { a || b } else { a && b }, n_pixels);
            });
            Rle { size: joined.size, counts: runs.counts }
        }))
    }

    /// Foreground runs as half-open ranges of column-major pixel indices, in order and apart.
    pub(crate) fn foreground(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut end = 0;
        self.counts.as_chunks::<2>().0.iter().map(move |[gap, run]| {
            let start = end + gap;
            end = start + run;
            (start, end)
        })
    }

    /// The foreground of each column as `(column, rows)`, in column-major order; a column may have several ranges of rows, apart.
    pub(crate) fn column_runs(&self) -> impl Iterator<Item = (u32, Range<u32>)> {
        let height = self.size.height;
        self.foreground().flat_map(move |(start, end)| {
            (start / height..=(end - 1) / height).map(move |column| {
                let top = column * height;
                (column, start.max(top) - top..end.min(top + height) - top)
            })
        })
    }

    /// The mask of a part of an image, whose upper left pixel is given, as a mask of the whole image.
    ///
    /// # Panics
    /// If the part does not lie in the image, or the image has more than 2^32 pixels.
    pub(crate) fn in_image(&self, [x0, y0]: [u32; 2], image: Size) -> Rle {
        let n_pixels = checked_pixels(image).expect("pixels of an image");
        let fits = |start: u32, len: u32, image_len: u32| u64::from(start) + u64::from(len) <= u64::from(image_len);
        let is_inside = fits(x0, self.size.width, image.width) && fits(y0, self.size.height, image.height);
        assert!(is_inside, "a part of {} at {x0}, {y0} of an image of {image}", self.size);
        let (mut runs, mut at) = (Runs::default(), 0);
        for (column, rows) in self.column_runs() {
            let start = (x0 + column) * image.height + y0 + rows.start;
            runs.push(false, start - at);
            runs.push(true, rows.end - rows.start);
            at = start + rows.end - rows.start;
        }
        runs.push(false, n_pixels as u32 - at);
        Rle { size: image, counts: runs.counts }
    }

    /// The mask with ranges of its foreground, in order, made background.
    pub(crate) fn without(&self, ranges: impl Iterator<Item = [u32; 2]>) -> Rle {
        let mut ranges = ranges.peekable();
        let mut runs = Runs::default();
        let mut at = 0;
        for (start, end) in self.foreground() {
            runs.push(false, start - at);
            at = start;
            while let Some([low, high]) = ranges.next_if(|[low, _]| *low < end) {
                runs.push(true, low - at);
                runs.push(false, high - low);
                at = high;
            }
            runs.push(true, end - at);
            at = end;
        }
        runs.push(false, (self.size.n_pixels() - at as usize) as u32);
        Rle { size: self.size, counts: runs.counts }
    }

    /// Calls `visit(in_self, in_other, n_pixels)` for each stretch over which neither mask changes.
    fn walk_with(&self, other: &Rle, mut visit: impl FnMut(bool, bool, u32)) {
        assert_eq!(self.size, other.size, "two masks of one image");
        let (mut a_idx, mut b_idx) = (0, 0);
        let (mut a_left, mut b_left) = (self.counts[0], other.counts[0]);
        loop {
            let step = a_left.min(b_left);
            if step > 0 {
                visit(a_idx % 2 == 1, b_idx % 2 == 1, step);
            }
            a_left -= step;
            b_left -= step;
            if a_left == 0 {
                a_idx += 1;
                let Some(count) = self.counts.get(a_idx) else { return };
                a_left = *count;
            }
            if b_left == 0 {
                b_idx += 1;
                let Some(count) = other.counts.get(b_idx) else { return };
                b_left = *count;
            }
        }
    }
}

/// Canonical runs under construction.
#[derive(Default)]
pub(crate) struct Runs {
    counts: Vec<u32>,
    total: u64,
}

impl Runs {
    /// The mask, if the runs are as many pixels as it has.
    fn finish(self, size: Size) -> Result<Rle, RleError> {
        let expected = checked_pixels(size)?;
        if self.total != expected {
            return Err(RleError::Sum { size, expected, found: self.total });
        }
        Ok(Rle { size, counts: self.counts })
    }

    fn push(&mut self, foreground: bool, count: u32) {
        self.total += u64::from(count);
        if self.counts.is_empty() {
            self.counts.push(0);
        }
        if count == 0 {
            return;
        }
        let last_is_foreground = self.counts.len().is_multiple_of(2);
        match self.counts.last_mut() {
            Some(last) if last_is_foreground == foreground => *last = last.saturating_add(count),
            _ => self.counts.push(count),
        }
    }
}

fn checked_pixels(size: Size) -> Result<u64, RleError> {
    let n_pixels = u64::from(size.width) * u64::from(size.height);
    if n_pixels == 0 || n_pixels > u64::from(u32::MAX) { Err(RleError::Size { size }) } else { Ok(n_pixels) }
}

/// Reads one number at `start`; returns it and the offset behind it.
fn read_number(bytes: &[u8], start: usize, run_idx: usize) -> Result<(i64, usize), RleError> {
    let mut value = 0i64;
    for (group, &byte) in bytes[start..].iter().enumerate() {
        let at = start + group;
        if !(48..112).contains(&byte) {
            return Err(RleError::Character { at, found: byte });
        }
        if group == MAX_GROUPS {
            return Err(RleError::Run { run_idx, at });
        }
        let bits = i64::from(byte - 48);
        value |= (bits & 0x1f) << (5 * group);
        if bits & 0x20 == 0 {
            let negative = bits & 0x10 != 0;
            return Ok((if negative { value | (-1 << (5 * (group + 1))) } else { value }, at + 1));
        }
    }
    Err(RleError::Run { run_idx, at: bytes.len() })
}

fn write_number(out: &mut String, mut value: i64) {
    loop {
        let bits = (value & 0x1f) as u8;
        value >>= 5;
        let more = value != if bits & 0x10 != 0 { -1 } else { 0 };
        out.push(char::from(48 + (bits | if more { 0x20 } else { 0 })));
        if !more {
            return;
        }
    }
}

/// 33 bits, sign included, are seven groups of five.
const MAX_GROUPS: usize = 7;
