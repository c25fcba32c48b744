//! The file of a search: which values keys of a configuration may have, what a network may cost, and how candidates are trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use serde::Deserialize;

use super::file_path::FilePath;
use super::key_path::KeyPath;
use super::overrides::Override;
use super::read::{read, text_of};

/// A search.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchToml {
    /// The configuration that all candidates change.
    config: FilePath,
    /// What a network may cost; the chip's own memory is always a limit for a student of the chip.
    #[serde(default)]
    limits: Limits,
    /// Values of keys, as in `"student.input_size" = [96, 128]`. Every combination is a candidate.
    #[schemars(with = "BTreeMap<String, Vec<serde_json::Value>>")]
    space: BTreeMap<String, Vec<toml::Value>>,
    /// Draw some of those that are within the limits. Without it, all are tried.
    draw: Option<Draw>,
    /// Trainings of all candidates, then of the best ones.
    #[serde(rename = "round")]
    rounds: Vec<RoundToml>,
}

/// What a network may cost.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most multiply-accumulates of one answer.
    pub macs: Option<u64>,
    /// Most parameters.
    pub parameters: Option<u64>,
    /// Most bytes on the chip, as estimated.
    pub chip_bytes: Option<u64>,
}

/// Some of the candidates.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// How many.
    #[schemars(range(min = 1, max = 1000))]
    pub count: usize,
    /// Of the random numbers.
    pub seed: u64,
}

/// A training of every candidate that is left.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RoundToml {
    /// Seeds of its trainings. A candidate's score is the mean over them.
    seeds: Vec<u64>,
    /// Keys in this round, as in `{ "train.stage.0.epochs" = 1 }`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    set: BTreeMap<String, toml::Value>,
    /// How many candidates go on to the next round; not in the last one.
    #[schemars(range(min = 1))]
    keep: Option<usize>,
}

/// A search whose file was checked.
#[derive(Debug)]
pub struct SearchPlan {
    /// The file's name without its ending.
    pub name: String,
    /// The configuration that all candidates change.
    pub config: PathBuf,
    /// What a network may cost.
    pub limits: Limits,
    /// By key, sorted.
    pub space: Vec<(KeyPath, Vec<toml::Value>)>,
    /// Some of the candidates, or all.
    pub draw: Option<Draw>,
    /// At least one.
    pub rounds: Vec<Round>,
}

/// A training of every candidate that is left.
#[derive(Debug)]
pub struct Round {
    /// At least one.
    pub seeds: Vec<u64>,
    /// Keys in this round.
    pub set: Vec<Override>,
    /// How many candidates go on; none in the last round.
    pub keep: Option<usize>,
}

impl SearchPlan {
    /// Combinations of the space.
    pub fn n_combinations(&self) -> usize {
        self.space.iter().map(|(_, values)| values.len()).product()
    }

    /// The keys of one combination, by its number.
    pub fn combination(&self, number: usize) -> Vec<Override> {
        let mut rest = number;
        let mut overrides: Vec<Override> = self
            .space
            .iter()
            .rev()
            .map(|(key, values)| {
                let value = values[rest % values.len()].clone();
                rest /= values.len();
                Override { key: key.clone(), value }
            })
            .collect();
        overrides.reverse();
        overrides
    }
}

/// Reads the file of a search.
///
/// # Errors
/// If it is no such file, or its rounds do not get smaller.
pub fn load_search(path: &Path) -> anyhow::Result<SearchPlan> {
    let text = text_of(path)?;
    let file: SearchToml = read(path, &text, &[])?;
    resolve(path, file).with_context(|| path.display().to_string())
}

fn resolve(path: &Path, file: SearchToml) -> anyhow::Result<SearchPlan> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let key = |text: &str| {
        let key = text.parse::<KeyPath>().map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
        ensure!(key.0 != ["seed"], "seed: expected it in a [[round]]'s seeds, found it among the keys");
        Ok(key)
    };
    let mut space = vec![];
    let mut n_combinations = 1usize;
    for (text, values) in file.space {
        ensure!(!values.is_empty(), "[space] {text}: expected at least one value, found none");
        if let Some(twice) = values.iter().enumerate().find(|(idx, value)| values[..*idx].contains(value)) {
            bail!("[space] {text}: expected different values, found {} twice", twice.1);
        }
        n_combinations = n_combinations.saturating_mul(values.len());
        space.push((key(&text)?, values));
    }
    ensure!(!space.is_empty(), "[space]: expected at least one key, found none");
    ensure!(
        n_combinations <= MAX_COMBINATIONS,
        "[space]: expected at most {MAX_COMBINATIONS} combinations, found {n_combinations}"
    );
    let n_rounds = file.rounds.len();
    ensure!(n_rounds > 0, "[[round]]: expected at least one, found none");
    let mut rounds = vec![];
    let mut kept = usize::MAX;
    for (idx, round) in file.rounds.into_iter().enumerate() {
        let place = format!("[[round]] {}", idx + 1);
        ensure!(!round.seeds.is_empty(), "{place}: expected at least one seed, found none");
        if let Some(twice) = round.seeds.iter().enumerate().find(|(idx, seed)| round.seeds[..*idx].contains(seed)) {
            bail!("{place}: expected different seeds, found {} twice", twice.1);
        }
        let is_last = idx + 1 == n_rounds;
        match round.keep {
            Some(keep) if is_last => bail!("{place} keep: expected none in the last round, found {keep}"),
            Some(keep) if keep >= kept => bail!("{place} keep: expected fewer than {kept}, found {keep}"),
            None if !is_last => bail!("{place} keep: expected a number, as a round follows; found none"),
            Some(keep) => kept = keep,
            None => {}
        }
        let set = round.set.into_iter().map(|(text, value)| {
            let key = key(&text)?;
            let twice = space.iter().find(|(own, _)| own.holds(&key) || key.holds(own));
            match twice {
                Some((own, _)) => bail!("{place} set {text}: expected a key that [space] does not change, found {own}"),
                None => Ok(Override { key, value }),
            }
        });
        rounds.push(Round { seeds: round.seeds, set: set.collect::<anyhow::Result<_>>()?, keep: round.keep });
    }
    Ok(SearchPlan { name, config: file.config.0, limits: file.limits, space, draw: file.draw, rounds })
}

/// Of a space: each is planned before the first is trained.
const MAX_COMBINATIONS: usize = 100_000;

#[cfg(test)]
mod tests {
    use sensei_files::whole::write_whole;

    use super::*;

    fn search(text: &str) -> anyhow::Result<SearchPlan> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("width.toml");
        write_whole(&path, text.as_bytes()).unwrap();
        load_search(&path)
    }

    const GOOD: &str = r#"
        config = "my.toml"
        limits = { macs = 1000 }
        [space]
        "student.input_size" = [96, 128]
        "student.decoder_channels" = [[8, 8], [16, 8], [16, 16]]
        [[round]]
        seeds = [1]
        set = { "train.stage.0.epochs" = 1 }
        keep = 2
        [[round]]
        seeds = [1, 2, 3]
    "#;

    #[test]
    fn every_combination_has_a_number() {
        let plan = search(GOOD).unwrap();
        assert_eq!((plan.name.as_str(), plan.n_combinations()), ("width", 6));
        let words = |number: usize| {
            let keys = plan.combination(number);
            keys.iter().map(|set| format!("{}={}", set.key, set.value)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(0), "student.decoder_channels=[8, 8] student.input_size=96");
        assert_eq!(words(5), "student.decoder_channels=[16, 16] student.input_size=128");
        let all: std::collections::BTreeSet<String> = (0..6).map(words).collect();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn what_is_no_search_is_refused() {
        let refused = |from: &str, to: &str, expected: &str| {
            assert!(GOOD.contains(from), "{from}");
            let error = format!("{:#}", search(&GOOD.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        refused("keep = 2", "", "[[round]] 1 keep: expected a number");
        refused("seeds = [1, 2, 3]", "seeds = [1]\nkeep = 1", "[[round]] 2 keep: expected none in the last round");
        refused("seeds = [1]", "seeds = []", "expected at least one seed");
        refused("[96, 128]", "[96, 96]", "found 96 twice");
        refused("[96, 128]", "[]", "expected at least one value");
        refused("train.stage.0.epochs", "student.input_size", "a key that [space] does not change");
        refused("macs", "mcas", "mcas");
        refused("seeds = [1, 2, 3]", "seeds = [1, 2, 1]", "[[round]] 2: expected different seeds, found 1 twice");
        refused("\"student.input_size\" = [96, 128]", "seed = [1, 2]", "seed: expected it in a [[round]]'s seeds");
        refused("train.stage.0.epochs", "seed", "seed: expected it in a [[round]]'s seeds");
    }
}
