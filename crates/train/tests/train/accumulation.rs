//! What accumulating gradients over batches is equal to, and what not.
//!
//! A step over two batches of 2 minimises the mean over the 4 samples, but each batch norm sees 2 samples at a time. So
//! it is the step over one batch of 4 where both have the same statistics, and another step where they have not.

use sensei_data::augment::Augmentation;
use sensei_testing::{Tolerance, assert_close};
use sensei_train::event::Event;
use sensei_train::plan::TrainPlan;

use crate::{Fixture, Ran, Run, plan, student};

/// One epoch without augmentation.
fn accumulating(batch_size: usize, accumulate_batches: usize) -> TrainPlan {
    let mut plan = TrainPlan { batch_size, accumulate_batches, average: None, ..plan() };
    plan.stages.truncate(1);
    plan.stages[0].epochs = 1;
    plan.stages[0].schedule.warmup_steps = 0;
    plan.stages[0].augmentation = Augmentation::NONE;
    plan
}

fn run(fixture: &Fixture, batch_size: usize, accumulate_batches: usize) -> Ran {
    let dir = fixture.checkpoints(&format!("{batch_size}x{accumulate_batches}"));
    Run::new(&dir).fit(&accumulating(batch_size, accumulate_batches), student(), &fixture.source).unwrap()
}

/// The same annotation `n` times, with ids of their own.
fn copies(n: u64) -> Fixture {
    Fixture::with_annotations(|file| {
        let first = file["annotations"][0].clone();
        let copy = |id| {
            let mut copy = first.clone();
            copy["id"] = serde_json::json!(id);
            copy
        };
        file["annotations"] = (1..=n).map(copy).collect();
    })
}

fn first_step(ran: &Ran) -> (f64, f64, usize) {
    let step = ran.events.iter().find_map(|event| match event {
        Event::Step { loss, gradient_norm, n_samples, .. } => Some((*loss, *gradient_norm, *n_samples)),
        _ => None,
    });
    step.unwrap()
}

#[test]
fn same_statistics_make_the_same_step() {
    // Three samples as 2 + 1 as well: the batches count by their samples.
    for n in [4, 3] {
        let fixture = copies(n);
        let (whole, halves) = (run(&fixture, 4, 1), run(&fixture, 2, 2));
        assert_eq!((whole.fitted.step, halves.fitted.step), (1, 1));
        let ((loss, norm, n_whole), (loss_of_halves, norm_of_halves, n_halves)) =
            (first_step(&whole), first_step(&halves));
        assert_eq!((n_whole, n_halves), (n as usize, n as usize));
        assert!((loss / loss_of_halves - 1.0).abs() < 1e-5, "loss {loss} and {loss_of_halves}");
        assert!((norm / norm_of_halves - 1.0).abs() < 1e-3, "gradient {norm} and {norm_of_halves}");
        for (name, whole) in whole.weights() {
            // Running statistics move once a batch, and the unbiased variance knows the batch's size.
            if !name.contains("running_") {
                // AdamW's first step is the learning rate times the gradient's sign: 1e-2 and at most twice that.
                let halves = &halves.weights()[name].values;
                let n_moved = whole.values.iter().zip(halves).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
                assert!(n_moved * 50 <= whole.values.len(), "{name}: {n_moved} of {} differ", whole.values.len());
                assert_close(name, halves, &whole.values, Tolerance { absolute: 2.1e-2, relative: 0.0 });
            }
        }
    }
}

#[test]
fn other_statistics_make_another_step() {
    let fixture = Fixture::new();
    let (whole, halves) = (run(&fixture, 4, 1), run(&fixture, 2, 2));
    assert_eq!((whole.fitted.step, halves.fitted.step), (3, 3));
    let ((loss, ..), (loss_of_halves, ..)) = (first_step(&whole), first_step(&halves));
    assert!((loss / loss_of_halves - 1.0).abs() > 1e-5, "loss {loss} and {loss_of_halves}");
}

#[test]
fn one_batch_a_step_needs_no_accumulation() {
    // Batches that hold all samples, and room for more of them.
    let fixture = Fixture::new();
    let digest = |accumulate| run(&fixture, 16, accumulate).fitted.state_digest;
    assert_eq!(digest(1), digest(3));
}
