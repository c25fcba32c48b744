//! Scores of promptable masks: one definition each, floors, intervals, reports.
//!
//! Predictors arrive as closures, and every number is defined on a page of its own, `docs/metrics.md`. Never here: models,
//! printing, and any number without its protocol.

pub mod average_precision;
pub mod bootstrap;
pub mod choice;
pub mod click_disc;
pub mod compare;
pub mod curve;
pub mod evaluate;
#[cfg(test)]
mod fixtures;
pub mod floors;
pub mod foreign;
pub mod gate;
mod glyphs;
mod json_lines;
pub mod mask_score;
pub mod metric;
pub mod named_rules;
pub mod overlay;
pub mod paired;
pub mod protocol;
pub mod report;
pub mod rows;
pub mod scene;
pub mod score;
pub mod table;
pub mod verdict;
