//! The zip archive that `torch.save` writes since PyTorch 1.6.

use std::io::{Cursor, Read};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::checkpoint::CheckpointError;

/// A checkpoint's archive. Members are read one by one, together at most twice the size of the file.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// What `data.pkl` and all other members begin with: `archive/`.
    folder: String,
    limit: usize,
    /// Bytes that may still be read: members can overlap in a file made for it.
    left: usize,
}

impl<'a> Archive<'a> {
    pub(super) fn open(bytes: &'a [u8], limit: usize) -> Result<Self, CheckpointError> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(CheckpointError::Zip)?;
        let mut folders = Vec::new();
        for name in zip.file_names() {
            let name = name.map_err(CheckpointError::Zip)?;
            if let Some(folder) =
                name.strip_suffix("data.pkl").filter(|folder| folder.is_empty() || folder.ends_with('/'))
            {
                folders.push(folder.to_string());
            }
        }
        match <[String; 1]>::try_from(folders) {
            Ok([folder]) => Ok(Self { zip, folder, limit, left: limit }),
            Err(folders) => Err(CheckpointError::Member { expected: "data.pkl".into(), found: folders.len() }),
        }
    }

    /// The pickle of the whole.
    ///
    /// # Errors
    /// If it cannot be read whole, or the archive says that its values are big-endian.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, CheckpointError> {
        let byte_order = format!("{}byteorder", self.folder);
        if self.zip.index_for_name(&byte_order).is_some() {
            let found = self.member(&byte_order)?;
            if found != b"little" {
                let (expected, found) = ("little".into(), String::from_utf8_lossy(&found).into_owned());
                return Err(CheckpointError::Content { member: byte_order, expected, found });
            }
        }
        self.member(&format!("{}data.pkl", self.folder))
    }

    /// The member that holds the values of a storage.
    pub(super) fn storage(&mut self, key: &str) -> Result<Vec<u8>, CheckpointError> {
        self.member(&format!("{}{key}", self.storage_folder()))
    }

    /// What the members of storages begin with.
    pub(super) fn storage_folder(&self) -> String {
        format!("{}data/", self.folder)
    }

    fn member(&mut self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let mut file = match self.zip.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Err(CheckpointError::Member { expected: name.into(), found: 0 }),
            Err(error) => return Err(CheckpointError::Zip(error)),
        };
        if file.compression() != CompressionMethod::Stored {
            let (expected, found) = ("a stored member".into(), format!("one compressed by {}", file.compression()));
            return Err(CheckpointError::Content { member: name.into(), expected, found });
        }
        let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
        let too_large = || CheckpointError::TooLarge { name: name.into(), limit: self.limit };
        self.left = self.left.checked_sub(size).ok_or_else(too_large)?;
        let mut content = Vec::with_capacity(size);
        let read = file.by_ref().take(size as u64 + 1).read_to_end(&mut content);
        read.map_err(|source| CheckpointError::Read { member: name.into(), source })?;
        if content.len() != size {
            let (expected, found) = (format!("{size} bytes"), format!("{} bytes", content.len()));
            return Err(CheckpointError::Content { member: name.into(), expected, found });
        }
        Ok(content)
    }
}
