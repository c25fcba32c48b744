//! A plain vision transformer as a student's image encoder.

use std::sync::OnceLock;

use burn::tensor::Device;
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap, find_tap,
};

use crate::error::SamError;
use crate::own_group::{describe, group_named, group_of, tensors_of, with_tensors};
use crate::scope::Tensors;
use crate::vit::{NECK, Vit, VitConfig, VitNeck, VitTrunk};

/// The encoder: groups [`TRUNK`], which pretraining leaves, and [`NECK`]. Its one tap is [`EMBEDDING`].
///
/// Where its grid is smaller than the decoder's, the neck upsamples: a deviation from EfficientSAM, which has one size.
pub struct VitStudent {
    config: VitConfig,
    /// Side of the embedding, in cells of the grid.
    scale: usize,
    device: Device,
    trunk: ParameterGroup,
    neck: ParameterGroup,
    /// The layers on a device without gradients, packed once.
    packed: OnceLock<(VitTrunk, VitNeck)>,
}

/// The group of the encoder without its neck.
pub const TRUNK: &str = "weights";

/// Its tap.
pub const EMBEDDING: &str = "embedding";

impl VitStudent {
    /// An encoder whose embedding has `grid` cells a side, from tensors of trunk and neck under their published names.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, is not finite or is not of this network.
    ///
    /// # Panics
    /// If `grid` is no multiple of the encoder's own.
    pub fn new(config: VitConfig, grid: usize, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        assert!(grid.is_multiple_of(config.grid()), "ViT: {grid} cells of {}", config.grid());
        let checked = Tensors::new("weights", tensors, &Device::flex());
        Vit::new(config.clone(), &checked.root())?;
        checked.finish(&[])?;
        let prefix = format!("{NECK}.");
        let (neck, trunk): (NamedWeights, NamedWeights) = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .partition(|(name, _)| name.starts_with(&prefix));
        Ok(Self {
            scale: grid / config.grid(),
            config,
            device: device.clone(),
            trunk: group_of(TRUNK, &trunk, device),
            neck: group_of(NECK, &neck, device),
            packed: OnceLock::new(),
        })
    }

    fn build(&self) -> (VitTrunk, VitNeck) {
        let tensors = Tensors::of_parameters("student", &[&self.trunk, &self.neck], &self.device);
        let root = tensors.root();
        let layers = VitTrunk::new(self.config.clone(), &root)
            .and_then(|trunk| Ok((trunk, VitNeck::new(&self.config, &root.at(NECK))?)));
        layers.expect("parameters that were checked when the student was made")
    }

    fn own_group(&self, name: &str) -> Result<&ParameterGroup, NetworkError> {
        group_named([&self.trunk, &self.neck], name)
    }
}

impl Network for VitStudent {
    fn device(&self) -> &Device {
        &self.device
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        vec![&self.trunk, &self.neck]
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        self.packed = OnceLock::new();
        vec![&mut self.trunk, &mut self.neck]
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        tensors_of(self.own_group(group).unwrap_or_else(|error| panic!("{error}")))
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        let changed = with_tensors(self.own_group(group)?, tensors, &self.device)?;
        *(if group == TRUNK { &mut self.trunk } else { &mut self.neck }) = changed;
        self.packed = OnceLock::new();
        Ok(())
    }

    fn structure_digest(&self) -> String {
        let words = format!("vit {:?} {}\n{}{}", self.config, self.scale, describe(&self.trunk), describe(&self.neck));
        blake3::hash(words.as_bytes()).to_hex().to_string()
    }

    fn min_train_batch(&self) -> usize {
        1
    }

    fn taps(&self) -> Vec<Tap> {
        let side = self.scale * self.config.grid();
        vec![Tap { name: EMBEDDING.into(), shape: [self.config.out_channels, side, side] }]
    }

    fn forward(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Outputs, NetworkError> {
        let all = self.taps();
        inputs.taps.iter().try_for_each(|tap| find_tap(&all, tap).map(drop))?;
        let images = match pass {
            Pass::Train if self.device.is_autodiff() => inputs.images.autodiff(),
            Pass::Train | Pass::Eval => inputs.images,
            Pass::TrainMixed(_) | Pass::TrainOnGrid(_) => {
                return Err(NetworkError::Pass { network: "a vision transformer", pass });
            }
        };
        let images = images.permute([0, 2, 3, 1]);
        let answer = |(trunk, neck): &(VitTrunk, VitNeck)| {
            neck.forward(trunk.blocks(trunk.tokens(images.clone())), self.scale).permute([0, 3, 1, 2])
        };
        let map = if self.device.is_autodiff() {
            answer(&self.build())
        } else {
            answer(self.packed.get_or_init(|| self.build()))
        };
        let map = if pass == Pass::Eval && self.device.is_autodiff() { map.inner() } else { map };
        let taps = vec![map.clone(); inputs.taps.len()];
        Ok(Outputs { masks: sensei_tensor::masks::MaskLogits(map), scores: None, taps, norm_stats: vec![] })
    }

    fn update_running_stats(&mut self, _stats: &[BatchStats]) {}

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Self {
            config: self.config.clone(),
            scale: self.scale,
            device: device.clone(),
            trunk: self.trunk.to_device(device),
            neck: self.neck.to_device(device),
            packed: OnceLock::new(),
        })
    }
}
