//! A zip file into a hidden folder, and from there into place when it is complete.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::{Archive, CHUNK, FetchError, FetchProgress, FetchReport, FetchStep, read_error, said, write_error};

/// Unpacks `zip_path` into a hidden folder in `dir`. Each file is checked against its CRC-32 in the archive and synced to disk.
pub(super) fn unpack(
    archive: &Archive,
    zip_path: &Path,
    dir: &Path,
    report: &mut FetchReport,
    progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
) -> Result<(), FetchError> {
    let staging = staging(archive, dir);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(write_error(&staging))?;
    }
    let zip_error = |source| FetchError::Zip { path: zip_path.to_path_buf(), source };
    let file = File::open(zip_path).map_err(read_error(zip_path))?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(zip_error)?;
    let total_bytes =
        zip.decompressed_size().map_or(archive.max_unpacked_bytes, |n| u64::try_from(n).unwrap_or(u64::MAX));
    let mut reported = 0;
    let n_entries = zip.len();
    for entry_idx in 0..n_entries {
        let mut entry = zip.by_index(entry_idx).map_err(zip_error)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let inside = entry.enclosed_name().filter(|path| is_inside(path, &archive.folders));
        let Some(relative) = inside.filter(|_| !entry.is_symlink()) else {
            let (path, folders) = (zip_path.to_path_buf(), archive.folders.clone());
            return Err(FetchError::UnsafeEntry { path, entry: name, folders });
        };
        let path = staging.join(relative);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(write_error(&path))?;
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(write_error(folder))?;
        }
        let left = archive.max_unpacked_bytes - report.unpacked_bytes;
        let n_bytes = copy(&mut entry.by_ref().take(left + 1), &path).map_err(|error| match error {
            CopyError::Read(source) => zip_error(ZipError::Io(source)),
            CopyError::Write(error) => error,
        })?;
        if n_bytes > left {
            let (path, limit) = (zip_path.to_path_buf(), archive.max_unpacked_bytes);
            return Err(FetchError::TooLarge { path, limit, entry: name });
        }
        report.n_files += 1;
        report.unpacked_bytes += n_bytes;
        if report.unpacked_bytes - reported >= CHUNK as u64 || entry_idx + 1 == n_entries {
            reported = report.unpacked_bytes;
            said(progress(FetchProgress { step: FetchStep::Unpack, done_bytes: reported, total_bytes }))?;
        }
    }
    match archive.folders.iter().find(|folder| !staging.join(folder).is_dir()) {
        Some(folder) => Err(FetchError::MissingFolder { path: zip_path.to_path_buf(), folder: folder.clone() }),
        None => Ok(()),
    }
}

/// Gives completely unpacked folders their final names; nothing to do if that is done.
pub(super) fn move_into_place(archive: &Archive, dir: &Path) -> Result<(), FetchError> {
    let staging = staging(archive, dir);
    for folder in &archive.folders {
        let (staged, path) = (staging.join(folder), dir.join(folder));
        if staged.exists() {
            fs::rename(staged, &path).map_err(write_error(&path))?;
        }
    }
    if staging.exists() { fs::remove_dir(&staging).map_err(write_error(&staging)) } else { Ok(()) }
}

fn staging(archive: &Archive, dir: &Path) -> PathBuf {
    dir.join(format!(".{}.unpacking", archive.file_name))
}

fn is_inside(relative: &Path, folders: &[String]) -> bool {
    match relative.components().next() {
        Some(Component::Normal(first)) => folders.iter().any(|folder| first == folder.as_str()),
        _ => false,
    }
}

enum CopyError {
    Read(std::io::Error),
    Write(FetchError),
}

#[expect(clippy::disallowed_methods, reason = "in a folder that nobody reads before it has its name")]
fn copy(from: &mut dyn Read, path: &Path) -> Result<u64, CopyError> {
    let failed = |source| CopyError::Write(FetchError::Write { path: path.to_path_buf(), source });
    let mut file = File::create(path).map_err(failed)?;
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match from.read(&mut chunk).map_err(CopyError::Read)? {
            0 => break,
            n_bytes => {
                file.write_all(&chunk[..n_bytes]).map_err(failed)?;
                total += n_bytes as u64;
            }
        }
    }
    file.sync_all().map_err(failed)?;
    Ok(total)
}
