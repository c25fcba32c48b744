//! The training forward pass with convolutions in 16-bit floats, for devices that multiply those faster.

use burn::tensor::{FloatDType, Tensor};
use sensei_graph::layer_graph::{Conv, Op};
use sensei_graph::steps::run_graph;
use sensei_tensor::network::{BatchStats, HalfPrecision, Outputs};
use sensei_tensor::ops::portable;

use crate::features::Features;
use crate::student::Student;

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
    pub fn forward_train_mixed(&self, image: Tensor<4>, half: HalfPrecision) -> Outputs {
        self.train_mixed(image, half, Features::none())
    }

    pub(crate) fn train_mixed(&self, image: Tensor<4>, half: HalfPrecision, mut features: Features) -> Outputs {
        let image = if self.device().is_autodiff() { image.autodiff() } else { image };
        let half = half.dtype();
        let mut batch_stats = Vec::with_capacity(self.n_norms());
        let output = run_graph(self.graph(), image.cast(half), |idx, node, mut inputs| {
            let x = inputs.remove(0);
            let output = match &node.op {
                Op::Input => x,
                Op::Conv(conv) => self.conv_mixed(idx, conv, x, half, &mut batch_stats),
                Op::Upsample2x(upsampling) => portable::upsample_2x(x, *upsampling),
                Op::GlobalAveragePool => portable::global_average_pool(x.cast(FloatDType::F32)).cast(half),
                Op::Sigmoid => portable::sigmoid(x.cast(FloatDType::F32)).cast(half),
                Op::Add => portable::add(x, inputs.remove(0)),
                Op::ScaleChannels => portable::scale_channels(x, inputs.remove(0)),
            };
            features.see(idx, &output);
            output
        });
        let to_f32 = |features: Tensor<4>| features.cast(FloatDType::F32);
        Outputs { norm_stats: batch_stats, ..features.outputs(to_f32(output), to_f32) }
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
        let y = portable::conv2d(x, weight.cast(half), bias.map(|bias| bias.cast(half)), &conv.shape);
        let Some((scale, shift)) = self.norm_weights(idx) else {
            return portable::activate(y, conv.activation);
        };
        let (output, stats) = portable::batch_norm_train(y.cast(FloatDType::F32), scale, shift, conv.activation);
        batch_stats.push(self.norm_stats(idx, stats));
        output.cast(half)
    }
}
