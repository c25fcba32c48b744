//! The integer model of a package or of an `.s8m` file, held to its list of digests, with the crop that it is shown.

use std::path::{Path, PathBuf};

use sensei_data::crop_name::CropNameError;
use sensei_data::crop_rule::CropRule;
use sensei_files::bounded::read_bounded;
use sensei_files::digest::hex;
use sensei_files::digest_list::{DigestError, DigestList};
use sensei_files::error::FileError;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::{ModelFileError, read_model};
use serde_json::Value;

/// A package or model file that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that was changed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// No model.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// No crop of that name.
    #[error("{}: {source}", path.display())]
    Crop {
        /// The manifest or model.
        path: PathBuf,
        /// Why.
        source: CropNameError,
    },
    /// Something else than a package or a model.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// Reads what `path` is. `crop` names the crop that a bare model is shown; a package says its own, unless another is named.
///
/// # Errors
/// If it is no package or model, was changed since it was written, or it is not said how its crop is cut.
pub(crate) fn open(path: &Path, crop: Option<&str>) -> Result<(IntegerModel, CropRule), PackageError> {
    let content = |path: &Path, expected: &str, found: &str| PackageError::Content {
        path: path.into(),
        expected: expected.into(),
        found: found.into(),
    };
    let (model, crop) = if path.is_dir() {
        let manifest_file = path.join("manifest.json");
        if !manifest_file.is_file() {
            return Err(content(path, "a package (a folder with manifest.json) or an .s8m file", "another folder"));
        }
        let list = DigestList::read(path)?;
        list.check(&manifest_file)?;
        let manifest: Value = serde_json::from_slice(&read_bounded(&manifest_file, MAX_MANIFEST_BYTES)?)
            .map_err(|error| content(&manifest_file, "JSON", &error.to_string()))?;
        let name = manifest["network"].as_str();
        let name = name.ok_or_else(|| content(&manifest_file, "a network's name in \"network\"", "none"))?;
        let file = path.join(format!("{name}.s8m"));
        list.check(&file)?;
        let model = read_model(&file)?;
        let digest = hex(&model.digest());
        if let Some(expected) = manifest["int8_model_digest"].as_str().filter(|expected| *expected != digest) {
            return Err(content(&file, &format!("the model {expected} of the manifest"), &digest));
        }
        let crop = crop.or(manifest["crop"].as_str());
        (
            model,
            crop.ok_or_else(|| content(&manifest_file, "a crop rule in \"crop\", or crop=", "neither"))?.to_string(),
        )
    } else {
        let expected = "crop= beside a bare .s8m, which does not say how its crop is cut";
        let crop = crop.ok_or_else(|| content(path, expected, "none"))?;
        DigestList::read(path.parent().unwrap_or(Path::new("")))?.check(path)?;
        (read_model(path)?, crop.to_string())
    };
    let rule = CropRule::from_name(&crop).map_err(|source| PackageError::Crop { path: path.into(), source })?;
    let side = model.input().shape[1];
    if rule.grid() as usize != side {
        return Err(content(path, &format!("a crop rule for a network of {side} x {side} pixels"), &crop));
    }
    let [channels, height, width] = model.output().shape;
    if [channels, height, width] != [1, side, side] {
        let found = format!("{channels} of {height} x {width}");
        return Err(content(path, &format!("a network that answers with one mask of {side} x {side}"), &found));
    }
    Ok((model, rule))
}

const MAX_MANIFEST_BYTES: u64 = 16 << 20;
