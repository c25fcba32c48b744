//! What both kinds of records have in common as bytes: checksum, kind, image. Layout: `docs/formats/teacher-cache.md`.

use sensei_data::geometry::Size;
use sensei_files::digest::hex;

use crate::kept::RecordKind;
use crate::record::{ImageIdentity, RecordFault};

/// Starts a record at the end of `shard` and returns where; [`seal`] ends it. `shape` is a number that depends on the kind.
pub fn begin(shard: &mut Vec<u8>, kind: RecordKind, shape: u32, id: u64, image: &ImageIdentity) -> usize {
    let start = shard.len();
    shard.extend([0; CHECKSUM_BYTES]);
    shard.extend(kind.code().to_le_bytes());
    shard.extend(shape.to_le_bytes());
    shard.extend(id.to_le_bytes());
    shard.extend(image.id.to_le_bytes());
    shard.extend(image.file_digest);
    shard.extend(image.size.width.to_le_bytes());
    shard.extend(image.size.height.to_le_bytes());
    shard.extend(image.pixel_digest.unwrap_or_default());
    start
}

/// Writes the checksum of the record that starts at `start` and ends with the shard.
pub fn seal(shard: &mut [u8], start: usize) {
    let checksum = checksum(&shard[start + CHECKSUM_BYTES..]);
    shard[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
}

/// The beginning of a record.
pub struct Start<'a> {
    pub shape: u32,
    pub id: u64,
    pub image: ImageIdentity,
    /// What follows.
    pub fields: Fields<'a>,
}

/// Reads the beginning of the record that fills `bytes`, after its checksum.
///
/// # Errors
/// If the record is cut or damaged, or of another kind.
pub fn parse_start(bytes: &[u8], kind: RecordKind) -> Result<Start<'_>, RecordFault> {
    if bytes.len() < START_BYTES {
        let expected = format!("at least {START_BYTES} bytes");
        return Err(RecordFault::new("record", expected, format!("{} bytes", bytes.len())));
    }
    let (stored, body) = bytes.split_at(CHECKSUM_BYTES);
    let computed = checksum(body);
    if stored != computed {
        return Err(RecordFault::new("record checksum", hex(stored), hex(&computed)));
    }
    let mut fields = Fields(body);
    let found = fields.u32()?;
    if found != kind.code() {
        return Err(RecordFault::new("kind of record", kind.code().to_string(), found.to_string()));
    }
    let (shape, id, image_id) = (fields.u32()?, fields.u64()?, fields.u64()?);
    let file_digest = fields.take()?;
    let size = Size { width: fields.u32()?, height: fields.u32()? };
    let pixel_digest = Some(fields.take()?).filter(|digest| *digest != [0; 32]);
    Ok(Start { shape, id, image: ImageIdentity { id: image_id, file_digest, pixel_digest, size }, fields })
}

/// Little-endian fields, of which a record may have fewer than it should.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], RecordFault> {
        let Some((head, tail)) = self.0.split_at_checked(n) else {
            let found = format!("{} bytes before the record's end", self.0.len());
            return Err(RecordFault::new("record", format!("{n} bytes more"), found));
        };
        self.0 = tail;
        Ok(head)
    }

    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordFault> {
        let bytes = self.bytes(N)?;
        Ok(*bytes.as_array().expect("as many bytes as were asked for"))
    }

    pub fn u32(&mut self) -> Result<u32, RecordFault> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub fn u64(&mut self) -> Result<u64, RecordFault> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub fn f32(&mut self) -> Result<f32, RecordFault> {
        Ok(f32::from_le_bytes(self.take()?))
    }

    pub fn f64(&mut self) -> Result<f64, RecordFault> {
        Ok(f64::from_le_bytes(self.take()?))
    }

    /// # Errors
    /// If bytes are left over.
    pub fn end(&self) -> Result<(), RecordFault> {
        match self.0.len() {
            0 => Ok(()),
            n => Err(RecordFault::new("record", "its end", format!("{n} bytes more"))),
        }
    }
}

pub fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

pub const CHECKSUM_BYTES: usize = 8;
/// Bytes that every record begins with.
pub const START_BYTES: usize = CHECKSUM_BYTES + 4 + 4 + 8 + IMAGE_BYTES;
const IMAGE_BYTES: usize = 8 + 32 + 4 + 4 + 32;
