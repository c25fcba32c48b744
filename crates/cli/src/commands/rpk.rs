//! `rpk`: what the camera loads, of what the converter makes.

use std::fs;
use std::path::Path;

use anyhow::Context;
use sensei_imx500::rpk::InputFormat;

use crate::phases::export::package_rpk;
use crate::usage;

/// Makes a `network.rpk`.
pub fn rpk(packer_out: &Path, out: &Path, input_format: &str, intrinsics: Option<&Path>) -> anyhow::Result<()> {
    let format = InputFormat::named(input_format).map_err(|refusal| usage(anyhow::anyhow!("{refusal}")))?;
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()));
    package_rpk(packer_out, out, format, intrinsics.map(read).transpose()?)
}
