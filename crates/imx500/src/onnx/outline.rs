//! What any ONNX file is made of, dialect or not.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use sensei_files::bounded::read_bounded;
use sensei_onnx::proto::{FLOAT, Graph, INT8, INT32, INT64, Model, Property, QUANTIZERS, Tensor, UINT8, ValueInfo};

use super::constants::MAX_BYTES;
use super::error::OnnxError;
use super::parts::check_number_of_messages;

/// Operators, ends and constants of an ONNX file.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Program and version that it says wrote it.
    pub producer: String,
    /// The graph's name.
    pub name: String,
    /// Versions of operators by domain; ONNX's own is the empty one.
    pub opsets: BTreeMap<String, i64>,
    /// Its metadata properties.
    pub metadata: BTreeMap<String, String>,
    /// Name, type and shape of each input.
    pub inputs: Vec<String>,
    /// Name, type and shape of each output.
    pub outputs: Vec<String>,
    /// How often each operator is there; those of other domains than ONNX's with their domain.
    pub operators: BTreeMap<String, usize>,
    /// Number of constants and of their values, by type.
    pub constants: BTreeMap<String, (usize, u64)>,
    /// What `QuantizeLinear` rounds to, in the order of the graph.
    pub rounded: Vec<RoundedTensor>,
}

/// A tensor that is rounded to 8-bit integers.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundedTensor {
    /// Its name.
    pub name: String,
    /// The type of its integers.
    pub element: String,
    /// The value of an integer is `(integer - zero_point) * step`.
    pub step: f32,
    /// The integer of 0.
    pub zero_point: i32,
}

impl Outline {
    /// Whether it is written in the dialect of the chip's converter, which [`super::read_onnx`] reads.
    pub fn is_dialect(&self) -> bool {
        self.opsets.contains_key(QUANTIZERS)
    }
}

/// The outline of an ONNX file.
///
/// # Errors
/// If the file cannot be read, is longer than [`MAX_BYTES`], is no ONNX file, or rounds a tensor to a grid that is no constant.
pub fn read_outline(path: &Path) -> Result<Outline, OnnxError> {
    outline_from_bytes(path, &read_bounded(path, MAX_BYTES)?)
}

/// The outline in the bytes of an ONNX file; `path` is for the message.
///
/// # Errors
/// As [`read_outline`].
pub fn outline_from_bytes(path: &Path, bytes: &[u8]) -> Result<Outline, OnnxError> {
    let protobuf = |reason: String| OnnxError::Protobuf { path: path.into(), reason };
    check_number_of_messages(bytes).map_err(protobuf)?;
    let model = Model::decode(bytes).map_err(|error| protobuf(error.to_string()))?;
    let graph = model.graph.ok_or_else(|| protobuf("no graph".into()))?;
    let property = |property: Property| (property.key.unwrap_or_default(), property.value.unwrap_or_default());
    let mut operators = BTreeMap::new();
    for node in &graph.node {
        let domain = node.domain.as_deref().filter(|domain| !domain.is_empty());
        let op = node.op_type.as_deref().unwrap_or_default();
        let name = domain.map_or_else(|| op.to_string(), |domain| format!("{domain}::{op}"));
        *operators.entry(name).or_insert(0) += 1;
    }
    let mut constants: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let of_nodes = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    for tensor in graph.initializer.iter().chain(of_nodes) {
        let entry = constants.entry(type_name(tensor.data_type)).or_default();
        entry.0 += 1;
        entry.1 = entry.1.saturating_add(n_values(tensor));
    }
    Ok(Outline {
        producer: format!("{} {}", model.producer_name.unwrap_or_default(), model.producer_version.unwrap_or_default()),
        name: graph.name.clone().unwrap_or_default(),
        opsets: model
            .opset_import
            .into_iter()
            .map(|opset| (opset.domain.unwrap_or_default(), opset.version.unwrap_or_default()))
            .collect(),
        metadata: model.metadata_props.into_iter().map(property).collect(),
        inputs: graph.input.iter().map(in_words).collect(),
        outputs: graph.output.iter().map(in_words).collect(),
        operators,
        constants,
        rounded: rounded(path, &graph)?,
    })
}

fn rounded(path: &Path, graph: &Graph) -> Result<Vec<RoundedTensor>, OnnxError> {
    let constants: BTreeMap<&str, &Tensor> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_deref().unwrap_or_default(), tensor)).collect();
    let of_op = graph.node.iter().filter(|node| node.op_type.as_deref() == Some("QuantizeLinear"));
    let each = of_op.map(|node| {
        let name = node.output.first().cloned().unwrap_or_default();
        let constant = |input: usize| constants.get(node.input.get(input)?.as_str()).copied();
        let grid = constant(1).and_then(step).zip(constant(2).and_then(zero_point));
        let grid = grid.ok_or_else(|| OnnxError::Dialect {
            path: path.into(),
            node: name.clone(),
            what: "grid",
            expected: "one constant step and zero point of 8 bits".into(),
            found: format!("{:?}", node.input.get(1..).unwrap_or_default()),
        })?;
        let (step, (zero_point, element)) = grid;
        Ok(RoundedTensor { name, element, step, zero_point })
    });
    each.collect()
}

fn step(tensor: &Tensor) -> Option<f32> {
    let bytes = <[u8; 4]>::try_from(tensor.raw_data.as_deref()?).ok()?;
    (tensor.data_type == Some(FLOAT)).then(|| f32::from_le_bytes(bytes))
}

fn zero_point(tensor: &Tensor) -> Option<(i32, String)> {
    let [byte] = *tensor.raw_data.as_deref()? else { return None };
    let value = match tensor.data_type? {
        UINT8 => i32::from(byte),
        INT8 => i32::from(byte.cast_signed()),
        _ => return None,
    };
    Some((value, type_name(tensor.data_type)))
}

fn n_values(tensor: &Tensor) -> u64 {
    tensor.dims.iter().fold(1, |n: u64, &side| n.saturating_mul(u64::try_from(side).unwrap_or_default()))
}

/// What ONNX calls a type.
fn type_name(data_type: Option<i32>) -> String {
    match data_type {
        Some(FLOAT) => "float32".into(),
        Some(UINT8) => "uint8".into(),
        Some(INT8) => "int8".into(),
        Some(INT32) => "int32".into(),
        Some(INT64) => "int64".into(),
        Some(other) => format!("type {other}"),
        None => "no type".into(),
    }
}

/// `image float32 [1, 3, 96, 96]`.
fn in_words(value: &ValueInfo) -> String {
    let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
    let sides = dims.iter().map(|dim| match (&dim.value, &dim.symbol) {
        (Some(side), _) => side.to_string(),
        (None, Some(symbol)) => symbol.clone(),
        (None, None) => "?".into(),
    });
    let sides: Vec<String> = sides.collect();
    let name = value.name.as_deref().unwrap_or_default();
    format!("{name} {} [{}]", type_name(tensor.and_then(|tensor| tensor.elem_type)), sides.join(", "))
}
