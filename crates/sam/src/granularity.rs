//! EdgeSAM's granularity prior: boxes of whole objects, proposed from an embedding, that say what a single click means.

use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Tensor, activation, module};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sensei_tensor::layers::{Depthwise, LayerNorm, Linear, Then};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_tensor::prompts::Proposals;

use crate::error::SamError;
use crate::scope::Scope;
use crate::two_way::CHANNELS;

/// A region proposal network over four levels of the embedding.
///
/// # Source
/// EdgeSAM (arXiv 2312.06660), section 3.4: a pyramid and one shared head "following EfficientDet", with class-agnostic boxes. The numbers that it
/// leaves open are EfficientDet's smallest (Tan et al. 2020, arXiv 1911.09070): 64 channels, 3 pyramid cells, 3 repeats of the head, 9
/// anchors. Deviations: layer norms over the channels in place of batch norms, ReLU in place of swish, levels by pooling alone.
pub(crate) struct ProposalNetwork {
    lateral: Linear,
    cells: Vec<Cell>,
    /// Of scores and of boxes: separable blocks, then what answers.
    heads: [(Vec<Separable>, Separable); 2],
}

/// A pass down the levels and one back up.
struct Cell {
    down: Vec<Fusion>,
    up: Vec<Fusion>,
}

/// A weighed mean of maps, then a separable convolution.
struct Fusion {
    /// One for each map; below 0 it counts as 0.
    weights: Tensor<1>,
    block: Separable,
}

struct Separable {
    depthwise: Depthwise,
    pointwise: Linear,
    norm: Option<LayerNorm>,
}

/// What the names of its tensors begin with, before a dot.
pub const GRANULARITY: &str = "granularity";

const LEVELS: usize = 4;
const WIDTH: usize = 64;
const CELLS: usize = 3;
const REPEATS: usize = 3;
const EPSILON: f64 = 1e-6;
/// Keeps a mean of maps finite. Source: EfficientDet, fast normalised fusion.
const FUSION_EPSILON: f64 = 1e-4;

/// Anchors of a cell: three sizes times three shapes.
const SIZES: [f64; 3] = [1.0, 1.259_921_049_894_873, 1.587_401_051_968_199_4];
const SHAPES: [[f64; 2]; 3] = [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]];
/// Side of the smallest anchor, in cells.
const BASE: f64 = 4.0;
const PER_CELL: usize = SIZES.len() * SHAPES.len();

/// Anchors for an embedding of `grid` cells over a square of `side` pixels, `[centre x, centre y, width, height]`, in the order of what is
/// proposed.
pub(crate) fn anchors(grid: usize, side: usize) -> Vec<[f64; 4]> {
    let mut all = vec![];
    for level in 0..LEVELS {
        let (cells, stride) = (grid >> level, ((side / grid) << level) as f64);
        for at in 0..cells * cells {
            let [x, y] = [at % cells, at / cells].map(|cell| (cell as f64 + 0.5) * stride);
            for size in SIZES {
                let anchor =
                    |[width, height]: [f64; 2]| [x, y, BASE * stride * size * width, BASE * stride * size * height];
                all.extend(SHAPES.map(anchor));
            }
        }
    }
    all
}

impl ProposalNetwork {
    pub(crate) fn new(scope: &Scope) -> Result<Self, SamError> {
        let cell = |idx: usize| -> Result<Cell, SamError> {
            let at = scope.at("cells").at(&idx.to_string());
            let fusions = |way: &str, maps: fn(usize) -> usize| {
                let fusion = |idx: usize| Fusion::new(maps(idx), &at.at(way).at(&idx.to_string()));
                (0..LEVELS - 1).map(fusion).collect::<Result<Vec<_>, _>>()
            };
            Ok(Cell { down: fusions("down", |_| 2)?, up: fusions("up", maps_up)? })
        };
        let head = |name: &str, outs: usize| -> Result<_, SamError> {
            let at = scope.at(name);
            let blocks = (0..REPEATS).map(|idx| Separable::new(WIDTH, true, &at.at(&idx.to_string())));
            Ok((blocks.collect::<Result<Vec<_>, _>>()?, Separable::new(outs, false, &at.at("out"))?))
        };
        Ok(Self {
            lateral: scope.at("lateral").linear(CHANNELS, WIDTH, Then::Nothing)?,
            cells: (0..CELLS).map(cell).collect::<Result<_, _>>()?,
            heads: [head("scores", PER_CELL)?, head("boxes", 4 * PER_CELL)?],
        })
    }

    /// Of an embedding `[image, channels, grid, grid]`.
    pub(crate) fn forward(&self, embedding: Tensor<4>) -> Proposals {
        let mut levels = vec![self.lateral.forward(embedding.permute([0, 2, 3, 1]))];
        while levels.len() < LEVELS {
            levels.push(pooled(levels[levels.len() - 1].clone()));
        }
        for cell in &self.cells {
            levels = cell.forward(levels);
        }
        let [scores, boxes] = &self.heads;
        let answers = |(blocks, out): &(Vec<Separable>, Separable), values: usize| {
            let of_level = |map: &Tensor<4>| {
                let map = out.forward(blocks.iter().fold(map.clone(), |map, block| block.forward(map)));
                let [batch, height, width, _] = map.dims();
                map.reshape([batch, height * width * PER_CELL, values])
            };
            Tensor::cat(levels.iter().map(of_level).collect(), 1)
        };
        Proposals { scores: answers(scores, 1).squeeze_dim::<2>(2), deltas: answers(boxes, 4) }
    }
}

/// Maps that a level's pass up reads: its own before and after the pass down, and the one below; the coarsest has no pass down.
fn maps_up(idx: usize) -> usize {
    if idx + 1 == LEVELS - 1 { 2 } else { 3 }
}

impl Cell {
    fn forward(&self, levels: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        // From coarse to fine; fusion `idx` writes level `idx`.
        let mut down = levels.clone();
        for idx in (0..LEVELS - 1).rev() {
            down[idx] = self.down[idx].forward(vec![levels[idx].clone(), doubled(down[idx + 1].clone())]);
        }
        // From fine to coarse; fusion `idx` writes level `idx + 1`.
        let mut up = vec![down[0].clone()];
        for idx in 0..LEVELS - 1 {
            let finer = pooled(up[idx].clone());
            let maps = match maps_up(idx) {
                2 => vec![levels[idx + 1].clone(), finer],
                _ => vec![levels[idx + 1].clone(), down[idx + 1].clone(), finer],
            };
            up.push(self.up[idx].forward(maps));
        }
        up
    }
}

impl Fusion {
    fn new(n_maps: usize, scope: &Scope) -> Result<Self, SamError> {
        Ok(Self { weights: scope.tensor("fusion", [n_maps])?, block: Separable::new(WIDTH, true, scope)? })
    }

    fn forward(&self, maps: Vec<Tensor<4>>) -> Tensor<4> {
        let weights = activation::relu(self.weights.clone());
        let weights = weights.clone() / (weights.sum() + FUSION_EPSILON);
        let weighed = maps
            .into_iter()
            .enumerate()
            .map(|(idx, map)| map * weights.clone().narrow(0, idx, 1).reshape([1, 1, 1, 1]));
        let mean = weighed.reduce(|a, b| a + b).expect("maps to fuse");
        self.block.forward(activation::relu(mean))
    }
}

impl Separable {
    fn new(outs: usize, has_norm: bool, scope: &Scope) -> Result<Self, SamError> {
        let norm = has_norm.then(|| scope.at("norm").layer_norm(outs, EPSILON, Then::Relu));
        Ok(Self {
            depthwise: Depthwise::new(
                scope.at("depthwise").tensor("weight", [WIDTH, 1, 3, 3])?,
                None,
                1,
                Then::Nothing,
            ),
            pointwise: scope.at("pointwise").linear(WIDTH, outs, Then::Nothing)?,
            norm: norm.transpose()?,
        })
    }

    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let map = self.pointwise.forward(self.depthwise.forward(map));
        match &self.norm {
            Some(norm) => norm.forward(map),
            None => map,
        }
    }
}

/// The greatest of each 2 x 2 pixels.
fn pooled(map: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
    module::max_pool2d(map.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
}

/// Each pixel as four.
fn doubled(map: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = map.dims();
    let map: Tensor<6> = map.reshape([batch, height, 1, width, 1, channels]);
    map.expand([batch, height, 2, width, 2, channels]).reshape([batch, 2 * height, 2 * width, channels])
}

/// Fresh weights, under names that begin with [`GRANULARITY`], the same for a seed on every machine.
///
/// Convolutions are uniform within `1 / sqrt(fan in)`; the scores' bias is `-ln 99`, so that at first nothing is an object.
///
/// # Source
/// Lin et al. 2017 (arXiv 1708.02002), section 4.1: prior probability 0.01.
pub fn fresh_granularity(seed: u64) -> NamedWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6772_616e);
    let mut tensors = NamedWeights::new();
    let mut uniform = |tensors: &mut NamedWeights, name: String, shape: &[usize]| {
        let (step, bound) = (2.0 / (1u32 << 24) as f32, 1.0 / (shape[1..].iter().product::<usize>() as f32).sqrt());
        let values = (0..shape.iter().product()).map(|_| ((rng.next_u32() >> 8) as f32 * step - 1.0) * bound).collect();
        tensors.insert(format!("{GRANULARITY}.{name}"), HostTensor { shape: shape.to_vec(), values });
    };
    let constant = |tensors: &mut NamedWeights, name: String, n: usize, value: f32| {
        tensors.insert(format!("{GRANULARITY}.{name}"), HostTensor { shape: vec![n], values: vec![value; n] });
    };
    let mut separable = |tensors: &mut NamedWeights, name: &str, outs: usize, has_norm: bool, bias: f32| {
        uniform(tensors, format!("{name}.depthwise.weight"), &[WIDTH, 1, 3, 3]);
        uniform(tensors, format!("{name}.pointwise.weight"), &[outs, WIDTH]);
        constant(tensors, format!("{name}.pointwise.bias"), outs, bias);
        if has_norm {
            constant(tensors, format!("{name}.norm.weight"), outs, 1.0);
            constant(tensors, format!("{name}.norm.bias"), outs, 0.0);
        }
    };
    for cell in 0..CELLS {
        for (way, n_maps) in [("down", (|_| 2) as fn(usize) -> usize), ("up", maps_up)] {
            for idx in 0..LEVELS - 1 {
                let name = format!("cells.{cell}.{way}.{idx}");
                separable(&mut tensors, &name, WIDTH, true, 0.0);
                constant(&mut tensors, format!("{name}.fusion"), n_maps(idx), 1.0);
            }
        }
    }
    for (head, outs, bias) in [("scores", PER_CELL, -(99f32.ln())), ("boxes", 4 * PER_CELL, 0.0)] {
        (0..REPEATS).for_each(|idx| separable(&mut tensors, &format!("{head}.{idx}"), WIDTH, true, 0.0));
        separable(&mut tensors, &format!("{head}.out"), outs, false, bias);
    }
    uniform(&mut tensors, "lateral.weight".into(), &[WIDTH, CHANNELS]);
    constant(&mut tensors, "lateral.bias".into(), WIDTH, 0.0);
    tensors
}
