//! JSON values of files that other programs wrote: taken as they come, and judged when the entry that they belong to is known.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value where a number, a flag or a name is expected.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Scalar {
    /// The field is not there.
    #[default]
    Missing,
    Null,
    Flag(bool),
    Whole(u64),
    Negative(i64),
    Real(f64),
    Text(String),
    /// With its number of elements.
    List(usize),
    Object,
}

/// What a field must be, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unexpected {
    pub(crate) expected: &'static str,
    pub(crate) found: String,
}

impl Scalar {
    /// A whole number, also one written as `1.0`.
    pub(crate) fn whole(&self) -> Result<u64, Unexpected> {
        match *self {
            Self::Whole(number) => Ok(number),
            Self::Real(number) if number.fract() == 0.0 && (0.0..=LARGEST_EXACT).contains(&number) => Ok(number as u64),
            _ => Err(self.unexpected("a whole number from 0 to 18446744073709551615")),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self) -> Result<f64, Unexpected> {
        match *self {
            Self::Whole(number) => Ok(number as f64),
            Self::Negative(number) => Ok(number as f64),
            Self::Real(number) if number.is_finite() => Ok(number),
            _ => Err(self.unexpected("a finite number")),
        }
    }

    /// A flag, as Python takes 0, 1, `true`, `false`, `null` and an absent field for one.
    pub(crate) fn flag(&self) -> Result<bool, Unexpected> {
        match *self {
            Self::Missing | Self::Null | Self::Flag(false) | Self::Whole(0) => Ok(false),
            Self::Flag(true) | Self::Whole(1) => Ok(true),
            Self::Real(number) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
            _ => Err(self.unexpected("0 or 1")),
        }
    }

    /// `NaN`, `Infinity` or `-Infinity`, where the text had these words.
    pub(crate) fn bare_word(&self) -> Option<f64> {
        match self {
            Self::Text(text) => match text.strip_prefix(BARE_WORD)? {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn unexpected(&self, expected: &'static str) -> Unexpected {
        Unexpected { expected, found: self.to_string() }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("none"),
            Self::Null => f.write_str("null"),
            Self::Flag(flag) => flag.fmt(f),
            Self::Whole(number) => number.fmt(f),
            Self::Negative(number) => number.fmt(f),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Text(text) => match text.strip_prefix(BARE_WORD) {
                Some(word) => f.write_str(word),
                None if text.chars().count() > MAX_SHOWN => {
                    write!(f, "{:?}...", text.chars().take(MAX_SHOWN).collect::<String>())
                }
                None => write!(f, "{text:?}"),
            },
            Self::List(n_elements) => write!(f, "a list of {n_elements}"),
            Self::Object => f.write_str("an object"),
        }
    }
}

/// A type that any JSON value can be read into, by the value's kind.
pub(crate) trait FromJson<'de>: Sized {
    fn from_scalar(value: Scalar) -> Self;

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut n_elements = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            n_elements += 1;
        }
        Ok(Self::from_scalar(Scalar::List(n_elements)))
    }

    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::from_scalar(Scalar::Object))
    }
}

/// serde's visitor for it. Its own untagged enums first copy a value into a tree, ten times its size.
pub(crate) struct ByKind<T>(PhantomData<T>);

impl<'de, T: FromJson<'de>> ByKind<T> {
    pub(crate) fn read<D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(Self(PhantomData))
    }
}

impl<'de, T: FromJson<'de>> Visitor<'de> for ByKind<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::from_scalar(Scalar::Null))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<T, E> {
        Ok(T::from_scalar(Scalar::Flag(flag)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::from_scalar(Scalar::Whole(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::from_scalar(u64::try_from(number).map_or(Scalar::Negative(number), Scalar::Whole)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        Ok(T::from_scalar(Scalar::Real(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_scalar(Scalar::Text(String::from(text))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::from_object(object)
    }
}

impl FromJson<'_> for Scalar {
    fn from_scalar(value: Scalar) -> Self {
        value
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

/// Values in a list, for an error: `[1, "2", a list of 2]`, the first of them.
pub(crate) fn shown(values: &[Scalar]) -> String {
    let first: Vec<String> = values.iter().take(MAX_LISTED).map(Scalar::to_string).collect();
    let rest = if values.len() > MAX_LISTED { ", ..." } else { "" };
    format!("[{}{rest}]", first.join(", "))
}

/// JSON text without what Python's `json` writes and JSON does not have: the bare words `NaN`, `Infinity` and `-Infinity`, which become
/// marked texts, so that the field that holds one can be named.
pub(crate) fn tolerated(text: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied, mut at, mut in_text) = (Vec::new(), 0, 0, false);
    while at < text.len() {
        let word = match (in_text, text[at]) {
            (true, b'\\') => {
                at += 2;
                continue;
            }
            (_, b'"') => {
                in_text = !in_text;
                None
            }
            (false, b'N' | b'I' | b'-') => BARE_WORDS.iter().find(|word| text[at..].starts_with(word.as_bytes())),
            _ => None,
        };
        let Some(word) = word else {
            at += 1;
            continue;
        };
        out.extend_from_slice(&text[copied..at]);
        out.extend_from_slice(format!("\"{BARE_WORD}{word}\"").as_bytes());
        at += word.len();
        copied = at;
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// The name of an encoding that is not UTF-8, by its byte order mark or by the zeros beside ASCII.
pub(crate) fn foreign_encoding(text: &[u8]) -> Option<&'static str> {
    match text {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => Some("UTF-32"),
        [0, _, 0, _, ..] | [_, 0, _, 0, ..] => Some("UTF-16"),
        _ => None,
    }
}

const BARE_WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
/// Begins a text that was a bare word. JSON cannot hold the character unescaped, and few write it escaped. It is a private one, since
/// a control character would be no JSON either.
const BARE_WORD: char = '\u{f8ff}';
/// Doubles hold every whole number up to here.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
/// Characters of a text, and elements of a list, that an error shows.
const MAX_SHOWN: usize = 40;
const MAX_LISTED: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Scalar {
        serde_json::from_slice(&tolerated(text.as_bytes())).unwrap()
    }

    #[test]
    fn numbers_of_any_json_type_are_read() {
        assert_eq!(scalar("7").whole(), Ok(7));
        assert_eq!(scalar("7.0").whole(), Ok(7));
        assert_eq!(scalar("-1").number(), Ok(-1.0));
        for (text, found) in [
            ("7.5", "7.5"),
            ("-7", "-7"),
            ("\"7\"", "\"7\""),
            ("null", "null"),
            ("true", "true"),
            ("[7, 8]", "a list of 2"),
            ("{}", "an object"),
            ("18446744073709551617", "1.8446744073709552e19"),
        ] {
            assert_eq!(scalar(text).whole().unwrap_err().found, found);
        }
        assert_eq!(Scalar::default().number().unwrap_err().found, "none");
        assert_eq!(scalar("NaN").number().unwrap_err().found, "NaN");
        assert_eq!(shown(&[scalar("1"), scalar("-Infinity")]), "[1, -Infinity]");
        let long = scalar(&format!("\"{}\"", "x".repeat(50))).to_string();
        assert_eq!(long, format!("\"{}\"...", "x".repeat(40)));
    }

    #[test]
    fn flags_are_what_python_takes_for_one() {
        for (text, flag) in [("0", false), ("1", true), ("0.0", false), ("1.0", true), ("true", true), ("null", false)]
        {
            assert_eq!(scalar(text).flag(), Ok(flag), "{text}");
        }
        assert_eq!(Scalar::Missing.flag(), Ok(false));
        for text in ["2", "0.5", "\"1\"", "[]"] {
            assert_eq!(scalar(text).flag().unwrap_err().expected, "0 or 1");
        }
    }

    #[test]
    fn bare_words_are_marked_outside_of_texts_only() {
        let text = r#"{"a NaN \" NaN": [NaN, -1], "b": "\\"}"#;
        let marked = format!(r#"{{"a NaN \" NaN": ["{BARE_WORD}NaN", -1], "b": "\\"}}"#);
        assert_eq!(tolerated(text.as_bytes()), marked.as_bytes());
        assert_eq!(tolerated(b"{}"), Cow::Borrowed(b"{}"));
        assert_eq!(tolerated(b"\"\\"), Cow::Borrowed(b"\"\\"));
    }

    #[test]
    fn encodings_are_named() {
        assert_eq!(foreign_encoding(b"\xff\xfe{\0"), Some("UTF-16"));
        assert_eq!(foreign_encoding(b"{\0\"\0"), Some("UTF-16"));
        assert_eq!(foreign_encoding(b"\0{\0\""), Some("UTF-16"));
        assert_eq!(foreign_encoding(b"{\0\0\0"), Some("UTF-32"));
        assert_eq!(foreign_encoding(b"{\"im"), None);
    }
}
