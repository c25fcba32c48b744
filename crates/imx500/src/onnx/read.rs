//! Reads the converter's dialect back into a model: what [`super::write_onnx`] and other hands wrote, and nothing wider.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use sensei_files::bounded::read_bounded;

use super::error::OnnxError;
use super::parts::check_number_of_messages;
use super::{BILINEAR_2X, NEAREST_2X, RELU6};
use sensei_graph::op::{Activation, ConvShape, Upsampling};
use sensei_int8::grid::{ActivationGrid, GridError, WeightThreshold};
use sensei_int8::model::{Clipped, FloatConv, IntegerConv, IntegerModel, IntegerNode, IntegerOp, check_shape};
use sensei_onnx::proto::{Attribute, FLOAT, Graph, Model, Node, QUANTIZERS, Tensor, ValueInfo};

/// An ONNX file of the dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxFile {
    /// Its integers, under the name of its graph, characters that a model's name cannot have replaced by `_`.
    pub model: IntegerModel,
    /// Its metadata properties.
    pub metadata: BTreeMap<String, String>,
    /// Program and version that it says wrote it.
    pub producer: String,
    /// Weights that its quantizers cut off.
    pub clipped: Clipped,
}

/// Reads an ONNX file of the dialect.
///
/// # Errors
/// If the file cannot be read, is longer than 32 MiB, is not of the dialect, or has thresholds off the chip's grid.
pub fn read_onnx(path: &Path) -> Result<OnnxFile, OnnxError> {
    let bytes = read_bounded(path, 32 << 20)?;
    from_bytes(path, &bytes)
}

/// The model in the bytes of an ONNX file; `path` is for the message.
///
/// # Errors
/// As [`read_onnx`].
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<OnnxFile, OnnxError> {
    let protobuf = |reason: String| OnnxError::Protobuf { path: path.into(), reason };
    check_number_of_messages(bytes).map_err(protobuf)?;
    let model = Model::decode(bytes).map_err(|error| protobuf(error.to_string()))?;
    let graph = model.graph.ok_or_else(|| protobuf("no graph".into()))?;
    let mut reader = Reader { path, nodes: vec![], values: BTreeMap::new(), clipped: Clipped::default() };
    reader.graph(&graph)?;
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = graph.name.as_deref().unwrap_or_default().chars().map(clean).take(64).collect();
    let name = if name.is_empty() { "network".into() } else { name };
    let to_model = |source| OnnxError::Model { path: path.into(), source };
    let property =
        |property: sensei_onnx::proto::Property| (property.key.unwrap_or_default(), property.value.unwrap_or_default());
    Ok(OnnxFile {
        model: IntegerModel::new(name, reader.nodes).map_err(to_model)?,
        metadata: model.metadata_props.into_iter().map(property).collect(),
        producer: format!("{} {}", model.producer_name.unwrap_or_default(), model.producer_version.unwrap_or_default()),
        clipped: reader.clipped,
    })
}

/// What an ONNX value is to the reader.
#[derive(Clone)]
enum Value<'a> {
    GraphInput([usize; 3]),
    Floats(&'a Tensor),
    Weights {
        weights: &'a Tensor,
        thresholds: Vec<WeightThreshold>,
        bits: u8,
    },
    /// An operator whose output is not quantized yet.
    Pending {
        name: String,
        op: IntegerOp,
        inputs: Vec<usize>,
        shape: [usize; 3],
    },
    /// A stored tensor: the index of its node.
    Stored(usize),
}

struct Reader<'a> {
    path: &'a Path,
    nodes: Vec<IntegerNode>,
    values: BTreeMap<String, Value<'a>>,
    clipped: Clipped,
}

impl<'a> Reader<'a> {
    fn graph(&mut self, graph: &'a Graph) -> Result<(), OnnxError> {
        for tensor in &graph.initializer {
            self.define("graph", tensor.name.clone().unwrap_or_default(), Value::Floats(tensor))?;
        }
        let [input] = graph.input.as_slice() else {
            return Err(self.dialect("graph", "inputs", "1", graph.input.len()));
        };
        let shape = self.image_shape(input)?;
        self.define("graph", input.name.clone().unwrap_or_default(), Value::GraphInput(shape))?;
        for node in &graph.node {
            let name = &node.name.as_deref().unwrap_or_default().replace('/', ".");
            let [output] = node.output.as_slice() else {
                return Err(self.dialect(name, "outputs", "1", node.output.len()));
            };
            let value = self.node(name, node)?;
            self.define(name, output.clone(), value)?;
        }
        let [output] = graph.output.as_slice() else {
            return Err(self.dialect("graph", "outputs", "1", graph.output.len()));
        };
        match self.values.get(output.name.as_deref().unwrap_or_default()) {
            Some(Value::Stored(idx)) if idx + 1 == self.nodes.len() => Ok(()),
            _ => Err(self.dialect("graph", "output", "what the last quantizer makes", format!("{:?}", output.name))),
        }
    }

    fn node(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let op_type = node.op_type.as_deref().unwrap_or_default();
        match (node.domain.as_deref().unwrap_or_default(), op_type) {
            ("", "Constant") => match node.attribute.as_slice() {
                [Attribute { t: Some(tensor), .. }] => Ok(Value::Floats(tensor)),
                _ => Err(self.dialect(name, "attributes", "a tensor", node.attribute.len())),
            },
            ("", "Conv") => self.conv(name, node),
            ("", "Relu") => self.activation(name, node, Activation::Relu),
            ("", "Clip") => self.clip(name, node),
            ("", "Resize") => self.resize(name, node),
            ("", "Add") => self.without_weights(name, node, IntegerOp::Add, |shape| shape),
            ("", "Mul") => self.without_weights(name, node, IntegerOp::ScaleChannels, |shape| shape),
            ("", "Sigmoid") => self.without_weights(name, node, IntegerOp::Sigmoid, |shape| shape),
            ("", "GlobalAveragePool") => {
                self.without_weights(name, node, IntegerOp::GlobalAveragePool, |[channels, ..]| [channels, 1, 1])
            }
            (QUANTIZERS, "WeightsSymmetricQuantizer" | "WeightsPOTQuantizer") => self.weight_quantizer(name, node),
            (QUANTIZERS, "ActivationPOTQuantizer") => self.activation_quantizer(name, node),
            (domain, op) => Err(self.dialect(name, "operator", "one of the dialect", format!("{domain}::{op}"))),
        }
    }

    fn conv(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let input_idx = self.stored(name, node, 0)?;
        let (weights, thresholds, bits) = match self.input(name, node, 1)? {
            Value::Weights { weights, thresholds, bits } => (weights, thresholds, bits),
            _ => return Err(self.dialect(name, "input 1", "quantized weights", &node.input[1])),
        };
        let input = &self.nodes[input_idx];
        let (input_shape, grid) = (input.shape, input.grid);
        let [out_channels, in_group, kernel, other_side] = weights.dims[..] else {
            return Err(self.dialect(name, "weight dimensions", "4", weights.dims.len()));
        };
        if kernel != other_side {
            return Err(self.dialect(name, "kernel", "a square", format!("{kernel} x {other_side}")));
        }
        let equal = |what, default: i64, n: usize| -> Result<usize, OnnxError> {
            let values = self.ints(node, what);
            let value = values.first().copied().unwrap_or(default);
            if (!values.is_empty() && values.len() != n) || values.iter().any(|&other| other != value) {
                return Err(self.dialect(name, what, format!("{n} equal numbers"), format!("{values:?}")));
            }
            self.side(name, what, value)
        };
        let shape = ConvShape {
            in_channels: input_shape[0],
            out_channels: self.side(name, "output channels", out_channels)?,
            kernel: self.side(name, "kernel", kernel)?,
            stride: equal("strides", 1, 2)?,
            padding: equal("pads", 0, 4)?,
            dilation: equal("dilations", 1, 2)?,
            groups: self.side(name, "group", self.int(node, "group").unwrap_or(1))?,
        };
        check_shape(&shape, name).map_err(|source| OnnxError::Model { path: self.path.into(), source })?;
        if in_group != (shape.in_channels / shape.groups) as i64 {
            let expected = format!("{} / {}", shape.in_channels, shape.groups);
            return Err(self.dialect(name, "channels per group", expected, in_group));
        }
        let extent = shape.dilation * (shape.kernel - 1) + 1;
        if input_shape[1].min(input_shape[2]) + 2 * shape.padding < extent {
            let found = format!("{} x {}", input_shape[1], input_shape[2]);
            return Err(self.dialect(name, "padded input", format!("at least {extent} pixels"), found));
        }
        let bias = match node.input.get(2) {
            None => vec![0.0; shape.out_channels],
            Some(_) => match self.input(name, node, 2)? {
                Value::Floats(tensor) => self.floats(name, tensor)?,
                _ => return Err(self.dialect(name, "input 2", "a float bias", &node.input[2])),
            },
        };
        let weights = self.floats(name, weights)?;
        let floats = FloatConv { weights: &weights, bias: &bias };
        let (conv, clipped) = IntegerConv::quantize(name, shape, Activation::None, floats, thresholds, bits, grid)
            .map_err(|source| OnnxError::Model { path: self.path.into(), source })?;
        self.clipped.weights += clipped.weights;
        let shape = [shape.out_channels, shape.output_size(input_shape[1]), shape.output_size(input_shape[2])];
        Ok(Value::Pending { name: name.into(), op: IntegerOp::Conv(conv), inputs: vec![input_idx], shape })
    }

    /// A `Clip` from 0 to 6, which is ReLU6; no other is of the dialect.
    fn clip(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let mut limits = vec![];
        for idx in 1..node.input.len() {
            match self.input(name, node, idx)? {
                Value::Floats(tensor) => limits.extend(self.floats(name, tensor)?),
                _ => return Err(self.dialect(name, "limit", "a constant", &node.input[idx])),
            }
        }
        if limits != RELU6 || node.input.len() != 3 {
            return Err(self.dialect(name, "limits", format!("{RELU6:?}"), format!("{limits:?}")));
        }
        self.activation(name, node, Activation::Relu6)
    }

    fn activation(&mut self, name: &str, node: &'a Node, end: Activation) -> Result<Value<'a>, OnnxError> {
        match self.input(name, node, 0)? {
            Value::Pending { name, op: IntegerOp::Conv(conv), inputs, shape }
                if conv.activation() == Activation::None =>
            {
                Ok(Value::Pending { name, op: IntegerOp::Conv(conv.with_activation(end)), inputs, shape })
            }
            _ => Err(self.dialect(name, "input", "a convolution without quantizer and activation", &node.input[0])),
        }
    }

    fn resize(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let scales = match (node.input.len(), self.input(name, node, 2)?) {
            (3, Value::Floats(tensor)) if node.input[1].is_empty() => self.floats(name, tensor)?,
            _ => return Err(self.dialect(name, "inputs", "a tensor, nothing, scales", format!("{:?}", node.input))),
        };
        let text = |what: &str| {
            let text = find(node, what).and_then(|attribute| attribute.s.as_deref()).unwrap_or_default();
            String::from_utf8_lossy(text)
        };
        let is = |how: &[(&str, &str)]| how.iter().all(|(what, expected)| text(what) == *expected);
        let op = match () {
            () if scales == [1.0, 1.0, 2.0, 2.0] && is(&NEAREST_2X) => IntegerOp::Upsample2x(Upsampling::Nearest),
            () if scales == [1.0, 1.0, 2.0, 2.0] && is(&BILINEAR_2X) => IntegerOp::Upsample2x(Upsampling::Bilinear),
            () => {
                let expected = "by two: asymmetric, nearest, floor; or half_pixel, linear";
                let found = NEAREST_2X.map(|(what, _)| text(what));
                return Err(self.dialect(name, "resize", expected, format!("scales {scales:?}, {found:?}")));
            }
        };
        let input = self.stored(name, node, 0)?;
        let [channels, height, width] = self.nodes[input].shape;
        let shape = [channels, 2 * height, 2 * width];
        Ok(Value::Pending { name: name.into(), op, inputs: vec![input], shape })
    }

    /// `shape` is the output's, from the first input's.
    fn without_weights(
        &mut self,
        name: &str,
        node: &'a Node,
        op: IntegerOp,
        shape: fn([usize; 3]) -> [usize; 3],
    ) -> Result<Value<'a>, OnnxError> {
        let n_inputs = op.n_inputs();
        if node.input.len() != n_inputs {
            return Err(self.dialect(name, "inputs", n_inputs, node.input.len()));
        }
        let inputs = (0..n_inputs).map(|idx| self.stored(name, node, idx)).collect::<Result<Vec<_>, _>>()?;
        let [channels, height, width] = self.nodes[inputs[0]].shape;
        Ok(Value::Pending { name: name.into(), op, inputs, shape: shape([channels, height, width]) })
    }

    fn weight_quantizer(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let (Value::Floats(weights), Value::Floats(thresholds)) =
            (self.input(name, node, 0)?, self.input(name, node, 1)?)
        else {
            return Err(self.dialect(name, "inputs", "weights and thresholds", format!("{:?}", node.input)));
        };
        for (what, expected) in [("channel_axis", 0), ("per_channel", 1), ("signed", 1)] {
            if self.int(node, what) != Some(expected) {
                return Err(self.dialect(name, what, expected, format!("{:?}", self.int(node, what))));
            }
        }
        let bits = self.int(node, "num_bits").unwrap_or_default();
        let Some(bits) = [8_u8, 4, 2].into_iter().find(|&known| i64::from(known) == bits) else {
            return Err(self.dialect(name, "num_bits", "8, 4 or 2", bits));
        };
        let exactly = |(channel, threshold): (usize, f32)| {
            let off_grid = |source| OnnxError::OffGrid { path: self.path.into(), node: name.into(), channel, source };
            WeightThreshold::exactly(f64::from(threshold)).map_err(off_grid)
        };
        let thresholds = self.floats(name, thresholds)?.into_iter().enumerate().map(exactly);
        Ok(Value::Weights { weights, thresholds: thresholds.collect::<Result<_, _>>()?, bits })
    }

    fn activation_quantizer(&mut self, name: &str, node: &'a Node) -> Result<Value<'a>, OnnxError> {
        let bits = self.int(node, "num_bits").unwrap_or_default();
        let threshold = f64::from(find(node, "threshold").and_then(|attribute| attribute.f).unwrap_or_default());
        let signed = match self.int(node, "signed") {
            Some(signed @ (0 | 1)) => signed == 1,
            found => return Err(self.dialect(name, "signed", "0 or 1", format!("{found:?}"))),
        };
        let off_grid = |source| OnnxError::OffGrid { path: self.path.into(), node: name.into(), channel: 0, source };
        let is_power = threshold.is_normal() && threshold > 0.0 && threshold.to_bits() << 12 == 0;
        if !is_power {
            return Err(off_grid(GridError::Threshold { expected: "a power of two", found: threshold }));
        }
        let exponent = (threshold.to_bits() >> 52) as i32 - 1023;
        let bits = u8::try_from(bits).map_err(|_| self.dialect(name, "num_bits", "8 or 16", bits))?;
        let grid = ActivationGrid::new(bits, signed, exponent).map_err(off_grid)?;
        let node = match self.input(name, node, 0)? {
            Value::GraphInput(shape) if self.nodes.is_empty() => {
                IntegerNode { name: "input".into(), op: IntegerOp::Input, inputs: vec![], shape, grid }
            }
            Value::Pending { name, op, inputs, shape } => IntegerNode { name, op, inputs, shape, grid },
            _ => return Err(self.dialect(name, "input", "the image or an operator's result", &node.input[0])),
        };
        self.nodes.push(node);
        Ok(Value::Stored(self.nodes.len() - 1))
    }

    fn define(&mut self, node: &str, name: String, value: Value<'a>) -> Result<(), OnnxError> {
        if name.is_empty() || self.values.contains_key(&name) {
            return Err(self.dialect(node, "value", "a new name", format!("{name:?}")));
        }
        self.values.insert(name, value);
        Ok(())
    }

    fn input(&self, name: &str, node: &Node, idx: usize) -> Result<Value<'a>, OnnxError> {
        let input = node.input.get(idx).map(String::as_str).unwrap_or_default();
        self.values.get(input).cloned().ok_or_else(|| {
            self.dialect(name, "input", format!("an earlier value as input {idx}"), format!("{input:?}"))
        })
    }

    fn stored(&self, name: &str, node: &Node, idx: usize) -> Result<usize, OnnxError> {
        match self.input(name, node, idx)? {
            Value::Stored(idx) => Ok(idx),
            _ => Err(self.dialect(name, "input", "a quantized value", &node.input[idx])),
        }
    }

    fn floats(&self, name: &str, tensor: &Tensor) -> Result<Vec<f32>, OnnxError> {
        let raw = tensor.raw_data.as_deref().unwrap_or_default();
        let count = tensor.dims.iter().try_fold(1_i64, |count, &side| count.checked_mul(side));
        if tensor.data_type != Some(FLOAT) || count.and_then(|count| count.checked_mul(4)) != Some(raw.len() as i64) {
            let found = format!("type {:?}, {:?}, {} bytes", tensor.data_type, tensor.dims, raw.len());
            return Err(self.dialect(name, "tensor", "raw 32-bit floats of its dimensions", found));
        }
        Ok(raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn image_shape(&self, input: &ValueInfo) -> Result<[usize; 3], OnnxError> {
        let tensor = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        let dims =
            tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
        let sides: Vec<i64> = dims.iter().map(|dim| dim.value.unwrap_or_default()).collect();
        match (sides.as_slice(), dims.first().and_then(|batch| batch.symbol.as_ref())) {
            ([1, c, h, w], None) | ([0, c, h, w], Some(_)) => Ok([
                self.side("graph", "input", *c)?,
                self.side("graph", "input", *h)?,
                self.side("graph", "input", *w)?,
            ]),
            _ => Err(self.dialect("graph", "input", "one image [1, channels, height, width]", format!("{sides:?}"))),
        }
    }

    fn side(&self, name: &str, what: &'static str, value: i64) -> Result<usize, OnnxError> {
        let expected = || self.dialect(name, what, "0 to 65535", value);
        u16::try_from(value).map(usize::from).map_err(|_| expected())
    }

    fn int(&self, node: &Node, what: &str) -> Option<i64> {
        find(node, what).and_then(|attribute| attribute.i)
    }

    fn ints<'n>(&self, node: &'n Node, what: &str) -> &'n [i64] {
        find(node, what).map(|attribute| attribute.ints.as_slice()).unwrap_or_default()
    }

    fn dialect(&self, node: &str, what: &'static str, expected: impl ToString, found: impl ToString) -> OnnxError {
        let (expected, found) = (expected.to_string(), found.to_string());
        OnnxError::Dialect { path: self.path.into(), node: node.into(), what, expected, found }
    }
}

fn find<'n>(node: &'n Node, what: &str) -> Option<&'n Attribute> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(what))
}
