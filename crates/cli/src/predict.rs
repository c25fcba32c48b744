//! The predictors that are scored, and the samples they are scored on.

use std::ops::Deref;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use sensei_eval::evaluate::{Candidate, EvalError, EvalItem, Predictor};
use sensei_eval::score::{EvalSample, Prediction, SampleCrop};
use sensei_graph::layer_graph::LayerGraph;
use sensei_imx500::recording::read_answer;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::ModelError;
use sensei_student::inference::InferenceStudent;
use sensei_student::student::Student;
use sensei_student::weights::WeightsError;
use sensei_tensor::network::{Inputs, NamedWeights, Network, Pass};
use sensei_tensor::ops;

use sensei_samples::batch::push_input;
use sensei_samples::error::SampleError;
use sensei_samples::source::{Sample, SampleSource};

use crate::stop::{self, Stopped};

/// A sample that no prediction was made or scored for.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The sample cannot be had.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The program was asked to stop.
    #[error("not all samples were scored")]
    Stopped(#[from] Stopped),
    /// A prediction that cannot be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A predictor that cannot answer.
    #[error("predictor {predictor}: cannot answer")]
    Predict {
        /// Its name.
        predictor: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What predictors read of a sample.
#[derive(Debug, Clone)]
pub struct EvalInput {
    /// RGB pixels of the crop, `[grid, grid, 3]`.
    pub pixels: Vec<u8>,
    /// The teacher's mask logits, `[grid, grid]`.
    pub teacher_logits: Option<Vec<f32>>,
}

/// The given instances as they are scored, loaded in parallel `batch` at a time, and those that the source leaves out.
pub fn candidates<'a>(
    source: &'a SampleSource,
    instances: &'a [usize],
    batch: usize,
) -> impl Iterator<Item = Result<Candidate<EvalInput>, PredictError>> + 'a {
    let samples_of = |chunk: &[usize]| {
        stop::check("scoring")?;
        Ok(source.samples(chunk)?)
    };
    let load = move |chunk: &[usize]| match samples_of(chunk) {
        Ok(samples) => {
            let items = chunk.iter().zip(samples).map(|(&idx, sample)| eval_item(source, idx, sample));
            items.map(|item| Ok(Candidate::Item(item))).collect::<Vec<_>>()
        }
        Err(error) => vec![Err(error)],
    };
    let items = instances.chunks(batch).flat_map(load);
    items.chain(source.left_out.iter().map(|left_out| Ok(Candidate::LeftOut(*left_out))))
}

/// A sample as the scorer wants it.
pub fn eval_item(source: &SampleSource, instance_idx: usize, sample: Sample) -> EvalItem<EvalInput> {
    let crop = SampleCrop { geometry: sample.geometry, truth: sample.truth };
    let competitors = source.competitors_of(instance_idx);
    let truth = sample.truth_in_image;
    EvalItem {
        sample: EvalSample::new(&source.dataset, instance_idx, sample.bbox, competitors, truth, Some(crop)),
        input: EvalInput { pixels: sample.pixels, teacher_logits: sample.teacher.map(|teacher| teacher.logits) },
    }
}

/// The network input of a batch, `[batch, 3, grid, grid]`.
pub fn input_tensor(items: &[EvalItem<EvalInput>], device: &Device) -> Tensor<4> {
    let grid = (items[0].input.pixels.len() / 3).isqrt();
    let mut values = Vec::with_capacity(items.len() * 3 * grid * grid);
    for item in items {
        push_input(&item.input.pixels, &mut values);
    }
    Tensor::from_data(TensorData::new(values, [items.len(), 3, grid, grid]), device)
}

/// The teacher, from the cache.
pub fn teacher<'a>() -> Predictor<'a, EvalInput, PredictError> {
    let answer = |item: &EvalItem<EvalInput>| {
        let logits = item.input.teacher_logits.clone();
        logits.map(Prediction::CropLogits).ok_or_else(|| PredictError::Predict {
            predictor: "teacher",
            source: format!("annotation {}: the sample has no teacher answer", item.sample.annotation_id).into(),
        })
    };
    Predictor { name: "teacher".into(), predict: Box::new(move |items| items.iter().map(answer).collect()) }
}

/// The network in floating point, with fixed statistics: on the CPU by its packed form, elsewhere by tensors.
///
/// # Errors
/// If the weights are not those of `graph`.
#[allow(clippy::result_large_err, reason = "once a run")]
pub fn float_network(
    graph: &LayerGraph,
    weights: &NamedWeights,
    device: &Device,
) -> Result<Predictor<'static, EvalInput, PredictError>, WeightsError> {
    if !ops::has_blocks(device) {
        let student = Student::from_weights(graph.clone(), weights, device)?;
        return Ok(network("float", Box::new(student)));
    }
    let student = InferenceStudent::new(graph.clone(), weights)?;
    let predict = move |items: &[EvalItem<EvalInput>]| {
        let pixels: Vec<&[u8]> = items.iter().map(|item| item.input.pixels.as_slice()).collect();
        Ok(float_logits(&student, &pixels).into_iter().map(Prediction::CropLogits).collect())
    };
    Ok(Predictor { name: "float".into(), predict: Box::new(predict) })
}

/// The packed float network's mask logits for the pixels of some crops, `[grid, grid]` each.
///
/// # Panics
/// If there is no crop, or one is not of the network's size.
pub fn float_logits(student: &InferenceStudent, crops: &[&[u8]]) -> Vec<Vec<f32>> {
    let mut images = vec![];
    crops.iter().for_each(|pixels| push_input(pixels, &mut images));
    let logits = student.mask_logits(&images);
    logits.chunks_exact(logits.len() / crops.len()).map(<[f32]>::to_vec).collect()
}

/// The integer network's mask logits for the pixels of a crop, `[grid, grid]`.
///
/// # Errors
/// If the crop is not of the model's size, or the model takes no pixels.
pub fn integer_logits(interpreter: &Interpreter<'_>, pixels: &[u8]) -> Result<Vec<f32>, ModelError> {
    let input = interpreter.from_pixels(pixels)?;
    Ok(interpreter.run(&input)?.dequantize())
}

/// A network as it answers on its device; of several masks for a prompt the first is taken.
pub fn network<'a, N: Network>(
    name: &'static str,
    network: impl Deref<Target = N> + 'a,
) -> Predictor<'a, EvalInput, PredictError> {
    let failed =
        move |source: Box<dyn std::error::Error + Send + Sync>| PredictError::Predict { predictor: name, source };
    let predict = move |items: &[EvalItem<EvalInput>]| {
        let images = input_tensor(items, network.device());
        let outputs =
            network.forward(Inputs { images, taps: &[] }, Pass::Eval).map_err(|error| failed(error.into()))?;
        let [prompts, masks, height, width] = outputs.masks.0.dims();
        let logits: Vec<f32> =
            outputs.masks.0.into_data().try_to_vec().map_err(|error| failed(format!("{error:?}").into()))?;
        let first = logits.chunks_exact(masks * height * width).take(prompts).map(|of| of[..height * width].to_vec());
        Ok(first.map(Prediction::CropLogits).collect())
    };
    Predictor { name: name.into(), predict: Box::new(predict) }
}

/// What a camera answered to the instances' inputs, by annotation id, from a folder that `camera.py inject` wrote.
pub fn recorded<'a>(interpreter: &'a Interpreter<'a>, folder: &'a Path) -> Predictor<'a, EvalInput, PredictError> {
    let shape = interpreter.model().output().shape;
    let answer = move |item: &EvalItem<EvalInput>| {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| PredictError::Predict { predictor: "device", source };
        let input = interpreter.from_pixels(&item.input.pixels).map_err(|error| failed(error.into()))?;
        let name = item.sample.annotation_id.to_string();
        let logits = read_answer(folder, &name, &input, shape).map_err(|error| failed(error.into()))?;
        Ok(Prediction::CropLogits(logits))
    };
    Predictor { name: "device".into(), predict: Box::new(move |items| items.iter().map(answer).collect()) }
}

/// The integer network: what the chip computes.
pub fn integer_network<'a>(interpreter: &'a Interpreter<'a>) -> Predictor<'a, EvalInput, PredictError> {
    let answer =
        |item: &EvalItem<EvalInput>| integer_logits(interpreter, &item.input.pixels).map(Prediction::CropLogits);
    let predict = move |items: &[EvalItem<EvalInput>]| {
        let answers = items.par_iter().map(answer).collect::<Result<_, _>>();
        answers.map_err(|error| PredictError::Predict { predictor: "int8", source: error.into() })
    };
    Predictor { name: "int8".into(), predict: Box::new(predict) }
}
