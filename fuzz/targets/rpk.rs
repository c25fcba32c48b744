#![no_main]

use sensei_imx500::rpk::{Rpk, RpkFile};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = RpkFile::from_bytes(bytes) {
        let is_ours = Rpk::from_bytes(bytes).is_ok();
        assert!(file.differences.is_empty() == is_ours);
        assert!(!is_ours || file.rpk.to_bytes().expect("checked") == bytes);
    }
});
