//! The examples print what the file beside them says, so that a reader may believe it without running them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sensei_testing::workspace_root;

#[test]
fn examples_print_what_is_expected() {
    let root = workspace_root();
    let mut n_run = 0;
    for expected in expectations(&root) {
        let name = expected.file_stem().expect("a file name").to_string_lossy().into_owned();
        let program = examples_dir().join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        assert!(
            program.is_file(),
            "{}: expected the built example; `cargo test --release --workspace` builds it",
            program.display()
        );
        let output = Command::new(&program).current_dir(&root).output().expect("the program starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {:?}\n{out}\n{err}", output.status);
        let text = std::fs::read_to_string(&expected).expect("listed");
        assert_eq!(out, text, "{name}: what it prints, what {} says", expected.display());
        n_run += 1;
    }
    assert!(n_run > 0, "there are examples");
}

#[test]
fn every_library_has_an_example_with_its_output() {
    let root = workspace_root();
    let with_example: BTreeSet<PathBuf> = expectations(&root).iter().filter_map(|path| crate_of(path)).collect();
    for entry in std::fs::read_dir(root.join("crates")).expect("the crates") {
        let folder = entry.expect("a folder entry").path();
        // The program is no library, what tests share is none that anybody else uses, and Python's module has notebooks.
        let is_ours = ["testing", "python"].iter().any(|name| folder.ends_with(name));
        let is_library = folder.join("src/lib.rs").is_file() && !is_ours;
        assert!(!is_library || with_example.contains(&folder), "{}: no example with its output", folder.display());
    }
}

/// `crates/*/examples/*.expected`, sorted.
fn expectations(root: &Path) -> Vec<PathBuf> {
    let list = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let examples = list(root.join("crates")).flat_map(|folder| list(folder.join("examples")));
    let mut expected: Vec<PathBuf> =
        examples.filter(|path| path.extension().is_some_and(|extension| extension == "expected")).collect();
    expected.sort();
    expected
}

fn crate_of(expectation: &Path) -> Option<PathBuf> {
    expectation.parent()?.parent().map(Path::to_path_buf)
}

/// Where cargo puts examples: beside the folder of this test's own program.
fn examples_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its program");
    test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("examples")
}
