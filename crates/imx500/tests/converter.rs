//! The driver against stand-ins for the vendor's converter: shell scripts that succeed, refuse, hang or lie.
#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![cfg(unix)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use sensei_files::error::FileError;
use sensei_imx500::converter::{Conversion, ConvertOptions, Converter, ConverterError, MemoryReport, Refusal};
use sensei_imx500::refusal::PackageError;

mod sample;
use sample::package::CASES;

struct Bench {
    folder: tempfile::TempDir,
    path: OsString,
}

/// What a working converter leaves; `$4` is the output folder.
const SUCCEED: &str = r#"mkdir -p "$4"; cp "$D/package.zip" "$4/packerOut.zip"; cp "$D/dnnParams.xml" "$4"
cp "$D/report.json" "$4/net_MemoryReport.json""#;
const REPORT: &str = r#"{"Memory Report": {"Name": "net", "Runtime Memory Physical Size": "2.29MB",
"Model Memory Physical Size": "1.26MB", "Reserved Memory": "1.00KB", "Memory Usage": "3.55MB",
"Total Memory Available On Chip": "8.00MB", "Memory Utilization": "45%", "Fit In Chip": true}}"#;

impl Bench {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let program = format!("#!/bin/sh\nD='{}'\n{script}\n", folder.path().display());
        for (name, text) in [("imxconv-pt", program.as_str()), ("java", "#!/bin/sh\n")] {
            fs::write(at(name), text).expect("writable");
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).expect("our file");
        }
        fs::write(at("net.onnx"), "network").expect("writable");
        fs::write(at("dnnParams.xml"), CASES[0].params().to_xml()).expect("writable");
        fs::write(at("report.json"), REPORT).expect("writable");
        CASES[0].packer_out().write(&at("package.zip")).expect("writable");
        let path = OsString::from(format!("{}:/bin:/usr/bin", folder.path().display()));
        Self { folder, path }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn convert(&self, seconds: u64) -> Result<Conversion, ConverterError> {
        let converter = Converter::find(None, &self.path)?;
        let options =
            ConvertOptions { time_limit: Duration::from_secs(seconds), memory_report_only: false, keeps_input: true };
        let result = converter.convert(&self.at("net.onnx"), &self.at("out"), &options, &|| false);
        let leftovers = fs::read_dir(self.folder.path())
            .expect("readable")
            .filter(|entry| entry.as_ref().expect("readable").file_name().to_string_lossy().contains("partial"));
        assert_eq!(leftovers.count(), 0, "no partial folder is left");
        assert_eq!(self.at("out").exists(), result.is_ok(), "the final folder is there only after success");
        result
    }
}

#[test]
fn a_complete_conversion_is_moved_to_its_name() {
    let bench = Bench::new(&format!("echo hello\n{SUCCEED}"));
    let conversion = bench.convert(60).expect("a working converter");
    assert_eq!(conversion.packer_out, Some(bench.at("out/packerOut.zip")));
    let report = MemoryReport { coefficients: 1_322_656, runtime: 2_403_424, reserved: 1024, limit: 8_388_480 };
    assert_eq!(conversion.memory, report);
    assert_eq!(report.total(), 3_727_104);
    assert_eq!(fs::read_to_string(&conversion.log).expect("the log"), "hello\n");
    let again = Converter::find(None, &bench.path).expect("installed");
    let options = ConvertOptions { time_limit: Duration::from_secs(60), memory_report_only: false, keeps_input: true };
    let again = again.convert(&bench.at("net.onnx"), &bench.at("out"), &options, &|| false);
    assert!(matches!(again, Err(ConverterError::Exists { .. })), "{again:?}");
}

#[test]
fn refusals_carry_the_converters_own_reason() {
    let check = |line: &str, status: i32, expected: Refusal, words: &str| {
        let bench = Bench::new(&format!("mkdir -p \"$4\"; echo half > \"$4/x\"\necho '{line}' >&2\nexit {status}"));
        match bench.convert(60) {
            Err(ConverterError::Refused { refusal, reason, log, .. }) => {
                assert_eq!((refusal, reason.as_str()), (expected, words));
                assert!(fs::read_to_string(log).expect("the log is kept").contains(line));
            }
            other => panic!("{line}: expected a refusal, found {other:?}"),
        }
    };
    let ops = "The network contains unsupported ops: PRelu";
    check(&format!("ERROR : CODE: [USOP] {ops}"), 2, Refusal::UnsupportedOperator, ops);
    check("ERROR : CODE: [INVOP] Param error", 3, Refusal::OperatorRestriction, "Param error");
    check("ERROR : CODE: [INVMOD] batch-size > 1", 4, Refusal::InvalidModel, "batch-size > 1");
    let memory = "ConvFe error (ISM) on m: Not enough memory, available: 8.00MB , required: 12.01MB";
    check(&format!("ERROR : CODE: [ISM] {memory}"), 1, Refusal::TooLarge, memory);
    check("Segmentation fault", 139, Refusal::Other, "Segmentation fault");
    let java = "a program that it needs is not installed: Java, version 17 or later";
    check("java: command not found", 127, Refusal::Other, java);
}

#[test]
fn a_hanging_converter_is_killed_with_its_children() {
    let bench = Bench::new("(sleep 3; touch \"$D/survivor\") &\nmkdir -p \"$4\"; sleep 60");
    let result = bench.convert(1);
    assert!(matches!(result, Err(ConverterError::TimedOut { seconds: 1, .. })), "{result:?}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!bench.at("survivor").exists(), "a process that the converter started outlived it");
}

#[test]
fn an_interruption_ends_the_converter() {
    let bench = Bench::new("sleep 60");
    let converter = Converter::find(None, &bench.path).expect("installed");
    let options = ConvertOptions { time_limit: Duration::from_secs(60), memory_report_only: true, keeps_input: true };
    let result = converter.convert(&bench.at("net.onnx"), &bench.at("out"), &options, &|| true);
    assert!(matches!(result, Err(ConverterError::Interrupted { .. })), "{result:?}");
}

#[test]
fn success_without_a_complete_package_is_an_error() {
    let check = |spoil: &str, file: &str| {
        let bench = Bench::new(&format!("{SUCCEED}\n{spoil}"));
        match bench.convert(60) {
            Err(ConverterError::Output { source: PackageError::Format { path, .. }, .. }) => {
                assert!(path.ends_with(file), "{}", path.display());
            }
            Err(ConverterError::Output { source: PackageError::File(FileError::Io { path, .. }), .. }) => {
                assert!(path.ends_with(file), "{}", path.display());
            }
            other => panic!("{spoil}: expected an error about {file}, found {other:?}"),
        }
    };
    check(r#"rm "$4/packerOut.zip""#, "packerOut.zip");
    check(r#"echo cut > "$4/packerOut.zip""#, "packerOut.zip");
    check(r#"rm "$4/dnnParams.xml""#, "dnnParams.xml");
    check(r#"echo '<l2memory totalSize="x">' > "$4/dnnParams.xml""#, "dnnParams.xml");
    check(r#"sed 's/true/false/' "$D/report.json" > "$4/net_MemoryReport.json""#, "net_MemoryReport.json");
    check(r#"echo nonsense > "$4/net_MemoryReport.json""#, "net_MemoryReport.json");
}

#[test]
fn what_is_not_installed_is_named() {
    let bench = Bench::new("exit 0");
    let missing = |found: Result<Converter, ConverterError>| match found {
        Err(ConverterError::Missing { program, .. }) => program,
        other => panic!("expected a missing program, found {other:?}"),
    };
    assert_eq!(missing(Converter::find(None, "/nowhere".as_ref())), PathBuf::from("imxconv-pt"));
    let explicit = bench.at("other");
    assert_eq!(missing(Converter::find(Some(&explicit), &bench.path)), explicit);
    fs::remove_file(bench.at("java")).expect("ours");
    let only_ours = bench.folder.path().as_os_str();
    assert_eq!(missing(Converter::find(None, only_ours)), PathBuf::from("java"));
}

#[test]
fn the_files_name_must_be_fit_for_a_network() {
    let bench = Bench::new("exit 0");
    let converter = Converter::find(None, &bench.path).expect("installed");
    let options = ConvertOptions { time_limit: Duration::from_secs(60), memory_report_only: true, keeps_input: true };
    let result = converter.convert(&bench.at("my net.onnx"), &bench.at("out"), &options, &|| false);
    assert!(matches!(result, Err(ConverterError::Name { .. })), "{result:?}");
}

#[test]
fn the_converter_is_told_to_drop_the_input() {
    let bench = Bench::new(&format!("echo \"$*\" > \"$D/arguments\"; {SUCCEED}"));
    let converter = Converter::find(None, &bench.path).expect("a stand-in");
    for (keeps_input, is_told) in [(true, false), (false, true)] {
        let options = ConvertOptions { time_limit: Duration::from_secs(60), memory_report_only: false, keeps_input };
        converter
            .convert(&bench.at("net.onnx"), &bench.at(&format!("out-{keeps_input}")), &options, &|| false)
            .expect("a conversion");
        let arguments = fs::read_to_string(bench.at("arguments")).expect("readable");
        assert_eq!(arguments.contains(" --no-input-persistency"), is_told, "{arguments}");
    }
}
