//! `predict`: masks of boxes and points, from every kind of source.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use sensei_data::crop::paste_logits;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_eval::mask_score::mask_score;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file::read_model;
use sensei_samples::batch::push_input;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, SampleSource};
use sensei_student::inference::InferenceStudent;
use sensei_student::weights::read_weights;
use serde_json::{Value, json};

use crate::{Place, files_below, native_teacher, promptable, tiny_student};

const VAL: &str = "scenes/annotations/instances_val.json";
const CROP: CropRule = CropRule::Roi { padding: 0.1, grid: 32, border: Border::Corrected };

fn read(place: &Place, file: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(file)).unwrap()).unwrap()
}

/// Every file below a folder but `about.json`, which has times.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = files_below(folder).into_iter().filter(|path| path.is_file() && !path.ends_with("about.json"));
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
    paths.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// The small run's validation split, as it is scored.
fn val(place: &Place) -> SampleSource {
    let dataset = Dataset::load_coco(&place.path(VAL), &place.path("scenes/images")).unwrap();
    let rules = SelectionRules::of_student(CROP);
    SampleSource::new(dataset, None, rules, CROP, ImageLimits::default(), InstanceChoice::All).unwrap()
}

/// Holds the masks in a folder to the logits of a network, bit by bit, and to the counts that the run's scores are made of.
fn check_masks(place: &Place, out: &str, network: &str, logits_of: impl Fn(&[u8]) -> Vec<f32>) {
    let source = val(place);
    let detections = Detections::load(&place.path(&format!("{out}/predictions.json")), &source.dataset).unwrap();
    let about = read(place, &format!("{out}/about.json"));
    let report = read(place, "runs/tiny/eval/report.json");
    let rows = report["predictors"].as_array().unwrap();
    let row = rows.iter().find(|row| row["scores"]["predictor"] == network).unwrap();
    let scored = row["scores"]["instances"].as_array().unwrap();
    assert_eq!((detections.items.len(), source.instances.len()), (scored.len(), scored.len()));
    assert!(scored.iter().any(|instance| instance["in_image"][0].as_u64() > Some(0)), "masks that find nothing");
    for (idx, detection) in detections.items.iter().enumerate() {
        let annotation_id = detection.annotation_id.unwrap();
        let instance = *source.instances.iter().find(|&&at| source.annotation_id(at) == annotation_id).unwrap();
        let sample = source.sample(instance).unwrap();
        let logits = logits_of(&sample.pixels);
        let expected = paste_logits(&logits, &sample.geometry, sample.truth_in_image.size());
        let found = detections.mask(idx, &source.dataset).unwrap();
        assert!(found.to_mask() == expected, "{network}: annotation {annotation_id}");
        assert_eq!(detection.score, mask_score(&logits), "{network}: annotation {annotation_id}");
        assert_eq!(detection.bbox, Some(found.bbox()));

        let png = place.path(out).join(about["predictions"][idx]["mask"].as_str().unwrap());
        let png = read_image(&png, &ImageLimits::default()).unwrap().image;
        let bytes: Vec<u8> = expected.bits.iter().flat_map(|bit| [bit * 255; 3]).collect();
        assert!(png.size == expected.size && png.pixels == bytes, "{network}: annotation {annotation_id}: its PNG");

        let counts = &scored.iter().find(|one| one["annotation_id"] == annotation_id).unwrap()["in_image"];
        let truth = &sample.truth_in_image;
        assert_eq!(*counts, json!([found.intersection_area(truth), truth.area(), found.area()]), "{annotation_id}");
    }
}

#[test]
fn masks_are_those_that_scores_are_made_of_bit_by_bit() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let predict = |network: &str| {
        let arguments =
            ["predict", "runs/tiny", "scenes/images", "--boxes", VAL, "--network", network, "--out", network];
        place.does(&arguments)
    };
    let said = predict("int8");
    assert!(
        said.contains("network int8, roi-32-pad0.1-corrected; ") && said.contains(" ms in the network int8"),
        "{said}"
    );
    let model = read_model(&place.path("runs/tiny/student.s8m")).unwrap();
    let interpreter = Interpreter::new(&model);
    check_masks(&place, "int8", "int8", |pixels| {
        interpreter.run(&interpreter.from_pixels(pixels).unwrap()).unwrap().dequantize()
    });

    predict("float");
    let graph = tiny_student().graph().unwrap();
    let weights = read_weights(&place.path("runs/tiny/student.safetensors")).unwrap().for_graph(&graph).unwrap();
    let student = InferenceStudent::new(graph, &weights).unwrap();
    check_masks(&place, "float", "float", |pixels| {
        let mut input = vec![];
        push_input(pixels, &mut input);
        student.mask_logits(&input)
    });
    assert_ne!(content(&place.path("int8")), content(&place.path("float")));
}

#[test]
fn predictions_are_scored_by_eval_coco_and_eval_masks() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    place.does(&["predict", "runs/tiny", "scenes/images", "--boxes", VAL, "--out", "masks"]);
    for iou in ["segm", "bbox", "boundary"] {
        let arguments = ["eval-coco", VAL, "masks/predictions.json", "--iou", iou, "--out", "ap.json"];
        let table = place.does(&arguments);
        let ap = read(&place, "ap.json")["summary"]["AP"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&ap), "{iou}: {ap}\n{table}");
    }
    // As another program's masks they have the scores that the run's own network has.
    place.does(&["eval", "runs/tiny", "--protocol", "sensei-box"]);
    let protocol = ["--protocol", "sensei-box", "--name", "int8", "--out", "masks.json"];
    place.does(&[&["eval-masks", VAL, "masks/predictions.json"], &protocol[..]].concat());
    let instances = |file: &str| {
        let report = read(&place, file);
        let rows = report["predictors"].as_array().unwrap();
        rows.iter().find(|row| row["scores"]["predictor"] == "int8").unwrap()["scores"]["instances"].clone()
    };
    assert_eq!(instances("masks.json"), instances("runs/tiny/eval-sensei-box/report.json"));
}

#[test]
fn boxes_need_neither_outline_nor_area() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    place.does(&["predict", "runs/tiny", "scenes/images", "--boxes", VAL, "--out", "whole"]);
    let mut boxes = read(&place, VAL);
    for annotation in boxes["annotations"].as_array_mut().unwrap() {
        let fields = annotation.as_object_mut().unwrap();
        assert!(fields.remove("segmentation").is_some() && fields.remove("area").is_some());
    }
    fs::write(place.path("boxes.json"), boxes.to_string()).unwrap();
    place.does(&["predict", "runs/tiny", "scenes/images", "--boxes", "boxes.json", "--out", "boxes"]);
    assert_eq!(content(&place.path("whole")), content(&place.path("boxes")));
}

#[test]
fn threads_change_nothing_but_the_time() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    for network in ["int8", "float"] {
        let outs = ["1", "2", "5"].map(|threads| {
            let out = format!("{network}-{threads}");
            let arguments = ["predict", "runs/tiny", "scenes/images", "--boxes", VAL, "--network", network];
            place.does(&[&arguments, &["--threads", threads, "--out", &out][..]].concat());
            content(&place.path(&out))
        });
        assert!(outs[0].len() > 6 && outs[0] == outs[1] && outs[0] == outs[2], "{network}");
    }
    // One prompt is divided among threads itself.
    let one = |threads: &str, network: &str| {
        let (image, out) = (first_image(&place), format!("one-{threads}-{network}"));
        let asked = ["--box", "10,10,30,30", "--network", network, "--threads", threads, "--out", &out];
        place.does(&[&["predict", "runs/tiny", &image], &asked[..]].concat());
        content(&place.path(&out))
    };
    for network in ["int8", "float"] {
        assert_eq!(one("1", network), one("4", network), "{network}");
    }
}

fn first_image(place: &Place) -> String {
    files_below(&place.path("scenes/images"))[0].to_str().unwrap().to_string()
}

#[test]
fn a_package_an_int8_model_and_weights_answer_as_their_run() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    fs::write(place.path("own.toml"), PROTOCOL).unwrap();
    let predict = |source: &str, out: &str, more: &[&str]| {
        let arguments = ["predict", source, "scenes/images", "--boxes", VAL, "--out", out];
        let said = place.does(&[&arguments, more].concat());
        (content(&place.path(out)), said)
    };
    let (int8, _) = predict("runs/tiny", "int8", &[]);
    let (float, _) = predict("runs/tiny", "float", &["--network", "float"]);
    assert_eq!(predict("runs/tiny/package", "package", &[]).0, int8);
    assert_eq!(predict("runs/tiny/student.s8m", "s8m", &["--protocol", "own.toml"]).0, int8);
    let (weights, said) = predict("runs/tiny/student.safetensors", "weights", &["--config", "tiny.toml"]);
    assert!(weights == float && said.contains("network float"), "{said}");
    // Another crop is another answer.
    fs::write(place.path("wide.toml"), PROTOCOL.replace("padding = 0.1", "padding = 0.5")).unwrap();
    assert_ne!(predict("runs/tiny", "wide", &["--protocol", "wide.toml"]).0, int8);

    // A run without an integer network answers with its weights.
    let (head, _) = crate::TINY.split_once("[quantize]").unwrap();
    fs::write(place.path("floats.toml"), head).unwrap();
    place.does(&["run", "floats.toml"]);
    let (_, said) = predict("runs/floats", "floats", &[]);
    assert!(said.contains("network float"), "{said}");
    let int8 = ["predict", "runs/floats", "scenes/images", "--boxes", VAL, "--network", "int8", "--out", "none"];
    place.refuses(&int8, 2, &["expected [quantize], found none"]);
}

/// What the small run is scored by.
const PROTOCOL: &str = r#"
source = "the small run"
differences = "none"
prompt = { source = "box" }
crop = { rule = "roi", border = "corrected", padding = 0.1 }
grid = 32
space = "crop"
subset = "all"
min_area = 0.0
crowd = "left_out"
empty_truth = "scored"
mask_choice = "single"
"#;

#[test]
fn images_of_the_command_line_are_numbered_and_named() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let images = files_below(&place.path("scenes/images"));
    let boxes = ["--box", "10,10,30,30", "--box", "-5,20,40.5,50"];
    place.does(&[&["predict", "runs/tiny", "scenes/images", "--out", "all"], &boxes[..]].concat());
    let (about, predictions) = (read(&place, "all/about.json"), read(&place, "all/predictions.json"));
    assert_eq!(about["images"].as_array().unwrap().len(), images.len());
    assert_eq!(predictions.as_array().unwrap().len(), 2 * images.len());
    for (idx, path) in images.iter().enumerate() {
        let (image, stem) = (&about["images"][idx], path.file_stem().unwrap().to_str().unwrap());
        assert_eq!((&image["image_id"], &image["width"]), (&json!(idx + 1), &json!(64)));
        assert!(image["path"].as_str().unwrap().ends_with(path.file_name().unwrap().to_str().unwrap()));
        let overlay = format!("overlays/{}-{stem}.png", idx + 1);
        assert!(image["overlay"] == overlay && place.path("all").join(overlay).is_file());
        for nth in 0..2 {
            let (said, found) = (&about["predictions"][2 * idx + nth], &predictions[2 * idx + nth]);
            assert_eq!(said["mask"], format!("masks/{}-{stem}-{}.png", idx + 1, nth + 1));
            let bbox = [json!([10.0, 10.0, 30.0, 30.0]), json!([-5.0, 20.0, 40.5, 50.0])][nth].clone();
            assert_eq!(said["prompt"], json!({ "box": bbox }));
            assert_eq!((&found["image_id"], &found["category_id"]), (&json!(idx + 1), &json!(1)));
            assert_eq!((&found["score"], found.get("annotation_id")), (&said["network_score"], None));
        }
    }
    for key in ["network_per_prompt", "whole_per_prompt", "decoding_per_image", "whole"] {
        assert!(about["milliseconds"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert_eq!((&about["network"], &about["crop"]), (&json!("int8"), &json!("roi-32-pad0.1-corrected")));

    // The same images as a list on standard input, into a folder that is there and empty.
    fs::create_dir(place.path("listed")).unwrap();
    let arguments = [&["predict", "runs/tiny", "-", "--out", "listed"], &boxes[..]].concat();
    let mut child = place.command(&arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let list: String = images.iter().map(|path| format!("{}\n", path.display())).collect();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(content(&place.path("listed")), content(&place.path("all")));
}

#[test]
fn boxes_that_are_cut_or_lengthened_are_answered_and_counted() {
    let place = Place::new();
    let boxes = ["--box=-5,8,30,30", "--box=8,8,30,30", "--box=20,20,3,3"];
    let image = first_image(&place);
    let predict = [&["predict", "sensei-box", &image][..], &boxes, &["--out", "masks"]].concat();
    let output = place.command(&predict).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("boxes that reach beyond their image, of which the part in it counts: 1\n"), "{said}");
    assert!(said.contains("boxes whose region is lengthened to the student's shortest side: 1\n"), "{said}");
    let about = read(&place, "masks/about.json");
    assert_eq!((&about["boxes_beyond_image"], &about["boxes_lengthened"]), (&json!(1), &json!(1)));
}

#[test]
fn a_student_of_windows_takes_points_and_boxes() {
    let place = Place::new();
    let window =
        ("rule = \"roi\"\nborder = \"corrected\"\npadding = 0.1", "rule = \"center_window\"\nborder = \"corrected\"");
    place.config("window.toml", &[window]);
    place.does(&["train", "window.toml"]);
    let image = first_image(&place);
    let ask = |out: &str, more: &[&str]| {
        place.does(&[&["predict", "runs/window", &image, "--out", out], more].concat());
        read(&place, &format!("{out}/predictions.json"))
    };
    let point = ask("point", &["--point", "30.5,20.5"]);
    // The pixel in the middle of the box is that of the point.
    let bbox = ask("box", &["--box", "20,10,21,21"]);
    assert_eq!(point, bbox);
    let both = ask("both", &["--box", "20,10,21,21", "--point", "30.5,20.5", "--point", "0,63.9"]);
    assert_eq!((both.as_array().unwrap().len(), &both[0], &both[1]), (3, &point[0], &point[0]));
    let beside = ["predict", "runs/window", &image, "--point", "64,3", "--out", "none"];
    place.refuses(&beside, 2, &["--point 1: point (64, 3): expected one in the image of 64 x 64"]);
    assert!(!place.path("none").exists());
}

#[test]
fn scores_of_a_detector_are_multiplied_with_the_masks_own() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let annotations = read(&place, VAL);
    let detection = |(idx, annotation): (usize, &Value)| {
        json!({
            "image_id": annotation["image_id"], "category_id": annotation["category_id"], "bbox": annotation["bbox"],
            "score": 0.25 * (idx % 4) as f64,
        })
    };
    let detections: Vec<Value> =
        annotations["annotations"].as_array().unwrap().iter().enumerate().map(detection).collect();
    fs::write(place.path("found.json"), serde_json::to_vec(&detections).unwrap()).unwrap();
    let more = ["--boxes", "found.json", "--annotations", VAL, "--out", "found"];
    place.does(&[&["predict", "runs/tiny", "scenes/images"], &more[..]].concat());
    place.does(&["predict", "runs/tiny", "scenes/images", "--boxes", VAL, "--out", "own"]);
    let [found, own] = ["found", "own"].map(|out| read(&place, &format!("{out}/predictions.json")));
    assert_eq!(found.as_array().unwrap().len(), detections.len());
    for (idx, (found, own)) in found.as_array().unwrap().iter().zip(own.as_array().unwrap()).enumerate() {
        assert_eq!((&found["segmentation"], &found["image_id"]), (&own["segmentation"], &own["image_id"]));
        let expected = 0.25 * (idx % 4) as f64 * own["score"].as_f64().unwrap();
        assert_eq!(found["score"].as_f64(), Some(expected));
        assert_eq!(read(&place, "found/about.json")["predictions"][idx]["detector_score"], 0.25 * (idx % 4) as f64);
    }
    place.does(&["eval-coco", VAL, "found/predictions.json"]);
}

#[test]
fn what_cannot_be_asked_is_refused_and_leaves_nothing() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let image = first_image(&place);
    fs::write(place.path("broken.png"), b"\x89PNG\r\n\x1a\nbut no chunk").unwrap();
    // A sound header, and pixels that end early.
    let bytes = fs::read(&image).unwrap();
    fs::write(place.path("short.png"), &bytes[..bytes.len() / 2]).unwrap();
    let refuse = |source: &str, more: &[&str], code: i32, words: &[&str]| {
        place.refuses(&[&["predict", source, "--out", "none"], more].concat(), code, words);
        assert!(!place.path("none").exists(), "{more:?}");
    };
    let run = |more: &[&str], code: i32, words: &[&str]| refuse("runs/tiny", more, code, words);
    run(&[&image], 2, &["--box X,Y,W,H, --point X,Y or --boxes FILE; found none of them"]);
    run(&[&image, "--point", "3,3"], 2, &["--point: expected --box", "roi-32-pad0.1-corrected"]);
    let beside = "--box 2: box [64.0, 0.0, 3.0, 9.0] lies outside of the image of 64 x 64";
    run(&[&image, "--box", "0,0,9,9", "--box", "64,0,3,9"], 2, &[&image, beside]);
    run(&["broken.png", "--box", "0,0,9,9"], 1, &["broken.png: cannot decode PNG"]);
    run(&[&image, "short.png", "--box", "0,0,9,9"], 1, &["short.png: cannot decode PNG"]);
    run(&["none.png", "--box", "0,0,9,9"], 1, &["none.png: cannot read image"]);
    run(&["runs/tiny", "--box", "0,0,9,9"], 1, &["runs/tiny: expected JPEG or PNG files, found none"]);
    run(&[&image, "--box", "0,0,9,9", "--network", "teacher"], 2, &["expected a run that names its teacher's weights"]);
    run(&[&image, "--box", "0,0,9,9", "--config", "tiny.toml"], 2, &["--config: expected weights"]);
    run(&[&image, "--box", "0,0,9,9", "--protocol", "sensei-box"], 2, &["expected a protocol with a crop"]);
    run(
        &[&image, "--box", "0,0,9,9", "--protocol", "picosam3-roi96"],
        2,
        &["32 x 32 pixels, found roi-96-pad0.1-reference"],
    );
    refuse(
        "nowhere",
        &[&image, "--box", "0,0,9,9"],
        2,
        &["nowhere: expected a run folder (plan.toml)", "found nothing"],
    );
    refuse("scenes", &[&image, "--box", "0,0,9,9"], 2, &["found a folder that is neither"]);
    refuse("tiny.toml", &[&image, "--box", "0,0,9,9"], 2, &["found another file"]);
    refuse("runs/tiny/student.s8m", &[&image, "--box", "0,0,9,9"], 2, &["expected --protocol beside a bare .s8m"]);
    refuse("runs/tiny/student.safetensors", &[&image, "--box", "0,0,9,9"], 2, &["expected --config RUN.toml"]);

    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/file"), "").unwrap();
    let full = ["predict", "runs/tiny", &image, "--box", "0,0,9,9", "--out", "full"];
    place.refuses(&full, 2, &["--out full: expected a new or empty folder, found files in it"]);
    assert_eq!(files_below(&place.path("full")).len(), 1);

    // The command line's parser has its own form, and the same code.
    for wrong in
        [&["--box", "0,0,0,9"][..], &["--box", "nan,0,9,9"], &["--box", "1,2,3"], &["--box", "0,0,9,9", "--boxes", VAL]]
    {
        let arguments = [&["predict", "runs/tiny", &image, "--out", "none"], wrong].concat();
        assert_eq!(place.command(&arguments).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn files_of_boxes_that_cannot_be_used_are_refused() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let annotations = read(&place, VAL);
    let detection =
        json!({ "image_id": annotations["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1 });
    let refuse = |boxes: &Value, more: &[&str], code: i32, words: &[&str]| {
        fs::write(place.path("boxes.json"), serde_json::to_vec(boxes).unwrap()).unwrap();
        let arguments = ["predict", "runs/tiny", "scenes/images", "--boxes", "boxes.json", "--out", "none"];
        place.refuses(&[&arguments, more].concat(), code, words);
        assert!(!place.path("none").exists());
    };
    let beside = ["--annotations", VAL];
    let changed = |key: &str, value: Value| {
        let mut changed = detection.clone();
        changed[key] = value;
        json!([detection, changed])
    };
    refuse(&json!([detection]), &[], 2, &["boxes.json: expected --annotations FILE beside it"]);
    refuse(&annotations, &beside, 2, &["boxes.json: expected a result file, a list, beside --annotations"]);
    refuse(&json!([]), &beside, 1, &["boxes.json: expected boxes to ask about, found none"]);
    refuse(
        &changed("image_id", json!(4711)),
        &beside,
        1,
        &["detection 1: image_id: expected one of the 3 images", "found 4711"],
    );
    refuse(
        &changed("bbox", json!([0, 0, 0, 9])),
        &beside,
        1,
        &["detection 1 of image", "width and height above 0", "leave_out"],
    );
    refuse(
        &changed("bbox", json!([0, 0, -3, 9])),
        &beside,
        1,
        &["detection 1: bbox: expected [x, y, width, height], finite"],
    );
    refuse(&changed("bbox", json!([80, 0, 3, 9])), &beside, 1, &["detection 1 of image", "lies outside of the image"]);
    let runs = json!({ "size": [64, 64], "counts": [64 * 64] });
    let mask = json!([{ "image_id": detection["image_id"], "category_id": 1, "segmentation": runs, "score": 1 }]);
    refuse(&mask, &beside, 1, &["detection 0: bbox: expected [x, y, width, height], found none"]);
    refuse(&json!("text"), &[], 1, &["boxes.json: not a COCO or LVIS annotation file"]);
    let mut larger = annotations.clone();
    larger["images"][0]["width"] = json!(65);
    for annotation in larger["annotations"].as_array_mut().unwrap() {
        annotation["segmentation"] = json!([[1, 1, 5, 1, 5, 5]]);
    }
    refuse(&larger, &[], 1, &["expected 65 x 64 pixels, as annotated, found 64 x 64"]);
    let files = ["predict", "runs/tiny", &first_image(&place), "--boxes", VAL, "--out", "none"];
    place.refuses(&files, 2, &["expected the folder that the annotation file's file names are relative to"]);

    // What cannot be asked about is counted where that is wished, and crowd regions always.
    let mut some = annotations.clone();
    let (n, list) = (some["annotations"].as_array().unwrap().len(), some["annotations"].as_array_mut().unwrap());
    list[0]["bbox"] = json!([80, 0, 3, 9]);
    list[1]["iscrowd"] = json!(1);
    fs::write(place.path("some.json"), serde_json::to_vec(&some).unwrap()).unwrap();
    let arguments = ["predict", "runs/tiny", "scenes/images", "--boxes", "some.json", "--out", "some"];
    place.refuses(&arguments, 1, &["found 1 that cannot be asked about: annotation ", "lies outside"]);
    let output = place.command(&[&arguments[..], &["--unusable", "leave_out"]].concat()).output().unwrap();
    let (out, err) = crate::text(&output);
    assert!(output.status.success() && out.contains("crowd regions, not asked about: 1"), "{out}\n{err}");
    assert!(err.lines().any(|line| line.starts_with("left out: annotation ")), "{err}");
    assert_eq!(read(&place, "some/predictions.json").as_array().unwrap().len(), n - 2);
    assert_eq!(read(&place, "some/about.json")["left_out"].as_array().unwrap().len(), 1);
}

#[test]
fn sources_that_were_changed_are_refused() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let image = first_image(&place);
    let refuse = |source: &str, more: &[&str], words: &[&str]| {
        let arguments = ["predict", source, &image, "--box", "0,0,9,9", "--out", "none"];
        place.refuses(&[&arguments, more].concat(), 1, words);
        assert!(!place.path("none").exists());
    };
    fs::write(place.path("own.toml"), PROTOCOL).unwrap();
    let model = fs::read(place.path("runs/tiny/student.s8m")).unwrap();
    let flipped = |at: usize| {
        let mut bytes = model.clone();
        bytes[at] ^= 1;
        bytes
    };
    // A file of its own says itself that it is damaged; one in a run or package differs from the list of digests.
    for at in [0, model.len() / 2, model.len() - 1] {
        fs::write(place.path("damaged.s8m"), flipped(at)).unwrap();
        refuse("damaged.s8m", &["--protocol", "own.toml"], &["damaged.s8m"]);
    }
    fs::write(place.path("damaged.s8m"), &model[..100]).unwrap();
    refuse("damaged.s8m", &["--protocol", "own.toml"], &["damaged.s8m"]);
    fs::write(place.path("runs/tiny/student.s8m"), flipped(model.len() / 2)).unwrap();
    refuse("runs/tiny", &[], &["student.s8m: changed since it was written: expected SHA-256"]);
    refuse("runs/tiny/student.s8m", &["--protocol", "own.toml"], &["student.s8m: changed since it was written"]);

    let manifest = place.path("runs/tiny/package/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&manifest, text.replace(from, to)).unwrap();
    };
    edit("roi-32-pad0.1-corrected", "roi-32-pad0.2-corrected");
    refuse("runs/tiny/package", &[], &["manifest.json: changed since it was written: expected SHA-256"]);
    // Without the list, the manifest has to fit the model and to name a crop rule.
    fs::remove_file(place.path("runs/tiny/package/SHA256SUMS")).unwrap();
    let digest = serde_json::from_str::<Value>(&text).unwrap()["int8_model_digest"].as_str().unwrap().to_string();
    edit(&digest, &"0".repeat(64));
    refuse("runs/tiny/package", &[], &["tiny.s8m: expected the model 000", "of the manifest, found "]);
    edit("roi-32-pad0.1-corrected", "roi-of-my-own");
    refuse(
        "runs/tiny/package",
        &[],
        &["manifest.json: crop rule: expected center_window-GRID-BORDER", "found \"roi-of-my-own\""],
    );
    edit("\"crop\"", "\"cut\"");
    refuse("runs/tiny/package", &[], &["manifest.json: expected the name of a crop rule in \"crop\"", "--protocol"]);
}

/// The counts of pixels by annotation, of one row of a report.
fn counts(place: &Place, file: &str, row: &str) -> Vec<(Value, Value)> {
    let report = read(place, file);
    let rows = report["predictors"].as_array().unwrap();
    let row = rows.iter().find(|found| found["scores"]["predictor"] == row).unwrap();
    let instances = row["scores"]["instances"].as_array().unwrap();
    instances.iter().map(|instance| (instance["annotation_id"].clone(), instance["in_image"].clone())).collect()
}

#[test]
fn a_student_that_answers_prompts_is_asked_as_it_is_scored() {
    let Some(weights) = promptable::weights("a_student_that_answers_prompts_is_asked_as_it_is_scored") else { return };
    let place = Place::new();
    let config = promptable::config(&weights, promptable::LITE_FPN, promptable::EMBEDDING);
    fs::write(place.path("edge.toml"), &config).unwrap();
    place.does(&["run", "edge.toml"]);
    let predict = |source: &str, out: &str, more: &[&str]| {
        let arguments = ["predict", source, "scenes/images", "--boxes", VAL, "--out", out];
        place.does(&[&arguments, more].concat());
        content(&place.path(out))
    };
    let own = predict("runs/edge", "own", &["--threads", "1"]);
    place.does(&[
        "eval-masks",
        VAL,
        "own/predictions.json",
        "--protocol",
        "edgesam-box",
        "--name",
        "it",
        "--out",
        "own.json",
    ]);
    assert_eq!(counts(&place, "own.json", "it"), counts(&place, "runs/edge/eval/report.json", "student"));
    place.does(&["eval-coco", VAL, "own/predictions.json"]);
    assert!(predict("runs/edge", "three", &["--threads", "3"]) == own, "other bits on other threads");
    let weights = predict("runs/edge/student.safetensors", "weights", &["--config", "edge.toml"]);
    assert!(weights == own, "other bits from its weights");
    // The three other masks, of which the network chooses one.
    let highest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/protocols/edgesam-box.toml"))
            .unwrap();
    fs::write(
        place.path("highest.toml"),
        highest.replace("mask_choice = \"single\"", "mask_choice = \"highest_score\""),
    )
    .unwrap();
    assert_ne!(predict("runs/edge", "highest", &["--protocol", "highest.toml"]), own);

    // Boxes and points together, each in its place; what such a student does not have.
    let image = first_image(&place);
    let ask = |out: &str, more: &[&str]| {
        place.does(&[&["predict", "runs/edge", &image, "--out", out], more].concat());
        read(&place, &format!("{out}/predictions.json")).as_array().unwrap().clone()
    };
    let both = ask("both", &["--box", "10,10,30,30", "--point", "30,30"]);
    assert_eq!(both, [ask("box", &["--box", "10,10,30,30"]), ask("point", &["--point", "30,30"])].concat());
    let refuse = |more: &[&str], words: &[&str]| {
        place.refuses(&[&["predict", "runs/edge", &image, "--point", "3,3", "--out", "none"], more].concat(), 2, words);
    };
    refuse(&["--network", "int8"], &["expected float or, of a run, teacher"]);
    refuse(&["--protocol", "picosam3-roi96"], &["expected one of whole images, found one with the crop roi-96"]);
    refuse(&["--logits"], &["expected a network that is shown crops, found one that is shown whole images"]);
    refuse(&["--point", "70,3"], &["--point 2: point (70, 3): expected one in the image of 64 x 64"]);
}

#[test]
fn a_runs_teacher_is_asked_about_boxes_and_points() {
    let Some(weights) = promptable::weights("a_runs_teacher_is_asked_about_boxes_and_points") else { return };
    let place = Place::new();
    let teacher = native_teacher::teacher_section(&format!("val = {{ native = \"{weights}\" }}"));
    place.config("native.toml", &[("[student]", &teacher)]);
    place.does(&["train", "native.toml"]);
    let ask = |out: &str, more: &[&str]| {
        let arguments = ["predict", "runs/native", "scenes/images", "--network", "teacher", "--out", out];
        place.does(&[&arguments, more].concat())
    };
    let said = ask("boxes", &["--boxes", VAL]);
    assert!(said.contains("network teacher, whole images"), "{said}");
    // Its own masks, not the cache's: a pixel more or less at the edge, and the same IoU with the truth.
    place.does(&[
        "eval-masks",
        VAL,
        "boxes/predictions.json",
        "--protocol",
        "sensei-box",
        "--name",
        "it",
        "--out",
        "it.json",
    ]);
    let mean = |counts: &[(Value, Value)]| {
        let iou = |(_, count): &(Value, Value)| {
            let [both, truth, found] = [0, 1, 2].map(|at| count[at].as_f64().unwrap());
            both / (truth + found - both)
        };
        counts.iter().map(iou).sum::<f64>() / counts.len() as f64
    };
    let (own, dataset) = (counts(&place, "it.json", "it"), val(&place).dataset);
    assert!(own.len() == dataset.instances.len() && mean(&own) > 0.7, "{}", mean(&own));
    let predictions = read(&place, "boxes/predictions.json");
    assert!(predictions.as_array().unwrap().iter().all(|one| (0.3..1.05).contains(&one["score"].as_f64().unwrap())));
    // The student takes no points, its teacher does; kinds are asked apart, and answered in their places.
    ask("both", &["--box", "10,10,30,30", "--point", "30,30", "--box", "20,20,30,30"]);
    ask("point", &["--point", "30,30"]);
    let [both, point] = ["both", "point"].map(|out| read(&place, &format!("{out}/predictions.json")));
    assert_eq!(both[2], point[0], "points follow the boxes");
    assert_eq!(read(&place, "both/about.json")["predictions"][1]["prompt"], json!({ "box": [20.0, 20.0, 30.0, 30.0] }));
}
