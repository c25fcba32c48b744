//! A teacher's masks of a protocol's objects, kept: every student of one teacher is scored beside the same rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_data::geometry::Size;
use sensei_data::rle::Rle;
use sensei_eval::protocol::EvalProtocol;
use sensei_files::bounded::read_bounded;
use sensei_files::digest::{blake3_hex, sha256_of_lines};
use sensei_files::whole::write_whole;
use serde::{Deserialize, Serialize};

use crate::phases::prompted_scores::Masks;
use crate::progress::say;

/// Where the rows of one question are, or will be.
pub struct KeptRows {
    path: PathBuf,
    question: String,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOfRows {
    format: u32,
    /// What was asked, so that a file that was moved is not taken for another.
    question: String,
    /// Of `rows`, so that a changed file is told.
    blake3: String,
    /// JSON of row name and masks in COCO's compressed form, by annotation.
    rows: String,
}

impl KeptRows {
    /// Those of the teacher whose answers have the digest `answers`, on a protocol, with so many further clicks.
    pub fn new(runs: &Path, protocol: &EvalProtocol, answers: [u8; 32], clicks: u8) -> Self {
        let answers = blake3::Hash::from_bytes(answers).to_hex();
        let version = env!("CARGO_PKG_VERSION");
        let question = sha256_of_lines(&[format!("{FORMAT} {version} {answers} {clicks}"), protocol.canonical_json()]);
        Self { path: runs.join("teacher-cache").join("scored").join(format!("{}.json", &question[..16])), question }
    }

    /// The rows, if they are kept; `sizes` are those of the images of all annotations that are scored.
    ///
    /// # Errors
    /// If the file cannot be read, was changed, or is about other annotations.
    pub fn read(&self, sizes: &BTreeMap<u64, Size>) -> anyhow::Result<Option<Vec<(String, Masks)>>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let shown = self.path.display();
        let rows = self.parsed(sizes).with_context(|| format!("{shown}: delete it, and the teacher is asked again"))?;
        say(&format!("{shown}: the teacher's masks of an earlier scoring"));
        Ok(Some(rows))
    }

    fn parsed(&self, sizes: &BTreeMap<u64, Size>) -> anyhow::Result<Vec<(String, Masks)>> {
        let file: FileOfRows = serde_json::from_slice(&read_bounded(&self.path, MAX_BYTES)?)?;
        ensure!(file.format == FORMAT, "expected format {FORMAT}, found {}", file.format);
        ensure!(file.question == self.question, "expected question {}, found {}", self.question, file.question);
        let found = blake3_hex(file.rows.as_bytes());
        ensure!(found == file.blake3, "expected rows of BLAKE3 {}, found {found}", file.blake3);
        let rows: Vec<(String, BTreeMap<u64, String>)> = serde_json::from_str(&file.rows)?;
        let row = |(name, masks): (String, BTreeMap<u64, String>)| {
            ensure!(masks.keys().eq(sizes.keys()), "row {name}: expected the {} annotations scored", sizes.len());
            let masks = masks.iter().map(|(id, compressed)| {
                let mask = Rle::from_compressed_str(sizes[id], compressed);
                Ok((*id, mask.with_context(|| format!("row {name}, annotation {id}"))?))
            });
            let masks: anyhow::Result<Masks> = masks.collect();
            Ok((name, masks?))
        };
        rows.into_iter().map(row).collect()
    }

    /// Keeps rows.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, rows: &[(String, Masks)]) -> anyhow::Result<()> {
        let row = |(name, masks): &(String, Masks)| {
            let masks: BTreeMap<u64, String> =
                masks.iter().map(|(id, mask)| (*id, mask.to_compressed_string())).collect();
            (name.clone(), masks)
        };
        let rows = serde_json::to_string(&rows.iter().map(row).collect::<Vec<_>>())?;
        let (question, blake3) = (self.question.clone(), blake3_hex(rows.as_bytes()));
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
        write_whole(&self.path, &serde_json::to_vec(&FileOfRows { format: FORMAT, question, blake3, rows })?)?;
        Ok(())
    }
}

/// Of the file. What the clicks of a row depend on is part of it: another way to draw them is another format.
const FORMAT: u32 = 1;

/// Rows of 36,000 objects of COCO's validation images, with clicks, are about 50 MB.
const MAX_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(folder: &Path) -> KeptRows {
        KeptRows { path: folder.join("scored").join("rows.json"), question: "who".into() }
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_a_changed_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let size = Size { width: 5, height: 4 };
        let mask = |counts: &[u32]| Rle::from_counts(size, counts).unwrap();
        let rows = vec![
            ("teacher".to_string(), Masks::from([(3, mask(&[4, 6, 10])), (8, mask(&[20]))])),
            ("teacher+1".to_string(), Masks::from([(3, mask(&[0, 20])), (8, mask(&[1, 1, 18]))])),
        ];
        let sizes = BTreeMap::from([(3, size), (8, size)]);
        let kept = kept(folder.path());
        assert!(kept.read(&sizes).unwrap().is_none());
        kept.write(&rows).unwrap();
        assert_eq!(kept.read(&sizes).unwrap().unwrap(), rows);

        let error = |kept: &KeptRows, sizes: &BTreeMap<u64, Size>| format!("{:#}", kept.read(sizes).unwrap_err());
        let other = KeptRows { question: "somebody else".into(), path: kept.path.clone() };
        assert!(error(&other, &sizes).contains("expected question somebody else, found who"));
        assert!(error(&kept, &BTreeMap::from([(3, size)])).contains("expected the 1 annotations scored"));
        let small = Size { width: 2, height: 2 };
        assert!(error(&kept, &BTreeMap::from([(3, size), (8, small)])).contains("annotation 8"));
        let text = std::fs::read_to_string(&kept.path).unwrap();
        write_whole(&kept.path, text.replace("teacher+1", "teacher+2").as_bytes()).unwrap();
        let changed = error(&kept, &sizes);
        assert!(changed.contains("rows.json: delete it") && changed.contains("expected rows of BLAKE3"), "{changed}");
        write_whole(&kept.path, &text.as_bytes()[..text.len() / 2]).unwrap();
        assert!(error(&kept, &sizes).contains("delete it"));
    }
}
