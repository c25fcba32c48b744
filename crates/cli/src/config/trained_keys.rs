//! The keys that decide a run's weights: their digest, and what two runs differ in.

use std::collections::BTreeMap;

use anyhow::Context;
use schemars::JsonSchema;
use serde::Serialize;
use toml::{Table, Value};

use super::check::for_each_path;
use super::key_path::KeyPath;
use super::run::RunToml;
use super::schema;

/// Keys and their values as TOML writes them. Paths are empty: what the files hold is digested when they are opened.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedKeys(BTreeMap<KeyPath, String>);

/// The sections that decide the weights. `[quantize]` does too where a stage trains on the chip's grid: the first thresholds are its.
const SECTIONS: [&str; 6] = ["seed", "data", "crop", "teacher", "student", "train"];

impl TrainedKeys {
    /// Those of a configuration.
    ///
    /// # Errors
    /// If it cannot be written as TOML.
    pub fn of(file: &RunToml) -> anyhow::Result<Self> {
        let has_quantized_stage = file.train.has_quantized_stage();
        Self::of_sections(file, |key| SECTIONS.contains(&key) || (has_quantized_stage && key == "quantize"))
    }

    /// Those of the sections of a file that decide the weights.
    ///
    /// # Errors
    /// If it cannot be written as TOML.
    pub fn of_sections<T: Serialize + JsonSchema>(file: &T, decides: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let table = Table::try_from(file).context("cannot digest the configuration")?;
        let mut value = Value::Table(table.into_iter().filter(|(key, _)| decides(key)).collect());
        for_each_path(&schema::of::<T>(""), &mut value, &mut |path| path.clear());
        let mut keys = BTreeMap::new();
        flatten(&value, &KeyPath::default(), &mut keys);
        Ok(Self(keys))
    }

    /// 64 hexadecimal digits. Equal ones train the same weights on the same files.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (key, value) in &self.0 {
            hasher.update(format!("{key} = {value}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The keys in which a run differs from these, with both values; empty if there are none.
    pub fn differences(&self, run: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<&KeyPath> = self.0.keys().chain(run.0.keys()).collect();
        let value = |keys: &Self, key| keys.0.get(key).cloned().unwrap_or_else(|| "not set".to_string());
        let differs = keys.into_iter().filter(|key| self.0.get(key) != run.0.get(key));
        differs.map(|key| format!("{key} was {} and is now {}", value(run, key), value(self, key))).collect()
    }
}

fn flatten(value: &Value, at: &KeyPath, keys: &mut BTreeMap<KeyPath, String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            table.iter().for_each(|(key, value)| flatten(value, &at.below(key), keys));
        }
        Value::Array(elements) if elements.iter().any(Value::is_table) => {
            elements.iter().enumerate().for_each(|(idx, value)| flatten(value, &at.below(idx), keys));
        }
        leaf => {
            keys.insert(at.clone(), leaf.to_string());
        }
    }
}
