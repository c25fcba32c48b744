//! From the text of a file to its type, with every mistake said in words: place, key, expected, found.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Schema;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::check::{Mistake, for_each_path, mistakes};
use super::key_path::KeyPath;
use super::overrides::{Override, set_all};
use super::{file_path, schema};

/// Reads a file's text, the overridden keys in place of its own. Paths become absolute; relative ones, overridden ones too, are
/// relative to the file's folder.
///
/// # Errors
/// If it is no TOML, or keys are unknown, missing, of another type or out of range: all of them, each with its line.
pub fn read<T: DeserializeOwned + JsonSchema>(path: &Path, text: &str, overrides: &[Override]) -> anyhow::Result<T> {
    let shown = path.display();
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        anyhow::anyhow!("{shown}:{line}: {}", error.message().trim().replace('\n', "; "))
    })?;
    let mut table: Table = toml::from_str(text).with_context(|| shown.to_string())?;
    if let Err(error) = set_all(overrides, &mut table) {
        bail!("{shown}: {error}");
    }
    let schema = schema::of::<T>("");
    let found = mistakes(&schema, &table).into_iter().map(|mistake| place(mistake, path, text, &document, overrides));
    refuse(found.collect())?;
    let mut value = Value::Table(table);
    make_absolute(&schema, &mut value, path)?;
    value.try_into().with_context(|| shown.to_string())
}

/// The text of a configuration file.
///
/// # Errors
/// If it cannot be read; of a folder, which a run's could be, with what is done with those.
pub fn text_of(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    if path.is_dir() {
        let advice = "a run goes on by `sensei run CONFIG --resume` and is scored by `sensei eval RUN`";
        bail!("{shown}: expected a configuration file, found a folder; {advice}");
    }
    fs::read_to_string(path).with_context(|| format!("{shown}: cannot read the configuration"))
}

/// An error of all mistakes, in the order of their places.
fn refuse(mut found: Vec<(usize, String)>) -> anyhow::Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    found.sort();
    let more = found.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0).map(|more| format!("and {more} more"));
    let words = found.into_iter().take(MOST_SHOWN).map(|(_, words)| words);
    bail!("{}", words.chain(more).collect::<Vec<_>>().join("; "))
}

/// Makes all paths of a file absolute.
fn make_absolute(schema: &Schema, value: &mut Value, file: &Path) -> anyhow::Result<()> {
    // Where the working directory is gone, the file's folder is what its path says.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut not_text: Option<PathBuf> = None;
    for_each_path(schema, value, &mut |path| {
        let absolute = file_path::absolute(folder, path);
        match absolute.to_str() {
            Some(text) => *path = text.to_string(),
            None => not_text = Some(absolute),
        }
    });
    match not_text {
        Some(path) => bail!("{}: expected paths in UTF-8, found {}", file.display(), path.display()),
        None => Ok(()),
    }
}

/// How many mistakes a message lists.
const MOST_SHOWN: usize = 8;

/// A mistake with its place: the line, or the option of the command line.
fn place(
    mistake: Mistake,
    path: &Path,
    text: &str,
    document: &Spanned<DeTable<'_>>,
    overrides: &[Override],
) -> (usize, String) {
    let Mistake { at, message } = mistake;
    let (start, is_in_file) = start_of(document, &at);
    let set = overrides.iter().find(|set| set.key.holds(&at) || (!is_in_file && at.holds(&set.key)));
    let line = start.map_or(1, |start| line_at(text, start));
    let shown = path.display();
    match set {
        Some(set) if set.key == at => (0, format!("{shown}: --set {at}: {message}")),
        Some(set) => (0, format!("{shown}: --set {}: {at}: {message}", set.key)),
        None if at.0.is_empty() => (line, format!("{shown}: {message}")),
        None => (line, format!("{shown}:{line}: {at}: {message}")),
    }
}

/// The first byte of a key or element, or of the deepest one on the way to it; and whether it is there itself.
fn start_of(document: &Spanned<DeTable<'_>>, at: &KeyPath) -> (Option<usize>, bool) {
    let (mut start, mut table, mut array) = (None, Some(document.get_ref()), None);
    for step in &at.0 {
        let value: &Spanned<DeValue<'_>> = if let Some((key, value)) =
            table.and_then(|table| table.iter().find(|(key, _)| key.get_ref().as_ref() == step))
        {
            start = Some(key.span().start);
            value
        } else if let Some(value) =
            array.and_then(|array: &toml::de::DeArray<'_>| array.get(step.parse::<usize>().ok()?))
        {
            start = Some(value.span().start);
            value
        } else {
            return (start, false);
        };
        (table, array) = (value.get_ref().as_table(), value.get_ref().as_array());
    }
    (start, true)
}

fn line_at(text: &str, start: usize) -> usize {
    1 + text[..start].matches('\n').count()
}
