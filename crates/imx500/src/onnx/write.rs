//! Writes a model in the converter's dialect.

use std::collections::BTreeMap;

use prost::Message;

use super::{BILINEAR_2X, NEAREST_2X, RELU6};
use sensei_graph::op::{Activation, Upsampling};
use sensei_int8::grid::ActivationGrid;
use sensei_int8::model::{IntegerConv, IntegerModel, IntegerNode, IntegerOp};
use sensei_onnx::proto::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_STRING, ATTRIBUTE_TENSOR, Attribute, Dimension, FLOAT,
    Graph, Model, Node, Opset, Property, QUANTIZERS, Shape, Tensor, TensorType, ValueInfo, ValueType,
};

/// The bytes of an ONNX file of the model.
///
/// `metadata` (digests, tool versions) becomes its metadata properties, beside `sensei.int8_model`, the digest of
/// `model`. The same arguments give the same bytes.
pub fn write_onnx(model: &IntegerModel, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut writer = Writer::default();
    let mut values: Vec<String> = vec![];
    for (idx, node) in model.nodes().iter().enumerate() {
        let is_output = idx + 1 == model.nodes().len();
        values.push(writer.node(model, node, &values, is_output));
    }
    writer.graph.name = Some(model.name().into());
    writer.graph.input = vec![value_info(INPUT, &nchw(model.input().shape))];
    writer.graph.output = vec![value_info(OUTPUT, &nchw(model.output().shape))];
    let mut metadata = metadata.clone();
    metadata.insert("sensei.int8_model".into(), blake3::Hash::from_bytes(model.digest()).to_hex().to_string());
    let property = |(key, value)| Property { key: Some(key), value: Some(value) };
    let opset = |domain: &str, version| Opset { domain: Some(domain.into()), version: Some(version) };
    let model = Model {
        ir_version: Some(9),
        // The converter takes files of this producer only, so the true one stands in the metadata.
        producer_name: Some("pytorch".into()),
        producer_version: Some("2.6.0".into()),
        graph: Some(writer.graph),
        // The highest that converters from 3.14 on take.
        opset_import: vec![opset("", 17), opset(QUANTIZERS, 1)],
        metadata_props: metadata.into_iter().map(property).collect(),
    };
    model.encode_to_vec()
}

#[derive(Default)]
struct Writer {
    graph: Graph,
}

impl Writer {
    /// Adds the node and its quantizer; returns the name of the quantized value.
    fn node(&mut self, model: &IntegerModel, node: &IntegerNode, values: &[String], is_output: bool) -> String {
        let name = &node.name;
        let inputs: Vec<String> = node.inputs.iter().map(|&input| values[input].clone()).collect();
        let value = match &node.op {
            IntegerOp::Input => INPUT.to_string(),
            IntegerOp::Conv(conv) => self.conv(name, conv, &inputs[0], model.nodes()[node.inputs[0]].grid),
            IntegerOp::Upsample2x(Upsampling::Nearest) => self.resize(name, &inputs[0], &NEAREST_2X),
            IntegerOp::Upsample2x(Upsampling::Bilinear) => self.resize(name, &inputs[0], &BILINEAR_2X),
            IntegerOp::Add => self.push("Add", "", name, inputs, vec![]),
            IntegerOp::GlobalAveragePool => self.push("GlobalAveragePool", "", name, inputs, vec![]),
            IntegerOp::Sigmoid => self.push("Sigmoid", "", name, inputs, vec![]),
            IntegerOp::ScaleChannels => self.push("Mul", "", name, inputs, vec![]),
        };
        let attributes = vec![
            int("num_bits", i64::from(node.grid.bits())),
            int("signed", i64::from(node.grid.signed())),
            float("threshold", node.grid.threshold() as f32),
            text("mctq_version", MCTQ_VERSION),
        ];
        let quantized = if is_output { OUTPUT.to_string() } else { format!("{name}/quantized") };
        self.push_named(
            "ActivationPOTQuantizer",
            QUANTIZERS,
            &format!("{name}/quantizer"),
            vec![value],
            &quantized,
            attributes,
        );
        if !is_output {
            self.graph.value_info.push(value_info(&quantized, &nchw(node.shape)));
        }
        quantized
    }

    fn resize(&mut self, name: &str, input: &str, how: &[(&str, &str)]) -> String {
        let scales = self.constant(&format!("{name}/scales"), &[4], &[1.0, 1.0, 2.0, 2.0]);
        let attributes = how.iter().map(|(name, value)| text(name, value)).collect();
        self.push("Resize", "", name, vec![input.into(), String::new(), scales], attributes)
    }

    fn conv(&mut self, name: &str, conv: &IntegerConv, input: &str, input_grid: ActivationGrid) -> String {
        let shape = conv.shape();
        let square = |side: usize| vec![side as i64; 2];
        let dims = [shape.out_channels, shape.in_channels / shape.groups, shape.kernel, shape.kernel];
        let weight = self.initializer(format!("{name}.weight"), &dims, &conv.float_weights());
        let bias = self.initializer(format!("{name}.bias"), &dims[..1], &conv.float_bias(input_grid));
        let thresholds: Vec<f32> = conv.thresholds().iter().map(|threshold| threshold.value() as f32).collect();
        let thresholds = self.constant(&format!("{name}/thresholds"), &dims[..1], &thresholds);
        let attributes = vec![
            int("num_bits", i64::from(conv.weight_bits())),
            int("per_channel", 1),
            int("channel_axis", 0),
            int("signed", 1),
            text("mctq_version", MCTQ_VERSION),
        ];
        let quantizer = format!("{name}/weight_quantizer");
        let weight =
            self.push("WeightsSymmetricQuantizer", QUANTIZERS, &quantizer, vec![weight, thresholds], attributes);
        self.graph.value_info.push(value_info(&weight, &dims));
        let attributes = vec![
            ints("dilations", square(shape.dilation)),
            int("group", shape.groups as i64),
            ints("kernel_shape", square(shape.kernel)),
            ints("pads", [square(shape.padding), square(shape.padding)].concat()),
            ints("strides", square(shape.stride)),
        ];
        let value = self.push("Conv", "", name, vec![input.into(), weight, bias], attributes);
        match conv.activation() {
            Activation::None => value,
            Activation::Relu => self.push("Relu", "", &format!("{name}/relu"), vec![value], vec![]),
            Activation::Relu6 => {
                let [min, max] = RELU6;
                let min = self.constant(&format!("{name}/min"), &[], &[min]);
                let max = self.constant(&format!("{name}/max"), &[], &[max]);
                self.push("Clip", "", &format!("{name}/relu6"), vec![value, min, max], vec![])
            }
        }
    }

    fn constant(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let value = Attribute { t: Some(tensor(None, dims, values)), ..attribute("value", ATTRIBUTE_TENSOR) };
        self.push("Constant", "", name, vec![], vec![value])
    }

    fn initializer(&mut self, name: String, dims: &[usize], values: &[f32]) -> String {
        self.graph.initializer.push(tensor(Some(name.clone()), dims, values));
        name
    }

    fn push(&mut self, op: &str, domain: &str, name: &str, input: Vec<String>, attribute: Vec<Attribute>) -> String {
        let value = format!("{name}/output");
        self.push_named(op, domain, name, input, &value, attribute);
        value
    }

    fn push_named(
        &mut self,
        op: &str,
        domain: &str,
        name: &str,
        input: Vec<String>,
        output: &str,
        attribute: Vec<Attribute>,
    ) {
        self.graph.node.push(Node {
            input,
            output: vec![output.into()],
            name: Some(name.into()),
            op_type: Some(op.into()),
            attribute,
            domain: (!domain.is_empty()).then(|| domain.into()),
        });
    }
}

fn nchw(shape: [usize; 3]) -> [usize; 4] {
    [1, shape[0], shape[1], shape[2]]
}

fn value_info(name: &str, dims: &[usize]) -> ValueInfo {
    let dim = dims.iter().map(|&side| Dimension { value: Some(side as i64), symbol: None }).collect();
    let tensor = TensorType { elem_type: Some(FLOAT), shape: Some(Shape { dim }) };
    ValueInfo { name: Some(name.into()), kind: Some(ValueType { tensor: Some(tensor) }) }
}

fn tensor(name: Option<String>, dims: &[usize], values: &[f32]) -> Tensor {
    let dims = dims.iter().map(|&side| side as i64).collect();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { dims, data_type: Some(FLOAT), name, raw_data: Some(bytes) }
}

fn attribute(name: &str, kind: i32) -> Attribute {
    Attribute { name: Some(name.into()), kind: Some(kind), ..Attribute::default() }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { i: Some(value), ..attribute(name, ATTRIBUTE_INT) }
}

fn ints(name: &str, values: Vec<i64>) -> Attribute {
    Attribute { ints: values, ..attribute(name, ATTRIBUTE_INTS) }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { f: Some(value), ..attribute(name, ATTRIBUTE_FLOAT) }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { s: Some(value.into()), ..attribute(name, ATTRIBUTE_STRING) }
}

const INPUT: &str = "input";
const OUTPUT: &str = "output";
/// The converter wants the attribute and takes any text; this is the version that the golden files were made with.
const MCTQ_VERSION: &str = "1.7.0";
