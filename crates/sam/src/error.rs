//! What is wrong with the weights of a network.

/// Tensors that are not those of the network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamError {
    /// The network needs a tensor that is not there.
    #[error("{origin}: {name}: expected a tensor of shape {expected:?}, found none")]
    Missing {
        /// The file.
        origin: String,
        /// The tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{origin}: {name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The file.
        origin: String,
        /// The tensor.
        name: String,
        /// Shape in the network.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// An infinite value or one that is not a number.
    #[error("{origin}: {name}[{idx}]: expected a finite number, found {found}")]
    NotFinite {
        /// The file.
        origin: String,
        /// The tensor.
        name: String,
        /// Index of the first such value.
        idx: usize,
        /// The value.
        found: f32,
    },
    /// A tensor that the network does not have.
    #[error(
        "{origin}: {name}: expected no such tensor in this network, found one of shape {found:?} (and {more} more)"
    )]
    Unexpected {
        /// The file.
        origin: String,
        /// The first such tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many others there are.
        more: usize,
    },
    /// Two tensors of one name.
    #[error("{origin}: {name}: expected one tensor of this name, found two that differ")]
    Twice {
        /// The file.
        origin: String,
        /// The name.
        name: String,
    },
}
