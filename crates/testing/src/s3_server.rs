//! A server that speaks like S3, for the time of a test: the Python package localbucket.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{skipped, workspace_root};

/// A server with one empty bucket, [`BUCKET`]. It ends with the value.
#[derive(Debug)]
pub struct S3Server {
    process: Child,
    endpoint: String,
    /// Its buckets are folders in it.
    data: tempfile::TempDir,
}

impl S3Server {
    /// Starts it, if python3 has the package: the gate's own, or the first on the search path. Otherwise prints a line that names `test`.
    ///
    /// # Panics
    /// In CI (`CI` is set), where a skipped test would go unnoticed; and if it does not start.
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment whether they may skip")]
    pub fn start(test: &str) -> Option<Self> {
        if !python().args(["-c", "import localbucket"]).output().is_ok_and(|done| done.status.success()) {
            assert!(std::env::var_os("CI").is_none(), "{test}: python3 has no localbucket, and CI must not skip");
            skipped(test, "python3 has no localbucket");
            return None;
        }
        let data = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(data.path().join(BUCKET)).expect("a new folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let port = free.port();
        let mut command = python();
        command.args(["-m", "localbucket", "--port", &port.to_string()]).arg(data.path());
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 starts");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "localbucket has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { process, endpoint: format!("http://127.0.0.1:{port}"), data })
    }

    /// The variables by which programs find it. Keys are not checked.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "nobody"),
            ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ];
        variables.map(|(name, value)| (name.to_string(), value.to_string())).into()
    }

    /// The file of an object of the bucket.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join(BUCKET).join(name)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python() -> Command {
    let own = workspace_root().join("target/python/bin/python3");
    Command::new(if own.is_file() { own } else { "python3".into() })
}

/// Its only bucket.
pub const BUCKET: &str = "answers";
