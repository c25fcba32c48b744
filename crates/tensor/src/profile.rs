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

/// Records a layer's forward pass until the result is dropped; it is the current layer meanwhile.
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
