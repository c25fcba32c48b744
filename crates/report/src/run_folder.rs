//! The folder of a run: what is where.

use std::path::{Path, PathBuf};

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The folder at `root`, whether there is one or not.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn plan_toml(&self) -> PathBuf {
        self.root.join("plan.toml")
    }

    /// Trace of `--profile`.
    pub fn profile(&self) -> PathBuf {
        self.root.join("profile.json")
    }

    /// The lock of the command that writes into the folder; it stays, empty.
    pub fn lock(&self) -> PathBuf {
        self.root.join("run.lock")
    }

    /// What happened in training, one JSON object a line.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// Copies of events and scores for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// Checkpoints of the training.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The trained weights.
    pub fn student(&self) -> PathBuf {
        self.root.join("student.safetensors")
    }

    /// The weights with which the first stage on the chip's grid began, of a run that has one.
    pub fn before_quantization(&self) -> PathBuf {
        self.root.join("before-quantization.safetensors")
    }

    /// Trained thresholds, of a run whose last stage is on the chip's grid.
    pub fn thresholds(&self) -> PathBuf {
        self.root.join("thresholds.safetensors")
    }

    /// Crops of its data, with which it is quantized and exported where the data are not.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples.safetensors")
    }

    /// The quantized student.
    pub fn int8(&self) -> PathBuf {
        self.root.join("student.s8m")
    }

    /// How float, fake-quantized and integer networks differ, layer by layer.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers.json")
    }

    /// The same of [`before_quantization`](Self::before_quantization)'s weights, calibrated.
    pub fn layers_before(&self) -> PathBuf {
        self.root.join("layers-before.json")
    }

    /// Scores.
    pub fn eval(&self) -> PathBuf {
        self.root.join("eval")
    }

    /// The numbers by the run's own protocol.
    pub fn scores(&self) -> PathBuf {
        self.eval().join("report.json")
    }

    /// Pictures of some instances for the eye, by the run's own protocol.
    pub fn overlays(&self) -> PathBuf {
        self.eval().join("overlays.png")
    }

    /// Some instances with their masks, by the run's own protocol.
    pub fn gallery(&self) -> PathBuf {
        self.eval().join("gallery.json")
    }

    /// What is deployed.
    pub fn package(&self) -> PathBuf {
        self.root.join("package")
    }

    /// The page for people.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }
}
