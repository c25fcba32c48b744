//! The integer student in a browser: a picture and a box go in, the mask and its score come out, with the chip's integers.
//!
//! It never trains, reads files or fetches anything: the page hands over bytes.

mod exports;
pub mod session;
