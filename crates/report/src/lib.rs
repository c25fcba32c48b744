//! What a run's folder holds, and the page that shows it to people.
//!
//! It never trains, scores or runs a network: it reads the files of a run, each as a type.

mod base64;
mod charts;
pub mod compare_page;
pub mod error;
pub mod events;
pub mod gallery;
mod html;
mod layer_tables;
pub mod layers;
mod outline;
mod package;
pub mod page;
mod pictures;
pub mod run_folder;
mod scores;
pub mod tensorboard;
pub mod training;
