//! Features at named points of a [`LayerGraph`]: every node's output is a tap under the node's name.

use burn::tensor::Tensor;
use sensei_graph::layer_graph::LayerGraph;
use sensei_tensor::masks::MaskLogits;
use sensei_tensor::network::{NetworkError, Outputs, Tap, find_tap};

/// The taps of a graph: all nodes but the input.
pub fn taps(graph: &LayerGraph) -> Vec<Tap> {
    graph.nodes()[1..].iter().map(|node| Tap { name: node.name.clone(), shape: node.shape }).collect()
}

/// The features that a forward pass keeps on its way.
pub struct Features {
    /// Nodes whose outputs are kept, in the order they were asked for.
    nodes: Vec<usize>,
    seen: Vec<Option<Tensor<4>>>,
}

impl Features {
    /// None are kept.
    pub fn none() -> Self {
        Self { nodes: vec![], seen: vec![] }
    }

    /// Those of these taps.
    ///
    /// # Errors
    /// If one does not exist.
    pub fn new(graph: &LayerGraph, names: &[String]) -> Result<Self, NetworkError> {
        let all = if names.is_empty() { vec![] } else { taps(graph) };
        let nodes: Vec<usize> =
            names.iter().map(|name| find_tap(&all, name).map(|tap| tap + 1)).collect::<Result<_, _>>()?;
        Ok(Self { seen: vec![None; nodes.len()], nodes })
    }

    /// The nodes whose outputs must exist in the pass.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// Keeps the output of a node if it was asked for.
    pub fn see(&mut self, node_idx: usize, output: &Tensor<4>) {
        for (node, seen) in self.nodes.iter().zip(&mut self.seen) {
            if *node == node_idx {
                *seen = Some(output.clone());
            }
        }
    }

    /// The outputs of a pass: its mask logits `[image, 1, height, width]` and the features, put into `[image, channels, height,
    /// width]` by `to_nchw`.
    ///
    /// # Panics
    /// If the pass did not show a node that was asked for.
    pub fn outputs(self, mask_logits: Tensor<4>, to_nchw: fn(Tensor<4>) -> Tensor<4>) -> Outputs {
        let feature =
            |seen: Option<Tensor<4>>| to_nchw(seen.expect("a pass shows every node that it was told to store"));
        Outputs {
            masks: MaskLogits(mask_logits),
            scores: None,
            taps: self.seen.into_iter().map(feature).collect(),
            norm_stats: vec![],
        }
    }
}
