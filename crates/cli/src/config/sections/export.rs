//! `[export]`: what is made for the chip.

use std::path::PathBuf;

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
}

/// How the student is exported.
pub struct ExportPlan {
    /// The vendor's converter; without it, export ends with the ONNX file.
    pub converter: Option<PathBuf>,
}

impl ExportToml {
    /// Whether no key is set.
    pub fn is_empty(&self) -> bool {
        self.converter.is_none()
    }

    /// The plan of the export.
    pub fn resolve(self) -> ExportPlan {
        ExportPlan { converter: self.converter.map(|path| path.0) }
    }
}
