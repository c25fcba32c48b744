//! Which dictionary of a checkpoint holds the weights.

use std::collections::{BTreeSet, VecDeque};

use super::checkpoint::{CheckpointError, LeftOut};
use super::pickle::{Pickle, Value, ValueId, shortened};

/// A dictionary of tensors, and what lies beside it.
pub(super) struct StateDict<'a> {
    /// The keys that lead to it, joined by dots; none if it is the whole.
    pub path: Option<String>,
    pub entries: Vec<(&'a str, ValueId)>,
    pub beside: Vec<LeftOut>,
}

/// Finds the weights.
///
/// A dictionary under a name of [`WRAPPERS`] comes first, in their order and whatever lies beside it. Else it is the
/// whole or a dictionary in it: the one with the most tensors.
///
/// # Errors
/// If no dictionary has tensors, or two under other names have equally many.
pub(super) fn find_state_dict<'a>(pickle: &Pickle<'a>) -> Result<StateDict<'a>, CheckpointError> {
    if !matches!(pickle.root(), Value::Dict(_)) {
        let found = pickle.describe(pickle.root);
        let (name, expected) = ("the whole".into(), "a dictionary");
        return Err(match pickle.root() {
            Value::Opaque(_) => CheckpointError::Object { found },
            _ => CheckpointError::Value { name, expected, found },
        });
    }
    let candidates = candidates(pickle);
    if let Some(best) = candidates.iter().filter(|candidate| candidate.rank.is_some()).min_by_key(|c| &c.rank) {
        return state_dict(pickle, best);
    }
    let most = candidates.iter().map(|candidate| candidate.n_tensors).max();
    let largest: Vec<&Candidate> = candidates.iter().filter(|c| Some(c.n_tensors) == most).collect();
    match largest[..] {
        [] => no_tensors(pickle),
        [best] => state_dict(pickle, best),
        [first, second, ..] => {
            let named =
                |candidate: &Candidate| shortened(candidate.path.last().copied().unwrap_or("the whole")).to_string();
            let found = format!("{} and {}, of {} tensors each", named(first), named(second), first.n_tensors);
            let expected = "one dictionary of tensors, or one under a name such as state_dict or model";
            Err(CheckpointError::Value { name: "the whole".into(), expected, found })
        }
    }
}

/// Names under which programs put weights, in the order in which they are looked for. Moving averages come last: a
/// program that has both deploys either, and what was not taken is said.
const WRAPPERS: &[&str] = &[
    "state_dict",
    "model_state_dict",
    "model",
    "student",
    "student_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "checkpoint",
    "weights",
    "params",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "ema_model",
    "ema",
];

/// Dictionaries are looked for this many keys deep.
const MAX_KEYS: usize = 3;

struct Candidate<'a> {
    path: Vec<&'a str>,
    dict: ValueId,
    n_tensors: usize,
    /// Places of the path's keys in [`WRAPPERS`], if all are in it. The shorter of two paths ends with a place after all
    /// others: what is in `model.state_dict` is meant, not what is beside it in `model`.
    rank: Option<Vec<usize>>,
}

/// All dictionaries that have tensors, each once.
fn candidates<'a>(pickle: &Pickle<'a>) -> Vec<Candidate<'a>> {
    let mut found = vec![];
    let mut seen = BTreeSet::from([pickle.root]);
    let mut open = VecDeque::from([(vec![], pickle.root)]);
    while let Some((path, dict)) = open.pop_front() {
        let Value::Dict(items) = &pickle.values[dict] else { continue };
        let mut n_tensors = 0;
        for (key, value) in items {
            let Value::Text(key) = pickle.values[*key] else { continue };
            match pickle.values[*value] {
                Value::Tensor(_) => n_tensors += 1,
                Value::Dict(_) if path.len() < MAX_KEYS && seen.insert(*value) => {
                    open.push_back(([&path[..], &[key]].concat(), *value));
                }
                _ => {}
            }
        }
        if n_tensors > 0 {
            let place = |key: &&str| WRAPPERS.iter().position(|wrapper| wrapper == key);
            let places: Option<Vec<usize>> = path.iter().map(place).collect();
            let rank = places.filter(|places| !places.is_empty()).map(|places| [places, vec![WRAPPERS.len()]].concat());
            found.push(Candidate { path, dict, n_tensors, rank });
        }
    }
    found
}

fn state_dict<'a>(pickle: &Pickle<'a>, chosen: &Candidate<'a>) -> Result<StateDict<'a>, CheckpointError> {
    let mut beside = vec![];
    let mut above = String::new();
    let mut dict = pickle.root;
    for taken in &chosen.path {
        let mut next = dict;
        for (key, value) in entries(pickle, dict)? {
            if key == *taken {
                next = value;
            } else {
                beside.push(LeftOut { name: format!("{above}{key}"), found: pickle.describe(value) });
            }
        }
        above = format!("{above}{}.", shortened(taken));
        dict = next;
    }
    let path = above.strip_suffix('.').map(String::from);
    Ok(StateDict { path, entries: entries(pickle, chosen.dict)?, beside })
}

/// The entries of a dictionary whose keys are strings: the others are no names.
///
/// # Errors
/// If two have one name. So the names together are no longer than the file.
fn entries<'a>(pickle: &Pickle<'a>, dict: ValueId) -> Result<Vec<(&'a str, ValueId)>, CheckpointError> {
    let Value::Dict(items) = &pickle.values[dict] else { return Ok(vec![]) };
    let (mut entries, mut names) = (vec![], BTreeSet::new());
    for (key, value) in items {
        let Value::Text(name) = pickle.values[*key] else { continue };
        if !names.insert(name) {
            let (name, expected, found) = (shortened(name).into(), "one entry", "two".into());
            return Err(CheckpointError::Value { name, expected, found });
        }
        entries.push((name, *value));
    }
    Ok(entries)
}

fn no_tensors(pickle: &Pickle) -> Result<StateDict<'static>, CheckpointError> {
    let entries = entries(pickle, pickle.root)?;
    let shown = |(name, id): &(&str, ValueId)| format!("{} ({})", shortened(name), pickle.describe(*id));
    let first: Vec<String> = entries.iter().take(MAX_SHOWN).map(shown).collect();
    let found = match entries.len() {
        0 => "no named entry".into(),
        n if n > MAX_SHOWN => format!("{} and {} more", first.join(", "), n - MAX_SHOWN),
        _ => first.join(", "),
    };
    if entries.iter().any(|(_, id)| matches!(pickle.values[*id], Value::Opaque(_))) {
        return Err(CheckpointError::Object { found });
    }
    let expected = "tensors, or a dictionary of them under state_dict, model_state_dict, model or the like";
    Err(CheckpointError::Value { name: "the whole".into(), expected, found })
}

/// Entries that a message shows.
const MAX_SHOWN: usize = 8;
