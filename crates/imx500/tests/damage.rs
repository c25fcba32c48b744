//! Every decoder of this crate against damaged files: an error or a valid value, no panic, no large allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Cursor, Write};
use std::path::Path;

use sensei_imx500::dnn_params::DnnParams;
use sensei_imx500::fit_report::FitReport;
use sensei_imx500::onnx;
use sensei_imx500::packer_out::PackerOut;
use sensei_imx500::rpk::{Rpk, RpkFile};
use sensei_int8::model_file;
use sensei_onnx::builder::Ends;
use sensei_onnx::quantized::quantized_network;
use zip::write::SimpleFileOptions;

mod sample;
use sample::package::{CASES, Case};
use sample::{Random, SMALL3};

/// The system's allocator, counting by thread: decoders start none, and the tests beside one run on others.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.get() + layout.size() as isize;
        NOW.set(now);
        PEAK.set(PEAK.get().max(now));
        // SAFETY: as of our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.set(NOW.get() - layout.size() as isize);
        // SAFETY: as of our caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that `decode` had at once.
fn peak_of(decode: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    decode();
    (PEAK.get() - before) as usize
}

/// Damages `bytes` in `n_rounds` ways, mostly within the first `head` bytes; `decode` says whether it took a file.
fn damage(what: &str, bytes: &[u8], head: usize, n_rounds: u64, limit: usize, decode: impl Fn(&[u8]) -> bool) {
    assert!(decode(bytes), "{what}: undamaged");
    let mut random = Random(bytes.len() as u64);
    let mut n_accepted = 0;
    for round in 0..n_rounds {
        let damaged = damaged(bytes, head, &mut random);
        let mut is_accepted = false;
        let peak = peak_of(|| is_accepted = decode(&damaged));
        n_accepted += u64::from(is_accepted);
        assert!(peak <= limit, "{what}: round {round} had {peak} bytes at once");
    }
    assert!(n_accepted < n_rounds / 2, "{what}: {n_accepted} of {n_rounds} damaged files were taken");
}

fn damaged(bytes: &[u8], head: usize, random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.bits() % 3 {
        if out.is_empty() {
            break;
        }
        let within = if random.bits().is_multiple_of(4) { out.len() } else { out.len().min(head) };
        let at = random.bits() as usize % within;
        let end = out.len().min(at + 1 + random.bits() as usize % 24);
        match random.bits() % 8 {
            0 => out[at] ^= 1 << (random.bits() % 8),
            1 => out[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'<', b'9'][random.bits() as usize % 8],
            2 => out[at] = random.bits() as u8,
            3 => out[at..end].fill(0xff),
            4 => out.truncate(at),
            5 => drop(out.drain(at..end)),
            6 => {
                let copy = out[at..end].to_vec();
                out.splice(at..at, copy);
            }
            _ => {
                let from = random.bits() as usize % out.len();
                let copy = out[from..out.len().min(from + end - at)].to_vec();
                out[at..at + copy.len().min(end - at)].copy_from_slice(&copy[..copy.len().min(end - at)]);
            }
        }
    }
    out
}

fn small() -> Case {
    Case { parts: [100, 4, 64, 32, 300], ..*CASES.iter().find(|case| case.name == "intrinsics").expect("a case") }
}

#[test]
fn zip() {
    let zip = small().packer_out().to_zip().expect("in memory");
    damage("packerOut.zip", &zip, zip.len(), 6000, 1 << 20, |bytes| PackerOut::from_bytes(bytes).is_ok());
    // Most of what a zip says of its members is in its last part.
    let directory = zip.windows(4).position(|four| four == b"PK\x01\x02").expect("a directory");
    let (before, after) = zip.split_at(directory);
    damage("the zip's directory", after, after.len(), 6000, 1 << 20, |bytes| {
        PackerOut::from_bytes(&[before, bytes].concat()).is_ok()
    });
}

#[test]
fn manifest() {
    let zip = small().packer_out().to_zip().expect("in memory");
    let mut archive = zip::ZipArchive::new(Cursor::new(&zip)).expect("ours");
    let mut members = vec![];
    for idx in 0..archive.len() {
        let mut file = archive.by_index(idx).expect("ours");
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("ours");
        members.push((file.name().expect("ours").into_owned(), bytes));
    }
    let (_, manifest) = members.iter().find(|(name, _)| name == "manifest.json").expect("ours").clone();
    damage("manifest.json", &manifest, manifest.len(), 6000, 4 << 20, |bytes| {
        let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, content) in &members {
            zip.start_file(name.as_str(), options).expect("in memory");
            zip.write_all(if name == "manifest.json" { bytes } else { content }).expect("in memory");
        }
        PackerOut::from_bytes(&zip.finish().expect("in memory").into_inner()).is_ok()
    });
}

/// A zip of members of these sizes, all of zeros.
fn zip_of_zeros<'a>(members: impl IntoIterator<Item = (&'a str, usize)>) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    for (name, len) in members {
        zip.start_file(name, SimpleFileOptions::default()).expect("in memory");
        zip.write_all(&vec![0; len]).expect("in memory");
    }
    zip.finish().expect("in memory").into_inner()
}

const NEEDED: [&str; 7] =
    ["cfgA.bin", "cfgC.bin", "dnnParams.xml", "l2staticData.bin", "manifest.json", "sdpsA.bin", "sdpsC.bin"];

/// A member that unpacks to more than it says, one that says that it is too large, many that nothing is made of.
#[test]
fn zip_bombs() {
    let bomb = |large: &str, len: usize| zip_of_zeros(NEEDED.map(|name| (name, if name == large { len } else { 9 })));
    let check = |zip: &[u8], expected: &str| {
        let mut text = String::new();
        let peak = peak_of(|| text = PackerOut::from_bytes(zip).expect_err("a bomb").to_string());
        assert!(text.contains(expected), "{text}");
        assert!(peak < 1 << 20, "{peak} bytes for {text}");
    };
    check(&bomb("cfgA.bin", 200 << 20), "at most 16777216 bytes, found 209715200");
    check(&bomb("manifest.json", 2 << 20), "at most 1048576 bytes, found 2097152");
    let parts = NEEDED.map(|name| (name, if name.ends_with(".bin") { 4 << 20 } else { 9 }));
    check(&zip_of_zeros(parts), "parts of at most 16777216 bytes together, found 20971520");
    let mut lie = bomb("manifest.json", 10 << 20);
    let directory =
        lie.windows(17).position(|name| name == b"manifest.json\x50\x4b\x01\x02").expect("a directory") - 46;
    lie[directory + 24..directory + 28].copy_from_slice(&100_u32.to_le_bytes());
    check(&lie, "manifest.json: at byte ");
    let names: Vec<String> = (0..40).map(|idx| format!("m{idx}")).collect();
    let many = zip_of_zeros(names.iter().map(|name| (name.as_str(), 8 << 20)));
    check(&many, "members: expected manifest.json, found m0, m1, m10");
    let whole = small().packer_out().to_zip().expect("in memory");
    let mut zip = zip::ZipWriter::new_append(Cursor::new(whole)).expect("ours");
    zip.start_file("more.bin", SimpleFileOptions::default()).expect("in memory");
    zip.write_all(&vec![0; 100 << 20]).expect("in memory");
    let zip = zip.finish().expect("in memory").into_inner();
    let peak = peak_of(|| assert!(PackerOut::from_bytes(&zip).expect("the rest is sound") == small().packer_out()));
    assert!(peak < 1 << 20, "{peak} bytes");
}

#[test]
fn rpk() {
    let bytes = Rpk::new(&small().packer_out(), small().format, small().intrinsics())
        .and_then(|rpk| rpk.to_bytes())
        .expect("a known layout");
    let decode = |bytes: &[u8]| match Rpk::from_bytes(bytes) {
        Ok(rpk) => {
            assert!(rpk.to_bytes().expect("checked") == bytes, "an accepted file is the one that would be written");
            true
        }
        Err(_) => false,
    };
    damage("network.rpk", &bytes, bytes.len(), 6000, 1 << 20, decode);
    // Blocks, sections and flatbuffers.
    damage("the rpk's head", &bytes, 1400, 6000, 1 << 20, decode);
    let archive = bytes.windows(6).position(|six| six == b"070701").expect("an archive");
    let (blocks, archive) = bytes.split_at(archive);
    damage("the rpk's archive", archive, archive.len(), 6000, 1 << 20, |bytes| decode(&[blocks, bytes].concat()));
}

/// What other programs write is taken, too; what is taken is bounded, and told if it is not ours.
#[test]
fn rpk_of_others() {
    let rpk = Rpk::new(&small().packer_out(), small().format, small().intrinsics()).expect("a known layout");
    let bytes = rpk.to_bytes().expect("a known layout");
    let decode = |bytes: &[u8]| match RpkFile::from_bytes(bytes) {
        Ok(file) => {
            assert_eq!(file.differences.is_empty(), Rpk::from_bytes(bytes).is_ok(), "{:?}", file.differences);
            assert!(file.differences.iter().all(|line| line.len() < 1000 && !line.contains(char::is_control)));
            file.rpk != rpk || bytes.len() == file.rpk.to_bytes().expect("checked").len()
        }
        Err(_) => false,
    };
    damage("network.rpk", &bytes, bytes.len(), 6000, 1 << 20, decode);
    damage("the rpk's head", &bytes, 1400, 6000, 1 << 20, decode);
    let archive = bytes.windows(6).position(|six| six == b"070701").expect("an archive");
    let (blocks, archive) = bytes.split_at(archive);
    damage("the rpk's archive", archive, archive.len(), 6000, 1 << 20, |bytes| decode(&[blocks, bytes].concat()));
    // An archive of many folders, each with something to say.
    let folder: Vec<u8> = archive[..110].iter().chain(b"ab\0\0").copied().collect();
    let mut folder = [&folder[..14], b"000041ED", &folder[22..]].concat();
    folder[54..62].copy_from_slice(b"00000000");
    folder[94..102].copy_from_slice(b"00000002");
    let many = [blocks, &folder[..112].repeat(100_000)].concat();
    let peak = peak_of(|| drop(RpkFile::from_bytes(&many).expect_err("too many files")));
    assert!(peak < 1 << 20, "{peak} bytes");
}

#[test]
fn xml() {
    let xml = CASES[4].params().to_xml();
    damage("dnnParams.xml", xml.as_bytes(), xml.len(), 10_000, 4 << 20, |bytes| match DnnParams::parse(bytes) {
        Ok(params) => {
            let again = DnnParams::parse(params.to_xml().as_bytes());
            assert_eq!(again.as_ref(), Ok(&params), "what was read is what is written");
            // Only files that say something else count.
            params != CASES[4].params()
        }
        Err(_) => bytes == xml.as_bytes(),
    } || bytes == xml.as_bytes());
    let nested = format!("<dnnParams>{}", "<networks>".repeat(100_000));
    DnnParams::parse(nested.as_bytes()).expect_err("too deep");
    let bomb = r#"<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><dnnParams>&b;</dnnParams>"#;
    let text = DnnParams::parse(bomb.as_bytes()).expect_err("entities").to_string();
    assert!(text.starts_with("line 1: expected well-formed XML, found "), "{text}");
    let text = DnnParams::parse(xml.replace("size=\"24\"", "size=\"65536\"").as_bytes()).expect_err("too large");
    assert_eq!(text.to_string(), "line 18: expected size of dimension: a number (u16), found 65536");
}

#[test]
fn memory_report() {
    let report = br#"{"Memory Report": {"Name": "net", "Runtime Memory Physical Size": "2.29MB",
        "Model Memory Physical Size": "1.26MB", "Reserved Memory": "1.00KB", "Memory Usage": "3.55MB",
        "Total Memory Available On Chip": "8.00MB", "Memory Utilization": "45%", "Fit In Chip": true}}"#;
    let whole = FitReport::parse(report).expect("a report");
    damage("memory report", report, report.len(), 10_000, 1 << 20, |bytes| {
        FitReport::parse(bytes).is_ok_and(|other| other != whole) || bytes == report
    });
    FitReport::parse("[".repeat(100_000).as_bytes()).expect_err("too deep");
}

#[test]
fn onnx_file() {
    let bytes = onnx::write_onnx(&SMALL3.model(), &[].into());
    let whole = onnx::from_bytes(Path::new("x"), &bytes).expect("ours").model;
    // A file may differ in what carries no meaning, so only other models count.
    damage("onnx", &bytes, 4000, 1500, 16 << 20, |damaged| {
        onnx::from_bytes(Path::new("x"), damaged).is_ok_and(|file| file.model != whole) || damaged == bytes
    });
}

#[test]
fn stock_onnx_file() {
    let ends = Ends { input: "image", output: "logits" };
    let bytes = quantized_network(&SMALL3.model(), ends, &[].into());
    let whole = onnx::outline::outline_from_bytes(Path::new("x"), &bytes).expect("ours");
    assert!(!whole.is_dialect() && whole.inputs == ["image float32 [1, 3, 32, 32]"], "{whole:?}");
    damage("stock onnx", &bytes, 4000, 1500, 16 << 20, |damaged| {
        onnx::outline::outline_from_bytes(Path::new("x"), damaged).is_ok_and(|outline| outline != whole)
            || damaged == bytes
    });
}

#[test]
fn int8_model() {
    let bytes = model_file::to_bytes(&SMALL3.model());
    let body = &bytes[..bytes.len() - 32];
    damage("s8m", body, 1500, 4000, 16 << 20, |body| {
        // The checksum fits: the reader itself has to hold.
        let bytes = [body, blake3::hash(body).as_bytes()].concat();
        model_file::from_bytes(Path::new("x"), &bytes).is_ok()
    });
}
