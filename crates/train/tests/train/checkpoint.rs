//! A run goes on from its own whole checkpoint or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_graph::layer_graph::LayerGraph;
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::weights_digest;
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_train::checkpoint::{CheckpointHeader, TrainState, latest, prune};
use sensei_train::error::TrainError;
use sensei_train::plan::TrainPlan;
use sensei_train::run_digests::RunDigests;
use sensei_train::stages::SameNetwork;

use crate::{Fixture, Run, device, graph, listed, plan, run_digests, student, text};

/// A checkpoint after three steps.
struct Saved {
    fixture: Fixture,
    path: PathBuf,
}

impl Saved {
    fn new() -> Self {
        let fixture = Fixture::new();
        let dir = fixture.checkpoints("run");
        Run { stop_after: 3, ..Run::new(&dir) }.fit(&plan(), student(), &fixture.source).unwrap();
        let path = latest(&dir).unwrap().unwrap();
        assert_eq!(path, dir.join("step-00000003.safetensors"));
        Self { fixture, path }
    }

    fn load_as(&self, graph: LayerGraph, run: &RunDigests, plan: &TrainPlan) -> Result<TrainState, TrainError> {
        let initial = Box::new(Student::new(graph, 0, &device()));
        TrainState::load(&self.path, initial, &mut SameNetwork, run, plan)
    }

    fn load(&self) -> Result<TrainState, TrainError> {
        self.load_as(graph(), &run_digests(), &plan())
    }

    /// The checkpoint must be refused as broken, on one line with its path and these words.
    fn is_broken(&self, words: &[&str]) {
        let Err(error) = self.load() else { panic!("expected an error of {words:?}") };
        let line = text(&error);
        assert!(matches!(error, TrainError::BrokenCheckpoint { .. }), "{line}");
        assert!(line.starts_with(&format!("{}: ", self.path.display())) && !line.contains('\n'), "{line}");
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
    }

    /// Rewrites the file with other tensors and a digest that fits them.
    fn edit(&self, edit: impl FnOnce(&mut NamedWeights)) {
        let bytes = fs::read(&self.path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = &metadata.metadata().as_ref().unwrap()["sensei_checkpoint"];
        let mut header: CheckpointHeader = serde_json::from_str(header).unwrap();
        let mut tensors: NamedWeights =
            SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(host_tensor).collect();
        edit(&mut tensors);
        let of_state = CheckpointHeader { run: RunDigests::default(), state_digest: String::new(), ..header.clone() };
        let state = format!("{}\n{}", serde_json::to_string(&of_state).unwrap(), weights_digest(&tensors));
        header.state_digest = blake3::hash(state.as_bytes()).to_hex().to_string();
        write(&self.path, &tensors, &serde_json::to_string(&header).unwrap());
    }
}

fn host_tensor((name, view): (String, TensorView)) -> (String, HostTensor) {
    let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (name, HostTensor { shape: view.shape().to_vec(), values })
}

fn write(path: &Path, tensors: &NamedWeights, header: &str) {
    let bytes = |tensor: &HostTensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let tensors: Vec<(&String, &HostTensor, Vec<u8>)> =
        tensors.iter().map(|(name, tensor)| (name, tensor, bytes(tensor))).collect();
    let views = tensors
        .iter()
        .map(|(name, tensor, bytes)| (*name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap()));
    let metadata = [("sensei_checkpoint".to_string(), header.to_string())].into();
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

#[test]
fn whole_checkpoint_comes_back() {
    let saved = Saved::new();
    let before = fs::read(&saved.path).unwrap();
    let state = saved.load().unwrap();
    assert_eq!(state.step, 3);
    let again = state.save(&saved.fixture.checkpoints("again"), &run_digests()).unwrap();
    assert!(fs::read(again).unwrap() == before, "the same bytes");
    saved.edit(|_| {});
    assert!(fs::read(&saved.path).unwrap() == before, "the tests' own writer changes nothing either");
}

#[test]
fn checkpoint_of_another_student_is_refused() {
    let saved = Saved::new();
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![4, 6],
        bottleneck_channels: 9,
        decoder_channels: vec![6, 4],
        ..UnetConfig::picosam3()
    };
    let other = config.graph().unwrap();
    let Err(error) = saved.load_as(other.clone(), &run_digests(), &plan()) else { panic!("expected an error") };
    let expected = format!(
        "{}: checkpoint of a run that differs in its network: expected {}, found {}",
        saved.path.display(),
        other.digest(),
        graph().digest()
    );
    assert_eq!(text(&error), expected);
    assert!(matches!(error, TrainError::OtherCheckpoint { part: "network", .. }));
    // `fit` finds the same and changes nothing.
    let dir = saved.fixture.checkpoints("run");
    let before = fs::read(&saved.path).unwrap();
    let fitted = Run::resumed(&dir).fit(&plan(), Student::new(other, 0, &device()), &saved.fixture.source);
    assert!(matches!(fitted.err(), Some(TrainError::OtherCheckpoint { part: "network", .. })));
    assert_eq!(listed(&dir), ["step-00000003.safetensors"]);
    assert!(fs::read(&saved.path).unwrap() == before);
}

#[test]
fn checkpoint_of_another_run_is_refused_with_the_part_that_differs() {
    let saved = Saved::new();
    let check = |edit: fn(&mut RunDigests), part: &str| {
        let mut other = run_digests();
        edit(&mut other);
        let Err(error) = saved.load_as(graph(), &other, &plan()) else { panic!("{part}: expected an error") };
        let found = if part == "teacher answers" { "none".into() } else { format!("{part} of the test") };
        let path = saved.path.display();
        let expected = format!("{path}: checkpoint of a run that differs in its {part}: expected other, found {found}");
        assert_eq!(text(&error), expected);
        assert!(matches!(error, TrainError::OtherCheckpoint { .. }));
    };
    check(|run| run.configuration = "other".into(), "configuration");
    check(|run| run.first_weights = "other".into(), "first weights");
    check(|run| run.annotations = "other".into(), "annotations");
    check(|run| run.teacher = Some("other".into()), "teacher answers");
}

#[test]
fn cut_checkpoint_is_refused() {
    let saved = Saved::new();
    let bytes = fs::read(&saved.path).unwrap();
    let lengths = (0..64).chain((64..bytes.len()).step_by(997)).chain([bytes.len() - 1]);
    for length in lengths {
        fs::write(&saved.path, &bytes[..length]).unwrap();
        saved.is_broken(&[]);
    }
    fs::write(&saved.path, [bytes.as_slice(), b"x"].concat()).unwrap();
    saved.is_broken(&[]);
    fs::write(&saved.path, &bytes).unwrap();
    saved.load().unwrap();
}

#[test]
fn flipped_bit_is_refused_wherever_it_is() {
    let saved = Saved::new();
    let bytes = fs::read(&saved.path).unwrap();
    for at in (0..bytes.len()).step_by(101) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&saved.path, flipped).unwrap();
        let Err(error) = saved.load() else { panic!("byte {at}: expected an error") };
        assert!(text(&error).starts_with(&format!("{}: ", saved.path.display())), "{}", text(&error));
    }
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&saved.path, flipped).unwrap();
    saved.is_broken(&["damaged: expected a state of digest"]);
}

#[test]
fn step_of_the_header_is_covered_by_the_digest() {
    let saved = Saved::new();
    let bytes = fs::read(&saved.path).unwrap();
    let (from, to) = (br#"\"step\":3"#, br#"\"step\":2"#);
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    let edited = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
    fs::write(&saved.path, edited).unwrap();
    saved.is_broken(&["damaged: expected a state of digest"]);
}

#[test]
fn missing_tensor_is_named() {
    for (name, words) in [
        ("value/weights/down1.weight", "down1.weight: expected a tensor of shape [4, 4, 3, 3], found none"),
        ("first_moment/weights/refine.3.bias", "no tensor first_moment/weights/refine.3.bias"),
        ("second_moment/weights/eca.conv1x1.weight", "no tensor second_moment/weights/eca.conv1x1.weight"),
        ("average/weights/down2.weight", "no tensor average/weights/down2.weight"),
    ] {
        let saved = Saved::new();
        saved.edit(|tensors| assert!(tensors.remove(name).is_some(), "{name}"));
        saved.is_broken(&[words]);
    }
}

#[test]
fn extra_tensor_is_named() {
    for name in [
        "value/weights/extra",
        "first_moment/weights/extra",
        "second_moment/weights/extra",
        "average/weights/extra",
        "extra",
    ] {
        let saved = Saved::new();
        let extra = HostTensor { shape: vec![1], values: vec![0.0] };
        saved.edit(|tensors| _ = tensors.insert(name.into(), extra));
        saved.is_broken(&["extra", "expected"]);
    }
    // A moving average that this plan does not have.
    let saved = Saved::new();
    let Err(error) = saved.load_as(graph(), &run_digests(), &TrainPlan { average: None, ..plan() }) else {
        panic!("expected an error")
    };
    assert!(text(&error).contains("unexpected tensor average/weights/"), "{}", text(&error));
}

#[test]
fn tensor_of_another_size_or_without_a_number_is_named() {
    type Edit = fn(&mut HostTensor);
    let cases: [(&str, Edit, &str); 3] = [
        (
            "first_moment/weights/down1.weight",
            |t| *t = HostTensor { shape: vec![2], values: vec![0.0; 2] },
            "expected 144 values, found 2",
        ),
        ("value/weights/down1.weight", |t| t.shape = vec![144], "expected shape [4, 4, 3, 3], found [144]"),
        ("value/weights/down1.weight", |t| t.values[0] = f32::NAN, "expected a finite 32-bit float, found NaN"),
    ];
    for (name, edit, words) in cases {
        let saved = Saved::new();
        saved.edit(|tensors| edit(tensors.get_mut(name).unwrap()));
        saved.is_broken(&["down1.weight", words]);
    }
}

#[test]
fn file_without_our_header_is_refused() {
    let saved = Saved::new();
    let none = NamedWeights::new();
    write(&saved.path, &none, "{}");
    saved.is_broken(&["missing field `format`"]);
    write(&saved.path, &none, r#"{"format":2}"#);
    saved.is_broken(&["missing field"]);
    write(&saved.path, &none, r#"{"format":1,"step":0}"#);
    saved.is_broken(&["checkpoint format: expected 2, found 1"]);
    fs::write(&saved.path, safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).unwrap()).unwrap();
    saved.is_broken(&["no sensei_checkpoint entry"]);
}

#[test]
fn folder_that_cannot_be_written_leaves_no_checkpoint() {
    let fixture = Fixture::new();
    // A file where the folder should be; a folder at the final name.
    let blocked = fixture.checkpoints("blocked");
    fs::write(&blocked, "a file").unwrap();
    let occupied = fixture.checkpoints("occupied");
    fs::create_dir_all(occupied.join("step-00000002.safetensors")).unwrap();
    let checkpoint = "step-00000002.safetensors";
    for (dir, refused) in [(&blocked, blocked.clone()), (&occupied, occupied.join(checkpoint))] {
        let Err(error) = Run { stop_after: 2, ..Run::new(dir) }.fit(&plan(), student(), &fixture.source) else {
            panic!("{}: expected an error", dir.display())
        };
        let line = text(&error);
        assert!(matches!(error, TrainError::File(_)), "{line}");
        assert!(line.starts_with(&format!("{}: cannot ", refused.display())) && !line.contains('\n'), "{line}");
        assert!(!dir.join(checkpoint).is_file());
    }
    assert_eq!(listed(&occupied), [checkpoint], "nothing unfinished is left");
    assert_eq!(fs::read(&blocked).unwrap(), b"a file");
}

#[test]
fn prune_keeps_the_newest_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    for step in ["00000004", "00000012", "00000008", "00000100", "00000020"] {
        fs::write(dir.path().join(format!("step-{step}.safetensors")), step).unwrap();
    }
    for other in ["notes.txt", "teacher.safetensors", "step-5.safetensors"] {
        fs::write(dir.path().join(other), "").unwrap();
    }
    prune(dir.path(), 2).unwrap();
    let kept = ["step-00000020.safetensors", "step-00000100.safetensors", "step-5.safetensors", "teacher.safetensors"];
    assert_eq!(listed(dir.path()), [&["notes.txt"], &kept[..]].concat());
    assert_eq!(latest(dir.path()).unwrap(), Some(dir.path().join("step-00000100.safetensors")));
    prune(dir.path(), 5).unwrap();
    assert_eq!(listed(dir.path()).len(), 5);
    assert_eq!(latest(&dir.path().join("none")).unwrap(), None);
}
