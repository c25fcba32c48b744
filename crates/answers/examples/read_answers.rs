//! Reads the quickstart's teacher answers: what was asked, how sure the teacher was, and one mask.
//!
//! From the root of the repository: `cargo run --release --example read_answers`

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::Path;

use sensei_answers::cache::Cache;
use sensei_answers::verify::stats;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new("datasets/quickstart/teacher-cache/val");
    let cache = Cache::open_any(path)?;
    println!("{}", cache.manifest().teacher.name);
    let stats = stats(path)?;
    println!("{} answers on {} images", stats.n_records, stats.n_images);
    println!("by predicted IoU, in tenths: {:?}", stats.predicted_iou_histogram);

    let id = cache.annotation_ids().next().ok_or("an empty cache")?;
    let answer = cache.get(id)?;
    let rect = answer.rect_in_image;
    println!(
        "annotation {id}: {} x {} logits over x {:.1} to {:.1}, y {:.1} to {:.1}; predicted IoU {:.3}",
        answer.grid, answer.grid, rect.x0, rect.x1, rect.y0, rect.y1, answer.predicted_iou
    );
    let grid = answer.grid as usize;
    for row in answer.logits.chunks_exact(grid).step_by(6) {
        // Every sixth row and third column, since a character is twice as high as wide.
        println!("{}", row.iter().step_by(3).map(|&logit| if logit > 0 { '#' } else { '.' }).collect::<String>());
    }
    Ok(())
}
