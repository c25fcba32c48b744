//! The log of training, and the page that describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Place;

#[test]
fn every_event_and_field_is_on_the_page_and_every_event_of_the_page_happens() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/events.md")).unwrap();
    let rows: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).collect();
    let place = Place::new();
    let logging = "output_bits = 8\n\n[logging]\nlog_every_steps = 1\nvalidate_every_epochs = 1\n";
    place.config("tiny.toml", &[("output_bits = 8\n", logging)]);
    place.does(&["train", "tiny.toml"]);
    let log = fs::read_to_string(place.path("runs/tiny/events.jsonl")).unwrap();
    let mut seen = BTreeSet::new();
    for line in log.lines() {
        let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let event = fields["event"].as_str().unwrap().to_string();
        let row = rows.get(event.as_str()).unwrap_or_else(|| panic!("docs/formats/events.md: no row for {event}"));
        for field in fields.keys() {
            let is_common = ["event", "unix_time", "images_per_second", "step"].contains(&field.as_str());
            assert!(
                is_common || row.contains(&format!("`{field}`")),
                "docs/formats/events.md: {event}: no word of {field}"
            );
        }
        seen.insert(event);
    }
    for event in ["started", "step", "epoch", "validation", "checkpoint", "ended"] {
        assert!(seen.contains(event) && rows.contains_key(event), "{event}: {seen:?}");
    }
}
