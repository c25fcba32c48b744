//! Runs that were not finished, and paths that stand where another belongs: the message says what to do.

use std::fs;

use serde_json::json;

use crate::Place;

#[test]
fn what_an_unfinished_run_lacks_is_named_with_the_command_that_makes_it() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let integer = "runs/tiny: expected an integer model (student.s8m), found none: `sensei run CONFIG --resume`";
    place.refuses(&["export", "runs/tiny"], 1, &[integer]);
    place.refuses(&["eval", "runs/tiny"], 1, &[integer]);
    let picture = "scenes/images/val_000006.png";
    let int8 = ["predict", "runs/tiny", picture, "--box", "8,8,30,30", "--network", "int8", "--out", "masks"];
    place.refuses(&int8, 1, &[integer]);
    let scores = "runs/tiny: expected scores";
    place.refuses(&["compare", "runs/tiny", "runs/tiny"], 2, &[scores, "`sensei eval RUN` scores one"]);
    place.refuses(&["gate", "runs/tiny", "runs/tiny", "--max-drop-points", "1"], 2, &[scores]);

    // As if training had been killed before its first checkpoint.
    let plan = fs::read(place.path("runs/tiny/plan.toml")).unwrap();
    fs::create_dir(place.path("runs/begun")).unwrap();
    fs::write(place.path("runs/begun/plan.toml"), plan).unwrap();
    let student = "runs/begun: expected a trained student (student.safetensors), found none: `sensei run CONFIG";
    place.refuses(&["quantize", "runs/begun"], 1, &[student]);
    let float = ["predict", "runs/begun", picture, "--box", "8,8,30,30", "--network", "float", "--out", "masks"];
    place.refuses(&float, 1, &[student]);
    assert!(!place.path("masks").exists());
}

#[test]
fn paths_that_stand_where_another_belongs_are_told_apart() {
    let place = Place::new();
    fs::create_dir_all(place.path("runs/tiny")).unwrap();
    for command in ["run", "plan", "search"] {
        place.refuses(&[command, "runs/tiny"], 2, &["runs/tiny: expected a configuration file, found a folder"]);
    }
    let picture = "scenes/images/val_000006.png";
    let swapped = ["predict", picture, "runs/tiny", "--box", "8,8,30,30", "--out", "masks"];
    place.refuses(&swapped, 2, &["found a picture; pictures go after it"]);
    fs::write(place.path("found.json"), json!([]).to_string()).unwrap();
    let swapped = ["eval-coco", "found.json", "scenes/annotations/instances_val.json"];
    place.refuses(&swapped, 2, &["expected the annotation file first and the result file, a list, second"]);
    for name in ["composed", "packed", "synthetic", "teacher-cache"] {
        place.refuses(&["run", "tiny.toml", "--name", name], 2, &["all runs share the folder of that name"]);
    }
}
