//! A record as bytes. Layout: `docs/formats/teacher-cache.md`.

use sensei_data::geometry::{RectInImage, Size};

use crate::record::{MAX_GRID, TeacherRecord};

/// Appends a record to a shard's bytes. The record has passed [`TeacherRecord::check`].
pub fn append(record: &TeacherRecord, shard: &mut Vec<u8>) {
    let body: Vec<u8> = record.logits.iter().map(|&logit| logit.cast_unsigned()).collect();
    let body = lz4_flex::block::compress(&body);
    let start = shard.len();
    shard.extend([0; 8]);
    shard.extend((body.len() as u32).to_le_bytes());
    shard.extend(record.grid.to_le_bytes());
    shard.extend(record.annotation_id.to_le_bytes());
    shard.extend(record.image_id.to_le_bytes());
    shard.extend(record.image_digest);
    shard.extend(record.image_size.width.to_le_bytes());
    shard.extend(record.image_size.height.to_le_bytes());
    let rect = record.rect_in_image;
    [rect.x0, rect.y0, rect.x1, rect.y1].iter().for_each(|edge| shard.extend(edge.to_le_bytes()));
    shard.extend(record.logit_step.to_le_bytes());
    shard.extend(record.predicted_iou.to_le_bytes());
    shard.extend(body);
    let checksum = checksum(&shard[start + 8..]);
    shard[start..start + 8].copy_from_slice(&checksum);
}

/// Reads the record that fills `bytes` exactly.
///
/// # Errors
/// What is wrong, what was expected there, what was found.
pub fn parse(bytes: &[u8]) -> Result<TeacherRecord, (String, String, String)> {
    let wrong = |what: &str, expected: String, found: String| Err((what.to_string(), expected, found));
    let Some((header, body)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else {
        return wrong("record", format!("at least {RECORD_HEADER_BYTES} bytes"), format!("{} bytes", bytes.len()));
    };
    let (stored, computed) = (&header[..8], checksum(&bytes[8..]));
    if stored != computed {
        return wrong("record checksum", sensei_files::digest::hex(stored), sensei_files::digest::hex(&computed));
    }
    let mut fields = Fields(&header[8..]);
    let body_length = fields.u32();
    if body_length as usize != body.len() {
        return wrong("compressed length", body.len().to_string(), body_length.to_string());
    }
    let grid = fields.u32();
    if !(1..=MAX_GRID).contains(&grid) {
        return wrong("grid", format!("1 to {MAX_GRID}"), grid.to_string());
    }
    let mut logits = vec![0; (grid * grid) as usize];
    match lz4_flex::block::decompress_into(body, &mut logits) {
        Ok(n) if n == logits.len() => {}
        Ok(n) => return wrong("logits", format!("{} values", logits.len()), format!("{n} values")),
        Err(error) => return wrong("logits", format!("{} values in LZ4", logits.len()), error.to_string()),
    }
    let record = TeacherRecord {
        annotation_id: fields.u64(),
        image_id: fields.u64(),
        image_digest: fields.take(),
        image_size: Size { width: fields.u32(), height: fields.u32() },
        rect_in_image: RectInImage { x0: fields.f64(), y0: fields.f64(), x1: fields.f64(), y1: fields.f64() },
        grid,
        logits: logits.into_iter().map(u8::cast_signed).collect(),
        logit_step: fields.f32(),
        predicted_iou: fields.f32(),
    };
    match record.check() {
        Ok(()) => Ok(record),
        Err(error) => wrong("record", "values that the writer allows".into(), error.to_string()),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    checksum
}

/// Little-endian fields of a header whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_first_chunk().expect("RECORD_HEADER_BYTES is the sum of the fields");
        self.0 = tail;
        *head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }

    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take())
    }
}

/// Length of a record before its compressed logits.
pub const RECORD_HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 32 + 4 + 4 + 32 + 4 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// With a right checksum over wrong bytes (a writer's bug, or malice), parsing still refuses or stays in bounds.
    #[test]
    fn resealed_damage_never_panics() {
        let record = TeacherRecord {
            annotation_id: 5,
            image_id: 6,
            image_digest: [7; 32],
            image_size: Size { width: 50, height: 40 },
            rect_in_image: RectInImage { x0: 1.0, y0: 2.0, x1: 30.0, y1: 31.0 },
            grid: 12,
            logits: (0..144).map(|n| (n / 5) as i8).collect(),
            logit_step: 0.125,
            predicted_iou: 0.9,
        };
        let mut intact = Vec::new();
        append(&record, &mut intact);
        assert_eq!(parse(&intact).unwrap(), record);
        let (mut n_refused, mut state) = (0, 1u64);
        for _ in 0..20_000 {
            let mut bytes = intact.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = 8 + (state >> 33) as usize % (bytes.len() - 8);
                bytes[at] = (state >> 20) as u8;
            }
            if state >> 60 == 0 {
                bytes.truncate(9 + (state >> 33) as usize % (bytes.len() - 9));
            }
            let checksum = checksum(&bytes[8..]);
            bytes[..8].copy_from_slice(&checksum);
            match parse(&bytes) {
                Ok(parsed) => parsed.check().unwrap(),
                Err(_) => n_refused += 1,
            }
        }
        assert!((1000..20_000).contains(&n_refused), "{n_refused}");
    }
}
