//! What a person reads of runs: the verdict, the page, the list, the comparison.

use std::fs;

use serde_json::Value;

use crate::Place;

#[test]
fn a_run_ends_with_its_verdict_on_terminal_page_and_card() {
    let place = Place::new();
    let out = place.does(&["run", "tiny.toml"]);
    let verdict = out.lines().last().unwrap();
    assert!(verdict.starts_with("int8 .") && verdict.contains("mean IoU in the crop on "), "{out}");
    // Three images of a student that was trained for a second.
    assert!(verdict.ends_with("of 3 images: too few to rely on)"), "{verdict}");
    let read = |name: &str| fs::read_to_string(place.path("runs/tiny").join(name)).unwrap();
    let page = read("report.html");
    assert!(page.contains(&format!(">{verdict}</p>")), "{verdict}");
    assert!(read("package/MODEL_CARD.md").contains(&format!("{verdict}.\n")));
    assert_eq!(place.does(&["report", "runs/tiny"]).lines().last(), Some(verdict));
    let scored = place.does(&["eval", "runs/tiny"]);
    assert!(scored.lines().any(|line| line == verdict), "{scored}");

    // One file that asks for nothing, with pictures of instances of four kinds.
    assert!(!page.contains("src=") && !page.contains("<link rel=\"stylesheet\"") && page.len() < 1_500_000);
    for heading in [
        "Best, by the IoU of int8",
        "In the middle",
        "Worst",
        "other runs on these instances show the same",
        "Package for the IMX500",
    ] {
        assert!(page.contains(heading), "{heading}");
    }
    // Where none are asked for, there are none.
    place.config("bare.toml", &[("[eval]", "[eval]\noverlays = 0")]);
    place.does(&["run", "bare.toml"]);
    assert!(!place.path("runs/bare/eval/gallery.json").exists());
    assert!(!fs::read_to_string(place.path("runs/bare/report.html")).unwrap().contains("IoU 0."));
}

#[test]
fn runs_are_listed_with_their_state() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    place.does(&["train", "tiny.toml", "--name", "only-trained"]);
    fs::create_dir_all(place.path("runs/young")).unwrap();
    fs::write(place.path("runs/young/plan.toml"), "seed = 1\n").unwrap();
    fs::create_dir_all(place.path("runs/damaged/eval")).unwrap();
    fs::write(place.path("runs/damaged/plan.toml"), "seed = 1\n").unwrap();
    fs::write(place.path("runs/damaged/eval/report.json"), "{}").unwrap();
    let table = place.does(&["runs"]);
    let line =
        |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {table}"));
    let tiny = line("tiny");
    assert!(tiny.contains("unet 32") && tiny.contains("finished") && tiny.contains("int8 0."), "{table}");
    assert!(line("only-trained").contains("trained") && line("young").contains("new"), "{table}");
    assert!(line("damaged").contains("broken: ") && line("damaged").contains("not a report"), "{table}");
    assert_eq!(table.lines().count(), 5, "shared folders are no runs: {table}");

    let listed: Value = serde_json::from_str(&place.does(&["runs", "runs", "--json"])).unwrap();
    let tiny = listed.as_array().unwrap().iter().find(|run| run["name"] == "tiny").unwrap();
    assert_eq!((tiny["state"].as_str(), &tiny["step"]), (Some("finished"), &tiny["total_steps"]));
    let last = place.does(&["report", "runs/tiny"]);
    assert_eq!(tiny["sentence"].as_str(), last.lines().last());
    assert!(tiny["verdict"]["score"]["interval"]["low"].is_f64());
    place.refuses(&["runs", "nowhere"], 2, &["nowhere: cannot list"]);
}

#[test]
fn runs_are_compared_on_terminal_and_page() {
    let place = Place::new();
    let every_step = ("[quantize]", "[logging]\nlog_every_steps = 1\n\n[quantize]");
    place.config("tiny.toml", &[every_step]);
    place.does(&["run", "tiny.toml"]);
    place.config("longer.toml", &[every_step, ("epochs = 2", "epochs = 4")]);
    place.does(&["run", "longer.toml"]);
    let out = place.does(&["compare", "runs/tiny", "runs/longer", "--out", "beside.html"]);
    assert!(out.contains("train.stage.0.epochs") && out.contains("each has these and no other"), "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("longer: ") && last.contains(" tiny in int8") && last.contains("on too few images to rely on"),
        "{out}"
    );
    let page = fs::read_to_string(place.path("beside.html")).unwrap();
    assert!(
        page.contains("train.stage.0.epochs") && page.contains("data-chart=\"loss\"") && page.contains("<svg viewBox")
    );

    // Another crop: the image alone.
    place.config("square.toml", &[("padding = 0.1", "padding = 0.2")]);
    place.does(&["run", "square.toml"]);
    let out = place.does(&["compare", "runs/tiny", "runs/square"]);
    assert!(out.contains("crop space are different quantities") && out.contains("mean IoU in the image"), "{out}");

    place.refuses(&["compare", "runs/tiny", "scenes"], 2, &["expected a run folder"]);
    place.refuses(&["compare", "runs/tiny", "runs/longer", "--predictor", "device"], 2, &["predictor device"]);
    let output = place.command(&["compare", "runs/tiny"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "one run alone");
}
