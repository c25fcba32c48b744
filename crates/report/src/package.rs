//! The deployment package on a page: the converter's own figures beside the estimate, the files, and what made them.

use std::fs;
use std::path::Path;

use sensei_files::error::FileError;
use serde_json::Value;

use crate::error::ReportPageError;
use crate::html::{Cell, Table, escape, folded};
use crate::scores::facts_list;

/// The section of a folder with a `manifest.json`.
///
/// # Errors
/// If the manifest or the folder cannot be read.
pub(crate) fn package(folder: &Path) -> Result<String, ReportPageError> {
    let path = folder.join("manifest.json");
    let text = fs::read_to_string(&path).map_err(FileError::io(&path, "read"))?;
    let manifest: Value = serde_json::from_str(&text).map_err(ReportPageError::not(&path, "JSON"))?;
    let mut html = String::new();
    if manifest["memory_estimate"].is_object() {
        html.push_str(&memory(&manifest));
    }
    html.push_str(&try_it(folder));
    html.push_str(&files(folder)?);
    let rest = ["scores", "protocol", "memory_estimate", "converter_memory"];
    let facts: Vec<(&str, String)> = manifest
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !rest.contains(&key.as_str()))
        .map(|(key, value)| (key.as_str(), value.as_str().map_or_else(|| value.to_string(), String::from)))
        .collect();
    html.push_str(&folded("Manifest: digests of everything that made it", &facts_list(&facts)));
    Ok(html)
}

/// The page that asks this package about a person's own pictures, if it lies beside the report; else how it is made.
fn try_it(package: &Path) -> String {
    match package.parent().is_some_and(|run| run.join(TRY).is_file()) {
        true => format!(
            "<p><a href=\"{TRY}\">Try it</a> on a picture of your own, in this browser, with the model's own integers.</p>\n"
        ),
        false => format!(
            "<p>To try it on a picture of your own: <code>web/build.sh RUN/package RUN/{TRY}</code>, then \
             <code>sensei report RUN</code>, which links to it.</p>\n"
        ),
    }
}

/// Beside the report.
const TRY: &str = "try.html";

/// The sizes of a folder's files.
///
/// # Errors
/// If it cannot be listed.
pub(crate) fn files(folder: &Path) -> Result<String, ReportPageError> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).map_err(FileError::io(folder, "list"))? {
        let entry = entry.map_err(FileError::io(folder, "list"))?;
        let about = entry.metadata().map_err(FileError::io(&entry.path(), "read"))?;
        if about.is_file() {
            found.push((entry.file_name().to_string_lossy().into_owned(), about.len()));
        }
    }
    found.sort();
    let mut table = Table::new("Files", &["file", "bytes"]).sortable();
    for (name, bytes) in found {
        table.row("", &[Cell::text(&name), Cell::number(bytes as f64, grouped(bytes))]);
    }
    Ok(folded("Files and their sizes", &table.html()))
}

/// The memory of the chip: our estimate, and what the converter says.
fn memory(manifest: &Value) -> String {
    let (estimate, converter) = (&manifest["memory_estimate"], &manifest["converter_memory"]);
    let is_converted = converter.is_object();
    let head: &[&str] = if is_converted {
        &["memory, bytes", "the converter's", "our estimate", "difference"]
    } else {
        &["memory, bytes", "our estimate"]
    };
    let caption = match is_converted {
        true => "What the network takes of the chip, by the vendor's converter and by our estimate",
        false => {
            "What the network takes of the chip, by our estimate: the converter has not run (sensei export RUN --rpk)"
        }
    };
    let mut table = Table::new(caption, head);
    let of = |from: &Value, key: &str| from[key].as_u64();
    let total = |from: &Value| Some(of(from, "coefficients")? + of(from, "runtime")? + of(from, "reserved")?);
    let mut row = |name: &str, found: Option<u64>, estimated: Option<u64>| {
        let number = |value: Option<u64>| {
            value.map_or_else(|| Cell::text("not known"), |value| Cell::number(value as f64, grouped(value)))
        };
        let mut cells = vec![Cell::text(name)];
        if is_converted {
            cells.push(number(found));
        }
        cells.push(number(estimated));
        if is_converted {
            let percent = found.zip(estimated).filter(|(found, _)| *found > 0);
            let percent = percent.map(|(found, estimated)| 100.0 * (estimated as f64 / found as f64 - 1.0));
            cells.push(
                percent.map_or_else(|| Cell::text(""), |percent| Cell::number(percent, format!("{percent:+.2} %"))),
            );
        }
        table.row("", &cells);
    };
    for (name, key) in [("coefficients", "coefficients"), ("runtime", "runtime"), ("reserved", "reserved")] {
        row(name, of(converter, key), of(estimate, key));
    }
    row("total", total(converter), total(estimate));
    row("the chip has", of(converter, "limit"), of(estimate, "limit"));
    let used = |from: &Value| Some(100.0 * total(from)? as f64 / of(from, "limit")? as f64);
    let words = match (used(converter), used(estimate)) {
        (Some(percent), _) => format!("<p>The vendor's converter takes it: {percent:.1} % of the chip's memory.</p>\n"),
        (None, Some(percent)) => format!("<p>Estimated: {percent:.1} % of the chip's memory.</p>\n"),
        (None, None) => String::new(),
    };
    format!("{words}{}", table.html())
}

/// A number with its thousands apart.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    escape(&out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
    fn a_page_to_try_is_linked_where_it_is_there() {
        let run = tempfile::tempdir().unwrap();
        let package = run.path().join("package");
        fs::create_dir(&package).unwrap();
        assert!(try_it(&package).contains("web/build.sh RUN/package RUN/try.html"));
        fs::write(run.path().join("try.html"), "").unwrap();
        assert!(try_it(&package).contains("<a href=\"try.html\">Try it</a>"));
    }

    #[test]
    fn the_converters_figures_stand_beside_the_estimate() {
        let sizes = |runtime: u64| json!({ "coefficients": 1_000_000, "runtime": runtime, "reserved": 500_000, "limit": 8_388_480 });
        let both = memory(&json!({ "memory_estimate": sizes(2_020_000), "converter_memory": sizes(2_000_000) }));
        assert!(
            both.contains("2\u{202f}000\u{202f}000") && both.contains("+1.00 %") && both.contains("takes it: 41.7 %"),
            "{both}"
        );
        let alone = memory(&json!({ "memory_estimate": sizes(2_020_000) }));
        assert!(alone.contains("the converter has not run") && !alone.contains("difference"), "{alone}");
        assert_eq!([0, 12, 1234, 1_234_567].map(grouped), ["0", "12", "1\u{202f}234", "1\u{202f}234\u{202f}567"]);
    }
}
