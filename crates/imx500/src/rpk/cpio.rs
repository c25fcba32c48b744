//! The small archive at the end of a `network.rpk`: cpio in its "newc" form, with one use of every field.

use crate::refusal::{Bytes, Refusal};

/// An archive of these files, in this order.
pub(super) fn write(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![];
    for (name, content) in files {
        entry(&mut out, name, content, FILE_MODE, 0);
    }
    entry(&mut out, TRAILER, &[], 0, 1);
    out
}

/// The files of an archive that takes all of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    let mut reader = Bytes::new(bytes);
    let mut files: Vec<(String, Vec<u8>)> = vec![];
    loop {
        let start = reader.offset;
        reader.expect("the start of an archive's file", MAGIC)?;
        let mut fields = [0_usize; 13];
        for (field, idx) in fields.iter_mut().zip(0..) {
            let offset = reader.offset;
            let digits: [u8; 8] = reader.array("a field of an archive's file")?;
            let refuse = || {
                let found = format!("{:?}", String::from_utf8_lossy(&digits));
                Refusal::byte(offset, format!("field {idx}, eight lower-case hexadecimal digits"), found)
            };
            let is_digit = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
            let text = std::str::from_utf8(&digits).ok().filter(|text| text.as_bytes().iter().all(is_digit));
            *field = text.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or_else(refuse)?;
        }
        let (mode, links, size, name_size) = (fields[1], fields[4], fields[6], fields[11]);
        let name_offset = reader.offset;
        if !(2..=MAX_NAME).contains(&name_size) {
            let expected = format!("a name of 2 to {MAX_NAME} bytes");
            return Err(Refusal::byte(start + 94, expected, name_size.to_string()));
        }
        let name = reader.take("a name", name_size)?;
        let text = name.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok());
        let name = text.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic())).ok_or_else(|| {
            Refusal::byte(name_offset, "visible ASCII and a zero", format!("{:?}", String::from_utf8_lossy(name)))
        })?;
        let is_last = name == TRAILER;
        let mut expected = [0; 13];
        (expected[1], expected[4], expected[6], expected[11]) =
            if is_last { (0, 1, 0, name_size) } else { (FILE_MODE, 0, size, name_size) };
        if fields != expected {
            let found = format!("mode {mode:o}, {links} links, or another field that is not 0");
            return Err(Refusal::byte(start, "a plain file without owner, date and device", found));
        }
        skip_padding(&mut reader)?;
        let content = reader.take("a file's content", size)?;
        skip_padding(&mut reader)?;
        if is_last {
            return match reader.rest().len() {
                0 => Ok(files),
                more => Err(Refusal::byte(reader.offset, "the end of the file", format!("{more} bytes"))),
            };
        }
        if files.iter().any(|(known, _)| known == name) {
            return Err(Refusal::byte(name_offset, "a name for each file", format!("{name} twice")));
        }
        files.push((name.into(), content.to_vec()));
    }
}

fn skip_padding(reader: &mut Bytes) -> Result<(), Refusal> {
    let len = reader.offset.next_multiple_of(4) - reader.offset;
    reader.expect("padding", &[0; 4][..len])
}

fn entry(out: &mut Vec<u8>, name: &str, content: &[u8], mode: usize, links: usize) {
    out.extend_from_slice(MAGIC);
    for value in [0, mode, 0, 0, links, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
        out.extend_from_slice(format!("{value:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const FILE_MODE: usize = 0o100_644;
const MAX_NAME: usize = 64;
