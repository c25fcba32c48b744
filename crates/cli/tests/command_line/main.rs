//! The `sensei` binary as a user meets it: exit codes, one-line errors, nothing half-written, runs that survive a kill.
//!
//! Errors of the command line or the configuration are exit code 2, failed runs exit code 1.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // tests, which say what they skip

mod cache;
mod camera;
mod cases;
mod composed;
mod configuration;
mod data;
mod deployment;
mod device;
mod disk;
mod eval_coco;
mod events;
mod hand_over;
mod init;
mod layers;
mod native_teacher;
#[cfg(unix)]
mod package;
mod packed;
mod parts;
mod plan;
mod predict;
mod promptable;
mod promptable_names;
mod promptable_onnx;
mod reading;
mod resume;
mod schema;
mod scoring;
mod search;
mod shared_store;
mod shell;
mod shipped;
mod student_onnx;
mod tensorboard;
mod toy_recipes;
mod unfinished;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sensei_data::geometry::Size;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_student::unet::{Downsampling, UnetActivation, UnetConfig};

/// Small scenes in `scenes/`, a small run in `tiny.toml`, and room for runs.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with_val_images(3)
    }

    fn with_val_images(n_val_images: u32) -> Self {
        Self::with_images(5, n_val_images)
    }

    fn with_images(n_train_images: u32, n_val_images: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = SynthConfig {
            n_train_images,
            n_val_images,
            image_size: Size { width: 64, height: 64 },
            min_objects: 2,
            max_objects: 3,
            min_visible_area: 40,
            ..SynthConfig::quickstart()
        };
        write_synth(&dir.path().join("scenes"), &config).unwrap();
        fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the small run under another name, with parts of it replaced.
    fn config(&self, name: &str, edits: &[(&str, &str)]) {
        let mut text = TINY.to_string();
        for (from, to) in edits {
            assert!(text.contains(from), "the edit of {from:?} has to change something");
            text = text.replacen(from, to, 1);
        }
        fs::write(self.path(name), text).unwrap();
    }

    /// Edits the annotations of the training split.
    fn annotations(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path("scenes/annotations/instances_train.json");
        let mut file = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut file);
        fs::write(path, serde_json::to_vec(&file).unwrap()).unwrap();
    }

    /// A command in this place, on one thread.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sensei"));
        // Vulkan's loader complains on standard error without one.
        command.args(arguments).current_dir(self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path());
        if matches!(arguments[0], "run" | "train" | "eval" | "quantize") {
            command.args(["--threads", "1"]);
        }
        command
    }

    /// Standard output of a command that does what it is asked.
    fn does(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (out, err) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {:?}\n{out}\n{err}", output.status);
        out
    }

    /// `verify` of a package ends with an error, and says all of this.
    fn verify_names(&self, package: &str, words: &[&str]) {
        let (out, err) = text(&self.command(&["verify", package]).output().unwrap());
        let said = format!("{out}{err}");
        assert!(words.iter().all(|words| said.contains(words)), "expected {words:?} in: {said}");
        assert!(err.starts_with("error: "), "{err}");
    }

    /// A command that fails with this code and one line with these words, and leaves nothing unfinished.
    fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) {
        self.refused(&self.command(arguments).output().unwrap(), code, words);
    }

    fn refused(&self, output: &Output, code: i32, words: &[&str]) {
        let (out, err) = text(output);
        assert_eq!(output.status.code(), Some(code), "{err}\n{out}");
        assert!(err.starts_with("error: ") && err.ends_with('\n'), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for word in words {
            assert!(err.contains(word), "expected {word:?} in: {err}");
        }
        // A cause that is named twice is noise.
        let parts: Vec<&str> = err.trim().split(": ").collect();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "{err}");
        let unfinished = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(".tmp") || name.contains(".partial")
        };
        let left: Vec<PathBuf> = files_below(self.dir.path()).into_iter().filter(unfinished).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The student of the tiny configuration.
fn tiny_student() -> UnetConfig {
    UnetConfig {
        input_size: 32,
        encoder_channels: vec![4, 6],
        bottleneck_channels: 8,
        decoder_channels: vec![6, 4],
        dilated_bottleneck: true,
        channel_gate: true,
        refine_head: true,
        bilinear_upsampling: false,
        activation: UnetActivation::Relu,
        downsampling: Downsampling::Dense,
    }
}

/// Edits of the tiny configuration after which its student has an encoder of EfficientNet-Lite0's blocks. `encoder_channels` is left: the
/// number of blocks stands in its place.
const LITE: &[(&str, &str)] = &[
    ("family = \"unet\"", "family = \"lite_unet\""),
    ("bottleneck_channels = 8\n", ""),
    ("dilated_bottleneck = true\nchannel_gate = true\nrefine_head = true\n", ""),
    ("activation = \"relu\"\ndownsampling = \"dense\"\n", ""),
];

fn text(output: &Output) -> (String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    (out, err)
}

/// Everything below a folder, sorted.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    let mut paths = vec![];
    for entry in entries {
        let path = entry.unwrap().path();
        paths.extend(files_below(&path));
        paths.push(path);
    }
    paths.sort();
    paths
}

/// The line of a training's output that names the resulting weights.
fn weights_digest(out: &str) -> &str {
    let line = out.lines().find(|line| line.starts_with("weights digest "));
    line.unwrap_or_else(|| panic!("no weights digest in: {out}"))
}

/// A run of a second.
const TINY: &str = r#"
seed = 3

[data]
source = "coco"
instances = "all"
train = { annotations = "scenes/annotations/instances_train.json", images = "scenes/images" }
val = { annotations = "scenes/annotations/instances_val.json", images = "scenes/images" }

[crop]
rule = "roi"
border = "corrected"
padding = 0.1

[student]
family = "unet"
input_size = 32
encoder_channels = [4, 6]
bottleneck_channels = 8
decoder_channels = [6, 4]
dilated_bottleneck = true
channel_gate = true
refine_head = true
bilinear_upsampling = false
activation = "relu"
downsampling = "dense"

[train]
batch_size = 2
accumulate_batches = 2
optimizer = { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01 }
clip_gradient_norm = 5.0
ema_decay = 0.9

[[train.stage]]
name = "only"
epochs = 2
learning_rate = 1e-2
warmup_steps = 2
decay = { kind = "cosine", final_learning_rate = 1e-5 }

[train.stage.loss]
sharpness = 1.0
weighting = "truth_only"
terms = [
    { kind = "truth_bce", weight = 1.0 },
    { kind = "truth_dice", weight = 1.0 },
]

[train.stage.augmentation]
flip_probability = 0.5
roi_shift = 0.1
roi_scale = 0.1
brightness = 0.2
contrast = 0.2
saturation = 0.2

[eval]
bootstrap_resamples = 200
bootstrap_seed = 0

[quantize]
calibration_instances = 8
threshold_search = "mse"
bias_correction = true
equalization = "none"
rounding = "nearest"
weight_bits = 8
output_bits = 8
"#;
