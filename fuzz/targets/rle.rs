//! Compressed run lengths: what is accepted is the same after being written, drawn and encoded again.
#![no_main]

use sensei_data::geometry::Size;
use sensei_data::rle::Rle;

libfuzzer_sys::fuzz_target!(|input: (u8, u8, String)| {
    let (width, height, text) = input;
    let size = Size { width: width.into(), height: height.into() };
    if let Ok(rle) = Rle::from_compressed_str(size, &text) {
        assert_eq!(Rle::from_compressed_str(size, &rle.to_compressed_string()).as_ref(), Ok(&rle));
        let mask = rle.to_mask();
        let drawn = Rle::from_mask(&mask);
        assert_eq!((drawn.area(), drawn.intersection_area(&rle)), (rle.area(), rle.area()));
    }
});
