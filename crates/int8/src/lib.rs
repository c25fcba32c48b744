//! The integer network: its number grid, arithmetic, interpreter and file.
//!
//! It never trains, calibrates or knows a device's file formats. It needs neither a C library nor an archive format, so that it
//! also compiles to WebAssembly. `docs/formats/int8-model.md` defines every operator and every byte.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

mod conv;
mod elementwise;
pub mod grid;
pub mod interpreter;
pub mod model;
pub mod model_file;
mod plane;
#[cfg(test)]
mod reference;
mod simd;
#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
mod simd128;
