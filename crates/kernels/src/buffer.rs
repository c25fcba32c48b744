//! Output buffers that are not cleared before they are filled: clearing costs a fifth of a training step in page faults.

use std::mem::MaybeUninit;

/// Bytes of a cache line, which an aligned vector does not cross.
pub(crate) const CACHE_LINE: usize = 64;

/// A vector of `len` values, every one of which `fill` writes.
///
/// Test builds hand out NaN instead, so that a value that was not written fails the comparison.
///
/// # Safety
/// `fill` must write every element of the slice it is given.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let spare = &mut values.spare_capacity_mut()[..len];
    if cfg!(test) {
        spare.fill(MaybeUninit::new(f32::NAN));
    }
    fill(spare);
    // SAFETY: the capacity is at least `len`, and the caller promises that `fill` wrote all `len` elements.
    unsafe { values.set_len(len) };
    values
}

/// A reused buffer of values that are written before they are read.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

impl Scratch {
    /// `len` values, every one of which `fill` writes.
    ///
    /// # Safety
    /// `fill` must write every element of the slice it is given.
    pub(crate) unsafe fn filled(&mut self, len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> &mut [f32] {
        self.0.clear();
        self.0.reserve(len);
        let spare = &mut self.0.spare_capacity_mut()[..len];
        if cfg!(test) {
            spare.fill(MaybeUninit::new(f32::NAN));
        }
        fill(spare);
        // SAFETY: as in `filled`.
        unsafe { self.0.set_len(len) };
        &mut self.0
    }

    /// The values that were written last.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// The same values, for a function that only writes.
///
/// # Safety
/// What is written through the result must be initialised values; the caller goes on reading the original.
pub(crate) unsafe fn as_uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both have one layout, and the caller promises that no uninitialised value is written.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}
