//! What the rows of a table are, by their names.

/// What stands behind a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// Never looks at the picture.
    Floor,
    /// Knows the truth.
    Ceiling,
    /// The large network that is distilled.
    Teacher,
    /// What was trained, or anything else that is judged.
    Student,
}

/// The kind of the row of this name.
///
/// ```
/// use sensei_eval::rows::{RowKind, kind_of};
///
/// assert_eq!(kind_of("inscribed_ellipse"), RowKind::Floor);
/// assert_eq!(kind_of("teacher+2"), RowKind::Teacher);
/// assert_eq!(kind_of("int8"), RowKind::Student);
/// ```
pub fn kind_of(row: &str) -> RowKind {
    match row {
        _ if GUESSES.contains(&row) => RowKind::Floor,
        "grid_ceiling" => RowKind::Ceiling,
        _ if row == TEACHER || row.starts_with("teacher+") => RowKind::Teacher,
        _ => RowKind::Student,
    }
}

/// A row in words, for tables.
pub fn in_words(row: &str) -> String {
    let click = |who: &str, n: &str| format!("{who} after {n} further {}", if n == "1" { "click" } else { "clicks" });
    match row {
        "constant_mask" => "the best constant mask".into(),
        "centred_disc" => "the best centred disc".into(),
        "filled_box" => "the filled box".into(),
        ELLIPSE => "an ellipse in the box".into(),
        "grid_ceiling" => "the truth on the student's grid".into(),
        TEACHER => "the teacher".into(),
        INITIAL => "the student before this training".into(),
        "float" => "the student in floating point".into(),
        "fake_quant" => "the integer network's values in floats".into(),
        "int8" => "the integer network, which ships".into(),
        "device" => "what a camera answered".into(),
        "student" => "the student".into(),
        "student+prior" => "the student, told the box that it proposes".into(),
        _ => match row.split_once('+') {
            Some((TEACHER, n)) => click("the teacher", n),
            Some(("student", n)) => click("the student", n),
            _ => String::new(),
        },
    }
}

/// Of these rows the one that a run is judged by: what ships, before what it is made of.
pub fn judged<'a>(rows: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    ["int8", "float", "student"].into_iter().find(|name| rows.clone().any(|row| row == *name))
}

/// Predictors that never look at the picture.
pub const GUESSES: [&str; 4] = ["constant_mask", "centred_disc", "filled_box", ELLIPSE];

/// The ellipse that touches the box's sides: most often the highest floor.
pub const ELLIPSE: &str = "inscribed_ellipse";

/// The student that training started from, where that was a trained one.
pub const INITIAL: &str = "initial";

/// The teacher after the protocol's prompt.
pub const TEACHER: &str = "teacher";
