//! The operators without weights, pixel by pixel.

use crate::grid::ActivationGrid;
use crate::model::IntegerNode;
use crate::plane::{Plane, PlaneElement};
use crate::simd::{Simd, SimdLoop, UNITS, round_clamped};

/// Every pixel four times; both planes are on one grid.
pub(crate) fn repeat_pixels<T: PlaneElement>(input: &Plane<u8>, grid: ActivationGrid, output: &mut Plane<T>) {
    let width = output.width;
    for (idx, pixel) in output.values.chunks_exact_mut(output.stride).enumerate() {
        let source = input.pixel(idx / width / 2, idx % width / 2);
        pixel.iter_mut().zip(source).for_each(|(out, &q)| *out = T::from_integer(q.integer(grid), grid));
    }
}

/// The mean over all pixels, channel by channel.
pub(crate) fn mean<T: PlaneElement>((input, grid): Operand, node: &IntegerNode, output: &mut Plane<T>) {
    let step = grid.step() / node.grid.step();
    let n_pixels = input.height * input.width;
    // A byte is its integer less the grid's smallest.
    let qmin = i64::from(grid.qmin()) * n_pixels as i64;
    for (channel, out) in output.values[..node.shape[0]].iter_mut().enumerate() {
        let values = input.values.iter().skip(channel).step_by(input.stride);
        let sum = values.map(|&byte| i64::from(byte)).sum::<i64>() + qmin;
        *out = T::from_integer(round(sum as f64 * step / n_pixels as f64, node.grid), node.grid);
    }
}

/// Each channel of the first operand times the second's one value for it.
pub(crate) fn scale_channels<T: PlaneElement>(
    [(input, grid), (scales, scale_grid)]: [Operand; 2],
    node: &IntegerNode,
    output: &mut Plane<T>,
) {
    let step = grid.step() / node.grid.step() * scale_grid.step();
    let scales = &scales.values[..node.shape[0]];
    let scales: Vec<f64> = scales.iter().map(|&scale| f64::from(scale.integer(scale_grid)) * step).collect();
    let stride = output.stride;
    for (out, pixel) in output.values.chunks_exact_mut(stride).zip(input.values.chunks_exact(stride)) {
        for ((out, &q), &scale) in out.iter_mut().zip(pixel).zip(&scales) {
            *out = T::from_integer(round(f64::from(q.integer(grid)) * scale, node.grid), node.grid);
        }
    }
}

/// What an operator reads, and what its integers mean.
type Operand<'a> = (&'a Plane<u8>, ActivationGrid);

/// A row of the upsampled input: three parts of the nearer and one of the farther pixel along each axis, in sixteenths.
pub(crate) struct BilinearRow<'a, T> {
    pub input: &'a Plane<u8>,
    pub y: usize,
    pub row: &'a mut [T],
    /// Of the input and of the output.
    pub grid: ActivationGrid,
}

impl<T: PlaneElement> SimdLoop for BilinearRow<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { input, y, row, grid } = self;
        let (near, far) = nearer_and_farther(y, input.height);
        for (x, out) in row.chunks_exact_mut(input.stride).enumerate() {
            let (near_x, far_x) = nearer_and_farther(x, input.width);
            let (pixel, beside) = (input.pixel(near, near_x), input.pixel(near, far_x));
            let (across, corner) = (input.pixel(far, near_x), input.pixel(far, far_x));
            for (out, (((pixel, beside), across), corner)) in
                out.iter_mut().zip(pixel.iter().zip(beside).zip(across).zip(corner))
            {
                let [pixel, beside, across, corner] = [pixel, beside, across, corner].map(|&byte| u16::from(byte));
                let sixteenths = 9 * pixel + 3 * (beside + across) + corner;
                // Half to even. A byte is its integer less the grid's smallest, which is even.
                let byte = (sixteenths + 7 + (sixteenths >> 4 & 1)) >> 4;
                *out = T::from_integer(i32::from(byte) + grid.qmin(), grid);
            }
        }
    }
}

/// The pixel that an upsampled one lies in, and its neighbour on that side, or itself at the border.
fn nearer_and_farther(at: usize, len: usize) -> (usize, usize) {
    let near = at / 2;
    (near, if at.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(len - 1) })
}

/// Two planes of one shape, added.
pub(crate) struct Sum<'a, T> {
    pub planes: [&'a Plane<u8>; 2],
    pub grids: [ActivationGrid; 2],
    pub output: &'a mut Plane<T>,
    pub grid: ActivationGrid,
}

impl<T: PlaneElement> SimdLoop for Sum<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Sum { planes: [a, b], grids, output, grid } = self;
        let values = output.values.iter_mut().zip(a.values.iter().zip(&b.values));
        let steps = grids.map(|grid_in| grid_in.step() / grid.step());
        // In units of the smaller step, which are whole numbers, a sum is below 2^9 times the other: in 24 bits exact.
        let (small, large) = (steps[0].min(steps[1]), steps[0].max(steps[1]));
        if grid.bits() == 8 && large / small <= f64::from(1 << 12) && large <= f64::from(1 << 10) {
            let [step_a, step_b] = steps.map(|step| step as f32);
            let zero = grids[0].qmin() as f32 * step_a + grids[1].qmin() as f32 * step_b;
            for (out, (&a, &b)) in values {
                let sum = f32::from(a) * step_a + f32::from(b) * step_b + zero;
                let q = (sum + UNITS).to_bits() as i32 - UNITS.to_bits() as i32;
                *out = T::from_integer(q.clamp(grid.qmin(), grid.qmax()), grid);
            }
            return;
        }
        for (out, (&a, &b)) in values {
            let sum = f64::from(a.integer(grids[0])) * steps[0] + f64::from(b.integer(grids[1])) * steps[1];
            *out = T::from_integer(round(sum, grid), grid);
        }
    }
}

/// The nearest integer of the grid to a value in steps of the grid, ties to even.
#[inline(always)]
fn round(steps: f64, grid: ActivationGrid) -> i32 {
    i32::from(round_clamped(steps, (f64::from(grid.qmin()), f64::from(grid.qmax()))))
}

/// Products that make an upsampled value.
pub(crate) const PRODUCTS_BETWEEN_PIXELS: usize = 4;
