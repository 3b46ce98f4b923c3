//! Places and the access to them.

use tidemark_crds::{CredentialsType, StorageCredentials, StorageSpec, WalSpec};

use super::refusal::RefusalList;

/// Where log, metadata and index are, and how to get at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalStores {
    /// The log: its URL and access.
    pub log: (String, ValidatedStore),
    /// The metadata: its URLs, and their access.
    pub metadata: (Vec<String>, ValidatedStore),
    /// The index: its URL and access.
    pub index: (String, ValidatedStore),
}

impl WalStores {
    /// The places in one order, each with its access.
    pub fn each(&self) -> [(StorePlace, &ValidatedStore); 3] {
        [(StorePlace::Log, &self.log.1), (StorePlace::Metadata, &self.metadata.1), (StorePlace::Index, &self.index.1)]
    }

    /// The URLs of a place.
    pub fn urls(&self, place: StorePlace) -> &[String] {
        match place {
            StorePlace::Log => std::slice::from_ref(&self.log.0),
            StorePlace::Metadata => &self.metadata.0,
            StorePlace::Index => std::slice::from_ref(&self.index.0),
        }
    }
}

/// What a store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorePlace {
    /// The log.
    Log,
    /// The descriptors.
    Metadata,
    /// The index.
    Index,
}

impl StorePlace {
    /// The place's name in the pods' settings and folders.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metadata => "metadata",
            Self::Index => "index",
        }
    }
}

/// How to get at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedStore {
    /// The folder of its credentials and certificates: `storage`, or the place's name where it has a store of its own.
    pub folder: &'static str,
    /// Address of its API, if it is not the cloud's.
    pub endpoint: Option<String>,
    /// Region of its buckets.
    pub region: Option<String>,
    /// Storage account of its containers (Azure).
    pub account: Option<String>,
    /// Whether it may be used without encryption.
    pub allow_http: bool,
    /// Name of the ConfigMap with the certificates to trust.
    pub ca: Option<String>,
    /// How the pods prove who they are.
    pub access: ValidatedCredentials,
}

/// How pods prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidatedCredentials {
    /// By the keys in the Secret of this name.
    Secret(String),
    /// By what the cloud gives to the pod's service account.
    WorkloadIdentity,
}

pub(super) fn stores(spec: &WalSpec, refusals: &mut RefusalList) -> Option<WalStores> {
    check_urls(spec, refusals);
    let common = spec.storage.as_ref();
    let log = store(StorePlace::Log, spec.log.storage.as_ref(), common, refusals);
    let metadata = store(StorePlace::Metadata, spec.metadata.storage.as_ref(), common, refusals);
    let index = store(StorePlace::Index, spec.index.storage.as_ref(), common, refusals);
    Some(WalStores {
        log: (spec.log.url.clone(), log?),
        metadata: (spec.metadata.urls.clone(), metadata?),
        index: (spec.index.url.clone(), index?),
    })
}

fn store(
    place: StorePlace,
    own: Option<&StorageSpec>,
    common: Option<&StorageSpec>,
    refusals: &mut RefusalList,
) -> Option<ValidatedStore> {
    let path = own.map_or_else(|| "spec.storage".to_owned(), |_| format!("spec.{}.storage", place.as_str()));
    let Some(storage) = own.or(common) else {
        refusals.spec(format!("neither \"spec.storage\" nor \"spec.{}.storage\" is there; add one", place.as_str()));
        return None;
    };
    let StorageSpec { endpoint, region, account, allow_http, ca_ref, credentials } = storage;
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) && !allow_http {
        refusals.spec(format!("\"{path}.endpoint\" is plain http; use https, or set allowHTTP: true"));
    }
    Some(ValidatedStore {
        folder: if own.is_some() { place.as_str() } else { "storage" },
        endpoint: endpoint.clone(),
        region: region.clone(),
        account: account.clone(),
        allow_http: *allow_http,
        ca: ca_ref.as_ref().map(|ca| ca.name.clone()),
        access: access(&path, credentials, refusals)?,
    })
}

fn access(path: &str, credentials: &StorageCredentials, refusals: &mut RefusalList) -> Option<ValidatedCredentials> {
    match (credentials.r#type, &credentials.secret_ref) {
        (CredentialsType::WorkloadIdentity, _) => Some(ValidatedCredentials::WorkloadIdentity),
        (CredentialsType::Secret, Some(secret)) => Some(ValidatedCredentials::Secret(secret.name.clone())),
        (CredentialsType::Secret, None) => {
            refusals.spec(format!(
                "\"{path}.credentials\" of type Secret needs a secretRef; name the Secret with the keys"
            ));
            None
        }
    }
}

fn check_urls(spec: &WalSpec, refusals: &mut RefusalList) {
    let log = ("spec.log.url", &spec.log.url);
    let index = ("spec.index.url", &spec.index.url);
    let metadata = spec.metadata.urls.iter().map(|url| ("spec.metadata.urls", url));
    let all: Vec<_> = [log, index].into_iter().chain(metadata.clone()).collect();
    for (path, url) in &all {
        if !["s3://", "gs://", "az://"].iter().any(|scheme| url.starts_with(scheme)) {
            refusals.spec(format!("\"{path}\" is \"{url}\"; it starts with s3://, gs:// or az://"));
        }
    }
    let pairs = [(log, index)].into_iter().chain(metadata.flat_map(|metadata| [(log, metadata), (index, metadata)]));
    for ((one, a), (other, b)) in pairs {
        if below(a, b) || below(b, a) {
            refusals
                .spec(format!("\"{one}\" \"{a}\" and \"{other}\" \"{b}\" lie one below the other; keep them apart"));
        }
    }
}

/// Whether `inner` is `outer` or lies below it.
fn below(inner: &str, outer: &str) -> bool {
    format!("{inner}/").starts_with(&format!("{outer}/"))
}
