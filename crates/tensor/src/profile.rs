//! Where a training step's time goes: spans by layer and pass, recorded while somebody asks for them.
//!
//! The recorder is one per process, because the backward pass has no place to carry one through.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time since a fixed moment; the caller of [`start`] has the clock.
pub type Clock = fn() -> Duration;

/// A stretch of time that one thing took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// A layer's name, or what else was done.
    pub name: Arc<str>,
    /// Which pass it belongs to.
    pub pass: Pass,
    /// When it began, by the clock.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
    /// Floating-point operations of the convolutions in it: two for each multiply-accumulate.
    pub flops: u64,
}

/// What a [`Span`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// From a layer's inputs to its output.
    Forward,
    /// From the gradient of its output to those of its inputs and weights.
    Backward,
    /// Neither: a part of the step as a whole.
    Step,
}

struct Recorder {
    clock: Clock,
    spans: Vec<Span>,
}

static IS_ON: AtomicBool = AtomicBool::new(false);
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

thread_local! {
    static LAYER: RefCell<Option<Layer>> = const { RefCell::new(None) };
}

/// A layer that is being computed forward.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    name: Arc<str>,
    flops: u64,
}

impl Layer {
    /// For a part of the layer that is not its convolution.
    pub(crate) fn without_products(self) -> Self {
        Self { flops: 0, ..self }
    }
}

/// Begins to record, and forgets what was recorded before.
pub fn start(clock: Clock) {
    *recorder() = Some(Recorder { clock, spans: vec![] });
    IS_ON.store(true, Ordering::Relaxed);
}

/// Ends recording: the spans in the order in which they ended, none if nothing was started.
pub fn stop() -> Vec<Span> {
    IS_ON.store(false, Ordering::Relaxed);
    recorder().take().map(|recorder| recorder.spans).unwrap_or_default()
}

/// Records the time until the result is dropped as a part of the step.
pub fn span(name: &str) -> Timer {
    timer(Pass::Step, || Layer { name: name.into(), flops: 0 })
}

/// Records a layer's forward pass until the result is dropped; [`current`] is the layer meanwhile.
pub fn layer(name: &str, flops: u64) -> Timer {
    let timer = timer(Pass::Forward, || Layer { name: name.into(), flops });
    if let Some(running) = &timer.0 {
        LAYER.set(Some(running.layer.clone()));
    }
    timer
}

/// The layer that is being computed forward, for its backward pass; none while nothing is recorded.
pub(crate) fn current() -> Option<Layer> {
    if IS_ON.load(Ordering::Relaxed) { LAYER.with_borrow(Clone::clone) } else { None }
}

/// Records the backward pass of a layer until the result is dropped.
pub(crate) fn backward(layer: &Option<Layer>) -> Timer {
    let Some(layer) = layer else { return Timer(None) };
    // Twice the products of the forward pass: for the input and for the weight.
    timer(Pass::Backward, || Layer { name: layer.name.clone(), flops: 2 * layer.flops })
}

/// Ends its span when it is dropped.
#[must_use = "the span ends when this is dropped"]
pub struct Timer(Option<Running>);

struct Running {
    layer: Layer,
    pass: Pass,
    start: Duration,
    clock: Clock,
}

fn timer(pass: Pass, layer: impl FnOnce() -> Layer) -> Timer {
    if !IS_ON.load(Ordering::Relaxed) {
        return Timer(None);
    }
    let clock = recorder().as_ref().map(|recorder| recorder.clock);
    Timer(clock.map(|clock| Running { layer: layer(), pass, start: clock(), clock }))
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(Running { layer, pass, start, clock }) = self.0.take() else { return };
        if pass == Pass::Forward {
            LAYER.set(None);
        }
        let duration = clock().saturating_sub(start);
        if let Some(recorder) = recorder().as_mut() {
            recorder.spans.push(Span { name: layer.name, pass, start, duration, flops: layer.flops });
        }
    }
}

fn recorder() -> std::sync::MutexGuard<'static, Option<Recorder>> {
    // A panic between two pushes leaves whole spans.
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::student::Student;
    use crate::unet::UnetConfig;

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
        let output = student.forward_train(image.clone()).mask_logits;
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
}
