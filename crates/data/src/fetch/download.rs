//! One file over HTTP, in as many connections as it takes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::{
    Archive, CHUNK, FetchError, FetchOptions, FetchProgress, FetchReport, FetchStep, read_error, said, write_error,
};

/// Has the archive in `dir` under its final name, of the right size and checksum.
pub(super) fn download(
    archive: &Archive,
    dir: &Path,
    options: &FetchOptions,
    report: &mut FetchReport,
    progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
) -> Result<PathBuf, FetchError> {
    let path = dir.join(&archive.file_name);
    if path.exists() {
        let mut file = File::open(&path).map_err(read_error(&path))?;
        let found = file.metadata().map_err(read_error(&path))?.len();
        if found != archive.n_bytes {
            let url = path.display().to_string();
            return Err(FetchError::WrongSize { url, expected: archive.n_bytes, found });
        }
        let mut hash = Sha256::new();
        hash_file(&mut file, found, &path, &mut hash, archive, progress)?;
        check(archive, &path, hash)?;
        report.resumed_bytes = found;
        return Ok(path);
    }

    let part = dir.join(format!("{}.part", archive.file_name));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
    let mut download = Download {
        archive,
        agent: agent(archive, options)?,
        file: file.map_err(write_error(&part))?,
        part: &part,
        done_bytes: 0,
        hash: Sha256::new(),
        report,
    };
    download.take_up_part(progress)?;
    let mut furthest = download.done_bytes;
    while download.done_bytes < archive.n_bytes {
        match download.connect(progress) {
            Ok(()) => {}
            // Whoever gets further with each connection gets there.
            Err(FetchError::Network { .. }) if download.done_bytes > furthest => download.report.n_reconnects += 1,
            Err(error) => return Err(error),
        }
        furthest = furthest.max(download.done_bytes);
    }
    let Download { file, hash, .. } = download;
    file.sync_all().map_err(write_error(&part))?;
    if let Err(error) = check(archive, &part, hash) {
        // Resuming from it would fail for ever.
        fs::remove_file(&part).map_err(write_error(&part))?;
        return Err(error);
    }
    fs::rename(&part, &path).map_err(write_error(&path))?;
    Ok(path)
}

struct Download<'a> {
    archive: &'a Archive,
    agent: ureq::Agent,
    file: File,
    part: &'a Path,
    /// Bytes in `file` and in `hash`.
    done_bytes: u64,
    hash: Sha256,
    report: &'a mut FetchReport,
}

impl Download<'_> {
    /// Hashes what an earlier call has left.
    fn take_up_part(&mut self, progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>) -> Result<(), FetchError> {
        let n_bytes = self.file.metadata().map_err(read_error(self.part))?.len();
        if n_bytes > self.archive.n_bytes {
            self.report.discarded_bytes += n_bytes;
            return self.start_over();
        }
        hash_file(&mut self.file, n_bytes, self.part, &mut self.hash, self.archive, progress)?;
        self.done_bytes = n_bytes;
        self.report.resumed_bytes = n_bytes;
        Ok(())
    }

    fn start_over(&mut self) -> Result<(), FetchError> {
        self.file.set_len(0).map_err(write_error(self.part))?;
        self.file.seek(SeekFrom::Start(0)).map_err(write_error(self.part))?;
        self.done_bytes = 0;
        self.report.resumed_bytes = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Receives until the file is complete or the connection ends.
    fn connect(&mut self, progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>) -> Result<(), FetchError> {
        let url = &self.archive.url;
        let mut request = self.agent.get(url).header("Accept-Encoding", "identity");
        if self.done_bytes > 0 {
            request = request.header("Range", format!("bytes={}-", self.done_bytes));
        }
        let response = request.call().map_err(|error| self.network(error))?;
        match response.status().as_u16() {
            200 => {
                let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                if let Some(found) = length.filter(|found| *found != self.archive.n_bytes) {
                    return Err(self.wrong_size(found));
                }
                if self.done_bytes > 0 {
                    // The server cannot resume and sends everything again.
                    self.report.discarded_bytes += self.done_bytes;
                    self.start_over()?;
                }
            }
            206 => {
                let found = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or("");
                let (from, total) = (self.done_bytes, self.archive.n_bytes);
                let expected = format!("bytes {from}-{}/{total}", total - 1);
                if found != expected {
                    return Err(FetchError::ContentRange { url: url.clone(), expected, found: String::from(found) });
                }
            }
            status => return Err(FetchError::Status { url: url.clone(), status }),
        }
        self.receive(&mut response.into_body().into_reader(), progress)
    }

    fn receive(
        &mut self,
        body: &mut dyn Read,
        progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let mut chunk = vec![0; CHUNK];
        let mut reported = self.done_bytes;
        while self.done_bytes < self.archive.n_bytes {
            let n_bytes = match body.read(&mut chunk) {
                Ok(0) => return Err(self.network("the server closed the connection")),
                Ok(n_bytes) => n_bytes,
                Err(error) => return Err(self.network(error)),
            };
            let done_bytes = self.done_bytes + n_bytes as u64;
            if done_bytes > self.archive.n_bytes {
                return Err(self.wrong_size(done_bytes));
            }
            self.file.write_all(&chunk[..n_bytes]).map_err(write_error(self.part))?;
            self.hash.update(&chunk[..n_bytes]);
            self.done_bytes = done_bytes;
            self.report.downloaded_bytes += n_bytes as u64;
            if done_bytes - reported >= CHUNK as u64 || done_bytes == self.archive.n_bytes {
                reported = done_bytes;
                said(progress(FetchProgress {
                    step: FetchStep::Download,
                    done_bytes,
                    total_bytes: self.archive.n_bytes,
                }))?;
            }
        }
        Ok(())
    }

    fn network(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
        FetchError::Network { url: self.archive.url.clone(), done_bytes: self.done_bytes, source: source.into() }
    }

    fn wrong_size(&self, found: u64) -> FetchError {
        FetchError::WrongSize { url: self.archive.url.clone(), expected: self.archive.n_bytes, found }
    }
}

fn agent(archive: &Archive, options: &FetchOptions) -> Result<ureq::Agent, FetchError> {
    let proxy = options.proxy_url.as_deref().map(ureq::Proxy::new).transpose();
    let proxy = proxy.map_err(|_| FetchError::Manifest {
        file_name: archive.file_name.clone(),
        expected: "proxy_url such as http://proxy:3128",
        found: options.proxy_url.clone().unwrap_or_default(),
    })?;
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(proxy)
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .timeout_per_read(Some(TIMEOUT));
    Ok(config.build().new_agent())
}

/// Reads the first `n_bytes` of `file` into `hash`.
fn hash_file(
    file: &mut File,
    n_bytes: u64,
    path: &Path,
    hash: &mut Sha256,
    archive: &Archive,
    progress: &mut dyn FnMut(FetchProgress) -> ControlFlow<()>,
) -> Result<(), FetchError> {
    let mut chunk = vec![0; CHUNK];
    let mut done_bytes = 0;
    while done_bytes < n_bytes {
        let n_wanted = chunk.len().min(usize::try_from(n_bytes - done_bytes).unwrap_or(CHUNK));
        file.read_exact(&mut chunk[..n_wanted]).map_err(read_error(path))?;
        hash.update(&chunk[..n_wanted]);
        done_bytes += n_wanted as u64;
        said(progress(FetchProgress { step: FetchStep::Verify, done_bytes, total_bytes: archive.n_bytes }))?;
    }
    Ok(())
}

fn check(archive: &Archive, path: &Path, hash: Sha256) -> Result<(), FetchError> {
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == archive.sha256 {
        return Ok(());
    }
    Err(FetchError::WrongChecksum { path: path.to_path_buf(), expected: archive.sha256.clone(), found })
}

/// A server that is silent for this long has gone away.
const TIMEOUT: Duration = Duration::from_secs(60);
