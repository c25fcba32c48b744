//! Names of a file and names of a network: prefixes, what is missing, what is beside it.

use std::collections::{BTreeMap, BTreeSet};

use sensei_graph::layer_graph::LayerGraph;
use sensei_tensor::network::{HostTensor, NamedWeights};

use super::WeightsError;

/// The tensors of a file that are under the prefix which its network's tensors have there.
pub(super) struct Selection<'a> {
    /// `student.`, or nothing.
    pub prefix: String,
    /// By name without prefix: the name in the file, and the tensor.
    own: BTreeMap<String, (&'a str, &'a HostTensor)>,
    /// Names that are not under the prefix.
    pub beside: Vec<&'a str>,
}

/// The tensors of `weights` that `graph` names, all of them and no others, under the graph's names.
///
/// Prefixes that training programs put before all names are taken off where that makes the names fit: `module.`,
/// `_orig_mod.`, `model.`, `student.`, `net.` and `network.`, in any combination.
///
/// `origin` begins the text of an error: the path of a file, or words.
///
/// # Errors
/// If a tensor is missing, is not of this network, or has another shape or a value that is not finite; or if the names
/// fit under two prefixes.
pub fn match_weights(graph: &LayerGraph, weights: &NamedWeights, origin: &str) -> Result<NamedWeights, WeightsError> {
    let selection = select(graph, weights, origin)?;
    let matched = selection.matched(graph, origin)?;
    match selection.beside.first() {
        Some(name) => Err(unexpected(origin, name, &weights[*name])),
        None => Ok(matched),
    }
}

/// Finds the prefix and what is under it.
///
/// # Errors
/// If the names fit under two prefixes, or two names are one but for `_orig_mod.`.
pub(super) fn select<'a>(
    graph: &LayerGraph,
    weights: &'a NamedWeights,
    origin: &str,
) -> Result<Selection<'a>, WeightsError> {
    let mut plain = BTreeMap::new();
    for (name, tensor) in weights {
        if plain.insert(without_compiled(name), (name.as_str(), tensor)).is_some() {
            return Err(unexpected(origin, name, tensor));
        }
    }
    let prefix = prefix(graph, &plain, origin)?;
    let (mut own, mut beside) = (BTreeMap::new(), vec![]);
    for (name, (in_file, tensor)) in plain {
        match name.strip_prefix(&prefix) {
            Some(bare) => drop(own.insert(bare.to_string(), (in_file, tensor))),
            None => beside.push(in_file),
        }
    }
    Ok(Selection { prefix, own, beside })
}

impl Selection<'_> {
    /// The tensors of the network.
    ///
    /// # Errors
    /// Those of [`match_weights`], but for tensors beside the prefix.
    pub(super) fn matched(&self, graph: &LayerGraph, origin: &str) -> Result<NamedWeights, WeightsError> {
        let mut matched = NamedWeights::new();
        for spec in graph.tensors() {
            let (origin, name, expected) = (origin.to_string(), spec.name, spec.shape);
            let Some((_, tensor)) = self.own.get(&name) else {
                let found = self.names_that_are_there(graph, &name);
                return Err(WeightsError::Missing { origin, name, expected, found });
            };
            if tensor.shape != expected || tensor.values.len() != expected.iter().product::<usize>() {
                return Err(WeightsError::Shape { origin, name, expected, found: tensor.shape.clone() });
            }
            if let Some(idx) = tensor.values.iter().position(|value| !value.is_finite()) {
                return Err(WeightsError::NotFinite { origin, name, idx, found: tensor.values[idx] });
            }
            matched.insert(name, (*tensor).clone());
        }
        match self.own.iter().find(|(name, _)| !matched.contains_key(*name)) {
            Some((_, (in_file, tensor))) => Err(unexpected(origin, in_file, tensor)),
            None => Ok(matched),
        }
    }

    /// For the message about a missing tensor: what the file has that the network has not.
    fn names_that_are_there(&self, graph: &LayerGraph, missing: &str) -> String {
        let names: BTreeSet<String> = graph.tensors().into_iter().map(|spec| spec.name).collect();
        let n_fit = self.own.keys().filter(|name| names.contains(*name)).count();
        let others: Vec<_> =
            self.own.iter().filter(|(name, _)| !names.contains(*name)).map(|(_, there)| there).collect();
        let unknown_prefix = self.own.keys().find_map(|name| {
            let prefix = name.strip_suffix(missing)?;
            names.iter().all(|name| self.own.contains_key(&format!("{prefix}{name}"))).then_some(prefix)
        });
        if let Some(prefix) = unknown_prefix {
            return format!("all names behind {prefix:?}: save them without it");
        }
        let first: Vec<String> =
            others.iter().take(MAX_SHOWN).map(|(name, tensor)| format!("{name} {:?}", tensor.shape)).collect();
        match others.len() {
            0 if n_fit == 0 => "no tensor at all".into(),
            0 => format!("none; the {n_fit} tensors that are there fit"),
            n if n > MAX_SHOWN => format!("{} and {} more; {n_fit} tensors fit", first.join(", "), n - MAX_SHOWN),
            _ => format!("{}; {n_fit} tensors fit", first.join(", ")),
        }
    }
}

/// Whether `name` is `bare` behind nothing but known prefixes.
pub(super) fn is_prefixed(name: &str, bare: &str) -> bool {
    let name = without_compiled(name);
    prefixes(&name).any(|prefix| name[prefix.len()..] == *bare)
}

/// Names of the parts that training programs wrap a network in.
const WRAPPERS: &[&str] = &["module", "model", "student", "net", "network"];

/// What `torch.compile` puts before a part it compiled, the whole or one within.
const COMPILED: &str = "_orig_mod.";

/// Names that a message shows.
const MAX_SHOWN: usize = 4;

fn without_compiled(name: &str) -> String {
    name.split_inclusive('.').filter(|part| *part != COMPILED).collect()
}

/// The prefix under which the most names fit. Where all fit without one, that is it.
fn prefix(
    graph: &LayerGraph,
    plain: &BTreeMap<String, (&str, &HostTensor)>,
    origin: &str,
) -> Result<String, WeightsError> {
    let names: BTreeSet<String> = graph.tensors().into_iter().map(|spec| spec.name).collect();
    let mut n_fit: BTreeMap<&str, usize> = BTreeMap::new();
    for name in plain.keys() {
        for prefix in prefixes(name).filter(|prefix| names.contains(&name[prefix.len()..])) {
            *n_fit.entry(prefix).or_default() += 1;
        }
    }
    if n_fit.get("") == Some(&names.len()) {
        return Ok(String::new());
    }
    let whole: Vec<&str> = n_fit.iter().filter(|(_, n)| **n == names.len()).map(|(prefix, _)| *prefix).collect();
    if let [first, second, ..] = whole[..] {
        let (first, second) = (first.to_string(), second.to_string());
        return Err(WeightsError::Ambiguous { origin: origin.into(), first, second });
    }
    // Of equally many the first: the shortest.
    let best = n_fit.into_iter().rev().max_by_key(|(_, n)| *n);
    Ok(best.map_or(String::new(), |(prefix, _)| prefix.to_string()))
}

/// Every start of `name` that is made of [`WRAPPERS`], the empty one first.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    let next = |end: &usize| {
        let (part, _) = name[*end..].split_once('.')?;
        WRAPPERS.contains(&part).then_some(*end + part.len() + 1)
    };
    std::iter::successors(Some(0), next).map(|end| &name[..end])
}

fn unexpected(origin: &str, name: &str, tensor: &HostTensor) -> WeightsError {
    WeightsError::Unexpected { origin: origin.into(), name: name.into(), found: tensor.shape.clone() }
}
