//! `dnnParams.xml`: a compiled network's tensors and its share of the chip's memory. Layout:
//! `docs/formats/packer-out.md`.

use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

use roxmltree::{Document, Node, ParsingOptions};
use sensei_files::bounded::read_bounded;

use crate::refusal::{PackageError, Place, Refusal};

/// What the host and the sensor know of a compiled network.
#[derive(Debug, Clone, PartialEq)]
pub struct DnnParams {
    /// The networks, by ordinal.
    pub networks: Vec<Network>,
    /// The chip's memory.
    pub memory: MemoryMap,
}

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its name: the stem of the converted file.
    pub name: String,
    /// Empty in every file seen.
    pub kind: String,
    /// Inputs, in the order in which the converter lists them; each ordinal below their number occurs once.
    pub inputs: Vec<DnnTensor>,
    /// Outputs, in the order in which the converter lists them: any. Each ordinal below their number occurs once.
    pub outputs: Vec<DnnTensor>,
}

/// An input or output. A value is `(integer - shift) * scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct DnnTensor {
    /// Its place among the network's inputs or outputs, from 0: the order in which the host gets them.
    pub ordinal: u8,
    /// The converter's name for it.
    pub name: String,
    /// Offset in the chip's memory, in bytes.
    pub l2_offset: u32,
    /// Bits of a value.
    pub bits: u8,
    /// The integer of zero.
    pub shift: u16,
    /// The value of one step.
    pub scale: f64,
    /// Whether integers can be negative.
    pub signed: bool,
    /// Whether the chip keeps it, so that the host can read it (inputs only).
    pub kept: bool,
    /// By ordinal: channels, height, width.
    pub dimensions: Vec<Dimension>,
}

/// One dimension of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimension {
    /// Number of values.
    pub size: u16,
    /// 0 for the dimension whose neighbours are neighbours in memory.
    pub serialization: u8,
    /// Values that are stored beyond `size`.
    pub padding: u8,
}

/// The chip's memory in bytes, as the converter shares it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryMap {
    /// What the chip has.
    pub total: u32,
    /// Weights, biases and rescales.
    pub coefficients: u32,
    /// What the chip keeps for itself.
    pub reserved: u32,
    /// Tensors, the kept input included.
    pub runtime: u32,
}

impl Network {
    /// Outputs in the order in which the host gets them.
    pub fn outputs_by_ordinal(&self) -> Vec<&DnnTensor> {
        let mut outputs: Vec<&DnnTensor> = self.outputs.iter().collect();
        outputs.sort_by_key(|output| output.ordinal);
        outputs
    }
}

impl DnnTensor {
    /// Stored values, padding included.
    pub fn n_stored(&self) -> u64 {
        let sizes = self.dimensions.iter().map(|side| u64::from(side.size) + u64::from(side.padding));
        sizes.fold(1, u64::saturating_mul)
    }

    /// Stored bytes.
    pub fn n_bytes(&self) -> u64 {
        self.n_stored().saturating_mul(u64::from(self.bits)) / 8
    }
}

impl DnnParams {
    /// Reads `dnnParams.xml`.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 1 MiB, or is not such a file.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        Self::parse(&read_bounded(path, MAX_XML as u64)?).map_err(|refusal| refusal.of(path))
    }

    /// The content of `dnnParams.xml`.
    ///
    /// # Errors
    /// If the bytes are no such file: other elements, attributes, orders or ranges than the format page names.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_XML {
            return Err(Refusal::byte(MAX_XML, "the end of the text", format!("{} bytes", bytes.len())));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|error| Refusal::byte(error.valid_up_to(), "UTF-8", "other bytes"))?;
        let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options).map_err(|error| {
            Refusal::new(Place::Line(error.pos().row as usize), "well-formed XML", error.to_string())
        })?;
        let root = Element { document: &document, node: document.root_element() };
        root.expect_name("dnnParams")?;
        root.expect_attributes(&[])?;
        let [networks, memory] = root.children(&["networks", "l2memory"])?;
        networks.expect_attributes(&[])?;
        memory.expect_attributes(&["totalSize", "coefficientsSize", "reservedMemorySize", "networksRuntimeSize"])?;
        memory.list("nothing", 0)?;
        let params = Self {
            networks: networks
                .list("network", MAX_TENSORS)?
                .iter()
                .enumerate()
                .map(network)
                .collect::<Result<_, _>>()?,
            memory: MemoryMap {
                total: memory.number("totalSize")?,
                coefficients: memory.number("coefficientsSize")?,
                reserved: memory.number("reservedMemorySize")?,
                runtime: memory.number("networksRuntimeSize")?,
            },
        };
        Ok(params)
    }

    /// The text of `dnnParams.xml`.
    pub fn to_xml(&self) -> String {
        let mut xml =
            String::from("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n<dnnParams>\n<networks>\n");
        for (idx, network) in self.networks.iter().enumerate() {
            let (name, kind) = (escaped(&network.name), escaped(&network.kind));
            xml += &format!("<network name=\"{name}\" ordinal=\"{idx}\" type=\"{kind}\">\n<inputTensors>\n");
            network.inputs.iter().for_each(|tensor| tensor_xml(&mut xml, tensor, true));
            xml += "</inputTensors>\n<outputTensors>\n";
            network.outputs.iter().for_each(|tensor| tensor_xml(&mut xml, tensor, false));
            xml += "</outputTensors>\n</network>\n";
        }
        let MemoryMap { total, coefficients, reserved, runtime } = self.memory;
        xml + &format!(
            "</networks>\n<l2memory totalSize=\"{total}\" coefficientsSize=\"{coefficients}\" \
             reservedMemorySize=\"{reserved}\" networksRuntimeSize=\"{runtime}\"/>\n</dnnParams>\n"
        )
    }
}

fn tensor_xml(xml: &mut String, tensor: &DnnTensor, is_input: bool) {
    let element = if is_input { "inputTensor" } else { "outputTensor" };
    let kept = if is_input { format!(" persistency=\"{}\"", u8::from(tensor.kept)) } else { String::new() };
    let DnnTensor { ordinal, name, l2_offset, bits, shift, scale, signed, dimensions, .. } = tensor;
    let (name, format) = (escaped(name), if *signed { "signed" } else { "unsigned" });
    // Writing to a `String` cannot fail.
    let _ = write!(
        xml,
        "<{element}{kept} ordinal=\"{ordinal}\" name=\"{name}\" l2Offset=\"{l2_offset}\" numOfDimensions=\"{}\" \
         bitsPerElement=\"{bits}\" shift=\"{shift}\" scale=\"{scale:e}\" format=\"{format}\">\n<dimensions>\n",
        dimensions.len()
    );
    for (idx, Dimension { size, serialization, padding }) in dimensions.iter().enumerate() {
        let _ = writeln!(
            xml,
            "<dimension size=\"{size}\" serializationOrder=\"{serialization}\" ordinal=\"{idx}\" padding=\"{padding}\"/>"
        );
    }
    let _ = writeln!(xml, "</dimensions>\n</{element}>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn network((idx, element): (usize, &Element)) -> Result<Network, Refusal> {
    element.expect_attributes(&["name", "ordinal", "type"])?;
    element.expect_ordinal(idx)?;
    let [inputs, outputs] = element.children(&["inputTensors", "outputTensors"])?;
    let tensors = |list: &Element, name, is_input| -> Result<Vec<DnnTensor>, Refusal> {
        list.expect_attributes(&[])?;
        let elements = list.list(name, MAX_TENSORS)?;
        let tensors = elements.iter().map(|element| tensor(element, is_input)).collect::<Result<Vec<_>, _>>()?;
        let ordinals: Vec<u8> = tensors.iter().map(|tensor| tensor.ordinal).collect();
        match wrong_ordinal(&ordinals) {
            Some(idx) => {
                let expected = format!("each of 0 to {} once", tensors.len() - 1);
                Err(elements[idx].refuse("ordinal", &expected, &ordinals[idx].to_string()))
            }
            None => Ok(tensors),
        }
    };
    Ok(Network {
        name: element.text("name")?,
        kind: element.text("type")?,
        inputs: tensors(&inputs, "inputTensor", true)?,
        outputs: tensors(&outputs, "outputTensor", false)?,
    })
}

/// Index of the first ordinal that is too large for their number, or that an earlier one has.
pub(crate) fn wrong_ordinal(ordinals: &[u8]) -> Option<usize> {
    (0..ordinals.len())
        .find(|&idx| usize::from(ordinals[idx]) >= ordinals.len() || ordinals[..idx].contains(&ordinals[idx]))
}

fn tensor(element: &Element, is_input: bool) -> Result<DnnTensor, Refusal> {
    let attributes =
        ["ordinal", "name", "l2Offset", "numOfDimensions", "bitsPerElement", "shift", "scale", "format", "persistency"];
    element.expect_attributes(if is_input { &attributes } else { &attributes[..8] })?;
    let scale: f64 = element.number("scale")?;
    // The sensor's files hold it as a 32-bit float.
    if !((scale as f32).is_normal() && scale > 0.0) {
        return Err(element.refuse("scale", "a positive 32-bit float", &scale.to_string()));
    }
    let [list] = element.children(&["dimensions"])?;
    list.expect_attributes(&[])?;
    let dimensions =
        list.list("dimension", MAX_DIMENSIONS)?.iter().enumerate().map(dimension).collect::<Result<Vec<_>, _>>()?;
    let expected: usize = element.number("numOfDimensions")?;
    if expected != dimensions.len() {
        return Err(list.refuse("dimension", &expected.to_string(), &dimensions.len().to_string()));
    }
    let tensor = DnnTensor {
        ordinal: element.number("ordinal")?,
        name: element.text("name")?,
        l2_offset: element.number("l2Offset")?,
        bits: element.number("bitsPerElement")?,
        shift: element.number("shift")?,
        scale,
        signed: element.choice("format", ["unsigned", "signed"])?,
        kept: is_input && element.choice("persistency", ["0", "1"])?,
        dimensions,
    };
    if ![8, 16].contains(&tensor.bits) {
        return Err(element.refuse("bitsPerElement", "8 or 16", &tensor.bits.to_string()));
    }
    Ok(tensor)
}

fn dimension((idx, element): (usize, &Element)) -> Result<Dimension, Refusal> {
    element.expect_attributes(&["size", "serializationOrder", "ordinal", "padding"])?;
    element.expect_ordinal(idx)?;
    element.list("nothing", 0)?;
    Ok(Dimension {
        size: element.number("size")?,
        serialization: element.number("serializationOrder")?,
        padding: element.number("padding")?,
    })
}

/// An element, and the document for its line.
struct Element<'a, 'input> {
    document: &'a Document<'input>,
    node: Node<'a, 'input>,
}

impl<'a, 'input> Element<'a, 'input> {
    fn name(&self) -> &str {
        self.node.tag_name().name()
    }

    fn refuse(&self, what: &str, expected: &str, found: &str) -> Refusal {
        let line = self.document.text_pos_at(self.node.range().start).row as usize;
        let found = if found.len() > 80 { "something longer" } else { found };
        Refusal::new(Place::Line(line), format!("{what} of {}: {expected}", self.name()), found)
    }

    fn expect_name(&self, name: &str) -> Result<(), Refusal> {
        if self.name() == name { Ok(()) } else { Err(self.refuse("name", name, self.name())) }
    }

    fn expect_attributes(&self, names: &[&str]) -> Result<(), Refusal> {
        match self.node.attributes().find(|attribute| !names.contains(&attribute.name())) {
            Some(other) => Err(self.refuse("attributes", &format!("none but {names:?}"), other.name())),
            None => Ok(()),
        }
    }

    fn expect_ordinal(&self, idx: usize) -> Result<(), Refusal> {
        let found: usize = self.number("ordinal")?;
        if found == idx { Ok(()) } else { Err(self.refuse("ordinal", &idx.to_string(), &found.to_string())) }
    }

    /// All elements below, at most `max`, which have to be called `name`.
    fn list(&self, name: &str, max: usize) -> Result<Vec<Element<'a, 'input>>, Refusal> {
        let elements = self.node.children().filter(Node::is_element);
        let elements: Vec<_> = elements.map(|node| Element { document: self.document, node }).collect();
        if elements.len() > max {
            return Err(self.refuse("elements", &format!("at most {max}"), &elements.len().to_string()));
        }
        elements.iter().try_for_each(|element| element.expect_name(name))?;
        Ok(elements)
    }

    /// The elements below, which have to be these, in this order.
    fn children<const N: usize>(&self, names: &[&str; N]) -> Result<[Element<'a, 'input>; N], Refusal> {
        let elements = self.node.children().filter(Node::is_element);
        let elements: Vec<_> = elements.map(|node| Element { document: self.document, node }).collect();
        let found: Vec<&str> = elements.iter().map(|element| element.node.tag_name().name()).collect();
        if found != names {
            return Err(self.refuse("elements", &format!("{names:?}"), &format!("{found:?}")));
        }
        elements.try_into().map_err(|_| self.refuse("elements", &format!("{names:?}"), "others"))
    }

    fn text(&self, name: &str) -> Result<String, Refusal> {
        let text = self.node.attribute(name).ok_or_else(|| self.refuse(name, "a value", "none"))?;
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            let expected = format!("at most {MAX_TEXT} bytes, no control characters");
            return Err(self.refuse(name, &expected, &format!("{text:?}")));
        }
        Ok(text.into())
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<T, Refusal> {
        let text = self.text(name)?;
        text.parse().map_err(|_| self.refuse(name, &format!("a number ({})", std::any::type_name::<T>()), &text))
    }

    /// Which of two words it is.
    fn choice(&self, name: &str, words: [&str; 2]) -> Result<bool, Refusal> {
        let text = self.text(name)?;
        match words.iter().position(|word| *word == text) {
            Some(idx) => Ok(idx == 1),
            None => Err(self.refuse(name, &words.join(" or "), &text)),
        }
    }
}

pub(crate) const MAX_XML: usize = 1 << 20;
/// A file of one network with a dozen tensors has 100.
const MAX_NODES: u32 = 8192;
/// Inputs, or outputs; no network seen had more than five.
pub(crate) const MAX_TENSORS: usize = 64;
pub(crate) const MAX_DIMENSIONS: usize = 8;
const MAX_TEXT: usize = 255;
