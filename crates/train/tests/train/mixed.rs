//! Mixed precision: it learns what 32 bits learn, steps over overflows and counts them, and resumes to the bit.

use sensei_tensor::network::HalfPrecision;
use sensei_train::event::Event;
use sensei_train::plan::TrainPlan;
use sensei_train::precision::{LossScaling, MixedPrecision};

use crate::{Fixture, Ran, Run, plan, student};

fn with(half: HalfPrecision, scaling: Option<LossScaling>) -> TrainPlan {
    TrainPlan { mixed_precision: Some(MixedPrecision { half, scaling }), ..plan() }
}

fn skipped(ran: &Ran) -> u64 {
    let last = ran.events.iter().rev().find_map(|event| match event {
        Event::Step { skipped_steps, .. } => *skipped_steps,
        _ => None,
    });
    last.unwrap()
}

#[test]
fn losses_stay_near_those_of_32_bits() {
    let fixture = Fixture::new();
    let run = |name: &str, plan: &TrainPlan| {
        Run::new(&fixture.checkpoints(name)).fit(plan, student(), &fixture.source).unwrap()
    };
    let exact = run("f32", &plan()).losses();
    let scaling = Some(LossScaling { initial: 1024.0, growth_interval: 4 });
    for (name, plan) in [("f16", with(HalfPrecision::F16, scaling)), ("bf16", with(HalfPrecision::Bf16, None))] {
        let losses = run(name, &plan).losses();
        assert_eq!(losses.len(), exact.len());
        for (step, (found, expected)) in losses.iter().zip(&exact).enumerate() {
            assert!((found / expected - 1.0).abs() < 0.1, "{name}, step {step}: {found}, in 32 bits {expected}");
        }
        assert_ne!(losses, exact, "{name}: it did not compute in 16 bits");
    }
}

#[test]
fn steps_that_overflow_change_nothing_and_are_counted() {
    let fixture = Fixture::new();
    // 2^40 times the gradient is past 65504 until it was halved often enough.
    let plan = with(HalfPrecision::F16, Some(LossScaling { initial: 2f64.powi(40), growth_interval: 1000 }));
    let dir = fixture.checkpoints("straight");
    let ran = Run::new(&dir).fit(&plan, student(), &fixture.source).unwrap();
    let n_skipped = skipped(&ran);
    assert!((5..39).contains(&n_skipped), "{n_skipped} skipped");
    let first = fixture.checkpoints("first");
    let stopped = Run { stop_after: 2, ..Run::new(&first) }.fit(&plan, student(), &fixture.source).unwrap();
    assert_eq!(skipped(&stopped), 2);
    assert_eq!(*stopped.weights(), student().to_weights(), "two skipped steps");
    let resumed = Run::resumed(&first).fit(&plan, student(), &fixture.source).unwrap();
    assert_eq!(resumed.fitted.state_digest, ran.fitted.state_digest, "resumed among skipped steps");
}
