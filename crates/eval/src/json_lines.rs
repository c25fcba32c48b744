//! JSON that line-based tools can compare: what lies near the root has a line of its own, what lies deeper stands on one.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The value, with a line for each entry of an object or array that lies less than `depth` deep, without indentation.
///
/// # Errors
/// If the value cannot be JSON.
pub(crate) fn to_lines(value: &impl Serialize, depth: usize) -> serde_json::Result<Vec<u8>> {
    let mut json = vec![];
    value.serialize(&mut Serializer::with_formatter(&mut json, Lines { depth, open: 0 }))?;
    json.push(b'\n');
    Ok(json)
}

struct Lines {
    depth: usize,
    /// Objects and arrays that have begun and not ended.
    open: usize,
}

impl Lines {
    fn begin_entry<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        if self.open <= self.depth { writer.write_all(b"\n") } else { Ok(()) }
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.open += 1;
        writer.write_all(mark)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.open -= 1;
        writer.write_all(mark)
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_entry(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_entry(writer, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_deep_stands_on_one_line() {
        let value = serde_json::json!({ "a": [{ "b": 1, "c": [2, 3] }, {}], "d": "x" });
        let lines = String::from_utf8(to_lines(&value, 2).unwrap()).unwrap();
        assert_eq!(lines, "{\n\"a\":[\n{\"b\":1,\"c\":[2,3]},\n{}],\n\"d\":\"x\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&lines).unwrap(), value);
    }
}
