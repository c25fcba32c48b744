//! What `plan` says of a run that nobody has begun.

use std::fs;

use crate::Place;

#[test]
fn stages_are_timed_and_nothing_is_kept_of_them() {
    let place = Place::new();
    let two_stages = "\n[[train.stage]]\nname = \"more\"\nepochs = 3\nlearning_rate = 1e-3\nwarmup_steps = 0\ndecay = { kind = \"cosine\", \
                      final_learning_rate = 1e-5 }\n";
    let text = fs::read_to_string(place.path("tiny.toml")).unwrap();
    let from = text.find("[[train.stage]]").unwrap();
    let to = from + text[from..].find("\n[eval]").unwrap();
    let loss = &text[from..to][text[from..to].find("[train.stage.loss]").unwrap()..];
    fs::write(place.path("two.toml"), format!("{}{two_stages}{loss}{}", &text[..to], &text[to..])).unwrap();

    let printed = place.does(&["plan", "two.toml", "--measure", "--threads", "1", "--json"]);
    let facts: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let stages = facts["measured"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    let total: u64 = stages.iter().map(|stage| stage["steps"].as_u64().unwrap()).sum();
    assert_eq!(total, facts["steps"].as_u64().unwrap());
    for stage in stages {
        let number = |key: &str| stage[key].as_f64().unwrap();
        assert!(number("timed_steps") >= 1.0 && number("seconds_per_step") > 0.0, "{stage}");
        assert!((number("seconds") - number("seconds_per_step") * number("steps")).abs() < 1e-9, "{stage}");
    }
    assert_eq!(stages[1]["stage"], "more");
    assert!(!place.path("runs").exists());

    // A checkpoint is as large as it was said to be.
    let said = place.does(&["plan", "tiny.toml", "--measure", "--threads", "1"]);
    let line = said.lines().find(|line| line.starts_with("training here, ")).unwrap();
    place.does(&["train", "tiny.toml"]);
    let newest = fs::read_dir(place.path("runs/tiny/checkpoints")).unwrap().map(|entry| entry.unwrap());
    let bytes = newest.map(|entry| entry.metadata().unwrap().len()).max().unwrap();
    assert!(line.ends_with(&format!("checkpoints: up to 2 of {:.1} MB", bytes as f64 / 1e6)), "{bytes}: {line}");

    let plain = place.does(&["plan", "tiny.toml", "--json"]);
    assert!(serde_json::from_str::<serde_json::Value>(&plain).unwrap()["measured"].is_null());
}

#[test]
fn what_cannot_be_timed_is_said() {
    let place = Place::new();
    place.refuses(&["plan", "tiny.toml", "--threads", "1"], 2, &["expected --measure beside --threads or --device"]);
    let few = ["plan", "tiny.toml", "--measure", "--set", "train.stage.0.epochs=1", "--set", "train.batch_size=64"];
    place.refuses(&few, 1, &["tiny.toml: stage \"only\": expected more than 3 steps to time, found 1"]);
}
