//! A chip student as ONNX files that stock runtimes open, beside its package.

use std::collections::BTreeMap;

use anyhow::Context;
use sensei_files::whole::write_whole;
use sensei_int8::model::IntegerModel;
use sensei_onnx::builder::{Ends, NamedValues};
use sensei_onnx::encoder::{BatchNorms, float_network};
use sensei_onnx::quantized::quantized_network;
use sensei_report::run_folder::RunFolder;
use sensei_student::fold::fold_batch_norm;
use sensei_tensor::network::{NamedWeights, weights_digest};

use crate::config::RunPlan;
use crate::progress::say;
use crate::run_folder;

/// Writes `onnx/student-float.onnx`, the weights with batch norms folded, and `onnx/student-int8.onnx`, the integer model, into a run's folder.
///
/// # Errors
/// If the weights are of another network, or a file cannot be written.
pub fn write_student_onnx(
    plan: &RunPlan,
    folder: &RunFolder,
    weights: &NamedWeights,
    model: &IntegerModel,
) -> anyhow::Result<()> {
    let mut convs = NamedValues::new();
    for (idx, conv) in fold_batch_norm(&plan.graph, weights)? {
        let name = &plan.graph.nodes()[idx].name;
        convs.insert(format!("{name}.bias"), (vec![conv.bias.len()], conv.bias));
        convs.insert(format!("{name}.weight"), (conv.weight.shape, conv.weight.values));
    }
    let metadata = BTreeMap::from([
        ("sensei.plan".to_string(), plan.train_digest.clone()),
        ("sensei.weights".into(), weights_digest(weights)),
        ("sensei.input".into(), "(pixel - 128) / 128, red, green, blue; the crop that the plan's [crop] names".into()),
        ("sensei.output".into(), "mask logits; foreground where greater than 0".into()),
    ]);
    let float = float_network(model.name(), &plan.graph, &convs, BatchNorms::Folded, ENDS, &metadata)?;
    let int8 = quantized_network(model, ENDS, &metadata);

    let out = folder.root().join("onnx");
    std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let files = ["student-float.onnx", "student-int8.onnx"].map(|name| out.join(name));
    run_folder::forget(folder, &files)?;
    for (file, bytes) in files.iter().zip([float, int8]) {
        write_whole(file, &bytes)?;
        say(&format!("{}: {} bytes", file.display(), bytes.len()));
    }
    run_folder::record(folder, &files)
}

const ENDS: Ends = Ends { input: "image", output: "logits" };
