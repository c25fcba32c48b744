//! Pictures that are composed of the training images, and objects that turn.

use std::fs;

use sensei_data::dataset::Dataset;

use crate::cache::{WITH_TEACHER, write_cache};
use crate::{Place, weights_digest};

const TRAIN: &str = "scenes/annotations/instances_train.json";
const VAL: &str = "scenes/annotations/instances_val.json";

/// What stands in the configuration instead of the section that follows `[data]`.
fn data(keys: &str) -> String {
    format!("{keys}\n\n[crop]")
}

#[test]
fn pictures_are_composed_once_and_by_hand_or_by_the_run_alike() {
    let place = Place::new();
    let said = place.does(&["data", "paste", TRAIN, "scenes/images", "pasted", "--copies", "2", "--seed", "5"]);
    assert!(said.starts_with("pasted: 10 composed pictures, ") && said.contains("; pasted: "), "{said}");
    let written = Dataset::load_coco(&place.path("pasted/annotations.json"), &place.path("pasted/images")).unwrap();
    assert!(written.instances.len() > 10 && said.contains(&format!(" {} objects", written.instances.len())), "{said}");
    place.does(&["data", "check", "pasted/annotations.json", "pasted/images", "--decode"]);

    let files =
        "also_train = [{ name = \"pasted\", annotations = \"pasted/annotations.json\", images = \"pasted/images\" }]";
    place.config("files.toml", &[("\n[crop]", &data(files))]);
    let composed = "composed = { copies = 2, min_objects = 2, max_objects = 5, seed = 5 }";
    place.config("pasting.toml", &[("\n[crop]", &data(composed))]);
    let by_hand = place.does(&["train", "files.toml"]);
    let by_run = place.does(&["train", "pasting.toml"]);
    assert_eq!(weights_digest(&by_hand), weights_digest(&by_run));
    assert!(weights_digest(&by_hand) != weights_digest(&place.does(&["train", "tiny.toml"])));
    assert!(by_run.contains("10 composed pictures"), "{by_run}");
    let again = place.does(&["run", "pasting.toml", "--name", "again"]);
    assert!(!again.contains("composed pictures, "), "they are there already: {again}");
    assert_eq!(weights_digest(&by_run), weights_digest(&again));
    let card = fs::read_to_string(place.path("runs/again/package/MODEL_CARD.md")).unwrap();
    assert!(card.contains("2 pictures composed of each of its images"), "{card}");

    // Other pictures under the images' names are composed anew.
    let image = fs::read_dir(place.path("scenes/images")).unwrap().map(|entry| entry.unwrap().path());
    let image = image.filter(|path| path.to_string_lossy().contains("train_")).min().unwrap();
    let mut bytes = fs::read(&image).unwrap();
    bytes.extend(b"more");
    fs::write(&image, bytes).unwrap();
    assert!(place.does(&["train", "pasting.toml", "--name", "third"]).contains("10 composed pictures"));
}

#[test]
fn composed_pictures_are_not_scored_on_and_not_made_of_what_is() {
    let place = Place::with_images(5, 6);
    place.does(&["data", "paste", VAL, "scenes/images", "of-val"]);
    let files =
        "also_train = [{ name = \"pasted\", annotations = \"of-val/annotations.json\", images = \"of-val/images\" }]";
    place.config("leak.toml", &[("\n[crop]", &data(files))]);
    let words = ["of-val/annotations.json: expected no pictures that were composed of the validation images"];
    place.refuses(&["train", "leak.toml"], 1, &words);
    place.does(&["data", "paste", TRAIN, "scenes/images", "of-train"]);
    let val = "val = { annotations = \"scenes/annotations/instances_val.json\", images = \"scenes/images\" }";
    let composed = "val = { annotations = \"of-train/annotations.json\", images = \"of-train/images\" }";
    place.config("val.toml", &[(val, composed)]);
    let words = ["of-train/annotations.json: expected pictures to score on, found some that were composed of others"];
    place.refuses(&["train", "val.toml"], 1, &words);
    // A file that holds something stays as it is; a range that is none is a mistake of the command line.
    place.refuses(
        &["data", "paste", TRAIN, "scenes/images", "of-train"],
        1,
        &["of-train: expected a new or empty folder"],
    );
    let few = ["data", "paste", TRAIN, "scenes/images", "out", "--min-objects", "6"];
    place.refuses(&few, 2, &["objects: expected a range within 1 to 100, found 6 to 5"]);
    place.config(
        "range.toml",
        &[("\n[crop]", &data("composed = { copies = 2, min_objects = 3, max_objects = 2, seed = 5 }"))],
    );
    place.refuses(
        &["plan", "range.toml"],
        2,
        &["[data] composed: expected max_objects of at least min_objects, 3, found 2"],
    );
}

const BOX: (&str, &str) = (
    "rule = \"roi\"\nborder = \"corrected\"\npadding = 0.1",
    "rule = \"box\"\nborder = \"clipped\"\npadding = 0.1\nmin_side = 12.0",
);
const TURNS: (&str, &str) = ("roi_scale = 0.1", "roi_scale = 0.1\nroi_rotation = 0.35\nroi_shear = 0.12");

#[test]
fn objects_turn_where_nothing_stands_against_it() {
    let place = Place::new();
    place.config("box.toml", &[BOX]);
    place.config("turned.toml", &[BOX, TURNS]);
    let still = place.does(&["train", "box.toml"]);
    let turned = place.does(&["train", "turned.toml"]);
    assert!(!still.contains("samples that turn"), "{still}");
    let counted = turned.lines().find(|line| line.starts_with("samples that turn, in all epochs: "));
    assert!(counted.is_some_and(|line| line.contains("; too near the border, shown as they are: ")), "{turned}");
    assert!(weights_digest(&still) != weights_digest(&turned));
    // Packed or not, and whatever the number of threads that prepare samples.
    place.does(&["data", "pack", "turned.toml"]);
    let packed = place.does(&["train", "turned.toml", "--name", "packed-samples"]);
    assert!(packed.contains("packed samples of"), "{packed}");
    assert_eq!(weights_digest(&packed), weights_digest(&turned));

    // A share of the samples: another training than with none or all of them.
    let some = "roi_scale = 0.1\nroi_rotation = 0.35\nroi_shear = 0.12\nroi_turn_probability = 0.5\nroi_jitter_probability = 0.5";
    place.config("some.toml", &[BOX, ("roi_scale = 0.1", some)]);
    let some = place.does(&["train", "some.toml"]);
    assert!([&still, &turned].iter().all(|other| weights_digest(&some) != weights_digest(other)));
    place.config("none-turn.toml", &[BOX, ("roi_scale = 0.1", "roi_scale = 0.1\nroi_turn_probability = 0.5")]);
    let words =
        ["\"only\": augmentation: roi_turn_probability is of roi_rotation and roi_shear: expected one of them above 0"];
    place.refuses(&["plan", "none-turn.toml"], 2, &words);
    const STILL: (&str, &str) = ("roi_shift = 0.1", "roi_shift = 0.0");
    place.config(
        "none-jitter.toml",
        &[BOX, STILL, ("roi_scale = 0.1", "roi_scale = 0.0\nroi_jitter_probability = 0.5")],
    );
    let words = [
        "augmentation: roi_jitter_probability is of roi_shift, roi_scale and roi_aspect: expected one of them above 0",
    ];
    place.refuses(&["plan", "none-jitter.toml"], 2, &words);

    place.config("square.toml", &[TURNS]);
    let words = ["stage \"only\": roi_rotation and roi_shear: expected [crop] rule = \"box\", found another"];
    place.refuses(&["plan", "square.toml"], 2, &words);
    write_cache(&place, "train", "disc-1", "cache-train", |_| true);
    write_cache(&place, "val", "disc-1", "cache-val", |_| true);
    place.config("answers.toml", &[WITH_TEACHER, &[BOX, TURNS]].concat());
    place.refuses(&["plan", "answers.toml"], 2, &["expected no answers of a teacher to train on, which do not turn"]);
    place.config("far.toml", &[BOX, ("roi_scale = 0.1", "roi_scale = 0.1\nroi_rotation = 1.5")]);
    place.refuses(&["plan", "far.toml"], 2, &["roi_rotation: expected a number from 0 to 0.9, found 1.5"]);
}
