//! `--set train.batch_size=16`: keys that the command line sets in place of the file.

use std::fmt;
use std::str::FromStr;

use toml::{Table, Value};

use super::key_path::KeyPath;

/// A key and the value that it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Which.
    pub key: KeyPath,
    /// What it gets.
    pub value: Value,
}

/// Sets the keys in the order of the command line.
///
/// # Errors
/// If there is no such element of a list, or no key below a value, in words.
pub fn set_all(overrides: &[Override], table: &mut Table) -> Result<(), String> {
    overrides.iter().try_for_each(|Override { key, value }| {
        key.set(table, value.clone()).map_err(|error| format!("--set {key}: {error}"))
    })
}

impl FromStr for Override {
    type Err = String;

    /// `KEY=VALUE`, the value as TOML writes it; what is no TOML and has no quotes or brackets is text.
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as train.batch_size=16")?;
        let (key, value): (KeyPath, &str) = (key.parse()?, value.trim());
        let value = match value.parse::<Value>() {
            Ok(value) => value,
            Err(_) if !value.is_empty() && !value.contains(['"', '\'', '[', ']', '{', '}', '\n', '#']) => {
                Value::String(value.to_string())
            }
            Err(error) => return Err(format!("{key}: expected a value as TOML writes it: {}", error.message())),
        };
        Ok(Self { key, value })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_and_bare_words_are_text() {
        let check = |text: &str, expected: Value| {
            let set: Override = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(set.value, expected, "{text}");
            assert_eq!(set.to_string().parse(), Ok(set), "{text}");
        };
        let text = |text: &str| Value::String(text.to_string());
        check("train.batch_size=16", Value::Integer(16));
        check("crop.padding = 0.2", Value::Float(0.2));
        check("quantize.bias_correction=false", Value::Boolean(false));
        check("crop.border=reference", text("reference"));
        check("train.initial_weights=../runs/a=b/student.safetensors", text("../runs/a=b/student.safetensors"));
        check("train.stage.0.name='a b'", text("a b"));
        check("student.encoder_channels=[4, 6]", Value::Array(vec![Value::Integer(4), Value::Integer(6)]));
        let decay = Table::from_iter([("kind".to_string(), text("constant"))]);
        check("train.stage.0.decay={ kind = \"constant\" }", Value::Table(decay));
    }

    #[test]
    fn what_is_no_key_or_value_is_refused() {
        for text in ["seed", "=4", "seed=", "a..b=1", "seed=[4", "seed=\"4", "seed=4\nname=5", "seed={ a = }"] {
            assert!(text.parse::<Override>().is_err(), "{text}");
        }
    }
}
