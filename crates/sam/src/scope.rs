//! Layers by the names of their tensors.
//!
//! A network is written once, as the layers that it asks for by name. What it asked for is what a file must hold: a tensor that is missing,
//! has another shape or was not asked for is an error with its name.

use std::cell::RefCell;
use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_tensor::layers::{Conv, Depthwise, LayerNorm, Linear, Then, Upconv};
use sensei_tensor::network::{HostTensor, NamedWeights};

use crate::error::SamError;

/// The tensors of a file, and which of them a network has asked for.
pub struct Tensors<'a> {
    origin: &'a str,
    tensors: &'a NamedWeights,
    device: Device,
    asked: RefCell<BTreeSet<String>>,
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
        Self { origin, tensors, device: device.clone(), asked: RefCell::default() }
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
        let others: Vec<(&String, &HostTensor)> =
            self.tensors.iter().filter(|(name, _)| !asked.contains(*name)).collect();
        let is_unused = |name: &str| unused.iter().any(|start| name.starts_with(start));
        let strange: Vec<_> = others.iter().filter(|(name, _)| !is_unused(name)).collect();
        let Some((name, tensor)) = strange.first() else { return Ok(others.len()) };
        Err(SamError::Unexpected {
            origin: self.origin.into(),
            name: name.to_string(),
            found: tensor.shape.clone(),
            more: strange.len() - 1,
        })
    }
}

impl<'a> Scope<'a> {
    /// The tensors behind one more part of the name.
    pub fn at(&self, part: &str) -> Scope<'a> {
        Scope { tensors: self.tensors, prefix: format!("{}{part}.", self.prefix) }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensors.contains_key(&format!("{}{name}", self.prefix))
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
        let HostTensor { values, .. } = self.host(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values.clone(), shape), &self.tensors.device))
    }

    /// The same, in host memory.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn host(&self, name: &str, shape: &[usize]) -> Result<&'a HostTensor, SamError> {
        let (origin, name) = (self.tensors.origin.to_string(), format!("{}{name}", self.prefix));
        let Some(tensor) = self.tensors.tensors.get(&name) else {
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
        let weight = &conv.host("weight", &shape)?.values;
        let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|name| norm.host(name, &shape[..1]).map(|tensor| &tensor.values));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let per_output = weight.len() / shape[0];
        // In double precision, as what is folded is rounded once.
        let factor = |out: usize| f64::from(scale[out]) / (f64::from(variance[out]) + 1e-5).sqrt();
        let folded: Vec<f32> =
            weight.iter().enumerate().map(|(at, value)| (f64::from(*value) * factor(at / per_output)) as f32).collect();
        let bias: Vec<f32> =
            (0..shape[0]).map(|out| (f64::from(shift[out]) - f64::from(mean[out]) * factor(out)) as f32).collect();
        let device = self.device();
        Ok((
            Tensor::from_data(TensorData::new(folded, shape), device),
            Tensor::from_data(TensorData::new(bias, [shape[0]]), device),
        ))
    }
}
