//! PNG and JPEG files.
#![no_main]

use std::path::Path;

use sensei_data::image_file::{ImageLimits, decode_image, encode_png};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits = ImageLimits { max_pixels: 1 << 18, ..ImageLimits::default() };
    if let Ok(image) = decode_image(Path::new("fuzzed"), bytes, &limits) {
        let again = decode_image(Path::new("again"), &encode_png(&image), &limits).expect("our own file");
        assert_eq!(again, image);
    }
});
