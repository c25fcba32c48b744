//! Keys: what two of them differ in, what none may hold, and what their digest is over.

use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize, Zoom};
use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{Context, FeatureDtype, Kept, KeptMasks, ScaleSource};
use sensei_answers::key::AnswerKey;
use sensei_answers::writer::CacheWriter;
use sensei_data::prompt_source::PromptSource;

use crate::{key, rich_key, teacher, text, write};

fn features(tap: &str, channels: u32, dtype: FeatureDtype) -> AnswerKey {
    let kept = Kept::ImageFeatures { tap: tap.into(), grid: 96, channels, dtype };
    AnswerKey { question: Question::Image, kept, ..key(96) }
}

fn zoomed(longest_side: u32, zoom: Zoom) -> Preprocessing {
    let (resize, normalization) = (Resize::PillowBilinear, Normalization::Imagenet);
    Preprocessing::Letterbox { longest_side, resize, normalization, zoom: Some(zoom) }
}

fn several_points(count: u32) -> Question {
    Question::Object { prompts: vec![PromptSource::RandomPoints { count, seed: 1 }], padding_points: 1 }
}

/// Keys of which no two are equal.
fn different_keys() -> Vec<AnswerKey> {
    let mut keys = vec![key(96), key(97), rich_key(96)];
    let mut add = |change: fn(&mut AnswerKey)| {
        let mut changed = key(96);
        change(&mut changed);
        keys.push(changed);
    };
    let normalization = Normalization::Imagenet;
    add(|k| k.teacher = "another".into());
    add(|k| k.dataset = "beef".into());
    add(|k| k.preprocessing = Preprocessing::NotStated);
    add(|k| k.preprocessing = Preprocessing::Foreign("not stated".into()));
    add(|k| k.question = Question::Foreign("box".into()));
    add(|k| k.question = Question::Foreign("box with 1 padding points".into()));
    add(|k| k.question = Question::Object { prompts: vec![PromptSource::Box], padding_points: 0 });
    add(|k| k.question = Question::Object { prompts: vec![PromptSource::MaskBox], padding_points: 1 });
    add(|k| k.question = Question::Object { prompts: vec![PromptSource::RandomPoint { seed: 1 }], padding_points: 1 });
    add(|k| k.question = Question::Object { prompts: vec![PromptSource::RandomPoint { seed: 2 }], padding_points: 1 });
    add(|k| k.question = several_points(1));
    add(|k| k.question = several_points(3));
    for longest_side in [512, 1025] {
        let resize = Resize::PillowBilinear;
        let preprocessing = Preprocessing::Letterbox { longest_side, resize, normalization, zoom: None };
        keys.push(AnswerKey { preprocessing, ..key(96) });
    }
    for zoom in
        [Zoom { below: 96, surroundings: 4 }, Zoom { below: 64, surroundings: 4 }, Zoom { below: 64, surroundings: 8 }]
    {
        keys.push(AnswerKey { preprocessing: zoomed(1024, zoom), ..key(96) });
    }
    for resize in [Resize::PillowBilinear, Resize::Sam2Transforms] {
        keys.push(AnswerKey { preprocessing: Preprocessing::Stretch { side: 1024, resize, normalization }, ..key(96) });
    }
    let around = |region_scale, context_scale, min_side| Context::AroundBox { region_scale, context_scale, min_side };
    for context in [
        around(1.2, 2.0, 0.0),
        around(1.0, 1.5, 0.0),
        around(1.2, 1.5, 192.0),
        Context::ClippedRegion { region_scale: 1.2 },
        Context::WholeFrame,
        Context::NotStated,
    ] {
        let kept = Kept::MaskLogits { context, grid: 96, logit_step: 0.125, masks: KeptMasks::Single };
        keys.push(AnswerKey { kept, ..key(96) });
    }
    for (logit_step, masks) in [(0.25, KeptMasks::Single), (0.125, KeptMasks::BestOfThree), (0.125, KeptMasks::Four)] {
        let context = around(1.2, 1.5, 0.0);
        keys.push(AnswerKey { kept: Kept::MaskLogits { context, grid: 96, logit_step, masks }, ..key(96) });
    }
    for dtype in [
        FeatureDtype::F32,
        FeatureDtype::F16,
        FeatureDtype::Int8 { scales: ScaleSource::Image },
        FeatureDtype::Int8 { scales: ScaleSource::Dataset },
        FeatureDtype::Int4 { scales: ScaleSource::Image },
        FeatureDtype::Int4 { scales: ScaleSource::Dataset },
    ] {
        keys.push(features("embedding", 256, dtype));
    }
    keys.extend([features("layers.2", 256, FeatureDtype::F32), features("embedding", 320, FeatureDtype::F32)]);
    keys
}

#[test]
fn any_two_keys_differ_in_words_and_in_their_digests() {
    let keys = different_keys();
    for (idx, one) in keys.iter().enumerate() {
        one.check().unwrap();
        for (other_idx, other) in keys.iter().enumerate() {
            let (differences, is_same) = (one.differences(other), idx == other_idx);
            assert_eq!(differences.is_empty(), is_same, "{one:?} {other:?}");
            assert_eq!(one.digest() == other.digest(), is_same, "{one:?} {other:?}");
            for difference in differences {
                assert_ne!(difference.expected, difference.found, "{}", difference.part);
            }
        }
    }
}

#[test]
fn a_key_comes_back_from_json_and_nothing_else_does() {
    for key in different_keys() {
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<AnswerKey>(&json).unwrap(), key, "{json}");
    }
    let json = serde_json::to_string(&key(96)).unwrap();
    for (from, to) in [
        ("\"grid\":96", "\"grid\":96,\"gird\":96"),
        ("\"grid\":96,", ""),
        ("\"single\"", "\"both\""),
        ("\"box\"", "\"circle\""),
        ("\"padding_points\":1", "\"padding_points\":-1"),
        ("\"min_side\":0.0", "\"min_side\":0.0,\"side\":1"),
        ("\"imagenet\"", "{\"imagenet\":1}"),
    ] {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json, "{from}");
        assert!(serde_json::from_str::<AnswerKey>(&changed).is_err(), "{changed}");
    }
}

/// The canonical form, spelt out: a digest that changes makes every cache stale.
#[test]
fn the_digest_is_over_the_parts_as_documented() {
    let parts = [
        r#""7ea""#,
        r#"{"letterbox":{"longest_side":1024,"resize":"pillow_bilinear","normalization":"imagenet"}}"#,
        r#"{"object":{"prompts":["box"],"padding_points":1}}"#,
        r#"{"mask_logits":{"context":{"around_box":{"region_scale":1.2,"context_scale":1.5,"min_side":0.0}},"grid":96,"logit_step":0.125,"masks":"single"}}"#,
        r#""da7a""#,
    ];
    let mut bytes = b"sensei answer key 2\0".to_vec();
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    assert_eq!(key(96).digest(), *blake3::hash(&bytes).as_bytes());
}

#[test]
fn stale_cache_is_an_error_that_names_the_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(6), &[1, 2], 6, 300);
    let check = |wanted: AnswerKey, expected: &str| {
        let error = FolderStore::open(&path, &wanted).unwrap_err();
        assert!(matches!(error, CacheError::KeyMismatch { .. }), "{error}");
        assert_eq!(error.to_string(), format!("{}: stale teacher cache: {expected}", path.display()));
    };
    let of = |change: fn(&mut AnswerKey)| {
        let mut wanted = key(6);
        change(&mut wanted);
        wanted
    };
    check(of(|k| k.teacher = "another".into()), "teacher: expected `another`, found `7ea`");
    check(of(|k| k.dataset = "beef".into()), "dataset: expected `beef`, found `da7a`");
    check(
        of(|k| k.preprocessing = Preprocessing::NotStated),
        "preprocessing: expected `not stated`, found `longest side 1024 by Pillow's bilinear filter, ImageNet's mean and \
         deviation, zeros on the right and below`",
    );
    check(
        of(|k| k.question = Question::Object { prompts: vec![PromptSource::BoxCenter], padding_points: 2 }),
        "question: expected `box_center with 2 padding points`, found `box with 1 padding points`",
    );
    check(key(8), "kept grid: expected `8`, found `6`");
    let context = Context::AroundBox { region_scale: 1.2, context_scale: 2.0, min_side: 192.0 };
    let kept = Kept::MaskLogits { context, grid: 6, logit_step: 0.125, masks: KeptMasks::Three };
    check(
        AnswerKey { kept, ..key(6) },
        "kept context: expected `around the box, 2 x 1.2 x its longer side, at least 192 pixels`, found `around the box, 1.5 x \
         1.2 x its longer side`; kept masks: expected `three`, found `the single answer`",
    );
    check(
        AnswerKey { question: key(6).question, ..features("embedding", 256, FeatureDtype::F16) },
        "kept: expected `image features`, found `mask logits`; kept grid: expected `96`, found `6`",
    );
}

#[test]
fn keys_that_no_cache_can_have_are_refused_with_the_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let refuses = |wrong: AnswerKey, words: &str| {
        let error = text(&CacheWriter::create(&path, wrong, teacher(), vec![]).unwrap_err());
        assert!(error.contains("cache: no teacher cache can have this key: ") && error.contains(words), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    let around = |region_scale, context_scale, min_side| {
        let context = Context::AroundBox { region_scale, context_scale, min_side };
        AnswerKey { kept: Kept::MaskLogits { context, grid: 4, logit_step: 0.125, masks: KeptMasks::Single }, ..key(4) }
    };
    let object =
        |prompts, padding_points| AnswerKey { question: Question::Object { prompts, padding_points }, ..key(4) };
    refuses(key(0), "kept grid: expected 1 to 1024, found 0");
    refuses(key(1025), "kept grid");
    refuses(around(f64::NAN, 1.5, 0.0), "kept region_scale: expected 0.001 to 1000, found NaN");
    refuses(around(1.2, f64::INFINITY, 0.0), "kept context_scale");
    refuses(around(1.2, 1.5, -0.0), "kept min_side: expected 0 to 1000000, found -0");
    refuses(object(vec![], 1), "question prompts: expected 1 to 64, found 0");
    refuses(object(vec![PromptSource::Box; 65], 1), "question prompts");
    refuses(object(vec![PromptSource::Box], 17), "question padding_points");
    refuses(object(vec![PromptSource::JitteredBox { jitter: 0.7, seed: 0 }], 1), "question prompts jitter");
    refuses(object(vec![PromptSource::RandomPoints { count: 0, seed: 0 }], 1), "question prompts count");
    refuses(AnswerKey { question: Question::Foreign(" ".into()), ..key(4) }, "question: expected words, found none");
    for (below, surroundings, words) in [
        (0, 4, "preprocessing zoom below: expected 1 to 512, found 0"),
        (513, 4, "preprocessing zoom below: expected 1 to 512, found 513"),
        (96, 0, "preprocessing zoom surroundings: expected 1 to 64, found 0"),
        (96, 65, "preprocessing zoom surroundings"),
    ] {
        refuses(AnswerKey { preprocessing: zoomed(512, Zoom { below, surroundings }), ..key(4) }, words);
    }
    refuses(
        AnswerKey { preprocessing: Preprocessing::Foreign(String::new()), ..key(4) },
        "preprocessing: expected words",
    );
    refuses(
        AnswerKey { question: Question::Image, ..key(4) },
        "question: expected a question about an object where mask logits",
    );
    refuses(
        AnswerKey { question: key(4).question, ..features("embedding", 1, FeatureDtype::F32) },
        "question: expected the question \"image\" where image features are kept, found box with 1 padding points",
    );
    refuses(features("", 1, FeatureDtype::F32), "kept tap");
    refuses(features("embedding", 0, FeatureDtype::F32), "kept channels: expected 1 to 65536, found 0");
}

#[test]
fn the_answer_to_the_students_prompt_is_chosen_among_several() {
    let question = rich_key(4).question;
    assert_eq!(question.prompt_idx(&PromptSource::Box), 1);
    assert_eq!(question.prompt_idx(&PromptSource::InnermostPoint), 0);
    assert_eq!(question.prompt_idx(&PromptSource::MaskCenter), 0, "the first, where none is alike");
    assert_eq!(Question::Foreign("a click".into()).prompt_idx(&PromptSource::Box), 0);
}
