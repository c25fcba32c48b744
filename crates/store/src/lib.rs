//! Named objects that many machines share: a folder or an object store behind five verbs, and the rules by which an answer that
//! was lost on its way does no harm.
//!
//! It never knows what is in an object. Only here is a runtime for asynchronous work; callers wait.

pub mod error;
pub mod folder;
pub mod memory;
pub mod objects;
pub mod open;
pub mod place;
#[cfg(feature = "remote")]
pub mod remote;
