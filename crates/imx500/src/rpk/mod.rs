//! `network.rpk`: what a camera loads, made from the converter's `packerOut.zip`. Layout: `docs/formats/rpk.md`.

mod cpio;
mod flatbuffer;
mod sensor;
mod tables;

use std::path::Path;

use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;

use crate::dnn_params::DnnParams;
use crate::packer_out::{PackerOut, Part};
use crate::refusal::{Bytes, PackageError, Refusal};

pub use sensor::InputFormat;

/// A network as a camera loads it. Everything in the file follows from this.
#[derive(Debug, Clone, PartialEq)]
pub struct Rpk {
    release: [u8; 3],
    params: DnnParams,
    parts: [Part; 5],
    format: InputFormat,
    intrinsics: Option<String>,
}

/// What the host's software has to know of a student: mask logits of a square image. JSON as picamera2 reads it.
pub const STUDENT_INTRINSICS: &str =
    r#"{"task": "segmentation", "inference_rate": 30, "input_aspect_ratio": {"width": 1, "height": 1}}"#;

impl Rpk {
    /// Packages a compiled network; `intrinsics` is a JSON object for the host's software.
    ///
    /// # Errors
    /// If it has several networks or inputs, an input that is no image of three 8-bit planes, or parts that are too
    /// large for the known layout; if `intrinsics` is no JSON object of at most 64 KiB.
    pub fn new(packer_out: &PackerOut, format: InputFormat, intrinsics: Option<String>) -> Result<Self, Refusal> {
        let PackerOut { release, params, config_1, config_2, program_a, program_c, coefficients, .. } =
            packer_out.clone();
        let pad = |mut part: Part| {
            let missing = part.bytes.len().next_multiple_of(16) - part.bytes.len();
            part.bytes.resize(part.bytes.len() + missing, missing as u8);
            part
        };
        let parts = [config_1, config_2, program_a, program_c, coefficients].map(pad);
        let rpk = Self { release, params: tables::with_short_names(params), parts, format, intrinsics };
        rpk.to_bytes().map(|_| rpk)
    }

    /// Reads `network.rpk`.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 32 MiB, or differs in a byte from what [`Rpk::to_bytes`] gives for its
    /// content.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        Self::from_bytes(&read_bounded(path, MAX_RPK)?).map_err(|refusal| refusal.of(path))
    }

    /// Writes under a temporary name, then moves it to `path`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PackageError> {
        let bytes = self.to_bytes().map_err(|refusal| refusal.of(path))?;
        Ok(write_whole(path, &bytes)?)
    }

    /// Version of the converter's back end.
    pub fn release(&self) -> [u8; 3] {
        self.release
    }

    /// Tensors and memory; names are cut to their last 20 characters.
    pub fn params(&self) -> &DnnParams {
        &self.params
    }

    /// Each part's name and content, padded to 16 bytes, in the order of the file.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Part)> {
        PART_NAMES.into_iter().zip(&self.parts)
    }

    /// The order of the input's colours.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// What the host's software is told, JSON.
    pub fn intrinsics(&self) -> Option<&str> {
        self.intrinsics.as_deref()
    }

    /// What the camera's driver reads of the network: lines `key=value`.
    ///
    /// # Errors
    /// As [`Rpk::new`].
    pub fn network_info(&self) -> Result<String, Refusal> {
        let ap_size = tables::ap_params(&self.params)?.len();
        sensor::network_info(&self.params.networks[0], ap_size, self.format)
    }

    /// The bytes of `network.rpk`.
    ///
    /// # Errors
    /// As [`Rpk::new`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let [major, minor, patch] = self.release;
        let patch_text = format!("{patch:02}");
        let mut first = vec![];
        words(&mut first, &[KINDS.len() as u32, 0, 0, 0]);
        swapped(&mut first, format!("{major:02}{minor:02}{patch_text}{}0000", sensor::NETWORK_ID).as_bytes());
        let section = |out: &mut Vec<u8>, idx: usize, address: u32, data: &[u8]| {
            words(out, &[KINDS[idx], address, data.len() as u32, 0]);
            let mut version = [0; 16];
            version[..patch_text.len()].copy_from_slice(patch_text.as_bytes());
            swapped(out, &version);
            swapped(out, data);
        };
        let tables = [tables::ap_params(&self.params)?, tables::dnn_params(&self.params)?];
        for (idx, (table, address)) in tables.iter().zip(TABLE_ADDRESSES).enumerate() {
            section(&mut first, idx, address, &padded(table));
        }
        let [parts @ .., coefficients] = &self.parts;
        for (idx, part) in parts.iter().enumerate() {
            section(&mut first, 2 + idx, PART_BASE | part.address, &part.bytes);
        }
        let room = BLOCK.checked_sub(first.len() + HEADER + SECTION_HEADER + FOOTER).filter(|room| *room > 0);
        let room = room.ok_or_else(|| {
            let expected =
                format!("parts that fit into one block of {BLOCK} bytes: the layout of larger ones is not known");
            Refusal::key("cfgA.bin to sdpsC.bin", expected, format!("{} bytes", first.len()))
        })?;
        let mut rest = &coefficients.bytes[..];
        let mut address = PART_BASE | coefficients.address;
        let mut bodies = vec![];
        let (mut body, mut room) = (first, room);
        loop {
            let (now, later) = rest.split_at(rest.len().min(room));
            section(&mut body, KINDS.len() - 1, address, now);
            bodies.push(body);
            if later.is_empty() {
                break;
            }
            (rest, address, body, room) = (later, address + now.len() as u32, vec![], BLOCK_DATA);
        }
        let mut out = vec![];
        for (idx, body) in bodies.iter().enumerate() {
            out.extend_from_slice(BLOCK_START);
            let index = (bodies.len() as u32) << 16 | (idx as u32 + 1);
            words(&mut out, &[body.len() as u32, index, u32::from(idx == 0), 0, 0, 0, 0]);
            out.extend_from_slice(body);
            out.extend_from_slice(&[0; FOOTER - 4]);
            out.extend_from_slice(BLOCK_END);
        }
        out.extend(cpio::write(&self.files(tables[0].len())?));
        Ok(out)
    }

    /// The network in the bytes of a `network.rpk`.
    ///
    /// # Errors
    /// As [`Rpk::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut reader = Bytes::new(bytes);
        let n_blocks = block_start(&mut reader, 1, None)?;
        reader.expect("7 sections", &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        let release = release(&mut reader)?;
        let mut sections = vec![];
        for kind in KINDS {
            sections.push(take_section(&mut reader, kind)?);
        }
        block_end(&mut reader)?;
        let mut coefficients = sections.pop().unwrap_or_default();
        for block in 2..=n_blocks {
            block_start(&mut reader, block, Some(n_blocks))?;
            coefficients.bytes.extend(take_section(&mut reader, KINDS[KINDS.len() - 1])?.bytes);
            block_end(&mut reader)?;
        }
        let archive = reader.offset;
        let files = cpio::read(reader.rest()).map_err(|refusal| refusal.after(archive))?;
        let file = |name: &str| files.iter().find(|(known, _)| known == name).map(|(_, content)| &content[..]);
        let info = file(INFO).ok_or_else(|| Refusal::byte(archive, format!("an archive with {INFO}"), "none"))?;
        let format = sensor::format_of(info).map_err(|refusal| refusal.inside(INFO))?;
        let text = |bytes: &[u8]| {
            let utf8 = std::str::from_utf8(bytes);
            utf8.map(String::from)
                .map_err(|error| Refusal::byte(error.valid_up_to(), "UTF-8", "other bytes").inside(INTRINSICS))
        };
        let intrinsics = file(INTRINSICS).map(text).transpose()?;
        let params = tables::parse(&sections[1].bytes).map_err(|refusal| refusal.inside("dnn_params"))?;
        let [_, _, a, b, c, d] = <[Section; 6]>::try_from(sections)
            .unwrap_or_else(|sections| panic!("one section of each kind, found {}", sections.len()));
        let mut parts = vec![];
        for section in [a, b, c, d, coefficients] {
            parts.push(section.part()?);
        }
        let parts = <[Part; 5]>::try_from(parts).unwrap_or_else(|parts| panic!("five parts, found {}", parts.len()));
        let rpk = Self { release, params, parts, format, intrinsics };
        let expected = rpk.to_bytes()?;
        match expected.iter().zip(bytes).position(|(expected, found)| expected != found) {
            Some(at) => {
                let word = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 4)]);
                let expected = format!("{}, as the same content is written", word(&expected));
                Err(Refusal::byte(at, expected, word(bytes)))
            }
            None if expected.len() != bytes.len() => {
                let at = expected.len().min(bytes.len());
                Err(Refusal::byte(at, format!("a file of {} bytes", expected.len()), bytes.len().to_string()))
            }
            None => Ok(rpk),
        }
    }

    fn files(&self, ap_size: usize) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let network = &self.params.networks[0];
        let info = sensor::network_info(network, ap_size, self.format)?;
        let mut files =
            vec![("imx500_regs".into(), sensor::registers(network, self.format)?), (INFO.into(), info.into())];
        if let Some(text) = &self.intrinsics {
            let parsed: Option<serde_json::Value> =
                serde_json::from_str(text).ok().filter(|_| text.len() <= MAX_INTRINSICS);
            if !parsed.is_some_and(|value| value.is_object()) {
                let expected = format!("a JSON object of at most {MAX_INTRINSICS} bytes");
                return Err(Refusal::key(INTRINSICS, expected, text.chars().take(80).collect::<String>()));
            }
            files.push((INTRINSICS.into(), text.clone().into()));
        }
        Ok(files)
    }
}

#[derive(Debug, Default)]
struct Section {
    offset: usize,
    address: u32,
    bytes: Vec<u8>,
}

impl Section {
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

fn release(reader: &mut Bytes) -> Result<[u8; 3], Refusal> {
    let offset = reader.offset;
    let mut text = vec![];
    swapped(&mut text, &reader.array::<16>("a version")?);
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let numbers: Option<Vec<u8>> = text[..6].chunks(2).map(number).collect();
    let refuse = || {
        Refusal::byte(offset, "a version, 16 digits in swapped words", format!("{:?}", text.escape_ascii().to_string()))
    };
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(refuse)
}

fn take_section(reader: &mut Bytes, kind: u32) -> Result<Section, Refusal> {
    let offset = reader.offset;
    let found = reader.u32_be("a section's kind")?;
    if found != kind {
        return Err(Refusal::byte(offset, format!("section {kind}"), found.to_string()));
    }
    let address = reader.u32_be("a section's address")?;
    let size = reader.u32_be("a section's size")? as usize;
    reader.take("a section's version", 20)?;
    if !size.is_multiple_of(16) {
        return Err(Refusal::byte(offset + 8, "a multiple of 16 bytes", size.to_string()));
    }
    let mut bytes = vec![];
    swapped(&mut bytes, reader.take("a section's data", size)?);
    Ok(Section { offset, address, bytes })
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
}

/// Appends `bytes` with the four bytes of every word reversed.
fn swapped(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.as_chunks::<4>().0.iter().flat_map(|[a, b, c, d]| [*d, *c, *b, *a]));
}

/// Filled up to 16 bytes; the filling bytes hold their number.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let missing = bytes.len().next_multiple_of(16) - bytes.len();
    [bytes, &vec![missing as u8; missing]].concat()
}

const BLOCK_START: &[u8; 4] = b"9464";
const BLOCK_END: &[u8; 4] = b"3695";
/// Largest block, header and footer included.
const BLOCK: usize = 0x10_0000;
const HEADER: usize = 32;
const FOOTER: usize = 32;
const SECTION_HEADER: usize = 32;
/// Coefficients in a block after the first.
const BLOCK_DATA: usize = BLOCK - HEADER - SECTION_HEADER - FOOTER;
/// ap_params, dnn_params, and the parts in the order of [`PART_NAMES`].
const KINDS: [u32; 7] = [4, 8, 9, 10, 11, 12, 16];
const PART_NAMES: [&str; 5] = ["configuration 1", "configuration 2", "program A", "program C", "coefficients"];
const TABLE_ADDRESSES: [u32; 2] = [0x8000_f000, 0x8001_0400];
/// Where the sensor sees the network processor's memory.
const PART_BASE: u32 = 0x4000_0000;
const INFO: &str = "network_info.txt";
const INTRINSICS: &str = "network_intrinsics";
const MAX_INTRINSICS: usize = 64 << 10;
const MAX_RPK: u64 = 32 << 20;
