//! What a profile of a training step holds.

#![expect(clippy::disallowed_methods, reason = "a test of times")]

use std::time::Duration;

use burn::tensor::{Device, Tensor};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::profile::{Pass, Span, span, start, stop};

fn clock() -> Duration {
    static STARTED: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(std::time::Instant::now).elapsed()
}

#[test]
fn every_layer_with_weights_has_both_passes_and_its_operations() {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12],
        bottleneck_channels: 16,
        decoder_channels: vec![12, 8],
        ..UnetConfig::picosam3()
    };
    let device = Device::flex().autodiff();
    let student = Student::new(config.graph().expect("a valid setting"), 1, &device);
    let image = Tensor::ones([2, 3, 32, 32], &device);
    start(clock);
    let whole = span("step");
    let output = student.forward_train(image.clone()).masks.0;
    let _ = output.mean().backward();
    drop(whole);
    let spans = stop();
    let total = |pass: Pass| spans.iter().filter(|span| span.pass == pass).map(|span| span.flops).sum::<u64>();
    let flops = 2 * 2 * student.graph().macs();
    assert_eq!(total(Pass::Forward), flops);
    assert_eq!(total(Pass::Backward), 2 * flops);
    for forward in spans.iter().filter(|span| span.pass == Pass::Forward && span.flops > 0) {
        let is_its = |span: &&Span| span.pass == Pass::Backward && span.name == forward.name;
        assert!(spans.iter().any(|span| is_its(&span)), "{}", forward.name);
    }
    let step = spans.last().expect("the step ends last");
    assert_eq!((&*step.name, step.pass), ("step", Pass::Step));
    assert!(spans.iter().all(|span| span.start >= step.start && span.duration <= step.duration));
    // Nothing is recorded any more.
    let _ = student.forward_train(image);
    assert_eq!(stop(), []);
}
