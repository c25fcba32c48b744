//! What a run's configuration says, in a few words for people: for its page and the list of runs.

use std::fs;
use std::path::Path;

use anyhow::Context;
use toml::{Table, Value};

/// Names and values: the student, what it sees, and how it was trained. A configuration of another version says what it can.
///
/// # Errors
/// If the file cannot be read or is no TOML.
pub fn about(plan: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = fs::read_to_string(plan).with_context(|| format!("{}: cannot read", plan.display()))?;
    let table: Table = toml::from_str(&text).with_context(|| format!("{}: not TOML", plan.display()))?;
    let changes: Vec<&str> =
        text.lines().map_while(|line| line.strip_prefix("# ")).filter(|line| line.starts_with("--set ")).collect();
    let facts = [
        ("student", student(&table)),
        ("sees", crop(&table)),
        ("stages", stages(&table)),
        ("seed", table.get("seed").map_or_else(String::new, Value::to_string)),
        ("set on the command line", changes.join(" ")),
    ];
    let said = facts.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(said.map(|(name, value)| (name.to_string(), value)).collect())
}

/// Family and input size, as `unet 64`.
fn student(table: &Table) -> String {
    let Some(student) = table.get("student").and_then(Value::as_table) else { return String::new() };
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(String::from);
    let size = |table: &Table| table.get("input_size").and_then(Value::as_integer).map(|side| side.to_string());
    let encoder = student.get("encoder").and_then(Value::as_table);
    let encoder = encoder.into_iter().flat_map(|encoder| [text(encoder, "kind"), size(encoder)]);
    let parts = [text(student, "family"), size(student)].into_iter().chain(encoder);
    parts.flatten().collect::<Vec<String>>().join(" ")
}

fn crop(table: &Table) -> String {
    let rule = table.get("crop").and_then(|crop| crop.get("rule")?.as_str());
    rule.map_or_else(String::new, |rule| format!("a crop by rule {rule:?}"))
}

/// Names and epochs.
fn stages(table: &Table) -> String {
    let stages = table.get("train").and_then(|train| train.get("stage")?.as_array());
    let stage = |stage: &Value| {
        let epochs = stage.get("epochs").and_then(Value::as_integer).unwrap_or(0);
        let plural = if epochs == 1 { "" } else { "s" };
        Some(format!("{}, {epochs} epoch{plural}", stage.get("name")?.as_str()?))
    };
    stages.into_iter().flatten().filter_map(stage).collect::<Vec<String>>().join("; ")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_told_in_a_few_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        let check = |text: &str, expected: &[(&str, &str)]| {
            fs::write(&path, text).unwrap();
            let found = about(&path).unwrap();
            let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected);
        };
        check(
            "# Set on the command line; the values below are those:\n# --set seed=3\n\nseed = 3\n[crop]\nrule = \"roi\"\n\
             [student]\nfamily = \"unet\"\ninput_size = 64\n[[train.stage]]\nname = \"a\"\nepochs = 1\n[[train.stage]]\nname = \"b\"\nepochs = 2\n",
            &[
                ("student", "unet 64"),
                ("sees", "a crop by rule \"roi\""),
                ("stages", "a, 1 epoch; b, 2 epochs"),
                ("seed", "3"),
                ("set on the command line", "--set seed=3"),
            ],
        );
        check(
            "[student]\nfamily = \"promptable\"\nencoder = { kind = \"vit\", input_size = 256 }\n",
            &[("student", "promptable vit 256")],
        );
        check("", &[]);
        fs::write(&path, "=").unwrap();
        assert!(about(&path).unwrap_err().to_string().ends_with("plan.toml: not TOML"));
    }
}
