//! Packed samples are those of the image files, bit for bit, and no changed byte of a pack is ever taken for one.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{Context, Kept, KeptMasks};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::record::{ImageIdentity, MaskAnswer, MaskRecord, PromptAnswer};
use sensei_answers::store::Store;
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, BoxBorder, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_data::prompt_source::PromptSource;
use sensei_samples::error::SampleError;
use sensei_samples::packed::error::PackError;
use sensei_samples::packed::pack::PackedSamples;
use sensei_samples::packed::write::PackPlan;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, Sample, SampleSource};

use crate::{IMAGES, ROI, Scenes, augmentation, roi_source};

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;
const WILD: Augmentation = Augmentation {
    flip_probability: 0.5,
    roi_shift: 0.4,
    roi_scale: 0.6,
    roi_aspect: 0.3,
    brightness: 0.3,
    contrast: 0.3,
    saturation: 0.3,
    ..Augmentation::NONE
};

/// Packs what a source needs, and returns the file.
fn pack(source: &SampleSource, augmentations: &[&Augmentation], folder: &Path) -> PathBuf {
    let path = folder.join("samples.pack");
    let plan = PackPlan::new(source, augmentations, NEVER).unwrap();
    let last = Cell::new(None);
    plan.write(&path, NEVER, &mut |progress| last.set(Some(progress))).unwrap();
    let last = last.get().unwrap();
    assert_eq!(last.n_records, source.instances.len() as u64);
    let n_bytes = fs::metadata(&path).unwrap().len();
    assert!(n_bytes == plan.n_bytes() && last.n_bytes < n_bytes, "{n_bytes} of {}", plan.n_bytes());
    path
}

/// Answers to all instances: logits over the whole image that follow from the id.
fn answers(scenes: &Scenes, dataset: &Dataset) -> Box<dyn Store> {
    let letterbox = Preprocessing::Letterbox {
        longest_side: 1024,
        resize: Resize::PillowBilinear,
        normalization: Normalization::Imagenet,
        zoom: None,
    };
    let key = AnswerKey {
        teacher: "7ea".into(),
        preprocessing: letterbox,
        question: Question::Object { prompts: vec![PromptSource::Box], padding_points: 1 },
        kept: Kept::MaskLogits { context: Context::WholeFrame, grid: 16, logit_step: 0.125, masks: KeptMasks::Single },
        dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
    };
    let cache = scenes.path("cache");
    if !cache.exists() {
        let teacher = TeacherDescription { name: "Test teacher".into(), licence: "MIT".into() };
        let mut writer = CacheWriter::create(&cache, key.clone(), teacher, vec![]).unwrap();
        for instance in &dataset.instances {
            let file = read_image(&dataset.image_path(instance.image_idx), &ImageLimits::default()).unwrap();
            let logit = |at: u64| (at * (2 * instance.id + 1) % 255) as u8 as i8;
            let mask = MaskAnswer { logits: (0..256).map(logit).collect(), predicted_iou: 0.5, stability: None };
            let record = MaskRecord {
                annotation_id: instance.id,
                image: ImageIdentity {
                    id: dataset.images[instance.image_idx].id,
                    file_digest: file.digest,
                    pixel_digest: None,
                    size: file.image.size,
                },
                grid: 16,
                logit_step: 0.125,
                prompts: vec![PromptAnswer {
                    points: vec![],
                    rect_in_image: file.image.size.rect(),
                    masks: vec![mask],
                }],
            };
            writer.push_masks(&record).unwrap();
        }
        writer.finish().unwrap();
    }
    Box::new(FolderStore::open(&cache, &key).unwrap())
}

fn check_same(packed: &Sample, plain: &Sample) {
    let id = plain.annotation_id;
    assert_eq!((packed.annotation_id, packed.part_idx), (id, plain.part_idx));
    assert_eq!((packed.geometry, packed.bbox), (plain.geometry, plain.bbox), "crop of {id}");
    assert!(packed.pixels == plain.pixels, "pixels of {id}");
    assert!(packed.truth == plain.truth && packed.truth_in_image == plain.truth_in_image, "mask of {id}");
    let bits = |sample: &Sample| {
        let answer = sample.teacher.as_ref().unwrap();
        let logits: Vec<u32> = answer.logits.iter().map(|logit| logit.to_bits()).collect();
        (logits, answer.predicted_iou.to_bits(), answer.is_clamped)
    };
    assert!(bits(packed) == bits(plain), "answer to {id}");
}

fn crop_rule() -> impl Strategy<Value = CropRule> {
    let border = || prop_oneof![Just(Border::Reference), Just(Border::Corrected)];
    let box_border = prop_oneof![Just(BoxBorder::Clipped), Just(BoxBorder::Padded)];
    prop_oneof![
        (8u32..40, border()).prop_map(|(grid, border)| CropRule::CenterWindow { grid, border }),
        (8u32..40, border()).prop_map(|(grid, border)| CropRule::Roi { padding: 0.2, grid, border }),
        (8u32..40, 4f64..20.0, box_border).prop_map(|(grid, min_side, border)| CropRule::Box {
            padding: 0.2,
            min_side,
            grid,
            border
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn packed_samples_are_those_of_the_files(
        crop in crop_rule(), first in augmentation(), second in augmentation(), seed: u64, threads in 1usize..4,
    ) {
        let scenes = Scenes::new();
        let open = || {
            let plain = scenes.source(SelectionRules::of_student(crop), crop);
            let teacher = answers(&scenes, &plain.dataset);
            let SampleSource { dataset, rules, limits, .. } = plain;
            SampleSource::new(dataset, Some(teacher), rules, crop, limits, InstanceChoice::All).unwrap()
        };
        let (plain, mut packed) = (open(), open());
        let stages = [&first, &second];
        let path = pack(&packed, &stages, scenes.folder.path());
        packed.use_pack(PackedSamples::open_any(&path).unwrap(), &stages).unwrap();
        prop_assert_eq!(packed.pack().unwrap().check_images(&packed.dataset, NEVER).unwrap(), IMAGES.len() as u64);
        let counts = packed.image_counts();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for epoch in 0..4 {
            let augmentation = stages[epoch as usize % 2];
            for batch in plain.instances.chunks(7) {
                let of = |source: &SampleSource| source.augmented_samples(batch, augmentation, seed, epoch).unwrap();
                let (plain, packed) = pool.install(|| (of(&plain), of(&packed)));
                packed.iter().zip(&plain).for_each(|(packed, plain)| check_same(packed, plain));
            }
        }
        let all = &plain.instances;
        packed.samples(all).unwrap().iter().zip(&plain.samples(all).unwrap()).for_each(|(a, b)| check_same(a, b));
        check_same(&packed.sample(all[3]).unwrap(), &plain.sample(all[3]).unwrap());
        let alone = |source: &SampleSource| source.augmented_sample(all[5], &first, seed, 9).unwrap();
        check_same(&alone(&packed), &alone(&plain));
        prop_assert_eq!(packed.image_counts(), counts, "an image was decoded");
    }
}

#[test]
fn the_same_samples_make_the_same_file() {
    let scenes = Scenes::new();
    let [first, second] = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fs::read(pack(&roi_source(&scenes), &[&WILD], scenes.folder.path())).unwrap())
    });
    assert!(first == second);
}

#[test]
fn other_samples_are_refused_with_what_differs() {
    let scenes = Scenes::new();
    let path = pack(&roi_source(&scenes), &[&WILD], scenes.folder.path());
    let open = || PackedSamples::open_any(&path).unwrap();
    let refused = |mut source: SampleSource, augmentations: &[&Augmentation]| {
        let Err(SampleError::Packed(error @ PackError::KeyMismatch { .. })) = source.use_pack(open(), augmentations)
        else {
            panic!("expected a refusal")
        };
        assert!(source.pack().is_none());
        error.to_string()
    };
    let calm = Augmentation { roi_shift: 0.1, ..WILD };
    let error = refused(roi_source(&scenes), &[&calm]);
    let expected = "jitter: expected `roi_shift 0.1, roi_scale 0.6, roi_aspect 0.3, roi_rotation 0, roi_shear 0`, \
                    found `roi_shift 0.4, roi_scale 0.6, roi_aspect 0.3, roi_rotation 0, roi_shear 0`";
    assert!(error.ends_with(&format!("packed samples of another kind: {expected}")), "{error}");
    // The largest of all stages counts, and colours do not.
    let pale = Augmentation { brightness: 0.0, flip_probability: 0.0, ..WILD };
    roi_source(&scenes).use_pack(open(), &[&calm, &pale]).unwrap();
    let padded = CropRule::Roi { padding: 0.3, grid: 24, border: Border::Corrected };
    let other = scenes.source(SelectionRules::of_student(padded), padded);
    let error = refused(other, &[&WILD]);
    assert!(error.contains("crop: expected `roi-24-pad0.3-corrected`, found `roi-24-pad0.1-corrected`"), "{error}");
    let mut fewer = roi_source(&scenes);
    fewer.instances.pop();
    let error = refused(fewer, &[&WILD]);
    assert!(error.contains("kind: instances: expected `"), "{error}");
    let prompted = SelectionRules { prompt: PromptSource::MaskBox, ..SelectionRules::of_student(ROI) };
    let error = refused(scenes.source(prompted, ROI), &[&WILD]);
    assert!(error.contains("prompt: expected `mask_box, empty masks used`, found `box, empty masks used`"), "{error}");
}

#[test]
fn an_image_that_changed_is_named() {
    let scenes = Scenes::new();
    let source = roi_source(&scenes);
    let path = pack(&source, &[&WILD], scenes.folder.path());
    let pack = PackedSamples::open_any(&path).unwrap();
    fs::copy(scenes.path(IMAGES[1]), scenes.path(IMAGES[4])).unwrap();
    let error = pack.check_images(&source.dataset, NEVER).unwrap_err();
    let SampleError::Packed(PackError::ImageChanged { image, expected, found, .. }) = &error else { panic!("{error}") };
    assert_eq!(*image, scenes.path(IMAGES[4]));
    let digest = |name: &str| blake3::hash(&fs::read(scenes.path(name)).unwrap()).to_hex().to_string();
    assert_eq!(*found, digest(IMAGES[1]));
    assert_ne!(expected, found);
    assert!(matches!(pack.check_images(&source.dataset, &|| true), Err(SampleError::Interrupted)));
    fs::remove_file(scenes.path(IMAGES[2])).unwrap();
    let error = pack.check_images(&source.dataset, NEVER).unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn packing_ends_where_it_is_asked_to_and_at_a_broken_image() {
    let scenes = Scenes::new();
    let source = roi_source(&scenes);
    assert!(matches!(PackPlan::new(&source, &[&WILD], &|| true), Err(SampleError::Interrupted)));
    let plan = PackPlan::new(&source, &[&WILD], NEVER).unwrap();
    let path = scenes.path("samples.pack");
    assert!(matches!(plan.write(&path, &|| true, &mut |_| {}), Err(SampleError::Interrupted)));
    let mut bytes = fs::read(scenes.path(IMAGES[0])).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(scenes.path(IMAGES[0]), bytes).unwrap();
    let error = plan.write(&path, NEVER, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SampleError::Image { annotation_id: 0, .. }), "{error}");
    // What is there is no pack.
    assert!(matches!(PackedSamples::open_any(&path), Err(PackError::Damaged { .. })));
}

/// A small pack, and the samples that it holds.
struct Fixture {
    _scenes: Scenes,
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let scenes = Scenes::new();
        let mut source = roi_source(&scenes);
        source.instances.truncate(2);
        let path = pack(&source, &[], scenes.folder.path());
        Self { bytes: fs::read(&path).unwrap(), path, _scenes: scenes }
    }

    /// Whether a changed file is refused when it is opened, or for one of its records when that is read.
    fn is_refused(&self, bytes: &[u8]) -> Result<(), String> {
        fs::write(&self.path, bytes).unwrap();
        let pack = match PackedSamples::open_any(&self.path) {
            Ok(pack) => pack,
            Err(error) => {
                assert!(error.to_string().contains("samples.pack"), "{error}");
                return Ok(());
            }
        };
        let mut n_refused = 0;
        for id in [0, 1] {
            match pack.record(id) {
                Ok(record) => assert_eq!(record.annotation_id, id),
                Err(error) => {
                    assert!(error.to_string().contains("samples.pack: "), "{error}");
                    n_refused += 1;
                }
            }
        }
        if n_refused == 0 { Err("all records were read".into()) } else { Ok(()) }
    }

    /// The pack with a changed header, whose checksum is right.
    fn with_header(&self, at: usize, number: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let checksum = blake3::hash(&bytes[..80]);
        bytes[80..88].copy_from_slice(&checksum.as_bytes()[..8]);
        bytes
    }

    /// The pack with a changed tail, whose digest is right.
    fn with_tail(&self, at: usize, number: u64) -> Vec<u8> {
        let start = u64::from_le_bytes(self.bytes[32..40].try_into().unwrap()) as usize;
        let mut bytes = self.bytes.clone();
        bytes[start + at..][..8].copy_from_slice(&number.to_le_bytes());
        let digest = *blake3::hash(&bytes[start..]).as_bytes();
        bytes[48..80].copy_from_slice(&digest);
        let checksum = blake3::hash(&bytes[..80]);
        bytes[80..88].copy_from_slice(&checksum.as_bytes()[..8]);
        bytes
    }

    /// The pack with a changed number in its first record, whose checksum is right.
    fn with_field<const N: usize>(&self, at: usize, field: [u8; N]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let n_bytes = u64::from_le_bytes({
            let start = u64::from_le_bytes(self.bytes[32..40].try_into().unwrap()) as usize;
            self.bytes[start + 16..][..8].try_into().unwrap()
        }) as usize;
        let record = &mut bytes[88..88 + n_bytes];
        record[at..at + N].copy_from_slice(&field);
        let checksum = blake3::hash(&record[8..]);
        record[..8].copy_from_slice(&checksum.as_bytes()[..8]);
        bytes
    }
}

#[test]
fn every_cut_file_is_an_error() {
    let fixture = Fixture::new();
    for length in 0..fixture.bytes.len() {
        fs::write(&fixture.path, &fixture.bytes[..length]).unwrap();
        assert!(PackedSamples::open_any(&fixture.path).is_err(), "cut to {length}");
    }
    fs::write(&fixture.path, [&fixture.bytes, &b"x"[..]].concat()).unwrap();
    assert!(PackedSamples::open_any(&fixture.path).is_err(), "a byte more");
}

#[test]
fn every_flipped_byte_is_found_and_never_read_as_a_sample() {
    let fixture = Fixture::new();
    for at in 0..fixture.bytes.len() {
        let mut changed = fixture.bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fixture.is_refused(&changed).unwrap_or_else(|what| panic!("byte {at}: {what}"));
    }
    assert!(fixture.is_refused(&fixture.bytes).is_err(), "the pack itself is sound");
}

/// A checksum says that bytes are as they were written, not that a sound program wrote them.
#[test]
fn numbers_that_no_pack_has_are_refused_whatever_the_checksums_say() {
    let fixture = Fixture::new();
    for number in [0, 5, 1 << 40, u64::MAX / 24, u64::MAX] {
        for at in [16, 24, 32, 40] {
            let changed = fixture.with_header(at, number);
            fixture.is_refused(&changed).unwrap_or_else(|what| panic!("header {at} = {number}: {what}"));
        }
        // Id, offset and length of the first entry, and offset and length of the second.
        for at in [8, 16, 32, 40] {
            let changed = fixture.with_tail(at, number);
            fixture.is_refused(&changed).unwrap_or_else(|what| panic!("index {at} = {number}: {what}"));
        }
    }
    let refused = |changed: &[u8], what: &str| {
        let found = fixture.is_refused(changed);
        found.unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    refused(&fixture.with_field(8, 7u64.to_le_bytes()), "id");
    for number in [f64::NAN, f64::INFINITY, -1e300, 1e300] {
        for at in (16..48).step_by(8) {
            refused(&fixture.with_field(at, number.to_le_bytes()), &format!("crop {at} = {number}"));
        }
    }
    for number in [u32::MAX, 1 << 31, 100_000] {
        // Image, its size, the pixels' place, the number of runs, and the first run.
        for at in (80..116).step_by(4) {
            refused(&fixture.with_field(at, number.to_le_bytes()), &format!("whole number at {at} = {number}"));
        }
    }
}
