//! Pairs of ONNX files on onnxruntime, against onnxruntime from Python.

use std::path::PathBuf;
use std::process::Command;

use sensei_answers::record::PromptPoint;
use sensei_data::geometry::Size;
use sensei_data::image_file::RgbImage;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_teacher::teacher::{Answer, Teacher};
use sensei_testing::{GoldenCase, Tolerance, assert_close, golden, skipped, workspace_root};

/// The library of the Python that is first in `PATH`.
fn onnxruntime(test: &str) -> Option<PathBuf> {
    let program = "import onnxruntime, pathlib; \
                   print(*pathlib.Path(onnxruntime.__file__).parent.joinpath('capi').glob('libonnxruntime.*'))";
    let output = Command::new("python3").args(["-c", program]).output().ok();
    let path = output.filter(|output| output.status.success()).map(|output| output.stdout);
    let path = path.and_then(|path| String::from_utf8(path).ok()).map(|path| PathBuf::from(path.trim()));
    if path.is_none() {
        assert!(!in_ci(), "{test}: python3 has no onnxruntime, and CI must not skip");
        skipped(test, "python3 has no onnxruntime");
    }
    path
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment that a skip is a failure")]
fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

fn pair(library: &std::path::Path, encoder: &str, decoder: &str) -> Result<Teacher, String> {
    let [encoder, decoder] =
        [encoder, decoder].map(|name| workspace_root().join("tests/golden/teacher/onnx").join(name));
    Teacher::onnx(library, [&encoder, &decoder], "digest".into(), 1).map_err(|error| error.to_string())
}

fn picture(case: &GoldenCase) -> RgbImage {
    RgbImage { size: Size { width: 64, height: 48 }, pixels: case.u8s("picture") }
}

fn the_box() -> Vec<PromptPoint> {
    PromptPoint::of_box([8.0, 4.0, 32.0, 26.0])
}

/// Every 16th row and column of all masks.
fn some(answer: &Answer) -> Vec<f32> {
    let row = |mask: &Vec<f32>, y: usize| (0..256).step_by(16).map(|x| mask[y * 256 + x]).collect::<Vec<f32>>();
    answer
        .logits
        .iter()
        .flat_map(|mask| (0..256).step_by(16).flat_map(|y| row(mask, y)).collect::<Vec<f32>>())
        .collect()
}

const CLOSE: Tolerance = Tolerance { absolute: 1e-3, relative: 0.0 };

#[test]
fn a_pair_answers_as_in_python() {
    let Some(library) = onnxruntime("a_pair_answers_as_in_python") else { return };
    let case = golden("teacher/onnx");
    let teacher = pair(&library, "encoder.onnx", "decoder.onnx").expect("a pair");
    assert_eq!(teacher.taps()[0].shape, [4, 64, 64]);
    let seen = teacher.look(&picture(&case), &["embedding".into()]).expect("a look");
    let eighth = |at: usize| (0..64).step_by(8).map(move |x| at + x);
    let places = (0..4).flat_map(|channel| (0..64).step_by(8).flat_map(move |y| eighth((channel * 64 + y) * 64)));
    let found: Vec<f32> = places.map(|at| seen.features[0].values[at]).collect();
    assert_close("embedding", &found, &case.f32s("embedding"), CLOSE);

    let answer = |choice| teacher.answer(&seen, &[the_box()], 2, choice).expect("an answer").remove(0);
    let all = answer(MaskChoice::All);
    assert_close("logits", &some(&all), &case.f32s("logits"), CLOSE);
    assert_close("predicted IoU", &all.predicted_iou, &case.f32s("predicted_iou"), CLOSE);
    assert_eq!(answer(MaskChoice::Single).logits, all.logits[..1]);
    assert_eq!(answer(MaskChoice::Multiple).logits, all.logits[1..]);
}

#[test]
fn finer_features_are_handed_over_and_pictures_stretched() {
    let Some(library) = onnxruntime("finer_features_are_handed_over_and_pictures_stretched") else { return };
    let case = golden("teacher/onnx");
    let teacher = pair(&library, "fine_encoder.onnx", "fine_decoder.onnx").expect("a pair");
    // The embedding is told by its name: the file's first output is the finer map.
    assert_eq!(teacher.taps()[0].shape, [4, 64, 64]);
    let seen = teacher.look(&picture(&case), &["embedding".into()]).expect("a look");
    assert_eq!(seen.features[0].values.len(), 4 * 64 * 64);
    let answer = teacher.answer(&seen, &[the_box()], 2, MaskChoice::All).expect("an answer").remove(0);
    assert_close("logits", &some(&answer), &case.f32s("fine.logits"), CLOSE);
    let zoom = sensei_answers::asked::Zoom { below: 100, surroundings: 4 };
    let error = teacher.preprocessing(Some(zoom)).expect_err("no zoom").to_string();
    assert_eq!(
        error,
        "zoom: expected none for a pair of ONNX files, which sees images stretched, found small objects by themselves"
    );
}

#[test]
fn pairs_that_are_none_are_refused() {
    let Some(library) = onnxruntime("pairs_that_are_none_are_refused") else { return };
    let refuses = |encoder: &str, decoder: &str, words: &[&str]| {
        let error = pair(&library, encoder, decoder).err().expect("no pair");
        assert!(words.iter().all(|words| error.contains(words)), "{error}");
    };
    refuses("encoder.onnx", "decoder_other.onnx", &["decoder_other.onnx: inputs: expected", "found", "text_prompt"]);
    refuses("decoder.onnx", "encoder.onnx", &["decoder.onnx: first input: expected one image", "found [1, 4, 64, 64]"]);
    refuses("encoder.onnx", "encoder.onnx", &["encoder.onnx: inputs: expected the encoder's outputs", "found image"]);
    refuses("fine_encoder.onnx", "decoder.onnx", &["decoder.onnx: inputs: expected the encoder's outputs"]);
    refuses("encoder.onnx", "missing.onnx", &["missing.onnx: onnxruntime cannot use it"]);
    refuses("make.py", "decoder.onnx", &["make.py: onnxruntime cannot use it"]);

    let case = golden("teacher/onnx");
    let teacher = pair(&library, "encoder.onnx", "decoder_three.onnx").expect("a pair");
    let seen = teacher.look(&picture(&case), &[]).expect("a look");
    let answer = |choice| teacher.answer(&seen, &[the_box()], 2, choice).map(|mut answers| answers.remove(0));
    assert_eq!(answer(MaskChoice::Multiple).expect("three masks").logits.len(), 3);
    let error = answer(MaskChoice::Single).err().expect("no single mask").to_string();
    assert_eq!(
        error,
        "kept masks: expected best_of_three or three, since the decoder answers with three masks, found single"
    );
}
