//! `doctor`: what this program and this machine have, for a person who asks why something does not run.

use std::path::Path;
use std::process::Command;

use sensei_files::free_space::free_bytes;
use sensei_imx500::converter::Converter;
use serde::Serialize;

use crate::progress::say;

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    /// Of the program, with its commit.
    version: &'static str,
    /// That it was compiled with.
    compiler: &'static str,
    system: String,
    /// What the kernels use of this CPU.
    instructions: &'static str,
    /// That a computation starts without `--threads`.
    threads: usize,
    memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    /// Where runs would go from here.
    free_disk_bytes: Option<u64>,
    /// In this build.
    devices: Vec<&'static str>,
    /// Stores of teacher's answers that this build reaches.
    stores: Vec<&'static str>,
    /// The vendor's, on `PATH`.
    converter: Found,
    java: Found,
    /// For scripts; the program needs none.
    python: Found,
}

/// A program that may not be there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    /// What it says of itself, or where it is.
    At(String),
    /// Why not.
    Missing(String),
}

/// Prints it, for people or as JSON.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn doctor(json: bool) -> anyhow::Result<()> {
    let findings = findings();
    if json {
        say(&serde_json::to_string_pretty(&findings)?);
        return Ok(());
    }
    let gib = |bytes: Option<u64>| bytes.map_or("not known".into(), |bytes| format!("{:.1} GiB", bytes as f64 / GIB));
    let found = |found: &Found| match found {
        Found::At(what) => what.clone(),
        Found::Missing(why) => format!("none: {why}"),
    };
    for (what, value) in [
        ("sensei", findings.version.to_string()),
        ("compiled with", findings.compiler.to_string()),
        ("system", findings.system.clone()),
        ("CPU's instructions", findings.instructions.to_string()),
        ("threads", findings.threads.to_string()),
        ("memory", gib(findings.memory_bytes)),
        ("  available", gib(findings.available_memory_bytes)),
        ("free disk, here", gib(findings.free_disk_bytes)),
        ("devices in this build", findings.devices.join(", ")),
        ("stores in this build", findings.stores.join(", ")),
        ("vendor's converter", found(&findings.converter)),
        ("Java, for it", found(&findings.java)),
        ("Python, for scripts", found(&findings.python)),
    ] {
        say(&format!("{what:<22} {value}"));
    }
    Ok(())
}

fn findings() -> Findings {
    let [memory_bytes, available_memory_bytes] = memory();
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let mut devices = vec!["flex"];
    devices.extend(cfg!(feature = "ndarray").then_some("ndarray"));
    devices.extend(cfg!(feature = "wgpu").then_some("wgpu"));
    devices.extend(cfg!(feature = "cuda").then_some("cuda"));
    let mut stores = vec!["folders"];
    stores.extend(cfg!(feature = "object-store").then_some("s3, gs, az"));
    Findings {
        version: env!("SENSEI_VERSION"),
        compiler: env!("SENSEI_COMPILER"),
        system: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        instructions: instructions(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_bytes,
        available_memory_bytes,
        free_disk_bytes: free_bytes(Path::new(".")).ok().flatten(),
        devices,
        stores,
        converter: match Converter::find(None, &search_path) {
            Ok(converter) => Found::At(converter.program().display().to_string()),
            Err(error) => Found::Missing(error.to_string()),
        },
        java: first_line("java", &["-version"]),
        python: first_line("python3", &["--version"]),
    }
}

/// As the kernels choose among their builds.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return if is_x86_feature_detected!("avx512f") { "AVX-512" } else { "AVX2 and FMA" };
        }
        "SSE2 alone: training is several times slower than with AVX2"
    }
    #[cfg(not(target_arch = "x86_64"))]
    "the target's baseline"
}

/// Bytes in all and available, where the system says.
fn memory() -> [Option<u64>; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    ["MemTotal:", "MemAvailable:"].map(|key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    })
}

/// What a program says first, on either stream.
fn first_line(program: &str, arguments: &[&str]) -> Found {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let line = text.lines().next().unwrap_or_default().trim().to_string();
            if output.status.success() { Found::At(line) } else { Found::Missing(format!("{program} failed: {line}")) }
        }
        Err(error) => Found::Missing(format!("{program}: {error}")),
    }
}

const GIB: f64 = (1u64 << 30) as f64;
