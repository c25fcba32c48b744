//! Weight files: what is written is read back, and everything that is not a network's weights is refused.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sensei_graph::layer_graph::LayerGraph;
use sensei_student::init::initial_weights;
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::{
    ElementType, WeightsError, WeightsFile, match_weights, read_weights, weights_metadata, write_weights,
};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_testing::{golden, workspace_root};
use tempfile::TempDir;

#[test]
fn written_weights_are_read_back_bit_for_bit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("student.safetensors");
    let (config, graph) = small();
    let student = Student::new(graph.clone(), 3, &Device::flex().autodiff());
    let weights = student.to_weights();
    write_weights(&path, &weights, &weights_metadata(&config, &graph)).unwrap();

    let file = read_weights(&path).unwrap();
    assert_eq!(file.for_graph(&graph).unwrap(), weights);
    assert_eq!(file.config().unwrap(), Some(config.clone()));
    assert!(file.converted.is_empty());
    assert_eq!(file.ignored.len(), 21, "a counter per batch norm, left out by name");
    let again = Student::from_weights(graph.clone(), &file.tensors, &Device::flex()).unwrap();
    assert_eq!(again.to_weights(), weights);

    let bytes = std::fs::read(&path).unwrap();
    write_weights(&path, &weights, &weights_metadata(&config, &graph)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same weights give the same bytes");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn weights_of_another_graph_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("student.safetensors");
    let (config, graph) = small();
    write_weights(&path, &initial_weights(&graph, 1), &weights_metadata(&config, &graph)).unwrap();
    let other = UnetConfig { bottleneck_channels: 33, ..config }.graph().unwrap();
    let error = read_weights(&path).unwrap().for_graph(&other).unwrap_err();
    assert!(matches!(&error, WeightsError::OtherGraph { found, .. } if *found == graph.digest()), "{error}");

    // Without our metadata the tensors themselves tell.
    write_weights(&path, &initial_weights(&graph, 1), &BTreeMap::new()).unwrap();
    let message = chain(&read_weights(&path).unwrap().for_graph(&other).unwrap_err());
    let expected = "bottleneck.0.3.weight: expected shape [33, 24, 1, 1], found [32, 24, 1, 1]";
    assert!(message.ends_with(expected) && message.contains("student.safetensors"), "{message}");
}

#[test]
fn a_tensor_too_few_too_many_or_of_another_shape_is_an_error_that_names_it() {
    let (_, graph) = small();
    let good = initial_weights(&graph, 1);
    let check = |change: &dyn Fn(&mut NamedWeights), expected: &str| {
        let mut weights = good.clone();
        change(&mut weights);
        assert_eq!(match_weights(&graph, &weights, "w.pt").unwrap_err().to_string(), expected);
    };
    let scalar = || HostTensor { shape: vec![1], values: vec![0.0] };
    check(
        &|w| drop(w.remove("refine.3.bias")),
        "w.pt: refine.3.bias: expected a tensor of shape [1], found none; the 119 tensors that are there fit",
    );
    check(
        &|w| drop(w.insert("refine.3.biass".into(), scalar())),
        "w.pt: refine.3.biass: expected no such tensor in this network, found one of shape [1]",
    );
    check(
        &|w| drop(w.insert("down1.weight".into(), scalar())),
        "w.pt: down1.weight: expected shape [8, 8, 3, 3], found [1]",
    );
    check(
        &|w| w.get_mut("down1.weight").unwrap().values[5] = f32::NAN,
        "w.pt: down1.weight[5]: expected a finite 32-bit float, found NaN",
    );
    check(
        &|w| drop(w.insert("module.refine.3.bias".into(), scalar())),
        "w.pt: module.refine.3.bias: expected no such tensor in this network, found one of shape [1]",
    );
}

#[test]
fn published_checkpoints_are_read() {
    let (_, graph) = small();
    let case = golden("student/picosam3_small");
    let mut expected = NamedWeights::new();
    for spec in graph.tensors() {
        let values = case.f32s(&format!("weight/{}", spec.name));
        expected.insert(spec.name, HostTensor { shape: spec.shape, values });
    }
    let read = |name: &str| read_weights(&checkpoint("picosam3_small", name)).unwrap();

    let plain = read("state_dict.pt");
    assert_eq!(plain.for_graph(&graph).unwrap(), expected);
    assert!(plain.converted.is_empty());

    let wrapped = read("wrapped.pt");
    assert_eq!(wrapped.for_graph(&graph).unwrap(), expected);
    let beside: Vec<&str> =
        wrapped.ignored.iter().map(|entry| entry.name.as_str()).filter(|name| !name.contains('.')).collect();
    assert_eq!(beside, ["epoch", "loss", "optimizer", "note", "done"]);

    let halved = read("halved_views.pt");
    let weights = halved.for_graph(&graph).unwrap();
    for exact in ["down1.weight", "down2.weight", "skip_conn3.weight"] {
        assert_eq!(weights[exact], expected[exact], "{exact}");
    }
    assert_eq!(halved.converted["skip_conn4.weight"], ElementType::Bf16);
    assert_eq!(halved.converted["skip_conn3.weight"], ElementType::F64);
    assert_eq!(halved.converted["down3.weight"], ElementType::F16);
    for (name, bits) in [("skip_conn4.weight", 8), ("down3.weight", 11)] {
        for (got, expected) in weights[name].values.iter().zip(&expected[name].values) {
            // Half a step of the type; below 2^-14 the steps of a half float no longer shrink.
            let half_step = (expected.abs() / (1 << bits) as f32).max(2.0f32.powi(-25));
            assert!((got - expected).abs() <= half_step, "{name}: {got}, {expected}");
        }
    }
}

#[test]
fn hostile_checkpoints_are_refused_and_nothing_in_them_runs() {
    let good = read_weights(&checkpoint("hostile", "good.pt")).unwrap();
    assert_eq!(good.tensors["a"].values, [1.0, 2.0, 3.0, 4.0]);
    for (name, expected) in [
        ("os_system", "found a (an object of posix.system); nothing of it was executed"),
        ("builtins_eval", "found an object of __builtin__.eval; nothing of it was executed"),
        ("build_on_global", "expected a dictionary or an object, found a class or function"),
        ("call_of_a_string", "expected a class or function, found a string"),
        ("protocol_4", "found a (an integer)"),
        ("huge_shape", "a: expected a view into 4 stored values, found shape [1099511627776], stride [1], offset 0"),
        ("overflowing_shape", "found shape [1099511627776, 1099511627776], stride [1, 1], offset 0"),
        ("zero_stride", "a: expected at most 956 bytes in all, twice the file, found more"),
        ("stride_out_of_bounds", "found shape [2, 2], stride [3, 1], offset 0"),
        ("offset_out_of_bounds", "found shape [4], stride [1], offset 1"),
        ("negative_stride", "expected a size, found a negative one"),
        ("shape_without_stride", "found shape [2, 2], stride [1], offset 0"),
        ("storage_smaller_than_said", "x/data/0: expected 5 values of 4 bytes, found 16 bytes"),
        ("storage_missing", "expected one member x/data/1, found 0"),
        ("storage_outside", "expected one member x/data/../../../etc/passwd, found 0"),
        ("unknown_storage", "found a (an object of torch.QUInt8Storage)"),
        ("many_views", "twice the file, found more"),
        ("memo_bomb", "found a (a tuple)"),
        ("own_member", "the whole: expected a dictionary, found a list"),
        ("deep_tuples", "the whole: expected a dictionary, found a tuple"),
        ("deep_marks", "expected a value on the stack, found none"),
        ("memo_of_nothing", "expected a remembered value, found none"),
        ("string_past_the_end", "expected more after byte"),
        ("pop_of_nothing", "expected a value on the stack, found none"),
        ("no_stop", "expected more after byte"),
        ("cut_pickle", "expected more after byte"),
        ("not_a_dict", "the whole: expected a dictionary, found a list"),
        (
            "no_tensors",
            "tensors, or a dictionary of them under state_dict, model_state_dict, model or the like, found a (an integer)",
        ),
        ("big_endian", "x/byteorder: expected little, found big"),
        ("compressed", "x/data.pkl: expected a stored member"),
        ("cut_archive", "not a whole zip archive"),
        ("flipped_bit", "x/data/0: cannot read"),
        ("empty", "expected safetensors or a PyTorch checkpoint"),
    ] {
        let path = checkpoint("hostile", &format!("{name}.pt"));
        let message = chain(&read_weights(&path).unwrap_err());
        assert!(message.starts_with(&path.display().to_string()), "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
    }
    assert!(!Path::new("/tmp/sensei-owned").exists());
}

#[test]
fn a_cut_file_is_an_error_and_a_flipped_bit_never_a_panic() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("w");
    let one = NamedWeights::from([("a.running_var".into(), HostTensor { shape: vec![2], values: vec![1.0, 2.0] })]);
    write_weights(&path, &one, &BTreeMap::from([("key".into(), "value".into())])).unwrap();
    let safetensors = std::fs::read(&path).unwrap();
    let archive = std::fs::read(checkpoint("hostile", "good.pt")).unwrap();
    for whole in [safetensors, archive] {
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read_weights(&path).is_err(), "cut to {length} of {} bytes", whole.len());
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, &flipped).unwrap();
            let _ = read_weights(&path);
        }
    }
}

#[test]
fn safetensors_that_contradict_themselves_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("w.safetensors");
    for (header, data, expected) in [
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "shape, data type, or offset"),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4, ""),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, ""),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, 0, ""),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8, ""),
        (r#"{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#, 4, "a: expected floats of 16, 32 or 64 bits"),
        (r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#, 1, "a: expected floats of 16, 32 or 64 bits"),
        (r#"{"a":1}"#, 0, ""),
        ("[]", 0, ""),
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        std::fs::write(&path, bytes).unwrap();
        let message = chain(&read_weights(&path).expect_err(header));
        assert!(message.contains("w.safetensors") && message.contains(expected), "{header}: {message}");
    }
    std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(read_weights(&path), Err(WeightsError::Safetensors { .. })));
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_named_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let absent = dir.path().join("absent/w.safetensors");
    assert!(chain(&read_weights(&absent).unwrap_err()).contains("absent/w.safetensors: cannot read"));
    let error = write_weights(&absent, &NamedWeights::new(), &BTreeMap::new()).unwrap_err();
    assert!(chain(&error).contains("absent/w.safetensors: cannot write"));
    // A folder in the way: the temporary file is written, cannot take the name, and is removed.
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(write_weights(&taken, &NamedWeights::new(), &BTreeMap::new()).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn metadata_that_is_no_setting_is_an_error() {
    let metadata = BTreeMap::from([("sensei.config".to_string(), r#"{"input_size":96,"typo":1}"#.to_string())]);
    let file = WeightsFile {
        path: "w.safetensors".into(),
        tensors: NamedWeights::new(),
        metadata,
        converted: BTreeMap::new(),
        path_inside: None,
        ignored: vec![],
    };
    assert!(chain(&file.config().unwrap_err()).contains("unknown field `typo`"));
}

/// The network of the golden case `picosam3_small`.
fn small() -> (UnetConfig, LayerGraph) {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12, 16, 24],
        bottleneck_channels: 32,
        decoder_channels: vec![24, 16, 12, 8],
        ..UnetConfig::picosam3()
    };
    let graph = config.graph().expect("a valid setting");
    (config, graph)
}

fn checkpoint(case: &str, name: &str) -> PathBuf {
    workspace_root().join("tests/golden/student").join(case).join(name)
}

/// The error and its sources, as a user sees them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
