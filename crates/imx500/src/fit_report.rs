//! `*_MemoryReport.json`: the converter's account of the chip's memory, in words.

use std::path::Path;

use sensei_files::bounded::read_bounded;
use serde_json::Value;

use crate::refusal::{PackageError, Place, Refusal};

/// The converter's account of a network's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitReport {
    /// Name of the network.
    pub name: String,
    /// Whether the chip has that much.
    pub fits: bool,
    /// What each part takes, in the converter's words and units.
    pub sizes: Vec<(&'static str, String)>,
}

impl FitReport {
    /// Reads a `*_MemoryReport.json`.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 1 MiB, or is no such report.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        Self::parse(&read_bounded(path, 1 << 20)?).map_err(|refusal| refusal.of(path))
    }

    /// The report in these bytes.
    ///
    /// # Errors
    /// If they are no such report.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|error| Refusal::new(Place::Line(error.line()), "JSON", error.to_string()))?;
        let report = &json["Memory Report"];
        let refuse = |key: &str, expected: &str| {
            let found = report[key].to_string().chars().take(80).collect::<String>();
            Refusal::key(format!("Memory Report.{key}"), expected, found)
        };
        let text = |key: &str| -> Result<String, Refusal> {
            let text = report[key].as_str().filter(|text| text.len() <= 64 && !text.chars().any(char::is_control));
            Ok(text.ok_or_else(|| refuse(key, "a text of at most 64 bytes"))?.into())
        };
        let size = |key: &'static str| -> Result<(&'static str, String), Refusal> { Ok((key, text(key)?)) };
        Ok(Self {
            name: text("Name")?,
            fits: report["Fit In Chip"].as_bool().ok_or_else(|| refuse("Fit In Chip", "true or false"))?,
            sizes: SIZES.into_iter().map(size).collect::<Result<_, _>>()?,
        })
    }
}

const SIZES: [&str; 6] = [
    "Runtime Memory Physical Size",
    "Model Memory Physical Size",
    "Reserved Memory",
    "Memory Usage",
    "Total Memory Available On Chip",
    "Memory Utilization",
];
