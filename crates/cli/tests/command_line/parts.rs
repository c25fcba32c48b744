//! Training data of several annotation files, and students that are told their box.

use std::fs;

use crate::cache::{WITH_TEACHER, write_cache};
use crate::{Place, weights_digest};

const BOX: (&str, &str) = (
    "rule = \"roi\"\nborder = \"corrected\"\npadding = 0.1",
    "rule = \"box\"\nborder = \"clipped\"\npadding = 0.1\nmin_side = 12.0",
);

/// A place with `scenes/annotations/instances_proposals.json`: the first objects of the training split again, under other ids.
fn place_with_proposals(n: usize) -> Place {
    let place = Place::new();
    let path = place.path("scenes/annotations/instances_train.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let annotations = file["annotations"].as_array_mut().unwrap();
    annotations.truncate(n);
    for annotation in annotations {
        annotation["id"] = (annotation["id"].as_u64().unwrap() + 10_000).into();
    }
    let path = place.path("scenes/annotations/instances_proposals.json");
    fs::write(path, serde_json::to_vec(&file).unwrap()).unwrap();
    place
}

/// The training split's line, with further training data before it.
fn also(entry: &str) -> String {
    format!("also_train = [{{ {entry} }}]\n\n[crop]")
}

const FILES: &str = "annotations = \"scenes/annotations/instances_proposals.json\", images = \"scenes/images\"";

#[test]
fn a_student_is_told_its_box_from_training_to_package() {
    let place = Place::new();
    place.config("box.toml", &[BOX]);
    let out = place.does(&["run", "box.toml"]);
    assert!(out.contains("shown in a region lengthened to the shortest side: "), "{out}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("runs/box/package/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["border"], &manifest["crop"]), (&"clipped".into(), &"box-32-pad0.1-min12-clipped".into()));
    let card = fs::read_to_string(place.path("runs/box/package/MODEL_CARD.md")).unwrap();
    assert!(card.contains("whatever its shape"), "{card}");
    place.does(&["replay", "runs/box/package", "runs/box/package/test_vectors"]);
    // Its numbers in the crop are not a square's.
    place.does(&["run", "tiny.toml"]);
    let report = |run: &str| format!("runs/{run}/eval/report.json");
    place.refuses(
        &["gate", &report("tiny"), &report("box"), "--max-drop-points", "99"],
        2,
        &["coco-roi-32-pad0.1-corrected", "coco-box-32-pad0.1-min12-clipped"],
    );
    // By a protocol without a crop, in the image, they are comparable.
    for run in ["tiny", "box"] {
        place.does(&["eval", &format!("runs/{run}"), "--protocol", "sensei-box"]);
    }
    place.config("wrong.toml", &[BOX, ("min_side = 12.0", "min_side = 0.5")]);
    place.refuses(&["plan", "wrong.toml"], 2, &["crop.min_side: expected a number from 1 to 1024, found 0.5"]);
}

#[test]
fn further_annotations_are_trained_on() {
    let place = place_with_proposals(4);
    let entry = format!("name = \"proposals\", {FILES}");
    place.config("more.toml", &[("[crop]", &also(&entry))]);
    let alone = place.does(&["train", "tiny.toml"]);
    let more = place.does(&["train", "more.toml"]);
    assert!(more.contains(" of instances_train.json, 4 of instances_proposals.json); left out: none"), "{more}");
    assert!(!alone.contains("instances_proposals"), "{alone}");
    assert_ne!(weights_digest(&alone), weights_digest(&more));
    let again = place.does(&["train", "more.toml", "--resume"]);
    assert_eq!(weights_digest(&again), weights_digest(&more));
    // Other proposals are another run.
    let path = place.path("scenes/annotations/instances_proposals.json");
    let bytes = fs::read(&path).unwrap();
    let moved = String::from_utf8(bytes.clone()).unwrap().replacen("\"area\":", "\"area\": ", 1);
    assert_ne!(moved.as_bytes(), bytes);
    fs::write(&path, moved).unwrap();
    place.refuses(&["train", "more.toml", "--resume"], 1, &["annotations"]);
    fs::write(&path, bytes).unwrap();
    let both = format!("also_train = [{{ {entry} }}, {{ {entry} }}]\n\n[crop]");
    place.config("twice.toml", &[("[crop]", &both)]);
    place.refuses(&["plan", "twice.toml"], 2, &["[[data.also_train]] name", "found \"proposals\" twice"]);
    let same = entry.replace("instances_proposals", "instances_train");
    place.config("same.toml", &[("[crop]", &also(&same))]);
    place.refuses(&["train", "same.toml"], 1, &["instances_train.json: annotation ", "expected an id that"]);
    place.config(
        "unknown.toml",
        &[
            ("[crop]", &also(&entry)),
            ("weighting = \"truth_only\"", "weighting = \"truth_only\"\nweighting_of = { propsals = \"truth_only\" }"),
        ],
    );
    place.refuses(
        &["plan", "unknown.toml"],
        2,
        &["weighting_of: expected a name of [[data.also_train]] (proposals), found \"propsals\""],
    );
}

#[test]
fn each_part_is_weighed_by_its_own_rule_and_asks_its_own_answers() {
    let place = place_with_proposals(4);
    for split in ["train", "val", "proposals"] {
        write_cache(&place, split, "disc-1", &format!("cache-{split}"), |_| true);
    }
    let teacher_in_val = ("train = { cache = \"cache-train\" }\n", "");
    let entry = format!("name = \"proposals\", {FILES}");
    let answered = format!("{entry}, answers = {{ cache = \"cache-proposals\" }}");
    let weighting =
        ("weighting = \"truth_only\"", "weighting = \"truth_only\"\nweighting_of = { proposals = { constant = 0.5 } }");
    let term = ("terms = [", "terms = [\n    { kind = \"teacher_mse\", weight = 1.0 },");
    let (from, to) = WITH_TEACHER[0];
    place.config("soft.toml", &[(from, to), teacher_in_val, ("[crop]", &also(&answered)), weighting, term]);
    let soft = place.does(&["run", "soft.toml"]);
    place.config("hard.toml", &[(from, to), teacher_in_val, ("[crop]", &also(&entry))]);
    let hard = place.does(&["train", "hard.toml"]);
    assert_ne!(weights_digest(&soft), weights_digest(&hard));
    assert!(soft.lines().any(|line| line.starts_with("teacher ")), "the teacher has its row: {soft}");
    // What was trained on is not scored on, whichever file names it.
    let proposals = "scenes/annotations/instances_proposals.json";
    place.refuses(
        &["eval", "runs/soft", "--protocol", "sensei-box", "--annotations", proposals, "--images", "scenes/images"],
        1,
        &["expected no image of the training split"],
    );
    place.config("none.toml", &[(from, to), teacher_in_val, ("[crop]", &also(&entry)), weighting, term]);
    place.refuses(
        &["plan", "none.toml"],
        2,
        &["its loss needs answers of [[data.also_train]] \"proposals\", found none"],
    );
    place.config(
        "asks.toml",
        &[(from, to), teacher_in_val, ("weighting = \"truth_only\"", "weighting = { constant = 0.5 }"), term],
    );
    place.refuses(&["plan", "asks.toml"], 2, &["its loss needs [teacher] train, found none"]);
}
