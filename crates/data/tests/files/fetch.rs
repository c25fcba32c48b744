use std::fs;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread::{self, JoinHandle};

use sensei_data::fetch::{Archive, FetchError, FetchOptions, FetchProgress, FetchReport, FetchStep, fetch};
use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// What the server does with one connection.
enum Reply {
    /// 206 with the range that was asked for, or 200; the connection breaks after so many bytes of body.
    Range { breaks_after: usize },
    /// 200 with everything, whatever was asked for.
    Everything { breaks_after: usize },
    /// A status and headers, without a body.
    Head(&'static str),
}

const ALL: usize = usize::MAX;

/// Serves `file` on a port of this machine, a connection for each reply; the thread returns the ranges asked for.
fn serve(file: &[u8], replies: Vec<Reply>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.zip", listener.local_addr().unwrap());
    let file = file.to_vec();
    let server = thread::spawn(move || {
        let mut ranges = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let range = request.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(String::from));
            let range = range.unwrap_or_default();
            let from = range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            ranges.push(range);
            let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
            let (head, from, breaks_after) = match reply {
                Reply::Head(head) => (String::from(head), 0, 0),
                Reply::Everything { breaks_after } => (whole, 0, breaks_after),
                Reply::Range { breaks_after } if from == 0 => (whole, 0, breaks_after),
                Reply::Range { breaks_after } => {
                    let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
                    let left = file.len() - from;
                    let head = "HTTP/1.1 206 Partial Content\r\nContent-Length";
                    (format!("{head}: {left}\r\nContent-Range: {range}\r\n\r\n"), from, breaks_after)
                }
            };
            stream.write_all(head.as_bytes()).unwrap();
            let body = &file[from..];
            // The client may hang up early.
            let _ = stream.write_all(&body[..body.len().min(breaks_after)]);
        }
        ranges
    });
    (url, server)
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        if name.ends_with('/') {
            zip.add_directory(*name, SimpleFileOptions::default()).unwrap();
        } else {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(n_bytes).collect()
}

fn good_zip() -> Vec<u8> {
    zip_of(&[("pictures/", b""), ("pictures/a.jpg", b"one"), ("pictures/deep/b.jpg", &noise(300_000))])
}

fn archive(url: &str, file: &[u8]) -> Archive {
    Archive {
        url: String::from(url),
        file_name: String::from("file.zip"),
        n_bytes: file.len() as u64,
        sha256: Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect(),
        folders: vec![String::from("pictures")],
        max_unpacked_bytes: 1 << 20,
    }
}

fn get(archive: &Archive, dir: &Path) -> Result<FetchReport, FetchError> {
    fetch(archive, dir, &FetchOptions::default(), &mut |_| ControlFlow::Continue(()))
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_unpacked(dir: &Path) {
    assert_eq!(fs::read(dir.join("pictures/a.jpg")).unwrap(), b"one");
    assert_eq!(fs::read(dir.join("pictures/deep/b.jpg")).unwrap(), noise(300_000));
    assert_eq!(names(dir), [".file.zip.unpacked", "pictures"]);
}

#[test]
fn an_archive_is_downloaded_checked_and_unpacked_once() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let (url, server) = serve(&zip, vec![Reply::Range { breaks_after: ALL }]);
    let mut steps: Vec<FetchProgress> = Vec::new();
    let report = fetch(&archive(&url, &zip), dir.path(), &FetchOptions::default(), &mut |step| {
        steps.push(step);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((report.downloaded_bytes, report.resumed_bytes, report.n_reconnects), (zip.len() as u64, 0, 0));
    assert_eq!((report.n_files, report.unpacked_bytes, report.already_done), (2, 300_003, false));
    assert_unpacked(dir.path());
    assert_eq!(server.join().unwrap(), [""]);
    let last = |step| steps.iter().rfind(|progress| progress.step == step).map(|p| (p.done_bytes, p.total_bytes));
    assert_eq!(last(FetchStep::Download), Some((zip.len() as u64, zip.len() as u64)));
    assert_eq!(last(FetchStep::Unpack), Some((300_003, 300_003)));

    // The server is gone: nothing is asked of it.
    assert!(get(&archive(&url, &zip), dir.path()).unwrap().already_done);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let replies = vec![100_000, 50_000, ALL].into_iter().map(|breaks_after| Reply::Range { breaks_after }).collect();
    let (url, server) = serve(&zip, replies);
    let report = get(&archive(&url, &zip), dir.path()).unwrap();
    assert_eq!((report.downloaded_bytes, report.n_reconnects), (zip.len() as u64, 2));
    assert_eq!(server.join().unwrap(), ["", "bytes=100000-", "bytes=150000-"]);
    assert_unpacked(dir.path());
}

#[test]
fn the_next_call_goes_on_where_the_last_one_stopped() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let (url, server) = serve(&zip, vec![Reply::Range { breaks_after: 70_000 }, Reply::Range { breaks_after: 0 }]);
    let error = get(&archive(&url, &zip), dir.path()).unwrap_err();
    let expected = format!("{url}: connection failed after 70000 bytes; run again to go on from there");
    assert_eq!(error.to_string(), expected);
    assert_eq!(names(dir.path()), ["file.zip.part"]);
    server.join().unwrap();

    let (url, server) = serve(&zip, vec![Reply::Range { breaks_after: ALL }]);
    let report = get(&archive(&url, &zip), dir.path()).unwrap();
    assert_eq!((report.resumed_bytes, report.downloaded_bytes), (70_000, zip.len() as u64 - 70_000));
    assert_eq!(server.join().unwrap(), ["bytes=70000-"]);
    assert_unpacked(dir.path());
}

#[test]
fn a_server_that_cannot_resume_sends_everything_again() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("file.zip.part"), &zip[..1000]).unwrap();
    let (url, server) = serve(&zip, vec![Reply::Everything { breaks_after: ALL }]);
    let report = get(&archive(&url, &zip), dir.path()).unwrap();
    let counts = (report.resumed_bytes, report.discarded_bytes, report.downloaded_bytes);
    assert_eq!(counts, (0, 1000, zip.len() as u64));
    assert_eq!(server.join().unwrap(), ["bytes=1000-"]);
    assert_unpacked(dir.path());
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let (url, server) =
        serve(&zip, vec![Reply::Everything { breaks_after: 9000 }, Reply::Everything { breaks_after: 9000 }]);
    assert!(matches!(get(&archive(&url, &zip), dir.path()), Err(FetchError::Network { done_bytes: 9000, .. })));
    assert_eq!(server.join().unwrap(), ["", "bytes=9000-"]);
}

#[test]
fn a_wrong_checksum_leaves_nothing_behind() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let mut other = zip.clone();
    other[5000] ^= 1;
    let (url, server) = serve(&other, vec![Reply::Range { breaks_after: ALL }]);
    let expected = archive(&url, &zip).sha256;
    let error = get(&archive(&url, &zip), dir.path()).unwrap_err().to_string();
    let found = archive(&url, &other).sha256;
    let path = dir.path().join("file.zip.part");
    assert_eq!(error, format!("{}: expected SHA-256 {expected}, found {found}", path.display()));
    assert!(names(dir.path()).is_empty());
    server.join().unwrap();
}

#[test]
fn who_watches_may_stop_a_fetch_and_another_call_goes_on() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let (url, server) = serve(&zip, vec![Reply::Range { breaks_after: ALL }, Reply::Range { breaks_after: ALL }]);
    let mut seen = 0;
    let stopped = fetch(&archive(&url, &zip), dir.path(), &FetchOptions::default(), &mut |step| {
        seen = step.done_bytes;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(FetchError::Interrupted)), "{stopped:?}");
    assert!(seen > 0 && names(dir.path()) == ["file.zip.part"], "{seen}: {:?}", names(dir.path()));
    let report = get(&archive(&url, &zip), dir.path()).unwrap();
    assert_eq!(report.resumed_bytes + report.downloaded_bytes, zip.len() as u64);
    assert!(report.resumed_bytes >= seen, "{} of {seen}", report.resumed_bytes);
    assert_unpacked(dir.path());
    drop(server);
}

#[test]
fn an_archive_that_is_there_is_checked_and_not_asked_for() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let nowhere = "http://127.0.0.1:1/file.zip";
    fs::write(dir.path().join("file.zip"), &zip).unwrap();
    let keep = FetchOptions { keep_archives: true, ..FetchOptions::default() };
    let report = fetch(&archive(nowhere, &zip), dir.path(), &keep, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.resumed_bytes, report.downloaded_bytes), (zip.len() as u64, 0));
    assert_eq!(names(dir.path()), [".file.zip.unpacked", "file.zip", "pictures"]);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file.zip"), &zip[1..]).unwrap();
    assert!(matches!(get(&archive(nowhere, &zip), dir.path()), Err(FetchError::WrongSize { .. })));
    let mut other = zip.clone();
    other[0] ^= 1;
    fs::write(dir.path().join("file.zip"), &other).unwrap();
    assert!(matches!(get(&archive(nowhere, &zip), dir.path()), Err(FetchError::WrongChecksum { .. })));
    assert_eq!(names(dir.path()), ["file.zip"], "a file of the user's is left alone");
}

#[test]
fn what_the_server_says_must_fit_the_manifest() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let check = |reply: Reply, expected: &str| {
        let (url, server) = serve(&zip, vec![reply]);
        let error = get(&archive(&url, &zip), dir.path()).unwrap_err().to_string();
        assert_eq!(error.replace(&url, "URL"), expected);
        server.join().unwrap();
    };
    let gone = Reply::Head("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    check(gone, "URL: expected HTTP status 200 or 206, found 404");
    let other = Reply::Head("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");
    check(other, &format!("URL: expected {} bytes, found 12", zip.len()));
    fs::write(dir.path().join("file.zip.part"), &zip[..10]).unwrap();
    let part = Reply::Head("HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 5-6/7\r\n\r\n");
    let (last, n_bytes) = (zip.len() - 1, zip.len());
    check(part, &format!("URL: expected content range bytes 10-{last}/{n_bytes}, found \"bytes 5-6/7\""));
}

#[test]
fn no_server_is_an_error_with_its_cause() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let error = get(&archive("http://127.0.0.1:1/file.zip", &zip), dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("http://127.0.0.1:1/file.zip: connection failed after 0 bytes"));
    assert!(std::error::Error::source(&error).is_some());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_with_path_and_cause() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    let part = dir.path().join("file.zip.part");
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let (url, server) = serve(&zip, vec![Reply::Range { breaks_after: ALL }]);
    let error = get(&archive(&url, &zip), dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: cannot write", part.display()));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("No space left on device"), "{cause}");
    server.join().unwrap();
}

#[test]
fn a_folder_of_the_users_is_not_overwritten() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    fs::create_dir(dir.path().join("pictures")).unwrap();
    let error = get(&archive("http://127.0.0.1:1/file.zip", &zip), dir.path()).unwrap_err();
    assert!(matches!(error, FetchError::FolderExists { .. }), "{error}");
}

#[test]
fn a_call_that_died_while_moving_folders_is_finished_by_the_next() {
    let (zip, dir) = (good_zip(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("file.zip"), &zip).unwrap();
    let archive = archive("http://127.0.0.1:1/file.zip", &zip);
    get(&archive, dir.path()).unwrap();
    let staging = dir.path().join(".file.zip.unpacking");
    fs::create_dir(&staging).unwrap();
    fs::rename(dir.path().join("pictures"), staging.join("pictures")).unwrap();
    assert!(get(&archive, dir.path()).unwrap().already_done);
    assert_unpacked(dir.path());
}

/// The error of unpacking an archive that passes the checks of its bytes; nothing of it gets a final name.
fn error_of(zip: &[u8], dir: &Path, change: fn(&mut Archive)) -> FetchError {
    fs::write(dir.join("file.zip"), zip).unwrap();
    let mut archive = archive("http://127.0.0.1:1/file.zip", zip);
    change(&mut archive);
    let error = get(&archive, dir).unwrap_err();
    assert!(!dir.join("pictures").exists() && !dir.join(".file.zip.unpacked").exists());
    error
}

#[test]
fn entries_never_leave_their_folder() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("inner");
    fs::create_dir(&dir).unwrap();
    for name in ["../evil", "/evil", "pictures/../../evil", "evil", "other/evil", "pictures\\..\\..\\evil"] {
        let zip = zip_of(&[("pictures/a.jpg", b"one"), (name, b"evil")]);
        let error = error_of(&zip, &dir, |_| {});
        assert!(matches!(&error, FetchError::UnsafeEntry { entry, .. } if entry.contains("evil")), "{name}: {error}");
        assert_eq!(names(outer.path()), ["inner"], "{name}");
    }
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("pictures/link", "/etc", SimpleFileOptions::default()).unwrap();
    let error = error_of(&zip.finish().unwrap().into_inner(), &dir, |_| {});
    assert!(matches!(error, FetchError::UnsafeEntry { .. }), "{error}");
}

#[test]
fn archives_that_are_not_what_the_manifest_says_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = error_of(&good_zip(), dir.path(), |archive| archive.max_unpacked_bytes = 300_002);
    assert!(matches!(error, FetchError::TooLarge { limit: 300_002, .. }), "{error}");
    let error = error_of(&good_zip(), dir.path(), |archive| archive.folders.push(String::from("more")));
    assert!(matches!(&error, FetchError::MissingFolder { folder, .. } if folder == "more"), "{error}");
    let error = error_of(&noise(500), dir.path(), |_| {});
    assert!(matches!(error, FetchError::Zip { .. }), "{error}");
    let mut damaged = good_zip();
    damaged[10_000] ^= 1;
    let error = error_of(&damaged, dir.path(), |_| {});
    assert!(matches!(error, FetchError::Zip { .. }), "{error}");
}

#[test]
fn manifests_are_strict() {
    let error = |change: fn(&mut Archive)| {
        let mut archive = archive("http://127.0.0.1:1/file.zip", b"");
        change(&mut archive);
        get(&archive, Path::new("/no/such/folder")).unwrap_err().to_string()
    };
    let name = error(|archive| archive.file_name = String::from("../file.zip"));
    assert_eq!(name, "archive \"../file.zip\": expected file_name without folders, found \"../file.zip\"");
    let sum = error(|archive| archive.sha256 = String::from("12AB"));
    assert_eq!(sum, "archive \"file.zip\": expected sha256 of 64 lower-case hexadecimal digits, found \"12AB\"");
    let folders = error(|archive| archive.folders = vec![String::from("a/b")]);
    assert_eq!(folders, "archive \"file.zip\": expected folders that are plain names, found \"a/b\"");
}
