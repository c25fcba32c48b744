//! The small archive at the end of a `network.rpk`: cpio in its "newc" form, written with one use of every field and read
//! as GNU cpio writes it too.

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

/// What an archive holds, and how it differs from one that [`write`] makes.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Sentences for people.
    pub(super) differences: Vec<String>,
}

/// The files of an archive that takes all of `bytes` but zeros at the end.
///
/// Hexadecimal digits may be of either case; a file may have an owner, a time, links, a device and any permissions. GNU cpio
/// writes all of these, and fills the archive up to whole blocks.
pub(super) fn read(bytes: &[u8]) -> Result<Archive, Refusal> {
    let mut reader = Bytes::new(bytes);
    let mut archive = Archive { files: vec![], differences: vec![] };
    for n_before in 0.. {
        let header = Header::read(&mut reader)?;
        let content = reader.take("a file's content", header.size())?;
        skip_padding(&mut reader)?;
        archive.differences.extend(header.difference());
        let name = header.name;
        if name == TRAILER {
            break;
        }
        if n_before == MAX_FILES {
            return Err(Refusal::byte(header.name_offset, format!("at most {MAX_FILES} files"), "more"));
        }
        if header.is_folder() {
            archive.differences.push(format!("the archive holds a folder {name}"));
            continue;
        }
        if archive.files.iter().any(|(known, _)| known == name) {
            return Err(Refusal::byte(header.name_offset, "a name for each file", format!("{name} twice")));
        }
        archive.files.push((name.into(), content.to_vec()));
    }
    let rest = reader.rest();
    if let Some(at) = rest.iter().position(|byte| *byte != 0) {
        let expected = "the end of the file, or zeros up to there";
        return Err(Refusal::byte(reader.offset + at, expected, format!("{:#04x}", rest[at])));
    }
    if !rest.is_empty() {
        archive.differences.push(format!("{} zeros follow the archive", rest.len()));
    }
    Ok(archive)
}

/// What stands before a file's content.
struct Header<'a> {
    fields: [u32; 13],
    name: &'a str,
    name_offset: usize,
    has_capitals: bool,
}

impl<'a> Header<'a> {
    fn read(reader: &mut Bytes<'a>) -> Result<Self, Refusal> {
        let start = reader.offset;
        reader.expect("the start of an archive's file", MAGIC)?;
        let (mut fields, mut has_capitals) = ([0_u32; 13], false);
        for (field, idx) in fields.iter_mut().zip(0..) {
            let offset = reader.offset;
            let digits: [u8; 8] = reader.array("a field of an archive's file")?;
            let refuse = || {
                let found = format!("{:?}", String::from_utf8_lossy(&digits));
                Refusal::byte(offset, format!("field {idx}, eight hexadecimal digits"), found)
            };
            has_capitals |= digits.iter().any(u8::is_ascii_uppercase);
            let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let text = std::str::from_utf8(&digits).ok().filter(|_| is_hex);
            *field = text.and_then(|text| u32::from_str_radix(text, 16).ok()).ok_or_else(refuse)?;
        }
        let name_size = fields[NAME_SIZE] as usize;
        if !(2..=MAX_NAME).contains(&name_size) {
            let expected = format!("a name of 2 to {MAX_NAME} bytes");
            return Err(Refusal::byte(start + 94, expected, name_size.to_string()));
        }
        let name_offset = reader.offset;
        let name = reader.take("a name", name_size)?;
        let text = name.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok());
        let name = text.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic())).ok_or_else(|| {
            Refusal::byte(name_offset, "visible ASCII and a zero", format!("{:?}", String::from_utf8_lossy(name)))
        })?;
        let header = Self { fields, name, name_offset, has_capitals };
        let (mode, checksum) = (fields[MODE], fields[CHECKSUM]);
        let has_content = fields[SIZE] > 0;
        let is_right = match mode & KIND {
            _ if name == TRAILER => !has_content,
            FOLDER => !has_content,
            kind => kind == PLAIN_FILE,
        };
        if !is_right || checksum != 0 {
            let found = format!("mode {mode:o}, {} bytes, checksum {checksum}", fields[SIZE]);
            return Err(Refusal::byte(start, "a plain file without a checksum, or the archive's end", found));
        }
        skip_padding(reader)?;
        Ok(header)
    }

    fn size(&self) -> usize {
        self.fields[SIZE] as usize
    }

    fn is_folder(&self) -> bool {
        self.fields[MODE] & KIND == FOLDER
    }

    /// What [`write`] would write otherwise.
    fn difference(&self) -> Option<String> {
        let is_last = self.name == TRAILER;
        let (mode, links) = if is_last { (0, 1) } else { (FILE_MODE, 0) };
        let mut found = vec![];
        for (idx, what, ours) in [
            (0, "inode", 0),
            (2, "owner", 0),
            (3, "group", 0),
            (LINKS, "links", links),
            (5, "time", 0),
            (7, "device", 0),
            (8, "minor device", 0),
            (9, "own device", 0),
            (10, "own minor device", 0),
        ] {
            if self.fields[idx] != ours {
                found.push(format!("{what} {}, not {ours}", self.fields[idx]));
            }
        }
        if self.fields[MODE] != mode {
            found.push(format!("mode {:o}, not {mode:o}", self.fields[MODE]));
        }
        if self.has_capitals {
            found.push("capital hexadecimal digits".into());
        }
        (!found.is_empty()).then(|| format!("the archive's {}: {}", self.name, found.join(", ")))
    }
}

fn skip_padding(reader: &mut Bytes) -> Result<(), Refusal> {
    let len = reader.offset.next_multiple_of(4) - reader.offset;
    reader.expect("padding", &[0; 4][..len])
}

fn entry(out: &mut Vec<u8>, name: &str, content: &[u8], mode: u32, links: u32) {
    out.extend_from_slice(MAGIC);
    for value in [0, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
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
const FILE_MODE: u32 = 0o100_644;
/// The part of a mode that says what a file is.
const KIND: u32 = 0o170_000;
const PLAIN_FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
/// Indices of the fields that mean something here.
const MODE: usize = 1;
const LINKS: usize = 4;
const SIZE: usize = 6;
const NAME_SIZE: usize = 11;
const CHECKSUM: usize = 12;
const MAX_NAME: usize = 64;
/// Three are known.
const MAX_FILES: usize = 16;
