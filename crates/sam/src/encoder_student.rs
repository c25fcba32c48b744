//! An image encoder of SAM's family as a student's encoder: trained, and asked without gradients.

use std::fmt::Debug;
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use sensei_tensor::masks::MaskLogits;
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap, find_tap,
};

use crate::error::SamError;
use crate::own_group::{describe, group_named, group_of, tensors_of, with_tensors};
use crate::scope::{Scope, Tensors};

/// A kind of image encoder, by its widths and depths. `Debug` says all that its structure depends on.
pub trait ImageEncoder: Clone + Debug + Send + Sync + 'static {
    /// Its layers.
    type Layers: Send + Sync;

    /// What it is, in a word of its digest and in words of messages.
    const NAMES: [&'static str; 2];

    /// Its groups of parameters, in order.
    const GROUPS: &'static [&'static str];

    /// The group of a tensor, of [`GROUPS`](Self::GROUPS).
    fn group_of(name: &str) -> &'static str;

    /// Where features can be read, if the embedding has `grid` cells a side.
    fn taps(&self, grid: usize) -> Vec<Tap>;

    /// Side of the embedding before the neck upsamples it, in cells.
    fn own_grid(&self) -> usize;

    /// The layers of tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    fn layers(&self, root: &Scope) -> Result<Self::Layers, SamError>;

    /// Images `[image, side, side, 3]`, `(pixel - 128) / 128`, to the features of these taps, of [`taps`](Self::taps), each
    /// `[image, height, width, channels]`.
    fn forward(&self, layers: &Self::Layers, images: Tensor<4>, taps: &[usize], grid: usize) -> Vec<Tensor<4>>;
}

/// A student's encoder of this kind. Its embedding, the last of its taps, is [`EMBEDDING`].
///
/// Where its grid is smaller than the decoder's, the neck upsamples: a deviation from the published encoders, which have one size.
pub struct EncoderStudent<E: ImageEncoder> {
    encoder: E,
    /// Side of the embedding, in cells.
    grid: usize,
    device: Device,
    groups: Vec<ParameterGroup>,
    /// The layers on a device without gradients, packed once.
    packed: OnceLock<E::Layers>,
}

/// The tap that is the embedding.
pub const EMBEDDING: &str = "embedding";

impl<E: ImageEncoder> EncoderStudent<E> {
    /// An encoder whose embedding has `grid` cells a side, from its tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, is not finite or is not of this network.
    ///
    /// # Panics
    /// If `grid` is no multiple of the encoder's own.
    pub fn new(encoder: E, grid: usize, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        assert!(grid.is_multiple_of(encoder.own_grid()), "{}: cells of the embedding", E::NAMES[1]);
        // Checked once as what the layers ask for; the layers themselves are made of the parameters.
        let (cpu, origin) = (Device::flex(), "weights");
        let checked = Tensors::new(origin, tensors, &cpu);
        encoder.layers(&checked.root())?;
        checked.finish(&[])?;
        let group = |&group: &&str| {
            let own = tensors.iter().filter(|(name, _)| E::group_of(name) == group);
            group_of(group, &own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect(), device)
        };
        let groups = E::GROUPS.iter().map(group).collect();
        Ok(Self { encoder, grid, device: device.clone(), groups, packed: OnceLock::new() })
    }

    fn build(&self) -> E::Layers {
        let tensors = Tensors::of_parameters("student", &self.groups.iter().collect::<Vec<_>>(), &self.device);
        let layers = self.encoder.layers(&tensors.root());
        layers.expect("parameters that were checked when the student was made")
    }
}

impl<E: ImageEncoder> Network for EncoderStudent<E> {
    fn device(&self) -> &Device {
        &self.device
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        self.groups.iter().collect()
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        self.packed = OnceLock::new();
        self.groups.iter_mut().collect()
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        tensors_of(group_named(&self.groups, group).unwrap_or_else(|error| panic!("{error}")))
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        let changed = with_tensors(group_named(&self.groups, group)?, tensors, &self.device)?;
        self.groups.iter_mut().filter(|own| own.name == group).for_each(|own| *own = changed.clone());
        self.packed = OnceLock::new();
        Ok(())
    }

    fn structure_digest(&self) -> String {
        let scale = self.grid / self.encoder.own_grid();
        let groups: String = self.groups.iter().map(describe).collect();
        let words = format!("{} {:?} {scale}\n{groups}", E::NAMES[0], self.encoder);
        blake3::hash(words.as_bytes()).to_hex().to_string()
    }

    fn min_train_batch(&self) -> usize {
        1
    }

    fn taps(&self) -> Vec<Tap> {
        self.encoder.taps(self.grid)
    }

    fn forward(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Outputs, NetworkError> {
        let all = self.taps();
        let mut wanted = inputs.taps.iter().map(|tap| find_tap(&all, tap)).collect::<Result<Vec<_>, _>>()?;
        wanted.push(all.len() - 1);
        let images = match pass {
            Pass::Train if self.device.is_autodiff() => inputs.images.autodiff(),
            Pass::Train | Pass::Eval => inputs.images,
            Pass::TrainMixed(_) | Pass::TrainOnGrid(_) => {
                return Err(NetworkError::Pass { network: E::NAMES[1], pass });
            }
        };
        let images = images.permute([0, 2, 3, 1]);
        let answer = |layers: &E::Layers| self.encoder.forward(layers, images.clone(), &wanted, self.grid);
        let found = match self.device.is_autodiff() {
            true => answer(&self.build()),
            false => answer(self.packed.get_or_init(|| self.build())),
        };
        let without_gradients = pass == Pass::Eval && self.device.is_autodiff();
        let as_asked = |map: Tensor<4>| {
            let map = map.permute([0, 3, 1, 2]);
            if without_gradients { map.inner() } else { map }
        };
        let mut taps: Vec<Tensor<4>> = found.into_iter().map(as_asked).collect();
        let masks = MaskLogits(taps.pop().expect("the embedding, which was asked for last"));
        Ok(Outputs { masks, scores: None, taps, norm_stats: vec![] })
    }

    fn update_running_stats(&mut self, _stats: &[BatchStats]) {}

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Self {
            encoder: self.encoder.clone(),
            grid: self.grid,
            device: device.clone(),
            groups: self.groups.iter().map(|group| group.to_device(device)).collect(),
            packed: OnceLock::new(),
        })
    }
}
