//! The allocator's settings in programs that train.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings have no name for.
const PURGE_DELAY: mi_option_t = 15;

/// Makes mimalloc keep freed memory for the next allocation instead of giving it back to the system.
///
/// A training step frees and allocates the same feature maps again. Memory that was given back has to be mapped and cleared
/// each time, which takes up to a tenth of the step. Peak memory does not change. Programs call this before anything else; it
/// does nothing where mimalloc is not the allocator.
pub fn keep_freed_memory() {
    // SAFETY: the option exists in both versions that the crate can build, and may be set at any time.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}
