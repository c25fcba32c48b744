//! Weights that follow from their names, as in `tests/golden/sam/network.py`.

use burn::tensor::Tensor;
use sensei_sam::prompt_encoder::{PointLabel, PromptPoint};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_testing::{GoldenCase, relative_l2};

/// A tensor of this name and shape.
pub fn made_up(name: &str, shape: &[usize]) -> HostTensor {
    let crc = name.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let start = f64::from(!crc % 1000);
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let is_plain = name.ends_with("gaussian_matrix") || name.starts_with("image.");
    let value = |idx: usize| {
        let value = (0.618034 * (idx as f64 + 1.0) + start).sin();
        (if name.ends_with("running_var") {
            1.0 + 0.5 * value
        } else if is_plain {
            value
        } else if shape.len() >= 2 {
            value * (2.0 / fan_in).sqrt()
        } else if name.ends_with("weight") {
            1.0 + 0.2 * value
        } else {
            0.1 * value
        }) as f32
    };
    HostTensor { shape: shape.to_vec(), values: (0..shape.iter().product()).map(value).collect() }
}

/// All tensors of a network, whose names and shapes the case has.
pub fn weights(case: &GoldenCase) -> NamedWeights {
    let shape_of = |key: &str| case.i64s(key).iter().map(|&side| side as usize).collect::<Vec<usize>>();
    let names = case.names();
    let named = |key: &String| key.strip_prefix("shape.").map(|name| (name.into(), made_up(name, &shape_of(key))));
    names.iter().filter_map(named).collect()
}

/// The prompts of a case, of three points each, with SAM's numbers for their labels.
pub fn prompts(case: &GoldenCase) -> Vec<Vec<PromptPoint>> {
    let label = |code: i64| match code {
        -1 => PointLabel::Padding,
        0 => PointLabel::Background,
        1 => PointLabel::Foreground,
        2 => PointLabel::UpperLeft,
        3 => PointLabel::LowerRight,
        other => panic!("no label has the number {other}"),
    };
    let (points, labels) = (case.f32s("points"), case.i64s("labels"));
    let points = points.as_chunks::<2>().0.iter().zip(labels);
    let points: Vec<PromptPoint> =
        points.map(|(&[x, y], code)| PromptPoint { x: x.into(), y: y.into(), label: label(code) }).collect();
    points.chunks(3).map(<[PromptPoint]>::to_vec).collect()
}

/// Fails if the values are not the expected ones but for rounding.
pub fn close(what: &str, found: &[f32], expected: &[f32]) {
    let distance = relative_l2(found, expected);
    assert!(distance < 2e-5, "{what}: {distance}");
}

/// Every 16th channel, every 8th row and column of one image's map, `[channels, rows, columns]`.
pub fn some_features(map: Tensor<4>) -> Vec<f32> {
    let [_, height, width, channels] = map.dims();
    let values = host(map);
    let eighth = |len: usize| (0..len).step_by(8);
    let places = (0..channels)
        .step_by(16)
        .flat_map(|channel| eighth(height).flat_map(move |y| eighth(width).map(move |x| (channel, y, x))));
    places.map(|(channel, y, x)| values[(y * width + x) * channels + channel]).collect()
}

/// Every 16th row and column of all masks.
pub fn some_logits(logits: Tensor<4>) -> Vec<f32> {
    let [prompts, masks, height, width] = logits.dims();
    let values = host(logits);
    let sixteenth = |len: usize| (0..len).step_by(16);
    let rows = (0..prompts * masks).flat_map(|mask| sixteenth(height).map(move |y| (mask * height + y) * width));
    rows.flat_map(|row| sixteenth(width).map(move |x| row + x)).map(|at| values[at]).collect()
}

/// The values of a tensor on the CPU.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().expect("a tensor on the CPU")
}
