#![no_main]

use sensei_imx500::packer_out::PackerOut;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(network) = PackerOut::from_bytes(bytes) {
        let again = network.to_zip().expect("in memory");
        assert!(PackerOut::from_bytes(&again).expect("ours") == network);
    }
});
