//! The answers that come with the repository fit the scenes that it renders.

use std::collections::BTreeMap;

use sensei_answers::asked::Question;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::key::AnswerKey;
use sensei_answers::manifest::read_manifest;
use sensei_answers::record::PromptPoint;
use sensei_answers::store::Store;
use sensei_answers::verify::{compare_with_truth, verify};
use sensei_data::dataset::Dataset;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_testing::workspace_root;

use crate::format1::shipped_answers_are_the_old_ones;

#[test]
fn quickstart_answers_fit_the_rendered_scenes() {
    let dir = tempfile::tempdir().unwrap();
    let scenes = dir.path().join("scenes");
    write_synth(&scenes, &SynthConfig::quickstart()).unwrap();
    let mut n_bytes = 0;
    for split in ["train", "val"] {
        let path = workspace_root().join("datasets/quickstart/teacher-cache").join(split);
        n_bytes += verify(&path).unwrap().bytes;
        let manifest = read_manifest(&path).unwrap();
        assert_eq!(manifest.teacher.licence, "Apache-2.0");
        let annotations = scenes.join(format!("annotations/instances_{split}.json"));
        let dataset = Dataset::load_coco(&annotations, &scenes.join("images")).unwrap();
        let rendered = AnswerKey { dataset: sensei_files::digest::hex(&dataset.digest), ..manifest.key };
        let cache = FolderStore::open(&path, &rendered).unwrap();
        let truth = compare_with_truth(&cache, &dataset).unwrap();
        assert_eq!((truth.n_without_record, truth.ious.len()), (0, dataset.instances.len()));
        // MobileSAM answers .936 on these scenes (val); real COCO masks give .70.
        assert!(truth.mean_iou > 0.9, "{split}: {}", truth.mean_iou);
        let mut images: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
        for image in (0..dataset.images.len()).map(|idx| (dataset.images[idx].id, dataset.image_path(idx))) {
            images.insert(image.0, *blake3::hash(&std::fs::read(image.1).unwrap()).as_bytes());
        }
        assert!(matches!(cache.manifest().key.question, Question::Object { padding_points: 1, .. }));
        for instance in &dataset.instances {
            let record = cache.masks(instance.id).unwrap();
            assert_eq!(
                record.image.file_digest, images[&record.image.id],
                "{split}: image of annotation {}",
                instance.id
            );
            assert_eq!(record.prompts[0].points, PromptPoint::of_box(instance.bbox));
        }
        shipped_answers_are_the_old_ones(split, &dataset);
    }
    assert!(n_bytes < 6 << 20, "{n_bytes} bytes in the repository");
}
