//! Reads the quickstart's teacher answers: what was asked, how sure the teacher was, and one mask.
//!
//! From the root of the repository: `cargo run --release --example read_answers`

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::Path;

use sensei_answers::folder_store::FolderStore;
use sensei_answers::store::Store;
use sensei_answers::verify::stats;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new("datasets/quickstart/teacher-cache/val");
    let store = FolderStore::open_any(path)?;
    println!("{}", store.manifest().teacher.name);
    let stats = stats(&store)?;
    println!("{} answers on {} images", stats.n_records, stats.n_images);
    println!("by predicted IoU, in tenths: {:?}", stats.predicted_iou_histogram);

    let id = store.ids().first().copied().ok_or("an empty cache")?;
    let record = store.masks(id)?;
    let (answer, mask) = (&record.prompts[0], &record.prompts[0].masks[0]);
    let rect = answer.rect_in_image;
    println!(
        "annotation {id}: {} x {} logits over x {:.1} to {:.1}, y {:.1} to {:.1}; predicted IoU {:.3}",
        record.grid, record.grid, rect.x0, rect.x1, rect.y0, rect.y1, mask.predicted_iou
    );
    for row in mask.logits.chunks_exact(record.grid as usize).step_by(6) {
        // Every sixth row and third column, since a character is twice as high as wide.
        println!("{}", row.iter().step_by(3).map(|&logit| if logit > 0 { '#' } else { '.' }).collect::<String>());
    }
    Ok(())
}
