//! Samples are what the plain way gives, whatever is kept, shared or decoded in part; and how often things are decoded.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

mod turned;
mod whole_images;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sensei_data::augment::{Augmentation, draw, sample_rng};
use sensei_data::crop::{CropGeometry, crop_image, crop_mask};
use sensei_data::crop_rule::{Border, BoxBorder, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_data::prompt_source::PromptSource;
use sensei_samples::batch::HostBatch;
use sensei_samples::error::SampleError;
use sensei_samples::images::ImageCounts;
use sensei_samples::selection::{CrowdRule, EmptyTruthRule, SelectionRules, Subset};
use sensei_samples::source::{InstanceChoice, MAX_KEPT_BYTES, Sample, SampleSource};
use sensei_testing::workspace_root;
use serde_json::json;

const ROI: CropRule = CropRule::Roi { padding: 0.1, grid: 24, border: Border::Corrected };
/// All of 45 x 34 pixels; two are decoded whole always.
const IMAGES: [&str; 6] =
    ["rgb_444.jpg", "rgb_420.jpg", "rgb_restarts.jpg", "grey.jpg", "rgb_420_progressive.jpg", "rgb.png"];
const OBJECTS_PER_IMAGE: usize = 5;
const IMAGE_BYTES: usize = 45 * 34 * 3;

/// A folder with images of each kind, and polygons on them.
struct Scenes {
    folder: tempfile::TempDir,
}

impl Scenes {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let golden = workspace_root().join("tests/golden/decode/images");
        IMAGES.iter().for_each(|name| fs::copy(golden.join(name), folder.path().join(name)).map(drop).unwrap());
        let image = |(id, name): (usize, &&str)| json!({"id": id, "file_name": name, "width": 45, "height": 34});
        let annotation = |id: usize| {
            let (image_id, object) = (id / OBJECTS_PER_IMAGE, id % OBJECTS_PER_IMAGE);
            // From top to bottom, so that they need more and more rows; the last one is in two parts, far apart.
            let (x, y) = ((7 * id % 23) as f64, object as f64 * 4.5);
            let [width, height] = [8.0 + object as f64 * 2.5, 7.0 + (id % 4) as f64 * 3.0];
            let mut polygons = vec![vec![x, y, x + width, y + 1.5, x + width - 2.0, y + height, x + 1.0, y + height]];
            if object == OBJECTS_PER_IMAGE - 1 {
                polygons.push(vec![40.0, 1.0, 44.0, 1.0, 44.0, 6.0]);
            }
            json!({
                "id": id, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                "bbox": [x, y, width, height], "area": width * height, "segmentation": polygons,
            })
        };
        let file = json!({
            "images": IMAGES.iter().enumerate().map(image).collect::<Vec<_>>(),
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": (0..IMAGES.len() * OBJECTS_PER_IMAGE).map(annotation).collect::<Vec<_>>(),
        });
        fs::write(folder.path().join("annotations.json"), serde_json::to_vec(&file).unwrap()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self, rules: SelectionRules, crop: CropRule) -> SampleSource {
        let dataset = Dataset::load_coco(&self.path("annotations.json"), self.folder.path()).unwrap();
        SampleSource::new(dataset, None, rules, crop, ImageLimits::default(), InstanceChoice::All).unwrap()
    }
}

fn roi_source(scenes: &Scenes) -> SampleSource {
    scenes.source(SelectionRules::of_student(ROI), ROI)
}

/// An instance's sample as the documentation has it: whole image, mask as pixels, one after the other, nothing kept.
fn plain(source: &SampleSource, idx: usize, augmentation: &Augmentation, seed: u64, epoch: u64) -> Sample {
    let (dataset, instance) = (&source.dataset, &source.dataset.instances[idx]);
    let path = dataset.image_path(instance.image_idx);
    let image = read_image(&path, &ImageLimits::default()).unwrap().image;
    let truth_in_image = dataset.mask(idx).unwrap();
    let prompt = source.rules.prompt_of(instance, &truth_in_image).unwrap();
    let draw = draw(augmentation, &mut sample_rng(seed, epoch, instance.id));
    let crop: CropGeometry = source.crop.crop(prompt.clone(), image.size).unwrap();
    let geometry = source.crop.shown(draw.jittered(&crop), image.size);
    let (mut pixels, mut truth) = (crop_image(&image, &geometry), crop_mask(&truth_in_image.to_mask(), &geometry));
    draw.photometric(&mut pixels);
    draw.flip_together(geometry.grid, &mut pixels, &mut truth, &mut []);
    let bbox = prompt.bbox().unwrap_or(instance.bbox);
    Sample { annotation_id: instance.id, part_idx: 0, geometry, bbox, pixels, truth, truth_in_image, teacher: None }
}

fn check_equal(got: &Sample, expected: &Sample) {
    let id = expected.annotation_id;
    assert_eq!(got.annotation_id, id);
    assert_eq!((got.geometry, got.bbox), (expected.geometry, expected.bbox), "crop of {id}");
    assert!(got.pixels == expected.pixels, "pixels of {id}");
    assert!(got.truth == expected.truth && got.truth_in_image == expected.truth_in_image, "mask of {id}");
    assert!(got.teacher.is_none());
}

fn prompt_source() -> impl Strategy<Value = PromptSource> {
    prop_oneof![
        Just(PromptSource::Box),
        (0.0f64..0.5, any::<u64>()).prop_map(|(jitter, seed)| PromptSource::JitteredBox { jitter, seed }),
        Just(PromptSource::MaskBox),
        Just(PromptSource::BoxCenter),
        Just(PromptSource::MaskCenter),
        Just(PromptSource::InnermostPoint),
        any::<u64>().prop_map(|seed| PromptSource::RandomPoint { seed }),
    ]
}

fn augmentation() -> impl Strategy<Value = Augmentation> {
    let range = || prop_oneof![Just(0.0), 0.0f64..1.0];
    [range(), range(), range(), range(), range(), range()].prop_map(
        |[flip_probability, roi_shift, roi_scale, brightness, contrast, saturation]| Augmentation {
            flip_probability,
            roi_shift,
            roi_scale,
            roi_aspect: roi_scale / 3.0,
            brightness,
            contrast,
            saturation,
            ..Augmentation::NONE
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn samples_are_those_of_the_plain_way(
        prompt in prompt_source(),
        border in prop_oneof![Just(Border::Reference), Just(Border::Corrected)],
        box_border in prop_oneof![Just(None), Just(Some(BoxBorder::Clipped)), Just(Some(BoxBorder::Padded))],
        augmentation in augmentation(),
        grid in 8u32..40,
        seed: u64,
        max_kept_bytes in prop_oneof![Just(0), Just(3 * IMAGE_BYTES), Just(MAX_KEPT_BYTES)],
        threads in 1usize..4,
    ) {
        let scenes = Scenes::new();
        let crop = match prompt.is_box() {
            true => match box_border {
                Some(border) => CropRule::Box { padding: 0.2, min_side: 6.0, grid, border },
                None => CropRule::Roi { padding: 0.2, grid, border },
            },
            false => CropRule::CenterWindow { grid, border },
        };
        let rules = SelectionRules {
            prompt,
            crop: None,
            subset: Subset::All,
            min_area: 0.0,
            crowd: CrowdRule::LeftOut,
            empty_truth: EmptyTruthRule::Scored,
        };
        let mut source = scenes.source(rules, crop);
        source.keep_images(max_kept_bytes);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // The same images from the second epoch on in part, in batches that begin in the midst of an image.
        for epoch in 0..3 {
            for batch in source.instances.chunks(7) {
                let load = || source.augmented_samples(batch, &augmentation, seed, epoch);
                let samples = pool.install(load).unwrap();
                prop_assert_eq!(samples.len(), batch.len());
                for (&idx, sample) in batch.iter().zip(&samples) {
                    check_equal(sample, &plain(&source, idx, &augmentation, seed, epoch));
                }
                prop_assert!(source.kept_bytes() <= max_kept_bytes);
            }
        }
        let last = *source.instances.last().unwrap();
        let alone = source.augmented_sample(last, &augmentation, seed, 9).unwrap();
        check_equal(&alone, &plain(&source, last, &augmentation, seed, 9));
        let unchanged = plain(&source, last, &Augmentation::NONE, 0, 0);
        check_equal(&source.sample(last).unwrap(), &unchanged);
        check_equal(source.samples(&[source.instances[0], last]).unwrap().last().unwrap(), &unchanged);
    }
}

#[test]
fn a_mask_is_decoded_once_per_sample_and_an_image_once_per_batch() {
    let scenes = Scenes::new();
    let mut source = roi_source(&scenes);
    source.keep_images(0);
    let instances = source.instances.clone();
    assert_eq!(instances.len(), IMAGES.len() * OBJECTS_PER_IMAGE);
    let before = source.n_masks_decoded();
    // Image after image, and mixed: five samples of each of six images either way.
    let mut mixed = instances.clone();
    mixed.sort_by_key(|idx| (idx % OBJECTS_PER_IMAGE, *idx));
    for (n_batches, batch) in [(1, &instances), (2, &mixed)] {
        source.samples(batch).unwrap();
        assert_eq!(source.n_masks_decoded() - before, n_batches * instances.len() as u64);
        let counts = source.image_counts();
        assert_eq!(counts.decoded_whole + counts.decoded_in_part, n_batches * IMAGES.len() as u64, "{counts:?}");
        assert_eq!((counts.decoded_whole, counts.reused), (IMAGES.len() as u64, 0), "{counts:?}");
    }
}

#[test]
fn kept_images_are_not_decoded_again() {
    let scenes = Scenes::new();
    let source = roi_source(&scenes);
    for pass in 0..4 {
        for batch in source.instances.chunks(4) {
            source.samples(batch).unwrap();
        }
        let counts = source.image_counts();
        assert_eq!((counts.decoded_whole, counts.decoded_in_part), (IMAGES.len() as u64, 0), "pass {pass}: {counts:?}");
    }
    assert_eq!(source.kept_bytes(), IMAGES.len() * IMAGE_BYTES);
}

#[test]
fn the_images_used_last_are_kept_within_the_bound() {
    let scenes = Scenes::new();
    let mut source = roi_source(&scenes);
    source.keep_images(2 * IMAGE_BYTES + 1);
    let first_of = |image: usize| image * OBJECTS_PER_IMAGE;
    let mut counts = ImageCounts::default();
    // The image, and what it costs: 0 and 1 are kept, then 0 is used again, so that 2 displaces 1.
    for (image, whole, in_part, reused) in
        [(0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 0, 1), (2, 1, 0, 0), (0, 0, 0, 1), (1, 0, 1, 0)]
    {
        source.sample(first_of(image)).unwrap();
        counts.decoded_whole += whole;
        counts.decoded_in_part += in_part;
        counts.reused += reused;
        assert_eq!(source.image_counts(), counts, "image {image}");
        assert!(source.kept_bytes() <= 2 * IMAGE_BYTES + 1);
    }
    // The upper rows of image 1 are not enough for its last object: whole, for those to come.
    let last_of = |image: usize| first_of(image) + OBJECTS_PER_IMAGE - 1;
    source.sample(last_of(1)).unwrap();
    source.sample(last_of(1) - 1).unwrap();
    counts.decoded_in_part += 1;
    counts.reused += 1;
    assert_eq!(source.image_counts(), counts);
    assert!(source.kept_bytes() > IMAGE_BYTES && source.kept_bytes() <= 2 * IMAGE_BYTES + 1);
}

/// The sample that needs the fewest rows of the first image.
fn upper_sample(source: &SampleSource) -> Result<Sample, SampleError> {
    source.sample(source.instances[0])
}

#[test]
fn damage_below_what_a_sample_needs_is_found_the_first_time() {
    let scenes = Scenes::new();
    let path = scenes.path(IMAGES[0]);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 40;
    // A frame header where coded pixels should be.
    bytes[end..end + 2].copy_from_slice(&[0xff, 0xc1]);
    fs::write(&path, bytes).unwrap();
    let source = roi_source(&scenes);
    for _ in 0..2 {
        assert!(matches!(upper_sample(&source), Err(SampleError::Image { annotation_id: 0, .. })));
    }
    assert_eq!(source.image_counts().decoded_in_part, 0, "a file that was never sound is decoded whole");
}

#[test]
fn a_file_that_changes_during_a_run_is_refused_when_it_is_read_again() {
    let scenes = Scenes::new();
    let mut source = roi_source(&scenes);
    source.keep_images(0);
    upper_sample(&source).unwrap();
    fs::copy(scenes.path(IMAGES[1]), scenes.path(IMAGES[0])).unwrap();
    let Err(SampleError::ImageChanged { path, expected, found }) = upper_sample(&source) else {
        panic!("expected a refusal")
    };
    assert_eq!(path, scenes.path(IMAGES[0]));
    let digest = |name: &Path| blake3::hash(&fs::read(name).unwrap()).to_hex().to_string();
    assert_eq!(found, digest(&scenes.path(IMAGES[1])));
    assert_ne!(expected, found);
}

#[test]
fn the_first_sample_that_cannot_be_had_is_named_whatever_the_threads() {
    let scenes = Scenes::new();
    for name in [IMAGES[1], IMAGES[3]] {
        fs::remove_file(scenes.path(name)).unwrap();
    }
    let source = roi_source(&scenes);
    let mut backwards = source.instances.clone();
    backwards.reverse();
    for _ in 0..20 {
        let named = |batch: &[usize]| match source.samples(batch) {
            Err(SampleError::Image { annotation_id, .. }) => annotation_id as usize,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("expected an error"),
        };
        assert_eq!(named(&source.instances), OBJECTS_PER_IMAGE);
        assert_eq!(named(&backwards), 4 * OBJECTS_PER_IMAGE - 1);
    }
}

#[test]
fn regions_of_boxes_stay_within_the_image_and_long_enough() {
    let scenes = Scenes::new();
    let rule = CropRule::Box { padding: 0.1, min_side: 11.0, grid: 24, border: BoxBorder::Clipped };
    let source = scenes.source(SelectionRules::of_student(rule), rule);
    let wild = Augmentation { roi_shift: 1.0, roi_scale: 1.0, roi_aspect: 1.0, ..Augmentation::NONE };
    let mut shortest = f64::INFINITY;
    for epoch in 0..20 {
        for sample in source.augmented_samples(&source.instances, &wild, 5, epoch).unwrap() {
            let rect = sample.geometry.rect_in_image;
            assert!(rect.x0 >= 0.0 && rect.y0 >= 0.0 && rect.x1 <= 45.0 && rect.y1 <= 34.0, "{rect:?}");
            shortest = shortest.min(rect.width()).min(rect.height());
        }
    }
    assert!((11.0 - 1e-9..11.0 + 1e-9).contains(&shortest), "{shortest}");
    let is_short = |idx: &&usize| {
        let [x, y, width, height] = source.dataset.instances[**idx].bbox;
        let within = |start: f64, len: f64, image: f64| (start + 1.1 * len).min(image) - (start - 0.1 * len).max(0.0);
        within(x, width, 45.0) < 11.0 || within(y, height, 34.0) < 11.0
    };
    let n_short = source.instances.iter().filter(is_short).count();
    assert_eq!((source.n_lengthened().unwrap(), n_short > 0), (n_short, true));
    assert_eq!(roi_source(&scenes).n_lengthened().unwrap(), 0);
}

#[test]
fn parts_of_a_data_set_are_told_apart_and_images_shared() {
    let scenes = Scenes::new();
    let load = |name: &str| Dataset::load_coco(&scenes.path(name), scenes.folder.path()).unwrap();
    let mut file: serde_json::Value =
        serde_json::from_slice(&fs::read(scenes.path("annotations.json")).unwrap()).unwrap();
    for annotation in file["annotations"].as_array_mut().unwrap() {
        annotation["id"] = json!(annotation["id"].as_u64().unwrap() + 1000);
    }
    fs::write(scenes.path("more.json"), serde_json::to_vec(&file).unwrap()).unwrap();
    let mut both = load("annotations.json");
    both.join(load("more.json")).unwrap();
    let n = IMAGES.len() * OBJECTS_PER_IMAGE;
    assert_eq!((both.images.len(), both.instances.len(), both.categories.len()), (IMAGES.len(), 2 * n, 1));
    let rules = SelectionRules::of_student(ROI);
    let source = SampleSource::new(both, None, rules, ROI, ImageLimits::default(), InstanceChoice::All).unwrap();
    let (first, second) =
        (source.sample(source.instances[3]).unwrap(), source.sample(source.instances[n + 3]).unwrap());
    assert_eq!((first.part_idx, second.part_idx), (0, 1));
    assert_eq!((first.annotation_id + 1000, &first.pixels), (second.annotation_id, &second.pixels));
    assert_eq!(HostBatch::new(&[first, second]).part_idxs, [0, 1]);
}
