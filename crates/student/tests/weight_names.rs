//! Names of weights: prefixes that training programs put before them, and what is said where names do not fit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sensei_graph::layer_graph::LayerGraph;
use sensei_student::init::initial_weights;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::{ElementType, LeftOut, WeightsFile, match_weights, read_weights, write_weights};
use sensei_tensor::network::{HostTensor, NamedWeights};
use tempfile::TempDir;

#[test]
fn prefixes_of_training_programs_are_taken_off_in_any_combination() {
    let (graph, weights) = network();
    for prefix in
        ["module.", "_orig_mod.", "model.", "student.", "module._orig_mod.", "_orig_mod.module.student.model.", "net."]
    {
        let prefixed = renamed(&weights, |name| format!("{prefix}{name}"));
        assert_eq!(match_weights(&graph, &prefixed, "w.pt").unwrap(), weights, "{prefix}");
    }
    // A part alone was compiled.
    let part = renamed(&weights, |name| format!("student.{}", name.replace("down1.", "down1._orig_mod.")));
    assert_eq!(match_weights(&graph, &part, "w.pt").unwrap(), weights);
}

#[test]
fn prefixes_are_taken_off_safetensors_and_what_is_beside_them_is_said() {
    let (graph, weights) = network();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("w.safetensors");
    let mut tensors = renamed(&weights, |name| format!("student._orig_mod.{name}"));
    tensors.insert("teacher.weight".into(), HostTensor { shape: vec![1, 2], values: vec![0.0, 1.0] });
    write_weights(&path, &tensors, &BTreeMap::new()).unwrap();
    let file = read_weights(&path).unwrap();
    assert_eq!(file.for_graph(&graph).unwrap(), weights);
    assert_eq!(file.note(&graph).unwrap(), "the weights are those named student.*; left out: teacher.weight [1, 2]");
    // What is under the prefix belongs to the network or is an error, as without one.
    tensors.insert("student.refine.3.biass".into(), HostTensor { shape: vec![1], values: vec![0.0] });
    refuses(
        &graph,
        tensors,
        "w: student.refine.3.biass: expected no such tensor in this network, found one of shape [1]",
    );
}

#[test]
fn plain_weights_need_no_note() {
    let (graph, weights) = network();
    assert_eq!(file(weights).note(&graph), None);
}

#[test]
fn a_note_names_the_first_of_many() {
    let (graph, weights) = network();
    let mut file = file(weights);
    file.path_inside = Some("model".into());
    let entry = |idx: usize| LeftOut { name: format!("e{idx}"), found: "an integer".into() };
    file.ignored = (0..10).map(entry).collect();
    let note = file.note(&graph).unwrap();
    assert!(note.starts_with("the weights are those under model; left out: e0 (an integer), e1"), "{note}");
    assert!(note.ends_with("e7 (an integer) and 2 more"), "{note}");
}

#[test]
fn weights_that_fit_twice_are_refused_with_both_prefixes() {
    let (graph, weights) = network();
    let mut twice = renamed(&weights, |name| format!("model.{name}"));
    twice.extend(renamed(&weights, |name| format!("student.{name}")));
    refuses(
        &graph,
        twice,
        r#"w: expected one set of weights, found two: behind "model." and behind "student."; save one alone"#,
    );
    // Without a prefix nothing has to be chosen, and what is too much is an error.
    let mut beside = weights.clone();
    beside.extend(renamed(&weights, |name| format!("model.{name}")));
    refuses(
        &graph,
        beside,
        "w: model.bottleneck.0.0.weight: expected no such tensor in this network, found one of shape [24, 1, 3, 3]",
    );
    let mut compiled = weights.clone();
    compiled.extend(renamed(&weights, |name| format!("_orig_mod.{name}")));
    refuses(
        &graph,
        compiled,
        "w: bottleneck.0.0.weight: expected no such tensor in this network, found one of shape [24, 1, 3, 3]",
    );
}

#[test]
fn names_that_do_not_fit_are_shown() {
    let (graph, weights) = network();
    let other = NamedWeights::from(
        [5, 4, 3, 2, 1]
            .map(|idx| (format!("layer{idx}.weight"), HostTensor { shape: vec![idx], values: vec![0.0; idx] })),
    );
    refuses(
        &graph,
        other,
        "w: encoder_stage1.0.weight: expected a tensor of shape [3, 1, 3, 3], found layer1.weight [1], layer2.weight [2], \
         layer3.weight [3], layer4.weight [4] and 1 more; 0 tensors fit",
    );
    let own = renamed(&weights, |name| format!("generator.{name}"));
    refuses(
        &graph,
        own,
        r#"w: encoder_stage1.0.weight: expected a tensor of shape [3, 1, 3, 3], found all names behind "generator.": save them without it"#,
    );
    let misspelt = renamed(&weights, |name| format!("model.{}", name.replace("down1.", "down_1.")));
    refuses(
        &graph,
        misspelt,
        "w: down1.weight: expected a tensor of shape [8, 8, 3, 3], found model.down_1.weight [8, 8, 3, 3]; 119 tensors fit",
    );
    refuses(
        &graph,
        NamedWeights::new(),
        "w: encoder_stage1.0.weight: expected a tensor of shape [3, 1, 3, 3], found no tensor at all",
    );
}

#[test]
fn a_needed_tensor_of_integers_is_named() {
    let (graph, mut weights) = network();
    weights.remove("down1.weight");
    let mut file = file(renamed(&weights, |name| format!("module.{name}")));
    let found = format!("{} of shape [8, 8, 3, 3]", ElementType::Integer(4));
    file.ignored.push(LeftOut { name: "module.down1.weight".into(), found });
    let message = file.for_graph(&graph).unwrap_err().to_string();
    let expected =
        "module.down1.weight: expected floats of 16, 32 or 64 bits, found integers of 4 bytes of shape [8, 8, 3, 3]";
    assert!(message.ends_with(expected), "{message}");
}

fn refuses(graph: &LayerGraph, weights: NamedWeights, expected: &str) {
    assert_eq!(file(weights).for_graph(graph).expect_err("names that do not fit").to_string(), expected);
}

fn file(tensors: NamedWeights) -> WeightsFile {
    let (metadata, converted) = (BTreeMap::new(), BTreeMap::new());
    WeightsFile { path: PathBuf::from("w"), tensors, metadata, converted, path_inside: None, ignored: vec![] }
}

fn renamed(weights: &NamedWeights, name: impl Fn(&str) -> String) -> NamedWeights {
    weights.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect()
}

fn network() -> (LayerGraph, NamedWeights) {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12, 16, 24],
        bottleneck_channels: 32,
        decoder_channels: vec![24, 16, 12, 8],
        ..UnetConfig::picosam3()
    };
    let graph = config.graph().expect("a valid setting");
    let weights = initial_weights(&graph, 1);
    (graph, weights)
}
