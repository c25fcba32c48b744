//! The training forward pass with convolutions in 16-bit floats, for devices that multiply those faster.

use burn::tensor::{FloatDType, Tensor};

use crate::graph::{Conv, Op};
use crate::ops::portable;
use crate::run::run_graph;
use crate::student::{BatchStats, Student, TrainForward};

/// The 16-bit format that convolutions compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfPrecision {
    /// IEEE 754 half: 11 bits of precision, at most 65504; small gradients need a scaled loss.
    F16,
    /// The upper half of a 32-bit float: 8 bits of precision, the same range.
    Bf16,
}

impl HalfPrecision {
    /// Its type on a device.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl Student {
    /// [`Student::forward_train`] with convolutions, additions and feature maps in 16 bits.
    ///
    /// Weights, and with them their gradients, stay in 32 bits and are rounded where they are used; batch norms, means, the
    /// logistic function and the mask logits are computed in 32 bits.
    ///
    /// # Source
    /// Micikevicius et al. 2018, "Mixed Precision Training", section 3.1; which operators stay in 32 bits is as in
    /// `torch.autocast`.
    ///
    /// # Panics
    /// If the device cannot compute in `half`, which `Device::supports_dtype` tells; and as [`Student::forward_train`].
    pub fn forward_train_mixed(&self, image: Tensor<4>, half: HalfPrecision) -> TrainForward {
        let image = if self.device().is_autodiff() { image.autodiff() } else { image };
        let half = half.dtype();
        let mut batch_stats = Vec::with_capacity(self.n_norms());
        let output = run_graph(self.graph(), image.cast(half), |idx, node, mut inputs| {
            let x = inputs.remove(0);
            match &node.op {
                Op::Input => x,
                Op::Conv(conv) => self.conv_mixed(idx, conv, x, half, &mut batch_stats),
                Op::UpsampleNearest2x => portable::upsample_2x(x),
                Op::GlobalAveragePool => portable::global_average_pool(x.cast(FloatDType::F32)).cast(half),
                Op::Sigmoid => portable::sigmoid(x.cast(FloatDType::F32)).cast(half),
                Op::Add => portable::add(x, inputs.remove(0)),
                Op::ScaleChannels => portable::scale_channels(x, inputs.remove(0)),
            }
        });
        TrainForward { mask_logits: output.cast(FloatDType::F32), batch_stats }
    }

    fn conv_mixed(
        &self,
        idx: usize,
        conv: &Conv,
        x: Tensor<4>,
        half: FloatDType,
        batch_stats: &mut Vec<BatchStats>,
    ) -> Tensor<4> {
        let (weight, bias) = self.conv_weights(idx, conv);
        let y = portable::conv2d(x, weight.cast(half), bias.map(|bias| bias.cast(half)), conv);
        let Some((scale, shift)) = self.norm_weights(idx) else {
            return if conv.relu { portable::relu(y) } else { y };
        };
        let (output, stats) = portable::batch_norm_train(y.cast(FloatDType::F32), scale, shift, conv.relu);
        batch_stats.push(self.norm_stats(idx, stats));
        output.cast(half)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::unet::UnetConfig;

    fn gradients(student: &Student, half: Option<HalfPrecision>) -> (Vec<f32>, Vec<f32>) {
        let side = student.graph().input_size();
        let values: Vec<f32> = (0..4 * 3 * side * side).map(|at| ((at * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let image = Tensor::from_data(TensorData::new(values, [4, 3, side, side]), &Device::flex());
        let forward = match half {
            Some(half) => student.forward_train_mixed(image, half),
            None => student.forward_train(image),
        };
        assert_eq!(forward.mask_logits.dtype(), burn::tensor::DType::F32);
        let logits = forward.mask_logits.clone().inner().try_to_vec_as::<f32>().expect("on the host");
        // Scaled, as training does: gradients of a mean over pixels are below the smallest 16-bit number.
        let mut found = (forward.mask_logits.clone() * forward.mask_logits).mean().mul_scalar(4096.0).backward();
        let each = student.parameters().iter().map(|parameter| {
            let gradient = parameter.values.grad_remove(&mut found).expect("a tracked leaf");
            gradient.try_to_vec_as::<f32>().expect("32-bit gradients of 32-bit weights")
        });
        (logits, each.flatten().collect())
    }

    fn relative(found: &[f32], expected: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
        (difference / square(&mut expected.iter().map(|&b| f64::from(b)))).sqrt()
    }

    #[test]
    fn sixteen_bits_stay_near_thirty_two() {
        for config in [UnetConfig::picosam2(), UnetConfig::picosam3()] {
            let graph = UnetConfig { input_size: 64, ..config }.graph().expect("a valid setting");
            let student = Student::new(graph, 3, &Device::flex().autodiff());
            let exact = gradients(&student, None);
            // 2^-11 and 2^-8 per operation, through some 20 convolutions and batch norms of an untrained network. Gradients are
            // further off the deeper they lie, as every ReLU that changes sides moves all below it, which 32 bits do too (5e-3
            // against 64); a wrong operator is
            // off by 1 or more.
            let bounds = [(HalfPrecision::F16, 0.02, 0.4), (HalfPrecision::Bf16, 0.15, 0.9)];
            for (half, logits_off, gradients_off) in bounds {
                let mixed = gradients(&student, Some(half));
                let (logits, gradients) = (relative(&mixed.0, &exact.0), relative(&mixed.1, &exact.1));
                assert!(logits < logits_off && gradients < gradients_off, "{half:?}: {logits} {gradients}");
                assert!(logits > 1e-5, "{half:?}: it did not compute in 16 bits");
            }
        }
    }
}
