//! Samples a second of CPU time on one thread, as `scripts/bench/data.sh` and people measure them. Crops are those of `configs/sensei-box-sample.toml`, on
//! GRID x GRID pixels; CACHE is a folder of teacher answers about the annotations, or `-` for none:
//!
//! - `samples parts ANNOTATIONS IMAGES CACHE GRID`: where the time of a sample goes
//! - `samples rate ANNOTATIONS IMAGES CACHE GRID ROUNDS [packed]`: batches from image files and from packed samples, in turns; or only these
//! - `samples answers CACHE GRID ROUNDS`: answers as they are stored, and cut to crops on GRID x GRID pixels; nothing else
//! - `samples truth ANNOTATIONS IMAGES CACHE`: bytes of an answer, and its mask's mean IoU with the annotated one in the image
//! - `samples repeat CACHE NEW N`: a cache of N answers, those of another one again and again
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use sensei_answers::folder_store::FolderStore;
use sensei_answers::manifest::Manifest;
use sensei_answers::record::MaskRecord;
use sensei_answers::store::Store;
use sensei_answers::verify::{compare_with_truth, stats};
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::augment::{Augmentation, draw, sample_rng};
use sensei_data::crop::{CropGeometry, crop_part, crop_rle, rows_needed};
use sensei_data::crop_rule::{BoxBorder, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::RectInImage;
use sensei_data::image_file::{ImageFile, ImageLimits};
use sensei_data::prompt_source::Prompt;
use sensei_samples::batch::HostBatch;
use sensei_samples::packed::pack::PackedSamples;
use sensei_samples::packed::write::PackPlan;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, Sample, SampleSource};

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AUGMENTATION: Augmentation = Augmentation {
    flip_probability: 0.5,
    roi_shift: 0.03,
    roi_scale: 0.05,
    brightness: 0.2,
    contrast: 0.2,
    saturation: 0.2,
    ..Augmentation::NONE
};
const BATCH: usize = 32;

fn main() {
    sensei_kernels::memory::keep_freed_memory();
    // All work on this thread, whose time is measured.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let text = |idx: usize| arguments[idx].as_str();
    let number = |idx: usize| arguments[idx].parse::<u32>().unwrap();
    match arguments.first().map(String::as_str) {
        Some("parts") => parts(&source(text(1), text(2), text(3), number(4))),
        Some("rate") => rate(source(text(1), text(2), text(3), number(4)), number(5), arguments.len() == 6),
        Some("answers") => answers(&FolderStore::open_any(Path::new(text(1))).unwrap(), number(2), number(3)),
        Some("truth") => truth(text(1), text(2), &FolderStore::open_any(Path::new(text(3))).unwrap()),
        Some("repeat") => {
            repeat(&FolderStore::open_any(Path::new(text(1))).unwrap(), Path::new(text(2)), u64::from(number(3)))
        }
        _ => panic!(
            "parts ANNOTATIONS IMAGES CACHE GRID | rate ANNOTATIONS IMAGES CACHE GRID ROUNDS [packed] | answers CACHE GRID ROUNDS | truth ANNOTATIONS IMAGES CACHE | repeat CACHE NEW N"
        ),
    }
}

fn source(annotations: &str, images: &str, cache: &str, grid: u32) -> SampleSource {
    let dataset = Dataset::load_coco(Path::new(annotations), Path::new(images)).unwrap();
    let open = || -> Box<dyn Store> { Box::new(FolderStore::open_any(Path::new(cache)).unwrap()) };
    let teacher = (cache != "-").then(open);
    let choice = if teacher.is_some() { InstanceChoice::Cached } else { InstanceChoice::All };
    let crop = CropRule::Box { padding: 0.1, min_side: 10.0, grid, border: BoxBorder::Clipped };
    let rules = SelectionRules::of_student(crop);
    SampleSource::new(dataset, teacher, rules, crop, ImageLimits::default(), choice).unwrap()
}

/// Microseconds of each part of a sample, means over all instances.
fn parts(source: &SampleSource) {
    let (dataset, crop_rule, limits) = (&source.dataset, source.crop, ImageLimits::default());
    let mut micros: Vec<(&str, f64)> = vec![];
    let mut time = |what: &'static str, work: &mut dyn FnMut()| {
        let start = now();
        work();
        let spent = seconds_since(start) * 1e6;
        match micros.iter_mut().find(|(known, _)| *known == what) {
            Some(known) => known.1 += spent,
            None => micros.push((what, spent)),
        }
    };
    for &idx in &source.instances {
        let instance = &dataset.instances[idx];
        let size = dataset.images[instance.image_idx].size;
        let (mut mask, mut geometry, mut file, mut rows) = (None, None, None, None);
        time("mask of polygons", &mut || mask = Some(dataset.mask(idx).unwrap()));
        let mask = mask.unwrap();
        let mut drawn = None;
        time("prompt, crop, draw", &mut || {
            let crop = crop_rule.crop(Prompt::Box(instance.bbox), size).unwrap();
            let draw = draw(&AUGMENTATION, &mut sample_rng(1, 0, instance.id));
            geometry = Some(crop_rule.shown(draw.jittered(&crop), size));
            drawn = Some(draw);
        });
        let (geometry, drawn): (CropGeometry, _) = (geometry.unwrap(), drawn.unwrap());
        let path = dataset.image_path(instance.image_idx);
        time("file, digest", &mut || file = Some(ImageFile::read(&path, &limits).unwrap()));
        let n_rows = rows_needed(&geometry, size);
        let file = file.unwrap();
        let mut file = Some(file);
        time("decode", &mut || rows = Some(file.take().unwrap().decode_upper_rows(n_rows, &limits).unwrap()));
        let (rows, mut pixels, mut truth) = (rows.unwrap(), vec![], vec![]);
        time("pixels cropped", &mut || pixels = crop_part(&rows.as_part(), &geometry));
        time("truth cropped", &mut || truth = crop_rle(&mask, &geometry));
        let mut logits = vec![];
        if let Some(store) = &source.teacher {
            let mut record = None;
            time("answer read", &mut || record = Some(store.masks(instance.id).unwrap()));
            let record = record.unwrap();
            time("answer cropped", &mut || logits = record.mask(0, 0).logits_in_crop(&geometry).unwrap());
        }
        time("colours", &mut || drawn.photometric(&mut pixels));
        time("flip", &mut || drawn.flip_together(geometry.grid, &mut pixels, &mut truth, &mut logits));
    }
    let all: Vec<usize> = source.instances.iter().copied().take(BATCH).collect();
    let samples = source.augmented_samples(&all, &AUGMENTATION, 1, 0).unwrap();
    for _ in 0..source.instances.len().div_ceil(BATCH) {
        time("into the batch", &mut || drop(black_box(HostBatch::new(&samples))));
    }
    let n = source.instances.len() as f64;
    println!("{n} samples on one thread, microseconds each");
    micros.iter().for_each(|(what, spent)| println!("{what:20} {:8.1}", spent / n));
    println!("{:20} {:8.1}", "sum", micros.iter().map(|(_, spent)| spent / n).sum::<f64>());
}

/// Samples a second of an epoch's batches.
fn epoch(source: &SampleSource, epoch: u64) -> f64 {
    let start = now();
    let order = sensei_data::sampling::epoch_order(source.instances.len(), 1, epoch);
    let instances: Vec<usize> = order.iter().map(|&at| source.instances[at as usize]).collect();
    for batch in instances.chunks(BATCH) {
        let samples = source.augmented_samples(batch, &AUGMENTATION, 1, epoch).unwrap();
        black_box(HostBatch::new(&samples));
    }
    instances.len() as f64 / seconds_since(start)
}

fn rate(files: SampleSource, rounds: u32, with_files: bool) {
    let folder = std::env::temp_dir().join(format!("sensei-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (path, augmentations) = (folder.join("samples.pack"), [&AUGMENTATION]);
    let plan = PackPlan::new(&files, &augmentations, &|| false).unwrap();
    let start = now();
    plan.write(&path, &|| false, &mut |_| {}).unwrap();
    let seconds = seconds_since(start);
    let (n, n_bytes) = (plan.n_records(), plan.n_bytes());
    println!("packed {n} samples, {n_bytes} bytes, {} a sample, in {seconds:.1} s", n_bytes / n);
    // A source of its own, so that both have what they keep.
    let SampleSource { dataset, rules, crop, limits, teacher, .. } = files;
    let open =
        |teacher, choice| SampleSource::new(dataset.clone(), teacher, rules.clone(), crop, limits, choice).unwrap();
    let second_teacher =
        teacher.as_ref().map(|store| -> Box<dyn Store> { Box::new(FolderStore::open_any(store.location()).unwrap()) });
    let choice = if teacher.is_some() { InstanceChoice::Cached } else { InstanceChoice::All };
    let (files, mut packed) = (open(teacher, choice), open(second_teacher, choice));
    packed.use_pack(PackedSamples::open_any(&path).unwrap(), &augmentations).unwrap();
    if with_files {
        check_same(&files, &packed);
    }
    let (mut of_files, mut of_pack) = (vec![], vec![]);
    // The first round fills caches.
    for round in 0..=rounds {
        let of_round = |source: &SampleSource| epoch(source, u64::from(round));
        let rates = (if with_files { of_round(&files) } else { f64::NAN }, of_round(&packed));
        if round > 0 {
            of_files.push(rates.0);
            of_pack.push(rates.1);
        }
    }
    let (files, pack) = (median(of_files), median(of_pack));
    println!("samples_per_second files {files:.1} packed {pack:.1} ratio {:.1}", pack / files);
    std::fs::remove_dir_all(folder).unwrap();
}

/// An epoch's samples, compared bit by bit.
fn check_same(files: &SampleSource, packed: &SampleSource) {
    for batch in files.instances.chunks(BATCH) {
        let of = |source: &SampleSource| source.augmented_samples(batch, &AUGMENTATION, 1, 77).unwrap();
        for (a, b) in of(files).iter().zip(&of(packed)) {
            assert!(a.geometry == b.geometry && a.bbox == b.bbox && a.annotation_id == b.annotation_id);
            assert!(a.pixels == b.pixels && a.truth == b.truth && a.truth_in_image == b.truth_in_image);
            let logits = |sample: &Sample| {
                sample.teacher.as_ref().map(|teacher| (teacher.logits.clone(), teacher.predicted_iou))
            };
            assert!(logits(a) == logits(b));
        }
    }
    println!("{} samples of an epoch are the same bits", files.instances.len());
}

/// Answers a second, each read and checked: its logits as they are stored, and cut to a crop of two thirds of its area, which moves.
fn answers(store: &FolderStore, grid: u32, rounds: u32) {
    let ids = store.ids();
    let mut rates = [vec![], vec![]];
    for round in 0..=rounds {
        for (is_cut, rates) in [false, true].into_iter().zip(&mut rates) {
            let start = now();
            for &id in &ids {
                let record = store.masks(id).unwrap();
                let area = record.prompts[0].rect_in_image;
                let mut crop = CropGeometry { rect_in_image: area, grid: record.grid };
                if is_cut {
                    let drawn = draw(&AUGMENTATION, &mut sample_rng(1, u64::from(round), id));
                    let inset = |start: f64, end: f64| (start + (end - start) / 6.0, end - (end - start) / 6.0);
                    let ((x0, x1), (y0, y1)) = (inset(area.x0, area.x1), inset(area.y0, area.y1));
                    crop = drawn.jittered(&CropGeometry { rect_in_image: RectInImage { x0, y0, x1, y1 }, grid });
                }
                let answer = record.mask(0, record.prompts[0].best_mask_idx());
                black_box(answer.logits_in_crop(&crop).unwrap());
            }
            if round > 0 {
                rates.push(ids.len() as f64 / seconds_since(start));
            }
        }
    }
    let [stored, cut] = rates.map(median);
    println!("targets_per_second stored {stored:.1} cut {cut:.1}");
}

fn truth(annotations: &str, images: &str, store: &FolderStore) {
    let dataset = Dataset::load_coco(Path::new(annotations), Path::new(images)).unwrap();
    let report = compare_with_truth(store, &dataset).unwrap();
    let stats = stats(store).unwrap();
    let bytes = stats.bytes as f64 / stats.n_records as f64;
    println!("{} answers, {bytes:.1} bytes each, mean IoU with the truth {:.5}", stats.n_records, report.mean_iou);
}

fn repeat(store: &FolderStore, path: &Path, n_records: u64) {
    let Manifest { key, teacher, .. } = store.manifest().clone();
    let mut writer = CacheWriter::create(path, key, teacher, vec![]).unwrap();
    for (annotation_id, id) in (1..=n_records).zip(store.ids().into_iter().cycle()) {
        writer.push_masks(&MaskRecord { annotation_id, ..store.masks(id).unwrap() }).unwrap();
    }
    let manifest = writer.finish().unwrap();
    println!("{} records, {} bytes", manifest.n_records, manifest.shards.iter().map(|shard| shard.bytes).sum::<u64>());
}

/// CPU time of this thread: other programs on the machine do not count, and all work is here.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is that of a value of the type.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn seconds_since(start: Duration) -> f64 {
    (now() - start).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
