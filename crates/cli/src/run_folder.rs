//! Making, finding and holding the folder of a run.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sensei_files::digest_list::DigestList;
use sensei_files::lock::{Lock, LockError};
use sensei_files::whole::write_whole;
use sensei_report::run_folder::RunFolder;

use crate::progress::warn;
use crate::usage;

/// Refuses names that would not be a folder of their own below the folder of all runs.
///
/// # Errors
/// If the name has parts, is none, or is that of a folder that all runs share.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let is_one_part =
        matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(part)] if part == name);
    ensure!(is_one_part, "expected a run's name without `/`, `.` or `..`, found {name:?}");
    ensure!(
        !SHARED_FOLDERS.contains(&name),
        "a run cannot be named {name:?}: all runs share the folder of that name; take --name or rename the configuration"
    );
    Ok(())
}

/// Refuses a folder that holds a run which is not to be resumed. One that ended before its first checkpoint holds none.
///
/// # Errors
/// If there is one.
pub fn check_free(root: &Path, resume: bool) -> anyhow::Result<()> {
    if resume || !root.exists() || (root.is_dir() && !has_begun(&RunFolder::at(root))) {
        return Ok(());
    }
    let advice = "use --resume to go on with it, or --name for another folder";
    Err(usage(anyhow::anyhow!("{}: expected no such run yet, found one; {advice}", root.display())))
}

/// Makes the folder of a new run, or takes that of a run to resume, and holds it.
///
/// # Errors
/// If it exists and is not to be resumed, is held by another process, or cannot be made.
pub fn create(root: PathBuf, resume: bool) -> anyhow::Result<(RunFolder, Lock)> {
    if resume && !has_begun(&RunFolder::at(&root)) {
        warn(&format!("{}: no run to go on with; this one starts from the beginning", root.display()));
    }
    fs::create_dir_all(&root).with_context(|| format!("{}: cannot make the run folder", root.display()))?;
    let folder = RunFolder::at(&root);
    let lock = lock(&folder)?;
    check_free(&root, resume)?;
    if !resume {
        // What a run has left that ended before its first checkpoint.
        for file in [folder.plan_toml(), folder.events()] {
            if file.exists() {
                fs::remove_file(&file).with_context(|| format!("{}: cannot remove", file.display()))?;
            }
        }
        let curves = folder.tensorboard();
        if curves.exists() {
            fs::remove_dir_all(&curves).with_context(|| format!("{}: cannot remove", curves.display()))?;
        }
    }
    sweep(&folder)?;
    Ok((folder, lock))
}

/// Holds a run's folder: nobody else writes into it meanwhile.
///
/// # Errors
/// If another process does.
pub fn lock(folder: &RunFolder) -> anyhow::Result<Lock> {
    let command: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    Lock::take(&folder.lock(), &format!("sensei {}", command.join(" "))).map_err(|error| match error {
        LockError::Held { holder, .. } => {
            anyhow::anyhow!("{}: this run is in the hands of {holder}", folder.root().display())
        }
        other => other.into(),
    })
}

/// Takes the folder of a run that has been made.
///
/// # Errors
/// If it has no configuration in it.
pub fn open(root: &Path) -> anyhow::Result<RunFolder> {
    let folder = RunFolder::at(root);
    if !folder.plan_toml().is_file() {
        bail!("{}: expected a run folder with a plan.toml, found none", root.display());
    }
    check(&folder, &folder.plan_toml())?;
    Ok(folder)
}

/// Lists files of a run as they are now.
///
/// # Errors
/// If they cannot be read, or the list not be written.
pub fn record(folder: &RunFolder, files: &[PathBuf]) -> anyhow::Result<()> {
    Ok(DigestList::read(folder.root())?.record(files)?)
}

/// Takes files of a run out of its list, before they are written again.
///
/// # Errors
/// If the list cannot be read or written.
pub fn forget(folder: &RunFolder, files: &[PathBuf]) -> anyhow::Result<()> {
    Ok(DigestList::read(folder.root())?.forget(files)?)
}

/// Writes the resolved configuration of a run, and lists it.
///
/// # Errors
/// If it, or the list, cannot be written.
pub fn write_plan(folder: &RunFolder, resolved_toml: &str) -> anyhow::Result<()> {
    let path = folder.plan_toml();
    forget(folder, std::slice::from_ref(&path))?;
    write_whole(&path, resolved_toml.as_bytes())?;
    record(folder, &[path])
}

/// Refuses a file of a run that was changed since the run wrote it.
///
/// # Errors
/// If it was.
pub fn check(folder: &RunFolder, file: &Path) -> anyhow::Result<()> {
    Ok(DigestList::read(folder.root())?.check(file)?)
}

/// Refuses a run that lacks a file, with the commands that make it.
///
/// # Errors
/// If it does.
pub fn expect(folder: &RunFolder, file: &Path, what: &str, advice: &str) -> anyhow::Result<()> {
    let (root, name) = (folder.root().display(), file.strip_prefix(folder.root()).unwrap_or(file).display());
    ensure!(file.is_file(), "{root}: expected {what} ({name}), found none: {advice}");
    Ok(())
}

/// Refuses a run that has no trained weights yet, or whose weights were changed.
///
/// # Errors
/// If it has none, or they were.
pub fn expect_trained(folder: &RunFolder) -> anyhow::Result<()> {
    check(folder, &folder.student())?;
    expect(folder, &folder.student(), "a trained student", "`sensei run CONFIG --resume` goes on training")
}

/// Whether there is something to go on from.
fn has_begun(folder: &RunFolder) -> bool {
    let has_checkpoint = fs::read_dir(folder.checkpoints()).is_ok_and(|mut entries| entries.next().is_some());
    has_checkpoint || folder.student().exists()
}

/// Removes the temporary files of writers that were killed. Only under the lock: there is no other writer then.
fn sweep(folder: &RunFolder) -> anyhow::Result<()> {
    for place in [folder.root().to_path_buf(), folder.checkpoints(), folder.eval()] {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries {
            let path = entry.with_context(|| format!("{}: cannot list", place.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                fs::remove_file(&path).with_context(|| format!("{}: cannot remove", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Folders beside the runs.
const SHARED_FOLDERS: [&str; 4] = ["composed", "packed", "synthetic", "teacher-cache"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_folder() {
        for name in ["quickstart", "a b", "ü", "..hidden", "1"] {
            check_name(name).expect(name);
        }
        for name in ["", ".", "..", "../evil", "a/b", "/etc", "a/", "composed", "packed", "synthetic", "teacher-cache"]
        {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
