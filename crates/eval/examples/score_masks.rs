//! Scores masks that another program made, beside what a filled box and an ellipse score on the same objects.
//!
//! `cargo run --release --example score_masks`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::foreign::score_masks;
use sensei_eval::protocol::ProtocolRules;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let scenes = folder.path().join("scenes");
    write_synth(&scenes, &SynthConfig { n_train_images: 1, n_val_images: 4, ..SynthConfig::quickstart() })?;
    let dataset = Dataset::load_coco(&scenes.join("annotations/instances_val.json"), &scenes.join("images"))?;

    // The other program: it finds the object but loses its lowest fifth.
    let results = (0..dataset.instances.len()).map(|idx| without_the_lowest_fifth(&dataset, idx));
    let results = Value::from(results.collect::<Result<Vec<_>, _>>()?).to_string();
    let detections = Detections::parse(&folder.path().join("results.json"), results, &dataset)?;

    // What is scored, in which crop: its hash stands beside the numbers.
    let crop = CropRule::Roi { padding: 0.1, grid: 64, border: Border::Corrected };
    let rules = ProtocolRules::of_student("example".into(), crop);
    let bootstrap = BootstrapConfig { seed: 0, n_resamples: 1000 };
    let scores = score_masks(&dataset, &detections, "other program", &rules, bootstrap)?;
    println!("{}", scores.report.table().trim_end());
    Ok(())
}

/// A line of a COCO result file. `annotation_id` says whose prompt the mask answers.
fn without_the_lowest_fifth(dataset: &Dataset, idx: usize) -> Result<Value, Box<dyn std::error::Error>> {
    let instance = &dataset.instances[idx];
    let mut mask: Mask = dataset.mask(idx)?.to_mask();
    let [_, y, _, height] = instance.bbox;
    let first_lost = (y + 0.8 * height) as usize * mask.size.width as usize;
    mask.bits[first_lost..].fill(0);
    let counts = Rle::from_mask(&mask).to_compressed_string();
    Ok(json!({
        "image_id": dataset.images[instance.image_idx].id,
        "annotation_id": instance.id,
        "category_id": instance.category_id,
        "segmentation": { "size": [mask.size.height, mask.size.width], "counts": counts },
        "score": 1.0,
    }))
}
