//! The forms that a run's network takes from stage to stage.

use std::collections::BTreeMap;

use sensei_tensor::network::{NamedWeights, Network};

/// Any error of the caller's.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// What the caller does with the network where a stage begins: put it on the chip's grid, give it an adapter, or nothing.
///
/// Training calls [`enter`](Self::enter) once per stage. When a run is resumed within a stage, the values come from its checkpoint, and
/// [`shape`](Self::shape) only has to give the network its form.
pub trait StageNetworks {
    /// Makes the network of a stage of the one that the stage before left; `result` is what the run would result in now, by group.
    ///
    /// # Errors
    /// Whatever keeps the stage from beginning; it ends the run.
    fn enter(
        &mut self,
        stage_idx: usize,
        network: &mut Box<dyn Network>,
        result: &BTreeMap<String, NamedWeights>,
    ) -> Result<(), StageError>;

    /// Gives the run's first network the form of a stage; its values will be replaced.
    ///
    /// # Errors
    /// If the network cannot take that form.
    fn shape(&mut self, stage_idx: usize, network: &mut Box<dyn Network>) -> Result<(), StageError>;
}

/// A network that is the same in every stage.
pub struct SameNetwork;

impl StageNetworks for SameNetwork {
    fn enter(
        &mut self,
        _stage_idx: usize,
        _network: &mut Box<dyn Network>,
        _result: &BTreeMap<String, NamedWeights>,
    ) -> Result<(), StageError> {
        Ok(())
    }

    fn shape(&mut self, _stage_idx: usize, _network: &mut Box<dyn Network>) -> Result<(), StageError> {
        Ok(())
    }
}
