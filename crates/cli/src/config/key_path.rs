//! Names of keys from a file's root: `train.stage.0.epochs`.

use std::fmt;
use std::str::FromStr;

use toml::{Table, Value};

/// Where a value is in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct KeyPath(pub Vec<String>);

impl KeyPath {
    /// The path of a key, or of an element by its index from 0, below this one.
    pub fn below(&self, step: impl fmt::Display) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.to_string());
        Self(steps)
    }

    /// Whether the other path is this one or lies below it.
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Puts a value there; tables on the way are made.
    ///
    /// # Errors
    /// If there is no such element, or a value on the way has no keys, in words.
    pub fn set(&self, table: &mut Table, new: Value) -> Result<(), String> {
        let (last, way) = self.0.split_last().ok_or("expected a key")?;
        let mut steps = way.iter();
        let Some(first) = steps.next() else {
            table.insert(last.clone(), new);
            return Ok(());
        };
        let mut value = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
        for step in steps {
            value = match value {
                Value::Table(table) => table.entry(step.clone()).or_insert_with(|| Value::Table(Table::new())),
                other => element(other, step)?,
            };
        }
        match value {
            Value::Table(table) => {
                table.insert(last.clone(), new);
            }
            other => *element(other, last)? = new,
        }
        Ok(())
    }
}

/// An element of a list.
fn element<'a>(value: &'a mut Value, step: &str) -> Result<&'a mut Value, String> {
    let Value::Array(array) = value else { return Err(format!("`{step}`: there are no keys below this value")) };
    let n_elements = array.len();
    let idx = step.parse::<usize>().ok().filter(|&idx| idx < n_elements);
    let idx = idx.ok_or_else(|| match n_elements {
        0 => format!("`{step}`: the list is empty"),
        _ => format!("expected an index from 0 to {}, found `{step}`", n_elements - 1),
    })?;
    Ok(&mut array[idx])
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, step) in self.0.iter().enumerate() {
            let dot = if idx == 0 { "" } else { "." };
            let is_bare = !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            match is_bare {
                true => write!(f, "{dot}{step}")?,
                false => write!(f, "{dot}{step:?}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for KeyPath {
    type Err = String;

    /// Keys separated by dots, in quotes where they have dots themselves: `quantize.weight_bits_of."encoder_stage1.3"`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut steps, mut step, mut quoted, mut was_quoted) = (vec![], String::new(), false, false);
        for c in text.trim().chars() {
            match c {
                '"' => (quoted, was_quoted) = (!quoted, true),
                '.' if !quoted => {
                    steps.push((std::mem::take(&mut step), was_quoted));
                    was_quoted = false;
                }
                other => step.push(other),
            }
        }
        steps.push((step, was_quoted));
        if quoted || steps.iter().any(|(step, was_quoted)| step.is_empty() && !was_quoted) {
            return Err(format!("expected keys separated by dots, as train.batch_size, found `{text}`"));
        }
        Ok(Self(steps.into_iter().map(|(step, _)| step).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_printed() {
        for text in ["seed", "train.stage.0.epochs", "quantize.weight_bits_of.\"encoder_stage1.3\""] {
            assert_eq!(text.parse::<KeyPath>().unwrap().to_string(), text);
        }
        assert_eq!("a.\"b.c\"".parse::<KeyPath>().unwrap().0, ["a", "b.c"]);
        for text in ["", ".", "a.", ".a", "a..b", "a.\"b"] {
            assert!(text.parse::<KeyPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_put_where_the_path_says() {
        let mut table: Table = "seed = 1\n[[train.stage]]\nepochs = 2\n".parse().unwrap();
        let mut set = |path: &str| path.parse::<KeyPath>().unwrap().set(&mut table, Value::Integer(7));
        assert_eq!(set("train.stage.0.epochs"), Ok(()));
        assert_eq!(set("quantize.budget.weight_bits"), Ok(()));
        assert_eq!(set("train.stage.1.epochs"), Err("expected an index from 0 to 0, found `1`".to_string()));
        assert_eq!(set("train.stage.first.epochs"), Err("expected an index from 0 to 0, found `first`".to_string()));
        assert_eq!(set("seed.low"), Err("`low`: there are no keys below this value".to_string()));
        let seven = Value::Integer(7);
        assert_eq!(
            (&table["train"]["stage"][0]["epochs"], &table["quantize"]["budget"]["weight_bits"]),
            (&seven, &seven)
        );
    }
}
