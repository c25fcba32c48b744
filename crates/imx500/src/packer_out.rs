//! `packerOut.zip`: what the converter makes of a network. Layout: `docs/formats/packer-out.md`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use md5::{Digest, Md5};
use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::dnn_params::{DnnParams, MAX_XML};
use crate::refusal::{PackageError, Refusal};

/// A compiled network, its parts checked against their manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct PackerOut {
    /// Version of the converter's back end: major, minor, patch; each at most 99.
    pub release: [u8; 3],
    /// Name of the network: the stem of the converted file.
    pub network_id: String,
    /// Tensors and memory.
    pub params: DnnParams,
    /// Configuration of the signal processors, bank 1.
    pub config_1: Part,
    /// Configuration, bank 2.
    pub config_2: Part,
    /// Their program, A.
    pub program_a: Part,
    /// Their program, C.
    pub program_c: Part,
    /// Weights, biases, rescales and tables.
    pub coefficients: Part,
}

/// Bytes that the sensor loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where they go in the network processor's memory, below 2^30.
    pub address: u32,
    /// At least one.
    pub bytes: Vec<u8>,
}

impl PackerOut {
    /// Reads `packerOut.zip`.
    ///
    /// # Errors
    /// If it cannot be read, a part is missing, the parts are larger than 16 MiB together, or the manifest's sizes or digests do
    /// not fit. Members that nothing is made of are not unpacked.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        Self::from_bytes(&read_bounded(path, MAX_ZIP)?).map_err(|refusal| refusal.of(path))
    }

    /// The network in the bytes of a `packerOut.zip`.
    ///
    /// # Errors
    /// As [`PackerOut::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut members = Members::open(bytes)?;
        members.check_sizes()?;
        let manifest = Manifest::parse(&members.unpack(MANIFEST)?).map_err(|refusal| refusal.inside(MANIFEST))?;
        let xml = manifest.checked("xml", PARAMS, members.unpack(PARAMS)?)?;
        let params = DnnParams::parse(&xml).map_err(|refusal| refusal.inside(PARAMS))?;
        for (key, file) in OPTIONAL {
            if members.size(file).is_some() {
                manifest.checked(key, file, members.unpack(file)?)?;
            }
        }
        let mut part = |(key, file): (&str, &str)| -> Result<Part, Refusal> {
            let bytes = manifest.checked(key, file, members.unpack(file)?)?;
            Ok(Part { address: manifest.address(key)?, bytes })
        };
        let [config_1, config_2, program_a, program_c, coefficients] = PARTS;
        Ok(Self {
            release: manifest.release()?,
            network_id: manifest.text("Network ID")?.into(),
            params,
            config_1: part(config_1)?,
            config_2: part(config_2)?,
            program_a: part(program_a)?,
            program_c: part(program_c)?,
            coefficients: part(coefficients)?,
        })
    }

    /// Writes `packerOut.zip` under a temporary name, then moves it to `path`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PackageError> {
        let zip = self.to_zip().map_err(FileError::io(path, "write"))?;
        Ok(write_whole(path, &zip)?)
    }

    /// The bytes of a `packerOut.zip` with what a reader needs: five parts, tensors, manifest. Equal networks give
    /// equal bytes: there is no date in it.
    ///
    /// # Errors
    /// If the archive cannot be built.
    pub fn to_zip(&self) -> std::io::Result<Vec<u8>> {
        let Self { config_1, config_2, program_a, program_c, coefficients, .. } = self;
        let [major, minor, patch] = self.release;
        let release = format!("{major}.{minor}.{patch}");
        let xml = self.params.to_xml();
        let parts = PARTS.into_iter().zip([config_1, config_2, program_a, program_c, coefficients]);
        let parts = parts.map(|((key, file), part)| (key, file, format!("{:#x}", part.address), &part.bytes[..]));
        let members: Vec<_> = parts.chain([("xml", PARAMS, "NA".to_string(), xml.as_bytes())]).collect();
        let mut manifest = json!({ "Release Version": release, "Network ID": self.network_id, "Target": "IMX500" });
        for (key, file, address, bytes) in &members {
            manifest[*key] = json!({
                "LoadAddr": address, "File": file, "md5": md5_of(bytes), "Version": release, "Size": bytes.len(),
            });
        }
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default());
        let mut zip = ZipWriter::new(Cursor::new(vec![]));
        let manifest = manifest.to_string();
        let all = members.iter().map(|(_, file, _, bytes)| (*file, *bytes)).chain([(MANIFEST, manifest.as_bytes())]);
        for (file, bytes) in all {
            zip.start_file(file, options)?;
            zip.write_all(bytes)?;
        }
        Ok(zip.finish()?.into_inner())
    }
}

/// The members of a zip, of which only those that are asked for are unpacked.
struct Members<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Name, and size after unpacking as the archive's directory says it.
    sizes: BTreeMap<String, u64>,
    /// Where the record behind the directory starts.
    end: usize,
}

impl<'a> Members<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Refusal> {
        if !bytes.starts_with(b"PK\x03\x04") {
            let found = format!("{:02x?}", &bytes[..bytes.len().min(4)]);
            return Err(Refusal::byte(0, "a zip archive, [50, 4b, 03, 04]", found));
        }
        // The number of members is in the last record, which is 22 bytes long without a comment; the converter writes none.
        let end = bytes.len().saturating_sub(22);
        if !bytes[end..].starts_with(b"PK\x05\x06") {
            let found = format!("{:02x?}", &bytes[end..bytes.len().min(end + 4)]);
            return Err(Refusal::byte(end, "the end of a zip archive, [50, 4b, 05, 06]", found));
        }
        let n_members = usize::from(u16::from_le_bytes([bytes[end + 10], bytes[end + 11]]));
        if n_members > MAX_MEMBERS {
            return Err(Refusal::byte(end + 10, format!("at most {MAX_MEMBERS} members"), n_members.to_string()));
        }
        let mut archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| Refusal::byte(end, "a list of members", error.to_string()))?;
        if archive.len() != n_members {
            let found = format!("{} different names", archive.len());
            return Err(Refusal::byte(end + 10, format!("{n_members} members"), found));
        }
        let mut sizes = BTreeMap::new();
        for idx in 0..n_members {
            let file = archive.by_index_raw(idx);
            let file = file.map_err(|error| Refusal::byte(end, format!("member {idx}"), error.to_string()))?;
            let name = file.name().map_err(|error| Refusal::byte(end, "a member's name", error.to_string()))?;
            sizes.insert(name.into_owned(), file.size());
        }
        Ok(Self { archive, sizes, end })
    }

    fn size(&self, name: &str) -> Option<u64> {
        self.sizes.get(name).copied()
    }

    /// Refuses, before anything is unpacked, an archive without a member that is needed or with one that is too large.
    fn check_sizes(&self) -> Result<(), Refusal> {
        let needed = [MANIFEST, PARAMS].into_iter().chain(PARTS.map(|(_, file)| file));
        if let Some(name) = needed.clone().find(|name| self.size(name).is_none()) {
            let names: Vec<String> = self
                .sizes
                .keys()
                .take(16)
                .map(|name| name.chars().take(40).flat_map(char::escape_debug).collect())
                .collect();
            return Err(Refusal::key("members", name, names.join(", ")));
        }
        let mut parts = 0;
        for name in needed.chain(OPTIONAL.map(|(_, file)| file)) {
            let Some(size) = self.size(name) else { continue };
            let is_part = PARTS.iter().any(|(_, file)| *file == name);
            let limit = if is_part { MAX_PARTS } else { MAX_XML as u64 };
            if size > limit {
                return Err(Refusal::byte(self.end, format!("at most {limit} bytes"), size.to_string()).inside(name));
            }
            parts += if is_part { size } else { 0 };
        }
        if parts > MAX_PARTS {
            let expected = format!("parts of at most {MAX_PARTS} bytes together");
            return Err(Refusal::byte(self.end, expected, parts.to_string()));
        }
        Ok(())
    }

    /// The content of a member whose size has been checked.
    fn unpack(&mut self, name: &str) -> Result<Vec<u8>, Refusal> {
        let end = self.end;
        let mut file = self
            .archive
            .by_name(name)
            .map_err(|error| Refusal::byte(end, "data that can be unpacked", error.to_string()).inside(name))?;
        let (start, size) = (file.data_start().unwrap_or(0) as usize, file.size());
        let refuse = |expected: String, found: String| Refusal::byte(start, expected, found).inside(name);
        let mut content = vec![];
        // One byte more than announced would be a lie about the size, of any length.
        let read = file.by_ref().take(size + 1).read_to_end(&mut content);
        read.map_err(|error| refuse("data that can be unpacked".into(), error.to_string()))?;
        if content.len() as u64 != size {
            return Err(refuse(format!("{size} bytes"), format!("{} or more", content.len())));
        }
        Ok(content)
    }
}

/// `manifest.json`.
struct Manifest(Value);

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let parsed = serde_json::from_slice(bytes);
        parsed
            .map(Self)
            .map_err(|error| Refusal::new(crate::refusal::Place::Line(error.line()), "JSON", error.to_string()))
    }

    fn refuse(key: String, expected: impl Into<String>, found: impl Into<String>) -> Refusal {
        Refusal::key(key, expected, found).inside(MANIFEST)
    }

    fn text(&self, key: &str) -> Result<&str, Refusal> {
        let (value, shown) =
            (&self.0[key], || Self::refuse(key.into(), "a text of 1 to 64 bytes", short(&self.0[key])));
        value.as_str().filter(|text| (1..=64).contains(&text.len())).ok_or_else(shown)
    }

    fn release(&self) -> Result<[u8; 3], Refusal> {
        let text = self.text("Release Version")?;
        let numbers = text.split('.').map(|number| number.parse().ok().filter(|number: &u8| *number < 100));
        let numbers = numbers.collect::<Option<Vec<u8>>>().and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or_else(|| Self::refuse("Release Version".into(), "three numbers below 100 between dots", text))
    }

    /// `bytes`, if they are what the manifest says of `file`.
    fn checked(&self, key: &str, file: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let entry = &self.0[key];
        let expect = |field: &str, expected: Value| match &entry[field] {
            found if *found == expected => Ok(()),
            found => Err(Self::refuse(format!("{key}.{field}"), format!("{expected}, as of the member"), short(found))),
        };
        if bytes.is_empty() {
            return Err(Refusal::byte(0, "at least 1 byte", "none").inside(file));
        }
        expect("File", json!(file))?;
        expect("Size", json!(bytes.len()))?;
        expect("md5", json!(md5_of(&bytes)))?;
        Ok(bytes)
    }

    fn address(&self, key: &str) -> Result<u32, Refusal> {
        let value = &self.0[key]["LoadAddr"];
        let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let address =
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).filter(|address| *address < 1 << 30);
        let expected = "0x and a hexadecimal number below 0x40000000";
        address.ok_or_else(|| Self::refuse(format!("{key}.LoadAddr"), expected, short(value)))
    }
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A value, for a message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

const MANIFEST: &str = "manifest.json";
const PARAMS: &str = "dnnParams.xml";
/// Key in the manifest and member, in the order of [`PackerOut`]'s fields.
const PARTS: [(&str, &str); 5] = [
    ("CfgBank1", "cfgA.bin"),
    ("CfgBank2", "cfgC.bin"),
    ("SdspA", "sdpsA.bin"),
    ("SdspC", "sdpsC.bin"),
    ("coef", "l2staticData.bin"),
];
/// Members that nothing here is made of, but that are checked if they are there.
const OPTIONAL: [(&str, &str); 2] = [("xmlSchema", "dnnParams.xsd"), ("Versions", "verTable.txt")];
const MAX_MEMBERS: usize = 64;
/// Of the five parts together: twice the chip's memory.
const MAX_PARTS: u64 = 16 << 20;
const MAX_ZIP: u64 = 32 << 20;
