//! `[export]`: what is made for the chip.

use std::path::PathBuf;

use anyhow::ensure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::file_path::FilePath;

/// What is made for the chip.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportToml {
    /// The vendor's `imxconv-pt` (`PATH` is not searched). With it, `sensei run` and `sensei export` end with `packerOut.zip`, and
    /// `sensei export --rpk` with `network.rpk`; without it, with the ONNX file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converter: Option<FilePath>,
    /// Under what licence the student is given away, in an SPDX expression or in words, for manifest and model card. Without it, they say
    /// that none is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// How the student is exported.
pub struct ExportPlan {
    /// The vendor's converter; without it, export ends with the ONNX file.
    pub converter: Option<PathBuf>,
    /// Under what licence the student is given away.
    pub licence: Option<String>,
}

impl ExportToml {
    /// Whether no key is set.
    pub fn is_empty(&self) -> bool {
        self.converter.is_none() && self.licence.is_none()
    }

    /// The plan of the export.
    ///
    /// # Errors
    /// If the licence is empty or of several lines.
    pub fn resolve(self) -> anyhow::Result<ExportPlan> {
        if let Some(licence) = &self.licence {
            let is_line = !licence.trim().is_empty() && !licence.chars().any(char::is_control);
            ensure!(is_line, "[export] licence: expected a line of words, found {licence:?}");
        }
        Ok(ExportPlan { converter: self.converter.map(|path| path.0), licence: self.licence })
    }
}
