//! The one interpreter of a [`LayerGraph`].

use crate::layer_graph::{Conv, LayerGraph, Node, Op};
use crate::op::{Activation, ConvShape, Upsampling};

/// Nodes that are computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub kind: StepKind,
    /// Indices of the nodes read.
    pub inputs: Vec<usize>,
    /// Index of the node whose output it makes.
    pub output: usize,
}

/// What a [`Step`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// The output node alone.
    Node,
    /// A depthwise convolution that keeps the size and a 1x1 convolution, both with batch norm and the same activation.
    Block {
        /// How the input is upsampled first, if it is.
        upsampling: Option<Upsampling>,
        /// The depthwise convolution.
        depthwise: usize,
        /// The 1x1 convolution.
        pointwise: usize,
        /// A 1x1 convolution of the second input, with bias, that is added to the output.
        merged: Option<usize>,
    },
}

/// Every node of a graph but the input as a step of its own.
pub fn single_steps(graph: &LayerGraph) -> Vec<Step> {
    let nodes = graph.nodes().iter().enumerate().skip(1);
    nodes.map(|(output, node)| Step { kind: StepKind::Node, inputs: node.inputs.clone(), output }).collect()
}

/// The steps of a graph with as many nodes as possible in blocks. The outputs of `stored` nodes have to exist: no block hides one.
pub fn block_steps(graph: &LayerGraph, stored: &[usize]) -> Vec<Step> {
    let nodes = graph.nodes();
    let n_readers = |idx: usize| nodes.iter().flat_map(|node| &node.inputs).filter(|&&input| input == idx).count();
    // The output of the last node is read by the caller.
    let is_only_read_by = |idx: usize, reader: usize| {
        reader < nodes.len() && nodes[reader].inputs.contains(&idx) && n_readers(idx) == 1 && !stored.contains(&idx)
    };
    let mut steps = vec![];
    let mut idx = 1;
    while idx < nodes.len() {
        let is_taken = is_only_read_by(idx, idx + 1) && has_3x3_taps(&nodes[idx + 1]);
        let upsampling = nodes[idx].op.upsampling().filter(|_| is_taken);
        let depthwise = idx + usize::from(upsampling.is_some());
        let pointwise = depthwise + 1;
        let is_block = is_depthwise(&nodes[depthwise])
            && is_only_read_by(depthwise, pointwise)
            && is_pointwise(&nodes[pointwise])
            && activation(&nodes[depthwise]) == activation(&nodes[pointwise]);
        if !is_block {
            steps.push(Step { kind: StepKind::Node, inputs: nodes[idx].inputs.clone(), output: idx });
            idx += 1;
            continue;
        }
        let (skip, add) = (pointwise + 1, pointwise + 2);
        let is_merged = is_only_read_by(pointwise, add)
            && is_only_read_by(skip, add)
            && nodes[add].op == Op::Add
            && is_plain_1x1(&nodes[skip]);
        let mut inputs = nodes[idx].inputs.clone();
        let merged = is_merged.then_some(skip);
        inputs.extend(merged.map(|skip| nodes[skip].inputs[0]));
        let output = if is_merged { add } else { pointwise };
        steps.push(Step { kind: StepKind::Block { upsampling, depthwise, pointwise, merged }, inputs, output });
        idx = output + 1;
    }
    steps
}

/// Takes a last step that is a 1x1 convolution with nothing after it, and the only reader of a block's output, into that block.
/// Returns its node.
pub fn merge_head(graph: &LayerGraph, steps: &mut Vec<Step>) -> Option<usize> {
    let nodes = graph.nodes();
    let [.., Step { kind: StepKind::Block { .. }, output, .. }, last] = &mut steps[..] else { return None };
    let n_readers = nodes.iter().flat_map(|node| &node.inputs).filter(|input| *input == output).count();
    let is_head = last.kind == StepKind::Node && is_plain_1x1(&nodes[last.output]) && n_readers == 1;
    if !is_head || last.inputs != [*output] {
        return None;
    }
    *output = last.output;
    steps.pop().map(|head| head.output)
}

fn is_depthwise(node: &Node) -> bool {
    let Some(conv) = node.op.conv() else { return false };
    let ConvShape { kernel, stride, padding, dilation, .. } = conv.shape;
    conv.shape.is_depthwise() && stride == 1 && 2 * padding == dilation * (kernel - 1) && has_norm_and_activation(conv)
}

/// What the depthwise convolution of a block that upsamples has to be.
fn has_3x3_taps(node: &Node) -> bool {
    node.op.conv().is_some_and(|conv| (conv.shape.kernel, conv.shape.dilation) == (3, 1))
}

fn is_pointwise(node: &Node) -> bool {
    node.op.conv().is_some_and(|conv| is_dense_1x1(conv) && has_norm_and_activation(conv))
}

/// With a bias, and neither batch norm nor activation: a skip connection's, or the last of a network.
fn is_plain_1x1(node: &Node) -> bool {
    let ends_plainly = |conv: &Conv| conv.batch_norm.is_none() && conv.activation == Activation::None;
    let is_plain = |conv: &Conv| is_dense_1x1(conv) && conv.bias && ends_plainly(conv);
    node.op.conv().is_some_and(is_plain)
}

fn is_dense_1x1(conv: &Conv) -> bool {
    let ConvShape { kernel, stride, padding, groups, .. } = conv.shape;
    (kernel, stride, padding, groups) == (1, 1, 0, 1)
}

fn has_norm_and_activation(conv: &Conv) -> bool {
    conv.batch_norm.is_some() && conv.activation != Activation::None && !conv.bias
}

fn activation(node: &Node) -> Option<Activation> {
    node.op.conv().map(|conv| conv.activation)
}

/// Computes every node in order and returns the output of the last.
///
/// `compute` gets the index of the node, the node and its inputs, and returns its output. It is not called for
/// node 0, whose output is `input`.
pub fn run_graph<T: Clone>(graph: &LayerGraph, input: T, mut compute: impl FnMut(usize, &Node, Vec<T>) -> T) -> T {
    let steps = single_steps(graph);
    run_steps(graph, &steps, input, |step, inputs| compute(step.output, &graph.nodes()[step.output], inputs))
}

/// Computes the steps of a graph in order and returns the output of the last.
///
/// A value is moved into its last reader, so that nothing outlives its use and an operator may work in place.
pub fn run_steps<T: Clone>(
    graph: &LayerGraph,
    steps: &[Step],
    input: T,
    mut compute: impl FnMut(&Step, Vec<T>) -> T,
) -> T {
    let last = graph.nodes().len() - 1;
    // The position after the last step that reads a node; 0 if none does.
    let mut read_until = vec![0; last + 1];
    for (position, step) in steps.iter().enumerate() {
        step.inputs.iter().for_each(|&input| read_until[input] = position + 1);
    }
    read_until[last] = usize::MAX;
    let mut values: Vec<Option<T>> = vec![None; last + 1];
    values[0] = Some(input);
    for (position, step) in steps.iter().enumerate() {
        let mut inputs = Vec::with_capacity(step.inputs.len());
        for (slot, &input) in step.inputs.iter().enumerate() {
            let read_again = read_until[input] > position + 1 || step.inputs[slot + 1..].contains(&input);
            let value = if read_again { values[input].clone() } else { values[input].take() };
            inputs.push(value.expect("a graph lists inputs before their readers"));
        }
        let output = compute(step, inputs);
        if read_until[step.output] > position {
            values[step.output] = Some(output);
        }
    }
    values.pop().flatten().expect("a graph has at least its input")
}
