//! What the camera's driver and host are told in a `network.rpk`: `network_info.txt` and `imx500_regs`.
//!
//! # Source
//! Both were worked out from public files of the sensor's users; they depend on the input's size, sign and colour order
//! and on the outputs' sizes only.

use crate::dnn_params::{DnnTensor, Network};
use crate::refusal::Refusal;

/// In which order the network wants its colours; the sensor then gives them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// Red first: what students are trained on.
    Rgb,
    /// Blue first.
    Bgr,
}

impl InputFormat {
    /// The format of this name, as the vendor spells it.
    ///
    /// # Errors
    /// For other names. `Y` and `BayerRGB` exist, but which registers they need is not known.
    pub fn named(name: &str) -> Result<Self, Refusal> {
        match name {
            "RGB" => Ok(Self::Rgb),
            "BGR" => Ok(Self::Bgr),
            "Y" | "BayerRGB" => {
                let expected = "RGB or BGR: the registers of other formats are not known";
                Err(Refusal::key("input format", expected, name))
            }
            _ => {
                let found = name.chars().take(40).flat_map(char::escape_debug).collect::<String>();
                Err(Refusal::key("input format", "RGB or BGR", format!("\"{found}\"")))
            }
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb => "RGB",
            Self::Bgr => "BGR",
        }
    }
}

/// Width and height of a network's input, if the sensor can feed it: three planes, rows of neighbouring pixels.
pub(super) fn input_size(network: &Network) -> Result<(u16, u16), Refusal> {
    let [input] = &network.inputs[..] else {
        return Err(Refusal::key("inputTensors", "1 input, the sensor's image", network.inputs.len().to_string()));
    };
    let side = |order| input.dimensions.iter().find(|side| side.serialization == order);
    let (3, Some(width), Some(height), Some(channels)) = (input.dimensions.len(), side(0), side(1), side(2)) else {
        let orders: Vec<u8> = input.dimensions.iter().map(|side| side.serialization).collect();
        return Err(Refusal::key("inputTensor", "3 dimensions, of orders 0, 1 and 2", format!("{orders:?}")));
    };
    if channels.size != 3 {
        return Err(Refusal::key("inputTensor", "3 channels", channels.size.to_string()));
    }
    if input.bits != 8 {
        return Err(Refusal::key("inputTensor", "8 bits", input.bits.to_string()));
    }
    if network.outputs.is_empty() {
        return Err(Refusal::key("outputTensors", "at least 1 output", "none"));
    }
    Ok((width.size, height.size))
}

/// The text of `network_info.txt`.
pub(super) fn network_info(
    network: &Network,
    network_id: &str,
    ap_size: usize,
    format: InputFormat,
) -> Result<String, Refusal> {
    let (width, height) = input_size(network)?;
    let is_signed = network.inputs[0].signed;
    let gain = |on: bool| if on { format!("0x{UNIT_GAIN:04X}") } else { "0x0000".into() };
    let is_rgb = format == InputFormat::Rgb;
    let (straight, crossed) = (gain(is_rgb), gain(!is_rgb));
    let offset = if is_signed { "0x1800" } else { "0x0000" };
    let clip = if is_signed { "0x007F0180" } else { "0x00FF0000" };
    let lowest = if is_signed { "0x0180" } else { "0x0000" };
    let mut lines: Vec<(String, String)> = vec![];
    let mut line = |key: &str, value: &str| lines.push((key.into(), value.into()));
    line("version", "020400");
    line("networkID", network_id);
    line("networkType", "0");
    line("apParamSize", &ap_size.to_string());
    line("networkNum", "1");
    line("networkOrdinal", "0");
    line("inputTensorWidth", &width.to_string());
    line("inputTensorHeight", &height.to_string());
    line("inputTensorFormat", format.name());
    let norm = [
        ("00", &straight[..]),
        ("02", &crossed),
        ("03", offset),
        ("11", &gain(true)),
        ("13", offset),
        ("20", &crossed),
        ("22", &straight),
        ("23", offset),
    ];
    norm.iter().for_each(|(entry, value)| line(&format!("inputTensorNorm_K{entry}"), value));
    ["yClip", "cbClip", "crClip"].iter().for_each(|key| line(key, clip));
    for channel in 0..4 {
        let is_used = channel < 3;
        line(&format!("inputNorm_CH{channel}"), if is_used { lowest } else { "0x0000" });
        line(&format!("inputNormShift_CH{channel}"), "0x00");
        line(&format!("inputNormClip_CH{channel}"), if is_used { clip } else { "0x00000000" });
    }
    line("inputTensorNorm_YGain", "0x0020");
    line("inputTensorNorm_YAdd", lowest);
    line("outputTensorNum", &network.outputs.len().to_string());
    let outputs = network.outputs_by_ordinal();
    let mut each = |key: &str, value: &dyn Fn(&DnnTensor) -> u64| {
        for (idx, output) in outputs.iter().enumerate() {
            line(&format!("{key}{}", idx + 1), &value(output).to_string());
        }
    };
    each("outputTensorDimSize", &DnnTensor::n_stored);
    each("outputTensorPadding", &|_| 0);
    each("outputTensorBytesPerElement", &|output| u64::from(output.bits / 8));
    Ok(lines.iter().map(|(key, value)| format!("{key}={value}\r\n")).collect())
}

/// The colour order that a `network_info.txt` names.
pub(super) fn format_of(info: &str) -> Result<InputFormat, Refusal> {
    let key = "inputTensorFormat";
    let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    InputFormat::named(value.ok_or_else(|| Refusal::key(key, "RGB or BGR", "none"))?)
}

/// `imx500_regs`, seven bytes a register: image scaled by 1, shifted by -128 or 0, clipped to the input's range, and the
/// lines that input and output tensors take behind the image.
pub(super) fn registers(network: &Network, format: InputFormat) -> Result<Vec<u8>, Refusal> {
    input_size(network)?;
    let is_signed = network.inputs[0].signed;
    let (offset, clip, lowest, highest) =
        if is_signed { (0x1800, 0x7f_0180, 0x180, 0x7f) } else { (0, 0xff_0000, 0, 0xff) };
    let (straight, crossed) = if format == InputFormat::Rgb { (UNIT_GAIN, 0) } else { (0, UNIT_GAIN) };
    let matrix = [[straight, 0, crossed, offset], [0, UNIT_GAIN, 0, offset], [crossed, 0, straight, offset]];
    let mut registers = vec![];
    let mut write = |address: u16, width: u8, value: u32| {
        registers.extend_from_slice(&address.to_le_bytes());
        registers.push(width);
        registers.extend_from_slice(&value.to_le_bytes());
    };
    write(0xd750, 1, 2);
    for (value, address) in matrix.as_flattened().iter().zip((0xd76c..).step_by(2)) {
        write(address, 2, *value);
    }
    [0xd784, 0xd788, 0xd78c].iter().for_each(|address| write(*address, 4, clip));
    let mut channel = |base: u16, lowest: u32, highest: u32| {
        write(base, 2, lowest);
        write(base + 2, 1, 0);
        write(base + 4, 2, highest);
        write(base + 6, 2, lowest);
    };
    [0xd708, 0xd710, 0xd718].iter().for_each(|base| channel(*base, lowest, highest));
    [0xd7d8, 0xd7dc, 0xd7e0].iter().for_each(|address| write(*address, 4, clip));
    for (address, width, value) in [
        (0xd62a, 2, 0),
        (0xd629, 1, 0),
        (0xd632, 2, 0),
        (0xd630, 1, 0),
        (0xd63a, 2, 0),
        (0xd638, 1, 0),
        (0xd600, 1, 0x20),
    ] {
        write(address, width, value);
    }
    let mut channel =
        |base: u16| [(0, 2), (2, 1), (4, 2), (6, 2)].iter().for_each(|(at, width)| write(base + at, *width, 0));
    [0xd684, 0xd68c, 0xd694, 0xd69c].iter().for_each(|base| channel(*base));
    for (what, address, tensors) in [("inputs", 0x305e, &network.inputs), ("outputs", 0x3060, &network.outputs)] {
        let lines = 1 + tensors.iter().map(|tensor| tensor.n_bytes().div_ceil(LINE_BYTES)).sum::<u64>();
        let lines = u16::try_from(lines).map_err(|_| {
            Refusal::key(
                what,
                format!("tensors of at most 65534 lines of {LINE_BYTES} bytes"),
                format!("{lines} lines"),
            )
        })?;
        write(address, 2, u32::from(lines));
    }
    Ok(registers)
}

/// What every public file says: no device was named when the network was compiled.
pub(super) const NETWORK_ID: &str = "000000";
/// 1.0 with ten fractional bits.
const UNIT_GAIN: u32 = 0x400;
/// Bytes of a line of the sensor's output.
const LINE_BYTES: u64 = 2560;
