//! Files that are taken for weights and are none: what a download leaves in their place.

/// What a file is by its first bytes, with what to do, if it is a known kind that holds no weights.
pub(super) fn foreign_kind(bytes: &[u8]) -> Option<String> {
    let start = &bytes[..bytes.len().min(MAX_START)];
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    if text.starts_with(LFS_START) {
        return Some("a Git LFS pointer; `git lfs pull` fetches the file itself".into());
    }
    let begins = |tag: &&str| text.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag.as_bytes()));
    if PAGE_STARTS.iter().any(begins) {
        return Some("a web page (HTML); download the file itself, from the address behind its button".into());
    }
    // A server's refusal, saved under the file's name. The length that safetensors begin with has zeros.
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    if bytes.len() >= MIN_TEXT && start.iter().all(is_text) {
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let shown = String::from_utf8_lossy(&line[..line.len().min(MAX_SHOWN)]);
        return Some(format!("a text that begins {:?}", shown.trim()));
    }
    None
}

/// Bytes that are looked at.
const MAX_START: usize = 256;

/// Shorter files are cut ones of any kind.
const MIN_TEXT: usize = 9;

/// Characters that a message shows.
const MAX_SHOWN: usize = 60;

const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

const LFS_START: &[u8] = b"version https://git-lfs.github.com/spec/";

const PAGE_STARTS: &[&str] = &["<!doctype", "<html", "<head", "<body", "<?xml", "<script", "<meta", "<!--"];
