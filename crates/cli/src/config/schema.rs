//! JSON schemas of the file types: what editors, the check of a file and the key tables of the documentation go by.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value};

use super::file_path;
use super::promptable::PromptableToml;
use super::protocol::ProtocolToml;
use super::run::RunToml;
use super::search::SearchToml;

/// The schema of a run's configuration, as text.
pub fn run_schema() -> String {
    text(&of::<RunToml>("A run's configuration: docs/configuration.md"))
}

/// The schema of a run's configuration whose student sees whole images, as text.
pub fn promptable_schema() -> String {
    text(&of::<PromptableToml>("A run's configuration, of a student that answers prompts: docs/recipes.md"))
}

/// The schema of a protocol file, as text.
pub fn protocol_schema() -> String {
    text(&of::<ProtocolToml>("A protocol: docs/metrics.md"))
}

/// The schema of the file of a search, as text.
pub fn search_schema() -> String {
    text(&of::<SearchToml>("A search: docs/guides/search.md"))
}

/// The schema of a file type: one tree without references, so that a walk over a file needs no look-ups. In the dialect that the
/// editors' TOML plug-ins know best.
pub fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.with_transform(AsInToml).into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_string(), title.into());
    schema.to_value()
}

fn text(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n"
}

/// Takes out what TOML does not have: null, widths of numbers.
#[derive(Debug, Clone)]
struct AsInToml;

impl Transform for AsInToml {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if object.get("format").is_some_and(|format| format != file_path::FORMAT) {
            object.remove("format");
        }
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [kind] = &types[..] {
                let kind = kind.clone();
                object.insert("type".to_string(), kind);
            }
        }
        if let Some(Value::Array(options)) = object.get_mut("anyOf") {
            options.retain(|option| option.get("type").is_none_or(|kind| kind != "null"));
            if let [Value::Object(only)] = &options[..] {
                let only: Map<String, Value> = only.clone();
                object.remove("anyOf");
                for (key, value) in only {
                    // The key's own description says more than its type's.
                    object.entry(key).or_insert(value);
                }
            }
        }
        if let Some(Value::String(description)) = object.get_mut("description") {
            *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
        }
    }
}
