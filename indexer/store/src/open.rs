//! Opening a store by its URL.

use std::{path::Path as FilePath, sync::Arc};

use object_store::memory::InMemory;
use url::Url;

use crate::{
    access::StoreAccess,
    azure,
    certificates::TrustedCertificates,
    configuration::ConfiguredValue,
    credentials::CredentialsFolder,
    environment::StoreEnvironment,
    errors::StoreError,
    folder::FolderStore,
    gcs,
    location::EndpointSource,
    object_versions::ListVersions,
    provider_client::{ProviderClient, TransportSettings, unusable},
    reloading_store::{ClientFiles, FilesReader, ReloadingStore},
    s3,
    scheme::StoreScheme,
    store::{Store, StoreBackend},
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
    let (environment, folder) = (access.environment.clone(), access.credentials_dir.as_ref());
    let folder = folder.map(|folder| CredentialsFolder::new(folder, scheme, url.as_str()));
    let certificates = certificates_file(scheme, access);
    let files = files_reader(url, certificates.clone(), folder.clone());
    let endpoint: EndpointSource = Box::new(move || {
        let credentials = folder.as_ref().and_then(|folder| folder.read().ok());
        endpoint(scheme, &credentials.map_or_else(|| environment.clone(), |found| found.over(&environment)))
    });
    let has_files = access.credentials_dir.is_some() || certificates.is_some();
    let (own_url, environment, requests) = (url.clone(), access.environment.clone(), access.requests.clone());
    let connect_with = move |files: &ClientFiles| {
        let credentials = files.credentials.as_ref();
        let environment = credentials.map_or_else(|| environment.clone(), |found| found.over(&environment));
        let transport = TransportSettings { certificates: files.certificates.clone(), requests: requests.clone() };
        connect(scheme, &own_url, &environment, &transport)
    };
    let store = ReloadingStore::new(url.as_str(), files, Box::new(connect_with));
    if !has_files {
        // Nothing that is missing now can come later.
        store.client()?;
    }
    let backend = StoreBackend {
        inner: Arc::new(store.clone()),
        scheme,
        versions: (scheme == StoreScheme::S3).then(|| Arc::new(store.clone()) as Arc<dyn ListVersions>),
        provider: Some(store),
        endpoint: Some(endpoint),
    };
    Ok(Store::with(backend, url.clone()))
}

/// The file of the authorities that sign the certificate of the server.
fn certificates_file(scheme: StoreScheme, access: &StoreAccess) -> Option<ConfiguredValue> {
    match &access.ca_file {
        Some(file) => {
            let source = "setting \"caFile\" of the store".to_owned();
            Some(ConfiguredValue { value: file.display().to_string(), source })
        }
        None if scheme == StoreScheme::S3 => s3::ca_bundle(&access.environment),
        None => None,
    }
}

/// Reads what the client of a store is made of.
fn files_reader(url: &Url, certificates: Option<ConfiguredValue>, folder: Option<CredentialsFolder>) -> FilesReader {
    let url = url.clone();
    Box::new(move || {
        let credentials = folder.as_ref().map(CredentialsFolder::read).transpose()?;
        let certificates = certificates.as_ref().map(|file| TrustedCertificates::read(&url, file)).transpose()?;
        Ok(ClientFiles { credentials, certificates })
    })
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

/// The endpoint of the provider's client; `None` for the provider's own.
fn endpoint(scheme: StoreScheme, environment: &StoreEnvironment) -> Option<String> {
    match scheme {
        StoreScheme::S3 => s3::endpoint(environment),
        StoreScheme::Google => gcs::endpoint(environment),
        StoreScheme::Azure => azure::endpoint(environment),
        StoreScheme::Memory | StoreScheme::Folder => None,
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
    use crate::StoreSettings;

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

    /// The client of signed URLs is asked for at each upload.
    #[tokio::test(start_paused = true)]
    async fn a_file_of_certificates_is_read_at_most_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let authority = rcgen::generate_simple_self_signed(["s3.corp".to_owned()]).unwrap();
        std::fs::write(&file, authority.cert.pem()).unwrap();
        let settings = StoreSettings { ca_file: Some(file.clone()), ..StoreSettings::default() };
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let store = Store::open_as(&"s3://bucket".parse().unwrap(), &StoreAccess::new(&settings, keys)).unwrap();
        let configuration = store.configuration().unwrap();
        assert_eq!(configuration.certificates.unwrap().value, file.display().to_string());
        store.client().unwrap();
        std::fs::remove_file(&file).unwrap();
        store.client().unwrap();
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(matches!(store.client().unwrap_err(), StoreError::Missing { .. }));
    }
}
