//! The operators of students, as ONNX has them: what float and quantized files share.

use sensei_graph::op::{Activation, ConvShape, GraphOp, Upsampling};

use crate::builder::{GraphBuilder, Length, int, ints, text};
use crate::proto::Attribute;

/// The shape of one image's tensor.
pub(crate) fn fixed(shape: [usize; 3]) -> Vec<Length> {
    std::iter::once(1).chain(shape).map(Length::Fixed).collect()
}

pub(crate) fn conv_attributes(shape: &ConvShape) -> Vec<Attribute> {
    let square = |value: usize| [value as i64; 2];
    vec![
        ints("dilations", &square(shape.dilation)),
        int("group", shape.groups as i64),
        ints("kernel_shape", &square(shape.kernel)),
        ints("pads", &[shape.padding as i64; 4]),
        ints("strides", &square(shape.stride)),
    ]
}

/// The value after an activation; itself where there is none.
pub(crate) fn activation(g: &mut GraphBuilder, value: &str, activation: Activation) -> String {
    match activation {
        Activation::None => value.to_string(),
        Activation::Relu => g.node("Relu", &[value]),
        Activation::Relu6 => {
            let (low, high) = (g.floats(&[], &[0.0]), g.floats(&[], &[6.0]));
            g.node("Clip", &[value, &low, &high])
        }
    }
}

pub(crate) fn upsample(g: &mut GraphBuilder, value: &str, upsampling: Upsampling) -> String {
    let scales = g.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
    let attributes = match upsampling {
        Upsampling::Nearest => {
            vec![
                text("coordinate_transformation_mode", "asymmetric"),
                text("mode", "nearest"),
                text("nearest_mode", "floor"),
            ]
        }
        Upsampling::Bilinear => vec![text("coordinate_transformation_mode", "half_pixel"), text("mode", "linear")],
    };
    g.node_with("Resize", &[value, "", &scales], attributes)
}

/// What ONNX calls an operator that has neither weights nor attributes.
///
/// # Panics
/// If it has.
pub(crate) fn without_weights<C>(op: &GraphOp<C>) -> &'static str {
    match op {
        GraphOp::Add => "Add",
        GraphOp::GlobalAveragePool => "GlobalAveragePool",
        GraphOp::Sigmoid => "Sigmoid",
        GraphOp::ScaleChannels => "Mul",
        GraphOp::Input | GraphOp::Conv(_) | GraphOp::Upsample2x(_) => panic!("without_weights: an operator with more"),
    }
}
