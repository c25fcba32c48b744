//! The dependency table of docs/ARCHITECTURE.md, held.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use sensei_testing::workspace_root;

/// The crates that may read TOML.
const MAY_USE_TOML: &[&str] = &["sensei", "sensei-tests"];

/// A row of "What may use what".
struct Row {
    may_use: BTreeSet<String>,
    may_use_burn: bool,
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let (table, found) = (table(), dependencies());
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<BTreeSet<String>>();
    assert_eq!(
        names(found.keys().collect()),
        names(table.keys().collect()),
        "crates of the workspace, rows of the table"
    );
    for (name, uses) in &found {
        let row = &table[name];
        let ours: BTreeSet<String> = uses.iter().filter(|used| used.starts_with("sensei")).cloned().collect();
        assert_eq!(ours, row.may_use, "{name}: what it uses, what the table says");
        for dependency in uses {
            let is_burn = dependency == "burn" || dependency.starts_with("burn-");
            assert!(!is_burn || row.may_use_burn, "{name} uses {dependency}");
            assert!(dependency != "toml" || MAY_USE_TOML.contains(&name.as_str()), "{name} reads TOML");
        }
    }
}

#[test]
fn every_crate_says_its_job_and_its_never_in_the_table_and_in_its_own_words() {
    let text = architecture();
    let rows: Vec<Vec<&str>> = rows(&text, "| crate | its one job | never |").collect();
    for name in dependencies().into_keys() {
        let row = rows.iter().find(|row| row[0].starts_with(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("docs/ARCHITECTURE.md: no row for {name}"));
        assert!(!row[1].is_empty(), "{name}: no job");
        let folder = match name.as_str() {
            "sensei" => "crates/cli/src/main.rs".to_string(),
            "sensei-tests" => "tests/lib.rs".to_string(),
            _ => format!("crates/{}/src/lib.rs", &name["sensei-".len()..]),
        };
        let head = std::fs::read_to_string(workspace_root().join(&folder)).expect("a crate has a root file");
        assert!(head.starts_with("//! "), "{folder}: expected its job in its first line");
    }
}

/// "What may use what" by crate.
fn table() -> BTreeMap<String, Row> {
    let text = architecture();
    let mut table = BTreeMap::new();
    for row in rows(&text, "| crate | may use | burn |") {
        let [crates, uses, burn] = row[..] else { panic!("docs/ARCHITECTURE.md: expected three cells, found {row:?}") };
        let uses = uses.split(", ").filter(|word| *word != "none").map(|word| format!("sensei-{word}"));
        let uses: BTreeSet<String> = uses.collect();
        for name in crates.split(", ") {
            let row = Row { may_use: uses.clone(), may_use_burn: burn == "yes" };
            assert!(table.insert(name.trim_matches('`').to_string(), row).is_none(), "{name}: two rows");
        }
    }
    table
}

/// Cells of the table under this head.
fn rows<'a>(text: &'a str, head: &str) -> impl Iterator<Item = Vec<&'a str>> {
    let (_, body) = text.split_once(head).unwrap_or_else(|| panic!("docs/ARCHITECTURE.md: no table {head}"));
    let lines = body.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn architecture() -> String {
    std::fs::read_to_string(workspace_root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md")
}

/// Direct, normal dependencies of each crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace_root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a name").to_string();
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            let normal = all.filter(|dependency| dependency["kind"].is_null());
            (name, normal.map(|dependency| dependency["name"].as_str().expect("a name").to_string()).collect())
        })
        .collect()
}
