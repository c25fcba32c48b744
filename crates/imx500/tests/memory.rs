//! The estimate against the vendor converter's reports (docs/results/imx500-memory.md).

use sensei_imx500::memory::{NetworkShape, memory_estimate};

mod sample;
use sample::{PICOSAM2, PICOSAM3, Sample};

/// Coefficients and runtime in bytes, from `dnnParams.xml` of converter 3.19.2.
const REPORTS: [(Sample, u64, u64); 11] = [
    (PICOSAM2, 1_322_656, 2_403_424),
    (PICOSAM3, 1_439_296, 2_403_424),
    (Sample { size: 64, ..PICOSAM2 }, 1_322_656, 1_077_344),
    (Sample { size: 128, ..PICOSAM2 }, 1_322_656, 4_259_936),
    (Sample { size: 128, ..PICOSAM3 }, 1_439_296, 4_259_936),
    (
        Sample { encoder: &[32, 64, 96, 128], bottleneck: 160, decoder: &[96, 64, 64, 32], ..PICOSAM2 },
        404_576,
        1_514_560,
    ),
    (Sample { encoder: &[8, 16, 24, 32], bottleneck: 40, decoder: &[24, 16, 8, 8], ..PICOSAM2 }, 71_008, 700_416),
    (Sample { encoder: &[32, 64, 128], bottleneck: 192, decoder: &[96, 64, 32], ..PICOSAM2 }, 303_200, 1_514_560),
    (
        Sample { encoder: &[16, 32, 64, 128], bottleneck: 256, decoder: &[192, 128, 96, 96], ..PICOSAM2 },
        425_824,
        1_961_056,
    ),
    (Sample { dense_bits: 4, ..PICOSAM2 }, 852_640, 2_403_424),
    (
        Sample { encoder: &[64, 128, 192, 320], bottleneck: 448, decoder: &[256, 160, 96, 64], ..PICOSAM2 },
        2_043_488,
        2_403_424,
    ),
];

#[test]
fn the_estimate_is_within_three_percent_of_the_reports() {
    for (sample, coefficients, runtime) in REPORTS {
        let estimate = memory_estimate(&NetworkShape::from(&sample.model()));
        let within = |estimate: u64, report: u64| estimate.abs_diff(report) as f64 <= 0.03 * report as f64;
        let name = format!("{} {:?} {:?}", sample.size, sample.encoder, sample.decoder);
        assert!(within(estimate.runtime, runtime), "{name}: runtime {} / {runtime}", estimate.runtime);
        let total = coefficients + runtime + 1024;
        assert!(within(estimate.total(), total), "{name}: total {} / {total}", estimate.total());
        assert!(estimate.fits());
    }
}

#[test]
fn a_network_that_cannot_fit_is_seen_before_training() {
    let large = Sample { size: 256, ..PICOSAM2 };
    assert!(!memory_estimate(&NetworkShape::from(&large.model())).fits());
}
