//! `rpk`: what the camera loads, of what the converter makes.

use std::path::Path;

use sensei_imx500::rpk::{InputFormat, Intrinsics};

use crate::phases::export::package_rpk;
use crate::progress::say;
use crate::usage;

/// Makes a `network.rpk`.
pub fn rpk(packer_out: &Path, out: &Path, input_format: &str, intrinsics: Option<&Path>) -> anyhow::Result<()> {
    let format = InputFormat::named(input_format).map_err(|refusal| usage(anyhow::anyhow!("{refusal}")))?;
    let intrinsics = intrinsics.map(Intrinsics::read).transpose()?;
    let inside = package_rpk(packer_out, out, format, intrinsics)?;
    say(&format!("{}: {inside}", out.display()));
    Ok(())
}
