//! MobileSAM asked here: its answers in a cache, in a run, and what it proposes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sensei_answers::folder_store::FolderStore;
use sensei_answers::store::Store;
use sensei_data::dataset::Dataset;
use sensei_testing::shared_dir;

use crate::{Place, files_below, weights_digest};

const ANNOTATIONS: &str = "scenes/annotations/instances_train.json";

/// MobileSAM's weights, where developers and CI have them.
fn weights(test: &str) -> Option<String> {
    let path = shared_dir(test)?.join("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors");
    Some(path.to_str().expect("a path in UTF-8").to_string())
}

fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |path: &std::path::PathBuf| {
        let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        (name, fs::read(path).unwrap())
    };
    files_below(folder).iter().filter(|path| path.is_file()).map(read).collect()
}

#[test]
fn answers_are_the_same_for_any_number_of_threads() {
    let Some(weights) = weights("answers_are_the_same_for_any_number_of_threads") else { return };
    let place = Place::new();
    let build = |out: &str, more: &[&str]| {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", out, "--weights", &weights];
        place.does(&[&arguments, more].concat())
    };
    let said = build("one", &["--threads", "1", "--masks", "four", "--prompt", "box", "--prompt", "innermost-point"]);
    build("two", &["--threads", "2", "--masks", "four", "--prompt", "box", "--prompt", "innermost-point"]);
    assert_eq!(content(&place.path("one")), content(&place.path("two")));
    assert!(said.contains("one: ") && said.contains("records of 5 images"), "{said}");
    place.does(&["teacher", "verify", "one"]);

    // The scenes' shapes are sharp: asked by their boxes, the teacher finds most of them.
    let dataset = Dataset::load_coco(&place.path(ANNOTATIONS), &place.path("scenes/images")).unwrap();
    let store = FolderStore::open_any(&place.path("one")).unwrap();
    assert_eq!(store.ids().len(), dataset.instances.len());
    let mut ious = vec![];
    for (idx, instance) in dataset.instances.iter().enumerate() {
        let record = store.masks(instance.id).unwrap();
        assert_eq!((record.prompts.len(), record.n_masks()), (2, 4));
        assert_eq!((record.prompts[0].points.len(), record.prompts[1].points.len()), (2, 1));
        assert!(record.image.pixel_digest.is_some());
        assert!(record.masks().all(|mask| mask.stability.is_some_and(|stability| (0.0..=1.0).contains(&stability))));
        let truth = dataset.mask(idx).unwrap();
        let found = sensei_data::rle::Rle::from_mask(&record.mask(0, 0).mask_in_image());
        ious.push(truth.iou(&found, false));
    }
    let mean = ious.iter().sum::<f64>() / ious.len() as f64;
    assert!(mean > 0.7, "{mean}: {ious:?}");
}

#[test]
fn small_objects_are_shown_by_themselves() {
    let Some(weights) = weights("small_objects_are_shown_by_themselves") else { return };
    let place = Place::new();
    let build = |out: &str, more: &[&str]| {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", out, "--weights", &weights];
        place.does(&[&arguments, more].concat())
    };
    let dataset = Dataset::load_coco(&place.path(ANNOTATIONS), &place.path("scenes/images")).unwrap();
    let n_objects = dataset.instances.iter().filter(|instance| !instance.is_crowd).count();
    build("whole", &[]);
    let said = build("near", &["--zoom-below", "1024"]);
    assert!(said.contains(&format!("shown on a part of the image of their own: {n_objects} objects")), "{said}");
    // A part so large that it is the whole image.
    build("far", &["--zoom-below", "1024", "--zoom-surroundings", "64"]);
    let said = build("none", &["--zoom-below", "1"]);
    assert!(said.contains("shown on a part of the image of their own: 0 objects"), "{said}");

    let [whole, near, far, none] = ["whole", "near", "far", "none"].map(|name| {
        let store = FolderStore::open_any(&place.path(name)).unwrap();
        let mask = |id: u64| store.masks(id).unwrap().prompts[0].masks[0].logits.clone();
        let ious =
            dataset.instances.iter().enumerate().filter(|(_, instance)| !instance.is_crowd).map(|(idx, instance)| {
                let found = store.masks(instance.id).unwrap().mask(0, 0).mask_in_image();
                dataset.mask(idx).unwrap().iou(&sensei_data::rle::Rle::from_mask(&found), false)
            });
        let mean = ious.sum::<f64>() / n_objects as f64;
        (store.ids().into_iter().map(mask).collect::<Vec<_>>(), mean)
    });
    assert_eq!(whole.0, none.0);
    assert_eq!(whole.0, far.0);
    assert_ne!(whole.0, near.0);
    assert!(near.1 > 0.7, "{} {}", near.1, whole.1);

    let key = |name: &str| FolderStore::open_any(&place.path(name)).unwrap().manifest().key.digest();
    assert!(key("none") != key("whole") && key("near") != key("far"));
    let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "x", "--weights", &weights];
    for (more, words) in [
        (["--zoom-surroundings", "4"].as_slice(), "--zoom-below <PIXELS>"),
        (&["--zoom-below", "0"], "0 is not in 1..=1024"),
        (&["--zoom-below", "9", "--features", "embedding"], "cannot be used with"),
    ] {
        let output = place.command(&[&arguments, more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(words), "{said}");
    }
}

#[test]
fn features_are_kept_in_a_byte_each() {
    let Some(weights) = weights("features_are_kept_in_a_byte_each") else { return };
    let place = Place::new();
    let build = |out: &str, dtype: &str| {
        let features = ["--features", "embedding", "--dtype", dtype];
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", out, "--weights", &weights];
        place.does(&[&arguments[..], &features].concat())
    };
    build("bytes", "int8");
    build("floats", "f32");
    let [bytes, floats] = ["bytes", "floats"].map(|name| FolderStore::open_any(&place.path(name)).unwrap());
    assert_eq!(bytes.ids(), floats.ids());
    for id in floats.ids() {
        let (found, expected) = (bytes.features(id).unwrap().to_f32(), floats.features(id).unwrap().to_f32());
        assert_eq!(expected.len(), 256 * 64 * 64);
        let distance = sensei_testing::relative_l2(&found, &expected);
        assert!(distance < 0.02, "image {id}: {distance}");
    }
    let arguments =
        ["teacher", "build", ANNOTATIONS, "scenes/images", "x", "--weights", &weights, "--features", "neck"];
    place.refuses(&arguments, 2, &["--features: expected one of patch_embed, layers.0", "embedding", "found \"neck\""]);
}

/// MobileSAM asked by boxes, with these answers, in place of `[student]` of a configuration.
pub fn teacher_section(answers: &str) -> String {
    format!(
        r#"[teacher]
digest = "8fb27508e79f55348e12d87c123a3c36a6d36969c4236fb7a70ade0d2c89921c"
preprocessing = {{ letterbox = {{ longest_side = 1024, resize = "pillow_bilinear", normalization = "imagenet" }} }}
question = {{ object = {{ prompts = ["box"], padding_points = 1 }} }}
kept = {{ mask_logits = {{ context = {{ around_box = {{ region_scale = 1.2, context_scale = 2.0, min_side = 0.0 }} }}, grid = 128, logit_step = 0.125, masks = "single" }} }}
{answers}

[student]"#
    )
}

#[test]
fn a_run_asks_the_teacher_once() {
    let Some(weights) = weights("a_run_asks_the_teacher_once") else { return };
    let place = Place::new();
    let answers = format!("train = {{ native = \"{weights}\" }}\nval = {{ native = \"{weights}\" }}");
    let teacher = teacher_section(&answers);
    let hard = [("[student]", teacher.as_str()), ("weighting = \"truth_only\"", "weighting = \"teacher_hard\"")];
    place.config("native.toml", &hard);
    let questions = |said: &str| said.matches("the teacher would be asked about").count();
    assert_eq!(questions(&place.does(&["plan", "native.toml"])), 2, "a plan asks nobody");
    assert!(!place.path("runs/teacher-cache").exists());
    place.config("gone.toml", &[("[student]", &teacher.replace("mobile_sam", "mobile_sma")), hard[1]]);
    place.refuses(&["plan", "gone.toml"], 1, &["mobile_sma", "cannot read"]);
    let said = place.does(&["train", "native.toml"]);
    assert_eq!(said.matches("asking the teacher").count(), 2, "{said}");
    let digest = weights_digest(&said).to_string();
    let again = place.does(&["train", "native.toml", "--name", "again"]);
    assert_eq!((again.matches("asking the teacher").count(), weights_digest(&again)), (0, digest.as_str()));
    assert_eq!(questions(&place.does(&["plan", "native.toml"])), 0, "what was asked is checked");
    place.config("plain.toml", &[]);
    assert_ne!(weights_digest(&place.does(&["train", "plain.toml"])), digest, "the teacher's masks count");

    let other = teacher.replace("longest_side = 1024", "longest_side = 512");
    place.config("side.toml", &[("[student]", &other)]);
    let words = ["mobile_sam_fused_f16.safetensors: expected [teacher] preprocessing", "1024", "found", "512"];
    place.refuses(&["train", "side.toml", "--runs", "elsewhere"], 1, &words);
    let other = teacher.replace("8fb27508", "00000000");
    place.config("other.toml", &[("[student]", &other)]);
    let words =
        ["mobile_sam_fused_f16.safetensors: expected weights of [teacher] digest \"00000000", "found \"8fb27508"];
    place.refuses(&["train", "other.toml"], 1, &words);
}

#[test]
fn weights_and_pictures_that_cannot_be_used() {
    let Some(weights) = weights("weights_and_pictures_that_cannot_be_used") else { return };
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let build = |weights: &str, more: &[&'static str]| -> Vec<String> {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "cache", "--weights", weights];
        arguments.iter().chain(more).map(|word| word.to_string()).collect()
    };
    let refuses = |arguments: Vec<String>, words: &[&str]| {
        place.refuses(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 1, words);
        assert!(!place.path("cache").exists());
    };
    let words =
        ["student.safetensors: expected the tensors of MobileSAM", "SAM 2.1", "found none of their first layers"];
    refuses(build("runs/tiny/student.safetensors", &[]), &words);
    refuses(build("missing.safetensors", &[]), &["missing.safetensors: cannot read"]);

    let dataset = Dataset::load_coco(&place.path(ANNOTATIONS), &place.path("scenes/images")).unwrap();
    let name = &dataset.images[2].file_name;
    fs::write(place.path("scenes/images").join(name), b"\x89PNG\r\n\x1a\n, but no more").unwrap();
    let cannot = format!("{name}: cannot decode PNG");
    refuses(build(&weights, &[]), &["1 of 5 images so far cannot be used, at most 0 are allowed", &cannot]);
    let allowed = build(&weights, &["--max-failed-images", "1"]);
    let said = place.does(&allowed.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("records of 4 images") && said.contains("images that could not be used: 1"), "{said}");
    refuses_a_cache_that_is_there(&place, &weights);
}

#[test]
fn annotations_that_cannot_be_asked_about_are_all_named_first() {
    let Some(weights) = weights("annotations_that_cannot_be_asked_about_are_all_named_first") else { return };
    let place = Place::new();
    let mut ids = vec![];
    place.annotations(|file| {
        for annotation in &mut file["annotations"].as_array_mut().unwrap()[1..3] {
            annotation["bbox"] = serde_json::json!([4, 4, 0, 7]);
            ids.push(annotation["id"].as_u64().unwrap());
        }
    });
    let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "cache", "--weights", &weights];
    let words = format!("cannot be asked about: {} (its box is 0 x 7); {} (its box is 0 x 7)", ids[0], ids[1]);
    place.refuses(&arguments, 1, &[&words]);
    assert!(!place.path("cache").exists());
}

fn refuses_a_cache_that_is_there(place: &Place, weights: &str) {
    let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "cache", "--weights", weights];
    place.refuses(&arguments, 1, &["cache: already exists"]);
    place.does(&["teacher", "verify", "cache"]);
}

#[test]
fn proposals_are_trained_on_and_never_scored_on() {
    let Some(weights) = weights("proposals_are_trained_on_and_never_scored_on") else { return };
    let place = Place::new();
    let propose = |out: &str, more: &[&str]| {
        let arguments =
            ["teacher", "propose", "scenes/images", out, "--weights", &weights, "--points", "4", "--min-area", "40"];
        place.does(&[&arguments, more].concat())
    };
    let said = propose("beside.json", &["--annotations", ANNOTATIONS]);
    assert!(said.contains("on 5 pictures") && said.contains("of 80 points asked: "), "{said}");
    propose("again.json", &["--annotations", ANNOTATIONS, "--threads", "1"]);
    let load = |name: &str| Dataset::load_coco(&place.path(name), &place.path("scenes/images")).unwrap();
    let annotated = load(ANNOTATIONS);
    let kept = fs::read(place.path(ANNOTATIONS)).unwrap();
    assert_eq!(fs::read(place.path("beside.json")).unwrap(), fs::read(place.path("again.json")).unwrap());
    // People in a crowd region are annotated nowhere else; none is proposed.
    place.annotations(|file| {
        for annotation in file["annotations"].as_array_mut().unwrap() {
            annotation["iscrowd"] = 1.into();
            let whole = serde_json::json!({ "size": [64, 64], "counts": [0, 64 * 64] });
            (annotation["segmentation"], annotation["bbox"]) = (whole, serde_json::json!([0, 0, 64, 64]));
        }
    });
    let said = propose("crowd.json", &["--annotations", ANNOTATIONS]);
    assert!(said.contains("crowd.json: 0 objects on 5 pictures"), "{said}");
    fs::write(place.path(ANNOTATIONS), kept).unwrap();
    let said = propose("new/alone.json", &["--fine-points", "6", "--first-id", "500"]);
    assert!(said.contains("on 8 pictures") && !said.contains("; 0 points of the second pass"), "{said}");
    place.refuses(
        &["teacher", "propose", "scenes/images", "new/alone.json", "--weights", &weights],
        1,
        &["new/alone.json: exists already"],
    );

    let (beside, alone) = (load("beside.json"), load("new/alone.json"));
    assert_eq!((alone.images[0].id, alone.instances[0].id), (500, 500));
    assert!(alone.instances.len() > annotated.instances.len(), "{} objects", alone.instances.len());
    for (idx, instance) in beside.instances.iter().enumerate() {
        let mask = beside.mask(idx).unwrap();
        assert!(mask.area() >= 40);
        let known = (0..annotated.instances.len()).filter(|&known| {
            beside.images[instance.image_idx].file_name
                == annotated.images[annotated.instances[known].image_idx].file_name
        });
        assert!(known.into_iter().all(|known| annotated.mask(known).unwrap().iou(&mask, false) <= 0.7), "{instance:?}");
    }

    let also = r#"
[[data.also_train]]
name = "proposals"
annotations = "beside.json"
images = "scenes/images"

[crop]"#;
    place.config("also.toml", &[("[crop]", also)]);
    let words = [
        "beside.json: masks that a teacher proposed",
        "expected teacher_hard or shares of the teacher, found what leaves objects to the truth alone",
    ];
    place.refuses(&["train", "also.toml"], 1, &words);
    let hard = "weighting = \"truth_only\"\nweighting_of = { proposals = \"teacher_hard\" }";
    place.config("hard.toml", &[("[crop]", also), ("weighting = \"truth_only\"", hard)]);
    place.does(&["train", "hard.toml"]);

    let val = "val = { annotations = \"scenes/annotations/instances_val.json\"";
    place.config("val.toml", &[(val, "val = { annotations = \"new/alone.json\"")]);
    let words = ["new/alone.json: expected annotations to score on, found masks that a teacher proposed"];
    place.refuses(&["train", "val.toml"], 1, &words);
    fs::write(place.path("none.json"), "[]").unwrap();
    place.refuses(&["eval-coco", "new/alone.json", "none.json"], 1, &words);
}

/// The made-up pair of `sensei-teacher`'s tests, and the onnxruntime of `python3`.
pub fn onnx_pair(test: &str) -> Option<(String, String)> {
    let program = "import onnxruntime, pathlib; \
                   print(*pathlib.Path(onnxruntime.__file__).parent.joinpath('capi').glob('libonnxruntime.*'))";
    let output = std::process::Command::new("python3").args(["-c", program]).output().ok();
    let Some(output) = output.filter(|output| output.status.success()) else {
        assert!(std::env::var_os("CI").is_none(), "{test}: python3 has no onnxruntime, and CI must not skip");
        sensei_testing::skipped(test, "python3 has no onnxruntime");
        return None;
    };
    let folder = sensei_testing::workspace_root().join("tests/golden/teacher/onnx");
    let pair = format!("onnx:{0}/encoder.onnx,{0}/decoder.onnx", folder.display());
    Some((pair, String::from_utf8(output.stdout).unwrap().trim().to_string()))
}

#[test]
fn a_pair_of_onnx_files_is_asked_like_weights() {
    let Some((pair, library)) = onnx_pair("a_pair_of_onnx_files_is_asked_like_weights") else { return };
    let place = Place::new();
    let build = |out: &str, more: &[&str]| {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", out, "--teacher", &pair];
        place.does(&[&arguments[..], &["--onnxruntime", &library], more].concat())
    };
    let said = build("one", &["--threads", "1", "--masks", "four"]);
    assert!(said.contains("teacher: a pair of ONNX files"), "{said}");
    build("two", &["--threads", "2", "--masks", "four"]);
    assert_eq!(content(&place.path("one")), content(&place.path("two")));
    build("features", &["--features", "embedding", "--dtype", "f16"]);
    for cache in ["one", "features"] {
        place.does(&["teacher", "verify", cache]);
    }

    let compared = place.does(&["teacher", "compare", "one", "two"]);
    let n_objects = FolderStore::open_any(&place.path("one")).unwrap().ids().len();
    assert!(
        compared.contains(&format!("{n_objects} objects in both, 0 only in the first, 0 only in the second")),
        "{compared}"
    );
    assert!(
        compared.contains("mean IoU of one with the other 1.0000")
            && compared.contains(" 0 on another side of 0, farthest 0"),
        "{compared}"
    );
    build("single", &["--masks", "single"]);
    place.refuses(&["teacher", "compare", "one", "single"], 1, &["masks of a prompt: expected 4 as in one, found 1"]);
    place.refuses(
        &["teacher", "compare", "one", "features"],
        1,
        &["expected a teacher cache of mask logits, found one of image features"],
    );

    let show = |rows: &str, out: &str| {
        place.does(&["teacher", "show", "one", ANNOTATIONS, "scenes/images", out, "--rows", rows])
    };
    assert!(show("3", "three.png").contains(&format!("three.png: 3 of {n_objects} objects, best first")));
    assert!(show("200", "all.png").contains(&format!("all.png: {n_objects} of {n_objects} objects")));
    let height = |name: &str| {
        let picture = sensei_data::image_file::ImageFile::read(&place.path(name), &Default::default()).unwrap();
        picture.decode(&Default::default()).unwrap().size.height
    };
    assert_eq!(height("three.png") * n_objects as u32, height("all.png") * 3);
    let show = ["teacher", "show", "one", ANNOTATIONS, "scenes/images", "all.png"];
    place.refuses(&show, 1, &["all.png: exists already"]);
    let show = ["teacher", "show", "features", ANNOTATIONS, "scenes/images", "none.png"];
    place.refuses(&show, 1, &["expected a teacher cache of mask logits, found one of image features"]);

    let of_key = |name: &str| {
        let start = format!("{name} = ");
        said.lines().find_map(|line| line.strip_prefix(&start)).expect("a part of the key").to_string()
    };
    let (digest, question) = (of_key("digest"), of_key("question"));
    let (encoder, decoder) = pair.strip_prefix("onnx:").unwrap().split_once(',').unwrap();
    let files =
        format!(r#"{{ onnx = {{ encoder = "{encoder}", decoder = "{decoder}", onnxruntime = "{library}" }} }}"#);
    let teacher = format!(
        r#"[teacher]
digest = {digest}
preprocessing = {{ letterbox = {{ longest_side = 1024, resize = "pillow_bilinear", normalization = "imagenet" }} }}
question = {question}
kept = {{ mask_logits = {{ context = {{ around_box = {{ region_scale = 1.2, context_scale = 2.0, min_side = 0.0 }} }}, grid = 128, logit_step = 0.125, masks = "single" }} }}
train = {files}
val = {files}

[student]"#
    );
    let hard = [("[student]", teacher.as_str()), ("weighting = \"truth_only\"", "weighting = \"teacher_hard\"")];
    place.config("onnx.toml", &hard);
    let said = place.does(&["train", "onnx.toml"]);
    assert_eq!(said.matches("asking the teacher").count(), 2, "{said}");
}

#[test]
fn a_pair_or_a_library_that_is_none() {
    let Some((pair, library)) = onnx_pair("a_pair_or_a_library_that_is_none") else { return };
    let place = Place::new();
    fs::write(place.path("library.so"), "no library").unwrap();
    let refuses = |pair: &str, library: &str, code: i32, words: &[&str]| {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "x", "--teacher", pair];
        place.refuses(&[&arguments[..], &["--onnxruntime", library]].concat(), code, words);
        assert!(!place.path("x").exists());
    };
    refuses(&pair, "missing.so", 1, &["missing.so: cannot load onnxruntime", "pip install onnxruntime"]);
    refuses(&pair, "library.so", 1, &["library.so: cannot load onnxruntime"]);
    refuses(&pair.replace("decoder.onnx", "encoder.onnx"), &library, 1, &["encoder.onnx: inputs: expected"]);
    refuses(&pair.replace("decoder.onnx", "none.onnx"), &library, 1, &["none.onnx: cannot"]);
    for text in ["encoder.onnx,decoder.onnx", "onnx:encoder.onnx", "onnx:a,b,c", "onnx:,b"] {
        let arguments = ["teacher", "build", ANNOTATIONS, "scenes/images", "x", "--teacher", text];
        let output = place.command(&[&arguments[..], &["--onnxruntime", &library]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("expected onnx:ENCODER,DECODER"), "{said}");
    }
    let output = place.command(&["teacher", "build", ANNOTATIONS, "scenes/images", "x", "--teacher", &pair]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--onnxruntime"));
}

#[test]
fn weights_come_out_of_exported_files_only_whole() {
    let place = Place::new();
    let folder = sensei_testing::workspace_root().join("tests/golden/teacher/onnx");
    let [encoder, decoder] =
        ["encoder.onnx", "decoder.onnx"].map(|name| folder.join(name).to_str().unwrap().to_string());
    let words = ["encoder.onnx and ", "decoder.onnx: expected the tensors of MobileSAM"];
    place.refuses(&["teacher", "weights", &encoder, &decoder, "w.safetensors"], 1, &words);
    place.refuses(&["teacher", "weights", "tiny.toml", &decoder, "w.safetensors"], 1, &["tiny.toml: not an ONNX file"]);
    assert!(!place.path("w.safetensors").exists());
    fs::write(place.path("w.safetensors"), "kept").unwrap();
    let words = ["w.safetensors: exists already"];
    place.refuses(&["teacher", "weights", &encoder, &decoder, "w.safetensors"], 1, &words);
    assert_eq!(fs::read(place.path("w.safetensors")).unwrap(), b"kept");
}
