//! Python's view of what Sensei reads, runs and scores: the integer student on NumPy arrays, masks by a protocol, average precision, caches,
//! events and weights.
//!
//! It never trains, and has no mathematics of its own: every number is one of the other crates'. Arrays are copied on their way in, and
//! Python's other threads run while it computes. `sensei.pyi` beside this folder is what Python's type checkers read.

use pyo3::prelude::*;

mod annotations;
mod array_input;
mod average_precision;
mod cache;
mod events;
mod exception;
mod json;
mod mask;
mod package;
mod protocol;
mod results;
mod student;
mod subset;
mod summary;
mod threads;
mod weights;

/// Runs, reads and scores what Sensei makes.
#[pymodule]
fn sensei(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<student::Student>()?;
    module.add_class::<annotations::Annotations>()?;
    module.add_class::<results::Results>()?;
    module.add_class::<average_precision::Evaluation>()?;
    module.add_class::<average_precision::Params>()?;
    module.add_class::<events::Events>()?;
    module.add_class::<cache::Cache>()?;
    module.add_class::<cache::CacheAnswers>()?;
    module.add_class::<cache::ObjectAnswer>()?;
    module.add_class::<cache::PromptAnswer>()?;
    module.add_class::<cache::ImageAnswer>()?;
    module.add_class::<weights::Weights>()?;
    module.add_function(wrap_pyfunction!(protocol::evaluate_masks, module)?)?;
    module.add_function(wrap_pyfunction!(protocol::protocols, module)?)?;
    module.add_function(wrap_pyfunction!(mask::encode_mask, module)?)?;
    module.add_function(wrap_pyfunction!(mask::decode_mask, module)?)?;
    module.add_function(wrap_pyfunction!(events::read_events, module)?)?;
    module.add_function(wrap_pyfunction!(cache::read_cache, module)?)?;
    module.add_function(wrap_pyfunction!(weights::read_weights, module)?)?;
    Ok(())
}
