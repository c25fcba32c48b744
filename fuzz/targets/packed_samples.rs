//! Packed samples: as they are, and with digests and checksums that fit what is in them.
#![no_main]

use sensei_data::crop::{CropGeometry, crop_part, crop_rle, pixels_needed};
use sensei_fuzz::as_file;
use sensei_samples::packed::pack::PackedSamples;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // Else no changed number would be looked at.
    let mut sealed = bytes.to_vec();
    if seal(&mut sealed).is_some() {
        read(&sealed);
    }
});

fn read(bytes: &[u8]) {
    as_file("pack", bytes, |path| {
        let Ok(pack) = PackedSamples::open_any(path) else { return };
        for id in pack.annotation_ids() {
            let Ok(record) = pack.record(id) else { continue };
            assert_eq!(record.annotation_id, id);
            assert_eq!(record.truth_in_image.size(), record.pixels.image);
            // Runs down billions of columns are sound, and take their time.
            if record.pixels.image.n_pixels() > 1 << 22 {
                continue;
            }
            let crop = CropGeometry { rect_in_image: record.crop, grid: 8 };
            crop_rle(&record.truth_in_image, &crop);
            if record.pixels.place.holds(pixels_needed(&crop, record.pixels.image)) {
                crop_part(&record.pixels, &crop);
            }
        }
    });
}

/// Puts checksums where the header's numbers say that records are, then the digest and the header's own.
fn seal(bytes: &mut [u8]) -> Option<()> {
    let number = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (n_records, records_end) = (number(bytes, 16)?.min(1000), number(bytes, 32)?);
    for at in 0..n_records {
        let entry = records_end.checked_add(at * 24)?;
        let (offset, n_bytes) = (number(bytes, entry.checked_add(8)?)?, number(bytes, entry.checked_add(16)?)?);
        if let Some(record) = bytes.get_mut(offset..offset.checked_add(n_bytes)?)
            && let Some((checksum, rest)) = record.split_first_chunk_mut::<8>()
        {
            checksum.copy_from_slice(&blake3::hash(rest).as_bytes()[..8]);
        }
    }
    let digest = *blake3::hash(bytes.get(records_end..)?).as_bytes();
    bytes.get_mut(48..80)?.copy_from_slice(&digest);
    let checksum = blake3::hash(bytes.get(..80)?);
    bytes.get_mut(80..88)?.copy_from_slice(&checksum.as_bytes()[..8]);
    Some(())
}
