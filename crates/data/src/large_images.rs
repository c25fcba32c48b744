//! Large images are decoded one at a time: what a decoder needs beside the pixels would else be there once per thread.

use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use rayon::ThreadPoolBuilder;

use crate::geometry::Size;

/// Pixels from which an image waits for its turn: 48 MiB of them, three bytes each.
pub(crate) const LARGE_PIXELS: usize = 16 << 20;

static TURN: Mutex<()> = Mutex::new(());

/// Runs a decoder, alone if the image is large.
///
/// Work that the decoder divides among threads stays on one thread of its own then. On the shared threads it could wait for one
/// that waits for this turn.
pub(crate) fn in_turn<T: Send>(size: Size, decode: impl FnOnce() -> T + Send) -> T {
    if size.n_pixels() < LARGE_PIXELS { decode() } else { alone(decode) }
}

fn alone<T: Send>(decode: impl FnOnce() -> T + Send) -> T {
    let Ok(pool) = ThreadPoolBuilder::new().num_threads(1).build() else { return decode() };
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut decode, mut decoded) = (Some(decode), None);
    // A thread that waits for a pool does other work of its own meanwhile: only one that is in no pool just waits.
    let joined = std::thread::scope(|scope| {
        let on_own_thread = || decoded = decode.take().map(|decode| pool.install(decode));
        Builder::new().spawn_scoped(scope, on_own_thread).map(|thread| thread.join())
    });
    match (joined, decoded, decode) {
        (Ok(Err(panic)), _, _) => std::panic::resume_unwind(panic),
        (_, Some(decoded), _) => decoded,
        // No thread is to be had: as a small image, in nobody's way.
        (_, None, Some(decode)) => {
            drop(turn);
            decode()
        }
        (_, None, None) => unreachable!("a decoder that was called and has not answered has panicked"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn one_at_a_time_and_none_waits_for_another() {
        let n_running = AtomicUsize::new(0);
        let decode = |idx: usize| {
            assert_eq!(n_running.fetch_add(1, Ordering::SeqCst), 0, "one decoder at a time");
            // As a decoder that divides its work.
            let sum: usize = (0..64_usize).into_par_iter().map(|part| (0..1000).map(|n| n ^ part).sum::<usize>()).sum();
            n_running.fetch_sub(1, Ordering::SeqCst);
            sum ^ idx
        };
        let pool = ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let sums: Vec<usize> = pool.install(|| (0..64).into_par_iter().map(|idx| alone(|| decode(idx))).collect());
        let expected = decode(0);
        assert!(sums.iter().enumerate().all(|(idx, sum)| *sum == expected ^ idx));
    }
}
