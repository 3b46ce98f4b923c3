//! Opening a store by its URL.

use std::{
    path::Path as FilePath,
    sync::{Arc, OnceLock},
};

use object_store::memory::InMemory;
use url::Url;

use crate::{
    access::StoreAccess,
    azure,
    credentials::CredentialsFolder,
    environment::StoreEnvironment,
    errors::StoreError,
    folder::FolderStore,
    gcs,
    reloading::ReloadingStore,
    s3,
    scheme::StoreScheme,
    store::{Store, StoreBackend},
    transport::{ProviderClient, TransportSettings, unusable},
};

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenMode {
    /// A folder is created if it does not exist.
    ReadWrite,
    /// Nothing is changed.
    ReadOnly,
}

impl Store {
    /// The store in the folder `path`, which is created if it does not exist. It serves the processes of one machine.
    pub fn folder(path: &FilePath) -> Result<Self, StoreError> {
        open_folder(path, OpenMode::ReadWrite)
    }

    /// Opens the store that `url` names: `s3://`, `gs://`, `az://`, `file://` or `memory://`.
    ///
    /// Credentials and endpoints come from the environment, as each store's own tools read them. No request is sent yet.
    pub fn open(url: &Url) -> Result<Self, StoreError> {
        Self::open_with(url, &StoreEnvironment::of_process())
    }

    /// As [`Self::open`], with variables other than the process's.
    pub fn open_with(url: &Url, environment: &StoreEnvironment) -> Result<Self, StoreError> {
        Self::open_as(url, &environment.clone().into())
    }

    /// As [`Self::open`], with settings of its own.
    ///
    /// A credential that is missing in a folder of credentials is an error of the requests, not of opening.
    pub fn open_as(url: &Url, access: &StoreAccess) -> Result<Self, StoreError> {
        open(url, access, OpenMode::ReadWrite)
    }

    /// As [`Self::open`], for a process that only reads: a folder that does not exist is not created, and requests fail
    /// with [`StoreError::NoBucket`] until another process creates it.
    pub fn open_read_only(url: &Url) -> Result<Self, StoreError> {
        Self::open_read_only_as(url, &StoreEnvironment::of_process().into())
    }

    /// As [`Self::open_read_only`], with settings of its own.
    pub fn open_read_only_as(url: &Url, access: &StoreAccess) -> Result<Self, StoreError> {
        open(url, access, OpenMode::ReadOnly)
    }
}

fn open(url: &Url, access: &StoreAccess, mode: OpenMode) -> Result<Store, StoreError> {
    match StoreScheme::of(url) {
        Some(StoreScheme::Memory) => Ok(Store::over(Arc::new(InMemory::new()), url.clone())),
        Some(StoreScheme::Folder) => {
            let path = url.to_file_path().map_err(|()| {
                unusable(url, "it names no folder of this machine".to_owned(), "write \"file:///path\"")
            })?;
            open_folder(&path, mode)
        }
        Some(scheme) => open_bucket(scheme, url, access),
        None => {
            let scheme = url.scheme();
            Err(unusable(url, format!("unsupported URL scheme \"{scheme}\""), "use s3, gs, az, file or memory"))
        }
    }
}

fn open_bucket(scheme: StoreScheme, url: &Url, access: &StoreAccess) -> Result<Store, StoreError> {
    let certificates = access.certificates(url.as_str())?;
    let transport = TransportSettings { certificates: certificates.clone(), requests: access.requests.clone() };
    let client = match &access.credentials_dir {
        None => connect(scheme, url, &access.environment, &transport)?,
        Some(folder) => {
            let folder = CredentialsFolder::new(folder, scheme, url.as_str());
            let (own_url, environment) = (url.clone(), access.environment.clone());
            let store = ReloadingStore::new(
                url.as_str(),
                folder,
                Box::new(move |credentials| connect(scheme, &own_url, &credentials.over(&environment), &transport)),
            );
            ProviderClient { store: Arc::new(store.clone()), signer: Arc::new(store) }
        }
    };
    let backend = StoreBackend {
        inner: client.store,
        scheme,
        signer: Some(client.signer),
        certificates,
        client: OnceLock::new(),
    };
    Ok(Store::with(backend, url.clone()))
}

/// The provider's client of the bucket that `url` names.
fn connect(
    scheme: StoreScheme,
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    match scheme {
        StoreScheme::S3 => s3::open(url, environment, transport),
        StoreScheme::Google => gcs::open(url, environment, transport),
        StoreScheme::Azure => azure::open(url, environment, transport),
        StoreScheme::Memory | StoreScheme::Folder => {
            Err(unusable(url, "it takes no credentials".to_owned(), "leave the credentials folder out"))
        }
    }
}

fn open_folder(path: &FilePath, mode: OpenMode) -> Result<Store, StoreError> {
    let (verb, opened) = match mode {
        OpenMode::ReadWrite => ("write", FolderStore::open(path)),
        OpenMode::ReadOnly => ("read", FolderStore::open_read_only(path)),
    };
    let refused = |error: std::io::Error| StoreError::Unusable {
        url: format!("file://{}", path.display()),
        why: error.to_string(),
        remedy: format!("name a folder that this user may {verb}"),
    };
    let (inner, path) = opened.map_err(refused)?;
    let url = Url::from_directory_path(&path).map_err(|()| refused(std::io::ErrorKind::InvalidFilename.into()))?;
    Ok(Store::with(StoreBackend::without_urls(Arc::new(inner), StoreScheme::Folder), url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, environment: &[(&str, &str)]) -> String {
        let environment: StoreEnvironment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        open(&url.parse().unwrap(), &environment.into(), OpenMode::ReadWrite).unwrap_err().to_string()
    }

    #[test]
    fn a_url_that_cannot_be_opened_says_why() {
        assert!(refusal("ftp://host/x", &[]).contains("unsupported URL scheme \"ftp\""));
        assert!(refusal("s3:///x", &[]).contains("it names no bucket"));
        let plain = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")];
        assert!(refusal("s3://bucket/x", &plain).contains("set AWS_ALLOW_HTTP=true"));
        assert!(refusal("az://container/x", &[]).contains("AZURE_STORAGE_ACCOUNT"));
    }

    #[test]
    fn opening_asks_nothing_of_the_store() {
        let environment = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let environment: StoreEnvironment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let store = open(&"s3://bucket/log".parse().unwrap(), &environment.into(), OpenMode::ReadWrite).unwrap();
        assert_eq!(store.below("/x/y/").url().as_str(), "s3://bucket/log/x/y");
    }
}
