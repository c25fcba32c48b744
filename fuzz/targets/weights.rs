//! Weights: safetensors, and PyTorch's checkpoints (zip and pickle).
#![no_main]

use std::collections::BTreeMap;

use sensei_fuzz::as_file;
use sensei_student::weights::{read_weights, write_weights};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    as_file("pt", bytes, |path| {
        if let Ok(file) = read_weights(path) {
            write_weights(path, &file.tensors, &BTreeMap::new()).expect("a writable folder");
            let again = read_weights(path).expect("our own file").tensors;
            assert_eq!(again.len(), file.tensors.len());
        }
    });
});
