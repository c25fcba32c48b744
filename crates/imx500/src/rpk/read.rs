//! Reading a `network.rpk` of anybody's: what is known of the layout has to be so, what is free is told.

use std::path::Path;

use sensei_files::bounded::read_bounded;

use super::intrinsics::Intrinsics;
use super::{
    BLOCK, BLOCK_END, BLOCK_START, FOOTER, HEADER, INFO, INTRINSICS, KINDS, MAX_RPK, PART_BASE, REGISTERS, Rpk,
    TABLE_ADDRESSES, cpio, padded, sensor, swapped, tables, told,
};
use crate::packer_out::Part;
use crate::refusal::{Bytes, PackageError, Refusal};

/// A `network.rpk`, and in what it is not the file that Sensei writes of the same network.
#[derive(Debug, Clone, PartialEq)]
pub struct RpkFile {
    /// The network.
    pub rpk: Rpk,
    /// Sentences for people, without control characters. None if and only if [`Rpk::from_bytes`] takes the file.
    pub differences: Vec<String>,
}

impl RpkFile {
    /// Reads `network.rpk`.
    ///
    /// # Errors
    /// If it cannot be read or is longer than 32 MiB; as [`RpkFile::from_bytes`].
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        Self::from_bytes(&read_bounded(path, MAX_RPK)?).map_err(|refusal| refusal.of(path))
    }

    /// The network in the bytes of a `network.rpk`.
    ///
    /// Free are: the version's last four digits and the network's number, the version of a section, how tables are laid
    /// out, where blocks end, headers and order of the archive's files, further files, zeros behind it, and further
    /// lines and registers.
    ///
    /// # Errors
    /// If blocks, sections or archive are none; if the two tables, `network_info.txt` or `imx500_regs` contradict each
    /// other; if the network has several inputs or something else whose layout is not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut differences = vec![];
        let mut reader = Bytes::new(bytes);
        let Blocks { version, sections } = Blocks::read(&mut reader, &mut differences)?;
        let offset = reader.offset;
        let archive = cpio::read(reader.rest()).map_err(|refusal| refusal.after(offset))?;
        let [ap, dnn, config_1, config_2, program_a, program_c, coefficients] = sections;
        let params = tables::parse(&dnn.bytes).map_err(|refusal| refusal.inside(DNN))?;
        tables::check_ap(&ap.bytes, &params).map_err(|refusal| refusal.inside(AP))?;
        let file = |name: &str| {
            let found = archive.files.iter().find(|(known, _)| known == name);
            found.map(|(_, content)| &content[..])
        };
        let missing = |name: &str| Refusal::byte(offset, format!("an archive with {name}"), "none");
        let info = utf8(file(INFO).ok_or_else(|| missing(INFO))?, INFO)?;
        let rpk = Rpk {
            release: version.release,
            params,
            parts: [config_1.part()?, config_2.part()?, program_a.part()?, program_c.part()?, coefficients.part()?],
            format: sensor::format_of(info).map_err(|refusal| refusal.inside(INFO))?,
            intrinsics: file(INTRINSICS).map(|bytes| utf8(bytes, INTRINSICS)).transpose()?.map(String::from),
        };
        let ours = rpk.to_bytes()?;

        let ap_size = size_within_filling(&ap, tables::ap_params(&rpk.params)?, AP, &mut differences)?;
        size_within_filling(&dnn, tables::dnn_params(&rpk.params)?, DNN, &mut differences)?;
        let network = &rpk.params.networks[0];
        let expected = sensor::network_info(network, &version.network, ap_size, rpk.format)?;
        let lines = told::check_info(info, &expected).map_err(|refusal| refusal.inside(INFO))?;
        differences.extend(lines.into_iter().map(|line| format!("{INFO}: {line}")));
        let registers = file(REGISTERS).ok_or_else(|| missing(REGISTERS))?;
        let registers = told::check_registers(registers, &sensor::registers(network, rpk.format)?)
            .map_err(|refusal| refusal.inside(REGISTERS))?;
        differences.extend(registers.into_iter().map(|line| format!("{REGISTERS}: {line}")));
        differences.extend(archive.differences);
        if let Some(Err(refusal)) = rpk.intrinsics().map(Intrinsics::parse) {
            differences.push(format!("{INTRINSICS}: picamera2 refuses it: {refusal}"));
        }
        let names: Vec<&str> = archive.files.iter().map(|(name, _)| name.as_str()).collect();
        let known: Vec<&str> = [REGISTERS, INFO, INTRINSICS].into_iter().filter(|name| names.contains(name)).collect();
        if names != known {
            differences.push(format!("the archive holds {}, not {}", names.join(", "), known.join(", ")));
        }
        if let (Some((at, expected, found)), true) = (first_difference(&ours, bytes), differences.is_empty()) {
            differences.push(format!("at byte {at}: {found}, not {expected}"));
        }
        Ok(Self { rpk, differences })
    }
}

/// The first byte at which two files differ, and what each has there.
pub(super) fn first_difference(ours: &[u8], found: &[u8]) -> Option<(usize, String, String)> {
    let word = |bytes: &[u8], at: usize| format!("{:02x?}", &bytes[at..bytes.len().min(at + 4)]);
    match ours.iter().zip(found).position(|(ours, found)| ours != found) {
        Some(at) => Some((at, word(ours, at), word(found, at))),
        None if ours.len() != found.len() => {
            let at = ours.len().min(found.len());
            Some((at, format!("a file of {} bytes", ours.len()), format!("{} bytes", found.len())))
        }
        None => None,
    }
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str, Refusal> {
    let refuse = |error: std::str::Utf8Error| Refusal::byte(error.valid_up_to(), "UTF-8", "other bytes").inside(name);
    std::str::from_utf8(bytes).map_err(refuse)
}

/// Bytes of a table without what fills it up, if it is `ours` in content.
fn size_within_filling(
    section: &Section,
    ours: Vec<u8>,
    name: &str,
    differences: &mut Vec<String>,
) -> Result<usize, Refusal> {
    let found = &section.bytes;
    let Some((at, expected, word)) = first_difference(&padded(&ours), found) else { return Ok(ours.len()) };
    differences.push(format!("{name}: the same content in another layout; at byte {at}: {word}, not {expected}"));
    let n_filled = found.last().map_or(0, |last| usize::from(*last));
    // A flatbuffer of its own may end with any byte, so only a whole filling is one.
    let is_filling = n_filled < 16 && found.iter().rev().take(n_filled).all(|byte| usize::from(*byte) == n_filled);
    Ok(found.len() - if is_filling { n_filled } else { 0 })
}

/// What stands before the archive.
struct Blocks {
    version: Version,
    /// In the order of [`KINDS`].
    sections: [Section; KINDS.len()],
}

struct Version {
    release: [u8; 3],
    /// Six digits.
    network: String,
}

#[derive(Debug, Default)]
struct Section {
    offset: usize,
    address: u32,
    bytes: Vec<u8>,
}

impl Blocks {
    fn read(reader: &mut Bytes, differences: &mut Vec<String>) -> Result<Self, Refusal> {
        let n_blocks = block_start(reader, 1, None)?;
        reader.expect("7 sections", &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        let version = Version::read(reader, differences)?;
        let mut sections: [Section; KINDS.len()] = Default::default();
        for (section, kind) in sections.iter_mut().zip(KINDS) {
            *section = Section::read(reader, kind, &version, differences)?;
        }
        for (section, address) in sections.iter().zip(TABLE_ADDRESSES) {
            if section.address != address {
                let found = format!("{:#010x}", section.address);
                return Err(Refusal::byte(section.offset + 4, format!("address {address:#010x}"), found));
            }
        }
        block_end(reader)?;
        let [.., coefficients] = &mut sections;
        for block in 2..=n_blocks {
            block_start(reader, block, Some(n_blocks))?;
            let more = Section::read(reader, KINDS[KINDS.len() - 1], &version, differences)?;
            let expected = u64::from(coefficients.address) + coefficients.bytes.len() as u64;
            if u64::from(more.address) != expected {
                let expected = format!("address {expected:#010x}, where the block before ends");
                return Err(Refusal::byte(more.offset + 4, expected, format!("{:#010x}", more.address)));
            }
            coefficients.bytes.extend(more.bytes);
            block_end(reader)?;
        }
        Ok(Self { version, sections })
    }
}

impl Version {
    fn read(reader: &mut Bytes, differences: &mut Vec<String>) -> Result<Self, Refusal> {
        let offset = reader.offset;
        let mut digits = vec![];
        swapped(&mut digits, &reader.array::<16>("a version")?);
        if !digits.iter().all(u8::is_ascii_digit) {
            let found = format!("\"{}\"", digits.escape_ascii());
            return Err(Refusal::byte(offset, "a version, 16 digits in swapped words", found));
        }
        let two = |at: usize| 10 * (digits[at] - b'0') + (digits[at + 1] - b'0');
        let text = |range: std::ops::Range<usize>| digits[range].iter().map(|digit| char::from(*digit)).collect();
        let (network, version): (String, String) = (text(6..12), text(12..16));
        if version != "0000" {
            differences.push(format!("version {version} of the network, not 0000"));
        }
        if network != sensor::NETWORK_ID {
            differences.push(format!("network number {network}, not {}", sensor::NETWORK_ID));
        }
        Ok(Self { release: [two(0), two(2), two(4)], network })
    }
}

impl Section {
    fn read(reader: &mut Bytes, kind: u32, version: &Version, differences: &mut Vec<String>) -> Result<Self, Refusal> {
        let offset = reader.offset;
        let found = reader.u32_be("a section's kind")?;
        if found != kind {
            return Err(Refusal::byte(offset, format!("section {kind}"), found.to_string()));
        }
        let address = reader.u32_be("a section's address")?;
        let size = reader.u32_be("a section's size")? as usize;
        reader.expect("zeros after a section's size", &[0; 4])?;
        let mut text = vec![];
        swapped(&mut text, &reader.array::<16>("a section's version")?);
        let n_digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if text[n_digits..].iter().any(|byte| *byte != 0) {
            let found = format!("\"{}\"", text.escape_ascii());
            return Err(Refusal::byte(offset + 16, "a section's version, digits and zeros", found));
        }
        let ours = format!("{:02}", version.release[2]);
        if text[..n_digits] != *ours.as_bytes() {
            let found = text[..n_digits].escape_ascii();
            differences.push(format!("section {kind} at byte {offset}: version {found}, not {ours}"));
        }
        if !size.is_multiple_of(16) {
            return Err(Refusal::byte(offset + 8, "a multiple of 16 bytes", size.to_string()));
        }
        let mut bytes = vec![];
        swapped(&mut bytes, reader.take("a section's data", size)?);
        Ok(Self { offset, address, bytes })
    }

    fn part(self) -> Result<Part, Refusal> {
        let address = self.address ^ PART_BASE;
        if address >= PART_BASE || self.bytes.is_empty() {
            let expected = "an address from 0x40000000 to 0x7fffffff, and data";
            let found = format!("{:#010x}, {} bytes", self.address, self.bytes.len());
            return Err(Refusal::byte(self.offset + 4, expected, found));
        }
        Ok(Part { address, bytes: self.bytes })
    }
}

/// The header of block `index`; the number of all blocks.
fn block_start(reader: &mut Bytes, index: u32, n_blocks: Option<u32>) -> Result<u32, Refusal> {
    let start = reader.offset;
    reader.expect("the start of a block", BLOCK_START)?;
    let size = reader.u32_be("a block's size")? as usize;
    let room = BLOCK.min(reader.rest().len() + 8).saturating_sub(HEADER + FOOTER);
    if size > room {
        return Err(Refusal::byte(start + 4, format!("a block of at most {room} bytes"), size.to_string()));
    }
    let found = reader.u32_be("a block's index")?;
    let expected = n_blocks.unwrap_or(found >> 16) << 16 | index;
    if found != expected || found >> 16 == 0 {
        return Err(Refusal::byte(start + 8, format!("block {index}, {expected:#010x}"), format!("{found:#010x}")));
    }
    let mut rest = [0; 20];
    rest[3] = u8::from(index == 1);
    reader.expect("the rest of a block's header", &rest)?;
    Ok(found >> 16)
}

fn block_end(reader: &mut Bytes) -> Result<(), Refusal> {
    reader.expect("the end of a block", &[0; FOOTER - 4])?;
    reader.expect("the end of a block", BLOCK_END)
}

/// The two tables, in messages.
const AP: &str = "ap_params";
const DNN: &str = "dnn_params";
