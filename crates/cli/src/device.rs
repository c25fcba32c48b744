//! The devices of this build, by name.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use burn::tensor::Device;

use crate::arguments::Machine;
use crate::usage;

/// A device as the command line spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// `flex`: the CPU, with Sensei's kernels.
    Flex,
    /// `ndarray`: the CPU, with burn's older backend.
    NdArray,
    /// `wgpu`, `wgpu:N`, `wgpu:integrated`, `wgpu:software`: a GPU through Vulkan, Metal or DirectX.
    Wgpu(Adapter),
    /// `cuda`, `cuda:N`: an NVIDIA GPU.
    Cuda(usize),
}

/// Which adapter of wgpu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// The most powerful GPU.
    Best,
    /// A discrete GPU, by its place among them.
    Discrete(usize),
    /// The integrated GPU.
    Integrated,
    /// A rasterizer that runs on the CPU; never taken unless it is named.
    Software,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::NdArray => f.write_str("ndarray"),
            Self::Wgpu(Adapter::Best) => f.write_str("wgpu"),
            Self::Wgpu(Adapter::Discrete(idx)) => write!(f, "wgpu:{idx}"),
            Self::Wgpu(Adapter::Integrated) => f.write_str("wgpu:integrated"),
            Self::Wgpu(Adapter::Software) => f.write_str("wgpu:software"),
            Self::Cuda(idx) => write!(f, "cuda:{idx}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, which) = text.split_once(':').map_or((text, None), |(kind, which)| (kind, Some(which)));
        let index = |which: &str| which.parse::<usize>().ok();
        let name = match (kind, which) {
            ("flex", None) => Some(Self::Flex),
            ("ndarray", None) => Some(Self::NdArray),
            ("wgpu", None) => Some(Self::Wgpu(Adapter::Best)),
            ("wgpu", Some("integrated")) => Some(Self::Wgpu(Adapter::Integrated)),
            ("wgpu", Some("software")) => Some(Self::Wgpu(Adapter::Software)),
            ("wgpu", Some(which)) => index(which).map(|idx| Self::Wgpu(Adapter::Discrete(idx))),
            ("cuda", None) => Some(Self::Cuda(0)),
            ("cuda", Some(which)) => index(which).map(Self::Cuda),
            _ => None,
        };
        name.ok_or_else(|| {
            "expected flex, ndarray, wgpu, wgpu:N, wgpu:integrated, wgpu:software, cuda or cuda:N".into()
        })
    }
}

/// The devices that compute.
pub struct Devices {
    /// The one that holds the student, and scores.
    pub main: Device,
    /// Those that share a training step's batches with it.
    pub others: Vec<Device>,
    /// What they were called, in that order.
    pub names: Vec<String>,
}

impl Devices {
    /// Refuses devices that would have nothing to do in a step of so many batches.
    ///
    /// # Errors
    /// If there are more devices than batches.
    pub fn check_batches(&self, accumulate_batches: usize) -> anyhow::Result<()> {
        let n_devices = 1 + self.others.len();
        ensure!(
            n_devices <= accumulate_batches,
            "--device names {n_devices} devices; each takes whole batches, and [train] accumulate_batches is \
             {accumulate_batches}"
        );
        Ok(())
    }
}

/// Sets the number of threads of the CPU's computation; 0 for one per core.
///
/// # Errors
/// If they cannot be started.
pub fn start_threads(threads: usize) -> anyhow::Result<()> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.context("cannot start the computation's threads")
}

/// Opens the devices that were asked for, after setting the number of threads.
///
/// # Errors
/// If the threads cannot be started, or a device is not in this build, not on this machine or not the kind that was named:
/// no other is taken in its place.
pub fn open(machine: &Machine) -> anyhow::Result<Devices> {
    start_threads(machine.threads)?;
    let names = &machine.device;
    for (at, name) in names.iter().enumerate() {
        let same_kind = std::mem::discriminant(name) == std::mem::discriminant(&names[0]);
        if !same_kind {
            let found: Vec<String> = names.iter().map(ToString::to_string).collect();
            return Err(usage(anyhow::anyhow!("--device: expected devices of one kind, found {}", found.join(", "))));
        }
        let on_cpu = matches!(name, DeviceName::Flex | DeviceName::NdArray);
        if !on_cpu && names[..at].contains(name) {
            return Err(usage(anyhow::anyhow!("--device: {name} is named twice")));
        }
    }
    let mut devices = names.iter().map(|&name| open_one(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let main = devices.remove(0);
    Ok(Devices { main, others: devices, names: names.iter().map(ToString::to_string).collect() })
}

fn open_one(name: DeviceName) -> anyhow::Result<Device> {
    match name {
        DeviceName::Flex => Ok(Device::flex()),
        DeviceName::NdArray => ndarray(),
        DeviceName::Wgpu(adapter) => wgpu(adapter),
        DeviceName::Cuda(index) => cuda(index),
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated, clippy::unnecessary_wraps, reason = "kept by name for comparison; its twin in other builds fails")]
fn ndarray() -> anyhow::Result<Device> {
    Ok(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> anyhow::Result<Device> {
    Err(not_in_this_build("ndarray"))
}

#[cfg(feature = "wgpu")]
fn wgpu(adapter: Adapter) -> anyhow::Result<Device> {
    use burn::tensor::DeviceKind;
    let kind = match adapter {
        Adapter::Best => DeviceKind::DefaultDevice,
        Adapter::Discrete(index) => DeviceKind::DiscreteGpu(index),
        Adapter::Integrated => DeviceKind::IntegratedGpu(0),
        Adapter::Software => DeviceKind::Cpu,
    };
    let advice = "is a driver for Vulkan, Metal or DirectX 12 installed? Or take --device flex";
    let opened = catch_unwind(AssertUnwindSafe(|| Device::wgpu_options().device_kind(kind).init()));
    let device = match opened {
        Ok(Ok(device)) => device,
        Ok(Err(error)) => bail!("--device wgpu: {error}; {advice}"),
        Err(panic) => bail!("--device wgpu: {}; {advice}", panic_text(&*panic)),
    };
    let identity = device.identity().context("--device wgpu: the driver does not say which device it is")?;
    let on_a_card = identity.physical.is_some();
    anyhow::ensure!(
        on_a_card || adapter == Adapter::Software,
        "--device wgpu: found no GPU, only {} on the CPU; name it as wgpu:software, or take --device flex, which is faster",
        identity.name
    );
    crate::progress::say(&format!("device: {} ({})", identity.name, identity.fingerprint));
    Ok(device)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_: Adapter) -> anyhow::Result<Device> {
    Err(not_in_this_build("wgpu"))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> anyhow::Result<Device> {
    let present = burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    anyhow::ensure!(
        index < present,
        "--device cuda:{index}: expected one of {present} devices; with none, NVIDIA's driver is not installed or not loaded"
    );
    let device = Device::cuda(index);
    let opened = catch_unwind(AssertUnwindSafe(|| device.identity()));
    match opened {
        Ok(identity) => {
            let identity = identity.with_context(|| format!("--device cuda:{index}: the driver does not name it"))?;
            crate::progress::say(&format!("device: {} ({})", identity.name, identity.fingerprint));
            Ok(device)
        }
        Err(panic) => bail!("--device cuda:{index}: {}; is the driver new enough?", panic_text(&*panic)),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> anyhow::Result<Device> {
    Err(not_in_this_build("cuda"))
}

#[cfg(not(all(feature = "wgpu", feature = "cuda", feature = "ndarray")))]
fn not_in_this_build(feature: &str) -> anyhow::Error {
    usage(anyhow::anyhow!(
        "--device {feature}: not in this build; build it with: cargo build --release -p sensei --features {feature}"
    ))
}

/// Runs `work`; a device that gives up, which the backends tell by a panic, is an error that says what to do.
///
/// # Errors
/// Those of `work`, and its panic.
pub fn on_device<T>(machine: &Machine, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    if machine.device.iter().all(|name| *name == DeviceName::Flex) {
        return work();
    }
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        bail!(
            "the device gave up: {}; if it is out of memory, lower [train] batch_size and [eval] batch_size",
            panic_text(&*panic)
        )
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let cases = [
            ("flex", Some(DeviceName::Flex)),
            ("ndarray", Some(DeviceName::NdArray)),
            ("wgpu", Some(DeviceName::Wgpu(Adapter::Best))),
            ("wgpu:2", Some(DeviceName::Wgpu(Adapter::Discrete(2)))),
            ("wgpu:integrated", Some(DeviceName::Wgpu(Adapter::Integrated))),
            ("wgpu:software", Some(DeviceName::Wgpu(Adapter::Software))),
            ("cuda", Some(DeviceName::Cuda(0))),
            ("cuda:3", Some(DeviceName::Cuda(3))),
            ("", None),
            ("flex:0", None),
            ("cuda:-1", None),
            ("wgpu:", None),
            ("gpu", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<DeviceName>().ok(), expected, "{text:?}");
            let spelt = expected.map_or(text.into(), |name| name.to_string());
            assert_eq!(spelt.parse::<DeviceName>().ok(), expected, "{text:?} is spelt {spelt:?}");
        }
    }
}
