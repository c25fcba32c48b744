//! Which nodes of the shipped students are computed together, and how long their values live.

use std::ops::Range;
use std::rc::Rc;

use sensei_graph::layer_graph::LayerGraph;
use sensei_graph::op::Upsampling;
use sensei_graph::steps::{Step, StepKind, block_steps, merge_head, run_graph};
use sensei_student::unet::{Downsampling, UnetConfig};

#[test]
fn blocks_cover_the_repeated_parts_of_both_students() {
    let bilinear = UnetConfig { bilinear_upsampling: true, ..UnetConfig::picosam2() };
    let depthwise = UnetConfig { downsampling: Downsampling::Depthwise, ..UnetConfig::picosam2() };
    for (config, n_merged) in [(UnetConfig::picosam2(), 4), (UnetConfig::picosam3(), 4), (bilinear, 4), (depthwise, 4)]
    {
        let expected = if config.bilinear_upsampling { Upsampling::Bilinear } else { Upsampling::Nearest };
        let graph = config.graph().expect("a valid setting");
        let steps = block_steps(&graph, &[]);
        let nodes = graph.nodes();
        let rest: Vec<&str> = steps
            .iter()
            .filter(|step| step.kind == StepKind::Node)
            .map(|step| nodes[step.output].name.as_str())
            .collect();
        let head = if nodes.iter().any(|node| node.name == "eca") {
            vec!["eca.avg_pool", "eca.conv1x1", "eca.sigmoid", "eca", "refine.0", "refine.3"]
        } else {
            vec!["output_head"]
        };
        // A block keeps the size, so what halves it is computed convolution by convolution.
        let down = |stage: usize| match config.downsampling {
            Downsampling::Dense => vec![format!("down{stage}")],
            Downsampling::Depthwise => vec![format!("down{stage}.0"), format!("down{stage}.3")],
        };
        let down: Vec<String> = (1..=4).flat_map(down).collect();
        assert_eq!(rest, [down.iter().map(String::as_str).collect(), head].concat());
        let merged = |step: &&Step| matches!(step.kind, StepKind::Block { merged: Some(_), upsampling, .. } if upsampling == Some(expected));
        assert_eq!(steps.iter().filter(merged).count(), n_merged);
        // Every node that a step reads is one that an earlier step made.
        let mut made = vec![0];
        for step in &steps {
            assert!(step.inputs.iter().all(|input| made.contains(input)), "{step:?}");
            made.push(step.output);
        }
        assert_eq!(made.last(), Some(&(nodes.len() - 1)));
        // PicoSAM3's last step follows another convolution, not a block.
        let (n_steps, mut with_head) = (steps.len(), steps);
        let head = merge_head(&graph, &mut with_head).map(|node| nodes[node].name.as_str());
        assert_eq!(head, (!nodes.iter().any(|node| node.name == "eca")).then_some("output_head"));
        assert_eq!(with_head.len(), n_steps - usize::from(head.is_some()));
        assert_eq!(with_head.last().map(|step| step.output), Some(nodes.len() - 1));
    }
}

/// Which positions in the nodes still need the output of each node.
///
/// Entry `i` is the half-open range of positions during which node `i`'s output must be kept.
fn lifetimes(graph: &LayerGraph) -> Vec<Range<usize>> {
    let last = graph.nodes().len();
    let mut ranges: Vec<Range<usize>> = (0..last).map(|idx| idx..idx + 1).collect();
    for (reader, node) in graph.nodes().iter().enumerate() {
        for &input in &node.inputs {
            ranges[input].end = reader + 1;
        }
    }
    ranges[last - 1].end = last;
    ranges
}

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
