//! Damaged and made-up checkpoints: an error or a valid value, no panic, and no more memory than a bound.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::strategy::{Just, Strategy};
use proptest::{prop_assert, proptest};
use sensei_student::weights::{WeightsError, WeightsFile, read_weights};
use sensei_testing::workspace_root;
use tempfile::TempDir;

#[test]
fn a_cut_legacy_file_is_an_error_and_a_flipped_bit_never_a_panic() {
    for name in ["legacy", "legacy_beside", "legacy_protocol_4", "legacy_views", "python2"] {
        let whole = golden(name);
        assert!(read(&whole).is_ok(), "{name}");
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{name} cut to {length} of {} bytes", whole.len());
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let _ = read(&flipped);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn edits_of_checkpoints_are_errors_or_checkpoints(
        name in select(vec!["legacy", "legacy_beside", "legacy_views", "python2", "objects", "attributes", "numpy"]),
        edits in vec((any::<Index>(), edit()), 1..4),
    ) {
        let mut bytes = golden(name);
        let size = bytes.len();
        for (at, (n_removed, inserted)) in edits {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + n_removed);
            bytes.splice(at..end, inserted);
        }
        if let Ok(file) = read(&bytes) {
            let n_values: usize = file.tensors.values().map(|tensor| tensor.values.len()).sum();
            prop_assert!(n_values <= size * 2, "{n_values} values of {size} bytes");
            prop_assert!(file.tensors.values().all(|t| t.values.len() == t.shape.iter().product::<usize>()));
        }
    }
}

/// Bytes that are taken out, and what comes in their place: bytes, operations of pickles, or large numbers.
fn edit() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let operations = b"().012qrhj\x94NGKMJI\x88\x89\x8a\x8bX\x8c\x8dUTCB\x8e\x96t]ae}su\x85\x86\x87\x8f\x90\x91c\x93QR\x81\x92ob\x95";
    let inserted = prop_oneof![
        vec(any::<u8>(), 0..6),
        vec(select(operations.to_vec()), 1..4),
        Just(vec![b'j', 1, 0, 0, 0]),
        Just(vec![0x8a, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        Just(vec![b'J', 0xff, 0xff, 0xff, 0x7f]),
    ];
    (0usize..6, inserted)
}

/// Each would take far more memory, or time without end, if it were read as it says.
#[test]
fn files_made_to_exhaust_memory_are_refused() {
    let many = "expected at most 1048576 values and 4194304 uses of earlier ones, found more";
    let twos = |opcode: &[u8]| [b")q\0", opcode.repeat(3 << 20).as_slice()].concat();
    let slots: Vec<u8> = (0..1u32 << 21).flat_map(|slot| [&b"r"[..], &slot.to_le_bytes()].concat()).collect();
    refuses("values", &b")".repeat(3 << 20), many);
    refuses("marks", &b"(".repeat(3 << 20), many);
    refuses("tuples in tuples", &[&b")"[..], &b"\x85".repeat(3 << 20)].concat(), many);
    refuses("uses of a value", &twos(b"h\0"), many);
    refuses("uses that are dropped", &twos(b"h\x000h\x000"), many);
    refuses("places of a value", &[&b")"[..], &slots].concat(), many);
    refuses("an integer", b"\x8b\xff\xff\xff\xff", "expected more after byte");
    refuses("a text", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "expected more after byte");

    // One long name that is the key of many entries.
    let key = [b"}X", &(1u32 << 20).to_le_bytes()[..], &[b'k'; 1 << 20], b"q\x000("].concat();
    refuses("entries", &[&key[..], &b"h\0N".repeat(1 << 18), b"u."].concat(), ": expected one entry, found two");

    // Dictionaries of the one before, so that there are 2^60 ways down.
    let mut nested = b"}q\0".to_vec();
    for idx in 0..60u8 {
        nested.extend([b"}(X\x01\0\0\0ah".as_slice(), &[idx], b"X\x01\0\0\0bh", &[idx], b"uq", &[idx + 1]].concat());
    }
    nested.push(b'.');
    refuses("ways", &nested, "found a (a dictionary of 2 entries), b (a dictionary of 2 entries)");

    // Many objects of a class with a long name.
    let class = [b"}cm\n", &[b'n'; 1 << 20][..], b"\n)\x81q\x010("].concat();
    let entry = |key: u32| [b"X\x06\0\0\0", format!("{key:06}").as_bytes(), b"h\x01"].concat();
    let entries: Vec<u8> = (0..100_000).flat_map(entry).collect();
    let message = refuses("objects", &[&class, &entries, &b"u."[..]].concat(), "and 99992 more");
    assert!(message.len() < 2000, "{} bytes", message.len());
    bounded_memory();
}

/// Reads `object` as the saved object of a file of the old layout, with no storages.
fn refuses(what: &str, object: &[u8], expected: &str) -> String {
    let legacy = golden("legacy");
    let head = legacy.windows(5).position(|bytes| bytes == b"\x80\x02cco").expect("the object's start");
    let message = match read(&[&legacy[..head + 2], object, b"\x80\x02]."].concat()) {
        Err(error) => std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": "),
        Ok(file) => panic!("{what}: {} tensors", file.tensors.len()),
    };
    assert!(message.contains(expected), "{what}: {}", &message[..message.len().min(600)]);
    message
}

/// This test's process has had no more memory than a reader of small files may have.
fn bounded_memory() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of memory");
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    assert!(kib < 256 << 10, "{kib} KiB at once");
}

fn read(bytes: &[u8]) -> Result<WeightsFile, Box<WeightsError>> {
    let dir = TempDir::new().expect("a writable folder");
    let path = dir.path().join("w.pt");
    std::fs::write(&path, bytes).expect("a writable folder");
    Ok(read_weights(&path)?)
}

fn golden(name: &str) -> Vec<u8> {
    let path = workspace_root().join("tests/golden/checkpoints").join(Path::new(name).with_extension("pt"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
