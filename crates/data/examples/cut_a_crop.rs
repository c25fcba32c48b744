//! Reads a COCO file and cuts out of an image what a student would be shown of its first object.
//!
//! `cargo run --release --example cut_a_crop`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_data::crop::{crop_image, crop_rle};
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_data::prompt_source::PromptSource;
use sensei_data::synth::{SynthConfig, write_synth};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Rendered scenes stand for a data set: an annotation file and a folder of images.
    let folder = tempfile::tempdir()?;
    let scenes = folder.path().join("scenes");
    write_synth(&scenes, &SynthConfig { n_train_images: 1, n_val_images: 1, ..SynthConfig::quickstart() })?;
    let dataset = Dataset::load_coco(&scenes.join("annotations/instances_train.json"), &scenes.join("images"))?;
    println!("{} image, {} instances", dataset.images.len(), dataset.instances.len());

    let instance = &dataset.instances[0];
    let image = read_image(&dataset.image_path(instance.image_idx), &ImageLimits::default())?;
    let mask = dataset.mask(0)?;
    println!("instance {}: box {:?}, {} mask pixels", instance.id, instance.bbox, mask.area());

    // The annotated box is the prompt; PicoSAM3's rule makes a padded square of it.
    let prompt = PromptSource::Box.prompt(instance.id, instance.bbox, &mask)?;
    let rule = CropRule::Roi { padding: 0.1, grid: 32, border: Border::Corrected };
    let crop = rule.crop(prompt, dataset.images[instance.image_idx].size)?;
    let rect = crop.rect_in_image;
    println!("{}: x {:.1} to {:.1}, y {:.1} to {:.1}", rule.name(), rect.x0, rect.x1, rect.y0, rect.y1);

    // Image and mask go through the same map.
    let (pixels, truth) = (crop_image(&image.image, &crop), crop_rle(&mask, &crop));
    println!("{} bytes of RGB; the mask on the student's grid:", pixels.len());
    for row in truth.chunks_exact(2 * 32) {
        // Every second row, since a character is twice as high as wide.
        println!("{}", row[..32].iter().map(|&y| if y == 1 { '#' } else { '.' }).collect::<String>());
    }
    Ok(())
}
