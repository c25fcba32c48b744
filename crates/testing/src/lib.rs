//! Golden cases, tolerances and fixtures for the tests of this workspace.
//!
//! Nothing here ships; every function panics with a reason, because its callers are tests.

pub mod hostile;
pub mod s3_server;

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The root of the workspace that is being tested.
pub fn workspace_root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().and_then(Path::parent).expect("crates/testing lies two levels below the root").to_path_buf()
}

/// The folder of real images, teacher answers and vendor files that developers and CI have and users need not:
/// `SENSEI_SHARED`, or `../shared` beside the workspace. Prints a line naming `test` when there is none.
///
/// # Panics
/// In CI (`CI` is set), where a skipped test would go unnoticed.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where shared data is")]
pub fn shared_dir(test: &str) -> Option<PathBuf> {
    let dir = match std::env::var_os("SENSEI_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => workspace_root().join("../shared"),
    };
    if dir.is_dir() {
        return Some(dir);
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: no shared data at {}, and CI must not skip", dir.display());
    skipped(test, &format!("no shared data at {}", dir.display()));
    None
}

/// Prints a line that says that `test` did not run, and why.
pub fn skipped(test: &str, reason: &str) {
    // The line goes around the test harness's capture on purpose: a skip has to be seen.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// Whether `python3` has these modules, for tests that ask other programs through it. Prints a line naming `test` where it has not.
///
/// # Panics
/// In CI (`CI` is set), where a skipped test would go unnoticed.
#[expect(clippy::disallowed_methods, reason = "whether a test may be skipped is the environment's")]
pub fn python_has(modules: &[&str], test: &str) -> bool {
    let program = format!("import {}", modules.join(", "));
    let done = std::process::Command::new("python3").args(["-c", &program]).output();
    let has = done.is_ok_and(|done| done.status.success());
    if !has {
        let reason = format!("python3 has not all of the modules {}", modules.join(", "));
        assert!(std::env::var_os("CI").is_none(), "{test}: {reason}, and CI must not skip");
        skipped(test, &reason);
    }
    has
}

/// Reference tensors made by the `make.py` beside them.
pub struct GoldenCase {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Opens `tests/golden/<area_case>/data.safetensors`.
pub fn golden(area_case: &str) -> GoldenCase {
    let path = workspace_root().join("tests/golden").join(area_case).join("data.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    GoldenCase { path, bytes }
}

impl GoldenCase {
    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.open().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.open()
            .tensor(name)
            .unwrap_or_else(|error| panic!("{}: {name}: {error}", self.path.display()))
            .shape()
            .to_vec()
    }

    /// Values of a 32-bit float tensor.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.values(name, Dtype::F32, f32::from_le_bytes)
    }

    /// Values of a 64-bit float tensor.
    pub fn f64s(&self, name: &str) -> Vec<f64> {
        self.values(name, Dtype::F64, f64::from_le_bytes)
    }

    /// Values of a 64-bit integer tensor.
    pub fn i64s(&self, name: &str) -> Vec<i64> {
        self.values(name, Dtype::I64, i64::from_le_bytes)
    }

    /// Values of a byte tensor.
    pub fn u8s(&self, name: &str) -> Vec<u8> {
        self.values(name, Dtype::U8, |[byte]| byte)
    }

    fn open(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    fn values<const N: usize, T>(&self, name: &str, dtype: Dtype, decode: fn([u8; N]) -> T) -> Vec<T> {
        let tensors = self.open();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.path.display()));
        assert_eq!(tensor.dtype(), dtype, "{}: {name}: element type", self.path.display());
        tensor.data().as_chunks::<N>().0.iter().map(|bytes| decode(*bytes)).collect()
    }
}

/// How far a value may be from the reference: `|got - expected| <= absolute + relative * |expected|`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// In units of the value.
    pub absolute: f64,
    /// As a share of the expected value.
    pub relative: f64,
}

/// Fails with the worst element if any value is farther than `tolerance` from its reference, or not a number.
pub fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: Tolerance) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let excess = |(&got, &expected): (&f32, &f32)| {
        let (got, expected) = (f64::from(got), f64::from(expected));
        let excess = (got - expected).abs() - tolerance.absolute - tolerance.relative * expected.abs();
        if excess.is_nan() { f64::INFINITY } else { excess }
    };
    let worst = got.iter().zip(expected).map(excess).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((idx, excess)) = worst {
        assert!(excess <= 0.0, "{what}[{idx}]: got {}, expected {} within {tolerance:?}", got[idx], expected[idx]);
    }
}

/// Euclidean distance of two vectors relative to the length of `expected`.
pub fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len(), "number of values");
    let square = |x: f64| x * x;
    let distance: f64 = got.iter().zip(expected).map(|(g, e)| square(f64::from(*g) - f64::from(*e))).sum();
    let length: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    (distance / length.max(f64::MIN_POSITIVE)).sqrt()
}
