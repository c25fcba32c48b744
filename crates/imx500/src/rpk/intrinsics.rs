//! `network_intrinsics`: what the host's software is told of a network. JSON, held to what picamera2 takes.

use std::path::Path;

use sensei_files::bounded::read_bounded;
use serde_json::Value;

use crate::refusal::{PackageError, Place, Refusal};

/// A JSON object that picamera2's `IMX500()` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intrinsics(String);

impl Intrinsics {
    /// What the host has to know of a student: mask logits of a square image.
    pub fn of_student() -> Self {
        Self(STUDENT_INTRINSICS.into())
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// If it cannot be read or is longer than 64 KiB; as [`Intrinsics::parse`].
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        let bytes = read_bounded(path, MAX_INTRINSICS as u64)?;
        let utf8 = std::str::from_utf8(&bytes);
        let text = utf8.map_err(|error| Refusal::byte(error.valid_up_to(), "UTF-8", "other bytes").of(path))?;
        Self::parse(text).map_err(|refusal| refusal.of(path))
    }

    /// The object in a text.
    ///
    /// # Errors
    /// If it is no JSON object of at most 64 KiB, its task is none of picamera2's ([`TASKS`]), or another key that
    /// picamera2 knows has a value that it refuses. Keys that picamera2 does not know are taken, as it takes them.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_INTRINSICS {
            return Err(Refusal::byte(MAX_INTRINSICS, "the end of the text", format!("{} bytes", text.len())));
        }
        let parsed: Value = serde_json::from_str(text)
            .map_err(|error| Refusal::new(Place::Line(error.line()), "a JSON object", error.to_string()))?;
        if !parsed.is_object() {
            return Err(Refusal::new(Place::Line(1), "a JSON object", short(&parsed)));
        }
        for (path, expected, is_right) in RULES {
            let value = path.iter().try_fold(&parsed, |value, key| value.get(key));
            if let Some(value) = value.filter(|value| !is_right(value)) {
                return Err(Refusal::key(path.join("."), *expected, short(value)));
            }
        }
        Ok(Self(text.into()))
    }

    /// The text, as it was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value, for a message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(80).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn is_task(value: &Value) -> bool {
    value.as_str().is_some_and(|task| TASKS.contains(&task))
}

fn is_rate(value: &Value) -> bool {
    value.as_f64().is_some_and(|rate| rate >= 0.0)
}

/// A JSON schema's integer: 1.0 is one.
fn is_side(value: &Value) -> bool {
    value.as_f64().is_some_and(|side| side > 0.0 && side.fract() == 0.0)
}

fn is_aspect(value: &Value) -> bool {
    ["width", "height"].iter().all(|side| value.get(side).is_some_and(is_side))
}

fn is_order(value: &Value) -> bool {
    value.as_str().is_some_and(|order| ["xy", "yx"].contains(&order))
}

fn is_list_of_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|labels| labels.iter().all(Value::is_string))
}

/// The words that picamera2 takes for `task`.
pub const TASKS: [&str; 4] = ["classification", "object detection", "pose estimation", "segmentation"];

/// What the host's software has to know of a student: mask logits of a square image. JSON as picamera2 reads it.
pub const STUDENT_INTRINSICS: &str =
    r#"{"task": "segmentation", "inference_rate": 30, "input_aspect_ratio": {"width": 1, "height": 1}}"#;

type Rule = (&'static [&'static str], &'static str, fn(&Value) -> bool);

/// Keys, what picamera2 expects there, and whether a value is that; its schema names no others.
const RULES: &[Rule] = &[
    (
        &["task"],
        "a task that picamera2 knows: \"classification\", \"object detection\", \"pose estimation\" or \"segmentation\"",
        is_task,
    ),
    (&["inference_rate"], "a number from 0", is_rate),
    (&["cpu"], "an object", Value::is_object),
    (&["cpu", "bbox_normalization"], "true or false", Value::is_boolean),
    (&["cpu", "bbox_order"], "\"xy\" or \"yx\"", is_order),
    (&["cpu", "softmax"], "true or false", Value::is_boolean),
    (&["cpu", "post_processing"], "a text", Value::is_string),
    (&["input_aspect_ratio"], "an object of width and height, integers from 1", is_aspect),
    (&["classes"], "an object", Value::is_object),
    (&["classes", "labels"], "a list of texts", is_list_of_texts),
    (&["classes", "ignore_undefined"], "true or false", Value::is_boolean),
];

pub(super) const MAX_INTRINSICS: usize = 64 << 10;
