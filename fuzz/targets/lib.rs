//! What the targets share.

use std::fs;
use std::path::Path;

/// Runs a reader of files on some bytes.
pub fn as_file(extension: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let path = std::env::temp_dir().join(format!("sensei-fuzz-{}.{extension}", std::process::id()));
    fs::write(&path, bytes).expect("a writable folder");
    read(&path);
    fs::remove_file(&path).expect("the file was written");
}
