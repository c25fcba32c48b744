//! Kinds of JPEG files that decoders get wrong, held to libjpeg's pixels.
//!
//! `data/jpeg/img` has drawn pictures, `data/jpeg/pillow` what Pillow 13.0.0 (libjpeg-turbo) makes of them. `scripts/check/jpeg.py`
//! does the same with thousands of made ones.

use std::path::{Path, PathBuf};

use sensei_data::image_file::{ImageLimits, decode_image, read_image};
use sensei_data::image_header::read_image_header;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jpeg")
}

#[test]
fn pixels_are_those_of_libjpeg() {
    let limits = ImageLimits::default();
    let mut n_files = 0;
    for entry in std::fs::read_dir(folder().join("pillow")).unwrap() {
        let expected = entry.unwrap().path();
        let name = expected.file_stem().unwrap().to_str().unwrap();
        let path = folder().join("img").join(name).with_extension("jpg");
        let (expected, found) =
            (read_image(&expected, &limits).unwrap().image, read_image(&path, &limits).unwrap().image);
        assert_eq!(found.size, expected.size, "{name}");
        assert_eq!(read_image_header(&path, &limits).unwrap().size, expected.size, "{name}");
        let differences = || found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b));
        let largest = differences().max().unwrap();
        let mean = differences().map(f64::from).sum::<f64>() / found.pixels.len() as f64;
        assert!(largest <= 12 && mean <= 1.2, "{name}: up to {largest}, {mean:.2} on average");
        n_files += 1;
    }
    assert_eq!(n_files, 25);
}

#[test]
fn upper_rows_are_those_of_the_whole_image() {
    let limits = ImageLimits::default();
    for entry in std::fs::read_dir(folder().join("img")).unwrap() {
        let path = entry.unwrap().path();
        let whole = read_image(&path, &limits).unwrap().image;
        for n_rows in [1, 17, whole.size.height] {
            let upper = sensei_data::image_file::ImageFile::read(&path, &limits).unwrap();
            let upper = upper.decode_upper_rows(n_rows, &limits).unwrap();
            assert!(upper.n_rows() >= n_rows, "{}", path.display());
            assert_eq!(upper.pixels[..], whole.pixels[..upper.pixels.len()], "{}", path.display());
        }
    }
}

/// Kinds that are refused by their name.
#[test]
fn kinds_that_are_not_supported_are_named() {
    let sound = std::fs::read(folder().join("img/samp-410.jpg")).unwrap();
    let frame_at = sound.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let check = |edits: &[(usize, u8)], expected: &str| {
        let mut bytes = sound.clone();
        edits.iter().for_each(|&(at, byte)| bytes[frame_at + at] = byte);
        let error = decode_image(Path::new("x.jpg"), &bytes, &ImageLimits::default()).unwrap_err().to_string();
        assert_eq!(error, format!("x.jpg: cannot decode JPEG: {expected}"));
    };
    check(&[(1, 0xc9)], "arithmetic coding is not supported");
    check(&[(1, 0xc3)], "a lossless image is not supported");
    check(&[(1, 0xc5)], "a hierarchical image is not supported");
    check(&[(4, 12)], "samples of 12 bits is not supported");
    check(&[(11, 0x41), (14, 0x21)], "components sampled 4 and 2 times across or down are not supported");
}
