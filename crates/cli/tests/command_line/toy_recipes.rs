//! The recipes of MobileSAM, EdgeSAM and EfficientSAM at toy size: `configs/toy-*.toml` as they are shipped, on scenes that this program renders.

use std::path::Path;

use sensei_eval::report::EvalReport;

use crate::promptable::weights;
use crate::{Place, text};

/// Keys after which a run ends with the student that it starts with, having asked as little as it can.
const UNTRAINED: [&[&str]; 2] = [
    &["train.stage.0.learning_rate=0.0", "train.stage.0.epochs=1"],
    &[
        "train.stage.1.learning_rate=0.0",
        "train.stage.1.epochs=1",
        "train.stage.1.prompts.per_image=1",
        "train.stage.1.prompts.rounds=0",
    ],
];

/// By mean IoU of boxes: a trained student is at least so many points above the one it starts as. docs/results/recipes.md has what was
/// measured, and why this is no floor that does not look at the picture; slack is for machines that round differently.
fn check(place: &Place, weights: &str, config: &str, n_stages: usize, least_above_start: f64) {
    let untrained = UNTRAINED[..n_stages].concat();
    let start = run(place, weights, config, "start", &untrained);
    let trained = run(place, weights, config, "trained", &[]);
    let table = trained.table();
    let above_start = points(&trained, "student") - points(&start, "student");
    assert!(above_start >= least_above_start, "{config}: {above_start:.2} points above the start\n{table}");
    assert!(points(&trained, "teacher") > 90.0, "{config}: the teacher\n{table}");
}

/// A run of a shipped configuration; the report of its first protocol, which is by box.
fn run(place: &Place, weights: &str, config: &str, which: &str, settings: &[&str]) -> EvalReport {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{config}.toml"));
    let name = format!("{config}-{which}");
    let weights = format!("teacher.weights={weights}");
    let mut arguments = vec!["run", file.to_str().expect("a path in UTF-8"), "--name", &name, "--set", &weights];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let output = place.command(&arguments).output().unwrap();
    let (out, err) = text(&output);
    assert!(output.status.success(), "{name}\n{out}\n{err}");
    EvalReport::read(&place.path("runs").join(&name).join("eval/report.json")).unwrap()
}

/// Mean IoU in the image, in points.
fn points(report: &EvalReport, row: &str) -> f64 {
    let instances = &report.predictor(row).unwrap().scores.instances;
    100.0 * instances.iter().map(|instance| instance.in_image.iou()).sum::<f64>() / instances.len() as f64
}

/// The trained encoder of MobileSAM's recipe, in integers: its embedding, and the masks that the decoder makes of it.
fn check_integers(place: &Place) {
    place.does(&["export", "runs/toy-mobilesam-trained", "--int8"]);
    let file = place.path("runs/toy-mobilesam-trained/onnx/encoder-int8.json");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mean = |what: &str| report[what]["mean"].as_f64().unwrap();
    assert!(mean("embedding_relative_error") < 0.06, "{report}");
    assert!(mean("mask_agreement") > 0.93, "{report}");
}

/// All at once, so that the teacher looks at the scenes once: the first run asks it, the others wait for what it said.
#[test]
fn the_recipes_of_three_papers_learn_at_toy_size() {
    let Some(weights) = weights("the_recipes_of_three_papers_learn_at_toy_size") else { return };
    let place = Place::new();
    let recipes = [("toy-efficientsam", 2, 50.0), ("toy-edgesam", 2, 30.0), ("toy-mobilesam", 1, 25.0)];
    std::thread::scope(|scope| {
        for (config, n_stages, least_above_start) in recipes {
            let (place, weights) = (&place, &weights);
            scope.spawn(move || check(place, weights, config, n_stages, least_above_start));
        }
    });
    check_integers(&place);
}
