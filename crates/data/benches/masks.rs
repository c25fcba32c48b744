//! Seconds that decoding, drawing and comparing annotated masks takes on one thread, for `scripts/bench/masks.sh`.
//!
//! usage: masks ANNOTATIONS REPEATS

#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program of the benchmarks

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use sensei_data::dataset::{Dataset, Segmentation};
use sensei_data::polygon::rasterize;
use sensei_data::rle::Rle;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let repeats: usize = arguments[2].parse().unwrap();
    let dataset = Dataset::load_coco(Path::new(&arguments[1]), Path::new("")).unwrap();
    let rles: Vec<Rle> = (0..dataset.instances.len()).map(|idx| dataset.mask(idx).unwrap()).collect();
    let n_bytes: usize = rles.iter().map(|rle| rle.size().n_pixels()).sum();

    let seconds = |run: &mut dyn FnMut()| {
        let time = |_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        };
        let mut seconds: Vec<f64> = (0..repeats).map(time).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[repeats / 2]
    };
    let decode = seconds(&mut || rles.iter().for_each(|rle| drop(black_box(rle.to_mask()))));
    // A mask's bytes written once in a buffer of its own: what a cache that holds it allows.
    let write = seconds(&mut || rles.iter().for_each(|rle| drop(black_box(vec![1u8; rle.size().n_pixels()]))));
    // All of them in one buffer: what the memory allows.
    let mut all = vec![0u8; n_bytes];
    let memory = seconds(&mut || black_box(&mut all).fill(1));
    let polygons: Vec<_> = dataset
        .instances
        .iter()
        .filter_map(|instance| match &instance.segmentation {
            Segmentation::Polygons(polygons) => Some((polygons, dataset.images[instance.image_idx].size)),
            Segmentation::Rle(_) | Segmentation::NotRead => None,
        })
        .collect();
    let draw =
        seconds(&mut || polygons.iter().for_each(|(polygons, size)| drop(black_box(rasterize(polygons, *size)))));
    let iou = seconds(&mut || {
        for (idx, rle) in rles.iter().enumerate() {
            let image = dataset.instances[idx].image_idx;
            let same = |other: &&Rle| other.size() == rle.size();
            let others =
                rles.iter().zip(&dataset.instances).filter(|(_, of)| of.image_idx == image).map(|(rle, _)| rle);
            others.filter(same).for_each(|other| {
                black_box(rle.iou(other, false));
            });
        }
    });
    println!("masks {} bytes {n_bytes} polygons {}", rles.len(), polygons.len());
    println!("decode {decode:.6} write {write:.6} memory {memory:.6} draw {draw:.6} iou {iou:.6}");
}
