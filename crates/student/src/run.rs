//! The one interpreter of a [`LayerGraph`].

use crate::graph::{LayerGraph, Node, lifetimes};

/// Computes every node in order and returns the output of the last.
///
/// `compute` gets the index of the node, the node and its inputs, and returns its output. It is not called for
/// node 0, whose output is `input`. A value is moved into its last reader, so that nothing outlives its use and an
/// operator may work in place.
pub fn run_graph<T: Clone>(graph: &LayerGraph, input: T, mut compute: impl FnMut(usize, &Node, Vec<T>) -> T) -> T {
    let lifetimes = lifetimes(graph);
    let last = graph.nodes().len() - 1;
    let mut values: Vec<Option<T>> = vec![None; last + 1];
    values[0] = Some(input);
    for (idx, node) in graph.nodes().iter().enumerate().skip(1) {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (slot, &input) in node.inputs.iter().enumerate() {
            let read_again = lifetimes[input].end > idx + 1 || node.inputs[slot + 1..].contains(&input);
            let value = if read_again { values[input].clone() } else { values[input].take() };
            inputs.push(value.expect("a graph lists inputs before their readers"));
        }
        let output = compute(idx, node, inputs);
        if lifetimes[idx].end > idx + 1 || idx == last {
            values[idx] = Some(output);
        }
    }
    values.pop().flatten().expect("a graph has at least its input")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::unet::UnetConfig;

    #[test]
    fn a_value_is_dropped_when_its_last_reader_has_run() {
        let graph = UnetConfig::picosam3().graph().expect("a valid setting");
        let kept_until = lifetimes(&graph);
        let mut made: Vec<std::rc::Weak<usize>> = vec![];
        let input = Rc::new(0);
        made.push(Rc::downgrade(&input));
        let output = run_graph(&graph, input, |idx, node, inputs| {
            let read: Vec<usize> = inputs.iter().map(|value| **value).collect();
            assert_eq!(read, node.inputs, "{}", node.name);
            drop(inputs);
            for (earlier, value) in made.iter().enumerate() {
                assert_eq!(value.upgrade().is_some(), kept_until[earlier].end > idx + 1, "node {earlier} after {idx}");
            }
            let value = Rc::new(idx);
            made.push(Rc::downgrade(&value));
            value
        });
        assert_eq!(*output, graph.nodes().len() - 1);
        assert_eq!(made.iter().filter(|value| value.upgrade().is_some()).count(), 1);
    }
}
