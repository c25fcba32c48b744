//! Weights: safetensors, and PyTorch's checkpoints (zip and pickle).
#![no_main]

use std::collections::BTreeMap;

use sensei_fuzz::as_file;
use sensei_student::weights::{read_weights, write_weights};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // As the saved object of the layout before PyTorch 1.6, so that the pickle is reached at once.
    let keys = b"\x80\x02](X\x01\0\0\x000e.";
    let storage = [&4u64.to_le_bytes()[..], &[0; 16]].concat();
    read(&[OLD_START, bytes, keys, &storage].concat());
});

fn read(bytes: &[u8]) {
    as_file("pt", bytes, |path| {
        if let Ok(file) = read_weights(path) {
            write_weights(path, &file.tensors, &BTreeMap::new()).expect("a writable folder");
            let again = read_weights(path).expect("our own file").tensors;
            assert_eq!(again.len(), file.tensors.len());
        }
    });
}

/// Magic number, version 1001, and no facts about the machine.
const OLD_START: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
