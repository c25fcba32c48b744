//! Subsets from their names, as protocols spell them.

use crate::selection::Subset;

/// A text that names no subset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subset: expected \"all\", \"first N\", \"random N, seed N\" or \"images in FOLDER\", found {found:?}")]
pub struct SubsetNameError {
    /// The text.
    pub found: String,
}

impl Subset {
    /// The subset of a [name](Subset::name).
    ///
    /// # Errors
    /// If no subset has this name, or it is one of no instances.
    pub fn from_name(name: &str) -> Result<Subset, SubsetNameError> {
        // A number that is spelt in another way than the subset would spell it is refused.
        let subset = parse(name).filter(|subset| subset.name() == name);
        subset.ok_or_else(|| SubsetNameError { found: name.to_string() })
    }
}

fn parse(name: &str) -> Option<Subset> {
    let count = |text: &str| text.parse::<usize>().ok().filter(|count| *count > 0);
    if name == "all" {
        return Some(Subset::All);
    }
    if let Some(folder) = name.strip_prefix("images in ") {
        return (!folder.is_empty()).then(|| Subset::ImagesIn(folder.to_string()));
    }
    if let Some(first) = name.strip_prefix("first ") {
        return Some(Subset::First(count(first)?));
    }
    let (drawn, seed) = name.strip_prefix("random ")?.split_once(", seed ")?;
    Some(Subset::Random { count: count(drawn)?, seed: seed.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_subset() {
        for subset in [
            Subset::All,
            Subset::First(1000),
            Subset::Random { count: 7, seed: u64::MAX },
            Subset::ImagesIn(String::from("val2017/")),
        ] {
            assert_eq!(Subset::from_name(&subset.name()), Ok(subset));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for name in
            ["", "first", "first 0", "first 01", "first -1", "random 3", "random 0, seed 1", "images in ", "none"]
        {
            assert_eq!(Subset::from_name(name), Err(SubsetNameError { found: name.into() }));
        }
    }
}
