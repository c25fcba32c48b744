//! A student that answers prompts as ONNX files.

use std::collections::BTreeMap;

use sensei_onnx::builder::{Ends, NamedValues};
use sensei_onnx::encoder::{BatchNorms, float_network};
use sensei_onnx::sam_decoder::sam_decoder;
use sensei_onnx::tiny_vit::{InputScaling, TinyVitLayout, tiny_vit_encoder};
use sensei_onnx::vit::{VitLayout, vit_encoder};
use sensei_report::run_folder::RunFolder;
use sensei_sam::mobile_sam::INPUT_SIZE;
use sensei_sam::tiny_vit::TinyVitConfig;
use sensei_sam::tiny_vit_student::{INPUT_FACTOR, INPUT_SHIFT};
use sensei_sam::vit::VitConfig;
use sensei_student::pyramid::EMBEDDING_GRID;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{NamedWeights, weights_digest};
use sensei_tensor::ops::BATCH_NORM_EPSILON;

use crate::config::{EncoderPlan, PromptablePlan};
use crate::phases::promptable::IMAGE_ENCODER;
use crate::run_folder;

/// A trained student as ONNX: image encoder, and prompt encoder with mask decoder.
///
/// # Errors
/// If the run has no trained student.
pub fn onnx_files(plan: &PromptablePlan, folder: &RunFolder) -> anyhow::Result<[Vec<u8>; 2]> {
    run_folder::expect_trained(folder)?;
    let tensors = read_weights(&folder.student())?.tensors;
    let values = |prefix: &str| -> NamedValues {
        let of_prefix = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        of_prefix.map(|(name, tensor)| (name.to_string(), (tensor.shape.clone(), tensor.values.clone()))).collect()
    };
    let decoder = sam_decoder(&values(""), INPUT_SIZE, EMBEDDING_GRID, &origin(plan, &tensors))?;
    let metadata = encoder_metadata(plan, &tensors);
    let of_encoder = values(&format!("{IMAGE_ENCODER}."));
    let encoder = match &plan.encoder {
        EncoderPlan::Graph(graph) => {
            let norms = BatchNorms::Separate { epsilon: BATCH_NORM_EPSILON };
            float_network("image_encoder", graph, &of_encoder, norms, ENCODER_ENDS, &metadata)?
        }
        EncoderPlan::TinyVit(config) => {
            let scaling = InputScaling { factor: INPUT_FACTOR, shift: INPUT_SHIFT };
            tiny_vit_encoder(&tiny_vit_layout(config), &scaling, &of_encoder, &metadata)?
        }
        EncoderPlan::Vit(config) => vit_encoder(&vit_layout(config), &of_encoder, &metadata)?,
    };
    Ok([encoder, decoder])
}

/// What the files say of their origin.
fn origin(plan: &PromptablePlan, tensors: &NamedWeights) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("sensei.weights".to_string(), weights_digest(tensors)),
        ("sensei.plan".into(), plan.train_digest.clone()),
    ])
}

/// What an encoder's file says of its origin and its input.
pub fn encoder_metadata(plan: &PromptablePlan, tensors: &NamedWeights) -> BTreeMap<String, String> {
    let side = plan.encoder.input_size();
    let input = format!(
        "(pixel - 128) / 128, red, green, blue; the image's longest side at {side} pixels, 0 on the right and below"
    );
    let mut metadata = origin(plan, tensors);
    metadata.insert("sensei.input".into(), input);
    metadata
}

fn tiny_vit_layout(config: &TinyVitConfig) -> TinyVitLayout {
    let TinyVitConfig { input_size, channels, blocks, heads, windows, out_channels } = *config;
    TinyVitLayout { input_size, channels, blocks, heads, windows, out_channels, grid: EMBEDDING_GRID }
}

fn vit_layout(config: &VitConfig) -> VitLayout {
    let VitConfig { input_size, patch, table_grid: _, channels, heads, blocks, out_channels } = *config;
    VitLayout { input_size, patch, channels, heads, blocks, out_channels, grid: EMBEDDING_GRID }
}

/// As SAM's official exports call them.
pub const ENCODER_ENDS: Ends = Ends { input: "input", output: "output" };
