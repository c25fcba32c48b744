//! Two writers want one name; one gets it, and both know whose it is.
//!
//! `cargo run --release --example claim_a_name`

#![expect(clippy::print_stdout, reason = "a program")]

use std::sync::Arc;

use sensei_store::memory::Memory;
use sensei_store::place::{Claim, Place};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `sensei_store::open::open("s3://bucket/prefix", &options)` opens an object store, and a path a folder.
    let place = Place::new("memory", Arc::new(Memory::default()));
    let is_whole = |bytes: &[u8]| bytes.ends_with(b"\n");
    for writer in ["one", "two", "one"] {
        let claim = place.create("units/7", format!("made by {writer}\n").as_bytes(), &is_whole)?;
        let whose = match claim {
            Claim::Ours => "has what it stores".to_string(),
            Claim::Others(bytes) => format!("finds: {}", String::from_utf8_lossy(&bytes).trim()),
        };
        println!("writer {writer} {whose}");
    }
    for object in place.list()? {
        println!("{}: {} bytes", place.object(&object.name), object.bytes);
    }
    Ok(())
}
