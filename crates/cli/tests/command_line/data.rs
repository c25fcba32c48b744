//! Broken data sets: exit code 1, the file and what is wrong with it, no weights and no checkpoint.

use std::fs;
use std::path::Path;

use sensei_data::geometry::Size;
use sensei_data::image_file::{RgbImage, encode_png};
use serde_json::{Value, json};

use crate::Place;

const ANNOTATIONS: &str = "scenes/annotations/instances_train.json";
const IMAGE: &str = "scenes/images/train_000001.png";

/// An annotation file that is refused before a run folder is made.
fn check_annotations(edit: impl FnOnce(&mut serde_json::Value), words: &[&str]) {
    let place = Place::new();
    place.annotations(edit);
    place.refuses(&["train", "tiny.toml"], 1, &[&[ANNOTATIONS], words].concat());
    let output = place.command(&["data", "check", ANNOTATIONS, "scenes/images"]).output().unwrap();
    let (out, err) = crate::text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(words.iter().all(|word| out.contains(word) || err.contains(word)), "{words:?} in {out}{err}");
    assert!(!place.path("runs").exists());
}

/// An image file that is refused when its header is read, or when it is needed.
fn check_image(bytes: &[u8], words: &[&str]) {
    let place = Place::new();
    fs::write(place.path(IMAGE), bytes).unwrap();
    place.refuses(&["train", "tiny.toml"], 1, &[&[IMAGE], words].concat());
    let run = place.path("runs/tiny");
    assert!(!run.join("student.safetensors").exists() && !run.join("checkpoints").exists());
    let check = ["data", "check", ANNOTATIONS, "scenes/images", "--decode"];
    place.refuses(&check, 1, &[ANNOTATIONS, "expected no problems, found 1"]);
    let (out, _) = crate::text(&place.command(&check).output().unwrap());
    assert!(out.contains(IMAGE) && words.iter().all(|word| out.contains(word)), "{out}");
}

#[test]
fn whole_data_set_is_accepted() {
    let place = Place::new();
    let out = place.does(&["data", "check", ANNOTATIONS, "scenes/images", "--decode"]);
    assert!(out.contains("digest "), "{out}");
    place.does(&["plan", "tiny.toml"]);
}

#[test]
fn missing_data_set() {
    let place = Place::new();
    place.config("other.toml", &[("instances_train.json", "none.json")]);
    place.refuses(
        &["train", "other.toml"],
        1,
        &["scenes/annotations/none.json: cannot read annotations", "No such file"],
    );
    place.refuses(&["plan", "other.toml"], 1, &["none.json"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn missing_image() {
    let place = Place::new();
    fs::remove_file(place.path(IMAGE)).unwrap();
    place.refuses(
        &["train", "tiny.toml"],
        1,
        &["1 of 5 images of the train split cannot be used", IMAGE, "cannot read image", "No such file"],
    );
}

#[test]
fn category_that_is_not_in_the_list() {
    check_annotations(
        |file| file["annotations"][2]["category_id"] = json!(77),
        &["annotation 3: category 77 is not in the list of 4 categories"],
    );
}

#[test]
fn annotation_without_its_image() {
    check_annotations(
        |file| file["annotations"][2]["image_id"] = json!(99),
        &["annotation 3: image 99 is not in the list of 5 images"],
    );
}

#[test]
fn annotation_files_that_are_none() {
    check_annotations(|file| *file = json!([1]), &["images: expected a list, found 1"]);
    check_annotations(
        |file| _ = file.as_object_mut().unwrap().remove("images"),
        &["images: expected a list, found none"],
    );
    check_annotations(
        |file| file["annotations"][0]["bbox"] = json!([1, 2]),
        &["annotation 1: bbox: expected [x, y, width, height]", "found [1, 2]"],
    );
    check_annotations(
        |file| file["annotations"][1]["id"] = json!(1),
        &["annotation 1: id: expected one that no other entry has, found it 2 times"],
    );
    let no_size = |file: &mut serde_json::Value| file["images"][0]["width"] = json!(0);
    check_annotations(no_size, &["image 1: width: expected a whole number of pixels from 1 to 65535, found 0"]);
}

#[test]
fn runs_that_are_no_mask() {
    check_annotations(|file| file["annotations"][0]["segmentation"]["counts"] = json!([1, 2, 3]), &["annotation 1: "]);
}

#[test]
fn image_annotated_as_20_000_by_20_000() {
    let huge = |file: &mut serde_json::Value| {
        file["images"][0]["width"] = json!(20_000);
        file["images"][0]["height"] = json!(20_000);
    };
    check_annotations(huge, &["image 1: width and height: expected at most", "found 20000 x 20000"]);
}

#[test]
fn image_file_of_20_000_by_20_000() {
    // A PNG of one pixel whose header, checksum included, says otherwise.
    let mut bytes = one_pixel();
    let side = 20_000u32.to_be_bytes();
    bytes[16..24].copy_from_slice(&[side, side].concat());
    let checksum = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    check_image(&bytes, &["expected at most 67108864 pixels, found 20000 x 20000 = 400000000"]);
}

#[test]
fn image_file_of_one_pixel() {
    let place = Place::new();
    fs::write(place.path(IMAGE), one_pixel()).unwrap();
    place.refuses(&["train", "tiny.toml"], 1, &[IMAGE, "expected 64 x 64 as annotated, found 1 x 1"]);
    // All images of one pixel, and annotated so: no region is large enough for a prompt.
    place.annotations(|file| {
        for image in file["images"].as_array_mut().unwrap() {
            (image["width"], image["height"]) = (json!(1), json!(1));
        }
        for annotation in file["annotations"].as_array_mut().unwrap() {
            annotation["bbox"] = json!([0, 0, 1, 1]);
            annotation["segmentation"] = json!({ "size": [1, 1], "counts": [0, 1] });
        }
    });
    place.refuses(
        &["train", "tiny.toml", "--name", "b"],
        1,
        &[ANNOTATIONS, "expected instances to use, found none of"],
    );
    assert!(!place.path("runs/b").exists());
}

#[test]
fn cut_png() {
    let place = Place::new();
    let bytes = fs::read(place.path(IMAGE)).unwrap();
    check_image(&bytes[..bytes.len() / 2], &["cannot decode PNG"]);
    check_image(&bytes[..20], &["cannot decode PNG"]);
}

#[test]
fn cut_jpeg() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/decode/images/rgb_420.jpg");
    let bytes = fs::read(golden).unwrap();
    check_image(&bytes[..bytes.len() / 2], &["cannot decode JPEG"]);
    check_image(&bytes[..20], &["cannot decode JPEG"]);
}

#[test]
fn files_that_are_no_images() {
    check_image(b"", &["expected a JPEG or PNG file"]);
    check_image(b"GIF89a", &["expected a JPEG or PNG file, found one that starts with"]);
}

#[test]
fn unusable_annotations_are_left_out_where_the_configuration_says_so() {
    let place = Place::new();
    place.annotations(|file| file["annotations"][0]["segmentation"]["counts"] = json!([1, 2, 3]));
    place.refuses(&["train", "tiny.toml"], 1, &["annotation 1: runs cover 6 pixels", "unusable = \"leave_out\""]);
    place.config("tiny.toml", &[("instances = \"all\"", "instances = \"all\"\nunusable = \"leave_out\"")]);
    let out = place.does(&["plan", "tiny.toml"]);
    assert!(out.contains("left out: 1 (1 unusable annotation)"), "{out}");
    let prompts = ["prompts", ANNOTATIONS, "--protocol", "picosam3-roi96", "--out", "prompts.json"];
    place.refuses(&prompts, 1, &["annotation 1: runs cover 6 pixels"]);
    let out = place.does(&[&prompts[..], &["--unusable", "leave_out"]].concat());
    assert!(out.contains("1 left out"), "{out}");
}

#[test]
fn splits_that_share_an_image() {
    let place = Place::new();
    place.annotations(|file| file["images"][4]["file_name"] = json!("val_000006.png"));
    let words = ["instances_val.json: expected no image of the training split, found 1 (first: ", "val_000006.png)"];
    place.refuses(&["train", "tiny.toml"], 1, &words);
    assert!(!place.path("runs").exists());

    // The same id, name and content in another folder is the same image, as LVIS names COCO's.
    let place = Place::new();
    let name = share_an_id(&place, |name| format!("train2017/{name}"));
    fs::create_dir(place.path("scenes/images/train2017")).unwrap();
    let copy = place.path("scenes/images/train2017").join(&name);
    fs::copy(place.path("scenes/images").join(&name), &copy).unwrap();
    place.refuses(&["plan", "tiny.toml"], 1, &["expected no image of the training split, found 1 (first: ", &name]);
    // Exporters number and name the pictures of every folder alike.
    fs::copy(place.path("scenes/images/train_000005.png"), &copy).unwrap();
    place.does(&["plan", "tiny.toml"]);
}

#[test]
fn an_id_in_both_splits_is_not_a_shared_image() {
    let place = Place::new();
    fs::copy(place.path("scenes/images/train_000005.png"), place.path("scenes/images/other.png")).unwrap();
    share_an_id(&place, |_| "other.png".to_string());
    place.does(&["plan", "tiny.toml"]);
}

#[test]
fn one_annotation_file_is_split_by_image() {
    let place = Place::with_images(10, 1);
    let all = "scenes/annotations/instances_train.json";
    let out = place.does(&["data", "split", all, "split", "--val-share", "0.3", "--seed", "2"]);
    assert!(out.contains("split/train.json: ") && out.contains(" annotations of 7 images"), "{out}");
    assert!(out.contains("split/val.json: ") && out.contains(" annotations of 3 images"), "{out}");
    let read = |file: &str| serde_json::from_slice::<Value>(&fs::read(place.path(file)).unwrap()).unwrap();
    let [whole, train, val] = [all, "split/train.json", "split/val.json"].map(read);
    for list in ["images", "annotations"] {
        let entries = |file: &Value| file[list].as_array().unwrap().clone();
        let (mut sides, mut expected) = ([entries(&train), entries(&val)].concat(), entries(&whole));
        for entries in [&mut sides, &mut expected] {
            entries.sort_by_key(|entry| entry["id"].as_u64());
        }
        assert_eq!(sides, expected, "{list}");
    }
    for side in ["split/train.json", "split/val.json"] {
        place.does(&["data", "check", side, "scenes/images"]);
    }
    let images = "scenes/images";
    let paths =
        ["--train", "split/train.json", "--train-images", images, "--val", "split/val.json", "--val-images", images];
    place.does(&[&["init", "my.toml", "--from-random"][..], &paths].concat());

    place.refuses(&["data", "split", all, "split"], 2, &["split/train.json: expected no such file yet, found one"]);
    place.refuses(&["data", "split", "no.json", "other"], 1, &["no.json"]);
    let few = ["data", "split", "scenes/annotations/instances_val.json", "other"];
    place.refuses(&few, 1, &["expected annotated images on both sides"]);
    for share in ["0", "1", "NaN", "-1"] {
        let share = format!("--val-share={share}");
        let output = place.command(&["data", "split", all, "other", &share]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{share}");
    }
    assert!(!place.path("other").exists());
}

/// Gives the last training image the id of the first validation image, and a file name made of that image's, which it returns.
fn share_an_id(place: &Place, rename: impl FnOnce(&str) -> String) -> String {
    let val: Value =
        serde_json::from_slice(&fs::read(place.path("scenes/annotations/instances_val.json")).unwrap()).unwrap();
    let (id, name) = (val["images"][0]["id"].clone(), val["images"][0]["file_name"].as_str().unwrap().to_string());
    place.annotations(|file| {
        let before = file["images"][4]["id"].clone();
        file["images"][4]["id"] = id.clone();
        file["images"][4]["file_name"] = json!(rename(&name));
        for annotation in file["annotations"].as_array_mut().unwrap() {
            if annotation["image_id"] == before {
                annotation["image_id"] = id.clone();
            }
        }
    });
    name
}

fn one_pixel() -> Vec<u8> {
    encode_png(&RgbImage { size: Size { width: 1, height: 1 }, pixels: vec![1, 2, 3] })
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _: u32| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}
