//! What the documents of the repository say about themselves and the code: links, paths, cited tests, sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use sensei_testing::workspace_root;

/// Pages for newcomers, whose sentences are held to [`LONGEST_SENTENCE`].
const PLAIN_PAGES: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "datasets/",
    "docs/README.md",
    "docs/ARCHITECTURE.md",
    "docs/STYLE.md",
    "docs/glossary.md",
    "docs/metrics.md",
    "docs/formats/checkpoint.md",
    "docs/formats/int8-model.md",
    "docs/formats/onnx-dialect.md",
    "docs/formats/packer-out.md",
    "docs/formats/rpk.md",
    "docs/formats/weights.md",
    "docs/guides/",
    "docs/scale/",
    "fuzz/",
    "scripts/",
];

/// Words.
const LONGEST_SENTENCE: usize = 25;

/// A Markdown file, taken apart.
struct Page {
    /// Relative to the root, with `/`.
    path: String,
    links: Vec<String>,
    /// Text between single backticks.
    code: Vec<String>,
    /// Anchors of its headings.
    anchors: BTreeSet<String>,
    /// Paragraphs and list items as text; tables are left out.
    prose: Vec<String>,
}

#[test]
fn links_lead_to_files_and_headings() {
    let (root, pages) = (workspace_root(), pages());
    let mut wrong = vec![];
    for page in pages.values() {
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, at)| (file, Some(at)));
            let target = if file.is_empty() { page.path.clone() } else { join(&page.path, file) };
            let found = match (root.join(&target).exists(), anchor) {
                (false, _) => false,
                (true, None) => true,
                (true, Some(anchor)) => pages.get(&target).is_some_and(|page| page.anchors.contains(anchor)),
            };
            if !found {
                wrong.push(format!("{}: no target for the link {link}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_in_backticks_are_files() {
    let root = workspace_root();
    let names: BTreeSet<String> = files(&root, "rs").iter().filter_map(|path| file_name(path)).collect();
    let mut wrong = vec![];
    for page in pages().values() {
        for path in page.code.iter().filter(|text| is_source_path(text)) {
            let path = path.split_once("::").map_or(path.as_str(), |(path, _)| path);
            // Pages about one crate name its files alone.
            let found = match path.contains('/') {
                false => names.contains(path),
                true => ["", "crates/"].iter().any(|folder| root.join(folder).join(path).exists()),
            };
            if !found {
                wrong.push(format!("{}: no file `{path}`", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_that_guides_cite_exist() {
    let root = workspace_root();
    let mut wrong = vec![];
    for page in pages().values() {
        let cited: Vec<&String> = page
            .code
            .iter()
            .filter(|text| is_source_path(text) && [".rs::", ".py::"].iter().any(|of| text.contains(of)))
            .collect();
        assert!(!page.path.starts_with("docs/guides/") || !cited.is_empty(), "{}: cites no test", page.path);
        for test in cited {
            let (file, name) = test.split_once("::").expect("filtered by it");
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let is_there = match file.ends_with(".py") {
                true => has_python_test(&text, name),
                false => has_test(&text, name),
            };
            if !is_there {
                wrong.push(format!("{}: no test `{test}`", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_book_has_every_page_of_docs_once() {
    let pages = pages();
    let summary = &pages["docs/SUMMARY.md"];
    let listed: Vec<String> = summary.links.iter().map(|link| join(&summary.path, link)).collect();
    let mut once: Vec<String> = listed.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect();
    assert_eq!(once.len(), listed.len(), "docs/SUMMARY.md lists a page twice");
    once.push(summary.path.clone());
    once.sort();
    let there: Vec<String> = pages.into_keys().filter(|path| path.starts_with("docs/")).collect();
    assert_eq!(once, there, "pages of docs/SUMMARY.md, pages in docs");
}

#[test]
fn sentences_for_newcomers_are_short() {
    let mut long = vec![];
    for page in pages().into_values().filter(|page| PLAIN_PAGES.iter().any(|plain| page.path.starts_with(plain))) {
        for sentence in page.prose.iter().flat_map(|text| sentences(text)) {
            let n_words = sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count();
            if n_words > LONGEST_SENTENCE {
                long.push(format!("{}: {n_words} words: {sentence}", page.path));
            }
        }
    }
    assert!(long.is_empty(), "sentences of more than {LONGEST_SENTENCE} words:\n{}", long.join("\n"));
}

#[test]
fn readers_of_this_file_see_what_is_written() {
    let page = parse(
        "docs/a/b.md",
        "# One `two`: three\n[a](../c.md#d) and `crates/x/src/y.rs::z`. Two. e.g. 0.5 of it\n\n# One `two`: three\n\n```\n[no](link.md)\n```\n",
    );
    assert_eq!(page.links, ["../c.md#d"]);
    assert_eq!(page.code, ["two", "crates/x/src/y.rs::z", "two"]);
    assert_eq!(page.anchors, ["one-two-three", "one-two-three-1"].map(String::from).into());
    assert_eq!(join(&page.path, "../c.md"), "docs/c.md");
    assert_eq!(page.prose, ["a and `crates/x/src/y.rs::z`. Two. e.g. 0.5 of it"]);
    assert_eq!(sentences(&page.prose[0]), ["a and `crates/x/src/y.rs::z`.", "Two.", "e.g. 0.5 of it"]);
    assert!(has_test("#[test]\n#[cfg(unix)]\nfn holds() {", "holds") && !has_test("fn holds() {", "holds"));
    assert!(
        has_python_test("def test_it(a, b):", "test_it")
            && !has_python_test("def other():\n    def test_it():", "test_it")
    );
    assert!(!is_source_path("eval/report.json") && !is_source_path("X.rs") && is_source_path("scripts/bench/train.sh"));
}

/// Markdown files of the repository by path.
fn pages() -> BTreeMap<String, Page> {
    let root = workspace_root();
    let pages = files(&root, "md").into_iter().map(|path| {
        let text = std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        (path.clone(), parse(&path, &text))
    });
    pages.collect()
}

fn parse(path: &str, text: &str) -> Page {
    let mut page = Page { path: path.into(), links: vec![], code: vec![], anchors: BTreeSet::new(), prose: vec![] };
    let (mut heading, mut prose): (Option<String>, Option<String>) = (None, None);
    let (mut in_table, mut in_block) = (false, false);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { level: HeadingLevel::H1 | HeadingLevel::H2 | HeadingLevel::H3, .. }) => {
                heading = Some(String::new());
            }
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let numbered = (1..).map(|n| format!("{anchor}-{n}"));
                let free = std::iter::once(anchor.clone()).chain(numbered).find(|name| !page.anchors.contains(name));
                page.anchors.extend(free);
            }
            Event::Start(Tag::Table(_)) => in_table = true,
            Event::End(TagEnd::Table) => in_table = false,
            Event::Start(Tag::CodeBlock(_)) => in_block = true,
            Event::End(TagEnd::CodeBlock) => in_block = false,
            // An item without paragraphs in it has its text in itself.
            Event::Start(Tag::Paragraph | Tag::Item) if !in_table => {
                page.prose.extend(prose.replace(String::new()));
            }
            Event::End(TagEnd::Paragraph | TagEnd::Item) => page.prose.extend(prose.take()),
            Event::Code(code) => {
                for text in [&mut heading, &mut prose].into_iter().flatten() {
                    text.push_str(&format!("`{code}`"));
                }
                page.code.push(code.into_string());
            }
            Event::Text(text) if !in_block => {
                for to in [&mut heading, &mut prose].into_iter().flatten() {
                    to.push_str(&text);
                }
            }
            Event::SoftBreak | Event::HardBreak => prose.iter_mut().for_each(|prose| prose.push(' ')),
            _ => {}
        }
    }
    page.prose.retain(|text| !text.trim().is_empty());
    page
}

/// The anchor that Markdown's readers make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// A sentence ends with a full stop, colon, question or exclamation mark before a space. Text in backticks is a word.
fn sentences(text: &str) -> Vec<String> {
    let (mut sentences, mut sentence, mut in_code) = (vec![], String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        in_code ^= c == '`';
        sentence.push(if in_code && c == ' ' { '_' } else { c });
        let is_end = matches!(c, '.' | ':' | '?' | '!') && rest.peek().is_none_or(|next| *next == ' ');
        let is_abbreviation = ["e.g.", "i.e.", "vs."].iter().any(|short| sentence.ends_with(short));
        if is_end && !in_code && !is_abbreviation {
            sentences.push(std::mem::take(&mut sentence).trim().to_string());
        }
    }
    sentences.push(sentence.trim().to_string());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Whether this names a file of the repository rather than one of a run or of the reader.
fn is_source_path(text: &str) -> bool {
    let path = text.split_once("::").map_or(text, |(path, _)| path);
    let is_path = path.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c));
    let tops = [".ci/", "configs/", "crates/", "datasets/", "docs/", "fuzz/", "scripts/", "tests/"];
    is_path && (path.ends_with(".rs") || tops.iter().any(|top| path.starts_with(top)))
}

/// Whether a file has this test.
fn has_test(text: &str, name: &str) -> bool {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(&format!("fn {name}(")) && is_test {
            return true;
        }
        is_test = line == "#[test]" || is_test && (line.starts_with("#[") || line.starts_with("//"));
    }
    false
}

/// Whether a file of Python has this test.
fn has_python_test(text: &str, name: &str) -> bool {
    name.starts_with("test_") && text.lines().any(|line| line.starts_with(&format!("def {name}(")))
}

/// `link` from the page at `page`, relative to the root.
fn join(page: &str, link: &str) -> String {
    let mut path = PathBuf::new();
    for component in Path::new(page).parent().unwrap_or(Path::new("")).join(link).components() {
        match component {
            Component::ParentDir if path.pop() => {}
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.to_string_lossy().into_owned()
}

/// Files of this extension below the root, built and downloaded ones aside; relative, sorted.
fn files(root: &Path, extension: &str) -> Vec<String> {
    let (mut folders, mut files) = (vec![PathBuf::new()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).expect("a folder of the workspace") {
            let entry = entry.expect("a folder entry");
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type().expect("a file type").is_dir() {
                true if name == "target" || name == "runs" || name.starts_with('.') => {}
                true => folders.push(path),
                false if name.ends_with(&format!(".{extension}")) => files.push(path.to_string_lossy().into_owned()),
                false => {}
            }
        }
    }
    files.sort();
    files
}

fn file_name(path: &str) -> Option<String> {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
}
