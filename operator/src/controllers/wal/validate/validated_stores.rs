//! Where log, metadata and index are, and where snapshots are copied to, and the access to them.

/// Where log, metadata and index are, and where snapshots are copied to, and how to get at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalStores {
    /// The log: its URL and access.
    pub log: (String, ValidatedStore),
    /// The metadata: its URLs, and their access.
    pub metadata: (Vec<String>, ValidatedStore),
    /// The index: its URL and access.
    pub index: (String, ValidatedStore),
    /// What snapshots are copied to, if the spec names it: its URL and access.
    pub copy: Option<(String, ValidatedStore)>,
}

impl WalStores {
    /// The places in one order, each with its access, without that of copies: pods that copy nothing need no right there.
    pub fn of_index(&self) -> Vec<(StorePlace, &ValidatedStore)> {
        vec![
            (StorePlace::Log, &self.log.1),
            (StorePlace::Metadata, &self.metadata.1),
            (StorePlace::Index, &self.index.1),
        ]
    }

    /// [`WalStores::of_index`] and that of copies, if there is one.
    pub fn with_copy(&self) -> Vec<(StorePlace, &ValidatedStore)> {
        let copy = self.copy.as_ref().map(|(_, store)| (StorePlace::Copy, store));
        self.of_index().into_iter().chain(copy).collect()
    }

    /// The URLs of a place.
    pub fn urls(&self, place: StorePlace) -> &[String] {
        match place {
            StorePlace::Log => std::slice::from_ref(&self.log.0),
            StorePlace::Metadata => &self.metadata.0,
            StorePlace::Index => std::slice::from_ref(&self.index.0),
            StorePlace::Copy => self.copy.as_ref().map_or(&[], |(url, _)| std::slice::from_ref(url)),
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
    /// Copies of the snapshots.
    Copy,
}

impl StorePlace {
    /// The place's name in the pods' settings and folders.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metadata => "metadata",
            Self::Index => "index",
            Self::Copy => "copy",
        }
    }

    /// The field of the spec that describes it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Log => "spec.log",
            Self::Metadata => "spec.metadata",
            Self::Index => "spec.index",
            Self::Copy => "spec.snapshots.copyTo",
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
