//! The digests of a folder's files, in a file that `sha256sum -c` takes.
//!
//! A flipped bit in a file of weights gives other integers and no error: nothing else in the file says what it should be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::bounded::read_bounded;
use crate::digest::sha256_of_file;
use crate::error::FileError;
use crate::whole::write_whole;

/// Name of the list in its folder.
pub const LIST: &str = "SHA256SUMS";

/// A file that is not as the list of its folder says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Its content is another.
    #[error("{}: changed since it was written: expected SHA-256 {expected}, found {found}", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// In the list.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// It is listed and not there.
    #[error("{}: expected the file that {LIST} names, found none", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The list is none.
    #[error("{}: line {line}: expected 64 hexadecimal digits, two spaces and a path below the folder", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The list of a folder; empty where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestList {
    folder: PathBuf,
    digests: BTreeMap<String, String>,
}

impl DigestList {
    /// Reads the list of a folder.
    ///
    /// # Errors
    /// `List`, `File`.
    pub fn read(folder: &Path) -> Result<Self, DigestError> {
        let path = folder.join(LIST);
        let mut digests = BTreeMap::new();
        if path.exists() {
            let bytes = read_bounded(&path, MAX_LIST_BYTES)?;
            for (idx, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
                let (digest, name) =
                    parse(line).ok_or_else(|| DigestError::List { path: path.clone(), line: idx + 1 })?;
                digests.insert(name, digest);
            }
        }
        Ok(Self { folder: folder.into(), digests })
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// The names that are listed, relative to the folder.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.digests.keys().map(String::as_str)
    }

    /// Lists files of the folder as they are now, those that exist.
    ///
    /// # Errors
    /// `File`.
    ///
    /// # Panics
    /// If a file is not in the folder.
    pub fn record(&mut self, files: &[PathBuf]) -> Result<(), DigestError> {
        for file in files.iter().filter(|file| file.is_file()) {
            let digest = sha256_of_file(file)?;
            self.digests.insert(self.name(file), digest);
        }
        self.write()
    }

    /// Takes files out of the list that are about to change: a kill before they are listed again leaves them unlisted, not wrong.
    ///
    /// # Errors
    /// `File`.
    ///
    /// # Panics
    /// If a file is not in the folder.
    pub fn forget(&mut self, files: &[PathBuf]) -> Result<(), DigestError> {
        let n_before = self.digests.len();
        for file in files {
            self.digests.remove(&self.name(file));
        }
        if self.digests.len() < n_before { self.write() } else { Ok(()) }
    }

    /// Holds a file to the list; content with one that is not listed.
    ///
    /// # Errors
    /// `Differs`, `Missing`, `File`.
    ///
    /// # Panics
    /// If the file is not in the folder.
    pub fn check(&self, file: &Path) -> Result<(), DigestError> {
        let Some(expected) = self.digests.get(&self.name(file)) else { return Ok(()) };
        if !file.is_file() {
            return Err(DigestError::Missing { path: file.into() });
        }
        let found = sha256_of_file(file)?;
        if found != *expected {
            return Err(DigestError::Differs { path: file.into(), expected: expected.clone(), found });
        }
        Ok(())
    }

    /// Holds every listed file to the list.
    pub fn check_all(&self) -> Vec<DigestError> {
        self.names().filter_map(|name| self.check(&self.folder.join(name)).err()).collect()
    }

    fn name(&self, file: &Path) -> String {
        let inner = file.strip_prefix(&self.folder).expect("a file of the folder");
        inner.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    fn write(&self) -> Result<(), DigestError> {
        let lines: String = self.digests.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        Ok(write_whole(&self.folder.join(LIST), lines.as_bytes())?)
    }
}

/// Lists every file below a folder, as the last thing that is written into it.
///
/// # Errors
/// `File`.
pub fn list_all(folder: &Path) -> Result<(), DigestError> {
    let mut files = vec![];
    below(folder, &mut files)?;
    files.retain(|file| *file != folder.join(LIST));
    DigestList { folder: folder.into(), digests: BTreeMap::new() }.record(&files)
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::io(folder, "list"))? {
        let path = entry.map_err(FileError::io(folder, "list"))?.path();
        if path.is_dir() { below(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// Digest and name of a line; the name leads nowhere but into the folder.
fn parse(line: &str) -> Option<(String, String)> {
    let (digest, name) = line.split_once("  ")?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_inner = !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    (is_digest && is_inner).then(|| (digest.into(), name.into()))
}

/// A package has some dozen files.
const MAX_LIST_BYTES: u64 = 4 << 20;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_seen_and_what_is_forgotten_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("inner")).unwrap();
        for name in ["a", "inner/b"] {
            fs::write(at(name), name).unwrap();
        }
        list_all(folder.path()).unwrap();
        let list = DigestList::read(folder.path()).unwrap();
        assert_eq!(list.names().collect::<Vec<_>>(), ["a", "inner/b"]);
        // `printf a | sha256sum`
        let line = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n";
        assert!(fs::read_to_string(at(LIST)).unwrap().starts_with(line));
        assert!(list.check_all().is_empty());

        fs::write(at("a"), "A").unwrap();
        fs::remove_file(at("inner/b")).unwrap();
        let problems = list.check_all();
        assert!(matches!(problems[..], [DigestError::Differs { .. }, DigestError::Missing { .. }]), "{problems:?}");
        assert!(list.check(&at("not-listed")).is_ok());

        let mut list = list;
        list.forget(&[at("inner/b")]).unwrap();
        list.record(&[at("a"), at("not-there")]).unwrap();
        assert_eq!(DigestList::read(folder.path()).unwrap(), list);
        assert!(list.check_all().is_empty());
    }

    #[test]
    fn lists_that_lead_elsewhere_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let digest = "0".repeat(64);
        for line in [format!("{digest}  ../a"), format!("{digest}  /etc/passwd"), format!("{digest} a"), "x  a".into()]
        {
            fs::write(folder.path().join(LIST), format!("{digest}  fine\n{line}\n")).unwrap();
            assert!(matches!(DigestList::read(folder.path()), Err(DigestError::List { line: 2, .. })), "{line}");
        }
    }
}
