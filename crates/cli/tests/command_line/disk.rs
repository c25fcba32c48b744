//! Folders that cannot be written and a disk that is full.
//!
//! Tests often run as root, for whom nothing is read-only: then the command runs as nobody. A full disk is simulated by
//! a limit on the size of files (`ulimit -f`), which fails at the same place in the middle of a write.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::{Place, files_below};

/// The command, as a user for whom what the tests wrote is read-only.
fn as_nobody(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    if fs::metadata(place.dir.path()).unwrap().uid() != 0 {
        return command;
    }
    // The build's folder may be closed to others.
    let binary = place.path("sensei");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_sensei"), &binary).unwrap();
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(binary);
    command.args(arguments).current_dir(place.dir.path()).uid(65534).gid(65534);
    command
}

#[test]
fn read_only_runs_folder() {
    let place = Place::new();
    fs::create_dir(place.path("runs")).unwrap();
    fs::set_permissions(place.path("runs"), fs::Permissions::from_mode(0o555)).unwrap();
    let output = as_nobody(&place, &["train", "tiny.toml"]).output().unwrap();
    place.refused(&output, 1, &["runs/tiny: cannot make the run folder", "Permission denied"]);
    assert!(files_below(&place.path("runs")).is_empty());
}

#[test]
fn read_only_run_folder() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let run = place.path("runs/tiny");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o555)).unwrap();
    let before = files_below(&run);
    let output = as_nobody(&place, &["train", "tiny.toml", "--resume"]).output().unwrap();
    place.refused(&output, 1, &["runs/tiny/run.lock: cannot lock", "Permission denied"]);
    let output = as_nobody(&place, &["quantize", "runs/tiny"]).output().unwrap();
    place.refused(&output, 1, &["runs/tiny/run.lock: cannot lock", "Permission denied"]);
    assert_eq!(files_below(&run), before);
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn file_where_the_runs_folder_should_be() {
    let place = Place::new();
    fs::write(place.path("taken"), "kept").unwrap();
    place.refuses(&["train", "tiny.toml", "--runs", "taken"], 1, &["taken/tiny: cannot make the run folder"]);
    place.refuses(&["data", "synth", "taken"], 1, &["taken"]);
    assert_eq!(fs::read(place.path("taken")).unwrap(), b"kept");
}

/// A command that cannot make a file larger than so many blocks of 512 bytes.
pub(crate) fn with_full_disk(place: &Place, blocks: usize, arguments: &[&str]) -> Command {
    let inner = place.command(arguments);
    let mut command = Command::new("sh");
    // Without the trap the signal would end the program before it can say anything.
    command.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(place.dir.path());
    command
}

#[test]
fn full_disk_while_a_checkpoint_is_written() {
    let place = Place::new();
    let output = with_full_disk(&place, 32, &["train", "tiny.toml"]).output().unwrap();
    place.refused(&output, 1, &["checkpoints/step-", ".safetensors: cannot write: File too large"]);
    assert!(files_below(&place.path("runs/tiny/checkpoints")).is_empty());
    assert!(!place.path("runs/tiny/student.safetensors").exists());
    // With room again, the same run goes on.
    place.does(&["train", "tiny.toml", "--resume"]);
}

#[test]
fn full_disk_while_other_files_are_written() {
    let place = Place::new();
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = with_full_disk(&place, 1, arguments).output().unwrap();
        place.refused(&output, 1, &[words, &["File too large"]].concat());
    };
    refused(&["train", "tiny.toml"], &["runs/tiny/plan.toml: cannot write"]);
    refused(&["data", "synth", "new-scenes"], &["cannot write"]);
    assert_eq!(files_below(&place.path("runs/tiny")), [place.path("runs/tiny/run.lock")]);
    assert!(!place.path("new-scenes").exists());
    // What failed before its first step blocks nothing.
    place.does(&["train", "tiny.toml"]);
    refused(&["quantize", "runs/tiny"], &["student.s8m"]);
    assert!(!place.path("runs/tiny/student.s8m").exists());
}

#[test]
fn results_that_cannot_be_printed() {
    let place = Place::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command(&["plan", "tiny.toml"]).stdout(full).output().unwrap();
    place.refused(&output, 1, &["standard output: cannot write: No space left on device"]);
    // A reader that has seen enough is no error.
    let mut child =
        place.command(&["plan", "tiny.toml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
