//! Layers by the names of their tensors.
//!
//! A network is written once, as the layers that it asks for by name. What it asked for is what a file must hold: a tensor that is missing,
//! has another shape or was not asked for is an error with its name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor, TensorData};
use sensei_tensor::layers::{Conv, Depthwise, LayerNorm, Linear, Then, Upconv};
use sensei_tensor::network::{HostTensor, NamedWeights, Parameter, ParameterGroup};

use crate::error::SamError;

/// The tensors of a file, or parameters that are trained, and which of them a network has asked for.
pub struct Tensors<'a> {
    origin: &'a str,
    source: Source<'a>,
    device: Device,
    asked: RefCell<BTreeSet<String>>,
}

#[derive(Clone)]
enum Source<'a> {
    /// In host memory.
    Host(&'a NamedWeights),
    /// On the device; layers made of them pass gradients on to them.
    Parameters(BTreeMap<&'a str, &'a Parameter>),
}

/// Tensors whose names begin alike.
#[derive(Clone)]
pub struct Scope<'a> {
    tensors: &'a Tensors<'a>,
    prefix: String,
}

impl<'a> Tensors<'a> {
    /// Tensors for layers on `device`; `origin` names their file in messages.
    pub fn new(origin: &'a str, tensors: &'a NamedWeights, device: &Device) -> Self {
        Self { origin, source: Source::Host(tensors), device: device.clone(), asked: RefCell::default() }
    }

    /// Parameters, for layers that pass gradients on to them. They know no [`host`](Scope::host) tensors, and so no folded batch norms.
    pub fn of_parameters(origin: &'a str, groups: &[&'a ParameterGroup], device: &Device) -> Self {
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        let source = Source::Parameters(parameters.map(|parameter| (parameter.name.as_str(), parameter)).collect());
        Self { origin, source, device: device.clone(), asked: RefCell::default() }
    }

    /// All of them.
    pub fn root(&'a self) -> Scope<'a> {
        Scope { tensors: self, prefix: String::new() }
    }

    /// Refuses tensors that no layer asked for. Those whose names begin with one of `unused` are known to be in published files without a
    /// use; how many there are.
    ///
    /// # Errors
    /// `Unexpected`, with the first.
    pub fn finish(&self, unused: &[&str]) -> Result<usize, SamError> {
        let asked = self.asked.borrow();
        let others: Vec<(&str, &Vec<usize>)> =
            self.source.shapes().into_iter().filter(|(name, _)| !asked.contains(*name)).collect();
        let is_unused = |name: &str| unused.iter().any(|start| name.starts_with(start));
        let strange: Vec<_> = others.iter().filter(|(name, _)| !is_unused(name)).collect();
        let Some((name, shape)) = strange.first() else { return Ok(others.len()) };
        Err(SamError::Unexpected {
            origin: self.origin.into(),
            name: name.to_string(),
            found: shape.to_vec(),
            more: strange.len() - 1,
        })
    }
}

impl Source<'_> {
    /// Names and shapes, in the order of the names.
    fn shapes(&self) -> Vec<(&str, &Vec<usize>)> {
        match self {
            Self::Host(tensors) => tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.shape)).collect(),
            Self::Parameters(parameters) => {
                parameters.iter().map(|(name, parameter)| (*name, &parameter.shape)).collect()
            }
        }
    }
}

impl<'a> Scope<'a> {
    /// The tensors behind one more part of the name.
    pub fn at(&self, part: &str) -> Scope<'a> {
        Scope { tensors: self.tensors, prefix: format!("{}{part}.", self.prefix) }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.prefix);
        match &self.tensors.source {
            Source::Host(tensors) => tensors.contains_key(&name),
            Source::Parameters(parameters) => parameters.contains_key(name.as_str()),
        }
    }

    /// The device of the layers.
    pub fn device(&self) -> &Device {
        &self.tensors.device
    }

    /// A tensor of this shape.
    ///
    /// # Errors
    /// If there is none, or it has another shape or a value that is not finite.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, SamError> {
        let Source::Parameters(parameters) = &self.tensors.source else {
            let HostTensor { values, .. } = self.host(name, &shape)?;
            return Ok(Tensor::from_data(TensorData::new(values.clone(), shape), &self.tensors.device));
        };
        let (origin, name) = (self.tensors.origin.to_string(), format!("{}{name}", self.prefix));
        let Some(parameter) = parameters.get(name.as_str()) else {
            return Err(SamError::Missing { origin, name, expected: shape.into() });
        };
        if parameter.shape != shape {
            return Err(SamError::Shape { origin, name, expected: shape.into(), found: parameter.shape.clone() });
        }
        self.tensors.asked.borrow_mut().insert(name);
        Ok(parameter.values.clone().reshape(shape))
    }

    /// The same, in host memory.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    ///
    /// # Panics
    /// If the tensors are parameters on a device.
    pub fn host(&self, name: &str, shape: &[usize]) -> Result<&'a HostTensor, SamError> {
        let (origin, name) = (self.tensors.origin.to_string(), format!("{}{name}", self.prefix));
        let Source::Host(tensors) = &self.tensors.source else { panic!("{name}: expected tensors in host memory") };
        let Some(tensor) = tensors.get(&name) else {
            return Err(SamError::Missing { origin, name, expected: shape.into() });
        };
        if tensor.shape != shape || tensor.values.len() != shape.iter().product::<usize>() {
            return Err(SamError::Shape { origin, name, expected: shape.into(), found: tensor.shape.clone() });
        }
        if let Some(idx) = tensor.values.iter().position(|value| !value.is_finite()) {
            return Err(SamError::NotFinite { origin, name, idx, found: tensor.values[idx] });
        }
        self.tensors.asked.borrow_mut().insert(name);
        Ok(tensor)
    }

    /// `weight` `[outs, ins]` and `bias` `[outs]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn linear(&self, ins: usize, outs: usize, then: Then) -> Result<Linear, SamError> {
        Ok(Linear::new(self.tensor("weight", [outs, ins])?, Some(self.tensor("bias", [outs])?), then))
    }

    /// `weight` and `bias`, `[channels]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn layer_norm(&self, channels: usize, epsilon: f64, then: Then) -> Result<LayerNorm, SamError> {
        let (scale, shift) = (self.tensor("weight", [channels])?, self.tensor("bias", [channels])?);
        Ok(LayerNorm::new(scale, shift, epsilon, then))
    }

    /// A 1x1 convolution without bias, as the linear layer over pixels that it is: `weight` `[outs, ins, 1, 1]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn pointwise(&self, ins: usize, outs: usize) -> Result<Linear, SamError> {
        Ok(Linear::new(self.tensor("weight", [outs, ins, 1, 1])?.reshape([outs, ins]), None, Then::Nothing))
    }

    /// The same with a bias `[outs]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn pointwise_with_bias(&self, ins: usize, outs: usize) -> Result<Linear, SamError> {
        let weight = self.tensor("weight", [outs, ins, 1, 1])?.reshape([outs, ins]);
        Ok(Linear::new(weight, Some(self.tensor("bias", [outs])?), Then::Nothing))
    }

    /// A convolution without bias: `weight` `[outs, ins, kernel, kernel]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn conv(&self, ins: usize, outs: usize, kernel: usize) -> Result<Conv, SamError> {
        Ok(Conv::new(self.tensor("weight", [outs, ins, kernel, kernel])?, None, 1, Then::Nothing))
    }

    /// `weight` `[ins, outs, 2, 2]` and `bias` `[outs]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn upconv(&self, ins: usize, outs: usize, then: Then) -> Result<Upconv, SamError> {
        Ok(Upconv::new(self.tensor("weight", [ins, outs, 2, 2])?, self.tensor("bias", [outs])?, then))
    }

    /// A 1x1 convolution and its batch norm.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn pointwise_norm(&self, ins: usize, outs: usize, then: Then) -> Result<Linear, SamError> {
        let (weight, bias) = self.folded([outs, ins, 1, 1])?;
        Ok(Linear::new(weight.reshape([outs, ins]), Some(bias), then))
    }

    /// A convolution and its batch norm.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn conv_norm(&self, [ins, outs, kernel]: [usize; 3], stride: usize, then: Then) -> Result<Conv, SamError> {
        let (weight, bias) = self.folded([outs, ins, kernel, kernel])?;
        Ok(Conv::new(weight, Some(bias), stride, then))
    }

    /// A depthwise convolution and its batch norm.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn depthwise_norm(
        &self,
        channels: usize,
        kernel: usize,
        stride: usize,
        then: Then,
    ) -> Result<Depthwise, SamError> {
        let (weight, bias) = self.folded([channels, 1, kernel, kernel])?;
        Ok(Depthwise::new(weight, Some(bias), stride, then))
    }

    /// Weight and bias of a convolution `c` whose batch norm `bn` is folded: in the file already, or here.
    ///
    /// # Source
    /// `Conv2d_BN` of TinyViT and MobileSAM: a convolution without bias, then a batch norm of epsilon 1e-5.
    fn folded(&self, shape: [usize; 4]) -> Result<(Tensor<4>, Tensor<1>), SamError> {
        let (conv, norm) = (self.at("c"), self.at("bn"));
        if conv.has("bias") {
            return Ok((conv.tensor("weight", shape)?, conv.tensor("bias", [shape[0]])?));
        }
        if conv.has("weight") && !norm.has(NORM[0]) {
            let (origin, name) = (self.tensors.origin.to_string(), format!("{}c.bias or bn.*", self.prefix));
            return Err(SamError::Missing { origin, name, expected: vec![shape[0]] });
        }
        let weight = &conv.host("weight", &shape)?.values;
        let of_norm = [0, 1, 2, 3].map(|idx| norm.host(NORM[idx], &shape[..1]).map(|tensor| tensor.values.as_slice()));
        let [scale, shift, mean, variance] = of_norm;
        let (folded, bias) = fold(weight, [scale?, shift?, mean?, variance?]);
        let device = self.device();
        Ok((
            Tensor::from_data(TensorData::new(folded, shape), device),
            Tensor::from_data(TensorData::new(bias, [shape[0]]), device),
        ))
    }
}

/// Names of a batch norm's tensors: scale, shift, mean, variance.
const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// A convolution's weight with its batch norm, and the bias that comes of it. In double precision, as what is folded is rounded once.
fn fold(weight: &[f32], [scale, shift, mean, variance]: [&[f32]; 4]) -> (Vec<f32>, Vec<f32>) {
    let (outs, per_output) = (scale.len(), weight.len() / scale.len());
    let factor = |out: usize| f64::from(scale[out]) / (f64::from(variance[out]) + 1e-5).sqrt();
    let folded = weight.iter().enumerate().map(|(at, value)| (f64::from(*value) * factor(at / per_output)) as f32);
    let bias = (0..outs).map(|out| (f64::from(shift[out]) - f64::from(mean[out]) * factor(out)) as f32);
    (folded.collect(), bias.collect())
}

/// The same tensors with every `Conv2d_BN` folded: `c.weight` and `c.bias` in place of `c.weight` and `bn.*`.
///
/// # Errors
/// If a batch norm's tensor is missing, has another shape or a value that is not finite; `origin` names the file.
pub(crate) fn folded_norms(origin: &str, mut tensors: NamedWeights) -> Result<NamedWeights, SamError> {
    let is_unfolded = |name: &String| Some(format!("{}bn.weight", name.strip_suffix("c.weight")?));
    let convolutions: Vec<String> = tensors
        .keys()
        .filter(|name| is_unfolded(name).is_some_and(|norm| tensors.contains_key(&norm)))
        .map(|name| name.trim_end_matches("c.weight").to_string())
        .collect();
    let cpu = Device::flex();
    for prefix in convolutions {
        let known = Tensors::new(origin, &tensors, &cpu);
        let (root, of_conv) = (known.root(), format!("{prefix}c.weight"));
        let shape = tensors[&of_conv].shape.clone();
        let weight = root.host(&of_conv, &shape)?;
        let outs = [shape.first().copied().unwrap_or(0)];
        let of_norm = [0, 1, 2, 3].map(|idx| root.host(&format!("{prefix}bn.{}", NORM[idx]), &outs));
        let [scale, shift, mean, variance] = of_norm;
        let (values, bias) = fold(&weight.values, [&scale?.values, &shift?.values, &mean?.values, &variance?.values]);
        for name in NORM.iter().copied().chain(["num_batches_tracked"]) {
            tensors.remove(&format!("{prefix}bn.{name}"));
        }
        tensors.insert(of_conv, HostTensor { shape, values });
        tensors.insert(format!("{prefix}c.bias"), HostTensor { shape: outs.to_vec(), values: bias });
    }
    Ok(tensors)
}
