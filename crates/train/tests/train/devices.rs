//! Several devices that share a step's batches do what one does.

use burn::tensor::Device;
use sensei_train::plan::TrainPlan;

use crate::{Fixture, Run, plan, student};

#[test]
fn two_devices_do_what_one_does_to_the_bit() {
    let fixture = Fixture::new();
    // Steps of two batches fill both devices; of three, a second round leaves one idle; the last step of an epoch is short.
    for accumulate_batches in [2, 3] {
        let plan = TrainPlan { accumulate_batches, ..plan() };
        let run = |name: &str, other_devices: &[Device]| {
            let dir = fixture.checkpoints(&format!("{name}-{accumulate_batches}"));
            Run { other_devices, ..Run::new(&dir) }.fit(&plan, student(), &fixture.source).unwrap()
        };
        let (one, two) = (run("one", &[]), run("two", &[Device::flex()]));
        assert_eq!(one.losses(), two.losses());
        assert_eq!(one.fitted.state_digest, two.fitted.state_digest);
    }
}
