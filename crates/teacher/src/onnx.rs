//! A SAM-type teacher as two ONNX files, an image encoder and a decoder, on somebody's onnxruntime.
//!
//! # Source
//! The layout is that of SAM's exported decoders (facebookresearch/segment-anything `utils/onnx.py`), and of exports of SAM 2 that hand finer
//! features from one file to the other by their names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{Outlet, TensorRef};
use sensei_answers::asked::{Normalization, Resize};
use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_sam::mask_decoder::{MaskChoice, N_MASKS};
use sensei_tensor::network::Tap;

use crate::error::TeacherError;
use crate::frame::{Frame, Framing};
use crate::native::EMBEDDING;
use crate::onnx_error::OnnxError;
use crate::teacher::{Answer, Features, LOGIT_GRID};

/// The two files, opened.
pub(crate) struct OnnxPair {
    encoder: File,
    decoder: File,
    framing: Framing,
    /// Which of the encoder's outputs is the embedding, and its shape.
    embedding: (usize, [usize; 3]),
    /// Which of the decoder's outputs are low-resolution logits.
    logits: &'static str,
}

/// An image as the decoder needs it: the encoder's outputs, under the names of the decoder's inputs.
pub(crate) struct OnnxImage {
    inputs: BTreeMap<String, HostArray>,
}

/// Values of a tensor on the host.
#[derive(Clone)]
struct HostArray {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// A network that onnxruntime has read.
struct File {
    path: PathBuf,
    /// A pass needs it for itself.
    session: Mutex<Session>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl OnnxPair {
    /// Opens both, and checks that they belong together.
    pub(crate) fn open(library: &Path, encoder: &Path, decoder: &Path, threads: usize) -> Result<Self, OnnxError> {
        let environment = load(library)?;
        let encoder = File::open(&environment, encoder, threads)?;
        let decoder = File::open(&environment, decoder, threads)?;
        let side = encoder.input_side()?;
        encoder.expects("inputs", &encoder.inputs, "one, the image", encoder.inputs.len() == 1)?;
        let features = encoder.outputs.iter().filter(|name| decoder.inputs.contains(name)).count();
        let has_one = encoder.outputs.len() == 1 && decoder.inputs.iter().any(|name| name == ONLY_EMBEDDING);
        decoder.expects("inputs", &decoder.inputs, "the encoder's outputs by their names", features > 0 || has_one)?;
        let is_known = |name: &String| {
            encoder.outputs.contains(name)
                || PROMPT_INPUTS.contains(&name.as_str())
                || has_one && name == ONLY_EMBEDDING
        };
        let known = format!("the encoder's outputs and {}", PROMPT_INPUTS.join(", "));
        decoder.expects("inputs", &decoder.inputs, &known, decoder.inputs.iter().all(is_known))?;
        for needed in ["point_coords", "point_labels"] {
            let has = decoder.inputs.iter().any(|name| name == needed);
            decoder.expects("inputs", &decoder.inputs, needed, has)?;
        }
        let logits = LOGITS.into_iter().find(|name| decoder.outputs.iter().any(|output| output == name));
        let scores = decoder.outputs.iter().any(|name| name == SCORES);
        let wanted = format!("{SCORES}, and {}", LOGITS.join(" or "));
        decoder.expects("outputs", &decoder.outputs, &wanted, logits.is_some() && scores)?;
        // Only SAM 2 hands finer features over, and only SAM 2 is shown stretched images.
        let framing = match features {
            0 | 1 => Framing::Letterbox { side, normalization: encoder.normalization()? },
            _ => Framing::Stretch { side, resize: Resize::Sam2Transforms },
        };
        let embedding = encoder.embedding()?;
        Ok(Self { encoder, decoder, framing, embedding, logits: logits.unwrap_or(LOGITS[0]) })
    }

    pub(crate) fn name(&self) -> &'static str {
        "a pair of ONNX files"
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    pub(crate) fn taps(&self) -> Vec<Tap> {
        vec![Tap { name: EMBEDDING.into(), shape: self.embedding.1 }]
    }

    pub(crate) fn encode(&self, frame: &Frame, taps: &[String]) -> Result<(OnnxImage, Vec<Features>), OnnxError> {
        let side = frame.side as usize;
        let pixels = frame.values.as_chunks::<3>().0;
        let planes: Vec<f32> = (0..3).flat_map(|channel| pixels.iter().map(move |pixel| pixel[channel])).collect();
        let image = HostArray { shape: vec![1, 3, side, side], values: planes };
        let outputs: Vec<&str> = self.encoder.outputs.iter().map(String::as_str).collect();
        let maps = self.encoder.run(&[(self.encoder.inputs[0].as_str(), Cow::Owned(image))], &outputs)?;
        let features = taps.iter().map(|name| {
            assert_eq!(name, EMBEDDING, "a tap of this network");
            let (idx, shape) = self.embedding;
            assert_eq!(maps[idx].values.len(), shape.iter().product::<usize>(), "onnx: values of the embedding");
            Features { shape, values: maps[idx].values.clone() }
        });
        let features = features.collect();
        let named = |(name, map): (&String, HostArray)| {
            let has = self.decoder.inputs.contains(name);
            let input = if has { name.clone() } else { ONLY_EMBEDDING.to_string() };
            (input, map)
        };
        let inputs = self.encoder.outputs.iter().zip(maps).map(named).collect();
        Ok((OnnxImage { inputs }, features))
    }

    pub(crate) fn answer(
        &self,
        image: &OnnxImage,
        frame: &Frame,
        prompts: &[Vec<PromptPoint>],
        padding_points: u32,
        choice: MaskChoice,
    ) -> Result<Vec<Answer>, TeacherError> {
        // SAM's exported decoders take one prompt a pass.
        prompts.iter().map(|points| self.answer_one(image, frame, points, padding_points, choice)).collect()
    }

    fn answer_one(
        &self,
        image: &OnnxImage,
        frame: &Frame,
        points: &[PromptPoint],
        padding_points: u32,
        choice: MaskChoice,
    ) -> Result<Answer, TeacherError> {
        let padding = padding_points as usize;
        let (_, [_, grid, _]) = self.embedding;
        let scale = f64::from(PROMPT_PIXELS_PER_CELL) * grid as f64 / f64::from(frame.side);
        let n_points = points.len() + padding;
        let mut places: Vec<f32> =
            points.iter().flat_map(|point| frame.point(point.at).map(|place| (place * scale) as f32)).collect();
        places.resize(2 * n_points, 0.0);
        let mut labels: Vec<f32> = points.iter().map(|point| label(point.label)).collect();
        labels.resize(n_points, PADDING);
        let grid = LOGIT_GRID as usize;
        let array = |shape: &[usize], values: Vec<f32>| Cow::Owned(HostArray { shape: shape.to_vec(), values });
        let input = |name: &'_ String| match name.as_str() {
            "point_coords" => array(&[1, n_points, 2], places.clone()),
            "point_labels" => array(&[1, n_points], labels.clone()),
            "mask_input" => array(&[1, 1, grid, grid], vec![0.0; grid * grid]),
            "has_mask_input" => array(&[1], vec![0.0]),
            // The decoder resizes its masks to an image of this size, which nobody reads.
            "orig_im_size" => array(&[2], vec![1.0, 1.0]),
            name => Cow::Borrowed(&image.inputs[name]),
        };
        let inputs: Vec<_> = self.decoder.inputs.iter().map(|name| (name.as_str(), input(name))).collect();
        let [logits, scores] = self
            .decoder
            .run(&inputs, &[self.logits, SCORES])?
            .try_into()
            .unwrap_or_else(|outputs: Vec<_>| panic!("onnx: asked for two outputs, got {}", outputs.len()));
        let n_masks = scores.values.len();
        let expected = format!("1, 3 or {N_MASKS} masks of {grid} x {grid} and as many {SCORES}");
        let fits = [1, 3, N_MASKS].contains(&n_masks) && logits.shape == [1, n_masks, grid, grid];
        let found = format!("{} and {}", in_words(&logits.shape), in_words(&scores.shape));
        self.decoder.expects_words(self.logits, &found, &expected, fits)?;
        let range = chosen(choice, n_masks).ok_or_else(|| TeacherError::Question {
            what: "kept masks",
            expected: match n_masks {
                1 => "single, since the decoder answers with one mask".into(),
                _ => "best_of_three or three, since the decoder answers with three masks".into(),
            },
            found: match choice {
                MaskChoice::Single => "single".into(),
                MaskChoice::Multiple => "best_of_three or three".into(),
                MaskChoice::All => "four".into(),
            },
        })?;
        let masks = logits.values.chunks_exact(grid * grid).skip(range.start).take(range.len());
        Ok(Answer { logits: masks.map(<[f32]>::to_vec).collect(), predicted_iou: scores.values[range].to_vec() })
    }
}

/// Which of the masks of a decoder that answers with so many; none if it has not what is asked for.
fn chosen(choice: MaskChoice, n_masks: usize) -> Option<std::ops::Range<usize>> {
    match (choice, n_masks) {
        (MaskChoice::Single, 1) => Some(0..1),
        (MaskChoice::Multiple, 3) => Some(0..3),
        (choice, N_MASKS) => Some(choice.range()),
        _ => None,
    }
}

/// onnxruntime of this library. A process loads one library, and makes one environment of it.
fn load(library: &Path) -> Result<Environment, OnnxError> {
    static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);
    let cannot = |reason: String| OnnxError::Library { path: library.into(), reason };
    // A relative path would be looked for beside the program first.
    let path = library.canonicalize().map_err(|error| cannot(error.to_string()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match loaded.as_ref() {
        Some((known, environment)) if *known == path => return Ok(environment.clone()),
        Some((known, _)) => return Err(OnnxError::OtherLibrary { path, loaded: known.clone() }),
        None => {}
    }
    let builder = ort::init_from(&path).map_err(|error| cannot(error.to_string()))?;
    let environment = builder.with_telemetry(false).build().map_err(|error| cannot(error.to_string()))?;
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

impl File {
    fn open(environment: &Environment, path: &Path, threads: usize) -> Result<Self, OnnxError> {
        let cannot = |reason: String| OnnxError::File { path: path.into(), reason };
        // onnxruntime names neither a missing file nor a folder.
        let metadata = path.metadata().map_err(|error| cannot(error.to_string()))?;
        if !metadata.is_file() {
            return Err(cannot("it is no file".into()));
        }
        let open = || -> Result<Session, ort::Error> {
            let builder = Session::builder(environment)?.with_intra_threads(threads)?.with_inter_threads(1)?;
            builder.with_deterministic_compute(true)?.commit_from_file(path)
        };
        let session = open().map_err(|error| cannot(error.to_string()))?;
        let names = |outlets: &[Outlet]| outlets.iter().map(|outlet| outlet.name().to_string()).collect();
        let (inputs, outputs) = (names(session.inputs()), names(session.outputs()));
        Ok(Self { path: path.into(), session: Mutex::new(session), inputs, outputs })
    }

    /// Side of the square image that the encoder takes; 1024 where the file leaves it open.
    fn input_side(&self) -> Result<u32, OnnxError> {
        let shape = self.shape_of(Session::inputs, 0);
        let sides = match shape.as_slice() {
            [batch, 3, height, width] if [-1, 1].contains(batch) => Some((*height, *width)),
            _ => None,
        };
        let side = sides.and_then(|sides| match sides {
            (-1, -1) => Some(1024),
            (height, width) if height == width => u32::try_from(height).ok().filter(|side| (16..=4096).contains(side)),
            _ => None,
        });
        side.ok_or_else(|| {
            self.layout("first input", "one image, [1, 3, side, side], side 16 to 4096", shape_words(&shape))
        })
    }

    /// What the encoder takes of a pixel: what the file says, as ours do, and of others what SAM takes.
    fn normalization(&self) -> Result<Normalization, OnnxError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let stated = session.metadata().ok().and_then(|metadata| metadata.custom(INPUT_KEY));
        drop(session);
        match stated {
            None => Ok(Normalization::Imagenet),
            Some(words) if words.starts_with(SIGNED_BYTE) => Ok(Normalization::SignedByte),
            Some(words) => Err(self.layout(INPUT_KEY, &format!("{SIGNED_BYTE}, ..."), words)),
        }
    }

    /// Which output of the encoder is the embedding, by its name where there are several, and its shape.
    fn embedding(&self) -> Result<(usize, [usize; 3]), OnnxError> {
        let named = || self.outputs.iter().position(|name| EMBEDDINGS.contains(&name.as_str()));
        let idx = if self.outputs.len() == 1 { Some(0) } else { named() };
        let expected = format!("one, or one of them {}", EMBEDDINGS.join(" or "));
        let idx = idx.ok_or_else(|| self.layout("outputs", &expected, self.outputs.join(", ")))?;
        let shape = self.shape_of(Session::outputs, idx);
        let sides = match shape.as_slice() {
            [-1 | 1, sides @ ..] => sides.iter().filter_map(|&size| usize::try_from(size).ok()).collect(),
            _ => vec![],
        };
        match sides.as_slice() {
            &[channels, height, width] if height == width && channels * height > 0 && shape.len() == 4 => {
                Ok((idx, [channels, height, width]))
            }
            _ => Err(self.layout(&self.outputs[idx], "one map, [1, channels, grid, grid]", shape_words(&shape))),
        }
    }

    /// Shape of an input or output, -1 where the file leaves it open; empty if it is no tensor.
    fn shape_of(&self, outlets: fn(&Session) -> &[Outlet], idx: usize) -> Vec<i64> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        outlets(&session)
            .get(idx)
            .and_then(|outlet| outlet.dtype().tensor_shape())
            .map_or(vec![], |shape| shape.to_vec())
    }

    fn run(&self, inputs: &[(&str, Cow<'_, HostArray>)], outputs: &[&str]) -> Result<Vec<HostArray>, OnnxError> {
        let run = || -> Result<Vec<HostArray>, ort::Error> {
            let tensors = inputs.iter().map(|(name, array)| {
                let tensor = TensorRef::from_array_view((array.shape.clone(), array.values.as_slice()))?;
                Ok((Cow::Borrowed(*name), SessionInputValue::from(tensor)))
            });
            let tensors: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = tensors.collect::<Result<_, ort::Error>>()?;
            let selected = outputs.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
            let options = RunOptions::new()?.with_outputs(selected);
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            let found = session.run_with_options(tensors, &options)?;
            let array = |name: &&str| {
                let (shape, values) = found[*name].try_extract_tensor::<f32>()?;
                Ok(HostArray {
                    shape: shape.iter().map(|&size| size.max(0) as usize).collect(),
                    values: values.to_vec(),
                })
            };
            outputs.iter().map(array).collect()
        };
        run().map_err(|error| OnnxError::Run { path: self.path.clone(), reason: error.to_string() })
    }

    fn expects(&self, what: &str, names: &[String], expected: &str, fits: bool) -> Result<(), OnnxError> {
        self.expects_words(what, &names.join(", "), expected, fits)
    }

    fn expects_words(&self, what: &str, found: &str, expected: &str, fits: bool) -> Result<(), OnnxError> {
        if fits { Ok(()) } else { Err(self.layout(what, expected, found.into())) }
    }

    fn layout(&self, what: &str, expected: &str, found: String) -> OnnxError {
        OnnxError::Layout { path: self.path.clone(), what: what.into(), expected: expected.into(), found }
    }
}

fn label(label: PointLabel) -> f32 {
    match label {
        PointLabel::Background => 0.0,
        PointLabel::Foreground => 1.0,
        PointLabel::UpperLeft => 2.0,
        PointLabel::LowerRight => 3.0,
    }
}

fn in_words(shape: &[usize]) -> String {
    shape_words(&shape.iter().map(|&size| size as i64).collect::<Vec<_>>())
}

fn shape_words(shape: &[i64]) -> String {
    let sizes: Vec<String> = shape.iter().map(|&size| if size < 0 { "any".into() } else { size.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}

/// SAM's decoders place prompts in a frame of 16 pixels for each cell of the embedding, whatever the encoder's input is: 1024 for 64 cells.
/// EfficientViT-SAM and exported students look at smaller images, and are asked in that frame.
const PROMPT_PIXELS_PER_CELL: u32 = 16;
/// Under which Sensei's exports say what they take of a pixel, and how the words begin.
const INPUT_KEY: &str = "sensei.input";
const SIGNED_BYTE: &str = "(pixel - 128) / 128";
/// Label of a point of padding.
const PADDING: f32 = -1.0;
/// Under which SAM's decoders take the only output of an encoder, whatever that calls it.
const ONLY_EMBEDDING: &str = "image_embeddings";
/// Under which an encoder of several outputs puts out its embedding.
const EMBEDDINGS: [&str; 2] = ["image_embed", ONLY_EMBEDDING];
/// A decoder's other inputs.
const PROMPT_INPUTS: [&str; 5] = ["point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"];
/// Under which decoders put out logits; SAM's `masks` are at the image's size, and only exports without `low_res_masks` mean these.
const LOGITS: [&str; 2] = ["low_res_masks", "masks"];
/// Under which they put out the IoU that they expect.
const SCORES: &str = "iou_predictions";
