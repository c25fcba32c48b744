//! Resumable, checked download of a data set's public archives.
//!
//! An archive is downloaded to `<file_name>.part`, checked against its size and SHA-256, renamed, and unpacked into a
//! hidden folder; a file `.<file_name>.unpacked` then says that it is complete, and its folders are renamed into place.
//! Whatever interrupts this, the next call goes on from there, and nothing half-written has a final name.

mod download;
mod unpack;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sensei_files::error::FileError;
use sensei_files::whole::write_whole;

/// The archives a data set is made of: the contents of a file such as `datasets/coco2017.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What people call the data set.
    pub name: String,
    /// In the order in which they are fetched.
    pub archives: Vec<Archive>,
}

/// A zip file and what it unpacks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where it lies, `http` or `https`.
    pub url: String,
    /// Its name here, without folders.
    pub file_name: String,
    /// Its exact size.
    pub n_bytes: u64,
    /// 64 hexadecimal digits. The servers of public data sets are often plain `http`: this is what makes them safe.
    pub sha256: String,
    /// The folders at the top of the archive. An entry outside of them is an error.
    pub folders: Vec<String>,
    /// Most that the archive may unpack to, in bytes.
    pub max_unpacked_bytes: u64,
}

/// How to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Keep the zip file after unpacking it.
    pub keep_archives: bool,
    /// For example `http://proxy:3128`; no proxy if `None`.
    pub proxy_url: Option<String>,
}

/// What is being done with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStep {
    /// Computing the checksum of what an earlier call has left.
    Verify,
    /// Receiving bytes.
    Download,
    /// Unpacking; counted in bytes of unpacked files.
    Unpack,
}

impl FetchStep {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "checking",
            Self::Download => "downloading",
            Self::Unpack => "unpacking",
        }
    }
}

/// What whoever watches a fetch said of going on.
fn said(answer: ControlFlow<()>) -> Result<(), FetchError> {
    if answer.is_break() { Err(FetchError::Interrupted) } else { Ok(()) }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchProgress {
    /// What is being done.
    pub step: FetchStep,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What a call of [`fetch`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Everything was there already.
    pub already_done: bool,
    /// Bytes that an earlier call had left and that were used.
    pub resumed_bytes: u64,
    /// Bytes received by this call.
    pub downloaded_bytes: u64,
    /// Bytes thrown away: the server could not resume, or an earlier call left more than the archive has.
    pub discarded_bytes: u64,
    /// Connections that broke and were taken up again.
    pub n_reconnects: u32,
    /// Number of unpacked files.
    pub n_files: u64,
    /// Bytes of unpacked files.
    pub unpacked_bytes: u64,
}

/// An archive that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// `progress` said so. What was received is kept, and another call goes on from it.
    #[error("stopped as asked")]
    Interrupted,
    /// The note of a finished archive cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest's entry makes no sense.
    #[error("archive {file_name:?}: expected {expected}, found {found:?}")]
    Manifest {
        /// Which archive.
        file_name: String,
        /// The field and what it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// No connection, or it broke twice at the same byte.
    #[error("{url}: connection failed after {done_bytes} bytes; run again to go on from there")]
    Network {
        /// The archive.
        url: String,
        /// Bytes that are kept for the next call.
        done_bytes: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answers something else than the file.
    #[error("{url}: expected HTTP status 200 or 206, found {status}")]
    Status {
        /// The archive.
        url: String,
        /// The answer.
        status: u16,
    },
    /// The server sends another part than was asked for.
    #[error("{url}: expected content range {expected}, found {found:?}")]
    ContentRange {
        /// The archive.
        url: String,
        /// What was asked for.
        expected: String,
        /// The header.
        found: String,
    },
    /// The file is not the manifest's.
    #[error("{url}: expected {expected} bytes, found {found}")]
    WrongSize {
        /// The archive, or the file of an earlier call.
        url: String,
        /// The manifest's size.
        expected: u64,
        /// The server's, or the file's.
        found: u64,
    },
    /// The file is not the manifest's. A download is removed; a file that was there before is left alone.
    #[error("{}: expected SHA-256 {expected}, found {found}", path.display())]
    WrongChecksum {
        /// The file.
        path: PathBuf,
        /// The manifest's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// A folder the archive unpacks to is there, but no earlier call has made it.
    #[error("{}: already exists, but was not unpacked from {file_name}; move it away or use it as it is", path.display())]
    FolderExists {
        /// The folder.
        path: PathBuf,
        /// The archive.
        file_name: String,
    },
    /// A damaged zip file, or a kind of one that is not supported.
    #[error("{}: cannot unpack", path.display())]
    Zip {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: zip::result::ZipError,
    },
    /// An entry that leaves the folders named in the manifest, or is a link.
    #[error("{}: entry {entry:?}: expected a plain file or folder inside of {folders:?}", path.display())]
    UnsafeEntry {
        /// The archive.
        path: PathBuf,
        /// Name of the entry.
        entry: String,
        /// The manifest's folders.
        folders: Vec<String>,
    },
    /// More than the manifest allows.
    #[error("{}: expected to unpack to at most {limit} bytes, found more at entry {entry:?}", path.display())]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// The manifest's limit.
        limit: u64,
        /// Name of the entry.
        entry: String,
    },
    /// A folder of the manifest is not in the archive.
    #[error("{}: expected a folder {folder:?}, found none", path.display())]
    MissingFolder {
        /// The archive.
        path: PathBuf,
        /// The folder.
        folder: String,
    },
    /// A file here cannot be read.
    #[error("{}: cannot read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file here cannot be written; the disk may be full.
    #[error("{}: cannot write", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Downloads, checks and unpacks one archive into `dir`, or finds that this is done; `progress` is called about once a
/// MiB. Goes on where an earlier call was interrupted.
pub fn fetch(
    archive: &Archive,
    dir: &Path,
    options: &FetchOptions,
    progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
) -> Result<FetchReport, FetchError> {
    archive.check()?;
    let mut report = FetchReport::default();
    let marker = dir.join(format!(".{}.unpacked", archive.file_name));
    if fs::read_to_string(&marker).is_ok_and(|text| text.trim() == archive.sha256) {
        unpack::move_into_place(archive, dir)?;
        if archive.folders.iter().all(|folder| dir.join(folder).is_dir()) {
            report.already_done = true;
            return Ok(report);
        }
    }
    fs::create_dir_all(dir).map_err(write_error(dir))?;
    for folder in &archive.folders {
        let path = dir.join(folder);
        if path.exists() {
            return Err(FetchError::FolderExists { path, file_name: archive.file_name.clone() });
        }
    }
    let zip_path = download::download(archive, dir, options, &mut report, progress)?;
    unpack::unpack(archive, &zip_path, dir, &mut report, progress)?;
    write_whole(&marker, format!("{}\n", archive.sha256).as_bytes())?;
    unpack::move_into_place(archive, dir)?;
    if !options.keep_archives {
        fs::remove_file(&zip_path).map_err(write_error(&zip_path))?;
    }
    Ok(report)
}

impl Archive {
    fn check(&self) -> Result<(), FetchError> {
        let plain = |name: &str| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(part)), None) if part == name)
        };
        let error = |expected, found: &str| {
            Err(FetchError::Manifest { file_name: self.file_name.clone(), expected, found: String::from(found) })
        };
        if !plain(&self.file_name) {
            return error("file_name without folders", &self.file_name);
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return error("sha256 of 64 lower-case hexadecimal digits", &self.sha256);
        }
        if self.folders.is_empty() {
            return error("folders with at least one name", "[]");
        }
        match self.folders.iter().find(|folder| !plain(folder)) {
            Some(folder) => error("folders that are plain names", folder),
            None => Ok(()),
        }
    }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    move |source| FetchError::Read { path: path.to_path_buf(), source }
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    move |source| FetchError::Write { path: path.to_path_buf(), source }
}

/// Bytes that are read or written at once.
const CHUNK: usize = 1 << 20;
