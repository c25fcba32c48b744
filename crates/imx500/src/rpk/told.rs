//! What driver and host are told in a file of anybody's, held to what its tables say: every line and register of ours has
//! to be there, with its value; others may stand beside them.

use crate::refusal::Refusal;

/// How `network_info.txt` differs from `expected`.
///
/// # Errors
/// If a line of `expected` is missing or has another value (but `version`, which is free), or a line is no `key=value`.
pub(super) fn check_info(found: &str, expected: &str) -> Result<Vec<String>, Refusal> {
    if found == expected {
        return Ok(vec![]);
    }
    let found = pairs(found)?;
    let expected = pairs(expected)?;
    let mut differences = vec![];
    for (key, value) in &expected {
        let mut values = found.iter().filter(|(known, _)| known == key).map(|(_, value)| *value);
        match values.next() {
            Some(first) if first == *value && values.all(|other| other == *value) => {}
            Some(first) if *key == "version" && is_version(first) && values.next().is_none() => {
                differences.push(format!("version={first}, not {value}"));
            }
            Some(first) => return Err(Refusal::key(*key, *value, first.escape_debug().to_string())),
            None => return Err(Refusal::key(*key, *value, "no such line")),
        }
    }
    let others = found.iter().filter(|(key, _)| !expected.iter().any(|(known, _)| known == key));
    differences.extend(others.map(|(key, value)| format!("one more line, {key}={value}")));
    if differences.is_empty() {
        differences.push("the same lines in another order, or with other line ends".into());
    }
    Ok(shortened(differences))
}

/// How `imx500_regs` differs from `expected`.
///
/// # Errors
/// If a register of `expected` is missing or has another width or value, or the bytes are no registers.
pub(super) fn check_registers(found: &[u8], expected: &[u8]) -> Result<Vec<String>, Refusal> {
    if found == expected {
        return Ok(vec![]);
    }
    let (found, rest) = found.as_chunks::<REGISTER>();
    if !rest.is_empty() || found.len() > MAX_REGISTERS {
        let expected = format!("at most {MAX_REGISTERS} registers of {REGISTER} bytes");
        let n_whole = found.len();
        return Err(Refusal::byte(REGISTER * n_whole, expected, format!("{n_whole} and {} bytes", rest.len())));
    }
    let expected = expected.as_chunks::<REGISTER>().0;
    let address = |register: &[u8; REGISTER]| u16::from_le_bytes([register[0], register[1]]);
    for register in expected {
        let mut same = found.iter().filter(|other| address(other) == address(register)).peekable();
        let key = format!("register {:#06x}", address(register));
        match same.peek() {
            None => return Err(Refusal::key(key, described(register), "no such register")),
            Some(_) => {
                if let Some(other) = same.find(|other| *other != register) {
                    return Err(Refusal::key(key, described(register), described(other)));
                }
            }
        }
    }
    let others = found.iter().filter(|other| !expected.iter().any(|register| address(register) == address(other)));
    let mut differences: Vec<String> =
        others.map(|other| format!("one more register, {:#06x}: {}", address(other), described(other))).collect();
    if differences.is_empty() {
        differences.push("the same registers in another order, or twice".into());
    }
    Ok(shortened(differences))
}

fn described([_, _, width, value @ ..]: &[u8; REGISTER]) -> String {
    format!("{:#x} of {width} bytes", u32::from_le_bytes(*value))
}

/// The lines of a `network_info.txt`. picamera2 splits each at its only `=`.
fn pairs(text: &str) -> Result<Vec<(&str, &str)>, Refusal> {
    let mut pairs = vec![];
    for (idx, line) in text.lines().enumerate() {
        let is_plain = line.len() <= MAX_LINE && line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let pair = line.split_once('=').filter(|(key, value)| !key.is_empty() && !value.contains('='));
        let (true, Some(pair), true) = (is_plain, pair, idx < MAX_LINES) else {
            let expected = format!("at most {MAX_LINES} lines key=value of visible ASCII");
            let found = line.chars().take(40).flat_map(char::escape_debug).collect::<String>();
            return Err(Refusal::new(crate::refusal::Place::Line(idx + 1), expected, found));
        };
        pairs.push(pair);
    }
    Ok(pairs)
}

fn is_version(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// The first few, and how many more there are.
fn shortened(mut differences: Vec<String>) -> Vec<String> {
    let more = differences.len().saturating_sub(MAX_SHOWN);
    differences.truncate(MAX_SHOWN);
    if more > 0 {
        differences.push(format!("and {more} more"));
    }
    differences
}

/// Address, width and value of a register.
const REGISTER: usize = 7;
/// 56 are known.
const MAX_REGISTERS: usize = 1024;
/// A network of 64 outputs has 233.
const MAX_LINES: usize = 1024;
const MAX_LINE: usize = 200;
const MAX_SHOWN: usize = 8;
