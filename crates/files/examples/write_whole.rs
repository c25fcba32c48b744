//! Writes a file so that its name never stands for half of it, and names its content by digest.
//!
//! `cargo run --release --example write_whole`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_files::bounded::read_bounded;
use sensei_files::digest::blake3_hex;
use sensei_files::whole::write_whole;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("scores.json");
    // After each of these, and after a power cut in between, the name stands for one of the two contents.
    write_whole(&path, br#"{"mean_iou": 0.5}"#)?;
    write_whole(&path, br#"{"mean_iou": 0.6}"#)?;

    let bytes = read_bounded(&path, 1024)?;
    println!("{}", String::from_utf8_lossy(&bytes));
    println!("blake3 {}", blake3_hex(&bytes));
    println!("files in the folder: {}", std::fs::read_dir(folder.path())?.count());
    // A foreign file is never read without a limit.
    println!("with a limit of 8 bytes: {}", read_bounded(&path, 8).is_err());
    Ok(())
}
