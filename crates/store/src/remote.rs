//! Objects in S3, Google's or Azure's object store, or in a server that speaks like one of them.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use crate::error::StoreError;
use crate::objects::{Created, Listed, Objects};

/// An object store. Each call waits for its answer.
#[derive(Debug)]
pub struct Remote {
    /// Scheme and bucket, for messages.
    root: String,
    store: Arc<dyn ObjectStore>,
    /// Of the thread that waits; without threads of its own.
    runtime: Runtime,
}

impl Remote {
    /// Opens the store of an address, and the prefix that its objects begin with. `options` as in [`open`](crate::open::open).
    ///
    /// # Errors
    /// `Address`; `Object`, if what the options say does not go together.
    pub fn open(address: &str, options: &[(String, String)]) -> Result<(Self, String), StoreError> {
        let wrong = |found: &str| StoreError::Address { address: address.into(), found: found.into() };
        let (scheme, rest) = address.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("no bucket"));
        }
        let root = format!("{scheme}://{bucket}");
        // Ours or, where the program has one already, its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |source: object_store::Error| failed(root.clone(), "open", source);
        let known = |name: &str| name.to_ascii_lowercase();
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" => {
                let builder =
                    AmazonS3Builder::new().with_url(address).with_retry(retry()).with_client_options(client());
                // Objects are deleted one by one, and not every server knows how to delete many.
                let builder = builder.with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
                let set = |builder: AmazonS3Builder, (name, value): &(String, String)| match known(name).parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                };
                Arc::new(options.iter().fold(builder, set).build().map_err(failed)?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::new()
                    .with_url(address)
                    .with_retry(retry())
                    .with_client_options(client());
                let set =
                    |builder: GoogleCloudStorageBuilder, (name, value): &(String, String)| match known(name).parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    };
                Arc::new(options.iter().fold(builder, set).build().map_err(failed)?)
            }
            "az" => {
                let builder =
                    MicrosoftAzureBuilder::new().with_url(address).with_retry(retry()).with_client_options(client());
                let set = |builder: MicrosoftAzureBuilder, (name, value): &(String, String)| match known(name).parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                };
                Arc::new(options.iter().fold(builder, set).build().map_err(failed)?)
            }
            other => return Err(wrong(other)),
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|source| StoreError::Object {
            object: root.clone(),
            action: "open",
            may_pass: false,
            source: source.into(),
        })?;
        Ok((Self { root, store, runtime }, prefix.into()))
    }

    fn path(&self, name: &str, action: &'static str) -> Result<Path, StoreError> {
        Path::parse(name).map_err(|source| failed(self.object(name), action, source.into()))
    }

    fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    fn put_by(&self, name: &str, bytes: &[u8], mode: PutMode) -> object_store::Result<()> {
        let path = Path::parse(name)?;
        let options = PutOptions { mode, ..PutOptions::default() };
        self.runtime.block_on(self.store.put_opts(&path, bytes.to_vec().into(), options)).map(|_| ())
    }
}

impl Objects for Remote {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        match self.put_by(name, bytes, PutMode::Create) {
            Ok(()) => Ok(Created::Now),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Created::Taken)
            }
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                Err(StoreError::NoConditionalCreate { place: self.object(name) })
            }
            Err(error) => Err(failed(self.object(name), "create", error)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_by(name, bytes, PutMode::Overwrite).map_err(|error| failed(self.object(name), "put", error))
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name, "get")?;
        let got = self.runtime.block_on(async {
            let found = self.store.get(&path).await?;
            // Before anything is allocated.
            if found.meta.size > limit {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        });
        match got {
            Ok(Some(bytes)) => Ok(Some(bytes.into())),
            Ok(None) => Err(StoreError::TooLarge { object: self.object(name), limit }),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(self.object(name), "get", error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        use futures_util::TryStreamExt as _;
        let path = self.path(folder, "list")?;
        let found = self.runtime.block_on(self.store.list(Some(&path)).try_collect::<Vec<_>>());
        let found = found.map_err(|error| failed(self.object(folder), "list", error))?;
        let listed = |meta: object_store::ObjectMeta| Listed {
            name: meta.location.to_string(),
            bytes: meta.size,
            modified: meta.last_modified.into(),
        };
        Ok(found.into_iter().map(listed).collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name, "delete")?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(self.object(name), "delete", error)),
        }
    }
}

/// What a place is told of a failure. The library has tried several times already where the server was busy or the connection broke.
fn failed(object: String, action: &'static str, source: object_store::Error) -> StoreError {
    use object_store::Error::{AlreadyExists, Generic, Precondition};
    // A conflict of two puts at once is one that passes.
    let may_pass = matches!(source, Generic { .. } | AlreadyExists { .. } | Precondition { .. });
    StoreError::Object { object, action, may_pass, source: source.into() }
}

/// The library's own limit of half a minute for a whole request is too short for a shard on a slow line. Options may set others.
fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(Duration::from_secs(600)).with_connect_timeout(Duration::from_secs(10))
}

fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 };
    RetryConfig { backoff, max_retries: 6, retry_timeout: Duration::from_secs(60) }
}
