//! What a student is shown of an instance and compared with: as it is, and as an epoch of training would vary it.
//!
//! `cargo run --release --example draw_a_sample`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_samples::batch::HostBatch;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, SampleSource};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let scenes = folder.path().join("scenes");
    write_synth(&scenes, &SynthConfig { n_train_images: 2, n_val_images: 1, ..SynthConfig::quickstart() })?;
    let dataset = Dataset::load_coco(&scenes.join("annotations/instances_train.json"), &scenes.join("images"))?;

    let rule = CropRule::Roi { padding: 0.1, grid: 48, border: Border::Corrected };
    let rules = SelectionRules::of_student(rule);
    let source = SampleSource::new(dataset, None, rules, rule, ImageLimits::default(), InstanceChoice::All)?;
    println!("{} instances, left out {}", source.instances.len(), source.left_out.len());

    let idx = source.instances[0];
    let plain = source.sample(idx)?;
    let mask_pixels = |truth: &[u8]| truth.iter().filter(|&&y| y == 1).count();
    println!("annotation {}: {} mask pixels of {}", plain.annotation_id, mask_pixels(&plain.truth), plain.truth.len());

    // The numbers of a draw follow from seed, epoch and annotation id: the same sample again is the same bits.
    let varied = Augmentation { flip_probability: 0.5, roi_shift: 0.1, roi_scale: 0.2, ..Augmentation::NONE };
    for epoch in 0..3 {
        let [once, again] = [(); 2].map(|()| source.augmented_sample(idx, &varied, 1, epoch));
        let (once, again) = (once?, again?);
        let is_same = once.pixels == again.pixels && once.truth == again.truth;
        println!("epoch {epoch}: {} mask pixels; the same when drawn again: {is_same}", mask_pixels(&once.truth));
    }

    let batch = HostBatch::new(&[plain, source.sample(source.instances[1])?]);
    println!("a batch: {} input values for annotations {:?}", batch.input.len(), batch.annotation_ids);
    Ok(())
}
