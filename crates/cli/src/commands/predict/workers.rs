//! Work that is divided among threads, each piece on one thread of its own.
//!
//! A thread of a shared pool that waits for a part of its piece takes up another piece meanwhile: times of pieces would mean nothing, and
//! networks would be divided more than they need.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads that take pieces of work in turn.
pub struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// As many as there are threads, but no more than pieces; where there are fewer pieces, each has several threads for what it divides.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(n_threads: usize, n_pieces: usize) -> anyhow::Result<Self> {
        let n_workers = n_threads.min(n_pieces).max(1);
        let pool = |_| ThreadPoolBuilder::new().num_threads(n_threads / n_workers).build();
        let pools =
            (0..n_workers).map(pool).collect::<Result<_, _>>().context("cannot start the computation's threads")?;
        Ok(Self { pools })
    }

    /// The results of all pieces, in their order.
    ///
    /// # Errors
    /// That of the first piece that has one, whatever the number of threads.
    pub fn each<T: Send>(
        &self,
        n_pieces: usize,
        work: impl Fn(usize) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let (next, has_failed, done) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(vec![]));
        // Pieces are taken in order: those before one that failed have all been taken, and are finished.
        let take = || {
            while !has_failed.load(Ordering::Relaxed) {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= n_pieces {
                    break;
                }
                let result = work(piece);
                has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
                done.lock().expect("no panic while it is held").push((piece, result));
            }
        };
        std::thread::scope(|scope| {
            for pool in &self.pools {
                scope.spawn(|| pool.install(take));
            }
        });
        let mut done = done.into_inner().expect("no panic while it is held");
        done.sort_by_key(|(piece, _)| *piece);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_first_error_is_told() {
        for n_threads in [1, 3, 8] {
            let workers = Workers::new(n_threads, 5).unwrap();
            assert_eq!(workers.each(5, |piece| Ok(piece * piece)).unwrap(), [0, 1, 4, 9, 16]);
            let failing = |piece: usize| if piece % 3 == 2 { anyhow::bail!("piece {piece}") } else { Ok(()) };
            assert_eq!(workers.each(50, failing).unwrap_err().to_string(), "piece 2");
            assert!(workers.each(0, failing).unwrap().is_empty());
        }
    }

    #[test]
    fn fewer_pieces_than_threads_have_several_each() {
        let threads = |n_threads, n_pieces| {
            let workers = Workers::new(n_threads, n_pieces).unwrap();
            workers.each(n_pieces, |_| Ok(rayon::current_num_threads())).unwrap()
        };
        assert_eq!(threads(6, 2), [3, 3]);
        assert_eq!(threads(2, 3), [1, 1, 1]);
    }
}
