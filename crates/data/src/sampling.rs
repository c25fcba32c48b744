//! Which samples, in which order: shuffles, splits and subsets that are the same on every machine.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Image ids on the two sides of a split, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSplit {
    /// For training.
    pub train: Vec<u64>,
    /// For validation.
    pub held_out: Vec<u64>,
}

/// The order in which an epoch visits samples `0..n_samples`.
///
/// # Panics
/// If there are 2^32 samples or more.
pub fn epoch_order(n_samples: usize, seed: u64, epoch: u64) -> Vec<u32> {
    shuffled(n_samples, &mut stream(Purpose::EpochOrder, seed, epoch, 0))
}

/// Splits by image, so that no image has objects on both sides. Repeated ids count once; their order does not matter.
///
/// `round(held_out_fraction * images)` images are held out.
///
/// # Panics
/// If the fraction is not in `[0, 1]`.
pub fn split_images(image_ids: &[u64], held_out_fraction: f64, seed: u64) -> ImageSplit {
    assert!((0.0..=1.0).contains(&held_out_fraction), "split_images: a fraction of {held_out_fraction}");
    let ids: Vec<u64> = image_ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let n_held_out = (held_out_fraction * ids.len() as f64).round() as usize;
    let held_out: BTreeSet<u32> = subset(ids.len(), n_held_out, seed).into_iter().collect();
    let (held_out, train): (Vec<_>, Vec<_>) = (0u32..).zip(ids).partition(|(idx, _)| held_out.contains(idx));
    let ids = |side: Vec<(u32, u64)>| side.into_iter().map(|(_, id)| id).collect();
    ImageSplit { train: ids(train), held_out: ids(held_out) }
}

/// Draws `n_chosen` of the samples `0..n_samples`, ascending. With the same seed a smaller subset lies within a larger one.
///
/// # Panics
/// If more are asked for than there are, or there are 2^32 samples or more.
pub fn subset(n_samples: usize, n_chosen: usize, seed: u64) -> Vec<u32> {
    assert!(n_chosen <= n_samples, "subset: {n_chosen} of {n_samples}");
    let mut chosen = shuffled(n_samples, &mut stream(Purpose::Subset, seed, 0, 0));
    chosen.truncate(n_chosen);
    chosen.sort_unstable();
    chosen
}

/// Draws `n_chosen` of an image's `n_instances` for an epoch, ascending; all of them if there are no more.
///
/// # Panics
/// If there are 2^32 instances or more.
pub fn instances_of_epoch(n_instances: usize, n_chosen: usize, seed: u64, epoch: u64, image_id: u64) -> Vec<u32> {
    let mut chosen = shuffled(n_instances, &mut stream(Purpose::Instances, seed, epoch, image_id));
    chosen.truncate(n_chosen);
    chosen.sort_unstable();
    chosen
}

/// Draws `n_visible` of an image's `n_patches` for an epoch, ascending.
///
/// # Panics
/// If more are asked for than there are, or there are 2^32 patches or more.
pub fn visible_patches(n_patches: usize, n_visible: usize, seed: u64, epoch: u64, image_id: u64) -> Vec<u32> {
    assert!(n_visible <= n_patches, "visible_patches: {n_visible} of {n_patches}");
    let mut chosen = shuffled(n_patches, &mut stream(Purpose::Patches, seed, epoch, image_id));
    chosen.truncate(n_visible);
    chosen.sort_unstable();
    chosen
}

/// Whether an instance is prompted by its box in an epoch, which has this probability.
pub fn starts_with_box(probability: f64, seed: u64, epoch: u64, annotation_id: u64) -> bool {
    unit(&mut stream(Purpose::PromptKind, seed, epoch, annotation_id)) < probability
}

/// Which of `n_pixels` an instance's first point is in an epoch.
///
/// # Panics
/// If there are none.
pub fn first_point(n_pixels: u32, seed: u64, epoch: u64, annotation_id: u64) -> u32 {
    below(&mut stream(Purpose::FirstPoint, seed, epoch, annotation_id), n_pixels)
}

/// Which of `n_pixels` an instance's next point is, in a round of an epoch; rounds are counted from 1, up to 255.
///
/// # Panics
/// If there are none.
pub fn next_point(n_pixels: u32, seed: u64, epoch: u64, round: u8, annotation_id: u64) -> u32 {
    let at = epoch << 8 | u64::from(round);
    below(&mut stream(Purpose::NextPoint, seed, at, annotation_id), n_pixels)
}

/// What random numbers are for; streams of different purposes have nothing in common.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Augmentation,
    BoxJitter,
    EpochOrder,
    FirstPoint,
    Instances,
    NextPoint,
    Paste,
    Patches,
    PromptKind,
    RandomPoint,
    Subset,
    Synth,
}

/// The generator for one purpose: its key is the seed and the two numbers, nothing else.
pub(crate) fn stream(purpose: Purpose, seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let tag: &[u8; 8] = match purpose {
        Purpose::Augmentation => b"augment.",
        Purpose::BoxJitter => b"jitter..",
        Purpose::EpochOrder => b"epoch...",
        Purpose::FirstPoint => b"1stpoint",
        Purpose::Instances => b"instance",
        Purpose::NextPoint => b"nxtpoint",
        Purpose::Paste => b"paste...",
        Purpose::Patches => b"patches.",
        Purpose::PromptKind => b"prompts.",
        Purpose::RandomPoint => b"point...",
        Purpose::Subset => b"subset..",
        Purpose::Synth => b"synth...",
    };
    let mut key = [0u8; 32];
    for (out, part) in
        key.as_chunks_mut::<8>().0.iter_mut().zip([seed.to_le_bytes(), a.to_le_bytes(), b.to_le_bytes(), *tag])
    {
        *out = part;
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `[0, 1)`, a multiple of 2^-53.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in `0..bound`, without bias.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    // The high half of a 64-bit product; the few low halves that would favour some results are drawn again (Lemire 2019).
    let unfair = bound.wrapping_neg() % bound;
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(bound);
        if product as u32 >= unfair {
            return (product >> 32) as u32;
        }
    }
}

/// Fisher-Yates.
pub(crate) fn shuffled(n_samples: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let n_samples = u32::try_from(n_samples).expect("fewer than 2^32 samples");
    let mut order: Vec<u32> = (0..n_samples).collect();
    for idx in (1..n_samples).rev() {
        order.swap(idx as usize, below(rng, idx + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with an independent ChaCha8 in Python.
    #[test]
    fn epoch_orders_are_these_on_every_machine() {
        assert_eq!(epoch_order(8, 1, 0), [7, 4, 5, 3, 1, 2, 0, 6]);
        assert_eq!(epoch_order(8, 1, 1), [1, 6, 4, 2, 3, 5, 0, 7]);
        assert_eq!(subset(1000, 5, 7), [219, 621, 735, 834, 922]);
        assert_eq!(split_images(&[10, 20, 30, 40, 50, 60], 0.34, 3).held_out, [30, 60]);
    }

    #[test]
    fn an_epoch_visits_each_sample_once() {
        for n_samples in [0, 1, 2, 999] {
            let mut order = epoch_order(n_samples, 5, 2);
            order.sort_unstable();
            assert!(order.iter().map(|&idx| idx as usize).eq(0..n_samples));
        }
        assert_ne!(epoch_order(99, 5, 2), epoch_order(99, 5, 3));
        assert_ne!(epoch_order(99, 5, 2), epoch_order(99, 6, 2));
    }

    #[test]
    fn no_image_is_on_both_sides() {
        let ids: Vec<u64> = (0..500).map(|idx| idx * 7 % 331).collect();
        let split = split_images(&ids, 0.2, 9);
        assert_eq!((split.train.len(), split.held_out.len()), (331 - 66, 66));
        let mut all = [split.train.clone(), split.held_out.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..331));
        let reversed: Vec<u64> = ids.iter().rev().copied().collect();
        assert_eq!(split_images(&reversed, 0.2, 9), split, "the order of the ids does not matter");
        assert!(split_images(&ids, 0.0, 9).held_out.is_empty() && split_images(&ids, 1.0, 9).train.is_empty());
    }

    #[test]
    fn a_smaller_subset_lies_within_a_larger_one() {
        let (small, large) = (subset(200, 20, 4), subset(200, 60, 4));
        assert!(small.is_sorted() && small.iter().all(|idx| large.contains(idx)));
        assert_eq!((small.len(), large.len()), (20, 60));
    }

    #[test]
    fn small_ranges_are_drawn_evenly() {
        let mut rng = stream(Purpose::Subset, 0, 0, 0);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[below(&mut rng, 7) as usize] += 1);
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 400), "{counts:?}");
    }
}
