//! What `data fetch` downloads: a file such as `datasets/coco2017.toml`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use schemars::JsonSchema;
use sensei_data::fetch::{Archive, Manifest};
use serde::Deserialize;

use super::read::read;

/// The archives a data set is made of.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ManifestToml {
    /// What people call the data set.
    name: String,
    /// In the order in which they are fetched.
    archives: Vec<ArchiveToml>,
}

/// A zip file and what it unpacks to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ArchiveToml {
    /// Where it lies, `http` or `https`.
    url: String,
    /// Its name here, without folders.
    file_name: String,
    /// Its exact size.
    n_bytes: u64,
    /// 64 hexadecimal digits.
    sha256: String,
    /// The folders at the top of the archive.
    folders: Vec<String>,
    /// Most that the archive may unpack to, in bytes.
    max_unpacked_bytes: u64,
}

/// Reads a manifest.
///
/// # Errors
/// If the file cannot be read, or has an unknown, missing or wrong key.
pub fn load_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read the manifest", path.display()))?;
    let ManifestToml { name, archives } = read(path, &text, &[])?;
    let archive = |archive: ArchiveToml| {
        let ArchiveToml { url, file_name, n_bytes, sha256, folders, max_unpacked_bytes } = archive;
        Archive { url, file_name, n_bytes, sha256, folders, max_unpacked_bytes }
    };
    Ok(Manifest { name, archives: archives.into_iter().map(archive).collect() })
}

#[cfg(test)]
mod tests {
    use sensei_files::whole::write_whole;

    use super::*;

    #[test]
    fn the_manifest_of_coco_2017_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/coco2017.toml");
        let manifest = load_manifest(&path).unwrap();
        assert_eq!(
            manifest.archives.iter().map(|archive| archive.n_bytes).sum::<u64>(),
            252_907_541 + 815_585_330 + 19_336_861_798
        );
        assert!(manifest.archives.iter().all(|archive| archive.sha256.len() == 64));
    }

    #[test]
    fn a_misspelt_key_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrong.toml");
        write_whole(&path, b"name = \"one\"\n[[archives]]\nsize = 3\n").unwrap();
        let error = format!("{:#}", load_manifest(&path).unwrap_err());
        let keys = "wrong.toml:3: archives.0.size: unknown key; the keys here are `file_name`, `folders`, ";
        assert!(error.contains(keys) && error.contains("archives.0: missing keys `url`, `file_name`"), "{error}");
    }
}
