//! TinyViT as student: the published encoder's features, and gradients of everything that is trained.

#[allow(dead_code, reason = "of the helpers these tests need five")]
mod made_up;

use burn::tensor::{Device, Tensor, TensorData};
use made_up::{close, host, made_up, some_features, weights};
use sensei_sam::encoder_student::EMBEDDING;
use sensei_sam::tiny_vit::TinyVitConfig;
use sensei_sam::tiny_vit_student::{INPUT_FACTOR, INPUT_SHIFT, TinyVitStudent, fresh_tiny_vit, published_tiny_vit};
use sensei_tensor::network::{HostTensor, Inputs, NamedWeights, Network, Pass};
use sensei_testing::golden;

fn small() -> TinyVitConfig {
    TinyVitConfig {
        input_size: 64,
        channels: [8, 8, 12, 16],
        blocks: [1, 1, 2, 1],
        heads: [2, 3, 4],
        windows: [3, 4, 2],
        out_channels: 6,
    }
}

fn picture(side: usize) -> Tensor<4> {
    let values = made_up("image.small", &[1, 3, side, side]).values;
    Tensor::from_data(TensorData::new(values, [1, 3, side, side]), &Device::flex())
}

/// The case's batch norms are not folded; the student's are.
#[test]
fn its_features_are_the_published_encoders() {
    let case = golden("sam");
    let tensors = published_tiny_vit("made up", &weights(&case)).expect("MobileSAM's tensors");
    assert!(tensors.keys().all(|name| !name.contains("bn.")), "batch norms are folded");
    let config = TinyVitConfig::mobile_sam();
    let student = TinyVitStudent::new(config.clone(), 64, &tensors, &Device::flex()).expect("its encoder");
    // The case's image is normalised as the published code does.
    let mut image = made_up("image.pixels", &[1, 1024, 1024, 3]).values;
    for pixel in image.chunks_exact_mut(3) {
        for (value, (factor, shift)) in pixel.iter_mut().zip(INPUT_FACTOR.iter().zip(INPUT_SHIFT)) {
            *value = (*value - shift) / factor;
        }
    }
    let image: Tensor<4> = Tensor::from_data(TensorData::new(image, [1, 1024, 1024, 3]), &Device::flex());
    let taps: Vec<String> = student.taps().into_iter().map(|tap| tap.name).collect();
    assert_eq!(taps.last().map(String::as_str), Some(EMBEDDING));
    let inputs = Inputs { images: image.permute([0, 3, 1, 2]), taps: &taps };
    let features = student.forward(inputs, Pass::Eval).expect("its own taps").taps;
    for (name, features) in taps.iter().zip(features) {
        let features = features.permute([0, 2, 3, 1]);
        close(name, &some_features(features), &case.f32s(&format!("tap.{name}")));
    }
}

fn loss(student: &TinyVitStudent, images: &Tensor<4>) -> Tensor<1> {
    let outputs = student.forward(Inputs { images: images.clone(), taps: &[EMBEDDING.into()] }, Pass::Train);
    let map = outputs.expect("its tap").taps.remove(0);
    assert_eq!(map.dims(), [1, 6, 8, 8]);
    // Not its square, of which a last norm leaves little to learn.
    let place = made_up("image.weights", &[1, 6, 8, 8]).values;
    let place = Tensor::<4>::from_data(TensorData::new(place, [1, 6, 8, 8]), &map.device());
    (map * place).sum()
}

/// A fresh student whose biases are not all 0.
fn moved(seed: u64) -> NamedWeights {
    let mut tensors = fresh_tiny_vit(&small(), seed);
    for (name, HostTensor { shape, values }) in &mut tensors {
        if values.iter().all(|value| *value == 0.0) {
            *values = made_up(name, shape).values;
        }
    }
    tensors
}

/// Four cells a side, which the neck upsamples; windows that reach beyond the map.
#[test]
fn every_tensors_gradient_is_the_slope_of_the_loss() {
    let tensors = moved(3);
    let device = Device::flex().autodiff();
    let student = TinyVitStudent::new(small(), 8, &tensors, &device).expect("its tensors");
    let images = picture(64);
    let mut gradients = loss(&student, &images).backward();
    for parameter in &student.groups()[0].parameters {
        let name = &parameter.name;
        let gradient = parameter.values.grad_remove(&mut gradients).unwrap_or_else(|| panic!("{name}: no gradient"));
        let gradient = host(gradient);
        let norm = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "{name}: no slope");
        // Along the gradient itself, where the loss is steepest and rounding weighs least.
        let step = 2e-3 * (tensors[name].values.len() as f64).sqrt().min(4.0);
        let at = |sign: f64| {
            let mut tensors = tensors.clone();
            let moved = &mut tensors.get_mut(name).expect("its own tensor").values;
            for (value, slope) in moved.iter_mut().zip(&gradient) {
                *value += (sign * step * f64::from(*slope) / norm) as f32;
            }
            let student = TinyVitStudent::new(small(), 8, &tensors, &Device::flex()).expect("its tensors");
            f64::from(host(loss(&student, &images))[0])
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!((slope / norm - 1.0).abs() < 0.05, "{name}: slope {slope}, gradient {norm}");
    }
}

#[test]
fn tensors_of_another_network_are_refused() {
    let refused = |change: &dyn Fn(&mut NamedWeights)| {
        let mut tensors = fresh_tiny_vit(&small(), 3);
        change(&mut tensors);
        TinyVitStudent::new(small(), 8, &tensors, &Device::flex()).map(drop).expect_err("refused").to_string()
    };
    let missing = refused(&|tensors| drop(tensors.remove("layers.1.blocks.0.attn.attention_biases")));
    assert!(
        missing.contains("layers.1.blocks.0.attn.attention_biases: expected a tensor of shape [2, 9]"),
        "{missing}"
    );
    let more = refused(&|tensors| {
        tensors.insert("layers.3.blocks.1.mlp.fc1.bias".into(), HostTensor { shape: vec![1], values: vec![0.0] });
    });
    assert!(more.contains("layers.3.blocks.1.mlp.fc1.bias"), "{more}");
    assert_eq!(fresh_tiny_vit(&small(), 3), fresh_tiny_vit(&small(), 3));
    assert_ne!(fresh_tiny_vit(&small(), 3), fresh_tiny_vit(&small(), 4));

    let mut published = NamedWeights::new();
    published.insert("a.c.weight".into(), HostTensor { shape: vec![2, 1, 1, 1], values: vec![1.0, 2.0] });
    published.insert("a.bn.weight".into(), HostTensor { shape: vec![2], values: vec![1.0, f32::NAN] });
    let error = published_tiny_vit("a file", &published).expect_err("refused").to_string();
    assert!(error.contains("a.bn.weight"), "{error}");
}

/// 38.8 G products at 1024 x 1024, which the configuration is documented with.
#[test]
fn products_are_counted_as_published() {
    let macs = TinyVitConfig::mobile_sam().macs(64) as f64 / 1e9;
    assert!((macs - 38.8).abs() < 0.05, "{macs}");
    let parameters: usize =
        fresh_tiny_vit(&TinyVitConfig::mobile_sam(), 1).values().map(|tensor| tensor.values.len()).sum();
    assert_eq!(parameters, 5_738_964, "those of MobileSAM's file with folded batch norms");
    let half = TinyVitConfig { input_size: 512, ..TinyVitConfig::mobile_sam() };
    assert!(half.macs(64) < TinyVitConfig::mobile_sam().macs(64) / 3, "{}", half.macs(64));
}
