//! Outputs in any order: the converter lists them as it likes, and the sensor's file keeps its order.

use sensei_imx500::dnn_params::DnnParams;
use sensei_imx500::packer_out::PackerOut;
use sensei_imx500::rpk::{InputFormat, Rpk};
use sha2::{Digest, Sha256};

mod sample;
use sample::package::{CASES, Case};

fn listed(ordinals: &[u8]) -> &'static Case {
    CASES.iter().find(|case| case.listed == ordinals).expect("a case")
}

fn ordinals(params: &DnnParams) -> Vec<u8> {
    params.networks[0].outputs.iter().map(|output| output.ordinal).collect()
}

#[test]
fn the_converters_order_survives_zip_and_rpk() {
    for order in [&[1_u8, 0][..], &[3, 2, 1, 0], &[1, 2, 3, 0], &[2, 0, 3, 1]] {
        let case = listed(order);
        let zip = case.packer_out().to_zip().expect("in memory");
        let network = PackerOut::from_bytes(&zip).unwrap_or_else(|refusal| panic!("{order:?}: {refusal}"));
        assert_eq!(ordinals(&network.params), order);
        let rpk = Rpk::new(&network, InputFormat::Rgb, None).expect("a known layout");
        let again = Rpk::from_bytes(&rpk.to_bytes().expect("checked")).expect("ours");
        assert_eq!(ordinals(again.params()), order);
        let sizes: Vec<u64> =
            again.params().networks[0].outputs_by_ordinal().iter().map(|output| output.n_stored()).collect();
        let info = rpk.network_info().expect("checked");
        for (idx, size) in sizes.iter().enumerate() {
            let line = format!("outputTensorDimSize{}={size}\r\n", idx + 1);
            assert!(info.contains(&line), "{order:?}: expected {line} in {info}");
        }
    }
}

/// Sorting the list before writing would give another file.
#[test]
fn another_order_is_another_file() {
    let bytes = |network: &PackerOut| {
        Rpk::new(network, InputFormat::Rgb, None).and_then(|rpk| rpk.to_bytes()).expect("a known layout")
    };
    let network = listed(&[3, 2, 1, 0]).packer_out();
    let mut sorted = network.clone();
    sorted.params.networks[0].outputs.sort_by_key(|output| output.ordinal);
    assert!(bytes(&network) != bytes(&sorted));
}

#[test]
fn as_many_outputs_as_the_format_page_allows() {
    let mut network = CASES[0].packer_out();
    let output = network.params.networks[0].outputs[0].clone();
    // 7 and 64 have no common divisor, so that every ordinal comes once.
    network.params.networks[0].outputs = (0..64)
        .map(|idx| (idx * 7 + 5) % 64)
        .map(|ordinal| {
            let mut output = output.clone();
            (output.ordinal, output.name) = (ordinal, format!("output-{ordinal}:0"));
            output
        })
        .collect();
    let rpk = Rpk::new(&network, InputFormat::Rgb, None).expect("a known layout");
    let again = Rpk::from_bytes(&rpk.to_bytes().expect("checked")).expect("ours");
    assert_eq!(again.params(), rpk.params());
    assert!(rpk.network_info().expect("checked").contains("outputTensorNum=64\r\n"));
}

#[test]
fn an_ordinal_that_is_missing_is_refused_with_its_line() {
    let xml = listed(&[1, 0]).params().to_xml();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(xml.contains(from), "{from} in {xml}");
        let refusal = DnnParams::parse(xml.replacen(from, to, 1).as_bytes()).expect_err("a refusal").to_string();
        assert_eq!(refusal, expected);
    };
    let first = "<outputTensor ordinal=\"1\"";
    let line = 1 + xml[..xml.find(first).expect("the first output")].lines().count();
    check(
        first,
        "<outputTensor ordinal=\"2\"",
        &format!("line {line}: expected ordinal of outputTensor: each of 0 to 1 once, found 2"),
    );
    let second = "<outputTensor ordinal=\"0\"";
    let line = 1 + xml[..xml.find(second).expect("the second output")].lines().count();
    check(
        second,
        "<outputTensor ordinal=\"1\"",
        &format!("line {line}: expected ordinal of outputTensor: each of 0 to 1 once, found 1"),
    );
}

/// Zips of made-up parts, each with the file that a second implementation makes of it; two public pairs gave that one the
/// vendor's bytes.
#[test]
fn zips_of_any_order_become_the_reference_files() {
    let test = "zips_of_any_order_become_the_reference_files";
    let Some(shared) = sensei_testing::shared_dir(test) else { return };
    let folder = shared.join("cases/rpk-output-order");
    let text = std::fs::read_to_string(shared.join("cases/expected.json")).expect("readable");
    let expected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let cases = expected["rpk-output-order"].as_object().expect("an object").iter();
    let mut n_compared = 0;
    for (name, case) in cases.filter(|(name, _)| name.ends_with(".zip")) {
        let network = PackerOut::read(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(serde_json::json!(ordinals(&network.params)), case["order"], "{name}");
        let bytes = Rpk::new(&network, InputFormat::Rgb, None).and_then(|rpk| rpk.to_bytes());
        let bytes = bytes.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let reference = std::fs::read(folder.join(case["rpk"].as_str().expect("a name"))).expect("readable");
        assert!(bytes == reference, "{name}: other bytes than {}", case["rpk"]);
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, case["sha256"].as_str().expect("a digest"), "{name}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 5);
}
