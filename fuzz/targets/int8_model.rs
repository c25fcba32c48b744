#![no_main]

use std::path::Path;

use sensei_int8::model_file::{from_bytes, to_bytes};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    // The checksum is put right: it would keep every other input out.
    let bytes = [body, blake3::hash(body).as_bytes()].concat();
    if let Ok(model) = from_bytes(Path::new("fuzz.s8m"), &bytes) {
        assert!(to_bytes(&model) == bytes);
    }
});
