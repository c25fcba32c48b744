//! `crops calibration ANNOTATIONS IMAGES DUMP OUT N SEED`: the inputs that `sensei quantize` calibrates on.
//! `crops all ANNOTATIONS IMAGES DUMP OUT MODEL`: every instance that the dump answers, as it is scored, with truth, id and what the int8
//! model MODEL says.
//!
//! For programs that are compared with ours (`scripts/bench/mct.sh`). ROI prompt, padding 0.1, border "reference", 96 x 96.
//! OUT is a safetensors file: `inputs` (f32, `[n, 3, 96, 96]`, `(pixel - 128) / 128`) and, of `all`, `truth` (u8, `[n, 96,
//! 96]`), `annotation_ids` (u64, `[n]`) and `int8_logits` (f32, `[n, 96, 96]`).
#![expect(clippy::disallowed_methods, reason = "a program")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for benchmarks")]

use std::path::Path;

use burn::tensor::Device;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file::read_model;
use sensei_samples::batch::HostBatch;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, Sample, SampleSource};
use sensei_train::tensors::{input_tensor, random_inputs};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, annotations, images, dump, out, rest @ ..] = arguments.as_slice() else {
        panic!("crops calibration ANNOTATIONS IMAGES DUMP OUT N SEED | crops all ANNOTATIONS IMAGES DUMP OUT MODEL")
    };
    let dataset = Dataset::load_coco(Path::new(annotations), Path::new(images)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let report = import_answers(Path::new(dump), &dataset, &path).unwrap();
    let cache = FolderStore::open(&path, &report.manifest.key).unwrap();
    let prompt = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    let rules = SelectionRules::of_student(prompt);
    let source = SampleSource::new(
        dataset,
        Some(Box::new(cache)),
        rules,
        prompt,
        ImageLimits::default(),
        InstanceChoice::Cached,
    )
    .unwrap();

    let (mut inputs, mut truth, mut ids, mut logits) = (vec![], vec![], vec![], vec![]);
    let mut push = |batch: burn::tensor::Tensor<4>| inputs.extend(batch.into_data().try_to_vec::<f32>().unwrap());
    match (what.as_str(), rest) {
        ("calibration", [n, seed]) => {
            let batches = random_inputs(&source, n.parse().unwrap(), seed.parse().unwrap()).unwrap();
            batches.into_iter().for_each(&mut push);
        }
        ("all", [model]) => {
            let model = read_model(Path::new(model)).unwrap();
            let interpreter = Interpreter::new(&model);
            for chunk in source.instances.chunks(16) {
                let samples: Vec<Sample> = chunk.iter().map(|&idx| source.sample(idx).unwrap()).collect();
                push(input_tensor(&HostBatch::new(&samples), &Device::flex()));
                for sample in samples {
                    let input = interpreter.from_pixels(&sample.pixels).unwrap();
                    logits.extend(interpreter.run(&input).unwrap().dequantize());
                    truth.extend(sample.truth);
                    ids.push(sample.annotation_id);
                }
            }
        }
        _ => panic!("{what}: expected calibration with N and SEED, or all with MODEL"),
    }
    let n = inputs.len() / (3 * 96 * 96);
    let inputs: Vec<u8> = inputs.iter().flat_map(|value| value.to_le_bytes()).collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id: &u64| id.to_le_bytes()).collect();
    let logits: Vec<u8> = logits.iter().flat_map(|logit: &f32| logit.to_le_bytes()).collect();
    let mut tensors = vec![("inputs", TensorView::new(Dtype::F32, vec![n, 3, 96, 96], &inputs).unwrap())];
    if what == "all" {
        tensors.push(("truth", TensorView::new(Dtype::U8, vec![n, 96, 96], &truth).unwrap()));
        tensors.push(("int8_logits", TensorView::new(Dtype::F32, vec![n, 96, 96], &logits).unwrap()));
        tensors.push(("annotation_ids", TensorView::new(Dtype::U64, vec![n], &bytes).unwrap()));
    }
    safetensors::serialize_to_file(tensors, None, Path::new(out)).unwrap();
    println!("{out}: {n} crops of {} instances", source.instances.len());
}
