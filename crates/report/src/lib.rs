//! What a run's folder holds, and the page that shows it to people.
//!
//! It never trains, scores or runs a network: it reads the files of a run, each as a type.

pub mod error;
pub mod layers;
pub mod page;
pub mod run_folder;
