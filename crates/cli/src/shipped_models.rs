//! Trained students that are part of the program, so that it has one to start from wherever it was installed.

use std::path::Path;

use anyhow::{Context, bail};
use sensei_data::crop_rule::CropRule;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::from_bytes;
use sensei_student::weights::{WeightsFile, weights_of};

/// A model of `models/`, with the files that its folder there has.
#[derive(Debug, PartialEq, Eq)]
pub struct ShippedModel {
    /// What configurations and commands call it.
    pub name: &'static str,
    weights: &'static [u8],
    int8: &'static [u8],
    manifest: &'static str,
}

/// All of them.
static MODELS: [ShippedModel; 2] = [
    ShippedModel {
        name: "sensei-box",
        weights: include_bytes!("../../../models/sensei-box/student.safetensors"),
        int8: include_bytes!("../../../models/sensei-box/sensei-box.s8m"),
        manifest: include_str!("../../../models/sensei-box/manifest.json"),
    },
    ShippedModel {
        name: "quickstart",
        weights: include_bytes!("../../../models/quickstart/student.safetensors"),
        int8: include_bytes!("../../../models/quickstart/quickstart.s8m"),
        manifest: include_str!("../../../models/quickstart/manifest.json"),
    },
];

/// The model of this name.
///
/// # Errors
/// If there is none.
pub fn shipped(name: &str) -> anyhow::Result<&'static ShippedModel> {
    let Some(model) = MODELS.iter().find(|model| model.name == name) else {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        bail!("expected a model that ships with Sensei ({}), found {name:?}", names.join(", "));
    };
    Ok(model)
}

impl ShippedModel {
    /// Its float network.
    ///
    /// # Errors
    /// If the program was built with a damaged file.
    pub fn weights(&self) -> anyhow::Result<WeightsFile> {
        Ok(weights_of(Path::new(self.name), self.weights)?)
    }

    /// Its integer network.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn int8(&self) -> anyhow::Result<IntegerModel> {
        Ok(from_bytes(Path::new(self.name), self.int8)?)
    }

    /// How the crop is cut that it sees.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn crop(&self) -> anyhow::Result<CropRule> {
        let manifest: serde_json::Value = serde_json::from_str(self.manifest).context(self.name)?;
        let crop = manifest["crop"].as_str().with_context(|| format!("{}: no crop in its manifest", self.name))?;
        Ok(CropRule::from_name(crop)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_is_whole_and_fits_its_crop() {
        for model in &MODELS {
            let (int8, crop) = (model.int8().unwrap(), model.crop().unwrap());
            assert_eq!(int8.input().shape, [3, crop.grid() as usize, crop.grid() as usize], "{}", model.name);
            assert_eq!(int8.name(), model.name);
            let manifest: serde_json::Value = serde_json::from_str(model.manifest).unwrap();
            let digest = blake3::Hash::from_bytes(int8.digest()).to_hex().to_string();
            assert_eq!(manifest["int8_model_digest"].as_str(), Some(digest.as_str()), "{}", model.name);
            assert!(model.weights().unwrap().tensors.len() > 10);
        }
        let error = shipped("sensei-bx").unwrap_err().to_string();
        assert_eq!(error, "expected a model that ships with Sensei (sensei-box, quickstart), found \"sensei-bx\"");
    }
}
