//! A student's training forward pass by burn's own operators, to compare the kernels with.

use burn::tensor::Tensor;
use sensei_graph::layer_graph::{Conv, Node, Op};
use sensei_graph::steps::run_graph;
use sensei_student::student::Student;
use sensei_tensor::ops::portable;

/// [`Student::forward_train`]'s mask logits, by burn's own operators only.
pub fn portable_forward_train(student: &Student, image: Tensor<4>) -> Tensor<4> {
    let flat = |name: String| {
        let found = student.parameters().iter().find(|parameter| parameter.name == name);
        found.unwrap_or_else(|| panic!("{name}: a parameter of the student")).values.clone()
    };
    let convolution = |node: &Node, conv: &Conv, x: Tensor<4>| {
        let weight = flat(format!("{}.weight", node.name)).reshape(conv.shape.weight_shape());
        let bias = conv.bias.then(|| flat(format!("{}.bias", node.name)));
        let y = portable::conv2d(x, weight, bias, &conv.shape);
        let Some(norm) = &conv.batch_norm else { return y };
        let (scale, shift) = (flat(format!("{norm}.weight")), flat(format!("{norm}.bias")));
        portable::batch_norm_train(y, scale, shift, conv.activation).0
    };
    run_graph(student.graph(), image.autodiff(), |_, node, mut inputs| {
        let x = inputs.remove(0);
        match &node.op {
            Op::Input => x,
            Op::Conv(conv) => convolution(node, conv, x),
            Op::Upsample2x(upsampling) => portable::upsample_2x(x, *upsampling),
            Op::Add => portable::add(x, inputs.remove(0)),
            Op::GlobalAveragePool => portable::global_average_pool(x),
            Op::Sigmoid => portable::sigmoid(x),
            Op::ScaleChannels => portable::scale_channels(x, inputs.remove(0)),
        }
    })
}
