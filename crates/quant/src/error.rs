//! What can keep a student off the chip's grid.

use sensei_int8::grid::GridError;
use sensei_int8::model::ModelError;
use sensei_student::weights::WeightsError;

/// A student or calibration data that cannot be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The weights are not those of the network, or not finite.
    #[error(transparent)]
    Weights(Box<WeightsError>),
    /// The integer model breaks a rule of the chip.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A number that is infinite or not a number, where it first appears.
    #[error("{node}: {what}: expected finite numbers, found {found} at {idx}")]
    NotFinite {
        /// The node's name.
        node: String,
        /// Folded weights, folded bias or output.
        what: &'static str,
        /// Flat index of the first one.
        idx: usize,
        /// The number.
        found: f32,
    },
    /// A threshold that the chip's grid does not have.
    #[error("{node}: {source}")]
    Grid {
        /// The node's name.
        node: String,
        /// Which one.
        source: GridError,
    },
    /// Nothing to calibrate on.
    #[error("calibration: expected at least one image, found none")]
    NoImages,
    /// Images of another size than the network's input.
    #[error("image batch: expected [batch, {}, {}, {}], found {found:?}", expected[0], expected[1], expected[2])]
    ImageShape {
        /// Channels, height, width of the network's input.
        expected: [usize; 3],
        /// Dimensions given.
        found: [usize; 4],
    },
    /// Weight bits for a node that has no weights.
    #[error("weight bits of {name:?}: expected the name of a convolution of the network, found none of that name")]
    NoSuchConv {
        /// The name given.
        name: String,
    },
    /// A memory target that narrower weights alone do not reach.
    #[error("weight memory: expected at most {limit} bytes, found {reached} with every convolution at {bits} bits")]
    Budget {
        /// The target.
        limit: u64,
        /// What is left when everything is narrow.
        reached: u64,
        /// The narrow width.
        bits: u8,
    },
    /// Trained thresholds that are not those of a network.
    #[error("thresholds {name}: expected {expected}, found {found}")]
    Thresholds {
        /// Whose.
        name: String,
        /// What the network has.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An integer model of another network.
    #[error("{model}: expected the nodes of the network it is compared with, found others from node {node_idx} on")]
    OtherNetwork {
        /// The integer model's name.
        model: String,
        /// First node that differs.
        node_idx: usize,
    },
    /// The caller asked to stop.
    #[error("the calibration was interrupted")]
    Interrupted,
}

impl From<WeightsError> for QuantError {
    fn from(error: WeightsError) -> Self {
        Self::Weights(Box::new(error))
    }
}
