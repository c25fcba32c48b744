//! Paths in configurations.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A path, in a file relative to the file's folder, absolute once it is read.
///
/// A type of its own, so that the schema says which texts are paths.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(transparent)]
pub struct FilePath(pub PathBuf);

impl JsonSchema for FilePath {
    fn schema_name() -> Cow<'static, str> {
        "FilePath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": FORMAT })
    }
}

/// What the schema says of paths. JSON Schema lets validators pass over formats that they do not know.
pub const FORMAT: &str = "path";

/// The path below `folder`, without `a/..` detours, so that messages stay short. Links are not followed. An address of an object store
/// is no path of this machine and stays as it is.
pub fn absolute(folder: &Path, path: &str) -> PathBuf {
    if sensei_store::open::is_remote(path) {
        return path.into();
    }
    let mut result = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}
