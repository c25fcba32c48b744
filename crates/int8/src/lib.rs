//! The integer network: its number grid, arithmetic, interpreter and file.
//!
//! It never trains, calibrates or knows a device's file formats. It needs neither a C library nor an archive format, so that it
//! also compiles to WebAssembly. `docs/formats/int8-model.md` defines every operator and every byte.

mod conv;
pub mod grid;
pub mod interpreter;
pub mod model;
pub mod model_file;
#[cfg(test)]
mod reference;
mod simd;
