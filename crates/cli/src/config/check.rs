//! Holds a file to the schema of its type, and says in words what is wrong with it.

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::file_path;
use super::key_path::KeyPath;

/// Something that is wrong with a file.
#[derive(Debug, PartialEq)]
pub struct Mistake {
    /// Where.
    pub at: KeyPath,
    /// What was expected, and what is there.
    pub message: String,
}

/// Everything that the schema finds wrong with a file.
///
/// # Panics
/// If the schema has what schemas of this program's types do not have: a bug.
pub fn mistakes(schema: &Schema, file: &Table) -> Vec<Mistake> {
    let mut mistakes = vec![];
    check(schema, &Value::Table(file.clone()), &KeyPath::default(), &mut mistakes);
    mistakes
}

/// Calls `change` with each path in a file that the schema has found nothing wrong with.
pub fn for_each_path(schema: &Schema, value: &mut Value, change: &mut impl FnMut(&mut String)) {
    let Ok(schema) = chosen(schema, value, &KeyPath::default()) else { return };
    match value {
        Value::String(text) if schema.get("format").is_some_and(|format| format == file_path::FORMAT) => change(text),
        Value::Array(elements) => {
            if let Some(items) = schema.get("items") {
                elements.iter_mut().for_each(|element| for_each_path(items, element, change));
            }
        }
        Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                if let Some(of_key) = property(schema, key) {
                    for_each_path(of_key, value, change);
                }
            }
        }
        _ => {}
    }
}

/// A value's kinds, or what is allowed of it, in words: `a whole number from 1 to 4096`.
pub fn expectation(schema: &Schema) -> String {
    if let Some(options) = options(schema) {
        if let Some(tag) = tag(options) {
            return format!("a table with the key `{tag}`");
        }
        return listed(&options.iter().map(choice).collect::<Vec<_>>());
    }
    if let Some(allowed) = schema.get("enum").and_then(Schema::as_array) {
        return listed(&allowed.iter().map(Schema::to_string).collect::<Vec<_>>());
    }
    match kind(schema) {
        "integer" => format!("a whole number{}", range(schema)),
        "number" => format!("a number{}", range(schema)),
        "boolean" => "true or false".to_string(),
        "string" if schema.get("format").is_some() => "a path".to_string(),
        "string" => "a text".to_string(),
        "array" => {
            let [least, most] = ["minItems", "maxItems"].map(|key| schema.get(key).and_then(Schema::as_u64));
            let n_elements = match (least, most) {
                (Some(least), Some(most)) if least == most => format!(" of {most} elements"),
                (Some(least), Some(most)) => format!(" of {least} to {most} elements"),
                (Some(least), None) => format!(" of at least {least} element{}", if least == 1 { "" } else { "s" }),
                _ => String::new(),
            };
            format!("a list{n_elements}")
        }
        _ => "a table".to_string(),
    }
}

/// The limits of a number, in words that follow its kind; empty without limits.
pub fn range(schema: &Schema) -> String {
    let limit = |key: &str| schema.get(key).map(|limit| limit.to_string().trim_end_matches(".0").replace("e+", "e"));
    match [limit("minimum"), limit("exclusiveMinimum"), limit("maximum")] {
        [Some(low), _, Some(high)] => format!(" from {low} to {high}"),
        [None, Some(low), Some(high)] => format!(" above {low} and at most {high}"),
        [Some(low), _, None] => format!(", {low} or above"),
        [None, Some(low), None] => format!(" above {low}"),
        [None, None, Some(high)] => format!(", {high} or below"),
        [None, None, None] => String::new(),
    }
}

/// The alternatives of a choice.
pub fn options(schema: &Schema) -> Option<&Vec<Schema>> {
    ["oneOf", "anyOf"].into_iter().find_map(|key| schema.get(key)).and_then(Schema::as_array)
}

/// What a table of this schema can have, and the schemas of it.
pub fn properties(schema: &Schema) -> impl Iterator<Item = (&String, &Schema)> {
    schema.get("properties").and_then(Schema::as_object).into_iter().flatten()
}

/// The keys that a table must have, as declared.
pub fn required(schema: &Schema) -> Vec<&str> {
    schema.get("required").and_then(Schema::as_array).into_iter().flatten().filter_map(Schema::as_str).collect()
}

/// The key that says which of a choice of tables it is.
pub fn tag(options: &[Schema]) -> Option<&str> {
    let first = options.iter().find(|option| kind(option) == "object")?;
    properties(first).find(|(_, schema)| schema.get("const").is_some()).map(|(key, _)| key.as_str())
}

/// JSON's name for a value's kind; empty for a choice.
pub fn kind(schema: &Schema) -> &str {
    schema.get("type").and_then(Schema::as_str).unwrap_or_default()
}

fn check(schema: &Schema, value: &Value, at: &KeyPath, mistakes: &mut Vec<Mistake>) {
    // A value of another file's key, which that file's own type checks.
    if schema.as_bool() == Some(true) {
        return;
    }
    let schema = match chosen(schema, value, at) {
        Ok(schema) => schema,
        Err(mistake) => return mistakes.push(mistake),
    };
    let (kind, bad) = (kind(schema), || Mistake {
        at: at.clone(),
        message: format!("expected {}, found {}", expectation(schema), found(value)),
    });
    match (kind, value) {
        ("object", Value::Table(table)) => check_table(schema, table, at, mistakes),
        ("array", Value::Array(elements)) => {
            let limit = |key: &str| schema.get(key).and_then(Schema::as_u64);
            let n_elements = elements.len() as u64;
            if limit("minItems").is_some_and(|least| n_elements < least)
                || limit("maxItems").is_some_and(|most| n_elements > most)
            {
                mistakes.push(bad());
            }
            if let Some(items) = schema.get("items") {
                for (idx, element) in elements.iter().enumerate() {
                    check(items, element, &at.below(idx), mistakes);
                }
            }
        }
        ("string", Value::String(_)) | ("boolean", Value::Boolean(_)) => {}
        ("integer", &Value::Integer(number)) if is_within(schema, number as f64) && is_listed(schema, number) => {}
        ("number", &Value::Integer(number)) if is_within(schema, number as f64) => {}
        ("number", &Value::Float(number)) if is_within(schema, number) => {}
        ("object" | "array" | "string" | "boolean" | "integer" | "number", _) => mistakes.push(bad()),
        _ => panic!("{at}: a schema without a known type: {schema}"),
    }
}

fn check_table(schema: &Schema, table: &Table, at: &KeyPath, mistakes: &mut Vec<Mistake>) {
    for (key, value) in table {
        let at = at.below(key);
        match property(schema, key) {
            Some(of_key) => check(of_key, value, &at, mistakes),
            None => {
                let keys: Vec<String> = properties(schema).map(|(key, _)| format!("`{key}`")).collect();
                let meant = nearest(key, schema).map(|near| format!(", perhaps `{near}`")).unwrap_or_default();
                let message = format!("unknown key{meant}; the keys here are {}", keys.join(", "));
                mistakes.push(Mistake { at, message });
            }
        }
    }
    let missing: Vec<&str> = required(schema).into_iter().filter(|key| !table.contains_key(*key)).collect();
    if !missing.is_empty() {
        let word = if missing.len() == 1 { "key" } else { "keys" };
        let message = format!("missing {word} `{}`", missing.join("`, `"));
        mistakes.push(Mistake { at: at.clone(), message });
    }
}

/// The key that was meant, if one is so near that it is a slip of the pen: a quarter of its letters, or two.
fn nearest<'a>(found: &str, schema: &'a Schema) -> Option<&'a str> {
    let distances = properties(schema).map(|(key, _)| (strsim::damerau_levenshtein(found, key), key.as_str()));
    let (distance, key) = distances.min()?;
    (distance <= (key.len() / 4).max(2) && distance < key.len()).then_some(key)
}

/// The schema of a key.
fn property<'a>(schema: &'a Schema, key: &str) -> Option<&'a Schema> {
    let named = schema.get("properties").and_then(|properties| properties.get(key));
    named.or_else(|| schema.get("additionalProperties").filter(|of_all| of_all.as_bool() != Some(false)))
}

/// The alternative that a value is meant to be: by its text, its tag or its one key.
fn chosen<'a>(schema: &'a Schema, value: &Value, at: &KeyPath) -> Result<&'a Schema, Mistake> {
    let Some(options) = options(schema) else { return Ok(schema) };
    let mistake = |at: KeyPath, message: String| Err(Mistake { at, message });
    let expected = || expectation(schema);
    match (value, tag(options)) {
        (Value::Table(table), Some(tag)) => match table.get(tag) {
            Some(Value::String(name))
                if let Some(option) = options.iter().find(|option| is_tagged(option, tag, name)) =>
            {
                Ok(option)
            }
            Some(other) => mistake(at.below(tag), format!("expected {}, found {}", tags(options, tag), found(other))),
            None => mistake(at.clone(), format!("missing key `{tag}`: expected {}", tags(options, tag))),
        },
        (Value::Table(table), None) => {
            let keyed = |option: &&Schema| {
                kind(option) == "object"
                    && table.len() == 1
                    && properties(option).all(|(key, _)| table.contains_key(key))
            };
            let found = || table.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            match options.iter().find(keyed) {
                Some(option) => Ok(option),
                None => mistake(at.clone(), format!("expected {}, found a table of {}", expected(), found())),
            }
        }
        (Value::String(text), _) => match options.iter().find(|option| is_text(option, text)) {
            Some(option) => Ok(option),
            None => mistake(at.clone(), format!("expected {}, found {text:?}", expected())),
        },
        (other, _) => mistake(at.clone(), format!("expected {}, found {}", expected(), found(other))),
    }
}

fn is_tagged(option: &Schema, tag: &str, name: &str) -> bool {
    property(option, tag).and_then(|schema| schema.get("const")).is_some_and(|constant| constant == name)
}

fn is_text(option: &Schema, text: &str) -> bool {
    let is_listed =
        |allowed: &Schema| allowed.as_array().is_some_and(|allowed| allowed.iter().any(|name| name == text));
    option.get("const").is_some_and(|constant| constant == text) || option.get("enum").is_some_and(is_listed)
}

/// The names that a tag can have, in words.
fn tags(options: &[Schema], tag: &str) -> String {
    let names = options.iter().filter_map(|option| property(option, tag)?.get("const"));
    listed(&names.map(Schema::to_string).collect::<Vec<_>>())
}

/// An alternative, as it is written.
fn choice(option: &Schema) -> String {
    match (option.get("const"), option.get("enum").and_then(Schema::as_array)) {
        (Some(constant), _) => constant.to_string(),
        (None, Some(allowed)) => allowed.iter().map(Schema::to_string).collect::<Vec<_>>().join(", "),
        (None, None) => match properties(option).next() {
            Some((key, _)) => format!("{{ {key} = ... }}"),
            None => expectation(option),
        },
    }
}

fn is_within(schema: &Schema, number: f64) -> bool {
    let limit = |key: &str| schema.get(key).and_then(Schema::as_f64);
    number.is_finite()
        && limit("minimum").is_none_or(|low| number >= low)
        && limit("exclusiveMinimum").is_none_or(|low| number > low)
        && limit("maximum").is_none_or(|high| number <= high)
}

fn is_listed(schema: &Schema, number: i64) -> bool {
    let listed = schema.get("enum").and_then(Schema::as_array);
    listed.is_none_or(|allowed| allowed.iter().any(|allowed| allowed.as_i64() == Some(number)))
}

fn found(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_string(),
        Value::Array(elements) => format!("a list of {}", elements.len()),
        other => other.to_string(),
    }
}

/// `a, b or c`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
