//! Digests as text.

use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::FileError;

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// BLAKE3 of some bytes, 64 hexadecimal digits.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of a file's bytes, 64 hexadecimal digits.
///
/// # Errors
/// If it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String, FileError> {
    let mut file = File::open(path).map_err(FileError::io(path, "read"))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(FileError::io(path, "read"))?;
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of some lines, each with its end: what stands for several files, of the lines of their own digests.
pub fn sha256_of_lines(lines: &[String]) -> String {
    let mut hasher = Sha256::new();
    lines.iter().for_each(|line| hasher.update(format!("{line}\n")));
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agree_with_known_text() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
        // `printf '' | b3sum`
        assert_eq!(blake3_hex(b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(blake3_hex(b"x"), hex(blake3::hash(b"x").as_bytes()));
        // `printf 'x' | sha256sum`
        assert_eq!(hex(&sha256(b"x")), "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        // `printf 'a\nb\n' | sha256sum`
        let expected = "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2";
        assert_eq!(sha256_of_lines(&["a".into(), "b".into()]), expected);
    }
}
