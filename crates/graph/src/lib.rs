//! Describes a network: its operators, shapes, counts, and which of them are computed together.
//!
//! It never holds weights or tensors and never computes one: float network, integer network and memory estimate share
//! [`GraphOp`](op::GraphOp) and read everything else from here.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

pub mod layer_graph;
pub mod op;
pub mod steps;
pub mod summary;
