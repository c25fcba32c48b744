//! A graph, node by node.

use std::collections::BTreeMap;

use prost::Message;

use crate::proto::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_STRING, Attribute, Dimension, FLOAT, Graph, INT8, INT32,
    INT64, Model, Node, Opset, Property, Shape, Tensor, TensorType, UINT8, ValueInfo, ValueType,
};

/// A dense tensor: shape and values, last dimension fastest.
pub type Values = (Vec<usize>, Vec<f32>);

/// Tensors by name.
pub type NamedValues = BTreeMap<String, Values>;

/// A tensor that a file has not, or has of another shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxTensorError {
    /// It is missing.
    #[error("{name}: expected a tensor, found none")]
    Missing {
        /// Its name.
        name: String,
    },
    /// It has another shape.
    #[error("{name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Its name.
        name: String,
        /// As the graph needs it.
        expected: Vec<usize>,
        /// As it is.
        found: Vec<usize>,
    },
}

/// Length of a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Always the same.
    Fixed(usize),
    /// Any, under this name.
    Named(&'static str),
}

/// What the input and the output of a network are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Of the image.
    pub input: &'static str,
    /// Of what the last operator makes.
    pub output: &'static str,
}

/// Integers of a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integers<'a> {
    /// 8 bits without sign.
    U8(&'a [u8]),
    /// 8 bits with sign.
    I8(&'a [i8]),
    /// 32 bits with sign.
    I32(&'a [i32]),
}

/// Builds a graph of opset 17; each method that adds a node returns the name of its value.
#[derive(Default)]
pub struct GraphBuilder {
    graph: Graph,
    n_values: usize,
}

impl GraphBuilder {
    /// Adds an input of floats.
    pub fn input(&mut self, name: &str, shape: &[Length]) -> String {
        self.graph.input.push(value_info(name, shape));
        name.to_string()
    }

    /// Names a value of floats as output.
    pub fn output(&mut self, name: &str, value: &str, shape: &[Length]) {
        self.push("Identity", &[value], vec![], name);
        self.graph.output.push(value_info(name, shape));
    }

    /// Adds a node without attributes.
    pub fn node(&mut self, op: &str, inputs: &[&str]) -> String {
        self.node_with(op, inputs, vec![])
    }

    /// Adds a node; an input without a name is left out.
    pub fn node_with(&mut self, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let name = self.fresh(op);
        self.push(op, inputs, attributes, &name);
        name
    }

    /// Adds a node whose value has this name; an input without a name is left out.
    pub fn named(&mut self, name: &str, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.push(op, inputs, attributes, name);
        name.to_string()
    }

    /// A constant of integers under this name.
    ///
    /// # Panics
    /// If there are not as many values as the shape has places.
    pub fn named_integers(&mut self, name: String, shape: &[usize], values: Integers<'_>) -> String {
        let (n_values, data_type, raw_data) = match values {
            Integers::U8(values) => (values.len(), UINT8, values.to_vec()),
            Integers::I8(values) => (values.len(), INT8, values.iter().map(|value| value.cast_unsigned()).collect()),
            Integers::I32(values) => {
                (values.len(), INT32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
        };
        assert_eq!(n_values, shape.iter().product::<usize>(), "{name}: values and places of their shape");
        self.named_constant(name, shape, data_type, raw_data)
    }

    /// A constant of floats under this name.
    ///
    /// # Panics
    /// If there are not as many values as the shape has places.
    pub fn named_floats(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}: values and places of their shape");
        self.named_constant(name, shape, FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A constant of floats.
    ///
    /// # Panics
    /// If there are not as many values as the shape has places.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "floats: values and places of their shape");
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(shape, FLOAT, raw_data)
    }

    /// A constant of one float.
    pub fn float(&mut self, value: f32) -> String {
        self.floats(&[1], &[value])
    }

    /// A constant list of whole numbers.
    pub fn whole_numbers(&mut self, values: &[i64]) -> String {
        self.constant(&[values.len()], INT64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A tensor of a file, of this shape, as a constant.
    ///
    /// # Errors
    /// If there is none, or it has another shape.
    pub fn tensor(&mut self, tensors: &NamedValues, name: &str, shape: &[usize]) -> Result<String, OnnxTensorError> {
        let (found, values) = tensors.get(name).ok_or_else(|| OnnxTensorError::Missing { name: name.to_string() })?;
        if found != shape {
            let (name, expected, found) = (name.to_string(), shape.to_vec(), found.clone());
            return Err(OnnxTensorError::Shape { name, expected, found });
        }
        Ok(self.floats(shape, values))
    }

    /// A value in another shape; 0 keeps a dimension, -1 is what is left.
    pub fn reshape(&mut self, value: &str, shape: &[i64]) -> String {
        let shape = self.whole_numbers(shape);
        self.node("Reshape", &[value, &shape])
    }

    /// A value with its dimensions in another order.
    pub fn transpose(&mut self, value: &str, order: &[i64]) -> String {
        self.node_with("Transpose", &[value], vec![ints("perm", order)])
    }

    /// Values one after the other along a dimension.
    pub fn concat(&mut self, values: &[&str], axis: i64) -> String {
        self.node_with("Concat", values, vec![int("axis", axis)])
    }

    /// The file's bytes. The same graph gives the same bytes.
    pub fn finish(mut self, name: &str, metadata: &BTreeMap<String, String>) -> Vec<u8> {
        self.graph.name = Some(name.into());
        let property =
            |(key, value): (&String, &String)| Property { key: Some(key.clone()), value: Some(value.clone()) };
        let model = Model {
            ir_version: Some(8),
            producer_name: Some("sensei".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            graph: Some(self.graph),
            opset_import: vec![Opset { domain: Some(String::new()), version: Some(17) }],
            metadata_props: metadata.iter().map(property).collect(),
        };
        model.encode_to_vec()
    }

    fn constant(&mut self, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let name = self.fresh("constant");
        self.named_constant(name, shape, data_type, raw_data)
    }

    fn named_constant(&mut self, name: String, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        self.graph.initializer.push(Tensor {
            dims: shape.iter().map(|&len| len as i64).collect(),
            data_type: Some(data_type),
            name: Some(name.clone()),
            raw_data: Some(raw_data),
        });
        name
    }

    fn push(&mut self, op: &str, inputs: &[&str], attributes: Vec<Attribute>, output: &str) {
        self.graph.node.push(Node {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            name: Some(format!("{output}/{op}")),
            op_type: Some(op.into()),
            attribute: attributes,
            domain: None,
        });
    }

    fn fresh(&mut self, what: &str) -> String {
        self.n_values += 1;
        format!("{}_{}", what.to_lowercase(), self.n_values)
    }
}

/// A whole number of a node.
pub fn int(name: &str, value: i64) -> Attribute {
    Attribute { i: Some(value), ..attribute(name, ATTRIBUTE_INT) }
}

/// Several whole numbers of a node.
pub fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { ints: values.to_vec(), ..attribute(name, ATTRIBUTE_INTS) }
}

/// A number of a node.
pub fn float(name: &str, value: f32) -> Attribute {
    Attribute { f: Some(value), ..attribute(name, ATTRIBUTE_FLOAT) }
}

/// A word of a node.
pub fn text(name: &str, value: &str) -> Attribute {
    Attribute { s: Some(value.as_bytes().to_vec()), ..attribute(name, ATTRIBUTE_STRING) }
}

fn attribute(name: &str, kind: i32) -> Attribute {
    Attribute { name: Some(name.into()), kind: Some(kind), ..Attribute::default() }
}

fn value_info(name: &str, shape: &[Length]) -> ValueInfo {
    let dimension = |length: &Length| match *length {
        Length::Fixed(length) => Dimension { value: Some(length as i64), symbol: None },
        Length::Named(name) => Dimension { value: None, symbol: Some(name.into()) },
    };
    let shape = Shape { dim: shape.iter().map(dimension).collect() };
    let tensor = TensorType { elem_type: Some(FLOAT), shape: Some(shape) };
    ValueInfo { name: Some(name.into()), kind: Some(ValueType { tensor: Some(tensor) }) }
}
