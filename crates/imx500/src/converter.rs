//! Drives the vendor's converter, proprietary software that is not part of this project and that users install
//! themselves (`scripts/imx500/setup.sh`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_int8::model::is_clean_name;

use crate::dnn_params::{DnnParams, MemoryMap};
use crate::fit_report::FitReport;
use crate::packer_out::PackerOut;
use crate::refusal::{self, PackageError};

/// An installed converter.
#[derive(Debug, Clone)]
pub struct Converter {
    program: PathBuf,
    search_path: OsString,
}

/// How to run the converter.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// After this long it is killed, with all processes that it started.
    pub time_limit: Duration,
    /// Stop after the memory report, without `packerOut.zip`: half the time.
    pub memory_report_only: bool,
    /// Whether the chip keeps its input tensor, so that the host can read and replace it. It costs memory.
    pub keeps_input: bool,
}

/// What a conversion left in its folder.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// The folder, complete.
    pub folder: PathBuf,
    /// `packerOut.zip`, checked to hold the parts of a network; none if only the report was asked for.
    pub packer_out: Option<PathBuf>,
    /// The converter's account of the chip's memory.
    pub memory: MemoryReport,
    /// Everything that the converter said.
    pub log: PathBuf,
    /// How long it took.
    pub duration: Duration,
}

/// Memory of the chip in bytes, as the converter counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryReport {
    /// Weights, biases and rescales.
    pub coefficients: u64,
    /// Tensors, the kept input included.
    pub runtime: u64,
    /// What the chip keeps for itself.
    pub reserved: u64,
    /// What the chip has.
    pub limit: u64,
}

/// Why the converter refused a network, by the code that it printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `USOP`: an operator that it does not know.
    UnsupportedOperator,
    /// `INVOP`: an operator with settings or shapes that it does not take.
    OperatorRestriction,
    /// `INVMOD`: a file that is no valid network.
    InvalidModel,
    /// `ISM`: the chip's memory is too small.
    TooLarge,
    /// Any other code, or none.
    Other,
}

/// A conversion that did not end in a complete folder. No such folder exists then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConverterError {
    /// Nothing of that name is installed.
    #[error("{program}: expected an installed program ({hint}), found none")]
    Missing {
        /// What was looked for.
        program: PathBuf,
        /// How to get it.
        hint: &'static str,
    },
    /// The network's file is named in a way that the converter would carry into its files.
    #[error("{path}: expected a file stem of 1 to 64 letters, digits, `_` or `-`: it becomes the network's name")]
    Name {
        /// The ONNX file.
        path: PathBuf,
    },
    /// The folder to make is already there.
    #[error("{path}: exists already")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A file or program that cannot be read, written or started.
    #[error(transparent)]
    File(#[from] FileError),
    /// The converter ended with an error of its own.
    #[error("{onnx}: the converter refused it ({status}): {reason} (log: {log})")]
    Refused {
        /// The ONNX file.
        onnx: PathBuf,
        /// Which kind of refusal.
        refusal: Refusal,
        /// Its exit status.
        status: ExitStatus,
        /// Its own words.
        reason: String,
        /// Everything that it said.
        log: PathBuf,
    },
    /// It ran too long and was killed.
    #[error("{onnx}: the converter was stopped after {seconds} s, its time limit (log: {log})")]
    TimedOut {
        /// The ONNX file.
        onnx: PathBuf,
        /// The limit.
        seconds: u64,
        /// Everything that it said.
        log: PathBuf,
    },
    /// The caller asked to stop.
    #[error("{onnx}: the conversion was interrupted")]
    Interrupted {
        /// The ONNX file.
        onnx: PathBuf,
    },
    /// It reported success, but a file is missing or not what it should be.
    #[error("what the converter left is not a whole result (log: {log})")]
    Output {
        /// Which file, and why.
        source: PackageError,
        /// Everything that it said.
        log: PathBuf,
    },
}

impl Converter {
    /// Takes `explicit`, or the first `imxconv-pt` in `search_path` (the value of `PATH`). The converter needs Java.
    ///
    /// # Errors
    /// If there is no such program, or no `java` beside it or in `search_path`.
    pub fn find(explicit: Option<&Path>, search_path: &OsStr) -> Result<Self, ConverterError> {
        let missing = |program: &Path, hint| ConverterError::Missing { program: program.into(), hint };
        let program = match explicit {
            Some(path) if path.is_file() => path.to_path_buf(),
            Some(path) => return Err(missing(path, INSTALL)),
            None => find_in(search_path, "imxconv-pt").ok_or_else(|| missing(Path::new("imxconv-pt"), INSTALL))?,
        };
        #[expect(clippy::disallowed_methods, reason = "its folder goes on the PATH of programs that it starts")]
        let program = std::path::absolute(&program).map_err(|source| FileError::Io {
            path: program,
            action: "make absolute",
            source,
        })?;
        // Its helpers lie beside it, also when its virtual environment is not active.
        let folders = program.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(search_path));
        let search_path = std::env::join_paths(folders)
            .map_err(|error| io::Error::other(error.to_string()))
            .map_err(|source| FileError::Io { path: program.clone(), action: "put its folder on PATH", source })?;
        find_in(&search_path, "java")
            .ok_or_else(|| missing(Path::new("java"), "a Java runtime, version 17 or later"))?;
        Ok(Self { program, search_path })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Converts `onnx` into the new folder `out`; the log is kept at `out` + `.log` whatever happens.
    ///
    /// `is_interrupted` is asked several times a second.
    ///
    /// # Errors
    /// If the converter cannot be run, refuses the network, runs too long, or leaves an incomplete result. `out` does
    /// not exist then.
    pub fn convert(
        &self,
        onnx: &Path,
        out: &Path,
        options: &ConvertOptions,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Conversion, ConverterError> {
        let stem = onnx.file_stem().and_then(OsStr::to_str).unwrap_or_default().to_string();
        if !is_clean_name(&stem) {
            return Err(ConverterError::Name { path: onnx.into() });
        }
        if out.symlink_metadata().is_ok() {
            return Err(ConverterError::Exists { path: out.into() });
        }
        let log = appended(out, ".log");
        let partial = Partial(appended(out, &format!(".{}.partial", std::process::id())));
        #[expect(clippy::disallowed_methods, reason = "how long the vendor's program took")]
        let start = Instant::now();
        let status = self.run(onnx, &partial.0, &log, options, is_interrupted)?;
        if !status.success() {
            let (refusal, reason) = explain(&log, status);
            return Err(ConverterError::Refused { onnx: onnx.into(), refusal, status, reason, log });
        }
        let memory = check_report(&partial.0, &stem, &log)?;
        let packer_out = (!options.memory_report_only).then(|| check_package(&partial.0, &log)).transpose()?;
        fs::rename(&partial.0, out).map_err(FileError::io(out, "move the finished folder to its name"))?;
        let packer_out = packer_out.map(|name| out.join(name));
        Ok(Conversion { folder: out.into(), packer_out, memory, log, duration: start.elapsed() })
    }

    fn run(
        &self,
        onnx: &Path,
        folder: &Path,
        log: &Path,
        options: &ConvertOptions,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<ExitStatus, ConverterError> {
        #[expect(clippy::disallowed_methods, reason = "the converter writes its log while it runs")]
        let log_file = File::create(log).map_err(FileError::io(log, "create the log"))?;
        let errors = log_file.try_clone().map_err(FileError::io(log, "create the log"))?;
        let mut command = Command::new(&self.program);
        command.arg("-i").arg(onnx).arg("-o").arg(folder).arg("--overwrite-output");
        if options.memory_report_only {
            command.arg("--memory-report");
        }
        if !options.keeps_input {
            command.arg("--no-input-persistency");
        }
        command.env("PATH", &self.search_path).env("JAVA_TOOL_OPTIONS", JAVA_OPTIONS);
        command.stdin(Stdio::null()).stdout(log_file).stderr(errors);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(FileError::io(&self.program, "start"))?;
        #[expect(clippy::disallowed_methods, reason = "the vendor's program has a time limit")]
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(FileError::io(&self.program, "wait for"))? {
                return Ok(status);
            }
            let is_late = start.elapsed() >= options.time_limit;
            if is_late || is_interrupted() {
                kill_group(&mut child);
                let (onnx, seconds) = (onnx.to_path_buf(), options.time_limit.as_secs());
                return Err(match is_late {
                    true => ConverterError::TimedOut { onnx, seconds, log: log.into() },
                    false => ConverterError::Interrupted { onnx },
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl MemoryReport {
    /// Coefficients, runtime and reserve.
    pub fn total(&self) -> u64 {
        self.coefficients + self.runtime + self.reserved
    }
}

impl From<MemoryMap> for MemoryReport {
    fn from(map: MemoryMap) -> Self {
        let MemoryMap { total, coefficients, reserved, runtime } = map;
        Self {
            coefficients: coefficients.into(),
            runtime: runtime.into(),
            reserved: reserved.into(),
            limit: total.into(),
        }
    }
}

/// A folder that is removed unless it was moved away.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing to do about a folder that cannot be removed; its name says what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn appended(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

fn find_in(search_path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(search_path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn kill_group(child: &mut std::process::Child) {
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: `kill` touches no memory. The group is the child's own, and the child has not been waited for, so
        // its number cannot belong to anyone else.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    // Both fail only if the child has ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// The converter's own words on its failure: the lines `CODE: [X] text` of the code that says most.
fn explain(log: &Path, status: ExitStatus) -> (Refusal, String) {
    let text = read_bounded(log, MAX_LOG).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if status.code() == Some(127) {
        return (Refusal::Other, "a program that it needs is not installed: Java, version 17 or later".into());
    }
    let of_code = |code: &str| -> Vec<&str> {
        let mark = format!("[{code}]");
        let mut found = vec![];
        for line in text.lines() {
            let Some((_, reason)) = line.split_once(&mark) else { continue };
            let reason = reason.trim();
            if !reason.is_empty() && !found.contains(&reason) {
                found.push(reason);
            }
        }
        found
    };
    for (code, refusal) in [
        ("USOP", Refusal::UnsupportedOperator),
        ("INVOP", Refusal::OperatorRestriction),
        ("INVMOD", Refusal::InvalidModel),
        ("ISM", Refusal::TooLarge),
        ("GE", Refusal::Other),
        ("EXEC", Refusal::Other),
    ] {
        let reasons = of_code(code);
        if !reasons.is_empty() {
            return (refusal, reasons[..reasons.len().min(3)].join("; "));
        }
    }
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    (Refusal::Other, last.trim().into())
}

fn check_report(folder: &Path, stem: &str, log: &Path) -> Result<MemoryReport, ConverterError> {
    let output = |source| ConverterError::Output { source, log: log.into() };
    let path = folder.join(format!("{stem}_MemoryReport.json"));
    let report = FitReport::read(&path).map_err(output)?;
    if !report.fits {
        return Err(output(refusal::Refusal::key("Fit In Chip", "true", "false").of(&path)));
    }
    Ok(DnnParams::read(&folder.join("dnnParams.xml")).map_err(output)?.memory.into())
}

fn check_package(folder: &Path, log: &Path) -> Result<&'static str, ConverterError> {
    let read = PackerOut::read(&folder.join(PACKER_OUT));
    read.map(|_| PACKER_OUT).map_err(|source| ConverterError::Output { source, log: log.into() })
}

const PACKER_OUT: &str = "packerOut.zip";
const INSTALL: &str = "scripts/imx500/setup.sh puts the vendor's converter into a virtual environment";
/// A third less time: the converter runs many short Java programs.
const JAVA_OPTIONS: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC";
const MAX_LOG: u64 = 64 << 20;
