//! A protocol's rules from the words that stand beside its numbers, and the shipped protocols in those words.
//!
//! For programs that read no TOML: what `configs/protocols` spells in keys is here in names, as reports and packages have them.

use sensei_data::crop_name::CropNameError;
use sensei_data::crop_rule::CropRule;
use sensei_data::prompt_name::PromptNameError;
use sensei_data::prompt_source::PromptSource;
use sensei_samples::selection::{CrowdRule, EmptyTruthRule, SelectionRules, Subset};
use sensei_samples::subset_name::SubsetNameError;
use serde::{Deserialize, Serialize};

use crate::protocol::{EvalProtocol, MaskChoice, ProtocolRules, SCORING, Space};

/// What fixes a score besides data set and predictor, each rule by its name: [`EvalProtocol`] before it is on a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedRules {
    /// A short name for people.
    pub name: String,
    /// Which instances: [`Subset::name`].
    pub subset: String,
    /// What is given for an object: [`PromptSource::name`].
    pub prompt: String,
    /// The crop that every student is shown: [`CropRule::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<String>,
    /// Where the number is computed that the protocol is quoted by.
    pub space: Space,
    /// Annotations with a smaller `area` are left out, in square image pixels.
    pub min_area: f64,
    /// What happens to crowd regions.
    pub crowd: CrowdRule,
    /// What happens to annotations without a mask pixel.
    pub empty_truth: EmptyTruthRule,
    /// Which of several masks for one prompt counts.
    pub mask_choice: MaskChoice,
}

/// Words that are no protocol's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// No such crop.
    #[error(transparent)]
    Crop(#[from] CropNameError),
    /// No such prompt.
    #[error(transparent)]
    Prompt(#[from] PromptNameError),
    /// No such subset.
    #[error(transparent)]
    Subset(#[from] SubsetNameError),
    /// A rule that does not go with the others, or a number out of range.
    #[error("{rule}: expected {expected}, found {found}")]
    Rule {
        /// Which.
        rule: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl NamedRules {
    /// The words for rules.
    pub fn of(rules: &ProtocolRules) -> Self {
        let SelectionRules { prompt, crop, subset, min_area, crowd, empty_truth } = &rules.selection;
        Self {
            name: rules.name.clone(),
            subset: subset.name(),
            prompt: prompt.name(),
            crop: crop.map(|crop| crop.name()),
            space: rules.space,
            min_area: *min_area,
            crowd: *crowd,
            empty_truth: *empty_truth,
            mask_choice: rules.mask_choice,
        }
    }

    /// The words of a protocol that a report or a package states, whatever its data set.
    ///
    /// # Errors
    /// If its numbers are by other definitions than those of this version.
    pub fn of_protocol(protocol: &EvalProtocol) -> Result<Self, RulesError> {
        if protocol.scoring != SCORING {
            return Err(rule("scoring", SCORING.to_string(), protocol.scoring.to_string()));
        }
        let EvalProtocol { name, subset, prompt, crop, space, min_area, crowd, empty_truth, mask_choice, .. } =
            protocol;
        Ok(Self {
            name: name.clone(),
            subset: subset.clone(),
            prompt: prompt.clone(),
            crop: crop.clone(),
            space: *space,
            min_area: *min_area,
            crowd: *crowd,
            empty_truth: *empty_truth,
            mask_choice: *mask_choice,
        })
    }

    /// The rules that the words name.
    ///
    /// # Errors
    /// If a word names none, or rules do not go together.
    pub fn rules(&self) -> Result<ProtocolRules, RulesError> {
        let prompt = PromptSource::from_name(&self.prompt)?;
        let crop = self.crop.as_deref().map(CropRule::from_name).transpose()?;
        if let Some(crop) = crop {
            let found = || format!("prompt {}", self.prompt);
            if prompt.is_of_several_points() {
                return Err(rule("crop", "none where the prompt is several points".into(), found()));
            }
            if crop.needs_box() && !prompt.is_box() {
                return Err(rule(
                    "crop",
                    "one that a point can be given for, or a prompt that is a box".into(),
                    found(),
                ));
            }
        } else if self.space == Space::Crop {
            return Err(rule("space", "\"image\" where there is no crop".into(), "\"crop\"".into()));
        }
        if !(self.min_area.is_finite() && self.min_area >= 0.0) {
            return Err(rule("min_area", "a number, 0 or above".into(), self.min_area.to_string()));
        }
        let selection = SelectionRules {
            prompt,
            crop,
            subset: Subset::from_name(&self.subset)?,
            min_area: self.min_area,
            crowd: self.crowd,
            empty_truth: self.empty_truth,
        };
        Ok(ProtocolRules { name: self.name.clone(), selection, space: self.space, mask_choice: self.mask_choice })
    }
}

/// The protocols of `configs/protocols`, sorted by name.
///
/// # Panics
/// If the file that holds them is broken: `shipped_protocols_are_those_of_the_configurations` holds it.
pub fn shipped_protocols() -> Vec<NamedRules> {
    serde_json::from_str(SHIPPED).expect("the crate's own file")
}

fn rule(rule: &'static str, expected: String, found: String) -> RulesError {
    RulesError::Rule { rule, expected, found }
}

/// Written by `SENSEI_WRITE=1 cargo test --release -p sensei generated`.
const SHIPPED: &str = include_str!("named_rules.json");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::protocol;

    fn named(name: &str) -> NamedRules {
        shipped_protocols().into_iter().find(|rules| rules.name == name).unwrap()
    }

    #[test]
    fn words_lead_back_to_their_rules() {
        assert!(shipped_protocols().len() > 8);
        for words in shipped_protocols() {
            assert_eq!(NamedRules::of(&words.rules().unwrap()), words);
        }
    }

    #[test]
    fn a_reports_protocol_has_its_rules() {
        let words = NamedRules::of_protocol(&protocol()).unwrap();
        let rules = words.rules().unwrap();
        assert_eq!(rules.selection.crop.unwrap().name(), "roi-96-pad0.1-reference");
        let other = NamedRules::of_protocol(&EvalProtocol { scoring: 1, ..protocol() }).unwrap_err();
        assert_eq!(other.to_string(), format!("scoring: expected {SCORING}, found 1"));
    }

    #[test]
    fn rules_that_do_not_go_together_are_refused() {
        let check = |change: fn(&mut NamedRules), expected: &str| {
            let mut words = named("picosam3-roi96");
            change(&mut words);
            let message = words.rules().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(|words| words.crop = None, "space: expected \"image\" where there is no crop");
        check(|words| words.prompt = "random_points3-seed0".into(), "none where the prompt is several points");
        check(|words| words.prompt = "mask_center".into(), "a prompt that is a box, found prompt mask_center");
        check(|words| words.min_area = -1.0, "min_area: expected a number, 0 or above, found -1");
        check(|words| words.subset = "some".into(), "subset: expected \"all\"");
        check(|words| words.prompt = "boxes".into(), "prompt: expected box,");
        check(|words| words.crop = Some("roi".into()), "crop rule: expected center_window");
    }
}
