//! The numbers in any ONNX file, dialect or not: which node uses which of them.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use sensei_files::bounded::read_bounded;

use super::error::OnnxError;
use super::parts::check_number_of_messages;
use sensei_onnx::proto::{FLOAT, Model, Tensor};

/// A constant of 32-bit floats where a node uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantUse {
    /// The node's name; exporters of PyTorch put the module's path into it.
    pub node: String,
    /// Its operator, such as `MatMul`.
    pub op: String,
    /// Which of its inputs.
    pub input_idx: usize,
    /// The constant's own name.
    pub name: String,
    /// Whether it is an initializer of the graph, and not the output of a `Constant` node.
    pub is_initializer: bool,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// The constants of 32-bit floats of an ONNX file, by the nodes that use them, in the order of the graph. Those of other types are left out.
///
/// # Errors
/// If the file cannot be read, is longer than [`MAX_BYTES`], is no ONNX file, or such a constant has not the size of its shape or lies in
/// another file.
pub fn read_constants(path: &Path) -> Result<Vec<ConstantUse>, OnnxError> {
    let bytes = read_bounded(path, MAX_BYTES)?;
    let protobuf = |reason: String| OnnxError::Protobuf { path: path.into(), reason };
    check_number_of_messages(&bytes).map_err(protobuf)?;
    let model = Model::decode(bytes.as_slice()).map_err(|error| protobuf(error.to_string()))?;
    drop(bytes);
    let graph = model.graph.ok_or_else(|| protobuf("no graph".into()))?;
    let mut constants: BTreeMap<&str, (&Tensor, bool)> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_deref().unwrap_or_default(), (tensor, true))).collect();
    for node in graph.node.iter().filter(|node| node.op_type.as_deref() == Some("Constant")) {
        if let (Some(name), Some(tensor)) = (node.output.first(), node.attribute.iter().find_map(|a| a.t.as_ref())) {
            constants.insert(name, (tensor, false));
        }
    }
    let mut found = vec![];
    for node in &graph.node {
        for (input_idx, name) in node.input.iter().enumerate() {
            let Some(&(tensor, is_initializer)) = constants.get(name.as_str()) else { continue };
            if tensor.data_type != Some(FLOAT) {
                continue;
            }
            let (shape, values) = floats(tensor).map_err(|found| OnnxError::Dialect {
                path: path.into(),
                node: node.name.clone().unwrap_or_default(),
                what: "constant",
                expected: "raw 32-bit floats, as many as its shape says".into(),
                found: format!("{name} with {found}"),
            })?;
            let (node, op) = (node.name.clone().unwrap_or_default(), node.op_type.clone().unwrap_or_default());
            found.push(ConstantUse { node, op, input_idx, name: name.clone(), is_initializer, shape, values });
        }
    }
    Ok(found)
}

/// Shape and values, or what the tensor has instead.
fn floats(tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>), String> {
    let raw = tensor.raw_data.as_deref().ok_or("no raw data")?;
    let shape: Vec<usize> = tensor.dims.iter().map(|&size| usize::try_from(size).unwrap_or(usize::MAX)).collect();
    let n =
        shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).filter(|n| n.checked_mul(4) == Some(raw.len()));
    n.ok_or_else(|| format!("{} bytes", raw.len()))?;
    Ok((shape, raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

/// Longest file that is read: 256 MiB.
pub const MAX_BYTES: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use sensei_files::whole::write_whole;

    use super::*;
    use sensei_onnx::proto::{Attribute, Graph, Node};

    fn tensor(name: &str, dims: Vec<i64>, values: &[f32]) -> Tensor {
        let raw_data = Some(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        Tensor { dims, data_type: Some(FLOAT), name: Some(name.into()), raw_data }
    }

    fn node(op: &str, name: &str, input: &[&str], output: &str) -> Node {
        let input = input.iter().map(|name| name.to_string()).collect();
        let (name, op_type) = (Some(name.into()), Some(op.into()));
        Node { input, output: vec![output.into()], name, op_type, ..Node::default() }
    }

    fn written(graph: Graph) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let model = Model { graph: Some(graph), ..Model::default() };
        write_whole(file.path(), &model.encode_to_vec()).expect("a temporary file");
        file
    }

    #[test]
    fn constants_are_found_where_they_are_used() {
        let mut constant = node("Constant", "c", &[], "half");
        constant.attribute = vec![Attribute { t: Some(tensor("", vec![], &[0.5])), ..Attribute::default() }];
        let nodes = vec![
            node("MatMul", "/layer/MatMul", &["x", "w"], "y"),
            constant,
            node("Mul", "/scale/Mul", &["y", "half"], "z"),
        ];
        let initializer = vec![tensor("w", vec![2, 1], &[1.0, 2.0])];
        let file = written(Graph { node: nodes, initializer, ..Graph::default() });
        let found = read_constants(file.path()).expect("a file");
        let at = |idx: usize| {
            let found: &ConstantUse = &found[idx];
            (
                found.node.as_str(),
                found.input_idx,
                found.is_initializer,
                found.shape.as_slice(),
                found.values.as_slice(),
            )
        };
        assert_eq!(found.len(), 2);
        assert_eq!(at(0), ("/layer/MatMul", 1, true, [2, 1].as_slice(), [1.0, 2.0].as_slice()));
        assert_eq!(at(1), ("/scale/Mul", 1, false, [].as_slice(), [0.5].as_slice()));
    }

    #[test]
    fn a_constant_that_is_not_as_long_as_its_shape_is_refused() {
        for dims in [vec![3], vec![-1], vec![i64::MAX, i64::MAX]] {
            let nodes = vec![node("MatMul", "/layer/MatMul", &["x", "w"], "y")];
            let initializer = vec![tensor("w", dims, &[1.0, 2.0])];
            let file = written(Graph { node: nodes, initializer, ..Graph::default() });
            let error = read_constants(file.path()).expect_err("another size").to_string();
            assert!(error.contains("/layer/MatMul: constant: expected raw 32-bit floats"), "{error}");
            assert!(error.ends_with("found w with 8 bytes"), "{error}");
        }
    }
}
