//! The one tag of Exif data that matters here: how a photograph is to be turned.

/// The orientation in a TIFF structure, 1 (upright) to 8, if it is there and within that range.
///
/// # Source
/// Exif 2.32 (CIPA DC-008), 4.6.4: tag 0x0112, a `SHORT`, in the first directory.
pub(crate) fn orientation(tiff: &[u8]) -> Option<u8> {
    let is_little = match tiff.first_chunk()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = usize::try_from(long(4)?).ok()?;
    let n_entries = usize::from(short(directory)?);
    let entry = (0..n_entries).map(|idx| directory + 2 + 12 * idx).find(|&at| short(at) == Some(ORIENTATION))?;
    let value = if short(entry + 2)? == SHORT { short(entry + 8)? } else { return None };
    u8::try_from(value).ok().filter(|value| (1..=8).contains(value))
}

const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn tiff(is_little: bool, tag: u16, kind: u16, value: u16) -> Vec<u8> {
        let short = |value: u16| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u32| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut out = if is_little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        out.extend(long(8));
        out.extend(short(1));
        out.extend([short(tag), short(kind)].concat());
        out.extend(long(1));
        out.extend([short(value), short(0)].concat());
        out
    }

    #[test]
    fn both_byte_orders_are_read() {
        for value in 1..=8 {
            assert_eq!(orientation(&tiff(true, 0x0112, 3, value)), Some(value as u8));
            assert_eq!(orientation(&tiff(false, 0x0112, 3, value)), Some(value as u8));
        }
    }

    #[test]
    fn what_is_no_orientation_is_none() {
        assert_eq!(orientation(&tiff(true, 0x0110, 3, 6)), None);
        assert_eq!(orientation(&tiff(true, 0x0112, 4, 6)), None);
        assert_eq!(orientation(&tiff(true, 0x0112, 3, 9)), None);
        let whole = tiff(false, 0x0112, 3, 6);
        for n_bytes in 0..whole.len() - 2 {
            assert_eq!(orientation(&whole[..n_bytes]), None, "{n_bytes} bytes");
        }
    }
}
