//! `network.rpk` of other programs: read, and told in what they are not the file that Sensei writes.

use sensei_imx500::rpk::{InputFormat, Intrinsics, Rpk, RpkFile};

mod sample;
use sample::package::{CASES, Case};

fn case() -> Case {
    Case { parts: [100, 4, 64, 32, 300], ..*CASES.iter().find(|case| case.name == "intrinsics").expect("a case") }
}

fn ours() -> Rpk {
    Rpk::new(&case().packer_out(), InputFormat::Rgb, case().intrinsics()).expect("a known layout")
}

/// Blocks, and the archive's files, of one of our own.
fn parts(rpk: &Rpk) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let bytes = rpk.to_bytes().expect("checked");
    let archive = bytes.windows(6).position(|six| six == b"070701").expect("an archive");
    let (blocks, mut rest) = bytes.split_at(archive);
    let mut files = vec![];
    loop {
        let field = |idx: usize| {
            let digits = std::str::from_utf8(&rest[6 + 8 * idx..14 + 8 * idx]).expect("ASCII");
            usize::from_str_radix(digits, 16).expect("hexadecimal")
        };
        let (size, name_size) = (field(6), field(11));
        let name = String::from_utf8(rest[110..109 + name_size].to_vec()).expect("ASCII");
        if name == "TRAILER!!!" {
            return (blocks.to_vec(), files);
        }
        let start = (110 + name_size).next_multiple_of(4);
        files.push((name, rest[start..start + size].to_vec()));
        rest = &rest[(start + size).next_multiple_of(4)..];
    }
}

/// How an archive is written.
#[derive(Clone, Copy)]
struct Style {
    capitals: bool,
    mode: u32,
    inode: u32,
    owner: u32,
    links: u32,
    time: u32,
    device: u32,
    checksum: u32,
    /// The archive's length is a multiple of it.
    block: usize,
}

const OURS: Style =
    Style { capitals: false, mode: 0o100_644, inode: 0, owner: 0, links: 0, time: 0, device: 0, checksum: 0, block: 4 };

/// GNU cpio's.
const GNU: Style =
    Style { capitals: true, inode: 0x1b2c, owner: 1000, links: 1, time: 0x68ab_cdef, device: 8, block: 512, ..OURS };

fn archive(files: &[(String, Vec<u8>)], style: Style) -> Vec<u8> {
    let mut out: Vec<u8> = vec![];
    let trailer = ("TRAILER!!!".to_string(), vec![]);
    for (idx, (name, content)) in files.iter().chain([&trailer]).enumerate() {
        let is_last = idx == files.len();
        let Style { mode, inode, owner, links, time, device, .. } =
            if is_last { Style { mode: 0, links: 1, ..OURS } } else { style };
        let size = content.len() as u32;
        out.extend(b"070701");
        let fields =
            [inode, mode, owner, owner, links, time, size, 0, device, 0, 0, name.len() as u32 + 1, style.checksum];
        for field in fields {
            let digits = if style.capitals { format!("{field:08X}") } else { format!("{field:08x}") };
            out.extend(digits.as_bytes());
        }
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out.resize(out.len().next_multiple_of(style.block), 0);
    out
}

/// What is read of the bytes, which has to be our network; the differences as one text.
fn explained(what: &str, bytes: &[u8]) -> String {
    let file = RpkFile::from_bytes(bytes).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
    assert_eq!(file.rpk, ours(), "{what}");
    assert_eq!(file.differences.is_empty(), bytes == ours().to_bytes().expect("checked"), "{what}");
    assert!(file.differences.is_empty() || Rpk::from_bytes(bytes).is_err(), "{what}: not ours");
    file.differences.join("\n")
}

#[test]
fn our_own_file_has_no_differences() {
    let (blocks, files) = parts(&ours());
    let bytes = [blocks, archive(&files, OURS)].concat();
    assert_eq!(bytes, ours().to_bytes().expect("checked"), "this file writes archives as Sensei does");
    assert_eq!(explained("ours", &bytes), "");
}

#[test]
fn archives_of_other_programs_are_read() {
    let (blocks, files) = parts(&ours());
    let check = |what: &str, style: Style, expected: &[&str]| {
        let found = explained(what, &[blocks.clone(), archive(&files, style)].concat());
        expected.iter().for_each(|words| assert!(found.contains(words), "{what}: expected {words:?} in {found}"));
    };
    let gnu = [
        "the archive's imx500_regs: inode 6956, not 0, owner 1000, not 0, group 1000, not 0, links 1, not 0",
        "time 1756089839, not 0",
        "capital hexadecimal digits",
        "zeros follow the archive",
    ];
    check("GNU cpio", GNU, &gnu);
    check("lower case", Style { capitals: false, ..GNU }, &gnu[..2]);
    check("other permissions", Style { mode: 0o100_600, ..OURS }, &["mode 100600, not 100644"]);
    check("a large block", Style { block: 10_240, ..OURS }, &["zeros follow the archive"]);
    check("a device", Style { device: 8, ..OURS }, &["minor device 8, not 0"]);

    let mut reversed = files.clone();
    reversed.reverse();
    let found = explained("another order", &[blocks.clone(), archive(&reversed, OURS)].concat());
    let expected = "the archive holds network_intrinsics, network_info.txt, imx500_regs, \
                    not imx500_regs, network_info.txt, network_intrinsics";
    assert_eq!(found, expected);
    let mut more = files.clone();
    more.insert(1, ("labels.txt".into(), b"cat\n".to_vec()));
    let found = explained("one more file", &[blocks, archive(&more, OURS)].concat());
    assert!(found.contains("the archive holds imx500_regs, labels.txt, network_info.txt"), "{found}");
}

#[test]
fn free_fields_are_told() {
    let (blocks, files) = parts(&ours());
    let changed = |what: &str, at: usize, bytes: &[u8]| {
        let mut blocks = blocks.clone();
        blocks[at..at + bytes.len()].copy_from_slice(bytes);
        explained(what, &[blocks, archive(&files, OURS)].concat())
    };
    // Words are swapped: the last four digits of the version are the last word.
    assert_eq!(changed("the zoo's version", 60, b"0010"), "version 0100 of the network, not 0000");
    assert_eq!(changed("a section's version", 80, b"\0\x003\x31"), "section 4 at byte 64: version 13, not 01");
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files.clone();
        change(&mut files.iter_mut().find(|(known, _)| known == name).expect("a file").1);
        explained(name, &[blocks.clone(), archive(&files, OURS)].concat())
    };
    let found = with("network_info.txt", &|text| text.extend(b"vendor=7\r\n"));
    assert_eq!(found, "network_info.txt: one more line, vendor=7");
    let found = with("network_info.txt", &|text| text.retain(|byte| *byte != b'\r'));
    assert_eq!(found, "network_info.txt: the same lines in another order, or with other line ends");
    let found = with("imx500_regs", &|registers| registers.extend([0x34, 0x12, 2, 5, 0, 0, 0]));
    assert_eq!(found, "imx500_regs: one more register, 0x1234: 0x5 of 2 bytes");
}

#[test]
fn intrinsics_that_picamera2_refuses_are_told() {
    let (blocks, mut files) = parts(&ours());
    files[2].1 = br#"{"task": "instance segmentation"}"#.to_vec();
    let file = RpkFile::from_bytes(&[blocks, archive(&files, OURS)].concat()).expect("readable");
    let expected = "network_intrinsics: picamera2 refuses it: task: expected a task that picamera2 knows: \
                    \"classification\", \"object detection\", \"pose estimation\" or \"segmentation\", \
                    found \"instance segmentation\"";
    assert_eq!(file.differences, [expected]);
}

#[test]
fn contradictions_and_damage_are_refused() {
    let (blocks, files) = parts(&ours());
    let refused = |bytes: &[u8], expected: &str| {
        let text = RpkFile::from_bytes(bytes).expect_err("a refusal").to_string();
        assert!(text.contains(expected), "expected {expected:?} in {text}");
    };
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files.clone();
        change(&mut files.iter_mut().find(|(known, _)| known == name).expect("a file").1);
        [blocks.clone(), archive(&files, OURS)].concat()
    };
    let replaced = |from: &'static str, to: &str| {
        let to = to.to_string();
        move |text: &mut Vec<u8>| {
            let old = String::from_utf8(text.clone()).expect("text");
            assert!(old.contains(from), "{from} in {old}");
            *text = old.replacen(from, &to, 1).into_bytes();
        }
    };
    let info = "network_info.txt";
    refused(
        &with(info, &replaced("inputTensorWidth=96", "inputTensorWidth=64")),
        "inputTensorWidth: expected 96, found 64",
    );
    refused(&with(info, &replaced("networkNum=1\r\n", "")), "networkNum: expected 1, found no such line");
    refused(&with(info, &replaced("networkNum=1", "networkNum")), "line 5: expected at most 1024 lines key=value");
    refused(&with(info, &replaced("networkID=000000", "networkID=000001")), "networkID: expected 000000, found 000001");
    refused(&with(info, &replaced("apParamSize=", "apParamSize=1")), "apParamSize: expected ");
    let text = RpkFile::from_bytes(&with(info, &replaced("Format=RGB", &"Format=\u{1b}[2J".repeat(9000))))
        .expect_err("no format");
    let text = text.to_string();
    assert!(text.len() < 300 && !text.contains(char::is_control) && text.contains("expected RGB or BGR"), "{text}");
    let registers = "imx500_regs";
    refused(&with(registers, &|bytes| bytes[3] ^= 1), "register 0xd750: expected 0x2 of 1 bytes, found 0x3 of 1 bytes");
    refused(
        &with(registers, &|bytes| bytes[0] ^= 1),
        "register 0xd750: expected 0x2 of 1 bytes, found no such register",
    );
    refused(
        &with(registers, &|bytes| bytes.truncate(389)),
        "expected at most 1024 registers of 7 bytes, found 55 and 4",
    );
    refused(&with("network_intrinsics", &|text| text.truncate(20)), "network_intrinsics: expected a JSON object");

    let archived = |files: &[(String, Vec<u8>)], style: Style| [blocks.clone(), archive(files, style)].concat();
    refused(&archived(&files[1..], OURS), "an archive with imx500_regs, found none");
    refused(&archived(&[&files[..], &files[..1]].concat(), OURS), "a name for each file, found imx500_regs twice");
    refused(&archived(&files, Style { mode: 0o120_777, ..OURS }), "a plain file");
    refused(&archived(&files, Style { checksum: 7, ..OURS }), "a plain file without a checksum");
    refused(&[archived(&files, GNU), b"x".to_vec()].concat(), "zeros up to there, found 0x78");
    let long: Vec<_> = (0..17).map(|idx| (format!("file{idx}"), vec![])).collect();
    refused(&archived(&long, OURS), "at most 16 files");

    let changed = |at: usize, to: u8| {
        let mut blocks = blocks.clone();
        blocks[at] = to;
        [blocks, archive(&files, OURS)].concat()
    };
    refused(&changed(60, b'x'), "a version, 16 digits in swapped words");
    refused(&changed(68, 0xa0), "at byte 68: expected address 0x8000f000, found 0xa000f000");
    // Byte 14 of a block's header, bit 0, would be a lock to a device, with a layout of its own.
    refused(&changed(14, 1), "the rest of a block's header");
    // A digit of a tensor's name in the first table: the second has another.
    let unswapped: Vec<u8> = blocks.as_chunks::<4>().0.iter().flat_map(|[a, b, c, d]| [*d, *c, *b, *a]).collect();
    let digit = unswapped.windows(5).position(|five| five == b"uid1:").expect("an input's name") + 3;
    refused(&changed(digit / 4 * 4 + 3 - digit % 4, b'2'), "as dnn_params has them");
}

/// The third block continues where the second ends.
#[test]
fn coefficients_have_no_gap_between_blocks() {
    let many = CASES.iter().find(|case| case.name == "many_blocks").expect("a case");
    let rpk = Rpk::new(&many.packer_out(), InputFormat::Rgb, None).expect("a known layout");
    let mut bytes = rpk.to_bytes().expect("checked");
    assert_eq!(RpkFile::from_bytes(&bytes).expect("ours").differences, [""; 0]);
    let third = 2 * 0x10_0000;
    assert_eq!(bytes[third..third + 4], *b"9464");
    bytes[third + 39] ^= 16;
    let text = RpkFile::from_bytes(&bytes).expect_err("a gap").to_string();
    assert!(text.contains("where the block before ends"), "{text}");
}

#[test]
fn intrinsics_are_held_to_what_picamera2_takes() {
    let check = |text: &str, expected: Option<&str>| match (Intrinsics::parse(text), expected) {
        (Ok(_), None) => {}
        (Err(refusal), Some(expected)) => assert_eq!(refusal.to_string(), expected),
        (found, _) => panic!("{text}: expected {expected:?}, found {found:?}"),
    };
    check(r#"{"task": "segmentation", "preserve_aspect_ratio": true}"#, None);
    check(r#"{"task": "pose estimation", "cpu": {"bbox_order": "xy"}, "classes": {"labels": ["a"]}}"#, None);
    check(r#"{"input_aspect_ratio": {"width": 1.0, "height": 1}}"#, None);
    check("{}", None);
    check("[1]", Some("line 1: expected a JSON object, found [1]"));
    let tasks = "task: expected a task that picamera2 knows: \"classification\", \"object detection\", \
                 \"pose estimation\" or \"segmentation\", found ";
    for word in ["\"instance segmentation\"", "\"Segmentation\"", "\"\"", "4", "null"] {
        check(&format!("{{\"task\": {word}}}"), Some(&format!("{tasks}{word}")));
    }
    check(r#"{"inference_rate": -1}"#, Some("inference_rate: expected a number from 0, found -1"));
    check(r#"{"cpu": {"softmax": 1}}"#, Some("cpu.softmax: expected true or false, found 1"));
    check(r#"{"classes": {"labels": ["a", 1]}}"#, Some("classes.labels: expected a list of texts, found [\"a\",1]"));
    let aspect = "input_aspect_ratio: expected an object of width and height, integers from 1, found {\"width\":1}";
    check(r#"{"input_aspect_ratio": {"width": 1}}"#, Some(aspect));
    assert_eq!(Intrinsics::parse(Intrinsics::of_student().as_str()), Ok(Intrinsics::of_student()));
}

#[test]
fn public_kinds_of_the_shared_cases_are_read() {
    let test = "public_kinds_of_the_shared_cases_are_read";
    let Some(shared) = sensei_testing::shared_dir(test) else { return };
    let text = std::fs::read_to_string(shared.join("cases/expected.json")).expect("readable");
    let expected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let differences = [
        ("plain.rpk", None),
        ("outputs-3210.rpk", None),
        ("version-0100.rpk", Some("version 0100 of the network, not 0000")),
        ("archive-of-gnu-cpio.rpk", Some("capital hexadecimal digits")),
    ];
    assert_eq!(expected["rpk-reader"].as_object().expect("an object").len(), differences.len());
    for (name, difference) in differences {
        let path = shared.join("cases/rpk-reader").join(name);
        let file = RpkFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            file.rpk.params().networks[0].outputs.len() as u64,
            expected["rpk-reader"][name]["outputs"],
            "{name}"
        );
        let found = file.differences.join("\n");
        match difference {
            None => assert_eq!(found, "", "{name}"),
            Some(words) => assert!(found.contains(words), "{name}: {found}"),
        }
    }
    for (name, is_good) in [("good.json", true), ("not-json.json", false), ("unknown-task.json", false)] {
        let read = Intrinsics::read(&shared.join("cases/rpk-intrinsics").join(name));
        assert_eq!(read.is_ok(), is_good, "{name}");
        if let Err(error) = read {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
