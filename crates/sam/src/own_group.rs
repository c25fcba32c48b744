//! Groups of parameters that a network here holds itself: their tensors in and out, by name.

use burn::tensor::Device;
use sensei_tensor::network::{HostTensor, NamedWeights, NetworkError, Parameter, ParameterGroup};

use crate::error::SamError;

/// A group of these tensors.
pub(crate) fn group_of(name: &str, tensors: &NamedWeights, device: &Device) -> ParameterGroup {
    let parameters = tensors.iter().map(|(name, tensor)| Parameter::new(name.clone(), tensor.clone(), device));
    ParameterGroup { name: name.into(), parameters: parameters.collect() }
}

/// A group's tensors.
pub(crate) fn tensors_of(group: &ParameterGroup) -> NamedWeights {
    group.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.to_host())).collect()
}

/// The group with other values.
///
/// # Errors
/// If a tensor is missing, is not of the group, or has another shape or a value that is not finite.
pub(crate) fn with_tensors(
    group: &ParameterGroup,
    mut tensors: NamedWeights,
    device: &Device,
) -> Result<ParameterGroup, NetworkError> {
    let failed = |source: SamError| NetworkError::Tensors { group: group.name.clone(), source: source.into() };
    let origin = || "weights".to_string();
    let mut parameters = Vec::with_capacity(group.parameters.len());
    for Parameter { name, shape, .. } in &group.parameters {
        let tensor = tensors.remove(name).ok_or_else(|| {
            failed(SamError::Missing { origin: origin(), name: name.clone(), expected: shape.clone() })
        })?;
        check(name, shape, &tensor).map_err(failed)?;
        parameters.push(Parameter::new(name.clone(), tensor, device));
    }
    match tensors.first_key_value() {
        Some((name, tensor)) => {
            let (name, found, more) = (name.clone(), tensor.shape.clone(), tensors.len() - 1);
            Err(failed(SamError::Unexpected { origin: origin(), name, found, more }))
        }
        None => Ok(ParameterGroup { name: group.name.clone(), parameters }),
    }
}

/// Names and shapes, for a digest of a network's structure.
pub(crate) fn describe(group: &ParameterGroup) -> String {
    group.parameters.iter().map(|parameter| format!("{} {:?}\n", parameter.name, parameter.shape)).collect()
}

fn check(name: &str, shape: &[usize], tensor: &HostTensor) -> Result<(), SamError> {
    let origin = "weights".to_string();
    if tensor.shape != shape || tensor.values.len() != shape.iter().product::<usize>() {
        let (name, expected, found) = (name.into(), shape.into(), tensor.shape.clone());
        return Err(SamError::Shape { origin, name, expected, found });
    }
    match tensor.values.iter().position(|value| !value.is_finite()) {
        Some(idx) => Err(SamError::NotFinite { origin, name: name.into(), idx, found: tensor.values[idx] }),
        None => Ok(()),
    }
}

/// The group of this name.
///
/// # Errors
/// If none has it.
pub(crate) fn group_named<'a>(
    groups: impl IntoIterator<Item = &'a ParameterGroup> + Clone,
    name: &str,
) -> Result<&'a ParameterGroup, NetworkError> {
    let found = groups.clone().into_iter().find(|group| group.name == name);
    found.ok_or_else(|| NetworkError::NoSuchGroup {
        name: name.into(),
        groups: groups.into_iter().map(|group| group.name.clone()).collect(),
    })
}
