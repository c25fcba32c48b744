//! What a run tells of its layers: the report's table and pictures, and both sides of training on the grid.

use std::fs;

use serde_json::Value;

use crate::Place;

const ON_THE_GRID: &str = "[train.stage.quantization]
threshold_learning_rate = 1e-2
hold_thresholds_after = 4
hold_norms_after = 2

[eval]";

#[test]
fn training_on_the_grid_is_told_beside_its_start() {
    let place = Place::new();
    place.config("tiny.toml", &[("[eval]", ON_THE_GRID)]);
    place.does(&["run", "tiny.toml"]);
    let run = place.path("runs/tiny");
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    let rows = |name: &str| serde_json::from_str::<Vec<Value>>(&read(name)).unwrap();
    let (before, after) = (rows("layers-before.json"), rows("layers.json"));
    let names = |rows: &[Value]| rows.iter().map(|row| row["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    assert_ne!(before, after, "the training moved something");

    let mut n_weights = 0;
    for row in &after {
        let counts = |counts: &Value| counts.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
        assert!(counts(&row["float_values"]["counts"]) > 0, "{row}");
        if row["weight_bits"] == 8 {
            assert_eq!(row["weight_counts"].as_array().unwrap().len(), 256, "{row}");
            n_weights += counts(&row["weight_counts"]);
        }
    }
    assert!(n_weights > 1000, "{n_weights} weights");

    // Two lines of words, then one a node, of which the last tells the logits' threshold on both sides.
    let text = read("layers.txt");
    let table = text.split("layer, before and").nth(1).expect("the second table");
    assert_eq!(table.lines().count(), 2 + after.len());
    let logits: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
    let threshold = |rows: &[Value]| rows.last().unwrap()["threshold"].as_f64().unwrap().to_string();
    assert_eq!(logits[1..3], [threshold(&before), threshold(&after)]);

    // Every layer has a fold, and both of its states among what the page draws.
    let page = read("report.html");
    assert_eq!(page.matches("<details data-layer=").count(), after.len());
    let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let drawn: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    for (idx, (before, after)) in before.iter().zip(&after).enumerate() {
        let layer = &drawn["layers"][idx];
        assert_eq!((&layer["threshold"], &layer["before"]["threshold"]), (&after["threshold"], &before["threshold"]));
        assert_eq!((&layer["values"], &layer["weights"]), (&after["float_values"], &after["weight_counts"]));
    }

    // Quantizing again finds the same.
    place.does(&["quantize", "runs/tiny"]);
    assert_eq!((rows("layers-before.json"), rows("layers.json")), (before, after));
    fs::remove_file(run.join("before-quantization.safetensors")).unwrap();
    let output = place.command(&["quantize", "runs/tiny"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("what training on the grid changed is left out"));
    assert!(!run.join("layers-before.json").exists(), "of a training that is not known any more");

    fs::write(run.join("layers.json"), "[{}]").unwrap();
    place.refuses(&["report", "runs/tiny"], 1, &["layers.json: changed since it was written"]);
    // A folder from before there were digests.
    fs::remove_file(run.join("SHA256SUMS")).unwrap();
    place.refuses(&["report", "runs/tiny"], 1, &["layers.json: not a layer report", "missing field"]);
}
