//! The `.s8m` file: an int8 model on disk. Layout: `docs/formats/int8-model.md`.

use std::path::{Path, PathBuf};

use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_graph::op::{Activation, ConvShape, Upsampling};

use crate::grid::{ActivationGrid, GridError, WeightThreshold};
use crate::model::{IntegerConv, IntegerModel, IntegerNode, IntegerOp, MAX_NODES, ModelError, check_shape};

/// A file that is no int8 model, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are not a model's.
    #[error("{path}: at byte {offset}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
        /// What the layout says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The bytes describe a model that cannot be run.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ModelError,
    },
}

/// Reads a model file.
///
/// # Errors
/// If the file cannot be read, is longer than 64 MiB, or any byte of it is not as the layout says.
pub fn read_model(path: &Path) -> Result<IntegerModel, ModelFileError> {
    from_bytes(path, &read_bounded(path, MAX_FILE)?)
}

/// Writes a model file, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_model(path: &Path, model: &IntegerModel) -> Result<(), FileError> {
    write_whole(path, &to_bytes(model))
}

/// The bytes of a model file.
pub fn to_bytes(model: &IntegerModel) -> Vec<u8> {
    let mut bytes = body(model);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The model in the bytes of a model file; `path` is for the message.
///
/// # Errors
/// If any byte is not as the layout says.
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<IntegerModel, ModelFileError> {
    let format =
        |(offset, expected, found): Refusal| ModelFileError::Format { path: path.into(), offset, expected, found };
    let (body, checksum) = bytes.split_last_chunk::<32>().ok_or_else(|| {
        format((0, "a magic number, a version and a checksum".into(), format!("{} bytes", bytes.len())))
    })?;
    let mut reader = Reader { bytes: body, offset: 0, version: 0 };
    reader.expect("the magic number", MAGIC).map_err(format)?;
    reader.read_version().map_err(format)?;
    if blake3::hash(body) != *checksum {
        let expected = "the checksum of the bytes before".into();
        return Err(format((body.len(), expected, "another: the file is damaged".into())));
    }
    let (name, nodes) = reader.model().map_err(format)?;
    let model = IntegerModel::new(name, nodes).map_err(|source| ModelFileError::Model { path: path.into(), source })?;
    match version(&model) {
        needed if needed == reader.version => Ok(model),
        needed => Err(format((MAGIC.len(), format!("version {needed} for these nodes"), reader.version.to_string()))),
    }
}

/// Everything before the checksum.
pub(crate) fn body(model: &IntegerModel) -> Vec<u8> {
    let mut out = [MAGIC.as_slice(), &version(model).to_le_bytes()].concat();
    let u32s = |out: &mut Vec<u8>, values: &[usize]| {
        values.iter().for_each(|&value| out.extend_from_slice(&(value as u32).to_le_bytes()));
    };
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    };
    text(&mut out, model.name());
    u32s(&mut out, &[model.nodes().len()]);
    for node in model.nodes() {
        text(&mut out, &node.name);
        out.extend([op_code(&node.op), node.inputs.len() as u8]);
        u32s(&mut out, &node.inputs);
        u32s(&mut out, &node.shape);
        out.extend([node.grid.bits(), u8::from(node.grid.signed()), node.grid.log2_threshold() as i8 as u8]);
        let Some(conv) = node.op.conv() else { continue };
        let ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups } = *conv.shape();
        u32s(&mut out, &[in_channels, out_channels, kernel, stride, padding, dilation, groups]);
        out.extend([activation_code(conv.activation()), conv.weight_bits()]);
        conv.thresholds()
            .iter()
            .for_each(|threshold| out.extend([threshold.mantissa(), threshold.exponent() as i8 as u8]));
        conv.bias().iter().for_each(|bias| out.extend_from_slice(&bias.to_le_bytes()));
        out.extend(conv.weights().iter().map(|&weight| weight as u8));
    }
    out
}

/// Offset, expected, found.
type Refusal = (usize, String, String);

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    version: u32,
}

impl<'a> Reader<'a> {
    fn read_version(&mut self) -> Result<(), Refusal> {
        let offset = self.offset;
        self.version = u32::from_le_bytes(self.array("the version")?);
        if !VERSIONS.contains(&self.version) {
            let (first, last) = (VERSIONS.start(), VERSIONS.end());
            return Err((offset, format!("version {first} or {last}"), self.version.to_string()));
        }
        Ok(())
    }

    fn model(&mut self) -> Result<(String, Vec<IntegerNode>), Refusal> {
        let name = self.text("the model's name")?;
        let n_nodes = self.u32("the number of nodes", MAX_NODES)?;
        let nodes = (0..n_nodes).map(|_| self.node()).collect::<Result<_, _>>()?;
        if self.offset != self.bytes.len() {
            let found = format!("{} bytes more", self.bytes.len() - self.offset);
            return Err((self.offset, "the checksum".into(), found));
        }
        Ok((name, nodes))
    }

    fn node(&mut self) -> Result<IntegerNode, Refusal> {
        let name = self.text("a node's name")?;
        let op_offset = self.offset;
        let [code, n_inputs] = self.array("operator and number of inputs")?;
        let inputs = (0..n_inputs).map(|_| self.u32("an input", MAX_NODES)).collect::<Result<_, _>>()?;
        let mut shape = [0; 3];
        for side in &mut shape {
            *side = self.u32("a side of the shape", u32::MAX as usize)?;
        }
        let grid_offset = self.offset;
        let [bits, signed, exponent] = self.array("a grid")?;
        let grid = ActivationGrid::new(bits, flag(grid_offset + 1, signed)?, i32::from(exponent as i8));
        let grid = grid.map_err(|error| off_grid(grid_offset, error))?;
        let op = match code {
            0 => IntegerOp::Input,
            1 => IntegerOp::Conv(self.conv(&name)?),
            2 => IntegerOp::Upsample2x(Upsampling::Nearest),
            3 => IntegerOp::Add,
            4 => IntegerOp::GlobalAveragePool,
            5 => IntegerOp::Sigmoid,
            6 => IntegerOp::ScaleChannels,
            7 => IntegerOp::Upsample2x(Upsampling::Bilinear),
            _ => return Err((op_offset, "an operator, 0 to 7".into(), code.to_string())),
        };
        Ok(IntegerNode { name, op, inputs, shape, grid })
    }

    fn conv(&mut self, node: &str) -> Result<IntegerConv, Refusal> {
        let start = self.offset;
        let mut next = || self.u32("a convolution's geometry", u32::MAX as usize);
        let (in_channels, out_channels, kernel) = (next()?, next()?, next()?);
        let (stride, padding, dilation, groups) = (next()?, next()?, next()?, next()?);
        let shape = ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups };
        let refused = |error: ModelError| (start, "a convolution".to_string(), error.to_string());
        check_shape(&shape, node).map_err(refused)?;
        let activation_offset = self.offset;
        let [activation, weight_bits] = self.array("activation and bits of the weights")?;
        let thresholds_offset = self.offset;
        let thresholds = self.take("thresholds", 2 * out_channels)?.as_chunks::<2>().0.iter();
        let thresholds =
            thresholds.map(|&[mantissa, exponent]| WeightThreshold::new(mantissa, i32::from(exponent as i8)));
        let thresholds = thresholds.collect::<Result<_, _>>().map_err(|error| off_grid(thresholds_offset, error))?;
        let bias = self.take("biases", 4 * out_channels)?.as_chunks::<4>().0.iter();
        let bias = bias.map(|bytes| i32::from_le_bytes(*bytes)).collect();
        let weights = self.take("weights", shape.n_weights())?.iter().map(|&byte| byte as i8).collect();
        let activation = match activation {
            0 => Activation::None,
            1 => Activation::Relu,
            2 => Activation::Relu6,
            _ => return Err((activation_offset, "an activation, 0 to 2".into(), activation.to_string())),
        };
        IntegerConv::from_integers(node, shape, activation, weights, bias, thresholds, weight_bits).map_err(refused)
    }

    fn take(&mut self, what: &str, len: usize) -> Result<&'a [u8], Refusal> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..len) else {
            return Err((self.offset, format!("{len} bytes of {what}"), format!("{} before the checksum", rest.len())));
        };
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str, max: usize) -> Result<usize, Refusal> {
        let offset = self.offset;
        let value = u32::from_le_bytes(self.array(what)?) as usize;
        if value > max {
            return Err((offset, format!("{what}, at most {max}"), value.to_string()));
        }
        Ok(value)
    }

    fn text(&mut self, what: &str) -> Result<String, Refusal> {
        let offset = self.offset;
        let [len] = self.array(what)?;
        let bytes = self.take(what, usize::from(len))?;
        let text = std::str::from_utf8(bytes).map_err(|error| (offset, what.to_string(), error.to_string()))?;
        Ok(text.to_string())
    }

    fn expect(&mut self, what: &str, expected: &[u8]) -> Result<(), Refusal> {
        let offset = self.offset;
        let found = self.take(what, expected.len())?;
        if found != expected {
            return Err((offset, format!("{what}, {expected:02x?}"), format!("{found:02x?}")));
        }
        Ok(())
    }
}

fn flag(offset: usize, byte: u8) -> Result<bool, Refusal> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err((offset, "0 or 1".into(), byte.to_string())),
    }
}

fn off_grid(offset: usize, error: GridError) -> Refusal {
    (offset, "a number of the chip's grid".into(), error.to_string())
}

fn op_code(op: &IntegerOp) -> u8 {
    match op {
        IntegerOp::Input => 0,
        IntegerOp::Conv(_) => 1,
        IntegerOp::Upsample2x(Upsampling::Nearest) => 2,
        IntegerOp::Add => 3,
        IntegerOp::GlobalAveragePool => 4,
        IntegerOp::Sigmoid => 5,
        IntegerOp::ScaleChannels => 6,
        IntegerOp::Upsample2x(Upsampling::Bilinear) => 7,
    }
}

const MAGIC: &[u8; 8] = b"SENSEI8\n";
/// The lowest that has all that a model needs, so that a model has one file and readers of version 1 read what they can.
fn version(model: &IntegerModel) -> u32 {
    let convs = model.nodes().iter().filter_map(|node| node.op.conv());
    let needed = convs.map(|conv| match conv.activation() {
        Activation::None | Activation::Relu => 1,
        Activation::Relu6 => 2,
    });
    needed.max().unwrap_or(1)
}

fn activation_code(activation: Activation) -> u8 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
    }
}

/// Version 2 has ReLU6.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// Eight times the chip's memory.
const MAX_FILE: u64 = 64 << 20;
