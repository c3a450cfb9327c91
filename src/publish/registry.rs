//! Version folders in the lake's object store.

use super::Manifest;
use crate::domain::{ModelName, VersionNumber, VersionRef};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The file that makes a version exist.
const MANIFEST: &str = "manifest.json";
/// The file that claims a number; its content is the cycle's id.
const CLAIM: &str = "claim";

/// Why a version cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("cannot {what} {path}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// The object.
        path: Path,
        /// The cause.
        source: object_store::Error,
    },
    /// There is no manifest: the version does not exist.
    #[error("there is no version `{0}`; `pelton model list` lists them")]
    NotFound(VersionRef),
    /// The manifest is not readable.
    #[error("{path} is no manifest of format 1: {reason}")]
    Manifest {
        /// The object.
        path: Path,
        /// What is wrong.
        reason: String,
    },
    /// A file is not what the manifest says.
    #[error("{path} has the SHA-256 {found}, its manifest says {expected}")]
    Hash {
        /// The object.
        path: Path,
        /// What it hashes to.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// A name in a manifest points out of its folder.
    #[error("the manifest of {version} names the file `{file}`; a plain file name is expected")]
    Escape {
        /// The version.
        version: VersionRef,
        /// The name.
        file: String,
    },
}

/// A version as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The version.
    pub reference: VersionRef,
    /// Its manifest.
    pub manifest: Manifest,
}

/// The folders `models/<name>/v<N>/` of one lake.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Registry {
    /// The registry of the lake whose objects begin with `lake`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, lake: &Path) -> Self {
        Self { store, root: lake.clone().join("models") }
    }

    /// The folder of a version.
    #[must_use]
    pub fn folder(&self, version: &VersionRef) -> Path {
        self.root.clone().join(version.model.as_str()).join(version.number.to_string())
    }

    /// Takes the next free number for a cycle. A cycle that took one before gets the same again; two cycles that ask at once
    /// get two, because the claim is a conditional put.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn claim(&self, model: &ModelName, cycle: &str) -> Result<VersionRef, Error> {
        let claims = self.claims(model).await?;
        let free = claims.keys().next_back().map_or(VersionNumber::FIRST, |last| last.next());
        let mine = claims.into_iter().find_map(|(number, by)| (by == cycle).then_some(number));
        let mut number = mine.unwrap_or(free);
        loop {
            let reference = VersionRef { model: model.clone(), number };
            if mine.is_some() || self.put_claim(&reference, cycle).await? {
                return Ok(reference);
            }
            number = number.next();
        }
    }

    async fn put_claim(&self, version: &VersionRef, cycle: &str) -> Result<bool, Error> {
        let path = self.folder(version).join(CLAIM);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&path, cycle.to_owned().into_bytes().into(), options).await {
            Ok(_) => Ok(true),
            // A put whose answer was lost comes back as a conflict with itself: the content tells.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(self.get(&path).await?.as_ref() == cycle.as_bytes()),
            Err(source) => Err(Error::Store { what: "claim", path, source }),
        }
    }

    /// The numbers of a model that are taken, with the cycle that took each.
    async fn claims(&self, model: &ModelName) -> Result<BTreeMap<VersionNumber, String>, Error> {
        let mut claims = BTreeMap::new();
        for (number, path) in self.objects(Some(model), CLAIM).await? {
            let by = self.get(&path).await?;
            claims.insert(number.number, String::from_utf8_lossy(&by).into_owned());
        }
        Ok(claims)
    }

    /// Stores the files, and the manifest after them. The manifest's `files` are filled in here.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn store(
        &self,
        version: &VersionRef,
        files: Vec<(String, Vec<u8>)>,
        mut manifest: Manifest,
    ) -> Result<Manifest, Error> {
        let folder = self.folder(version);
        for (name, bytes) in files {
            manifest.files.insert(name.clone(), sha256(&bytes));
            self.put(folder.clone().join(name), bytes).await?;
        }
        let json = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::Manifest { path: folder.clone(), reason: e.to_string() })?;
        self.put(folder.join(MANIFEST), json).await?;
        Ok(manifest)
    }

    /// One version.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it has no manifest.
    pub async fn manifest(&self, version: &VersionRef) -> Result<Manifest, Error> {
        let path = self.folder(version).join(MANIFEST);
        let bytes = match self.get(&path).await {
            Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => {
                return Err(Error::NotFound(version.clone()));
            }
            other => other?,
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Manifest { path: path.clone(), reason: e.to_string() })?;
        if manifest.format != 1 {
            let reason = format!("`format` is {}", manifest.format);
            return Err(Error::Manifest { path, reason });
        }
        Ok(manifest)
    }

    /// All versions that exist, by model and number.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut all = Vec::new();
        for (reference, _) in self.objects(None, MANIFEST).await? {
            let manifest = self.manifest(&reference).await?;
            all.push(Stored { reference, manifest });
        }
        all.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(all)
    }

    /// The files of a version, each checked against its hash.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn files(&self, version: &VersionRef) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let manifest = self.manifest(version).await?;
        let mut files = Vec::new();
        for (name, expected) in manifest.files {
            if name.is_empty() || name.contains(['/', '\\']) || name == ".." || name == "." {
                return Err(Error::Escape { version: version.clone(), file: name });
            }
            let path = self.folder(version).join(name.as_str());
            let bytes = self.get(&path).await?;
            let found = sha256(&bytes);
            if found != expected {
                return Err(Error::Hash { path, found, expected });
            }
            files.push((name, bytes.to_vec()));
        }
        Ok(files)
    }

    /// Takes a version's adapter away; its manifest and report stay. Nothing where it is gone already.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remove_weights(&self, version: &VersionRef) -> Result<(), Error> {
        let path = self.folder(version).join("adapter_model.safetensors");
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store { what: "delete", path, source }),
        }
    }

    /// Every object of that name in a version's folder.
    async fn objects(&self, model: Option<&ModelName>, file: &str) -> Result<Vec<(VersionRef, Path)>, Error> {
        let under = model.map_or_else(|| self.root.clone(), |m| self.root.clone().join(m.as_str()));
        let list = self.store.list(Some(&under)).try_collect::<Vec<_>>().await;
        let list = list.map_err(|source| Error::Store { what: "list", path: under, source })?;
        let version = |path: &Path| {
            let parts: Vec<String> = path.prefix_match(&self.root)?.map(|p| p.as_ref().to_owned()).collect();
            let [model, number, name] = parts.as_slice() else { return None };
            (name == file).then_some(())?;
            Some(VersionRef { model: model.parse().ok()?, number: number.parse().ok()? })
        };
        Ok(list.into_iter().filter_map(|m| Some((version(&m.location)?, m.location))).collect())
    }

    async fn get(&self, path: &Path) -> Result<bytes::Bytes, Error> {
        let failed = |source| Error::Store { what: "read", path: path.clone(), source };
        self.store.get(path).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn put(&self, path: Path, bytes: Vec<u8>) -> Result<(), Error> {
        match self.store.put(&path, bytes.into()).await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Store { what: "write", path, source }),
        }
    }
}

/// Hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
