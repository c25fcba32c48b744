//! What the program says of itself, of this machine and of what it has written.

use std::fs;
use std::process::{Command, Stdio};

use super::{Place, files_below, text};

#[test]
fn shells_complete_commands_and_every_command_has_a_page() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.does(&["completions", shell]);
        assert!(script.contains("robustness") && script.contains("quantize"), "{shell}: {script}");
    }
    // Bash itself takes it.
    let script = place.does(&["completions", "bash"]);
    fs::write(place.path("sensei.bash"), script).unwrap();
    let asked = "source sensei.bash && COMP_WORDS=(sensei te) && COMP_CWORD=1 && _sensei sensei te '' && echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["-c", asked]).current_dir(place.path(".")).output().unwrap();
    assert_eq!(text(&bash).0.trim(), "teacher", "{:?}", text(&bash));

    place.does(&["man", "man"]);
    let pages: Vec<String> = files_below(&place.path("man"))
        .iter()
        .map(|page| page.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for page in ["sensei.1", "sensei-run.1", "sensei-teacher-build.1", "sensei-data-check.1", "sensei-doctor.1"] {
        assert!(pages.contains(&page.to_string()), "{page}: {pages:?}");
    }
    let page = fs::read_to_string(place.path("man/sensei-run.1")).unwrap();
    for words in [".SH NAME", "resume", "sensei run configs/quickstart.toml"] {
        assert!(page.contains(words), "expected {words:?} in: {page}");
    }
    place.refuses(&["man", "man"], 1, &["man: expected an empty folder"]);
}

#[test]
fn help_has_examples_and_the_version_its_commit() {
    let place = Place::new();
    for command in ["run", "plan", "eval", "export", "gate", "inspect"] {
        let help = place.does(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("sensei {command} ")), "{command}: {help}");
        // Wrapped to 100 columns, but for words that are longer.
        let long = help.lines().find(|line| line.chars().count() > 110);
        assert!(long.is_none(), "{command}: {long:?}");
    }
    let version = place.does(&["--version"]);
    assert!(version.starts_with(concat!("sensei ", env!("CARGO_PKG_VERSION"))), "{version}");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let commit = Command::new("git").args(["-C", root, "rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(commit) = commit.map(|output| text(&output).0) {
        assert!(commit.is_empty() || version.contains('('), "{version} of {commit}");
    }
}

#[test]
fn the_machine_is_described_for_people_and_programs() {
    let place = Place::new();
    let out = place.command(&["doctor"]).env("PATH", "/nowhere").output().unwrap();
    let (out, err) = text(&out);
    for words in
        ["CPU's instructions", "threads", "devices in this build  flex", "imxconv-pt: expected an installed program"]
    {
        assert!(out.contains(words), "expected {words:?} in: {out}{err}");
    }
    let facts: serde_json::Value = serde_json::from_str(&place.does(&["doctor", "--json"])).unwrap();
    let version = facts["version"].as_str().unwrap();
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{facts}");
    assert!(facts["threads"].as_u64().unwrap() >= 1, "{facts}");
    assert_eq!(facts["stores"][0], "folders");
}

#[test]
fn a_plan_as_json_is_one_document() {
    let place = Place::new();
    let output = place.command(&["plan", "tiny.toml", "--json"]).stdin(Stdio::null()).output().unwrap();
    let (out, err) = text(&output);
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let said = place.does(&["plan", "tiny.toml"]);
    let expected = format!("training: {} steps, {} an epoch", plan["steps"], plan["steps_per_epoch"]);
    assert!(said.contains(&expected), "{expected}: {said}");
    assert!(said.contains(plan["plan_digest"].as_str().unwrap()), "{said}");
    assert!(said.contains(&format!("coefficients {} B", plan["memory"]["coefficients"])), "{said}");
    assert!(err.contains("training: "), "the log goes to standard error: {err}");
    assert_eq!(plan["open_questions"], serde_json::json!([]));
}

#[test]
fn runs_packages_and_configurations_are_explained() {
    let place = Place::new();
    let out = place.does(&["inspect", "tiny.toml"]);
    assert!(out.contains("plan digest ") && out.contains("[student]"), "{out}");
    place.does(&["train", "tiny.toml"]);
    let out = place.does(&["inspect", "runs/tiny"]);
    assert!(out.contains("not scored yet") && out.contains("not there: student.s8m"), "{out}");
    place.does(&["run", "tiny.toml", "--resume"]);
    let out = place.does(&["inspect", "runs/tiny"]);
    assert!(out.contains("inscribed_ellipse") && out.contains(" there: student.s8m"), "{out}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("runs/tiny/package/manifest.json")).unwrap()).unwrap();
    for what in ["runs/tiny/package", "runs/tiny/package/manifest.json"] {
        let out = place.does(&["inspect", what]);
        for words in [manifest["weights_digest"].as_str().unwrap(), "scores of int8, all", "mask logits; foreground"] {
            assert!(out.contains(words), "{what}: expected {words:?} in: {out}");
        }
    }
    fs::write(place.path("runs/tiny/package/manifest.json"), "{}").unwrap();
    place.refuses(&["inspect", "runs/tiny/package"], 1, &["manifest.json", "changed since it was written"]);
    place.refuses(&["inspect", "scenes"], 1, &["expected a file, a run, a package or a teacher cache"]);
}

#[test]
fn other_programs_read_what_is_inspected_and_checked() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        let out = place.does(arguments);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    };
    let inspected = |thing: &str| json(&["inspect", thing, "--json"]);
    let run = inspected("runs/tiny");
    assert_eq!((&run["kind"], &run["name"], &run["has"]["package"]), (&"run".into(), &"tiny".into(), &true.into()));
    let report = inspected("runs/tiny/eval/report.json");
    assert_eq!(report["scores"], run["scores"]);
    let int8 = &run["scores"]["rows"]["int8"]["all"];
    assert!(int8["estimates"]["mean_iou_in_crop"]["value"].is_f64() && int8["n_instances"] == 7, "{int8}");
    let model = inspected("runs/tiny/student.s8m");
    assert_eq!(model["nodes"], inspected("runs/tiny/package/tiny.onnx")["nodes"]);
    assert_eq!(model["digest"], inspected("runs/tiny/package")["manifest"]["int8_model_digest"]);
    let stock = inspected("runs/tiny/onnx/student-int8.onnx");
    assert!(stock["kind"] == "onnx" && stock["operators"]["QuantizeLinear"].as_u64() > Some(3), "{stock}");
    assert_eq!(inspected("tiny.toml")["plan_digest"], run["plan_digest"]);
    let weights = inspected("runs/tiny/student.safetensors");
    assert!(weights["tensors"].as_object().unwrap().len() > 10, "{weights}");
    place.refuses(&["inspect", "scenes", "--json"], 1, &["expected a run, a package or a teacher cache"]);
    place.refuses(&["inspect", "runs/tiny/report.html", "--json"], 2, &["--json: expected a run"]);

    let check = ["data", "check", "scenes/annotations/instances_val.json", "scenes/images", "--json"];
    let found = json(&check);
    assert_eq!((&found["n_instances"], &found["n_problems"]), (&7.into(), &0.into()));
    fs::remove_dir_all(place.path("scenes/images")).unwrap();
    fs::create_dir(place.path("scenes/images")).unwrap();
    let output = place.command(&check).output().unwrap();
    let (out, err) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!(found["n_missing_files"], 3);
}

#[test]
fn the_program_says_less_or_more_of_what_it_is_doing() {
    let place = Place::new();
    let said = |name: &str, more: &[&str]| place.does(&[&["run", "tiny.toml", "--name", name], more].concat());
    let (quiet, normal, verbose) = (said("a", &["-q"]), said("b", &[]), said("c", &["--verbose"]));
    for out in [&quiet, &normal, &verbose] {
        assert!(out.contains("int8") && out.contains("report: "), "results are always said: {out}");
    }
    let steps = |out: &str| out.lines().filter(|line| line.contains(" img/s")).count();
    assert_eq!((steps(&quiet), steps(&normal)), (0, steps(&verbose)));
    assert!(steps(&normal) > 0 && !normal.contains(" s] "), "{normal}");
    for phase in
        ["opening and checking the data", "training", "quantizing", "scoring", "exporting", "writing the report"]
    {
        let line = verbose.lines().find(|line| line.ends_with(&format!(" s] {phase}")));
        assert!(line.is_some_and(|line| line.starts_with('[')), "expected {phase:?} in: {verbose}");
        assert!(!normal.contains(&format!("] {phase}")) && !quiet.contains(&format!("] {phase}")));
    }
    let both = place.command(&["run", "tiny.toml", "-q", "-v"]).output().unwrap();
    assert!(both.status.code() == Some(2) && text(&both).1.contains("cannot be used with"), "{:?}", text(&both));
}
