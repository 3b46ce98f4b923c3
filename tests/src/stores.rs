//! Any of the stores behind one name, each empty and its own: for a suite that runs on all of them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use object_store::memory::InMemory;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tempfile::TempDir;
use tidemark_store::{Entropy, Store, StoreSecond, UserMetadata};
use tokio::sync::OnceCell;

use crate::{AzuriteServer, FaultyStore, GcsServer, MinioServer, S3Server};

/// The one MinIO of a test process: its tests have a bucket each.
static MINIO: OnceCell<MinioServer> = OnceCell::const_new();

/// The one `azurite` of a test process: its tests have a container each.
static AZURITE: OnceCell<Option<AzuriteServer>> = OnceCell::const_new();

/// A store and what keeps it alive.
pub struct TestStore {
    /// The store, empty at first.
    pub store: Store,
    /// What it runs on.
    pub on: StoreBackend,
}

/// What a [`TestStore`] runs on.
pub enum StoreBackend {
    /// The process's memory, with faults.
    Memory(FaultyStore),
    /// A temporary folder.
    Folder(TempDir),
    /// The S3 server in process, with the bucket `bucket`.
    S3(Box<S3Server>),
    /// The server of Google's API in process, with the bucket `bucket`.
    Gcs(Box<GcsServer>),
    /// The process's MinIO.
    MinioServer {
        /// Its environment variables.
        environment: BTreeMap<String, String>,
        /// The bucket of this store.
        bucket: String,
    },
    /// The process's `azurite`.
    AzuriteServer {
        /// Its environment variables.
        environment: BTreeMap<String, String>,
        /// A token that may do everything in the container of this store.
        sas_token: String,
    },
}

impl TestStore {
    /// A store in memory, under a decorator that can inject faults.
    pub fn memory() -> Self {
        let faulty = FaultyStore::over(InMemory::new());
        let url = "memory:///".parse().expect("the URL parses");
        Self { store: Store::over(Arc::new(faulty.clone()), url), on: StoreBackend::Memory(faulty) }
    }

    /// A store in a temporary folder.
    pub fn folder() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { store: Store::folder(folder.path()).expect("the folder opens"), on: StoreBackend::Folder(folder) }
    }

    /// A store on a server of its own in this process.
    pub fn s3() -> Self {
        let server = S3Server::with_bucket("bucket").expect("the server starts");
        let store = open("s3://bucket", &server.environment());
        Self { store, on: StoreBackend::S3(Box::new(server)) }
    }

    /// A store on a server of Google's API in this process.
    pub fn gcs() -> Self {
        let server = GcsServer::with_bucket("bucket").expect("the server starts");
        Self { store: open("gs://bucket", &server.environment()), on: StoreBackend::Gcs(Box::new(server)) }
    }

    /// A bucket of its own on this process's MinIO.
    pub async fn minio() -> Self {
        let minio = MINIO.get_or_try_init(MinioServer::start).await.expect("minio starts");
        let bucket = format!("bucket-{}", Entropy::from_os().nonce());
        minio.create_bucket(&bucket).await.expect("the bucket is created");
        let environment = minio.environment();
        Self {
            store: open(&format!("s3://{bucket}"), &environment),
            on: StoreBackend::MinioServer { environment, bucket },
        }
    }

    /// A container of its own on this process's `azurite`; `None`, with words, where that cannot be installed. In CI only a
    /// registry that does not answer is such a place.
    pub async fn azurite() -> Option<Self> {
        let Some(azurite) = AZURITE.get_or_try_init(AzuriteServer::start).await.expect("azurite starts") else {
            eprintln!("SKIPPED: azurite cannot be installed now, so nothing is tested on it");
            return None;
        };
        let container = format!("container-{}", Entropy::from_os().nonce());
        azurite.create_container(&container).await.expect("the container is created");
        let environment = azurite.environment();
        let store = open(&format!("az://{container}"), &environment);
        let sas_token = azurite.container_token(&container);
        Some(Self { store, on: StoreBackend::AzuriteServer { environment, sas_token } })
    }

    /// The store's time, as a fresh object shows it.
    pub async fn now(&self) -> StoreSecond {
        self.store.put("now", Bytes::new()).await.expect("it is written");
        let info = self.store.head("now").await.expect("the store answers").expect("it is there");
        self.store.delete(&["now".to_owned()]).await.expect("it is deleted");
        info.time
    }

    /// Puts an object under a key that the store contract cannot write, if the store itself takes it.
    pub async fn put_hostile(&self, key: &str) -> anyhow::Result<()> {
        match &self.on {
            StoreBackend::Memory(_) => anyhow::bail!("the memory store takes no such key"),
            StoreBackend::Folder(folder) => {
                let file = file(folder, key)?;
                std::fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
                Ok(std::fs::write(file, "x")?)
            }
            StoreBackend::S3(server) => {
                server.insert("bucket", key, "x");
                Ok(())
            }
            StoreBackend::Gcs(server) => {
                anyhow::ensure!(!key.contains(char::is_control), "what Google lists of such a key is not documented");
                server.insert("bucket", key, "x");
                Ok(())
            }
            StoreBackend::AzuriteServer { environment, sas_token } => {
                anyhow::ensure!(!is_dotted(key), "URL clients resolve such a key on the way");
                anyhow::ensure!(
                    !key.contains(char::is_control),
                    "azurite 3.37 answers listings of such a key with 500"
                );
                let container = self.store.url().host_str().context("it names a container")?;
                let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
                let url = format!("{}/{container}/{key}?{sas_token}", environment["AZURE_STORAGE_ENDPOINT"]);
                let put = reqwest::Client::new().put(url).header("x-ms-blob-type", "BlockBlob").body("x");
                put.send().await?.error_for_status()?;
                Ok(())
            }
            StoreBackend::MinioServer { environment, bucket } => {
                anyhow::ensure!(!is_dotted(key), "URL clients resolve such a key on the way");
                let bucket =
                    Bucket::new(environment["AWS_ENDPOINT_URL"].parse()?, UrlStyle::Path, bucket.clone(), "us-east-1")?;
                let credentials =
                    Credentials::new(&environment["AWS_ACCESS_KEY_ID"], &environment["AWS_SECRET_ACCESS_KEY"]);
                let url = bucket.put_object(Some(&credentials), key).sign(Duration::from_mins(1));
                reqwest::Client::new().put(url).body("x").send().await?.error_for_status()?;
                Ok(())
            }
        }
    }

    /// The variables with which others open the same store; `None` where it needs none.
    pub fn environment(&self) -> Option<BTreeMap<String, String>> {
        match &self.on {
            StoreBackend::Memory(_) | StoreBackend::Folder(_) => None,
            StoreBackend::S3(server) => Some(server.environment()),
            StoreBackend::Gcs(server) => Some(server.environment()),
            StoreBackend::MinioServer { environment, .. } | StoreBackend::AzuriteServer { environment, .. } => {
                Some(environment.clone())
            }
        }
    }

    /// The same with a wrong secret.
    pub fn strangers_environment(&self) -> Option<BTreeMap<String, String>> {
        if let StoreBackend::Gcs(server) = &self.on {
            return Some(server.strangers_environment());
        }
        let mut environment = self.environment()?;
        environment.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned());
        environment.insert("AZURE_STORAGE_KEY".to_owned(), "d3Jvbmc=".to_owned());
        Some(environment)
    }

    /// Whether the store hands out signed URLs.
    pub fn signs(&self) -> bool {
        !matches!(self.on, StoreBackend::Memory(_) | StoreBackend::Folder(_))
    }

    /// The user metadata that the store gives back for `metadata`.
    pub fn kept(&self, metadata: &UserMetadata) -> UserMetadata {
        match self.on {
            StoreBackend::Folder(_) => UserMetadata::new(),
            _ => metadata.clone(),
        }
    }
}

/// Opens `url` under `environment` instead of the process's own.
pub fn open(url: &str, environment: &BTreeMap<String, String>) -> Store {
    let environment = environment.clone().into_iter().collect();
    Store::open_with(&url.parse().expect("the URL parses"), &environment).expect("the store opens")
}

fn is_dotted(key: &str) -> bool {
    key.split('/').any(|part| part == "." || part == "..")
}

fn file(folder: &TempDir, key: &str) -> anyhow::Result<PathBuf> {
    let climbs = key.split('/').any(|part| part.is_empty() || part.starts_with('.'));
    anyhow::ensure!(!climbs, "a file system takes no such name");
    Ok(folder.path().join(key))
}
