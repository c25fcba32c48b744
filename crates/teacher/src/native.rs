//! Networks that run here, by the names of their tensors: MobileSAM, EfficientSAM, SAM 2.1.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_answers::asked::{Normalization, Resize};
use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_sam::efficient_sam::EfficientSam;
use sensei_sam::error::SamError;
use sensei_sam::hiera::HieraConfig;
use sensei_sam::mask_decoder::{MaskChoice, Masks};
use sensei_sam::mobile_sam::{EncodedImage, MobileSam};
use sensei_sam::prompt_encoder;
use sensei_sam::sam2::{EncodedFrame, Sam2, stable_mask_idx};
use sensei_sam::vit::VitConfig;
use sensei_tensor::network::{NamedWeights, Tap};

use crate::error::TeacherError;
use crate::frame::{Frame, Framing};
use crate::teacher::{Answer, Features, LOGIT_GRID};

/// A network of `sensei-sam`.
pub(crate) struct NativeNetwork {
    kind: Kind,
    model: Model,
    device: Device,
}

/// Which published network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MobileSam,
    EfficientSamTi,
    EfficientSamS,
    Sam2Tiny,
    Sam2Small,
    Sam2BasePlus,
    Sam2Large,
}

enum Model {
    MobileSam(Box<MobileSam>),
    EfficientSam(Box<EfficientSam>),
    Sam2(Box<Sam2>),
}

/// An image as the decoder needs it.
pub(crate) enum NativeImage {
    MobileSam(EncodedImage),
    EfficientSam(Tensor<3>),
    Sam2(Box<EncodedFrame>),
}

impl NativeNetwork {
    /// The network whose tensors these are. Which one follows from names and shapes; then each tensor has to be that network's.
    pub(crate) fn new(origin: &str, tensors: &NamedWeights, device: &Device) -> Result<Self, TeacherError> {
        let kind = Kind::of(tensors).ok_or_else(|| TeacherError::UnknownNetwork { origin: origin.into() })?;
        let model = Model::new(kind, origin, tensors, device)
            .map_err(|source| TeacherError::Weights { taken_for: kind.name(), source })?;
        Ok(Self { kind, model, device: device.clone() })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(crate) fn framing(&self) -> Framing {
        match self.model {
            Model::MobileSam(_) => Framing::Letterbox { side: INPUT_SIDE, normalization: Normalization::Imagenet },
            Model::EfficientSam(_) => Framing::Stretch { side: INPUT_SIDE, resize: Resize::TorchBilinear },
            Model::Sam2(_) => Framing::Stretch { side: INPUT_SIDE, resize: Resize::Sam2Transforms },
        }
    }

    pub(crate) fn pads_prompts(&self) -> bool {
        matches!(self.model, Model::EfficientSam(_))
    }

    pub(crate) fn taps(&self) -> Vec<Tap> {
        match &self.model {
            Model::MobileSam(network) => network.taps(),
            Model::EfficientSam(_) | Model::Sam2(_) => vec![embedding_tap()],
        }
    }

    pub(crate) fn encode(&self, frame: &Frame, taps: &[String]) -> (NativeImage, Vec<Features>) {
        let side = frame.side as usize;
        let input = TensorData::new(frame.values.clone(), [1, side, side, 3]);
        let input = Tensor::<4>::from_data(input, &self.device);
        let embeddings = |embedding: &Tensor<3>| -> Vec<Features> {
            let cells: Tensor<4> = embedding.clone().reshape([1, GRID, GRID, CHANNELS]);
            let tap = |name: &String| {
                assert_eq!(name, EMBEDDING, "a tap of this network");
                features(cells.clone())
            };
            taps.iter().map(tap).collect()
        };
        match &self.model {
            Model::MobileSam(network) => {
                let (mut encoded, maps) = network.encode(input, taps).expect("a tap of this network");
                let encoded = encoded.pop().expect("one image");
                (NativeImage::MobileSam(encoded), maps.into_iter().map(features).collect())
            }
            Model::EfficientSam(network) => {
                let embedding = network.encode(input);
                let features = embeddings(&embedding);
                (NativeImage::EfficientSam(embedding), features)
            }
            Model::Sam2(network) => {
                let image = network.encode(input);
                let features = embeddings(&image.embedding);
                (NativeImage::Sam2(Box::new(image)), features)
            }
        }
    }

    pub(crate) fn answer(
        &self,
        image: &NativeImage,
        frame: &Frame,
        prompts: &[Vec<PromptPoint>],
        padding_points: u32,
        choice: MaskChoice,
    ) -> Vec<Answer> {
        let in_frame = |points: &Vec<PromptPoint>| -> Vec<prompt_encoder::PromptPoint> {
            let padding = prompt_encoder::PromptPoint { x: 0.0, y: 0.0, label: prompt_encoder::PointLabel::Padding };
            let points = points.iter().map(|point| {
                let [x, y] = frame.point(point.at);
                prompt_encoder::PromptPoint { x, y, label: label(point.label) }
            });
            points.chain(std::iter::repeat_n(padding, padding_points as usize)).collect()
        };
        let prompts: Vec<_> = prompts.iter().map(in_frame).collect();
        match (&self.model, image) {
            (Model::MobileSam(network), NativeImage::MobileSam(image)) => {
                answers(network.decode(image, &prompts, choice))
            }
            (Model::EfficientSam(network), NativeImage::EfficientSam(image)) => {
                answers(network.decode(image.clone(), &prompts, choice))
            }
            (Model::Sam2(network), NativeImage::Sam2(image)) if choice == MaskChoice::Single => {
                answers(network.decode(image, &prompts, MaskChoice::All)).into_iter().map(stable_mask).collect()
            }
            (Model::Sam2(network), NativeImage::Sam2(image)) => answers(network.decode(image, &prompts, choice)),
            _ => panic!("teacher: an image that another network has looked at"),
        }
    }
}

impl Kind {
    /// The network that has a tensor of this name and shape where networks differ; each tensor is checked later.
    fn of(tensors: &NamedWeights) -> Option<Self> {
        let outs = |name: &str| tensors.get(name).and_then(|tensor| tensor.shape.first().copied());
        if tensors.contains_key("image_encoder.patch_embed.seq.0.c.weight") {
            return Some(Self::MobileSam);
        }
        if let Some(channels) = outs("image_encoder.patch_embed.proj.weight") {
            return match channels {
                192 => Some(Self::EfficientSamTi),
                384 => Some(Self::EfficientSamS),
                _ => None,
            };
        }
        let has_block = |idx: usize| tensors.contains_key(&format!("image_encoder.trunk.blocks.{idx}.norm1.weight"));
        match outs("image_encoder.trunk.patch_embed.proj.weight")? {
            // Small is Tiny with four blocks more.
            96 if has_block(12) => Some(Self::Sam2Small),
            96 => Some(Self::Sam2Tiny),
            112 => Some(Self::Sam2BasePlus),
            144 => Some(Self::Sam2Large),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::MobileSam => "MobileSAM",
            Self::EfficientSamTi => "EfficientSAM-Ti",
            Self::EfficientSamS => "EfficientSAM-S",
            Self::Sam2Tiny => "SAM 2.1 Tiny",
            Self::Sam2Small => "SAM 2.1 Small",
            Self::Sam2BasePlus => "SAM 2.1 Base+",
            Self::Sam2Large => "SAM 2.1 Large",
        }
    }
}

impl Model {
    fn new(kind: Kind, origin: &str, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        let efficient = |config| {
            EfficientSam::new(config, origin, tensors, device).map(|network| Self::EfficientSam(Box::new(network)))
        };
        let sam2 = |config| Sam2::new(config, origin, tensors, device).map(|network| Self::Sam2(Box::new(network)));
        match kind {
            Kind::MobileSam => {
                MobileSam::new(origin, tensors, device).map(|network| Self::MobileSam(Box::new(network)))
            }
            Kind::EfficientSamTi => efficient(VitConfig::efficient_sam_ti()),
            Kind::EfficientSamS => efficient(VitConfig::efficient_sam_s()),
            Kind::Sam2Tiny => sam2(HieraConfig::tiny()),
            Kind::Sam2Small => sam2(HieraConfig::small()),
            Kind::Sam2BasePlus => sam2(HieraConfig::base_plus()),
            Kind::Sam2Large => sam2(HieraConfig::large()),
        }
    }
}

/// The answer by which SAM 2 answers a prompt that asks for one mask, of all four.
fn stable_mask(answer: Answer) -> Answer {
    let idx = stable_mask_idx(&answer.logits.concat(), &answer.predicted_iou);
    let logits = answer.logits.into_iter().skip(idx).take(1).collect();
    Answer { logits, predicted_iou: vec![answer.predicted_iou[idx]] }
}

fn answers(masks: Masks) -> Vec<Answer> {
    let [_, n_masks, height, width] = masks.logits.dims();
    assert_eq!([height, width], [LOGIT_GRID as usize; 2], "teacher: sides of a mask");
    let (logits, ious) = (read(masks.logits), read(masks.predicted_iou));
    let of_prompts = logits.chunks_exact(n_masks * height * width).zip(ious.chunks_exact(n_masks));
    let answer = |(logits, ious): (&[f32], &[f32])| Answer {
        logits: logits.chunks_exact(height * width).map(<[f32]>::to_vec).collect(),
        predicted_iou: ious.to_vec(),
    };
    of_prompts.map(answer).collect()
}

/// `[1, height, width, channels]` as it is kept.
fn features(map: Tensor<4>) -> Features {
    let [_, height, width, channels] = map.dims();
    Features { shape: [channels, height, width], values: read(map.permute([0, 3, 1, 2])) }
}

/// What the decoder is given of an image, at a sixteenth of its side.
pub(crate) fn embedding_tap() -> Tap {
    Tap { name: EMBEDDING.into(), shape: [CHANNELS, GRID, GRID] }
}

fn label(label: PointLabel) -> prompt_encoder::PointLabel {
    match label {
        PointLabel::Background => prompt_encoder::PointLabel::Background,
        PointLabel::Foreground => prompt_encoder::PointLabel::Foreground,
        PointLabel::UpperLeft => prompt_encoder::PointLabel::UpperLeft,
        PointLabel::LowerRight => prompt_encoder::PointLabel::LowerRight,
    }
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().expect("a tensor that its device can read back")
}

/// Side of the square in which all of them see an image, in pixels.
const INPUT_SIDE: u32 = 1024;
/// Side of the embedding, in cells.
const GRID: usize = INPUT_SIDE as usize / 16;
/// Channels of the embedding.
const CHANNELS: usize = 256;
/// Name of the tap that all of them have.
pub(crate) const EMBEDDING: &str = "embedding";
