//! Small files that users had: the shared cases, each with the right outcome of its README.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sensei_testing::shared_dir;

/// A copy of the shared cases; none, with a line that says so, where there are none.
struct Cases {
    folder: tempfile::TempDir,
}

impl Cases {
    fn copy(test: &str) -> Option<Self> {
        let shared = shared_dir(test)?;
        let folder = tempfile::tempdir().unwrap();
        copy(&shared.join("cases"), folder.path());
        crate::files_below(folder.path())
            .iter()
            .filter(|path| path.extension() == Some("toml".as_ref()))
            .for_each(|path| update(path));
        Some(Self { folder })
    }

    /// Runs a command in one of the folders: it ends with this code, and says each of these words, but none of those.
    fn check(&self, folder: &str, command: &str, code: i32, says: &[&str], not: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_sensei"))
            .args(command.split_whitespace())
            .current_dir(self.folder.path().join(folder))
            .output()
            .unwrap();
        let (out, err) = crate::text(&output);
        let all = out + &err;
        assert_eq!(output.status.code(), Some(code), "{folder}: {command}\n{all}");
        for words in says {
            assert!(all.contains(words), "{folder}: {command}: expected {words:?} in\n{all}");
        }
        for words in not {
            assert!(!all.contains(words), "{folder}: {command}: unexpected {words:?} in\n{all}");
        }
    }
}

/// The cases' run files are of version 0.1.
fn update(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("[prompt]", "[crop]");
    fs::write(path, text.replace("[train]\n", "activation = \"relu\"\ndownsampling = \"dense\"\n\n[train]\n")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, target): (PathBuf, _) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn annotation_files() {
    let Some(cases) = Cases::copy("annotation_files") else { return };
    let check = |folder: &str, file: &str, code, says: &[&str]| {
        cases.check(folder, &format!("data check {file} img"), code, says, &[]);
    };
    for file in ["plain", "iscrowd-null", "iscrowd-float", "ids-float", "category-id-float", "size-float", "bom"] {
        check("json-types", &format!("{file}.json"), 0, &["instances                                    4"]);
    }
    check("json-types", "iscrowd-boolean.json", 0, &["crowd regions                                1"]);
    let whole = "expected a whole number";
    for (file, words) in [
        ("ids-negative", ["annotation", "id: expected a whole number"]),
        ("ids-digits-as-text", ["id:", whole]),
        ("category-id-text", ["annotation 101: category_id:", "found \"1\""]),
        ("ids-text", ["image at place 0", "found \"img_0001\""]),
        ("ids-above-64-bits", ["annotation at place 0", whole]),
        ("no-area", ["annotation 101: area: expected a finite number", "found none"]),
        ("no-bbox", ["annotation 101: bbox: expected [x, y, width, height]", "found none"]),
        ("no-categories", ["categories: expected a list", "found none"]),
        ("no-id", ["annotation at place 0", "id: expected a whole number"]),
        ("bbox-in-a-list", ["annotation 101: bbox:", "found [a list of 4]"]),
        ("area-nan", ["annotation 102: area: expected a finite number", "found NaN"]),
        ("bbox-infinity", ["bbox: expected", "Infinity"]),
        ("utf-16", ["expected text in UTF-8", "found UTF-16"]),
        ("rle-in-a-list", ["annotation 101: segmentation:", "an object inside of a list"]),
        ("polygon-flat", ["annotation 101: segmentation:", "not with a list for each polygon"]),
        ("polygon-of-pairs", ["annotation 101: segmentation:", "a polygon made of lists"]),
        ("width-null", ["width: expected a whole number", "found null"]),
        ("width-minus-1", ["width: expected a whole number", "found -1"]),
        ("width-text", ["width: expected a whole number", "found \""]),
    ] {
        check("json-types", &format!("{file}.json"), 1, &words);
    }
    cases.check(
        "bad-rows",
        "data check four-of-twelve.json img-four-of-twelve",
        1,
        &[
            "annotation 103:",
            "annotation 106:",
            "annotation 109:",
            "annotation 111:",
            "instances                                    8",
        ],
        &["annotation 104"],
    );
    for file in
        ["polygon-of-two-points-second", "polygon-of-two-points-first", "polygon-of-two-points-only", "polygon-odd"]
    {
        check(
            "bad-rows",
            &format!("{file}.json"),
            1,
            &["annotation 103: polygon", "unusable annotations                         1"],
        );
    }
    check("bad-rows", "one-box-without-mask.json", 1, &["annotation 102: expected at least 1 polygon, found none"]);
    check("bad-rows", "rle-long.json", 1, &["runs cover"]);
    check("bad-rows", "ids-twice.json", 1, &["annotation 101: id:", "annotation 102: id:"]);

    check(
        "data-check-blind-spots",
        "area-0-and-1e6.json",
        0,
        &["annotation 101: area 0, but a mask of 1872 pixels", "annotation 104:"],
    );
    check(
        "data-check-blind-spots",
        "normalised.json",
        1,
        &["coordinates from 0 to 1", "annotation 101", "102", "103", "annotation 104"],
    );
    check("data-check-blind-spots", "two-images-one-file.json", 1, &["scene001.png: images 1, 2 are one file"]);
    check("data-check-blind-spots", "drawn-twice.json", 0, &["annotation 999: the outline of annotation 101"]);
    check("file-names", "dot.json", 0, &[]);
    cases.check("file-names", "data check up-and-back.json .", 0, &[], &[]);
    check(
        "exif",
        "ann.json",
        0,
        &["r180.jpg: Exif orientation 3", "mirrored.jpg: Exif orientation 2", "square-turned.jpg: Exif orientation 7"],
    );
    cases.check(
        "exif",
        "data check ann.json img --decode",
        0,
        &["turned by viewers (Exif)                   3"],
        &["plain.jpg"],
    );
    check("exif", "ann-90.json", 1, &["120 x 160", "Exif orientation 6"]);
    check("all-crowd", "ann.json", 1, &["8 of 8 annotations are crowd regions"]);
    cases.check(
        "jpeg-scans",
        "data check ann.json img --decode",
        0,
        &["broken                                     0"],
        &[],
    );
}

#[test]
fn runs_and_scores() {
    let Some(cases) = Cases::copy("runs_and_scores") else { return };
    cases.check("all-crowd", "plan run.toml", 1, &["8 crowd"], &["{"]);
    cases.check(
        "all-crowd",
        "plan half.toml",
        0,
        &["3 instances; left out: 5 (5 crowd)", "5 of 8 annotations are crowd regions"],
        &["{Crowd"],
    );
    cases.check("file-names/splits-alike", "plan run.toml", 0, &["plan digest"], &[]);
    cases.check("checkpoints", "run tiny.toml --runs runs --name ../evil", 2, &["without `/`", "../evil"], &[]);
    for file in ["segmentation-empty", "segmentation-missing", "segmentation-null"] {
        cases.check(
            "boxes-only-ap",
            &format!("eval-coco {file}.json shifted.dets.json --iou bbox"),
            0,
            &[" 0.6639", " 1.0000"],
            &[],
        );
        cases.check(
            "boxes-only-ap",
            &format!("eval-coco {file}.json exact.dets.json --iou bbox"),
            0,
            &[" 1.0000"],
            &[" 0.6639"],
        );
    }
    cases.check("boxes-only-ap", "eval-coco masks.json bbox-empty.dets.json", 0, &[" 0.5435", " 0.8826"], &[]);
    cases.check("json-types", "eval-coco iscrowd-boolean.json iscrowd-boolean.dets.json", 0, &[" 1.0000"], &[]);
    cases.check("json-types", "eval-coco plain.json ids-float.dets.json", 0, &[" 1.0000"], &[]);
    cases.check(
        "teacher-dump",
        "teacher import truth-iou-above-1 ann.json img cache",
        1,
        &["truth_iou of annotation", "1.2"],
        &[],
    );
}
