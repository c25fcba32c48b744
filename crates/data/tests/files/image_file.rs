use std::path::Path;

use sensei_data::geometry::Size;
use sensei_data::image_file::{
    ImageError, ImageFile, ImageLimits, RgbImage, decode_image, encode_mask_png, encode_png, encode_png_fast,
    read_image,
};
use sensei_data::mask::Mask;
use sensei_testing::{golden, shared_dir, workspace_root};

const NAME: &str = "some.jpg";

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode_image(Path::new(NAME), bytes, &ImageLimits::default())
}

fn golden_file(name: &str) -> Vec<u8> {
    std::fs::read(workspace_root().join("tests/golden/decode/images").join(name)).unwrap()
}

/// The largest and the mean difference to Pillow's pixels.
fn difference(name: &str) -> (u8, f64) {
    let image = decode(&golden_file(name)).unwrap();
    let (case, tensor) = (golden("decode"), format!("pixels/{name}"));
    let expected = case.u8s(&tensor);
    assert_eq!(case.shape(&tensor), [image.size.height as usize, image.size.width as usize, 3], "{name}");
    let differences: Vec<u8> =
        image.pixels.iter().zip(&expected).map(|(got, expected)| got.abs_diff(*expected)).collect();
    let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
    (differences.into_iter().max().unwrap(), mean)
}

#[test]
fn every_kind_of_file_decodes_as_pillow_decodes_it() {
    let mut failures = Vec::new();
    // JPEG decoders may round differently; PNG is exact.
    let mut check = |name: &str, largest: u8, mean: f64| {
        let got = difference(name);
        if got.0 > largest || got.1 > mean {
            failures.push(format!("{name}: differs by at most {}, {:.3} on average", got.0, got.1));
        }
    };
    check("rgb_444.jpg", 3, 0.5);
    check("rgb_422.jpg", 3, 0.5);
    check("rgb_420.jpg", 3, 0.5);
    check("rgb_420_progressive.jpg", 3, 0.5);
    check("rgb_restarts.jpg", 3, 0.5);
    check("rgb_not_ycbcr.jpg", 3, 0.5);
    check("grey.jpg", 3, 0.5);
    check("cmyk_adobe.jpg", 3, 0.5);
    check("cmyk_plain.jpg", 3, 0.5);
    check("ycck.jpg", 3, 0.5);
    check("orientation_6.jpg", 3, 0.5);
    check("one_pixel.jpg", 3, 3.0);
    for png in ["one_pixel", "rgb", "rgba", "grey", "grey_alpha", "palette", "bilevel", "rgb_16", "grey_16"] {
        check(&format!("{png}.png"), 0, 0.0);
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_shared_photograph_has_the_mean_colour_of_pillow() {
    let Some(shared) = shared_dir("every_shared_photograph_has_the_mean_colour_of_pillow") else { return };
    let case = golden("decode");
    // COCO's own files have full-size chroma; where it is halved, the decoders' upsampling rounds differently.
    for (set, folder, tolerance) in [
        ("coco_train", "coco/images/train", 0.05),
        ("coco_val", "coco/images/val", 0.05),
        ("lite480_train", "coco_lite480/images/train", 0.5),
        ("lite480_val", "coco_lite480/images/val", 0.5),
    ] {
        let (ids, means) = (case.i64s(&format!("{set}.id")), case.f64s(&format!("{set}.mean")));
        for (id, expected) in ids.iter().zip(means.as_chunks::<3>().0) {
            let path = shared.join("data").join(folder).join(format!("{id:012}.jpg"));
            let image = read_image(&path, &ImageLimits::default()).unwrap().image;
            let n_pixels = image.size.n_pixels() as f64;
            for (channel, expected) in expected.iter().enumerate() {
                let sum: u64 = image.pixels.iter().skip(channel).step_by(3).map(|value| u64::from(*value)).sum();
                let off = (sum as f64 / n_pixels - expected).abs();
                assert!(off < tolerance, "{}: channel {channel}: {off}", path.display());
            }
        }
    }
}

/// The rows above each of `heights`, against the whole image's.
fn check_upper_rows(path: &Path, heights: impl Iterator<Item = u32>) -> bool {
    let limits = ImageLimits::default();
    let whole = read_image(path, &limits).unwrap();
    let mut is_cut = false;
    for n_rows in heights {
        let file = ImageFile::read(path, &limits).unwrap();
        assert_eq!(file.digest(), whole.digest, "{}", path.display());
        let upper = file.decode_upper_rows(n_rows, &limits).unwrap();
        assert!(upper.n_rows() >= n_rows.min(whole.image.size.height), "{}, {n_rows} rows", path.display());
        assert_eq!(upper.size, whole.image.size, "{}, {n_rows} rows", path.display());
        let expected = &whole.image.pixels[..upper.pixels.len()];
        assert!(upper.pixels == expected, "{}: the upper {n_rows} rows differ", path.display());
        is_cut |= upper.n_rows() < whole.image.size.height;
    }
    is_cut
}

#[test]
fn upper_rows_are_those_of_the_whole_image() {
    let folder = workspace_root().join("tests/golden/decode/images");
    let mut cut = vec![];
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let height = read_image(&path, &ImageLimits::default()).unwrap().image.size.height;
        if check_upper_rows(&path, 0..=height + 1) {
            cut.push(path.file_name().unwrap().to_str().unwrap().to_string());
        }
    }
    cut.sort();
    // The others are PNG, progressive, of one pixel, or of colours that the slower decoder takes.
    let expected = ["grey", "orientation_6", "rgb_420", "rgb_422", "rgb_444", "rgb_restarts"];
    assert_eq!(cut, expected.map(|name| format!("{name}.jpg")));
}

#[test]
fn upper_rows_of_every_shared_photograph_are_those_of_the_whole_image() {
    let Some(shared) = shared_dir("upper_rows_of_every_shared_photograph_are_those_of_the_whole_image") else { return };
    for folder in ["coco/images/val", "coco_lite480/images/val"] {
        let mut n_cut = 0;
        for file in std::fs::read_dir(shared.join("data").join(folder)).unwrap() {
            n_cut += u32::from(check_upper_rows(&file.unwrap().path(), (1..500).step_by(99)));
        }
        assert!(n_cut > 20, "{folder}: {n_cut}");
    }
}

#[test]
fn damage_below_the_upper_rows_is_found_by_the_whole_image_alone() {
    let limits = ImageLimits::default();
    let mut bytes = golden_file("rgb_444.jpg");
    let end = bytes.len() - 2;
    // A frame header where coded pixels should be.
    bytes[end - 40..end - 38].copy_from_slice(&[0xff, 0xc1]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.jpg");
    std::fs::write(&path, bytes).unwrap();
    let file = || ImageFile::read(&path, &limits).unwrap();
    assert!(file().decode(&limits).is_err());
    assert!(file().decode_upper_rows(8, &limits).is_ok());
    assert!(file().decode_upper_rows(34, &limits).is_err());
}

#[test]
fn upper_rows_of_a_damaged_file_are_those_of_the_whole_image_if_it_decodes() {
    let (folder, limits) = (tempfile::tempdir().unwrap(), ImageLimits::default());
    let path = folder.path().join("damaged.jpg");
    let mut n_decoded = 0;
    for name in ["rgb_420.jpg", "rgb_restarts.jpg", "grey.jpg"] {
        let whole = golden_file(name);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x5a;
            let Ok(image) = decode(&damaged) else { continue };
            std::fs::write(&path, &damaged).unwrap();
            let upper = ImageFile::read(&path, &limits).unwrap().decode_upper_rows(10, &limits).unwrap();
            assert!(upper.pixels == image.pixels[..upper.pixels.len()], "{name}, byte {at}");
            n_decoded += 1;
        }
    }
    assert!(n_decoded > 500, "{n_decoded}");
}

#[test]
fn a_digest_is_that_of_the_files_bytes() {
    let path = workspace_root().join("tests/golden/decode/images/rgb.png");
    let encoded = read_image(&path, &ImageLimits::default()).unwrap();
    assert_eq!(encoded.digest, *blake3::hash(&golden_file("rgb.png")).as_bytes());
}

#[test]
fn png_survives_a_round_trip() {
    let size = Size { width: 5, height: 7 };
    let image = RgbImage { size, pixels: (0..105).map(|value| value * 2).collect() };
    assert_eq!(decode(&encode_png(&image)).unwrap(), image);
    assert_eq!(encode_png(&image), encode_png(&image));
}

#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    for name in ["rgb_420.jpg", "rgb_420_progressive.jpg", "rgb_restarts.jpg", "grey.jpg", "cmyk_adobe.jpg", "rgb.png"]
    {
        let whole = golden_file(name);
        // The last 12 bytes of a PNG file are an empty chunk, its last 4 that chunk's checksum.
        let end = if name.ends_with("png") { whole.len() - 12 } else { whole.len() };
        for n_bytes in 0..end {
            let result = decode(&whole[..n_bytes]);
            assert!(result.is_err(), "{name} cut to {n_bytes} of {} bytes", whole.len());
        }
    }
}

#[test]
fn the_end_of_a_thumbnail_is_not_the_end_of_the_image() {
    let whole = golden_file("rgb_420.jpg");
    let thumbnail = [0xff, 0xe1, 0, 8, b'E', b'x', 0xff, 0xd9, b'i', b'f'];
    let with_thumbnail = [&whole[..2], &thumbnail, &whole[2..]].concat();
    assert_eq!(decode(&with_thumbnail).unwrap(), decode(&whole).unwrap());
    assert!(decode(&with_thumbnail[..with_thumbnail.len() - 2]).is_err());
}

#[test]
fn damaged_bytes_never_panic() {
    for name in ["rgb_420.jpg", "rgb_420_progressive.jpg", "cmyk_adobe.jpg", "ycck.jpg", "rgba.png", "palette.png"] {
        let whole = golden_file(name);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x5a;
            if let Ok(image) = decode(&damaged) {
                assert_eq!(image.pixels.len(), image.size.n_pixels() * 3, "{name}, byte {at}");
            }
        }
    }
}

#[test]
fn limits_are_kept_before_anything_is_decoded() {
    let limits = ImageLimits { max_bytes: 1 << 20, max_pixels: 45 * 34 - 1 };
    for name in ["rgb_420.jpg", "rgb_420_progressive.jpg", "rgb.png"] {
        let error = decode_image(Path::new(NAME), &golden_file(name), &limits).unwrap_err();
        assert_eq!(error.to_string(), "some.jpg: expected at most 1529 pixels, found 45 x 34 = 1530", "{name}");
        let exact = ImageLimits { max_pixels: 45 * 34, ..limits };
        assert!(decode_image(Path::new(NAME), &golden_file(name), &exact).is_ok(), "{name}");
    }
    let limits = ImageLimits { max_bytes: 99, max_pixels: 1 << 20 };
    let error = decode_image(Path::new(NAME), &[0; 100], &limits).unwrap_err();
    assert_eq!(error.to_string(), "some.jpg: expected at most 99 bytes, found 100");
    let path = workspace_root().join("tests/golden/decode/images/rgb.png");
    assert!(matches!(read_image(&path, &limits), Err(ImageError::TooManyBytes { limit: 99, .. })));
}

/// The headers of a file that says it has 20,000 x 20,000 pixels.
#[test]
fn an_image_of_20000_by_20000_is_refused() {
    let side = 20_000u16.to_be_bytes();
    let mut jpeg = golden_file("rgb_444.jpg");
    let frame = jpeg.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&side);
    jpeg[frame + 7..frame + 9].copy_from_slice(&side);
    let mut png = golden_file("rgb.png");
    png[18..20].copy_from_slice(&side);
    png[22..24].copy_from_slice(&side);
    png[16..18].fill(0);
    png[20..22].fill(0);
    let checksum = crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&checksum);
    for (kind, bytes) in [("jpeg", jpeg), ("png", png)] {
        let error = decode(&bytes).unwrap_err().to_string();
        let expected = "some.jpg: expected at most 67108864 pixels, found 20000 x 20000 = 400000000";
        assert_eq!(error, expected, "{kind}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[test]
fn other_files_are_named_with_what_was_found() {
    let error = decode(b"GIF89a and so on").unwrap_err().to_string();
    assert_eq!(error, "some.jpg: expected a JPEG or PNG file, found one that starts with 47 49 46 38 39 61 20 61");
    let error = decode(b"").unwrap_err().to_string();
    assert_eq!(error, "some.jpg: expected a JPEG or PNG file, found an empty one");
    let missing = Path::new("/no/such/image.jpg");
    let error = read_image(missing, &ImageLimits::default()).unwrap_err().to_string();
    assert_eq!(error, "/no/such/image.jpg: cannot read image");
}

#[test]
fn deep_grey_pictures_have_their_means() {
    let Some(shared) = shared_dir("deep_grey_pictures_have_their_means") else { return };
    for (name, expected) in [("scene001.png", 113.10), ("scene002.png", 6.37)] {
        let path = shared.join("cases/png-16-bit-grey/img").join(name);
        let pixels = read_image(&path, &ImageLimits::default()).unwrap().image.pixels;
        let mean = pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / pixels.len() as f64;
        assert!((mean - expected).abs() < 0.01, "{name}: {mean}");
    }
}

#[test]
fn masks_and_pictures_that_are_encoded_fast_come_back() {
    let size = Size { width: 37, height: 21 };
    let bits: Vec<u8> = (0..size.n_pixels()).map(|at| u8::from(at * at % 7 < 3)).collect();
    let file = encode_mask_png(Mask { size, bits: bits.clone() });
    let grey = decode(&file).unwrap();
    let expected: Vec<u8> = bits.iter().flat_map(|bit| [bit * 255; 3]).collect();
    assert_eq!((grey.size, grey.pixels), (size, expected));
    // The header says one channel of 8 bits.
    assert_eq!(file[24..26], [8, 0]);
    let image = RgbImage { size, pixels: (0..size.n_pixels() * 3).map(|at| (at * 31 % 251) as u8).collect() };
    assert_eq!(decode(&encode_png_fast(&image)).unwrap(), image);
}
