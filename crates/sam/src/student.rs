//! A student of the SAM family: an image encoder of its own before SAM's prompt encoder and mask decoder.

use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap, find_tap,
};
use sensei_tensor::prompts::{
    Adapt, Decode, Encoded, MaskTokens, PromptPoint, Promptable, Prompted, Proposals, Propose,
};

use crate::adapters::{self, ADAPTERS, AdapterConfig};
use crate::error::SamError;
use crate::granularity::{GRANULARITY, ProposalNetwork, anchors};
use crate::mobile_sam::INPUT_SIZE;
use crate::own_group::{describe, group_of, tensors_of, with_tensors};
use crate::prompted::{MASK_DECODER, PROMPT_ENCODER, PromptedDecoder};
use crate::scope::Tensors;
use crate::two_way::CHANNELS;

/// The network: groups of the encoder, then [`MASK_DECODER`], [`SCORE_HEAD`], [`PROMPT_ENCODER`], if it proposes boxes, [`GRANULARITY`], and in
/// training perhaps [`ADAPTERS`].
///
/// The decoder's own tokens are in the prompt encoder's group: who freezes it shares prompt, mask and IoU tokens with the teacher.
///
/// # Source
/// MobileSAM (arXiv 2306.14289) and EdgeSAM (arXiv 2312.06660): the decoder starts as the teacher's.
pub struct PromptableStudent {
    encoder: Box<dyn Network>,
    /// Name of the encoder's tap that is the embedding.
    embedding: String,
    shape: [usize; 3],
    decoder: ParameterGroup,
    scores: ParameterGroup,
    prompts: ParameterGroup,
    granularity: Option<ParameterGroup>,
    adapters: Option<(Vec<AdapterConfig>, ParameterGroup)>,
    /// The layers of these tensors on a device without gradients, where they are packed once.
    packed: OnceLock<PromptedDecoder>,
}

/// The group of the decoder's part that says how good a mask is: it learns only where something compares its scores.
pub const SCORE_HEAD: &str = "iou_prediction_head";

impl PromptableStudent {
    /// An encoder, the name of its tap that is the embedding, and decoder and prompt encoder from a file of SAM's tensors under their
    /// published names; `origin` names the file in messages. Tensors of an image encoder in it are left out.
    ///
    /// # Errors
    /// If a tensor of the decoder or prompt encoder is missing, has another shape, is not finite or is not of them; if the encoder has no
    /// such tap, or it is no embedding for this decoder.
    pub fn new(
        encoder: Box<dyn Network>,
        embedding: &str,
        origin: &str,
        tensors: &NamedWeights,
    ) -> Result<Self, StudentError> {
        let taps = encoder.taps();
        let shape = taps[find_tap(&taps, embedding)?].shape;
        let [channels, grid, width] = shape;
        if channels != CHANNELS || grid != width {
            return Err(StudentError::Embedding { tap: embedding.into(), found: shape });
        }
        let starts = |name: &str, part: &str| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        let own = tensors.iter().filter(|(name, _)| starts(name, PROMPT_ENCODER) || starts(name, MASK_DECODER));
        let own: NamedWeights = own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        // Checked once as what the layers ask for; the layers themselves are made of the parameters.
        let checked = Tensors::new(origin, &own, &Device::flex());
        PromptedDecoder::sam(INPUT_SIZE, grid, &checked.root())?;
        checked.finish(&[])?;
        drop(checked);
        let is_token = |name: &str| starts(name, PROMPT_ENCODER) || TOKENS.iter().any(|token| starts(name, token));
        let device = encoder.device().clone();
        let (tokens, layers): (NamedWeights, NamedWeights) = own.into_iter().partition(|(name, _)| is_token(name));
        let (scores, layers): (NamedWeights, NamedWeights) =
            layers.into_iter().partition(|(name, _)| starts(name, "mask_decoder.iou_prediction_head"));
        let scores = group_of(SCORE_HEAD, &scores, &device);
        let (decoder, prompts) = (group_of(MASK_DECODER, &layers, &device), group_of(PROMPT_ENCODER, &tokens, &device));
        let (embedding, packed) = (embedding.to_string(), OnceLock::new());
        Ok(Self { encoder, embedding, shape, decoder, scores, prompts, granularity: None, adapters: None, packed })
    }

    /// The same student with a part that proposes boxes, of tensors under their names in a run's file.
    ///
    /// # Errors
    /// If a tensor of it is missing, has another shape, is not finite or is not of it.
    pub fn with_granularity(mut self, tensors: &NamedWeights) -> Result<Self, SamError> {
        let checked = Tensors::new("granularity", tensors, &Device::flex());
        ProposalNetwork::new(&checked.root().at(GRANULARITY))?;
        checked.finish(&[])?;
        self.granularity = Some(group_of(GRANULARITY, tensors, self.encoder.device()));
        Ok(self)
    }

    /// The same student with parts that adapt its features, of their tensors.
    ///
    /// # Errors
    /// If a tensor of one is missing, has another shape, is not finite or is not of them.
    pub fn with_adapters(mut self, adapters: Vec<AdapterConfig>, tensors: &NamedWeights) -> Result<Self, SamError> {
        let cpu = Device::flex();
        let checked = Tensors::new(ADAPTERS, tensors, &cpu);
        adapters.iter().try_for_each(|adapter| adapters::layer(adapter, &checked.root()).map(drop))?;
        checked.finish(&[])?;
        self.adapters = Some((adapters, group_of(ADAPTERS, tensors, self.encoder.device())));
        Ok(self)
    }

    /// The image encoder.
    pub fn encoder(&self) -> &dyn Network {
        &*self.encoder
    }

    fn build(&self) -> PromptedDecoder {
        let device = self.encoder.device();
        let tensors = Tensors::of_parameters("student", &[&self.decoder, &self.scores, &self.prompts], device);
        let [_, grid, _] = self.shape;
        PromptedDecoder::sam(INPUT_SIZE, grid, &tensors.root())
            .expect("parameters that were checked when the student was made")
    }
}

impl Decode for PromptableStudent {
    fn prompt_side(&self) -> usize {
        INPUT_SIZE
    }

    fn decode(&self, embedding: Tensor<4>, prompts: &[Vec<PromptPoint>], masks: MaskTokens) -> Prompted {
        match self.encoder.device().is_autodiff() {
            true => self.build().decode(embedding, prompts, masks),
            false => self.packed.get_or_init(|| self.build()).decode(embedding, prompts, masks),
        }
    }
}

impl Propose for PromptableStudent {
    fn group(&self) -> &str {
        GRANULARITY
    }

    fn anchors(&self) -> Vec<[f64; 4]> {
        let [_, grid, _] = self.shape;
        anchors(grid, INPUT_SIZE)
    }

    fn propose(&self, embedding: Tensor<4>) -> Proposals {
        let group = self.granularity.as_ref().expect("a student that proposes boxes");
        let tensors = Tensors::of_parameters("granularity", &[group], self.encoder.device());
        let network = ProposalNetwork::new(&tensors.root().at(GRANULARITY));
        network.expect("parameters that were checked when they were taken").forward(embedding)
    }
}

impl Adapt for PromptableStudent {
    fn group(&self) -> &str {
        ADAPTERS
    }

    fn adapt(&self, name: &str, features: Tensor<4>) -> Tensor<4> {
        let (adapters, group) = self.adapters.as_ref().expect("a student that adapts features");
        let adapter = adapters.iter().find(|adapter| adapter.name == name);
        let adapter = adapter.unwrap_or_else(|| panic!("adapter {name:?}: expected one of the student, found none"));
        let tensors = Tensors::of_parameters(ADAPTERS, &[group], self.encoder.device());
        let layer = adapters::layer(adapter, &tensors.root()).expect("tensors that were checked when they were taken");
        layer.forward(features.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }
}

impl Promptable for PromptableStudent {
    fn encoder_group(&self) -> &str {
        &self.encoder.groups()[0].name
    }

    fn embedding_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn encode(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Encoded, NetworkError> {
        let taps: Vec<String> = std::iter::once(&self.embedding).chain(inputs.taps).cloned().collect();
        let Outputs { taps, norm_stats, .. } =
            self.encoder.forward(Inputs { images: inputs.images, taps: &taps }, pass)?;
        let mut taps = taps.into_iter();
        let embedding = taps.next().expect("the tap that was asked for first");
        Ok(Encoded { embedding, taps: taps.collect(), norm_stats })
    }
}

impl Network for PromptableStudent {
    fn device(&self) -> &Device {
        self.encoder.device()
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        self.encoder.groups().into_iter().chain(self.own_groups()).collect()
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        self.packed = OnceLock::new();
        let own = [&mut self.decoder, &mut self.scores, &mut self.prompts].into_iter().chain(&mut self.granularity);
        let own = own.chain(self.adapters.as_mut().map(|(_, group)| group));
        self.encoder.groups_mut().into_iter().chain(own).collect()
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        match self.own_group(group) {
            Some(own) => tensors_of(own),
            None => self.encoder.tensors(group),
        }
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        let device = self.encoder.device().clone();
        let Some(own) = self.own_group(group) else { return self.encoder.set_tensors(group, tensors) };
        let changed = with_tensors(own, tensors, &device)?;
        match group {
            MASK_DECODER => self.decoder = changed,
            SCORE_HEAD => self.scores = changed,
            PROMPT_ENCODER => self.prompts = changed,
            ADAPTERS => self.adapters.iter_mut().for_each(|(_, own)| *own = changed.clone()),
            _ => self.granularity = Some(changed),
        }
        self.packed = OnceLock::new();
        Ok(())
    }

    fn structure_digest(&self) -> String {
        let own: String = self.own_groups().map(describe).collect();
        let encoder = self.encoder.structure_digest();
        blake3::hash(format!("promptable {} {encoder}\n{own}", self.embedding).as_bytes()).to_hex().to_string()
    }

    fn min_train_batch(&self) -> usize {
        self.encoder.min_train_batch()
    }

    fn taps(&self) -> Vec<Tap> {
        self.encoder.taps()
    }

    fn forward(&self, _inputs: Inputs<'_>, _pass: Pass) -> Result<Outputs, NetworkError> {
        Err(NetworkError::NoPrompts { network: "a promptable student" })
    }

    fn promptable(&self) -> Option<&dyn Promptable> {
        Some(self)
    }

    fn proposer(&self) -> Option<&dyn Propose> {
        self.granularity.as_ref().map(|_| self as _)
    }

    fn adapters(&self) -> Option<&dyn Adapt> {
        self.adapters.as_ref().map(|_| self as _)
    }

    fn update_running_stats(&mut self, stats: &[BatchStats]) {
        self.encoder.update_running_stats(stats);
    }

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Self {
            encoder: self.encoder.to_device(device),
            embedding: self.embedding.clone(),
            shape: self.shape,
            decoder: self.decoder.to_device(device),
            scores: self.scores.to_device(device),
            prompts: self.prompts.to_device(device),
            granularity: self.granularity.as_ref().map(|group| group.to_device(device)),
            adapters: self.adapters.as_ref().map(|(adapters, group)| (adapters.clone(), group.to_device(device))),
            packed: OnceLock::new(),
        })
    }
}

impl PromptableStudent {
    /// Its groups besides the encoder's.
    fn own_groups(&self) -> impl Iterator<Item = &ParameterGroup> {
        let adapters = self.adapters.as_ref().map(|(_, group)| group);
        [&self.decoder, &self.scores, &self.prompts].into_iter().chain(&self.granularity).chain(adapters)
    }

    fn own_group(&self, name: &str) -> Option<&ParameterGroup> {
        self.own_groups().find(|group| group.name == name)
    }
}

/// Parts that are no student.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudentError {
    /// Tensors that are not those of a decoder.
    #[error(transparent)]
    Tensors(#[from] SamError),
    /// The encoder has no such tap.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The tap is no embedding.
    #[error("tap {tap:?}: expected {CHANNELS} channels on a square grid, which the decoder reads, found {found:?}")]
    Embedding {
        /// The tap.
        tap: String,
        /// Channels, height, width.
        found: [usize; 3],
    },
}

/// The decoder's own tokens.
const TOKENS: [&str; 2] = ["mask_decoder.iou_token", "mask_decoder.mask_tokens"];
