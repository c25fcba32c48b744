//! `eval --protocol`, `prompts`, `eval-masks`, `gate` and `baseline`.

use std::fs;

use serde_json::{Value, json};

use crate::{Place, text};

const VAL: &str = "scenes/annotations/instances_val.json";

fn read(place: &Place, file: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(file)).unwrap()).unwrap()
}

/// The annotated masks as another program's answers, changed by `edit` (annotation, position in the file, answer).
fn answers(place: &Place, file: &str, edit: impl Fn(&Value, usize, &mut Value)) {
    let annotations = read(place, VAL)["annotations"].as_array().unwrap().clone();
    let answer = |(idx, annotation): (usize, &Value)| {
        let mut answer = json!({
            "annotation_id": annotation["id"], "image_id": annotation["image_id"],
            "category_id": annotation["category_id"], "score": 0.5, "segmentation": annotation["segmentation"],
        });
        edit(annotation, idx, &mut answer);
        answer
    };
    let answers: Vec<Value> = annotations.iter().enumerate().map(answer).collect();
    fs::write(place.path(file), serde_json::to_vec(&answers).unwrap()).unwrap();
}

fn empty() -> Value {
    json!({"size": [64, 64], "counts": [64 * 64]})
}

#[test]
fn a_run_is_scored_by_protocols() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let own = read(&place, "runs/tiny/eval/report.json");
    assert_eq!(own["protocol"]["crop"], "roi-32-pad0.1-corrected");
    let names = |report: &Value| -> Vec<String> {
        let rows = report["predictors"].as_array().unwrap().iter();
        rows.map(|row| row["scores"]["predictor"].as_str().unwrap().to_string()).collect()
    };
    assert!(names(&own).contains(&"grid_ceiling".to_string()), "{:?}", names(&own));

    let table = place.does(&["eval", "runs/tiny", "--protocol", "sensei-box"]);
    assert!(table.contains("image mean_iou") && !table.contains("crop mean_iou"), "{table}");
    let report = read(&place, "runs/tiny/eval-sensei-box/report.json");
    assert_eq!((report["protocol"]["prompt"].as_str(), report["protocol"].get("crop")), (Some("box"), None));
    let instance = &report["predictors"][0]["scores"]["instances"][0];
    assert!(instance.get("in_crop").is_none() && instance["competitors"].is_u64(), "{instance}");
    assert_eq!(names(&report), names(&own));

    let robust = place.does(&["eval", "runs/tiny", "--robustness"]);
    let heading = robust.lines().find(|line| line.starts_with("crop mean_iou, boxes wrong by up to")).unwrap();
    assert_eq!(heading.split_whitespace().filter(|word| *word == "%").count(), 5, "{heading}");
    let jittered = read(&place, "runs/tiny/eval-robustness/jitter-20.json");
    assert_eq!(jittered["protocol"]["prompt"], "box-jitter0.2-seed0");
    let clean = read(&place, "runs/tiny/eval-robustness/jitter-0.json");
    assert_eq!(clean["protocol_hash"], own["protocol_hash"], "no jitter is the run's own protocol");
    let scores = |report: &Value| {
        report["predictors"].as_array().unwrap().iter().find(|row| row["scores"]["predictor"] == "int8").unwrap()["scores"].clone()
    };
    assert_eq!(scores(&clean), scores(&own));

    let eval = |more: &[&str], code: i32, words: &[&str]| {
        place.refuses(&[&["eval", "runs/tiny"], more].concat(), code, words);
    };
    eval(&["--protocol", "picosam3-roi96"], 2, &["expected a student of crops of 96 x 96, found one of 32 x 32"]);
    eval(&["--protocol", "edgesam-center"], 2, &["prompts by innermost_point", "a region around a box"]);
    eval(&["--protocol", "efficientsam-3-clicks"], 2, &["prompts by random_points3-seed0", "crop is made of one"]);
    eval(&["--protocol", "nobodys"], 2, &["no protocol's name", "picosam2-crop96"]);
    eval(&["--protocol", "lvis-minival"], 1, &["subset \"images in val2017/\"", "found 0"]);
    let train = ["--annotations", "scenes/annotations/instances_train.json", "--images", "scenes/images"];
    let words = ["instances_train.json: expected no image of the training split, found 5 "];
    eval(&[&["--protocol", "sensei-box"][..], &train].concat(), 1, &words);
}

#[test]
fn masks_of_another_program_are_scored_by_a_protocol() {
    let place = Place::new();
    let said = place.does(&["prompts", VAL, "--protocol", "edgesam-center", "--out", "prompts.json"]);
    let prompts = read(&place, "prompts.json");
    let n = read(&place, VAL)["annotations"].as_array().unwrap().len();
    assert!(said.contains(&format!("{n} prompts, 0 left out")), "{said}");
    assert_eq!(prompts.as_array().unwrap().len(), n);
    assert!(prompts[0]["point"][0].is_f64() && prompts[0].get("box").is_none(), "{}", prompts[0]);
    place.does(&["prompts", VAL, "--protocol", "efficientsam-3-clicks", "--out", "prompts.json"]);
    let three = read(&place, "prompts.json");
    assert!(three[0]["points"][2][1].is_f64() && three[0]["points"].get(3).is_none(), "{}", three[0]);
    assert!(three[0].get("point").is_none(), "{}", three[0]);
    place.does(&["prompts", VAL, "--protocol", "efficientsam-click", "--out", "prompts.json"]);
    assert_eq!(read(&place, "prompts.json")[0]["point"], three[0]["points"][0]);
    place.does(&["prompts", VAL, "--protocol", "picosam3-roi96", "--out", "prompts.json"]);
    let prompts = read(&place, "prompts.json");
    assert!(prompts[0]["box"][3].is_f64() && prompts[0]["crop"][3].is_f64(), "{}", prompts[0]);

    let eval = |file: &str, protocol: &str| place.does(&["eval-masks", VAL, file, "--protocol", protocol]);
    answers(&place, "theirs.json", |_, _, _| ());
    for protocol in ["sensei-box", "picosam3-roi96", "edgesam-center"] {
        let table = eval("theirs.json", protocol);
        let row = table.lines().find(|line| line.starts_with("theirs ")).unwrap();
        assert!(row.contains(" 1.0000 [1.000, 1.000]"), "{protocol}: {row}");
    }
    // A second, surer answer that is empty counts where the protocol takes the surest.
    let mut twice = read(&place, "theirs.json");
    let mut second = twice[0].clone();
    (second["score"], second["segmentation"]) = (json!(0.9), empty());
    twice.as_array_mut().unwrap().push(second);
    fs::write(place.path("twice.json"), serde_json::to_vec(&twice).unwrap()).unwrap();
    let table = eval("twice.json", "efficientvit-sam-box");
    let expected = format!("{:.4} [", (n - 1) as f64 / n as f64);
    assert!(table.lines().any(|line| line.starts_with("twice ") && line.contains(&expected)), "{expected}: {table}");
    assert!(table.contains("1 masks are not the surest"), "{table}");

    let refused = |edit: &dyn Fn(&Value, usize, &mut Value), words: &[&str]| {
        answers(&place, "broken.json", edit);
        place.refuses(&["eval-masks", VAL, "broken.json", "--protocol", "sensei-box", "--out", "r.json"], 1, words);
        assert!(!place.path("r.json").exists());
    };
    place.refuses(
        &["eval-masks", VAL, "twice.json", "--protocol", "sensei-box"],
        1,
        &["expected one mask for annotation"],
    );
    refused(
        &|_, idx, answer| {
            if idx == 1 {
                answer["annotation_id"] = Value::Null
            }
        },
        &["detection 1: expected annotation_id"],
    );
    refused(
        &|_, idx, answer| {
            if idx == 1 {
                answer["annotation_id"] = json!(999_999)
            }
        },
        &["detection 1: expected an annotation of its image"],
    );
    fs::write(place.path("few.json"), serde_json::to_vec(&vec![twice[0].clone()]).unwrap()).unwrap();
    let words = [format!("expected a mask for each of {n} instances, found none for {}", n - 1)];
    place.refuses(&["eval-masks", VAL, "few.json", "--protocol", "sensei-box"], 1, &[&words[0]]);
}

#[test]
fn three_verdicts_and_a_baseline() {
    let place = Place::with_val_images(64);
    let score = |file: &str| {
        let (masks, out) = (format!("{file}.json"), format!("{file}-report.json"));
        place.does(&["eval-masks", VAL, &masks, "--protocol", "sensei-box", "--name", "masks", "--out", &out]);
    };
    answers(&place, "good.json", |_, _, _| ());
    answers(&place, "empty.json", |_, _, answer| answer["segmentation"] = empty());
    let first_image = read(&place, VAL)["annotations"][0]["image_id"].clone();
    answers(&place, "mixed.json", |annotation, _, answer| {
        if annotation["image_id"] == first_image {
            answer["segmentation"] = empty();
        }
    });
    ["good", "empty", "mixed"].iter().for_each(|file| score(file));

    let gate = |candidate: &str, code: i32| {
        let arguments = [
            "gate",
            "base.json",
            candidate,
            "--predictor",
            "masks",
            "--max-drop-points",
            "1",
            "--junit",
            "gate.xml",
            "--markdown",
            "gate.md",
            "--json",
            "gate.json",
        ];
        let output = place.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{candidate}: {:?}", text(&output));
        (text(&output).0, fs::read_to_string(place.path("gate.xml")).unwrap())
    };
    let said = place.does(&["baseline", "good-report.json", "base.json", "--predictor", "masks"]);
    assert!(said.contains("base.json: new"), "{said}");
    let (said, junit) = gate("good-report.json", 0);
    assert!(said.starts_with("pass: masks: candidate - baseline = +0.00 points of mean_iou_in_image"), "{said}");
    assert!(junit.contains("failures=\"0\" errors=\"0\""), "{junit}");
    let (said, junit) = gate("empty-report.json", 1);
    assert!(said.starts_with("fail: masks: candidate - baseline = -100.00 points"), "{said}");
    assert!(junit.contains("failures=\"1\"") && junit.contains("<failure message=\"fail: "), "{junit}");
    let (said, junit) = gate("mixed-report.json", 3);
    assert!(said.starts_with("cannot tell, about ") && said.contains(" further instances of "), "{said}");
    assert!(junit.contains("errors=\"1\""), "{junit}");
    assert_eq!(read(&place, "gate.json")["verdict"]["verdict"], "cannot_tell");
    assert!(fs::read_to_string(place.path("gate.md")).unwrap().starts_with("### Mean IoU gate: cannot tell"));

    // A folder as `eval --out` leaves it, and one as a run does.
    for folder in ["out", "run/eval"] {
        fs::create_dir_all(place.path(folder)).unwrap();
        fs::copy(place.path("empty-report.json"), place.path(folder).join("report.json")).unwrap();
    }
    assert!(gate("out", 1).0.starts_with("fail: ") && gate("run", 1).0.starts_with("fail: "));

    // A baseline is replaced only when asked for, and says by what.
    let said = place.does(&["baseline", "good-report.json", "base.json", "--predictor", "masks"]);
    assert!(said.contains("base.json: unchanged"), "{said}");
    let said = place.does(&["baseline", "empty-report.json", "base.json", "--predictor", "masks"]);
    assert!(said.contains("base.json: replaced; masks: candidate - baseline = -100.00 points"), "{said}");
    place.refuses(&["baseline", "good-report.json", "base.json", "--predictor", "int8"], 2, &["int8: expected one of"]);
    let kept = fs::read(place.path(VAL)).unwrap();
    place.refuses(
        &["baseline", "good-report.json", VAL, "--predictor", "masks"],
        2,
        &["expected a baseline to replace"],
    );
    assert_eq!(fs::read(place.path(VAL)).unwrap(), kept);
    place.refuses(
        &["gate", "base.json", "good-report.json", "--predictor", "masks", "--max-drop-points=-1"],
        2,
        &["accepted drop: expected 0 to 100 points, found -1"],
    );
}
