//! Detection files against a small data set, and each mask of what is accepted.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;

static DATASET: LazyLock<Dataset> = LazyLock::new(|| {
    let annotations = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ap/coco/annotations.json"));
    Dataset::load_coco(annotations, Path::new("")).expect("a golden file")
});

libfuzzer_sys::fuzz_target!(|text: String| {
    if let Ok(detections) = Detections::parse(Path::new("fuzzed"), text, &DATASET) {
        for idx in 0..detections.items.len() {
            let _ = detections.mask(idx, &DATASET);
        }
    }
});
