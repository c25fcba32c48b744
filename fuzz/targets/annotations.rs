//! Annotation files, read as COCO's and as LVIS's, and each mask of what is accepted; and split in two.
#![no_main]

use std::path::Path;

use sensei_data::dataset::Dataset;
use sensei_data::split::split_file;
use sensei_fuzz::as_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    as_file("json", bytes, |path| {
        if let Ok(split) = split_file(path, 0.5, 1) {
            assert!(split.train.n_annotations > 0 && split.held_out.n_annotations > 0);
        }
        for load in [Dataset::load_coco, Dataset::load_lvis] {
            let Ok(dataset) = load(path, Path::new("")) else { continue };
            let mut pixels = 0;
            for (idx, instance) in dataset.instances.iter().enumerate() {
                let image = &dataset.images[instance.image_idx];
                pixels += u64::from(image.size.width) * u64::from(image.size.height);
                // A mask is as large as its image says; a few large ones are enough.
                if pixels > 1 << 22 {
                    break;
                }
                let Ok(mask) = dataset.mask(idx) else { continue };
                assert_eq!(mask.size(), image.size);
            }
        }
    });
});
