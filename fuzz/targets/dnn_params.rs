#![no_main]

use sensei_imx500::dnn_params::DnnParams;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(params) = DnnParams::parse(bytes) {
        assert!(DnnParams::parse(params.to_xml().as_bytes()).expect("ours") == params);
    }
});
