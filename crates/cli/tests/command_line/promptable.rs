//! Students that answer prompts: from a configuration to scores, killed and resumed, and what is refused.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use sensei_eval::report::EvalReport;
use sensei_student::weights::read_weights;
use sensei_testing::shared_dir;

use crate::{Place, files_below, weights_digest};

/// MobileSAM's weights, where developers and CI have them.
pub fn weights(test: &str) -> Option<String> {
    let path = shared_dir(test)?.join("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors");
    // As messages name it, without the "..".
    let path = path.canonicalize().expect("the shared weights");
    Some(path.to_str().expect("a path in UTF-8").to_string())
}

const DIGEST: &str = "8fb27508e79f55348e12d87c123a3c36a6d36969c4236fb7a70ade0d2c89921c";

pub const EMBEDDING: &str = r#"
[[train.stage]]
name = "embedding"
epochs = 2
learning_rate = 1e-3
warmup_steps = 0
decay = { kind = "constant" }
train = ["encoder"]
loss = { terms = [{ kind = "embedding_mse", weight = 1.0, cells = "used" }] }
augmentation = { brightness = 0.2, contrast = 0.0, saturation = 0.0 }
"#;

pub const PROMPTS: &str = r#"
[[train.stage]]
name = "prompts"
epochs = 1
learning_rate = 1e-4
warmup_steps = 0
decay = { kind = "constant" }
train = ["encoder", "mask_decoder"]
prompts = { per_image = 1, box_probability = 0.5, rounds = 1, next_point = "teacher_disagreement", min_error_pixels = 10 }
loss = { terms = [{ kind = "teacher_mask_bce", weight = 1.0 }, { kind = "teacher_mask_dice", weight = 1.0 }] }
augmentation = { brightness = 0.0, contrast = 0.0, saturation = 0.0 }
"#;

const MASKED: &str = r#"
[[train.stage]]
name = "pretraining"
epochs = 2
learning_rate = 1e-3
warmup_steps = 0
decay = { kind = "constant" }
train = ["encoder"]
masking = { hidden_share = 0.75, channels = 16, heads = 2, blocks = 1 }
loss = { terms = [{ kind = "masked_embedding_mse", weight = 1.0 }] }
augmentation = { brightness = 0.0, contrast = 0.0, saturation = 0.0 }
"#;

const GRANULARITY: &str = r#"
[[train.stage]]
name = "granularity"
epochs = 2
learning_rate = 1e-3
warmup_steps = 0
decay = { kind = "constant" }
train = ["granularity"]
loss = { terms = [{ kind = "proposal_focal", weight = 1.0, alpha = 0.25, gamma = 1.5 }, { kind = "proposal_huber", weight = 50.0, delta = 0.1 }] }
augmentation = { brightness = 0.0, contrast = 0.0, saturation = 0.0 }
"#;

pub const LITE_FPN: &str =
    r#"{ kind = "lite_fpn", input_size = 128, encoder_blocks = 1, pyramid_channels = 16, refine_blocks = 0 }"#;
pub const REP_FPN: &str = r#"{ kind = "rep_fpn", input_size = 256, base_channels = 8, blocks = [1, 1, 1, 1], squeeze = true, pyramid_channels = 16, refine_blocks = 1 }"#;
pub const TINY_VIT: &str = r#"{ kind = "tiny_vit", input_size = 128, channels = [2, 8, 12, 16], blocks = [1, 1, 1, 1], heads = [2, 3, 4], windows = [3, 4, 3] }"#;
pub const VIT: &str = r#"{ kind = "vit", input_size = 64, patch = 8, channels = 16, heads = 2, blocks = 1 }"#;

pub fn config(weights: &str, encoder: &str, stages: &str) -> String {
    format!(
        r#"seed = 3

[data]
source = "coco"
instances = "all"
train = {{ annotations = "scenes/annotations/instances_train.json", images = "scenes/images" }}
val = {{ annotations = "scenes/annotations/instances_val.json", images = "scenes/images" }}

[teacher]
weights = "{weights}"
digest = "{DIGEST}"
features = "int8"

[student]
family = "promptable"
encoder = {encoder}

[train]
batch_size = 2
accumulate_batches = 1
optimizer = {{ beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01 }}
{stages}
[eval]
protocols = ["edgesam-box", "edgesam-center"]
clicks = 1
bootstrap_resamples = 200
bootstrap_seed = 0
overlays = 2

[logging]
checkpoint_every_steps = 1
"#
    )
}

#[test]
fn from_a_configuration_to_scores_after_clicks() {
    let Some(weights) = weights("from_a_configuration_to_scores_after_clicks") else { return };
    let place = Place::new();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, &format!("{EMBEDDING}{PROMPTS}{GRANULARITY}")))
        .unwrap();
    let said = place.does(&["plan", "edge.toml"]);
    assert!(said.contains("stage \"prompts\": 3 steps") && said.contains("the teacher's embeddings"), "{said}");
    let said = place.does(&["run", "edge.toml"]);
    let run = place.path("runs/edge");
    let box_report = EvalReport::read(&run.join("eval/report.json")).unwrap();
    let rows: Vec<&str> = box_report.predictors.iter().map(|row| row.scores.predictor.as_str()).collect();
    assert_eq!(rows, ["filled_box", "inscribed_ellipse", "teacher", "teacher+1", "student", "student+1"]);
    let iou = |report: &EvalReport, row: &str| {
        let instances = &report.predictor(row).unwrap().scores.instances;
        let iou = |[both, truth, found]: [u64; 3]| both as f64 / (truth + found - both).max(1) as f64;
        instances.iter().map(|instance| iou(instance.in_image.into())).sum::<f64>() / instances.len() as f64
    };
    assert!(iou(&box_report, "teacher") > 0.7, "{said}");
    assert!(iou(&box_report, "teacher+1") > iou(&box_report, "teacher") - 0.05, "{said}");
    let point_report = EvalReport::read(&run.join("eval-edgesam-center/report.json")).unwrap();
    assert_ne!(point_report.protocol.hash(), box_report.protocol.hash());
    assert!(iou(&point_report, "teacher+1") > iou(&point_report, "teacher"), "a click helps: {said}");
    // A click that is taken for a proposed box has a row of its own, and only where prompts are clicks.
    assert_eq!(point_report.predictors.last().unwrap().scores.predictor, "student+prior");
    for file in ["report.html", "eval/overlays.png", "eval/table.txt", "plan.toml", "events.jsonl"] {
        assert!(run.join(file).is_file(), "{file}");
    }

    let tensors = read_weights(&run.join("student.safetensors")).unwrap().tensors;
    let published = read_weights(weights.as_ref()).unwrap().tensors;
    for (name, tensor) in tensors.iter().filter(|(name, _)| published.contains_key(*name)) {
        assert_eq!(tensor.shape, published[name].shape, "{name}");
        let is_token = ["prompt_encoder.", "mask_decoder.iou_token", "mask_decoder.mask_tokens"]
            .iter()
            .any(|start| name.starts_with(start));
        assert!(!is_token || *tensor == published[name], "{name}: tokens are shared");
    }
    assert!(
        tensors.contains_key("image_encoder.embedding.weight") && tensors.contains_key("granularity.lateral.weight")
    );
    assert!(
        tensors["mask_decoder.iou_prediction_head.layers.2.bias"]
            == published["mask_decoder.iou_prediction_head.layers.2.bias"]
    );

    let before = fs::read(run.join("eval/report.json")).unwrap();
    place.does(&["eval", "runs/edge", "--protocol", "edgesam-box", "--out", "again"]);
    assert_eq!(fs::read(place.path("again/report.json")).unwrap(), before);
    // The second time the teacher's masks are those that were kept; changed ones are not taken.
    let scored = fs::read_dir(place.path("runs/teacher-cache/scored")).unwrap();
    let kept: Vec<_> =
        scored.map(|entry| entry.unwrap().path()).map(|path| (fs::read_to_string(&path).unwrap(), path)).collect();
    assert_eq!(kept.len(), 2, "one of each protocol");
    kept.iter().for_each(|(text, path)| fs::write(path, text.replacen("teacher+1", "teacher+9", 1)).unwrap());
    let changed = ["eval", "runs/edge", "--protocol", "edgesam-box", "--out", "changed"];
    place.refuses(&changed, 1, &["delete it", "expected rows of BLAKE3"]);
    kept.iter().for_each(|(text, path)| fs::write(path, text).unwrap());
    // Three clicks at once, and of three masks the surest; beside it what the best of the three is worth.
    place.does(&["eval", "runs/edge", "--protocol", "efficientsam-3-clicks", "--out", "clicks"]);
    let clicks = EvalReport::read(&place.path("clicks/report.json")).unwrap();
    assert_eq!(clicks.protocol.prompt, "random_points3-seed0");
    let rows: Vec<&str> = clicks.predictors[3..].iter().map(|row| row.scores.predictor.as_str()).collect();
    assert_eq!(rows, ["teacher", "teacher+1", "teacher_oracle", "student", "student+1", "student_oracle"]);
    assert_eq!(clicks.predictors[2].scores.predictor, "click_disc", "what knows the clicks and not the picture");
    assert!(iou(&clicks, "click_disc") > 0.1 && iou(&clicks, "click_disc") < iou(&clicks, "filled_box"), "{said}");
    place.does(&["eval", "runs/edge", "--protocol", "efficientsam-click", "--out", "click"]);
    let click = EvalReport::read(&place.path("click/report.json")).unwrap();
    assert_ne!(click.protocol.hash(), clicks.protocol.hash());
    for report in [&click, &clicks] {
        for who in ["teacher", "student"] {
            assert!(iou(report, &format!("{who}_oracle")) >= iou(report, who), "no choice is better than the truth's");
        }
    }
    place.does(&["verify", "runs/edge"]);
    place.refuses(&["eval", "runs/edge", "--robustness"], 2, &["expected no option but --protocol, --out"]);
    place.refuses(
        &["eval", "runs/edge", "--protocol", "picosam3-roi96"],
        1,
        &["expected one of whole images, found one with a crop"],
    );
    place.refuses(&["run", "edge.toml"], 2, &["expected no such run yet, found one"]);
}

#[test]
fn a_plan_asks_nobody_and_embeddings_may_be_made_elsewhere() {
    let Some(weights) = weights("a_plan_asks_nobody_and_embeddings_may_be_made_elsewhere") else { return };
    let place = Place::new();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, EMBEDDING)).unwrap();
    let said = place.does(&["plan", "edge.toml"]);
    for split in ["train", "val"] {
        assert!(said.contains(&format!("instances_{split}.json: the teacher would be asked about ")), "{said}");
    }
    assert!(!place.path("runs/teacher-cache").exists(), "nobody was asked");
    place.refuses(&["plan", "edge.toml", "--measure"], 2, &["--measure: expected a teacher that has answered"]);
    let other = format!("teacher.digest=\"{}\"", "0".repeat(64));
    place.refuses(&["plan", "edge.toml", "--set", &other], 1, &["expected weights of [teacher] digest"]);
    let size = |said: &str| {
        let line = said.lines().find(|line| line.starts_with("the teacher's embeddings of the training images: "));
        line.expect("the size").to_string()
    };
    let expected = weights_digest(&place.does(&["train", "edge.toml"])).to_string();
    let asked = place.does(&["plan", "edge.toml"]);
    assert!(!asked.contains("would be asked") && size(&asked) == size(&said), "{asked}");
    let bytes: u64 = files_below(&place.path("runs/teacher-cache"))
        .iter()
        .map(|path| path.metadata().map_or(0, |found| found.len()))
        .sum();
    let mib: f64 = size(&said).rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!(bytes as f64 / f64::from(1 << 20) > mib, "of both splits: {bytes} bytes, {mib} MiB");

    // A sealed store for the one split, a cache for the other: the same weights, and nobody is asked.
    let build = |split: &str, more: &[&str]| {
        let annotations = format!("scenes/annotations/instances_{split}.json");
        let arguments =
            ["teacher", "build", &annotations, "scenes/images", "--weights", &weights, "--features", "embedding"];
        place.does(&[&arguments[..], more].concat())
    };
    build("train", &["--dtype", "int8", "--store", "shared"]);
    build("val", &["--dtype", "int8", "val-features"]);
    let made = config(&weights, LITE_FPN, EMBEDDING).replace(
        "features = \"int8\"\n",
        "features = \"int8\"\nembeddings = { train = { store = \"shared\" }, val = { cache = \"val-features\" } }\n",
    );
    fs::write(place.path("made.toml"), &made).unwrap();
    let elsewhere = ["train", "made.toml", "--runs", "elsewhere"];
    place.refuses(&elsewhere, 1, &["expected a sealed store, found one that is not"]);
    place.does(&["teacher", "seal", "shared"]);
    assert_eq!(weights_digest(&place.does(&elsewhere)), expected);
    assert!(!place.path("elsewhere/teacher-cache").exists(), "nobody was asked");
    let said = place.does(&["plan", "made.toml", "--runs", "third"]);
    assert!(!said.contains("would be asked"), "{said}");
    // Where they lie is no part of what a run is; how they are stored is.
    fs::write(place.path("other.toml"), made.replace("features = \"int8\"", "features = \"int4\"")).unwrap();
    place.refuses(&["train", "other.toml", "--runs", "fourth"], 1, &["shared"]);
    place.does(&["eval", "elsewhere/made"]);
}

#[test]
fn a_box_beside_its_image_is_left_out_and_counted() {
    let Some(weights) = weights("a_box_beside_its_image_is_left_out_and_counted") else { return };
    let place = Place::new();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, EMBEDDING)).unwrap();
    let left_out = |said: &str, split: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{split}: ")));
        line.unwrap_or_else(|| panic!("{said}")).split_once("left out: ").unwrap().1.to_string()
    };
    let said = place.does(&["plan", "edge.toml"]);
    assert_eq!([left_out(&said, "train"), left_out(&said, "val")], ["none", "none"]);
    let path = place.path("scenes/annotations/instances_train.json");
    let whole = fs::read(&path).unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    let first = file["images"][0]["id"].clone();
    file["annotations"].as_array_mut().unwrap().retain(|annotation| annotation["image_id"] != first);
    fs::write(&path, file.to_string()).unwrap();
    let said = place.does(&["plan", "edge.toml"]);
    assert_eq!(left_out(&said, "train"), "none; images without an object, not used: 1");
    fs::write(&path, whole).unwrap();
    for split in ["train", "val"] {
        let path = place.path(&format!("scenes/annotations/instances_{split}.json"));
        let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file["annotations"][0]["bbox"] = serde_json::json!([10_000, 10_000, 60, 60]);
        fs::write(&path, file.to_string()).unwrap();
    }
    let said = place.does(&["plan", "edge.toml"]);
    for split in ["train", "val"] {
        assert!(left_out(&said, split).starts_with("1 (1 degenerate ROI)"), "{said}");
    }
}

#[test]
fn proposed_masks_are_no_truth_for_terms_or_next_points() {
    let Some(weights) = weights("proposed_masks_are_no_truth_for_terms_or_next_points") else { return };
    let place = Place::new();
    let path = place.path("scenes/annotations/instances_train.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["info"] = serde_json::json!({ "proposed_by": DIGEST });
    fs::write(&path, file.to_string()).unwrap();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, PROMPTS)).unwrap();
    place.does(&["plan", "edge.toml"]);
    let words = ["are no truth: stage \"prompts\": expected terms and next points by the teacher alone"];
    for (from, to) in [("\"teacher_disagreement\"", "\"truth_disagreement\""), ("teacher_mask_dice", "truth_mask_dice")]
    {
        let stage = PROMPTS.replace(from, to);
        assert_ne!(stage, PROMPTS);
        fs::write(place.path("truth.toml"), config(&weights, LITE_FPN, &stage)).unwrap();
        place.refuses(&["plan", "truth.toml"], 1, &words);
    }
}

#[test]
fn a_killed_run_with_prompts_in_the_loop_ends_as_the_straight_one() {
    let Some(weights) = weights("a_killed_run_with_prompts_in_the_loop_ends_as_the_straight_one") else { return };
    let place = Place::new();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, PROMPTS)).unwrap();
    let digest = weights_digest(&place.does(&["train", "edge.toml", "--name", "straight"])).to_string();
    let mut command = place.command(&["train", "edge.toml", "--name", "killed"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let run = place.path("runs/killed");
    while !files_below(&run.join("checkpoints")).iter().any(|path| path.extension().unwrap() == "safetensors") {
        assert!(child.try_wait().unwrap().is_none(), "the training has ended before its first checkpoint");
        sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap();
    assert!(!run.join("student.safetensors").exists(), "the training was to be killed before its end");
    let changed = ["train", "edge.toml", "--name", "killed", "--resume", "--set", "train.stage.0.prompts.rounds=0"];
    place.refuses(&changed, 2, &["train.stage.0.prompts.rounds was 1 and is now 0"]);
    let said = place.does(&["train", "edge.toml", "--name", "killed", "--resume"]);
    assert_eq!(weights_digest(&said), digest);
}

#[test]
fn an_encoder_is_pretrained_on_masked_images_and_then_fine_tuned() {
    let Some(weights) = weights("an_encoder_is_pretrained_on_masked_images_and_then_fine_tuned") else { return };
    let place = Place::new();
    fs::write(place.path("sami.toml"), config(&weights, VIT, &format!("{MASKED}{PROMPTS}"))).unwrap();
    let digest = weights_digest(&place.does(&["train", "sami.toml", "--name", "straight"])).to_string();
    // Stopped after each of the steps, also where the decoder of masked images is dropped.
    let run = place.path("runs/straight/checkpoints");
    let names: Vec<String> =
        files_below(&run).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.contains("step-00000009")), "{names:?}");
    for n_steps in ["00000005", "00000006", "00000007"] {
        let name = format!("from{n_steps}");
        let mut command = place.command(&["train", "sami.toml", "--name", &name]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let checkpoint = place.path("runs").join(&name).join(format!("checkpoints/step-{n_steps}.safetensors"));
        while !checkpoint.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the training has ended before step {n_steps}");
            sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap();
        assert_eq!(weights_digest(&place.does(&["train", "sami.toml", "--name", &name, "--resume"])), digest, "{name}");
    }
    let tensors = read_weights(&place.path("runs/straight/student.safetensors")).unwrap().tensors;
    assert!(
        tensors.contains_key("image_encoder.blocks.0.attn.qkv.weight")
            && tensors.contains_key("image_encoder.neck.2.weight")
    );
    assert!(tensors.keys().all(|name| !name.contains("masked") && !name.contains("head.weight")));
}

/// [`EMBEDDING`] with terms about two further points, one through an adapter.
fn further_points() -> String {
    let terms = r#"terms = [
    { kind = "embedding_mse", weight = 1.0, cells = "used" },
    { kind = "features_mse", on = "fpn0.0", target = "layers.3", adapter = "pointwise", weight = 0.5, cells = "all" },
    { kind = "features_cosine", on = "embedding", target = "embedding", adapter = "none", weight = 0.1, cells = "used" },
]"#;
    EMBEDDING.replace(r#"terms = [{ kind = "embedding_mse", weight = 1.0, cells = "used" }]"#, terms)
}

#[test]
fn features_at_further_points_learn_through_adapters_that_are_dropped() {
    let Some(weights) = weights("features_at_further_points_learn_through_adapters_that_are_dropped") else { return };
    let place = Place::new();
    let text = config(&weights, LITE_FPN, &further_points());
    fs::write(place.path("taps.toml"), text.replace("[logging]", "[logging]\nlog_every_steps = 1")).unwrap();
    let digest = weights_digest(&place.does(&["train", "taps.toml", "--name", "straight"])).to_string();
    let events = fs::read_to_string(place.path("runs/straight/events.jsonl")).unwrap();
    let of_adapter = |line: &str| -> Option<f64> {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let terms = event.get("terms")?.as_array()?;
        let term = terms.iter().find(|term| term[0] == "features_mse fpn0.0-layers.3");
        Some(term.expect("the term of the adapter")[1].as_f64().unwrap())
    };
    let logged: Vec<f64> = events.lines().filter_map(of_adapter).collect();
    assert!(logged.len() >= 2 && logged[logged.len() - 1] < logged[0], "{logged:?}");
    let tensors = read_weights(&place.path("runs/straight/student.safetensors")).unwrap().tensors;
    assert!(tensors.keys().all(|name| !name.contains("adapters")), "training alone needs them");
    // The adapter is part of a checkpoint: a resumed run ends with the same bits.
    let checkpoints = place.path("runs/straight/checkpoints");
    let last = files_below(&checkpoints).into_iter().max().unwrap();
    fs::remove_file(last).unwrap();
    fs::remove_file(place.path("runs/straight/student.safetensors")).unwrap();
    let said = place.does(&["train", "taps.toml", "--name", "straight", "--resume"]);
    assert_eq!(weights_digest(&said), digest);
    place.does(&["eval", "runs/straight"]);
    // Another run starts from its student, with a fresh adapter.
    let second = config(&weights, LITE_FPN, &further_points());
    fs::write(
        place.path("second.toml"),
        second.replacen("optimizer =", "initial_weights = \"runs/straight/student.safetensors\"\noptimizer =", 1),
    )
    .unwrap();
    place.does(&["train", "second.toml"]);

    let refused = |from: &str, to: &str, words: &[&str]| {
        let whole = further_points();
        assert!(whole.contains(from), "{from}");
        fs::write(place.path("bad.toml"), config(&weights, LITE_FPN, &whole.replacen(from, to, 1))).unwrap();
        place.refuses(&["run", "bad.toml"], 2, words);
    };
    refused(
        r#"on = "fpn0.0""#,
        r#"on = "fpn9.0""#,
        &["on \"fpn9.0\": expected 64 x 64 cells like target \"layers.3\", as ", "fpn0.0", "found no such point"],
    );
    refused("layers.3", "layers.9", &["terms: target", "\"layers.9\": expected one of", "layers.3 [320, 64, 64]"]);
    refused(
        "layers.3",
        "layers.1",
        &[
            "on \"fpn0.0\": expected 128 x 128 cells like target \"layers.1\"",
            "which no point of this encoder has; found 64 x 64",
        ],
    );
    refused(
        r#"adapter = "pointwise""#,
        r#"adapter = "none""#,
        &["expected the 320 channels of target \"layers.3\", or adapter = \"pointwise\", found 16"],
    );
    refused(r#"train = ["encoder"]"#, r#"train = ["mask_decoder"]"#, &["found only the decoder"]);
    refused(
        "weight = 0.5",
        "weight = 0.0",
        &["features_mse fpn0.0-layers.3: weight: expected more than 0, as nothing else trains its adapter, found 0"],
    );
}

#[test]
fn first_weights_and_batches_are_looked_at_before_the_teacher_is_asked() {
    let Some(weights) = weights("first_weights_and_batches_are_looked_at_before_the_teacher_is_asked") else { return };
    let place = Place::new();
    let plans = |encoder: &str, from: &str, to: &str, code: i32, words: &[&str]| {
        let whole = config(&weights, encoder, EMBEDDING);
        assert!(whole.contains(from), "{from}");
        fs::write(place.path("bad.toml"), whole.replacen(from, to, 1)).unwrap();
        place.refuses(&["plan", "bad.toml"], code, words);
        assert!(!place.path("runs/teacher-cache").exists(), "the teacher was asked: {words:?}");
    };
    let first = |key: &str, path: &str| format!("{key} = \"{path}\"\noptimizer =");
    plans(TINY_VIT, "optimizer =", &first("encoder_weights", "no.pt"), 1, &["no.pt"]);
    let of_teacher = first("encoder_weights", &weights);
    plans(
        TINY_VIT,
        "optimizer =",
        &of_teacher,
        1,
        &[&weights, "patch_embed.seq.0.c.weight: expected shape [1, 3, 3, 3]"],
    );
    plans(LITE_FPN, "optimizer =", &of_teacher, 1, &[&weights, "_conv_stem.weight"]);
    plans(VIT, "optimizer =", &first("initial_weights", &weights), 1, &[&weights, "the image encoder"]);
    plans(REP_FPN, "batch_size = 2", "batch_size = 4", 2, &["the last of 5 samples are a batch of 1"]);
}

#[test]
fn what_is_no_recipe_is_refused_before_training() {
    let Some(weights) = weights("what_is_no_recipe_is_refused_before_training") else { return };
    let place = Place::new();
    let whole = config(&weights, LITE_FPN, &format!("{EMBEDDING}{PROMPTS}"));
    let refused = |from: &str, to: &str, code: i32, words: &[&str]| {
        assert!(whole.contains(from), "{from}");
        fs::write(place.path("bad.toml"), whole.replacen(from, to, 1)).unwrap();
        place.refuses(&["run", "bad.toml"], code, words);
    };
    let prompts = "prompts = { per_image = 1, box_probability = 0.5, rounds = 1, next_point = \"teacher_disagreement\", min_error_pixels = 10 }\n";
    refused(
        prompts,
        "",
        2,
        &["\"prompts\": its loss has terms about masks: expected [train.stage.prompts], found none"],
    );
    refused("train = [\"encoder\"]", "train = [\"mask_decoder\"]", 2, &["\"embedding\": train: expected \"encoder\""]);
    refused("train = [\"encoder\"]", "train = []", 2, &["train.stage.0.train: expected a list of at least 1 element"]);
    refused(
        "kind = \"embedding_mse\"",
        "kind = \"embeding_mse\"",
        2,
        &["expected \"embedding_mse\"", "found \"embeding_mse\""],
    );
    refused("cells = \"used\"", "cells = \"some\"", 2, &["expected \"all\" or \"used\", found \"some\""]);
    refused(
        "train = [\"encoder\"]",
        "train = [\"granularity\"]",
        2,
        &["expected \"granularity\" with terms about proposals"],
    );
    refused(
        "input_size = 128",
        "input_size = 192",
        2,
        &["[student] encoder: input_size: expected one of 128, whose map"],
    );
    refused("protocols = [\"edgesam-box\"", "protocols = [\"edgesam\"", 2, &["edgesam"]);
    refused(&DIGEST[..8], "8fb27509", 1, &["expected weights of [teacher] digest \"8fb27509", "found \"8fb27508"]);
    refused("instances = \"all\"", "instances = \"cached\"", 2, &["[data] instances: expected \"all\""]);
    refused("weight = 1.0, cells", "weight = 0.0, cells", 2, &["expected at least one with a weight above 0"]);
    refused(
        "augmentation = { brightness = 0.2",
        "masking = { hidden_share = 0.75, channels = 16, heads = 2, blocks = 1 }\naugmentation = { brightness = 0.2",
        2,
        &["\"embedding\": masking: expected [student] encoder of kind \"vit\", found another"],
    );
    assert!(!place.path("runs/bad").exists(), "nothing was begun");
}
