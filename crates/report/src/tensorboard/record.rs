//! TFRecord's framing: length, checksum of the length, bytes, checksum of the bytes.

/// The bytes as a record of a file.
///
/// # Source
/// TensorFlow, `tensorflow/core/lib/io/record_writer.h`.
pub(super) fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked_crc(bytes).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted: a checksum of bytes that contain checksums is weak otherwise.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
