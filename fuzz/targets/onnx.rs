#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = sensei_imx500::onnx::from_bytes(Path::new("fuzz.onnx"), bytes);
});
