//! Teachers that run here: MobileSAM.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_answers::asked::{Preprocessing, Zoom};
use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_data::image_file::RgbImage;
use sensei_sam::error::SamError;
use sensei_sam::mask_decoder::MaskChoice;
use sensei_sam::mobile_sam::{EncodedImage, INPUT_SIZE, MobileSam};
use sensei_sam::prompt_encoder;
use sensei_tensor::network::{NamedWeights, Tap};

use crate::frame::{Frame, Part, sam_preprocessing};

/// A teacher whose network is in memory.
pub struct NativeTeacher {
    network: MobileSam,
    device: Device,
    /// As in an [`AnswerKey`](sensei_answers::key::AnswerKey).
    digest: String,
}

/// An image that the teacher has looked at.
pub struct Seen {
    /// How it was shown.
    pub frame: Frame,
    encoded: EncodedImage,
    /// Features of the taps that were asked for, `[channels, height, width]` each.
    pub features: Vec<Features>,
}

/// A map of features.
pub struct Features {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// The values, `[channels, height, width]`.
    pub values: Vec<f32>,
}

/// What the teacher answers to one prompt.
pub struct Answer {
    /// For each mask: logits over the whole frame, [`LOGIT_GRID`] squared.
    pub logits: Vec<Vec<f32>>,
    /// For each mask: the IoU that the teacher expects.
    pub predicted_iou: Vec<f32>,
}

impl NativeTeacher {
    /// MobileSAM, of tensors under their published names. `origin` names their file in messages, `digest` the weights in keys.
    ///
    /// # Errors
    /// If the tensors are not MobileSAM's.
    pub fn mobile_sam(origin: &str, tensors: &NamedWeights, digest: String, device: &Device) -> Result<Self, SamError> {
        Ok(Self { network: MobileSam::new(origin, tensors, device)?, device: device.clone(), digest })
    }

    /// Digest of the weights, as in keys.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How images are shown to it, and small objects if they are shown by themselves.
    pub fn preprocessing(&self, zoom: Option<Zoom>) -> Preprocessing {
        sam_preprocessing(INPUT_SIDE, zoom)
    }

    /// Where its features can be read.
    pub fn taps(&self) -> Vec<Tap> {
        self.network.taps()
    }

    /// Looks at an image.
    ///
    /// # Panics
    /// If a tap is none of [`taps`](Self::taps), or the image has no pixel.
    pub fn look(&self, image: &RgbImage, taps: &[String]) -> Seen {
        self.look_at(Frame::letterbox(image, INPUT_SIDE), taps)
    }

    /// Looks at a part of an image. Prompts are still given in the image's pixels.
    ///
    /// # Panics
    /// If the part reaches beyond the image.
    pub fn look_at_part(&self, image: &RgbImage, part: Part) -> Seen {
        self.look_at(Frame::of_part(image, part, INPUT_SIDE), &[])
    }

    fn look_at(&self, frame: Frame, taps: &[String]) -> Seen {
        let input = TensorData::new(frame.values.clone(), [1, INPUT_SIZE, INPUT_SIZE, 3]);
        let (mut encoded, taps) =
            self.network.encode(Tensor::from_data(input, &self.device), taps).expect("a tap of this network");
        let encoded = encoded.pop().expect("one image");
        let features = taps.into_iter().map(|tap| {
            let [_, height, width, channels] = tap.dims();
            Features { shape: [channels, height, width], values: read(tap.permute([0, 3, 1, 2])) }
        });
        Seen { frame, encoded, features: features.collect() }
    }

    /// Answers some prompts about an image, given in its pixels, each followed by `padding_points` of padding. All have the same number of
    /// points.
    ///
    /// # Panics
    /// If there is no prompt, or they have different numbers of points.
    pub fn answer(
        &self,
        seen: &Seen,
        prompts: &[Vec<PromptPoint>],
        padding_points: u32,
        choice: MaskChoice,
    ) -> Vec<Answer> {
        let in_frame = |points: &Vec<PromptPoint>| -> Vec<prompt_encoder::PromptPoint> {
            let padding = prompt_encoder::PromptPoint { x: 0.0, y: 0.0, label: prompt_encoder::PointLabel::Padding };
            let points = points.iter().map(|point| {
                let [x, y] = seen.frame.point(point.at);
                prompt_encoder::PromptPoint { x, y, label: label(point.label) }
            });
            points.chain(std::iter::repeat_n(padding, padding_points as usize)).collect()
        };
        let prompts: Vec<_> = prompts.iter().map(in_frame).collect();
        let masks = self.network.decode(&seen.encoded, &prompts, choice);
        let [_, n_masks, height, width] = masks.logits.dims();
        let (logits, ious) = (read(masks.logits), read(masks.predicted_iou));
        let of_prompts = logits.chunks_exact(n_masks * height * width).zip(ious.chunks_exact(n_masks));
        let answer = |(logits, ious): (&[f32], &[f32])| Answer {
            logits: logits.chunks_exact(height * width).map(<[f32]>::to_vec).collect(),
            predicted_iou: ious.to_vec(),
        };
        of_prompts.map(answer).collect()
    }
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

/// Prompts that callers answer together: their answers are in memory at once.
pub(crate) const PROMPTS_AT_ONCE: usize = 16;

/// Side of the square in which it sees an image, in pixels.
pub(crate) const INPUT_SIDE: u32 = INPUT_SIZE as u32;

/// Side of the mask logits that the decoder puts out.
pub const LOGIT_GRID: u32 = 256;
