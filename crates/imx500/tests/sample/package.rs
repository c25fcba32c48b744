//! Compiled networks of our own: parts of random bytes, tensors of every kind that the formats know.
#![allow(dead_code, reason = "shared by several tests; none uses all of it")]

use sensei_imx500::dnn_params::{Dimension, DnnParams, DnnTensor, MemoryMap, Network};
use sensei_imx500::packer_out::{PackerOut, Part};
use sensei_imx500::rpk::{InputFormat, Intrinsics};

use super::Random;

pub struct Case {
    pub name: &'static str,
    pub signed: bool,
    pub kept: bool,
    /// Width and height of the input.
    pub size: (u16, u16),
    /// Bits, channels, height, width and padding of each output.
    pub outputs: &'static [(u8, u16, u16, u16, u8)],
    /// Ordinals of the outputs in the order in which the XML lists them; empty for 0, 1, 2, ...
    pub listed: &'static [u8],
    /// Bytes of the five parts, in the order of `PackerOut`'s fields.
    pub parts: [usize; 5],
    pub format: InputFormat,
    pub intrinsics: Option<&'static str>,
}

const PLAIN: Case = Case {
    name: "plain",
    signed: true,
    kept: true,
    size: (96, 96),
    outputs: &[(8, 1, 96, 96, 0)],
    listed: &[],
    parts: [1000, 4, 640, 320, 4096],
    format: InputFormat::Rgb,
    intrinsics: None,
};

/// Some have the lengths at which one more block begins.
pub const CASES: &[Case] = &[
    PLAIN,
    Case { name: "unsigned_bgr", signed: false, format: InputFormat::Bgr, ..PLAIN },
    Case { name: "not_kept", kept: false, size: (64, 48), ..PLAIN },
    Case { name: "wide_output", outputs: &[(16, 1, 96, 96, 0)], ..PLAIN },
    Case {
        name: "three_outputs",
        outputs: &[(8, 4, 24, 24, 0), (16, 1, 12, 12, 3), (8, 300, 1, 1, 4)],
        signed: false,
        ..PLAIN
    },
    Case {
        name: "intrinsics",
        intrinsics: Some(sensei_imx500::rpk::STUDENT_INTRINSICS),
        parts: [145_288, 4, 19_648, 28_608, 1_322_624],
        ..PLAIN
    },
    Case { name: "odd_lengths", parts: [1001, 1, 17, 31, 99_999], ..PLAIN },
    Case { name: "many_blocks", parts: [7, 5, 3, 2, 7_000_001], ..PLAIN },
    Case { name: "one_block_full", parts: [1008, 16, 640, 320, 1_045_456], ..PLAIN },
    Case { name: "one_block_and_16", parts: [1008, 16, 640, 320, 1_045_472], ..PLAIN },
    Case { name: "two_blocks_full", parts: [1008, 16, 640, 320, 1_045_456 + 0xf_ffa0], ..PLAIN },
    Case { name: "large_configuration", parts: [900_000, 4, 70_000, 70_000, 500_000], ..PLAIN },
    Case { name: "two_outputs_listed_10", outputs: &[(8, 4, 24, 24, 0), (16, 1, 12, 12, 3)], listed: &[1, 0], ..PLAIN },
    Case { name: "four_outputs_listed_3210", outputs: FOUR, listed: &[3, 2, 1, 0], ..PLAIN },
    Case { name: "four_outputs_listed_1230", outputs: FOUR, listed: &[1, 2, 3, 0], signed: false, ..PLAIN },
    Case { name: "four_outputs_listed_2031", outputs: FOUR, listed: &[2, 0, 3, 1], ..PLAIN },
    Case { name: "a_name_that_is_longer_than_twenty_characters_and_has_&_<_\"_in_it", ..PLAIN },
];

const FOUR: &[(u8, u16, u16, u16, u8)] = &[(8, 4, 24, 24, 0), (8, 1, 24, 24, 0), (16, 2, 12, 12, 3), (8, 300, 1, 1, 4)];

impl Case {
    pub fn intrinsics(&self) -> Option<Intrinsics> {
        self.intrinsics.map(|text| Intrinsics::parse(text).expect("good"))
    }

    pub fn packer_out(&self) -> PackerOut {
        let mut random = Random(self.parts.iter().sum::<usize>() as u64);
        let mut part =
            |(len, address): (&usize, u32)| Part { address, bytes: (0..*len).map(|_| random.bits() as u8).collect() };
        let addresses = [0x500_0000, 0x600_0000, 0x504_0000, 0x608_0000, 0x46b_d0e0];
        let mut parts = self.parts.iter().zip(addresses).map(&mut part);
        let mut next = || parts.next().expect("five parts");
        PackerOut {
            release: [3, 19, 1],
            network_id: "network".into(),
            params: self.params(),
            config_1: next(),
            config_2: next(),
            program_a: next(),
            program_c: next(),
            coefficients: next(),
        }
    }

    pub fn params(&self) -> DnnParams {
        let side = |size, serialization, padding| Dimension { size, serialization, padding };
        let (width, height) = self.size;
        let input = DnnTensor {
            ordinal: 0,
            name: "Placeholder.input.uid1:0".into(),
            l2_offset: 7_021_696,
            bits: 8,
            shift: 0,
            scale: if self.signed { 0.007_812_5 } else { 0.003_906_25 },
            signed: self.signed,
            kept: self.kept,
            dimensions: vec![side(3, 2, 0), side(height, 1, 0), side(width, 0, 0)],
        };
        let output = |(idx, &(bits, channels, height, width, padding)): (usize, &(u8, u16, u16, u16, u8))| DnnTensor {
            ordinal: idx as u8,
            name: format!("transform-{idx}-{}:0", self.name),
            l2_offset: 4_662_400 * idx as u32,
            bits,
            shift: 300 * idx as u16,
            scale: if bits == 8 { 0.125 } else { 4.882_812_5e-4 },
            signed: idx % 2 == 0,
            kept: false,
            dimensions: vec![side(channels, 0, padding), side(height, 1, 0), side(width, 2, 0)],
        };
        let mut outputs: Vec<DnnTensor> = self.outputs.iter().enumerate().map(output).collect();
        if !self.listed.is_empty() {
            outputs = self.listed.iter().map(|ordinal| outputs[usize::from(*ordinal)].clone()).collect();
        }
        let network = Network { name: self.name.into(), kind: String::new(), inputs: vec![input], outputs };
        let memory = MemoryMap { total: 8_388_480, coefficients: 1_322_656, reserved: 1024, runtime: 2_403_424 };
        DnnParams { networks: vec![network], memory }
    }
}
