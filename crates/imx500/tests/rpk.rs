//! `packerOut.zip` and `network.rpk`: round trips, and the same bytes as an independent implementation.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::path::Path;
use std::process::Command;

use sensei_imx500::packer_out::PackerOut;
use sensei_imx500::rpk::{InputFormat, Rpk};
use sha2::{Digest, Sha256};

mod sample;
use sample::package::{CASES, Case};

fn packaged(case: &Case) -> Rpk {
    let rpk = Rpk::new(&case.packer_out(), case.format, case.intrinsics());
    rpk.unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name))
}

#[test]
fn a_written_zip_reads_back_equal() {
    for case in CASES {
        let network = case.packer_out();
        let zip = network.to_zip().expect("in memory");
        let again = PackerOut::from_bytes(&zip).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
        assert_eq!(again, network, "{}", case.name);
    }
}

#[test]
fn a_written_rpk_reads_back_equal() {
    for case in CASES {
        let rpk = packaged(case);
        let bytes = rpk.to_bytes().expect("checked when it was made");
        let again = Rpk::from_bytes(&bytes).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
        assert_eq!(again, rpk, "{}", case.name);
    }
}

/// Digests of the files that `tools/rpk_build.py` of the shared data made of the same zips.
#[test]
fn rpks_have_the_committed_digests() {
    let text = include_str!("golden/rpk.txt");
    let expected: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let found: Vec<String> = CASES
        .iter()
        .map(|case| {
            let digest = Sha256::digest(packaged(case).to_bytes().expect("checked when it was made"));
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digest} {}", case.name)
        })
        .collect();
    assert_eq!(found, expected);
}

/// An independent implementation whose files are equal to the vendor's for two public networks.
#[test]
fn rpks_are_what_the_reference_builder_makes() {
    let test = "rpks_are_what_the_reference_builder_makes";
    let Some(shared) = sensei_testing::shared_dir(test) else { return };
    let python = std::env::var_os("SENSEI_PYTHON").unwrap_or_else(|| "python3".into());
    let has_module =
        Command::new(&python).args(["-c", "import flatbuffers"]).output().is_ok_and(|run| run.status.success());
    if !has_module {
        assert!(std::env::var_os("CI").is_none(), "{test}: no module flatbuffers, and CI must not skip");
        sensei_testing::skipped(test, "python3 (or SENSEI_PYTHON) has no module flatbuffers");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    for case in CASES {
        case.packer_out().write(&at("packerOut.zip")).expect("writable");
        let mut command = Command::new(&python);
        command.arg(shared.join("golden/imx500/tools/rpk_build.py")).arg(at("packerOut.zip")).arg(at("reference.rpk"));
        command.arg(case.format.name());
        if let Some(intrinsics) = case.intrinsics {
            std::fs::write(at("intrinsics.json"), intrinsics).expect("writable");
            command.arg(at("intrinsics.json"));
        }
        let run = command.output().expect("python runs");
        assert!(run.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&run.stderr));
        packaged(case).write(&at("ours.rpk")).expect("writable");
        let (ours, reference) = (std::fs::read(at("ours.rpk")), std::fs::read(at("reference.rpk")));
        let (ours, reference) = (ours.expect("written"), reference.expect("written"));
        let differs = ours.iter().zip(&reference).position(|(ours, reference)| ours != reference);
        assert_eq!((differs, ours.len()), (None, reference.len()), "{}: first different byte, length", case.name);
    }
}

#[test]
fn what_the_layout_does_not_know_is_refused() {
    let refusal = |change: &dyn Fn(&mut PackerOut)| {
        let mut network = CASES[0].packer_out();
        change(&mut network);
        Rpk::new(&network, InputFormat::Rgb, None).map(|_| ()).expect_err("a refusal").to_string()
    };
    let text = refusal(&|network| network.config_1.bytes.resize(0x10_0000, 7));
    assert!(
        text.starts_with("cfgA.bin to sdpsC.bin: expected parts that fit into one block of 1048576 bytes"),
        "{text}"
    );
    let text = refusal(&|network| {
        let again = network.params.networks[0].clone();
        network.params.networks.push(again);
    });
    assert_eq!(text, "networks: expected 1: the layout of several is not known, found 2");
    let text = refusal(&|network| {
        let again = network.params.networks[0].inputs[0].clone();
        network.params.networks[0].inputs.push(again);
    });
    assert_eq!(text, "inputTensors: expected 1 input, the sensor's image, found 2");
    let text = refusal(&|network| network.params.networks[0].inputs[0].dimensions[0].size = 1);
    assert_eq!(text, "inputTensor: expected 3 channels, found 1");
    let text = refusal(&|network| {
        network.params.networks[0].outputs[0].dimensions.iter_mut().for_each(|side| side.size = 9000)
    });
    assert_eq!(text, "outputs: expected tensors of at most 65534 lines of 2560 bytes, found 284765626 lines");
    let text = refusal(&|network| network.params.networks[0].outputs.clear());
    assert_eq!(text, "outputTensors: expected at least 1 output, found none");
    let output = CASES[0].params().networks[0].outputs[0].clone();
    let text = refusal(&|network| network.params.networks[0].outputs.push(output.clone()));
    assert_eq!(text, "outputTensors: expected each ordinal from 0 to 1 once, found [0, 0], of which 0 is wrong");
    let text = refusal(&|network| network.params.networks[0].outputs = vec![output.clone(); 65]);
    assert_eq!(text, "outputTensors: expected at most 64 outputs, found 65");
    for name in ["Y", "BayerRGB", "rgb"] {
        InputFormat::named(name).expect_err("a refusal");
    }
}

#[test]
fn errors_name_the_file_the_member_the_place_and_both_sides() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("packerOut.zip");
    let damaged = |change: &dyn Fn(&str) -> String, member: &str| {
        // The members are rewritten one by one: only `member` differs.
        let zip = CASES[0].packer_out().to_zip().expect("in memory");
        let mut old = zip::ZipArchive::new(std::io::Cursor::new(zip)).expect("ours");
        let mut new = zip::ZipWriter::new(std::fs::File::create(&path).expect("writable"));
        for idx in 0..old.len() {
            let mut file = old.by_index(idx).expect("ours");
            let name = file.name().expect("ours").into_owned();
            let mut bytes = vec![];
            std::io::Read::read_to_end(&mut file, &mut bytes).expect("ours");
            if name == member {
                bytes = change(&String::from_utf8(bytes).expect("text")).into_bytes();
            }
            new.start_file(name, zip::write::SimpleFileOptions::default()).expect("writable");
            std::io::Write::write_all(&mut new, &bytes).expect("writable");
        }
        new.finish().expect("writable");
        let text = PackerOut::read(&path).expect_err("damaged").to_string();
        text.strip_prefix(&format!("{}: ", path.display())).unwrap_or_else(|| panic!("no path: {text}")).to_string()
    };
    let replace = |from: &'static str, to: &'static str| {
        move |text: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replace(from, to)
        }
    };
    let text = damaged(&replace("3.19.1", "3.19"), "manifest.json");
    assert_eq!(text, "manifest.json: Release Version: expected three numbers below 100 between dots, found 3.19");
    let text = damaged(&replace("0x46bd0e0", "46bd0e0"), "manifest.json");
    let expected =
        "manifest.json: coef.LoadAddr: expected 0x and a hexadecimal number below 0x40000000, found \"46bd0e0\"";
    assert_eq!(text, expected);
    let text = damaged(&replace("\"Size\":4096", "\"Size\":4097"), "manifest.json");
    assert_eq!(text, "manifest.json: coef.Size: expected 4096, as of the member, found 4097");
    let text = damaged(&replace("96", "97"), "dnnParams.xml");
    assert!(text.starts_with("manifest.json: xml.md5: expected \""), "{text}");
    let text = damaged(&|text| format!("\n{text}?"), "manifest.json");
    assert!(text.starts_with("manifest.json: line 2: expected JSON, found trailing characters"), "{text}");

    let bytes = packaged(&CASES[0]).to_bytes().expect("checked when it was made");
    let refusal = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Rpk::from_bytes(&bytes).map(|_| ()).expect_err("damaged").to_string()
    };
    assert_eq!(refusal(0, b'8'), "at byte 0: expected the start of a block, byte 0x39, found 0x38");
    assert_eq!(refusal(11, 2), "at byte 8: expected block 1, 0x00010001, found 0x00010002");
    assert_eq!(refusal(67, 5), "at byte 64: expected section 4, found 5");
    let text = Rpk::from_bytes(&bytes[..5000]).map(|_| ()).expect_err("cut").to_string();
    assert!(text.starts_with("at byte 4: expected a block of at most 4936 bytes, found "), "{text}");
    let text = Rpk::read(Path::new("/nowhere/network.rpk")).expect_err("no such file").to_string();
    assert!(text.starts_with("/nowhere/network.rpk: cannot read"), "{text}");
}

/// The cases named after it lie exactly at the ends of a block.
#[test]
fn a_block_is_full_before_the_next_begins() {
    let n_blocks = |name: &str| {
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        let bytes = packaged(case).to_bytes().expect("checked when it was made");
        (u16::from_be_bytes([bytes[8], bytes[9]]), u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    };
    assert_eq!(n_blocks("one_block_full"), (1, 0x10_0000 - 64));
    assert_eq!(n_blocks("one_block_and_16"), (2, 0x10_0000 - 64));
    assert_eq!(n_blocks("two_blocks_full"), (2, 0x10_0000 - 64));
}
