//! Crop rules from their names, as packages and protocols spell them.

use crate::crop_rule::{Border, BoxBorder, CropRule};

/// A text that names no crop rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "crop rule: expected center_window-GRID-BORDER, roi-GRID-padSHARE-BORDER or box-GRID-padSHARE-minPIXELS-BORDER, found {found:?}"
)]
pub struct CropNameError {
    /// The text.
    pub found: String,
}

impl CropRule {
    /// The rule of a [name](CropRule::name).
    ///
    /// ```
    /// use sensei_data::crop_rule::{Border, CropRule};
    ///
    /// let rule = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    /// assert_eq!(CropRule::from_name("roi-96-pad0.1-reference"), Ok(rule));
    /// assert!(CropRule::from_name("roi-96-pad0.1-round").is_err());
    /// ```
    ///
    /// # Errors
    /// If no rule has this name.
    pub fn from_name(name: &str) -> Result<CropRule, CropNameError> {
        // A number that is spelt in another way than the rule would spell it is refused.
        let rule = parse(name).filter(|rule| rule.name() == name);
        rule.ok_or_else(|| CropNameError { found: name.to_string() })
    }
}

fn parse(name: &str) -> Option<CropRule> {
    let parts: Vec<&str> = name.split('-').collect();
    let grid = |text: &str| text.parse::<u32>().ok().filter(|grid| (1..=MAX_GRID).contains(grid));
    let number = |text: &str, before: &str, minimum: f64| {
        let value = text.strip_prefix(before)?.parse::<f64>().ok()?;
        (value.is_finite() && value >= minimum).then_some(value)
    };
    match parts[..] {
        ["center_window", side, edge] => Some(CropRule::CenterWindow { grid: grid(side)?, border: border(edge)? }),
        ["roi", side, padding, edge] => {
            Some(CropRule::Roi { padding: number(padding, "pad", 0.0)?, grid: grid(side)?, border: border(edge)? })
        }
        ["box", side, padding, min_side, edge] => Some(CropRule::Box {
            padding: number(padding, "pad", 0.0)?,
            min_side: number(min_side, "min", 1.0)?,
            grid: grid(side)?,
            border: match edge {
                "clipped" => BoxBorder::Clipped,
                "padded" => BoxBorder::Padded,
                _ => return None,
            },
        }),
        _ => None,
    }
}

fn border(name: &str) -> Option<Border> {
    match name {
        "reference" => Some(Border::Reference),
        "corrected" => Some(Border::Corrected),
        _ => None,
    }
}

/// Largest side of a student's input that configurations allow.
const MAX_GRID: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_rule() {
        let borders = [Border::Reference, Border::Corrected];
        let windows = borders.map(|border| CropRule::CenterWindow { grid: 96, border });
        let regions = borders.map(|border| CropRule::Roi { padding: 0.125, grid: 128, border });
        let boxes = [BoxBorder::Clipped, BoxBorder::Padded].map(|border| CropRule::Box {
            padding: 1.0 / 3.0,
            min_side: 10.0,
            grid: 128,
            border,
        });
        for rule in windows.into_iter().chain(regions).chain(boxes) {
            assert_eq!(CropRule::from_name(&rule.name()), Ok(rule));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for name in [
            "",
            "roi",
            "roi-96-pad0.1",
            "roi-96-pad0.1-clipped",
            "roi-0-pad0.1-reference",
            "roi-96-pad-0.1-reference",
            "roi-96-padNaN-reference",
            "roi-96-padinf-reference",
            "roi-96-pad0.10-reference",
            "roi-096-pad0.1-reference",
            "box-96-pad0.1-min0-clipped",
            "box-96-pad0.1-clipped",
            "center_window-96-corrected-more",
            "center_window-4096-corrected",
        ] {
            assert_eq!(CropRule::from_name(name), Err(CropNameError { found: name.into() }));
        }
    }
}
