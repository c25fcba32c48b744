//! A student that answers prompts as ONNX: what stock onnxruntime says is what the network says.

use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::store::Store;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PixelRect, Size};
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_sam::prompted::PromptedDecoder;
use sensei_sam::scope::Tensors;
use sensei_sam::tiny_vit::TinyVitConfig;
use sensei_sam::tiny_vit_student::TinyVitStudent;
use sensei_sam::vit::VitConfig;
use sensei_sam::vit_student::VitStudent;
use sensei_samples::whole_images::{Letterbox, letterboxed};
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::student::Student;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{Inputs, NamedWeights, Network, Pass, host_values};
use sensei_tensor::prompts::{Decode, MaskTokens, PointLabel, PromptPoint};
use sensei_testing::{python_has, relative_l2};
use serde_json::json;

use crate::Place;
use crate::native_teacher::onnx_pair;
use crate::promptable::{EMBEDDING, LITE_FPN, REP_FPN, TINY_VIT, config, weights};

/// Asks both files: the encoder about an image, the decoder about three prompts and about a mask.
const ASK: &str = r#"
import sys
import numpy as np
import onnxruntime as ort
folder, run, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
read = lambda name, *shape: np.fromfile(f"{folder}/{name}.f32", np.float32).reshape(shape)
session = lambda name: ort.InferenceSession(f"{folder}/runs/{run}/onnx/{name}.onnx", providers=["CPUExecutionProvider"])
session("encoder").run(None, {"input": read("image", 1, 3, side, side)})[0].tofile(f"{folder}/out.f32")
decoder = session("decoder")
embedding, mask = read("embedding", 1, 256, 64, 64), read("mask", 1, 1, 256, 256)
prompts = [
    ([[200, 300], [700, 650], [0, 0]], [2, 3, -1], 0),
    ([[512.5, 400], [0, 0]], [1, -1], 0),
    ([[512.5, 400], [300, 200], [640, 512], [0, 0]], [1, 0, 1, -1], 0),
    ([[200, 300], [700, 650], [0, 0]], [2, 3, -1], 1),
]
for idx, (points, labels, has_mask) in enumerate(prompts):
    masks, iou, low = decoder.run(["masks", "iou_predictions", "low_res_masks"], {
        "image_embeddings": embedding, "mask_input": mask, "has_mask_input": np.float32([has_mask]),
        "point_coords": np.float32([points]), "point_labels": np.float32([labels]), "orig_im_size": np.float32([301, 450]),
    })
    assert masks.shape == (1, 1, 301, 450) and iou.shape == (1, 1) and low.shape == (1, 1, 256, 256)
    np.concatenate([low.ravel(), iou.ravel()]).astype(np.float32).tofile(f"{folder}/said{idx}.f32")
"#;

fn values(n: usize, step: f64) -> Vec<f32> {
    (0..n).map(|idx| (step * (idx as f64 + 1.0)).sin() as f32).collect()
}

fn write(place: &Place, name: &str, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(place.path(&format!("{name}.f32")), bytes).unwrap();
}

fn read(path: &Path) -> Vec<f32> {
    fs::read(path).unwrap().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Asks the float and the integer encoder about an image.
const ASK_BOTH: &str = r#"
import sys
import numpy as np
import onnxruntime as ort
folder, run, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
image = np.fromfile(f"{folder}/image.f32", np.float32).reshape(1, 3, side, side)
options = ort.SessionOptions()
# Before VNNI, x86 processors saturate sums of two products otherwise.
options.add_session_config_entry("session.x64quantprecision", "1")
for name in ("encoder", "encoder-int8"):
    session = ort.InferenceSession(f"{folder}/runs/{run}/onnx/{name}.onnx", options, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["output"], {"input": image})
    assert embedding.shape == (1, 256, 64, 64), embedding.shape
    embedding.tofile(f"{folder}/{name}.f32")
"#;

/// A run of a step or two with this encoder, exported, and asked by onnxruntime about an image of the encoder's size; its tensors.
fn exported(place: &Place, run: &str, text: &str, side: usize) -> NamedWeights {
    fs::write(place.path(&format!("{run}.toml")), text).unwrap();
    let folder = format!("runs/{run}");
    place.does(&["train", &format!("{run}.toml")]);
    place.does(&["export", &folder]);
    place.refuses(&["export", &folder, "--rpk"], 2, &["a student of whole images has no package"]);
    let said = place.does(&["inspect", &format!("{folder}/onnx/encoder.onnx")]);
    assert!(said.contains(&format!("input input float32 [1, 3, {side}, {side}]")), "{said}");
    write(place, "image", &values(3 * side * side, 0.37));
    write(place, "embedding", &values(256 * 64 * 64, 0.618).iter().map(|value| 0.2 * value).collect::<Vec<f32>>());
    write(place, "mask", &values(256 * 256, 0.011).iter().map(|value| 4.0 * value).collect::<Vec<f32>>());
    let mut ask = Command::new("python3");
    let done = ask.args(["-c", ASK]).arg(place.path(".")).args([run, &side.to_string()]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    read_weights(&place.path(&format!("{folder}/student.safetensors"))).unwrap().tensors
}

/// The tensors of the encoder, under its own names.
fn of_encoder(tensors: &NamedWeights) -> NamedWeights {
    let own =
        |(name, tensor): (&String, _)| Some((name.strip_prefix("image_encoder.")?.to_string(), Clone::clone(tensor)));
    tensors.iter().filter_map(own).collect()
}

#[test]
fn onnxruntime_says_what_a_vision_transformer_says() {
    let test = "onnxruntime_says_what_a_vision_transformer_says";
    let Some(weights) = weights(test) else { return };
    if !python_has(&["numpy", "onnxruntime"], test) {
        return;
    }
    // Eight patches a side, which the neck upsamples, and as many as the embedding has cells.
    for (run, side, patch, heads) in [("coarse", 64, 8, 2), ("fine", 128, 2, 1)] {
        let place = Place::new();
        let encoder = format!(
            r#"{{ kind = "vit", input_size = {side}, patch = {patch}, channels = 16, heads = {heads}, blocks = 2 }}"#
        );
        let tensors = exported(&place, run, &config(&weights, &encoder, EMBEDDING), side);
        let words = "--int8: expected an encoder of convolutions, found a vision transformer";
        place.refuses(&["export", &format!("runs/{run}"), "--int8"], 2, &[words]);
        let layout = VitConfig {
            input_size: side,
            patch,
            table_grid: side / patch,
            channels: 16,
            heads,
            blocks: 2,
            out_channels: 256,
        };
        let device = Device::flex();
        let encoder = VitStudent::new(layout, 64, &of_encoder(&tensors), &device).unwrap();
        let image = TensorData::new(read(&place.path("image.f32")), [1, 3, side, side]);
        let inputs = Inputs { images: Tensor::from_data(image, &device), taps: &["embedding".into()] };
        let map = encoder.forward(inputs, Pass::Eval).unwrap().taps.remove(0);
        let distance = relative_l2(&read(&place.path("out.f32")), &host_values(&map.reshape([256 * 64 * 64])));
        assert!(distance < 1e-5, "{run}: {distance:e}");
    }
}

/// Asks both files about each box as the encoder's metadata and SAM's frame of 1024 pixels say, with SAM's padding point: a line of 256 x 256 logits each.
const ASK_BOXES: &str = r#"
import json
import sys
import numpy as np
import onnxruntime as ort
folder, run = sys.argv[1:]
session = lambda name: ort.InferenceSession(f"{folder}/runs/{run}/onnx/{name}.onnx", providers=["CPUExecutionProvider"])
encoder, decoder = session("encoder"), session("decoder")
for box in json.load(open(f"{folder}/boxes.json")):
    pixels = np.array(box["pixels"], np.float32).reshape(box["side"], box["side"], 3).transpose(2, 0, 1)[None]
    (embedding,) = encoder.run(None, {"input": (pixels - 128) / 128})
    x, y, width, height = box["box"]
    corners = np.float32([[[x, y], [x + width, y + height], [0, 0]]]) * 1024 / box["longest"]
    (low,) = decoder.run(["low_res_masks"], {
        "image_embeddings": embedding, "mask_input": np.zeros((1, 1, 256, 256), np.float32), "has_mask_input": np.float32([0]),
        "point_coords": corners, "point_labels": np.float32([[2, 3, -1]]), "orig_im_size": np.float32([1, 1]),
    })
    low.astype(np.float32).tofile(f"{folder}/low{box['id']}.f32")
"#;

#[test]
fn an_exported_student_is_asked_as_any_pair() {
    let test = "an_exported_student_is_asked_as_any_pair";
    let (Some(weights), Some((_, library))) = (weights(test), onnx_pair(test)) else { return };
    if !python_has(&["numpy", "onnxruntime"], test) {
        return;
    }
    let place = Place::new();
    fs::write(place.path("edge.toml"), config(&weights, LITE_FPN, EMBEDDING)).unwrap();
    place.does(&["train", "edge.toml", "--set", "train.stage.0.epochs=60"]);
    place.does(&["export", "runs/edge"]);
    let annotations = "scenes/annotations/instances_train.json";
    let pair = "onnx:runs/edge/onnx/encoder.onnx,runs/edge/onnx/decoder.onnx";
    let build =
        ["teacher", "build", annotations, "scenes/images", "said", "--teacher", pair, "--onnxruntime", &library];
    place.does(&build);
    let said = FolderStore::open_any(&place.path("said")).unwrap();
    let key = serde_json::to_string(&said.manifest().key.preprocessing).unwrap();
    assert!(key.contains("\"longest_side\":128") && key.contains("signed_byte"), "{key}");

    let dataset = Dataset::load_coco(&place.path(annotations), &place.path("scenes/images")).unwrap();
    let longest = |size: Size| size.width.max(size.height);
    let boxes: Vec<_> = dataset.instances.iter().map(|instance| {
        let image = read_image(&dataset.image_path(instance.image_idx), &ImageLimits::default()).unwrap().image;
        let pixels = letterboxed(&image.pixels, Letterbox { image: image.size }, 128);
        json!({ "id": instance.id, "side": 128, "longest": longest(image.size), "box": instance.bbox, "pixels": pixels })
    }).collect();
    fs::write(place.path("boxes.json"), json!(boxes).to_string()).unwrap();
    let done = Command::new("python3").args(["-c", ASK_BOXES]).arg(place.path(".")).arg("edge").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // Where a pixel lies between two cells of the logits, and is in the part of the image that the record keeps.
    let (mut n_same, mut n_all, mut n_inside) = (0, 0, 0);
    for instance in &dataset.instances {
        let low = read(&place.path(&format!("low{}.f32", instance.id)));
        let record = said.masks(instance.id).unwrap();
        let found = record.mask(0, 0).mask_in_image();
        let kept = PixelRect::touched(&record.prompts[0].rect_in_image, found.size);
        let cells = 256.0 / f64::from(longest(found.size));
        for (y, x) in (kept.y0..kept.y1).flat_map(|y| (kept.x0..kept.x1).map(move |x| (y, x))) {
            let [row, column] = [y, x].map(|at| (f64::from(at) + 0.5) * cells - 0.5).map(|at| at as usize);
            let cells = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(down, right)| low[(row + down) * 256 + column + right]);
            let logit = cells.iter().sum::<f32>() / 4.0;
            // Records keep steps of an eighth.
            if logit.abs() < 0.25 {
                continue;
            }
            let expected = logit > 0.0;
            n_inside += usize::from(expected);
            n_same += usize::from(expected == (found.bits[(y * found.size.width + x) as usize] == 1));
            n_all += 1;
        }
    }
    assert!(n_inside > 50 && n_all > 2 * n_inside, "{n_inside} of {n_all} pixels are inside: too easy");
    assert!(n_same as f64 > 0.995 * n_all as f64, "{n_same} of {n_all} pixels are as onnxruntime has them");
}

#[test]
fn onnxruntime_says_what_a_tiny_vit_says() {
    let test = "onnxruntime_says_what_a_tiny_vit_says";
    let Some(weights) = weights(test) else { return };
    if !python_has(&["numpy", "onnxruntime"], test) {
        return;
    }
    let place = Place::new();
    // Eight cells a side, which the neck upsamples, and windows of three, which reach beyond them; a stem of one channel, which is not depthwise.
    let tensors = exported(&place, "tiny-vit", &config(&weights, TINY_VIT, EMBEDDING), 128);
    let layout = TinyVitConfig {
        input_size: 128,
        channels: [2, 8, 12, 16],
        blocks: [1, 1, 1, 1],
        heads: [2, 3, 4],
        windows: [3, 4, 3],
        out_channels: 256,
    };
    let device = Device::flex();
    let encoder = TinyVitStudent::new(layout, 64, &of_encoder(&tensors), &device).unwrap();
    let image = TensorData::new(read(&place.path("image.f32")), [1, 3, 128, 128]);
    let inputs = Inputs { images: Tensor::from_data(image, &device), taps: &["embedding".into()] };
    let map = encoder.forward(inputs, Pass::Eval).unwrap().taps.remove(0);
    let distance = relative_l2(&read(&place.path("out.f32")), &host_values(&map.reshape([256 * 64 * 64])));
    assert!(distance < 1e-5, "{distance:e}");
}

#[test]
fn onnxruntime_says_what_the_student_says() {
    let test = "onnxruntime_says_what_the_student_says";
    let Some(weights) = weights(test) else { return };
    if !python_has(&["numpy", "onnxruntime"], test) {
        return;
    }
    let place = Place::new();
    let tensors = exported(&place, "edge", &config(&weights, LITE_FPN, EMBEDDING), 128);
    let device = Device::flex();
    let graph =
        LiteFpnConfig { input_size: 128, encoder_blocks: 1, pyramid_channels: 16, refine_blocks: 0 }.graph().unwrap();
    let encoder = Student::from_weights(graph, &of_encoder(&tensors), &device).unwrap();
    let image = TensorData::new(read(&place.path("image.f32")), [1, 3, 128, 128]);
    let expected = encoder.forward_eval(Tensor::from_data(image, &device));
    let distance = relative_l2(&read(&place.path("out.f32")), &host_values(&expected.reshape([256 * 64 * 64])));
    assert!(distance < 1e-5, "encoder: {distance:e}");

    let of_decoder = tensors.iter().filter(|(name, _)| !name.starts_with("image_encoder."));
    let of_decoder: NamedWeights = of_decoder.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    let scope = Tensors::new("student", &of_decoder, &device);
    let decoder = PromptedDecoder::sam(1024, 64, &scope.root()).unwrap();
    let embedding: Tensor<4> =
        Tensor::from_data(TensorData::new(read(&place.path("embedding.f32")), [1, 256, 64, 64]), &device);
    let point = |x: f64, y: f64, label: PointLabel| PromptPoint { x, y, label };
    let padding = point(0.0, 0.0, PointLabel::Padding);
    let click = point(512.5, 400.0, PointLabel::Foreground);
    let corners = [point(200.0, 300.0, PointLabel::UpperLeft), point(700.0, 650.0, PointLabel::LowerRight)];
    let more = [point(300.0, 200.0, PointLabel::Background), point(640.0, 512.0, PointLabel::Foreground)];
    let prompts = [vec![corners[0], corners[1], padding], vec![click, padding], vec![click, more[0], more[1], padding]];
    let check = |idx: usize, logits: Vec<f32>, scores: Vec<f32>, n_points: usize| {
        // As the official export chooses: the first token's for three points and more.
        let best = (1..4).fold(1, |best, at| if scores[at] > scores[best] { at } else { best });
        let chosen = if n_points >= 3 { 0 } else { best };
        let said = read(&place.path(&format!("said{idx}.f32")));
        let distance = relative_l2(&said[..65536], &logits[chosen * 65536..][..65536]);
        assert!(distance < 1e-5, "prompt {idx}: {distance:e}");
        assert!((said[65536] - scores[chosen]).abs() < 1e-5, "prompt {idx}: {} {}", said[65536], scores[chosen]);
    };
    for (idx, prompt) in prompts.iter().enumerate() {
        let answer = decoder.decode(embedding.clone(), std::slice::from_ref(prompt), MaskTokens::All);
        let (logits, scores) =
            (host_values(&answer.masks.0.reshape([4 * 65536])), host_values(&answer.scores.reshape([4])));
        check(idx, logits, scores, prompt.len());
    }
    let mask: Tensor<3> = Tensor::from_data(TensorData::new(read(&place.path("mask.f32")), [1, 256, 256]), &device);
    let cells = embedding.reshape([1, 256, 4096]).swap_dims(1, 2);
    let refined = decoder.refined(cells, &prompts[..1], mask, sensei_sam::mask_decoder::MaskChoice::All);
    check(3, host_values(&refined.logits.reshape([4 * 65536])), host_values(&refined.predicted_iou.reshape([4])), 3);
}

#[test]
fn the_integer_encoder_says_almost_what_the_float_one_says() {
    let test = "the_integer_encoder_says_almost_what_the_float_one_says";
    let Some(weights) = weights(test) else { return };
    if !python_has(&["numpy", "onnxruntime"], test) {
        return;
    }
    let place = Place::new();
    for (run, encoder, side) in [("lite", LITE_FPN, 128), ("rep", REP_FPN, 256)] {
        // Five images, of which no batch may have one alone: a squeeze's batch norm sees one pixel of each.
        let text = config(&weights, encoder, EMBEDDING).replace("batch_size = 2", "batch_size = 3");
        exported(&place, run, &text, side);
        check_integer_encoder(&place, run, side);
    }
    place.does(&["train", "tiny.toml"]);
    place.refuses(&["export", "runs/tiny", "--int8"], 2, &["expected a student that answers prompts"]);
}

/// The integer encoder of a run, its report, and what onnxruntime says of it and of the float one.
fn check_integer_encoder(place: &Place, run: &str, side: usize) {
    let folder = format!("runs/{run}");
    let said = place.does(&["export", &folder, "--int8"]);
    assert!(said.contains("int8 encoder: on 3 validation images the embedding is "), "{said}");
    let onnx = place.path(&format!("{folder}/onnx"));
    let made = ["encoder-int8.onnx", "encoder-int8.json"].map(|name| fs::read(onnx.join(name)).unwrap());
    place.does(&["export", &folder, "--int8"]);
    let again = ["encoder-int8.onnx", "encoder-int8.json"].map(|name| fs::read(onnx.join(name)).unwrap());
    assert!(made == again, "exported again to the same bytes");
    place.does(&["verify", &folder]);

    let report: serde_json::Value = serde_json::from_slice(&made[1]).unwrap();
    let number = |what: &str, which: &str| report[what][which].as_f64().unwrap();
    assert_eq!((&report["calibration_images"], &report["val_images"]), (&5.into(), &3.into()));
    assert!(report["objects"].as_u64().unwrap() >= 6, "{report}");
    let error = number("embedding_relative_error", "mean");
    assert!(error > 1e-4 && number("embedding_relative_error", "largest") < 0.05, "{report}");
    assert!(number("mask_agreement", "mean") > 0.9 && number("mask_agreement", "largest") <= 1.0, "{report}");
    let out = place.does(&["inspect", &format!("{folder}/onnx/encoder-int8.onnx")]);
    assert!(out.contains(&format!("sensei.int8_model = {}", report["int8_model"].as_str().unwrap())), "{out}");
    assert!(out.contains(&format!("sensei.weights = {}", report["weights"].as_str().unwrap())), "{out}");

    let image: Vec<f32> = values(3 * side * side, 0.37).iter().map(|value| (128.0 * value).floor() / 128.0).collect();
    write(place, "image", &image);
    let mut ask = Command::new("python3");
    let done = ask.args(["-c", ASK_BOTH]).arg(place.path(".")).args([run, &side.to_string()]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let [float, int8] = ["encoder", "encoder-int8"].map(|name| read(&place.path(&format!("{name}.f32"))));
    let distance = relative_l2(&int8, &float);
    assert!(distance > 1e-4 && distance < 0.1, "{run}: {distance}");
}
