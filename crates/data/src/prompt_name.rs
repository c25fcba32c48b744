//! Prompt sources from their names, as protocols spell them.

use crate::prompt_source::{MAX_POINTS, PromptSource};

/// A text that names no prompt source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "prompt: expected box, box-jitterSHARE-seedN with a share from 0 to 0.5, mask_box, box_center, mask_center, innermost_point, \
     random_point-seedN or random_pointsCOUNT-seedN with 1 to {MAX_POINTS} points, found {found:?}"
)]
pub struct PromptNameError {
    /// The text.
    pub found: String,
}

impl PromptSource {
    /// The source of a [name](PromptSource::name).
    ///
    /// ```
    /// use sensei_data::prompt_source::PromptSource;
    ///
    /// assert_eq!(PromptSource::from_name("random_point-seed7"), Ok(PromptSource::RandomPoint { seed: 7 }));
    /// assert!(PromptSource::from_name("random_point").is_err());
    /// ```
    ///
    /// # Errors
    /// If no source has this name, or its numbers are out of range.
    pub fn from_name(name: &str) -> Result<PromptSource, PromptNameError> {
        // A number that is spelt in another way than the source would spell it is refused.
        let source = parse(name).filter(|source| source.name() == name);
        source.ok_or_else(|| PromptNameError { found: name.to_string() })
    }
}

fn parse(name: &str) -> Option<PromptSource> {
    let parts: Vec<&str> = name.split('-').collect();
    let seed = |text: &str| text.strip_prefix("seed")?.parse::<u64>().ok();
    Some(match parts[..] {
        ["box"] => PromptSource::Box,
        ["mask_box"] => PromptSource::MaskBox,
        ["box_center"] => PromptSource::BoxCenter,
        ["mask_center"] => PromptSource::MaskCenter,
        ["innermost_point"] => PromptSource::InnermostPoint,
        ["random_point", of_seed] => PromptSource::RandomPoint { seed: seed(of_seed)? },
        ["box", jitter, of_seed] => {
            let jitter =
                jitter.strip_prefix("jitter")?.parse::<f64>().ok().filter(|share| (0.0..=0.5).contains(share))?;
            PromptSource::JitteredBox { jitter, seed: seed(of_seed)? }
        }
        [points, of_seed] => {
            let count = points.strip_prefix("random_points")?.parse::<u32>().ok();
            let count = count.filter(|count| (1..=MAX_POINTS).contains(count))?;
            PromptSource::RandomPoints { count, seed: seed(of_seed)? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_source() {
        for source in [
            PromptSource::Box,
            PromptSource::JitteredBox { jitter: 0.125, seed: 3 },
            PromptSource::JitteredBox { jitter: 1.0 / 3.0, seed: u64::MAX },
            PromptSource::MaskBox,
            PromptSource::BoxCenter,
            PromptSource::MaskCenter,
            PromptSource::InnermostPoint,
            PromptSource::RandomPoint { seed: 0 },
            PromptSource::RandomPoints { count: 3, seed: 9 },
        ] {
            assert_eq!(PromptSource::from_name(&source.name()), Ok(source));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for name in [
            "",
            "Box",
            "box-jitter0.1",
            "box-jitter0.6-seed1",
            "box-jitter-0.1-seed1",
            "box-jitter0.10-seed1",
            "box-jitterNaN-seed1",
            "random_point",
            "random_point-seed-1",
            "random_point-seed01",
            "random_points0-seed1",
            "random_points17-seed1",
            "mask_box-seed1",
        ] {
            assert_eq!(PromptSource::from_name(name), Err(PromptNameError { found: name.into() }));
        }
    }
}
