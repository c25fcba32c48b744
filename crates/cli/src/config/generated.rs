//! What is made of the file types and committed: schemas, the key tables of `docs/configuration.md`, and the shipped protocols for
//! programs that read no TOML.
//!
//! `SENSEI_WRITE=1 cargo test --release -p sensei generated` writes them anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sensei_eval::named_rules::NamedRules;
use sensei_files::whole::write_whole;
use serde_json::Value as Schema;

use super::check::{expectation, kind, options, properties, range, required, tag};
use super::promptable::{PromptableToml, is_promptable};
use super::protocol::{ProtocolToml, shipped};
use super::run::RunToml;
use super::schema::{of, promptable_schema, protocol_schema, run_schema, search_schema};

/// A committed file is what would be written now; with `SENSEI_WRITE=1` it is written.
fn check(file: &str, expected: &str) {
    let path = root().join(file);
    if std::env::var_os("SENSEI_WRITE").is_some() {
        write_whole(&path, expected.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = found.lines().zip(expected.lines()).take_while(|(found, expected)| found == expected).count() + 1;
    assert!(
        found == expected,
        "{file} is not what the types' documentation says, from line {line} on; \
         `SENSEI_WRITE=1 cargo test --release -p sensei generated` writes it anew"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn committed_schemas_are_those_of_the_types() {
    check("configs/schema/run.json", &run_schema());
    check("configs/schema/promptable.json", &promptable_schema());
    check("configs/schema/protocol.json", &protocol_schema());
    check("configs/schema/search.json", &search_schema());
}

#[test]
fn shipped_protocols_are_those_of_the_configurations() {
    let words: Vec<NamedRules> = shipped().iter().map(NamedRules::of).collect();
    let json = serde_json::to_string_pretty(&words).expect("words and numbers");
    check("crates/eval/src/named_rules.json", &format!("{json}\n"));
}

#[test]
fn the_page_has_the_keys_of_the_types() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page");
    check("docs/configuration.md", &with_tables(&page));
}

#[test]
fn every_shipped_file_names_its_schema() {
    let mut n_files = 0;
    let folders = [
        ("configs", "./schema/run.json"),
        ("configs/protocols", "../schema/protocol.json"),
        ("configs/searches", "../schema/search.json"),
    ];
    for (folder, schema) in folders {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let schema = if is_promptable(&path) { "./schema/promptable.json" } else { schema };
                let text = std::fs::read_to_string(&path).expect("a file of the repository");
                let line = format!("#:schema {schema}");
                assert_eq!(text.lines().next(), Some(line.as_str()), "{}", path.display());
                assert!(root().join(folder).join(schema).is_file(), "{schema}");
                n_files += 1;
            }
        }
    }
    assert!(n_files > 8, "{n_files} files");
}

/// The page with each block between `<!-- keys of run: PATH -->` and `<!-- end of keys -->` made anew.
fn with_tables(page: &str) -> String {
    const END: &str = "<!-- end of keys -->";
    let blocks = || page.lines().filter_map(|line| line.strip_prefix("<!-- keys of ")?.strip_suffix(" -->"));
    let names: BTreeSet<&str> = blocks().collect();
    assert_eq!(names.len(), blocks().count(), "docs/configuration.md: a block twice");
    let schemas =
        [("run", of::<RunToml>("")), ("promptable", of::<PromptableToml>("")), ("protocol", of::<ProtocolToml>(""))];
    let (mut lines, mut is_in_block, mut written) = (vec![], false, BTreeSet::new());
    for line in page.lines() {
        let name = line.strip_prefix("<!-- keys of ").and_then(|line| line.strip_suffix(" -->"));
        if let Some(name) = name {
            let (file, path) = name.split_once(": ").unwrap_or((name, ""));
            let (_, schema) =
                schemas.iter().find(|(of, _)| *of == file).expect("a block is of run, promptable or protocol");
            let mut table = KeyTable { file, blocks: &names, rows: vec![] };
            table.add_keys(at(schema, path), path, "");
            lines.push(format!("{line}\n{}", table.markdown()));
            written.extend(table.rows.into_iter().map(|row| format!("{name} {}", row.key)));
        }
        is_in_block = (is_in_block || name.is_some()) && line != END;
        if !is_in_block && name.is_none() {
            lines.push(line.to_string());
        }
    }
    assert!(!is_in_block, "docs/configuration.md: a block without {END:?}");
    assert!(written.len() > 80, "docs/configuration.md: only {} keys have a row", written.len());
    lines.join("\n") + "\n"
}

/// The schema at a path of keys; of a list, that of its elements.
fn at<'a>(schema: &'a Schema, path: &str) -> &'a Schema {
    path.split('.').filter(|key| !key.is_empty()).fold(schema, |schema, key| {
        let of_key = properties(schema).find(|(name, _)| *name == key);
        let (_, of_key) = of_key.unwrap_or_else(|| panic!("docs/configuration.md: there is no {path}"));
        of_key.get("items").unwrap_or(of_key)
    })
}

struct Row {
    key: String,
    meaning: String,
    values: String,
    default: Option<String>,
}

/// The rows of one block.
struct KeyTable<'a> {
    file: &'a str,
    /// Names of all blocks: what has one of its own is not opened here.
    blocks: &'a BTreeSet<&'a str>,
    rows: Vec<Row>,
}

impl KeyTable<'_> {
    /// A row for each key of a table, and those below it that have no block of their own. `prefix`: in front of the keys.
    fn add_keys(&mut self, schema: &Schema, path: &str, prefix: &str) {
        let Some(options) = options(schema) else {
            for (key, of_key, is_required) in keys(schema) {
                self.add_key(key, of_key, is_required, "", path, prefix);
            }
            return;
        };
        let tag = tag(options).unwrap_or_else(|| panic!("{path}: a choice without a tag"));
        let names = options.iter().map(|option| {
            let of_tag = properties(option).find(|(key, _)| *key == tag).expect("each alternative has the tag");
            format!("`{}`: {}", of_tag.1["const"], description(option))
        });
        self.rows.push(Row {
            key: format!("{prefix}{tag}"),
            meaning: "which of these".to_string(),
            values: names.collect::<Vec<_>>().join("<br>"),
            default: None,
        });
        // A key that means something else in another alternative has a row for each meaning.
        let mut done = BTreeSet::from([(tag, String::new())]);
        for option in options {
            for (key, of_key, is_required) in keys(option) {
                if !done.insert((key, values(of_key))) {
                    continue;
                }
                let has_key = |option: &&Schema| {
                    properties(option).any(|(name, other)| name == key && values(other) == values(of_key))
                };
                let with_key: Vec<String> = options.iter().filter(has_key).map(|option| name_of(option, tag)).collect();
                let only = if with_key.len() == options.len() { String::new() } else { with_key.join(", ") + ": " };
                self.add_key(key, of_key, is_required, &only, path, prefix);
            }
        }
    }

    fn add_key(&mut self, key: &str, schema: &Schema, is_required: bool, only: &str, path: &str, prefix: &str) {
        let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        let has_block = self.blocks.contains(format!("{}: {path}", self.file).as_str());
        let default = schema.get("default").filter(|default| !default.is_object());
        let optional = if is_required || default.is_some() { "" } else { " (optional)" };
        let elements = schema.get("items").filter(|items| is_table(items));
        let values = match elements {
            _ if has_block => {
                format!("{}, see `{path}`", if elements.is_some() { "a list of tables" } else { "a table" })
            }
            Some(_) => "a list of tables".to_string(),
            None => values(schema),
        };
        assert!(!description(schema).is_empty(), "{path}: a key without documentation");
        self.rows.push(Row {
            key: format!("{prefix}{key}`{optional}").replacen('`', "`", 1),
            meaning: format!("{only}{}", description(schema)),
            values,
            default: default.map(Schema::to_string),
        });
        let below = elements.unwrap_or(schema);
        if !has_block && is_table(below) {
            let list = if elements.is_some() { "[]" } else { "" };
            self.add_keys(below, &path, &format!("{prefix}{key}{list}."));
        }
    }

    fn markdown(&self) -> String {
        let has_defaults = self.rows.iter().any(|row| row.default.is_some());
        let mut lines = match has_defaults {
            true => vec!["| key | meaning | values | default |".to_string(), "|---|---|---|---|".to_string()],
            false => vec!["| key | meaning | values |".to_string(), "|---|---|---|".to_string()],
        };
        for Row { key, meaning, values, default } in &self.rows {
            let key = if key.contains('`') { format!("`{key}") } else { format!("`{key}`") };
            let cells = [Some(key), Some(meaning.clone()), Some(values.clone())];
            let default = has_defaults.then(|| default.clone().unwrap_or_else(|| "none".to_string()));
            let cells: Vec<String> =
                cells.into_iter().chain([default]).flatten().map(|cell| cell.replace('|', "\\|")).collect();
            lines.push(format!("| {} |", cells.join(" | ")));
        }
        lines.join("\n")
    }
}

/// Keys, their schemas and whether they must be there: first those that must, as declared.
fn keys(schema: &Schema) -> Vec<(&str, &Schema, bool)> {
    let required = required(schema);
    let mut keys: Vec<_> =
        properties(schema).map(|(key, of_key)| (key.as_str(), of_key, required.contains(&key.as_str()))).collect();
    keys.retain(|(_, of_key, _)| of_key.get("const").is_none());
    keys.sort_by_key(|(key, _, _)| required.iter().position(|name| name == key).unwrap_or(usize::MAX));
    keys
}

/// Whether it has keys of its own that are known: a table, or a choice of tables by a tag.
fn is_table(schema: &Schema) -> bool {
    properties(schema).next().is_some() || options(schema).is_some_and(|options| tag(options).is_some())
}

fn name_of(option: &Schema, tag: &str) -> String {
    let of_tag = properties(option).find(|(key, _)| *key == tag).expect("each alternative has the tag");
    of_tag.1["const"].as_str().expect("a tag is a text").to_string()
}

/// What a key can be.
fn values(schema: &Schema) -> String {
    if let Some(options) = options(schema).filter(|options| tag(options).is_none()) {
        let words = options.iter().map(|option| {
            let name = match properties(option).next() {
                None => option["const"].to_string(),
                Some((key, of_key)) => format!("{{ {key} = {} }}", placeholder(of_key)),
            };
            let limits = properties(option).next().map(|(_, of_key)| range(of_key)).unwrap_or_default();
            format!("`{name}`{limits}: {}", description(option))
        });
        return words.collect::<Vec<_>>().join("<br>");
    }
    if let Some(of_all) = schema.get("additionalProperties").filter(|of_all| of_all.is_object()) {
        return format!("`NAME = N`, N: {}", expectation(of_all));
    }
    match schema.get("items") {
        Some(items) => format!("{}, each {}", expectation(schema), expectation(items)),
        None => expectation(schema),
    }
}

/// What stands for a value in an example.
fn placeholder(schema: &Schema) -> String {
    let of_table = || properties(schema).map(|(key, of_key)| format!("{key} = {}", placeholder(of_key)));
    match kind(schema) {
        "string" if schema.get("format").is_some() => "PATH".to_string(),
        "string" => "TEXT".to_string(),
        "object" => format!("{{ {} }}", of_table().collect::<Vec<_>>().join(", ")),
        _ => "N".to_string(),
    }
}

fn description(schema: &Schema) -> &str {
    schema.get("description").and_then(Schema::as_str).unwrap_or_default()
}
