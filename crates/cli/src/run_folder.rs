//! The folder of a run: what is where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::usage;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Makes the folder of a new run, or takes that of a run to resume.
    ///
    /// # Errors
    /// If it exists and is not to be resumed, or cannot be made.
    pub fn create(root: PathBuf, resume: bool) -> anyhow::Result<Self> {
        let shown = root.display().to_string();
        if root.exists() && !resume {
            let advice = "use --resume to go on with it, or --name for another folder";
            return Err(usage(anyhow::anyhow!("{shown}: expected no such run yet, found one; {advice}")));
        }
        fs::create_dir_all(&root).with_context(|| format!("{shown}: cannot make the run folder"))?;
        Ok(Self { root })
    }

    /// Takes the folder of a run that has been made.
    ///
    /// # Errors
    /// If it has no configuration in it.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let folder = Self { root: root.to_path_buf() };
        if !folder.plan_toml().is_file() {
            bail!("{}: expected a run folder with a plan.toml, found none", root.display());
        }
        Ok(folder)
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

    /// What happened, one JSON object a line.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
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

    /// What is deployed.
    pub fn package(&self) -> PathBuf {
        self.root.join("package")
    }

    /// The page for people.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }
}

/// Writes a file whole or not at all: under another name first, then renamed.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| {
        // What is left of the partial file is not worth a second error.
        let _ = fs::remove_file(&partial);
        format!("{}: cannot write", path.display())
    })
}
