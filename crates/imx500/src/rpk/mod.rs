//! `network.rpk`: what a camera loads, made from the converter's `packerOut.zip`. Layout: `docs/formats/rpk.md`.

mod cpio;
mod flatbuffer;
mod intrinsics;
mod read;
mod sensor;
mod tables;
mod told;

use std::path::Path;

use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;

use crate::dnn_params::DnnParams;
use crate::packer_out::{PackerOut, Part};
use crate::refusal::{PackageError, Refusal};

pub use intrinsics::{Intrinsics, STUDENT_INTRINSICS, TASKS};
pub use read::RpkFile;
use read::first_difference;
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

impl Rpk {
    /// Packages a compiled network; `intrinsics` are for the host's software.
    ///
    /// # Errors
    /// If it has several networks or inputs, an input that is no image of three 8-bit planes, or parts that are too
    /// large for the known layout.
    pub fn new(packer_out: &PackerOut, format: InputFormat, intrinsics: Option<Intrinsics>) -> Result<Self, Refusal> {
        let PackerOut { release, params, config_1, config_2, program_a, program_c, coefficients, .. } =
            packer_out.clone();
        let pad = |mut part: Part| {
            let missing = part.bytes.len().next_multiple_of(16) - part.bytes.len();
            part.bytes.resize(part.bytes.len() + missing, missing as u8);
            part
        };
        let parts = [config_1, config_2, program_a, program_c, coefficients].map(pad);
        let intrinsics = intrinsics.map(|intrinsics| intrinsics.as_str().into());
        let rpk = Self { release, params: tables::with_short_names(params), parts, format, intrinsics };
        rpk.to_bytes().map(|_| rpk)
    }

    /// Reads `network.rpk`.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 32 MiB, or differs in a byte from what [`Rpk::to_bytes`] gives for its
    /// content. [`RpkFile`] reads files of other programs.
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
        sensor::network_info(&self.params.networks[0], sensor::NETWORK_ID, ap_size, self.format)
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

    /// The network in the bytes of a `network.rpk` that Sensei could have written.
    ///
    /// # Errors
    /// As [`Rpk::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let rpk = RpkFile::from_bytes(bytes)?.rpk;
        if let Some(text) = rpk.intrinsics() {
            Intrinsics::parse(text).map_err(|refusal| refusal.inside(INTRINSICS))?;
        }
        match first_difference(&rpk.to_bytes()?, bytes) {
            Some((at, expected, found)) => {
                Err(Refusal::byte(at, format!("{expected}, as the same content is written"), found))
            }
            None => Ok(rpk),
        }
    }

    fn files(&self, ap_size: usize) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let network = &self.params.networks[0];
        let info = sensor::network_info(network, sensor::NETWORK_ID, ap_size, self.format)?;
        let mut files = vec![(REGISTERS.into(), sensor::registers(network, self.format)?), (INFO.into(), info.into())];
        if let Some(text) = &self.intrinsics {
            let parsed: Option<serde_json::Value> =
                serde_json::from_str(text).ok().filter(|_| text.len() <= intrinsics::MAX_INTRINSICS);
            if !parsed.is_some_and(|value| value.is_object()) {
                let expected = format!("a JSON object of at most {} bytes", intrinsics::MAX_INTRINSICS);
                return Err(Refusal::key(
                    INTRINSICS,
                    expected,
                    text.chars().take(80).flat_map(char::escape_debug).collect::<String>(),
                ));
            }
            files.push((INTRINSICS.into(), text.clone().into()));
        }
        Ok(files)
    }
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
/// Files of the archive.
const REGISTERS: &str = "imx500_regs";
const INFO: &str = "network_info.txt";
const INTRINSICS: &str = "network_intrinsics";
const MAX_RPK: u64 = 32 << 20;
