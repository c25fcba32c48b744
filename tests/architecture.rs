//! The dependency table of docs/ARCHITECTURE.md, held.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use sensei_testing::workspace_root;

/// Crates of the workspace that each crate may use, as docs/ARCHITECTURE.md says.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sensei-data", &[]),
    ("sensei-kernels", &[]),
    ("sensei-imx500", &[]),
    ("sensei-loss", &["sensei-kernels"]),
    ("sensei-testing", &[]),
    ("sensei-answers", &["sensei-data"]),
    ("sensei-eval", &["sensei-data"]),
    ("sensei-student", &["sensei-kernels"]),
    ("sensei-quant", &["sensei-student", "sensei-imx500"]),
    (
        "sensei-train",
        &[
            "sensei-data",
            "sensei-answers",
            "sensei-student",
            "sensei-loss",
            "sensei-quant",
            "sensei-eval",
            "sensei-imx500",
        ],
    ),
    (
        "sensei",
        &[
            "sensei-data",
            "sensei-answers",
            "sensei-student",
            "sensei-loss",
            "sensei-quant",
            "sensei-imx500",
            "sensei-eval",
            "sensei-train",
        ],
    ),
    ("sensei-tests", &["sensei-testing"]),
];

/// The crates that may see burn.
const MAY_USE_BURN: &[&str] = &["sensei-student", "sensei-loss", "sensei-quant", "sensei-train", "sensei"];

/// The crates that may read TOML.
const MAY_USE_TOML: &[&str] = &["sensei", "sensei-tests"];

#[test]
fn crates_use_only_what_the_table_allows() {
    let table: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let found = dependencies();
    let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, table.keys().copied().collect(), "crates of the workspace and rows of the table");
    for (name, uses) in &found {
        for dependency in uses {
            if dependency.starts_with("sensei") {
                let allowed = table[name.as_str()].contains(dependency.as_str());
                assert!(allowed, "{name} uses {dependency}, which the table does not allow");
            }
            if dependency == "burn" || dependency.starts_with("burn-") {
                assert!(MAY_USE_BURN.contains(&name.as_str()), "{name} uses {dependency}");
            }
            if dependency == "toml" {
                assert!(MAY_USE_TOML.contains(&name.as_str()), "{name} reads TOML");
            }
        }
    }
}

#[test]
fn only_the_command_line_crate_prints_or_asks_the_clock() {
    // sensei-imx500 runs the vendor's converter under a time limit and sensei-testing announces skipped tests.
    let words = ["println!(", "print!(", "eprintln!(", "Instant::now", "SystemTime::now", "std::env::var", "env::args"];
    let allowed = |path: &str| {
        path.starts_with("crates/cli/")
            || path.starts_with("crates/testing/")
            || path.starts_with("crates/imx500/src/converter")
            || path.contains("/examples/")
            || path.contains("/tests/")
    };
    for path in rust_files() {
        if allowed(&path) {
            continue;
        }
        let text = std::fs::read_to_string(workspace_root().join(&path)).expect("a tracked file can be read");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in words {
                assert!(!line.contains(word), "{path}: {word} outside of crates/cli: {line}");
            }
        }
    }
}

#[test]
fn every_document_named_in_the_architecture_exists() {
    let root = workspace_root();
    let text = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let mut n_links = 0;
    for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !target.starts_with("http") {
            let file = target.split('#').next().unwrap_or_default();
            assert!(root.join("docs").join(file).exists(), "docs/ARCHITECTURE.md links to {target}");
            n_links += 1;
        }
    }
    assert!(n_links > 3, "docs/ARCHITECTURE.md links to the pages it speaks of");
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

/// Rust files below `crates`, relative to the root.
fn rust_files() -> Vec<String> {
    let (root, mut folders, mut files) = (workspace_root(), vec!["crates".to_string()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).expect("a folder of the workspace") {
            let entry = entry.expect("a folder entry");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("a file type").is_dir() {
                folders.push(path);
            } else if path.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
