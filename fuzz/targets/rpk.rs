#![no_main]

use sensei_imx500::rpk::Rpk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(rpk) = Rpk::from_bytes(bytes) {
        assert!(rpk.to_bytes().expect("checked") == bytes);
    }
});
