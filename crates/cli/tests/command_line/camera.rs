//! `camera.py` of a package, with a stand-in for picamera2 that says which window of the sensor it was asked for.

use std::fs;
use std::process::{Command, Output};

use super::text;

/// A folder with the program, a manifest as packages have it, and the stand-in.
struct Pi {
    dir: tempfile::TempDir,
}

impl Pi {
    /// None where python3 has no numpy, which the program needs.
    fn new(border: &str, crop: &str) -> Option<Self> {
        if !sensei_testing::python_has(&["numpy"], "camera.py with a stand-in for picamera2") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("camera.py", include_str!("../../../../scripts/imx500/camera.py"));
        write(
            "manifest.json",
            &format!(r#"{{"input_side": 4, "border": "{border}", "crop": "{crop}", "crop_padding": 0.1}}"#),
        );
        fs::create_dir_all(dir.path().join("picamera2/devices")).unwrap();
        write("picamera2/__init__.py", &format!("{CAMERA}{REQUEST}"));
        write("picamera2/devices/__init__.py", DEVICE);
        Some(Self { dir })
    }

    fn run(&self, arguments: &[&str], has_results: bool) -> Output {
        let mut command = Command::new("python3");
        command.arg("camera.py").args(arguments).current_dir(self.dir.path());
        command.env("FAKE_RESULTS", if has_results { "1" } else { "0" }).env_remove("SENSEI_TENSORS");
        command.output().unwrap()
    }

    /// The window that picamera2 was asked for.
    fn window(&self, arguments: &[&str]) -> String {
        let log = self.dir.path().join("window");
        let _ = fs::remove_file(&log);
        let output = self.run(arguments, true);
        assert!(output.status.success(), "{arguments:?}: {:?}", text(&output));
        fs::read_to_string(&log).unwrap_or_else(|_| "none".into())
    }

    fn refuses(&self, arguments: &[&str], has_results: bool, words: &[&str]) {
        let output = self.run(arguments, has_results);
        let (out, err) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
        assert!(err.starts_with("error: ") && err.lines().count() == 1, "{err}");
        words.iter().for_each(|word| assert!(err.contains(word), "expected {word:?} in: {err}"));
    }
}

/// Three frames, of which the first has no result; then the camera is switched off. Without results the clock runs fast.
const CAMERA: &str = r#"
import os, sys, time

# Tensors put in the place of the picture. Two frames later the camera answers them: the first value of each is its first byte.
injected = []

class Picamera2:
    def __init__(self, number):
        self.n_frames = 0
        if os.environ["FAKE_RESULTS"] == "0":
            now = [0.0]
            def monotonic():
                now[0] += 30.0
                return now[0]
            time.monotonic = monotonic

    def create_preview_configuration(self, **controls):
        assert controls["main"] == {"format": "BGR888"}
        return {}

    def start(self, config, show_preview):
        pass

    def capture_metadata(self):
        self.n_frames += 1
        if os.environ["FAKE_RESULTS"] == "0":
            if self.n_frames > 100:
                sys.exit("it waits for ever")
            return {"FrameDuration": 33333}
        if self.n_frames == 1:
            return {"FrameDuration": 33333}
        if self.n_frames == int(os.environ.get("FAKE_FRAMES", "4")):
            sys.stdout.flush()
            os._exit(0)
        if injected:
            if len(injected) > 1:
                del injected[0]
            late = injected[0] if self.n_frames % 3 == 0 else bytes(48)
            return {"CnnOutputTensor": [float(late[0])] + [-1.0] * 15, "CnnInputTensor": late}
        # Column by column: the first column is foreground.
        return {
            "CnnOutputTensor": [1.0] * 4 + [-1.0] * 12,
            "CnnInputTensor": bytes(48),
            "CnnKpiInfo": (12000 + 1000 * self.n_frames, 2500),
        }
"#;

/// A frame with its picture: 8 x 6 pixels of grey.
const REQUEST: &str = r#"
import numpy

class Request:
    def __init__(self, metadata):
        self.metadata = metadata

    def get_metadata(self):
        return self.metadata

    def make_array(self, stream):
        assert stream == "main"
        return numpy.full((6, 8, 3), 100, numpy.uint8)

    def release(self):
        self.metadata = None

Picamera2.capture_request = lambda self: Request(self.capture_metadata())
"#;

const DEVICE: &str = r#"
import os
from picamera2 import injected

class IMX500:
    camera_num = 0

    def __init__(self, network_file, tensor_injection=False):
        self.injects = tensor_injection

    def _IMX500__set_input_tensor(self, file):
        assert self.injects
        os.lseek(file, 0, os.SEEK_SET)
        tensor = os.read(file, 1 << 20)
        # 3 planes of 4 rows, each row filled up to 32.
        assert len(tensor) == 3 * 4 * 32, len(tensor)
        if os.environ.get("FAKE_DEAF") != "1":
            injected.append(b"".join(tensor[32 * row :][:4] for row in range(12)))

    def get_roi_scaled(self, request):
        # In the picture: four of its columns, four of its rows.
        return (2, 1, 4, 4)

    def show_network_fw_progress_bar(self):
        pass

    def set_inference_roi_abs(self, roi):
        with open("window", "w") as log:
            log.write(" ".join(map(str, roi)))

    @staticmethod
    def get_kpi_info(metadata):
        kpi = metadata.get("CnnKpiInfo")
        return None if kpi is None else (kpi[0] / 1000, kpi[1] / 1000)
"#;

#[test]
fn regions_over_the_border_are_clipped_as_training_saw_them() {
    let Some(pi) = Pi::new("reference", "roi-4-pad0.1-reference") else { return };
    for (region, window) in [
        (["3800", "2900", "600"], "3800 2900 256 140"), // measured with picamera2
        (["0", "0", "600"], "0 0 600 600"),
        (["-100", "50", "600"], "0 50 500 600"),
        (["-50", "2900", "500"], "0 2900 450 140"),
        (["0", "0", "5000"], "0 0 4056 3040"),
        (["4052", "0", "64"], "4052 0 4 64"),
    ] {
        assert_eq!(pi.window(&[&["show"][..], &region].concat()), window, "show {region:?}");
        assert_eq!(pi.window(&[&["record", "tensors", "2"][..], &region].concat()), window, "record {region:?}");
    }
    pi.refuses(&["show", "4053", "0", "64"], true, &["region 4053 0 64: expected 4 pixels or more"]);
    pi.refuses(&["show", "-600", "0", "600"], true, &["region -600 0 600: expected 4 pixels or more"]);
    pi.refuses(&["record", "tensors", "2", "0", "0", "63"], true, &["region 0 0 63: expected a square of 64 or more"]);
}

#[test]
fn the_rule_of_windows_shifts_and_the_corrected_border_refuses() {
    let Some(pi) = Pi::new("reference", "center_window-4-reference") else { return };
    assert_eq!(pi.window(&["show", "-100", "50", "600"]), "0 50 600 600");
    assert_eq!(pi.window(&["show", "3800", "-5", "600"]), "3800 0 256 600");
    let Some(pi) = Pi::new("corrected", "roi-4-pad0.1-corrected") else { return };
    assert_eq!(pi.window(&["show", "3456", "2440", "600"]), "3456 2440 600 600");
    pi.refuses(
        &["show", "3457", "0", "600"],
        true,
        &["expected a square within 4056 x 3040", "border = \"corrected\""],
    );
}

#[test]
fn regions_of_the_shared_cases_have_picamera2s_windows() {
    let Some(shared) = sensei_testing::shared_dir("regions_of_the_shared_cases_have_picamera2s_windows") else {
        return;
    };
    let file = fs::read(shared.join("cases/camera/regions.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let Some(pi) = Pi::new(file["border"].as_str().unwrap(), "roi-4-pad0.1-reference") else { return };
    let words = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(ToString::to_string).collect()
    };
    for case in file["cases"].as_array().unwrap() {
        let region = words(&case["region"]);
        let arguments = ["show", &region[0], &region[1], &region[2]];
        assert_eq!(pi.window(&arguments), words(&case["window"]).join(" "), "{region:?}");
    }
}

#[test]
fn the_chips_milliseconds_are_shown_and_recorded() {
    let Some(pi) = Pi::new("reference", "roi-4-pad0.1-reference") else { return };
    let (out, _) = text(&pi.run(&["show", "0", "0", "600"], true));
    assert!(out.contains("25.0% of the region is foreground; network 14.0 ms, signal processors 2.5 ms"), "{out}");
    assert!(out.contains("\n#...\n#...\n#...\n#...\n"), "{out}");
    // No region: the whole sensor, as the camera starts.
    assert_eq!(pi.window(&["record", "tensors", "2"]), "none");
    let (out, _) = text(&pi.run(&["record", "tensors", "2"], true));
    assert!(out.contains("network: 14.0 to 15.0 ms, median 15.0 ms, in 2 frames"), "{out}");
    let table = fs::read_to_string(pi.dir.path().join("tensors/milliseconds.csv")).unwrap();
    assert_eq!(table, "frame,network,signal_processors\n0000,14.000,2.500\n0001,15.000,2.500\n");
    assert_eq!(fs::read(pi.dir.path().join("tensors/0001.input")).unwrap(), [0; 48]);
}

#[test]
fn inputs_of_a_validation_set_go_through_the_chip() {
    let Some(pi) = Pi::new("clipped", "box-4-pad0.1-min10-clipped") else { return };
    let at = |name: &str| pi.dir.path().join(name);
    fs::create_dir(at("from")).unwrap();
    for (name, first) in [("7", 3u8), ("12", 250), ("120", 9)] {
        let tensor: Vec<u8> = (0..48).map(|byte| if byte == 0 { first } else { byte }).collect();
        fs::write(at(&format!("from/{name}.input")), tensor).unwrap();
    }
    let frames = [("FAKE_RESULTS", "1"), ("FAKE_FRAMES", "1000")];
    let run = |more: &[(&str, &str)]| {
        let mut command = Command::new("python3");
        command.args(["camera.py", "inject", "from", "to"]).current_dir(pi.dir.path()).envs(frames);
        command.envs(more.iter().copied()).output().unwrap()
    };
    let (out, err) = text(&run(&[]));
    assert!(out.contains("3 inputs answered, 3 in to; now: sensei replay PACKAGE to"), "{out}{err}");
    for (name, first) in [("7", 3.0f32), ("12", 250.0), ("120", 9.0)] {
        let answer = fs::read(at(&format!("to/{name}.output"))).unwrap();
        assert_eq!((answer.len(), &answer[..4]), (64, &first.to_le_bytes()[..]), "{name}");
        assert_eq!(
            fs::read(at(&format!("to/{name}.input"))).unwrap(),
            fs::read(at(&format!("from/{name}.input"))).unwrap()
        );
    }
    // What is answered is not asked again, what is not yet is.
    let (out, _) = text(&run(&[]));
    assert!(out.contains("to: all 3 are answered"), "{out}");
    fs::remove_file(at("to/12.output")).unwrap();
    let (out, _) = text(&run(&[]));
    assert!(out.contains("1 inputs answered, 3 in to"), "{out}");

    // A sensor that does not take the tensor, and inputs that are none.
    fs::remove_file(at("to/12.output")).unwrap();
    let deaf = run(&[("FAKE_DEAF", "1")]);
    let (_, err) = text(&deaf);
    assert_eq!(deaf.status.code(), Some(1), "{err}");
    assert!(err.contains("12.input: the sensor did not give this input back in 150 results"), "{err}");
    fs::write(at("from/3.input"), [0; 47]).unwrap();
    pi.refuses(&["inject", "from", "to"], true, &["3.input: expected 48 bytes, found 47"]);
    pi.refuses(&["inject", "picamera2", "to"], true, &["picamera2: expected NAME.input files, found none"]);
}

#[test]
fn waiting_for_a_first_result_ends() {
    let Some(pi) = Pi::new("reference", "roi-4-pad0.1-reference") else { return };
    pi.refuses(&["show", "0", "0", "600"], false, &["no CnnOutputTensor within 120 s"]);
    pi.refuses(&["record", "tensors"], false, &["no CnnOutputTensor and CnnInputTensor within 120 s", "input kept"]);
}

#[test]
fn a_box_becomes_its_window_as_in_training() {
    let Some(pi) = Pi::new("clipped", "box-4-pad0.1-min10-clipped") else { return };
    for (region, window) in [
        (["1000", "500", "400", "200"], "960 480 480 240"),
        (["0", "0", "400", "200"], "0 0 440 220"),
        (["3800", "2900", "500", "500"], "3750 2850 306 190"),
        // Shorter than the smallest window: lengthened on both ends, at the border inwards.
        (["1000", "500", "20", "400"], "978 460 64 480"),
        (["4040", "3030", "20", "20"], "3992 2976 64 64"),
        (["-10", "0", "20", "100"], "0 0 64 110"),
    ] {
        assert_eq!(pi.window(&[&["show"][..], &region].concat()), window, "show {region:?}");
        assert_eq!(pi.window(&[&["record", "tensors", "2"][..], &region].concat()), window, "record {region:?}");
    }
    pi.refuses(
        &["show", "5000", "0", "64", "64"],
        true,
        &["box 5000 0 64 64: lies outside of the sensor's 4056 x 3040"],
    );
    pi.refuses(&["show", "0", "0", "0", "64"], true, &["expected a width and a height of 1 or more"]);
    pi.refuses(
        &["show", "0", "0", "64"],
        true,
        &["region: expected X Y WIDTH HEIGHT of the object's box, found 0 0 64"],
    );
    let Some(pi) = Pi::new("padded", "box-4-pad0.1-min10-padded") else { return };
    assert_eq!(pi.window(&["show", "1000", "500", "400", "200"]), "960 480 480 240");
    pi.refuses(&["show", "0", "0", "400", "200"], true, &["border = \"padded\"", "the sensor cannot"]);
    // Within the sensor with its padding, but not once it is lengthened.
    pi.refuses(&["show", "10", "10", "20", "20"], true, &["border = \"padded\"", "the sensor cannot"]);
}

#[test]
fn the_mask_lies_on_the_picture_where_the_window_was() {
    let Some(pi) = Pi::new("clipped", "box-4-pad0.1-min10-clipped") else { return };
    let mut command = Command::new("python3");
    command.args(["camera.py", "overlay", "out.png", "1000", "500", "400", "200"]).current_dir(pi.dir.path());
    command.env("FAKE_RESULTS", "1").env("FAKE_FRAMES", "20").env_remove("SENSEI_TENSORS");
    let (out, err) = text(&command.output().unwrap());
    assert!(out.contains("out.png: 4 pixels of foreground in the window (2, 1, 4, 4)"), "{out}\n{err}");
    let image = sensei_data::image_file::read_image(&pi.dir.path().join("out.png"), &Default::default()).unwrap().image;
    assert_eq!((image.size.width, image.size.height), (8, 6));
    let pixel = |x: usize, y: usize| &image.pixels[(y * 8 + x) * 3..][..3];
    // The edge of the window is white; outside and on background the picture is as it was.
    assert_eq!(
        (pixel(2, 1), pixel(5, 4), pixel(0, 0), pixel(3, 2)),
        (&[255; 3][..], &[255; 3][..], &[100; 3][..], &[100; 3][..])
    );
}

#[test]
fn times_of_the_chip_and_a_limit() {
    let Some(pi) = Pi::new("clipped", "box-4-pad0.1-min10-clipped") else { return };
    let (out, err) = text(&pi.run(&["kpi", "2"], true));
    assert!(out.contains("network: 14.0 to 15.0 ms, median 15.0 ms, in 2 frames"), "{out}\n{err}");
    assert!(out.contains("signal processors: 2.5 to 2.5 ms"), "{out}");
    pi.refuses(&["kpi", "0"], true, &["0 frames: expected 1 or more"]);
    pi.refuses(
        &["show", "0", "0", "64", "64", "--limit", "0"],
        true,
        &["--limit: expected a number of seconds above 0"],
    );
    // The stand-in's first result comes with its second frame, and no further one is within the limit.
    let (out, err) = text(&pi.run(&["record", "few", "3", "--limit", "1e-9"], true));
    assert!(out.contains("1 frames in few"), "{out}\n{err}");
}

#[test]
fn a_package_whose_input_is_dropped_is_not_recorded() {
    let Some(pi) = Pi::new("clipped", "box-4-pad0.1-min12-clipped") else { return };
    let manifest = pi.dir.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap().replacen('{', "{\"input_kept\": false, ", 1);
    fs::write(manifest, text).unwrap();
    let expected = "expected a package whose input the chip keeps, found one made with --no-input-persistency";
    pi.refuses(&["record", "out", "1"], true, &["record: ", expected]);
    pi.refuses(&["inject", "from", "to"], true, &["inject: ", expected]);
}
