//! A student in training on the chip's grid: its weights and their thresholds are two groups of one network.

use burn::tensor::Device;
use sensei_student::features::{Features, taps};
use sensei_student::student::{Student, WEIGHTS};
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap,
};

use crate::qat::{Quantizers, THRESHOLDS};

/// A student and the thresholds that it is rounded by.
pub struct GridStudent {
    student: Student,
    quantizers: Quantizers,
}

impl GridStudent {
    /// The student with thresholds of its network; both are on one device.
    pub fn new(student: Student, quantizers: Quantizers) -> Self {
        Self { student, quantizers }
    }
}

impl Network for GridStudent {
    fn device(&self) -> &Device {
        self.student.device()
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        let mut groups = self.student.groups();
        groups.push(self.quantizers.group());
        groups
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        let mut groups = self.student.groups_mut();
        groups.push(self.quantizers.group_mut());
        groups
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        if group == THRESHOLDS { self.quantizers.to_named() } else { self.student.tensors(group) }
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        match group {
            WEIGHTS => self.student.set_tensors(group, tensors),
            THRESHOLDS => {
                let quantizers = self.quantizers.clone().with_values(tensors);
                let misfit = |error: crate::error::QuantError| NetworkError::Tensors {
                    group: group.into(),
                    source: error.into(),
                };
                self.quantizers = quantizers.map_err(misfit)?;
                Ok(())
            }
            _ => {
                let groups = [WEIGHTS, THRESHOLDS].map(String::from).to_vec();
                Err(NetworkError::NoSuchGroup { name: group.into(), groups })
            }
        }
    }

    fn structure_digest(&self) -> String {
        self.student.structure_digest()
    }

    fn min_train_batch(&self) -> usize {
        self.student.min_train_batch()
    }

    fn taps(&self) -> Vec<Tap> {
        taps(self.student.graph())
    }

    /// [`Pass::TrainOnGrid`], and [`Pass::Eval`] of the float student.
    fn forward(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Outputs, NetworkError> {
        match pass {
            Pass::TrainOnGrid(statistics) => {
                let features = Features::new(self.student.graph(), inputs.taps)?;
                Ok(self.quantizers.train(&self.student, inputs.images, statistics, features))
            }
            Pass::Eval => self.student.forward(inputs, pass),
            Pass::Train | Pass::TrainMixed(_) => {
                Err(NetworkError::Pass { network: "a student on the chip's grid", pass })
            }
        }
    }

    fn update_running_stats(&mut self, stats: &[BatchStats]) {
        Network::update_running_stats(&mut self.student, stats);
    }

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Self {
            student: Student::to_device(&self.student, device),
            quantizers: self.quantizers.to_device(device),
        })
    }
}
