//! A teacher that can be asked, whatever it runs on: it looks at images, and answers prompts about them.

use std::path::Path;

use burn::tensor::Device;
use sensei_answers::asked::{Preprocessing, Zoom};
use sensei_answers::record::PromptPoint;
use sensei_data::image_file::RgbImage;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_tensor::network::{NamedWeights, Tap};

use crate::error::TeacherError;
use crate::frame::{Frame, Framing, Part};
use crate::native::{NativeImage, NativeNetwork};
use crate::onnx::{OnnxImage, OnnxPair};

/// A teacher whose network is in memory.
pub struct Teacher {
    network: Network,
    /// As in an [`AnswerKey`](sensei_answers::key::AnswerKey).
    digest: String,
}

enum Network {
    Native(Box<NativeNetwork>),
    Onnx(Box<OnnxPair>),
}

/// An image that a teacher has looked at.
pub struct Seen {
    /// How it was shown.
    pub frame: Frame,
    encoded: Encoded,
    /// Features of the taps that were asked for, `[channels, height, width]` each.
    pub features: Vec<Features>,
}

enum Encoded {
    Native(Box<NativeImage>),
    Onnx(OnnxImage),
}

/// A map of features.
pub struct Features {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// The values, `[channels, height, width]`.
    pub values: Vec<f32>,
}

/// What a teacher answers to one prompt.
pub struct Answer {
    /// For each mask: logits over the whole frame, [`LOGIT_GRID`] squared.
    pub logits: Vec<Vec<f32>>,
    /// For each mask: the IoU that the teacher expects.
    pub predicted_iou: Vec<f32>,
}

impl Teacher {
    /// The network whose tensors these are, under their published names. `origin` names their file in messages, `digest` the weights in keys.
    ///
    /// # Errors
    /// If the tensors are not those of a network that is known here.
    pub fn native(origin: &str, tensors: &NamedWeights, digest: String, device: &Device) -> Result<Self, TeacherError> {
        Ok(Self { network: Network::Native(Box::new(NativeNetwork::new(origin, tensors, device)?)), digest })
    }

    /// A pair of ONNX files, image encoder and decoder, on the onnxruntime of a shared library. `digest` names both files in keys; `threads`
    /// is how many onnxruntime may take.
    ///
    /// # Errors
    /// If the library is not onnxruntime or too old, or a file is not such a network.
    pub fn onnx(
        library: &Path,
        [encoder, decoder]: [&Path; 2],
        digest: String,
        threads: usize,
    ) -> Result<Self, TeacherError> {
        Ok(Self { network: Network::Onnx(Box::new(OnnxPair::open(library, encoder, decoder, threads)?)), digest })
    }

    /// What it is called in manifests.
    pub fn name(&self) -> &'static str {
        match &self.network {
            Network::Native(network) => network.name(),
            Network::Onnx(pair) => pair.name(),
        }
    }

    /// Digest of the weights, as in keys.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How images are shown to it.
    pub fn framing(&self) -> Framing {
        match &self.network {
            Network::Native(network) => network.framing(),
            Network::Onnx(pair) => pair.framing(),
        }
    }

    /// How images are shown to it, for keys, and small objects if they are shown by themselves.
    ///
    /// # Errors
    /// If it is to show small objects by themselves, and is no teacher that sees images letterboxed.
    pub fn preprocessing(&self, zoom: Option<Zoom>) -> Result<Preprocessing, TeacherError> {
        self.framing().preprocessing(zoom).ok_or_else(|| TeacherError::Question {
            what: "zoom",
            expected: format!("none for {}, which sees images stretched", self.name()),
            found: "small objects by themselves".into(),
        })
    }

    /// Points of padding behind a prompt that its published code adds itself: none may be asked for beside them.
    pub fn pads_prompts(&self) -> bool {
        matches!(&self.network, Network::Native(network) if network.pads_prompts())
    }

    /// Where its features can be read.
    pub fn taps(&self) -> Vec<Tap> {
        match &self.network {
            Network::Native(network) => network.taps(),
            Network::Onnx(pair) => pair.taps(),
        }
    }

    /// Looks at an image.
    ///
    /// # Errors
    /// If onnxruntime fails.
    ///
    /// # Panics
    /// If a tap is none of [`taps`](Self::taps), or the image has no pixel.
    pub fn look(&self, image: &RgbImage, taps: &[String]) -> Result<Seen, TeacherError> {
        self.look_at(Frame::new(image, self.framing()), taps)
    }

    /// Looks at a part of an image. Prompts are still given in the image's pixels.
    ///
    /// # Errors
    /// If onnxruntime fails.
    ///
    /// # Panics
    /// If the part reaches beyond the image.
    pub fn look_at_part(&self, image: &RgbImage, part: Part) -> Result<Seen, TeacherError> {
        self.look_at(Frame::of_part(image, part, self.framing()), &[])
    }

    fn look_at(&self, frame: Frame, taps: &[String]) -> Result<Seen, TeacherError> {
        let (encoded, features) = match &self.network {
            Network::Native(network) => {
                let (encoded, features) = network.encode(&frame, taps);
                (Encoded::Native(Box::new(encoded)), features)
            }
            Network::Onnx(pair) => {
                let (encoded, features) = pair.encode(&frame, taps)?;
                (Encoded::Onnx(encoded), features)
            }
        };
        Ok(Seen { frame, encoded, features })
    }

    /// Answers some prompts about an image, given in its pixels, each followed by `padding_points` of padding. All have the same number of
    /// points.
    ///
    /// # Errors
    /// If onnxruntime fails, or its decoder does not give such masks.
    ///
    /// # Panics
    /// If another teacher has looked at the image, there is no prompt, or they have different numbers of points.
    pub fn answer(
        &self,
        seen: &Seen,
        prompts: &[Vec<PromptPoint>],
        padding_points: u32,
        choice: MaskChoice,
    ) -> Result<Vec<Answer>, TeacherError> {
        match (&self.network, &seen.encoded) {
            (Network::Native(network), Encoded::Native(image)) => {
                Ok(network.answer(image, &seen.frame, prompts, padding_points, choice))
            }
            (Network::Onnx(pair), Encoded::Onnx(image)) => {
                pair.answer(image, &seen.frame, prompts, padding_points, choice)
            }
            (Network::Native(_), Encoded::Onnx(_)) | (Network::Onnx(_), Encoded::Native(_)) => {
                panic!("teacher: an image that another teacher has looked at")
            }
        }
    }
}

/// Prompts that callers answer together: their answers are in memory at once.
pub(crate) const PROMPTS_AT_ONCE: usize = 16;

/// Side of the mask logits that decoders put out.
pub const LOGIT_GRID: u32 = 256;
