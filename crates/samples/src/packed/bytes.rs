//! Header, index and table of images of a pack, as bytes. Layout: `docs/formats/packed-samples.md`.

use sensei_files::digest::hex;

/// A part of a pack that is not as it should be: what, expected, found.
pub(super) type Fault = (String, String, String);

/// What stands at a pack's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub n_records: u64,
    pub n_images: u64,
    /// Where the records end; the index follows, then the images, then the key.
    pub records_end: u64,
    pub key_bytes: u64,
    /// BLAKE3 of everything behind the records.
    pub tail_digest: [u8; 32],
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        for (place, number) in
            [16, 24, 32, 40].into_iter().zip([self.n_records, self.n_images, self.records_end, self.key_bytes])
        {
            bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[48..80].copy_from_slice(&self.tail_digest);
        let checksum = checksum(&bytes[..80]);
        bytes[80..].copy_from_slice(&checksum);
        bytes
    }

    /// The header of a file of so many bytes.
    ///
    /// # Errors
    /// If it is none, or the sizes in it are not those of the file.
    pub fn from_file(file: &[u8]) -> Result<Self, Fault> {
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(fault("size", format!("at least {HEADER_BYTES} bytes"), format!("{} bytes", file.len())));
        };
        if &bytes[..8] != MAGIC {
            return Err(fault("magic", hex(MAGIC), hex(&bytes[..8])));
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(fault("format version", FORMAT_VERSION.to_string(), version.to_string()));
        }
        let computed = checksum(&bytes[..80]);
        if bytes[80..] != computed {
            return Err(fault("header checksum", hex(&bytes[80..]), hex(&computed)));
        }
        let [n_records, n_images, records_end, key_bytes] = [16, 24, 32, 40].map(|at| u64_at(bytes, at));
        let mut tail_digest = [0; 32];
        tail_digest.copy_from_slice(&bytes[48..80]);
        let header = Self { n_records, n_images, records_end, key_bytes, tail_digest };
        if header.end() != Some(file.len() as u64) || records_end < HEADER_BYTES as u64 || key_bytes > MAX_KEY_BYTES {
            let expected = header.end().map_or_else(|| String::from("less"), |end| format!("{end} bytes"));
            return Err(fault("size", expected, format!("{} bytes", file.len())));
        }
        Ok(header)
    }

    /// Index, images and key of a file whose size was checked.
    pub fn tail(self, file: &[u8]) -> (&[[u8; INDEX_ENTRY_BYTES]], &[[u8; IMAGE_ENTRY_BYTES]], &[u8]) {
        let (index, rest) = file[self.records_end as usize..].split_at(self.n_records as usize * INDEX_ENTRY_BYTES);
        let (images, key) = rest.split_at(self.n_images as usize * IMAGE_ENTRY_BYTES);
        (index.as_chunks().0, images.as_chunks().0, key)
    }

    /// The length of the file.
    fn end(self) -> Option<u64> {
        let index = self.n_records.checked_mul(INDEX_ENTRY_BYTES as u64)?;
        let images = self.n_images.checked_mul(IMAGE_ENTRY_BYTES as u64)?;
        self.records_end.checked_add(index)?.checked_add(images)?.checked_add(self.key_bytes)
    }
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub annotation_id: u64,
    pub offset: u64,
    pub n_bytes: u64,
}

impl IndexEntry {
    pub fn to_bytes(self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        for (at, number) in [self.annotation_id, self.offset, self.n_bytes].into_iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Self {
        let [annotation_id, offset, n_bytes] = [0, 8, 16].map(|at| u64_at(bytes, at));
        Self { annotation_id, offset, n_bytes }
    }
}

/// An image file whose pixels are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageEntry {
    /// Its id in the annotation file.
    pub image_id: u64,
    /// BLAKE3 of its bytes.
    pub digest: [u8; 32],
}

impl ImageEntry {
    pub fn to_bytes(self) -> [u8; IMAGE_ENTRY_BYTES] {
        let mut bytes = [0; IMAGE_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.image_id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }

    pub fn from_bytes(bytes: &[u8; IMAGE_ENTRY_BYTES]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[8..]);
        Self { image_id: u64_at(bytes, 0), digest }
    }
}

/// First bytes of the BLAKE3 of some bytes.
pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

pub(super) fn fault(what: &str, expected: impl Into<String>, found: impl Into<String>) -> Fault {
    (what.into(), expected.into(), found.into())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|idx| bytes[at + idx]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|idx| bytes[at + idx]))
}

const MAGIC: &[u8; 8] = b"SNSIPACK";
/// Version of the format that is written and read.
const FORMAT_VERSION: u32 = 1;
pub(super) const CHECKSUM_BYTES: usize = 8;
pub(super) const HEADER_BYTES: usize = 88;
pub(super) const INDEX_ENTRY_BYTES: usize = 24;
pub(super) const IMAGE_ENTRY_BYTES: usize = 40;
/// More than any key.
pub(super) const MAX_KEY_BYTES: u64 = 64 << 10;
