//! A bitmap font for the labels of overlay pictures: 3 x 5 pixels per character, enough for names and numbers.

/// Columns of a character, without the gap after it.
pub(crate) const WIDTH: usize = 3;
/// Rows of a character.
pub(crate) const HEIGHT: usize = 5;

/// Whether the pixel of a character is set. Lower case is drawn as upper case; what the font lacks is a full block.
pub(crate) fn is_set(character: char, column: usize, row: usize) -> bool {
    let upper = character.to_ascii_uppercase();
    let rows = FONT.iter().find(|(known, _)| *known == upper).map_or(0o77777, |(_, rows)| *rows);
    let bit = (HEIGHT - 1 - row) * WIDTH + (WIDTH - 1 - column);
    rows >> bit & 1 == 1
}

/// One octal digit per row, top first; its bits are the pixels, left first.
const FONT: [(char, u16); 46] = [
    (' ', 0o00000),
    ('0', 0o75557),
    ('1', 0o26227),
    ('2', 0o71747),
    ('3', 0o71717),
    ('4', 0o55711),
    ('5', 0o74717),
    ('6', 0o74757),
    ('7', 0o71122),
    ('8', 0o75757),
    ('9', 0o75717),
    ('A', 0o25755),
    ('B', 0o65656),
    ('C', 0o34443),
    ('D', 0o65556),
    ('E', 0o74647),
    ('F', 0o74644),
    ('G', 0o34553),
    ('H', 0o55755),
    ('I', 0o72227),
    ('J', 0o11152),
    ('K', 0o55655),
    ('L', 0o44447),
    ('M', 0o57755),
    ('N', 0o65555),
    ('O', 0o25552),
    ('P', 0o65644),
    ('Q', 0o25563),
    ('R', 0o65655),
    ('S', 0o34216),
    ('T', 0o72222),
    ('U', 0o55557),
    ('V', 0o55552),
    ('W', 0o55775),
    ('X', 0o55255),
    ('Y', 0o55222),
    ('Z', 0o71247),
    ('.', 0o00002),
    (',', 0o00024),
    (':', 0o02020),
    ('-', 0o00700),
    ('_', 0o00007),
    ('+', 0o02720),
    ('=', 0o07070),
    ('/', 0o11244),
    ('%', 0o51245),
];
