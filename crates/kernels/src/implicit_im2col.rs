//! Feature maps as a convolution's taps see them: zero-padded copies of a few lines or images, and where in them the
//! pixels start that a tap grid reads.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::buffer::Scratch;

/// Taps around a pixel, in source pixels; both axes ascending.
pub(crate) struct TapOffsets {
    pub y: Vec<isize>,
    pub x: Vec<isize>,
}

/// Source pixel `(y * step, x * step)` and its taps' surroundings for each pixel `(y, x)` of a grid.
pub(crate) struct PatchView {
    /// Height, width, channels of an image of the source.
    source: [usize; 3],
    step: usize,
    /// Height and width of the grid.
    pub grid: [usize; 2],
    /// Pixels that taps reach before and behind theirs.
    before: [usize; 2],
    behind: [usize; 2],
}

/// What is computed at a time: some lines of one image's grid, or all lines of several images.
pub(crate) struct PatchTile {
    pub images: Range<usize>,
    pub lines: Range<usize>,
}

impl PatchView {
    /// A view that is wide enough for all of the tap grids.
    pub(crate) fn new<'a>(
        source: [usize; 3],
        step: usize,
        grid: [usize; 2],
        taps: impl IntoIterator<Item = &'a TapOffsets>,
    ) -> Self {
        let mut view = Self { source, step, grid, before: [0; 2], behind: [0; 2] };
        for taps in taps {
            for (axis, offsets) in [&taps.y, &taps.x].into_iter().enumerate() {
                for &offset in offsets {
                    let reach = if offset < 0 { &mut view.before[axis] } else { &mut view.behind[axis] };
                    *reach = (*reach).max(offset.unsigned_abs());
                }
            }
        }
        view
    }

    /// The taps of a pixel as runs of neighbouring values: the length of each, and where they are from a pixel's start.
    pub(crate) fn runs(&self, taps: &TapOffsets) -> (usize, Vec<usize>) {
        let channels = self.source[2];
        let offset = |y: isize, x: isize| {
            let (y, x) = (self.before[0] as isize + y, self.before[1] as isize + x);
            (y as usize * self.window_width() + x as usize) * channels
        };
        if taps.x.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            let lines = taps.y.iter().map(|&y| offset(y, taps.x[0])).collect();
            return (taps.x.len() * channels, lines);
        }
        let pixels = taps.y.iter().flat_map(|&y| taps.x.iter().map(move |&x| offset(y, x))).collect();
        (channels, pixels)
    }

    /// The groups of a batch, in order.
    pub(crate) fn groups(&self, batch: usize) -> Vec<PatchTile> {
        let [height, width] = self.grid;
        let share = (batch * height * width).div_ceil(rayon::current_num_threads());
        let n_pixels = GROUP_PIXELS.min(share);
        if height * width <= n_pixels {
            let n_images = n_pixels / (height * width);
            let starts = (0..batch).step_by(n_images);
            return starts
                .map(|start| PatchTile { images: start..(start + n_images).min(batch), lines: 0..height })
                .collect();
        }
        let n_lines = (n_pixels / width).max(1);
        let of_image = |image: usize| {
            let starts = (0..height).step_by(n_lines);
            starts.map(move |start| PatchTile { images: image..image + 1, lines: start..(start + n_lines).min(height) })
        };
        (0..batch).flat_map(of_image).collect()
    }

    /// The groups with their parts of `out`, which holds `line_len` values for a line of the grid, but `image_len` for an
    /// image, whose last line may be shorter.
    pub(crate) fn split<'a>(
        &self,
        batch: usize,
        line_len: usize,
        image_len: usize,
        mut out: &'a mut [MaybeUninit<f32>],
    ) -> Vec<(PatchTile, &'a mut [MaybeUninit<f32>])> {
        let mut parts = vec![];
        for group in self.groups(batch) {
            let is_whole = group.lines.end == self.grid[0];
            let end = if is_whole { image_len } else { group.lines.end * line_len };
            let len = group.images.len() * (end - group.lines.start * line_len);
            let (part, rest) = out.split_at_mut(len);
            out = rest;
            parts.push((group, part));
        }
        assert!(out.is_empty(), "view: the groups cover the output");
        parts
    }

    /// A padded copy of what the group's taps read, and where in it each pixel's surroundings start.
    pub(crate) fn window<'a>(
        &self,
        map: &[f32],
        group: &PatchTile,
        scratch: &'a mut Scratch,
    ) -> (&'a [f32], Vec<usize>) {
        let [height, width, channels] = self.source;
        let line_len = self.window_width() * channels;
        let n_lines = (group.lines.len() - 1) * self.step + self.before[0] + self.behind[0] + 1;
        let first_y = group.lines.start * self.step;
        let left = self.before[1] * channels;
        let copied = line_len.saturating_sub(left).min(width * channels);
        let zero = MaybeUninit::new(0.0);
        let fill = |values: &mut [MaybeUninit<f32>]| {
            for (image, lines) in group.images.clone().zip(values.chunks_exact_mut(n_lines * line_len)) {
                for (idx, line) in lines.chunks_exact_mut(line_len).enumerate() {
                    let y = (first_y + idx).checked_sub(self.before[0]).filter(|y| *y < height);
                    let Some(y) = y else {
                        line.fill(zero);
                        continue;
                    };
                    let source = &map[(image * height + y) * width * channels..][..copied];
                    line[..left].fill(zero);
                    line[left..][..copied].write_copy_of_slice(source);
                    line[left + copied..].fill(zero);
                }
            }
        };
        // SAFETY: the lines of the group's images are all of the window, and all of each line is written.
        let values = unsafe { scratch.filled(group.images.len() * n_lines * line_len, fill) };
        let starts = (0..group.images.len()).flat_map(|image| {
            (0..group.lines.len()).flat_map(move |line| {
                let start = (image * n_lines + line * self.step) * line_len;
                (0..self.grid[1]).map(move |x| start + x * self.step * channels)
            })
        });
        (values, starts.collect())
    }

    fn window_width(&self) -> usize {
        (self.grid[1] - 1) * self.step + self.before[1] + self.behind[1] + 1
    }
}

/// Grid pixels of a group: enough to use a panel of weights often, few enough for their surroundings to stay in a
/// second-level cache.
const GROUP_PIXELS: usize = 192;
