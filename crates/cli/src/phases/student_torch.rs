//! A chip student as a PyTorch module: the module's code, and the network that it builds.

use anyhow::Context;
use sensei_files::whole::write_whole;
use sensei_report::run_folder::RunFolder;
use sensei_tensor::network::{NamedWeights, weights_digest};
use sensei_tensor::ops::BATCH_NORM_EPSILON;
use serde_json::json;

use crate::config::RunPlan;
use crate::progress::say;
use crate::run_folder;

/// Writes `torch/sensei_torch.py` and `torch/network.json` into a run's folder; the weights are those of the run.
///
/// # Errors
/// If a file cannot be written.
pub fn write_student_torch(plan: &RunPlan, folder: &RunFolder, weights: &NamedWeights) -> anyhow::Result<()> {
    let network = json!({
        "format": 1,
        "weights_digest": weights_digest(weights),
        "batch_norm_epsilon": BATCH_NORM_EPSILON,
        "graph": plan.graph,
    });
    let out = folder.root().join("torch");
    std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let files = ["sensei_torch.py", "network.json"].map(|name| out.join(name));
    run_folder::forget(folder, &files)?;
    for (file, bytes) in files.iter().zip([MODULE.as_bytes(), &serde_json::to_vec_pretty(&network)?]) {
        write_whole(file, bytes)?;
        say(&format!("{}: {} bytes", file.display(), bytes.len()));
    }
    run_folder::record(folder, &files)
}

/// The code that the guide to ONNX describes.
const MODULE: &str = include_str!("../../../../scripts/torch/sensei_torch.py");
