//! What a pickle can be refused for.

use super::{MAX_RECALLS, MAX_VALUES};

/// A pickle that is not one as `torch.save` writes them. Positions are bytes from its start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// It ends before its STOP.
    #[error("expected more after byte {at}, found its end")]
    Truncated {
        /// Its length.
        at: usize,
    },
    /// An operation that no checkpoint has need of.
    #[error("byte {at}: expected an operation that torch.save writes, found opcode {found:#04x}")]
    Opcode {
        /// Where.
        at: usize,
        /// The byte.
        found: u8,
    },
    /// A value of another kind than the operation takes.
    #[error("byte {at}: expected {expected}, found {found}")]
    Kind {
        /// Where.
        at: usize,
        /// What the operation takes.
        expected: &'static str,
        /// What was there.
        found: &'static str,
    },
    /// More values than any checkpoint has.
    #[error("byte {at}: expected at most {MAX_VALUES} values and {MAX_RECALLS} uses of earlier ones, found more")]
    TooManyValues {
        /// Where.
        at: usize,
    },
}

/// A value of another kind than expected, at byte `at`.
pub(super) fn kind(at: usize, expected: &'static str, found: &'static str) -> PickleError {
    PickleError::Kind { at, expected, found }
}
