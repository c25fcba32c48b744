//! Making and finding the folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sensei_report::run_folder::RunFolder;

use crate::usage;

/// Makes the folder of a new run, or takes that of a run to resume.
///
/// # Errors
/// If it exists and is not to be resumed, or cannot be made.
pub fn create(root: PathBuf, resume: bool) -> anyhow::Result<RunFolder> {
    let shown = root.display().to_string();
    if root.exists() && !resume {
        let advice = "use --resume to go on with it, or --name for another folder";
        return Err(usage(anyhow::anyhow!("{shown}: expected no such run yet, found one; {advice}")));
    }
    fs::create_dir_all(&root).with_context(|| format!("{shown}: cannot make the run folder"))?;
    Ok(RunFolder::at(root))
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
    Ok(folder)
}
