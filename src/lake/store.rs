//! A lake's URL to the object store that it lives in: local disk or S3 and what speaks its protocol.
//!
//! Local writes are made durable ([`super::durable`]) unless the configuration says otherwise; S3 commits use conditional
//! PUT, so no lock service is needed.

use super::durable::DurableFileSystem;
use super::error::{Error, Result};
use crate::config;
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
    object_store_factories,
};
use deltalake::{DeltaResult, Path};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, RetryConfig};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Once};
use std::time::Duration;
use url::Url;

/// Where a lake lives: a store whose paths begin at the URL's authority, and the lake's own URL with a slash at its end.
#[derive(Debug, Clone)]
pub struct Store {
    /// The store; its root is the root of the disk or of the bucket.
    pub root: Arc<dyn ObjectStore>,
    /// The lake's URL.
    pub url: Url,
}

impl Store {
    /// Opens the store that the configuration names; makes the folder of a local one.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Store`] with the URL and what is wrong.
    pub fn open(lake: &config::Lake) -> Result<Self> {
        match Url::parse(&lake.url) {
            Ok(url) if matches!(url.scheme(), "s3" | "s3a") => Self::s3(lake, &url),
            Ok(url) if url.scheme() == "file" => {
                let path = url.to_file_path().map_err(|()| wrong(lake, "it has a host; file:///path is expected"))?;
                Self::local(lake, path)
            }
            Ok(url) if url.scheme().len() > 1 && lake.url.contains("://") => {
                Err(wrong(lake, &format!("the scheme `{}` is not supported", url.scheme())))
            }
            _ => Self::local(lake, PathBuf::from(&lake.url)),
        }
    }

    /// The URL of one of the lake's folders, such as `tables/cycle`.
    #[must_use]
    pub fn folder(&self, path: &str) -> Url {
        self.url.join(&format!("{path}/")).expect("a plain relative path joins any folder")
    }

    fn local(lake: &config::Lake, path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).map_err(|e| wrong(lake, &format!("its folder cannot be made ({e})")))?;
        let path = path.canonicalize().map_err(|e| wrong(lake, &format!("its folder cannot be resolved ({e})")))?;
        let url = Url::from_directory_path(&path).map_err(|()| wrong(lake, "its path is not absolute"))?;
        let disk = LocalFileSystem::new();
        let disk = if lake.fsync { DurableFileSystem::new(disk) } else { DurableFileSystem::unsynced(disk) };
        Ok(Self { root: Arc::new(disk), url })
    }

    fn s3(lake: &config::Lake, url: &Url) -> Result<Self> {
        register_s3();
        let bucket = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| wrong(lake, "it names no bucket"))?;
        let store_error = |source| Error::Store { url: lake.url.clone(), source: Box::new(source) };
        // Who calls tries again and can be told to stop; the default would hold a drain up for three minutes.
        let retry = RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(15), ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry);
        for (key, value) in &lake.options {
            let key = AmazonS3ConfigKey::from_str(&key.to_ascii_lowercase()).map_err(store_error)?;
            builder = builder.with_config(key, value);
        }
        let root = Arc::new(builder.build().map_err(store_error)?);
        let folder =
            format!("s3://{bucket}/{}/", url.path().trim_matches('/')).replace("//", "/").replacen(":/", "://", 1);
        let url = Url::parse(&folder).map_err(|e| wrong(lake, &e.to_string()))?;
        Ok(Self { root, url })
    }
}

fn wrong(lake: &config::Lake, reason: &str) -> Error {
    Error::Url { url: lake.url.clone(), reason: reason.to_owned() }
}

/// delta-rs knows how to keep a log only for schemes that are registered. Ours is its default one over conditional PUT;
/// `deltalake-aws` would add the AWS SDK for nothing else.
#[derive(Debug)]
struct S3;

impl LogStoreFactory for S3 {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

impl ObjectStoreFactory for S3 {
    fn parse_url_opts(&self, url: &Url, config: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let (store, path) = object_store::parse_url_opts(url, config.raw.iter())?;
        Ok((Arc::from(store), path))
    }
}

fn register_s3() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let scheme = Url::parse("s3://").expect("it is a URL");
        logstore_factories().insert(scheme.clone(), Arc::new(S3));
        object_store_factories().insert(scheme, Arc::new(S3));
    });
}
