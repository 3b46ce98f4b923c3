//! The stores that a process stands on: where they are, how each is reached, and what their requests come to.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};
use serde::{Deserialize, Serialize};
use tidemark_store::{RequestCounter, Store, StoreAccess, StoreEnvironment, StoreError, StoreSettings, urls_overlap};
use tidemark_wal::Log;
use url::Url;

use tidemark_crds::StoreRole;

/// Settings of each place's store; a place that is left out uses the variables of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoresSettings {
    /// The log's own store.
    pub log: StoreSettings,
    /// The stores of descriptors.
    pub metadata: StoreSettings,
    /// The index's store.
    pub index: StoreSettings,
    /// The store that snapshots are copied to.
    pub copy: StoreSettings,
    /// Another store that an index is restored from; left out, it is reached as the index's.
    pub from: Option<StoreSettings>,
}

/// What was opened: the log, if one was named, and the index.
#[derive(Clone, Debug)]
pub struct OpenStores {
    /// The log.
    pub log: Option<Log>,
    /// The index.
    pub index: Store,
}

/// The stores of a process, which opens them as often as it must.
pub struct PodStores {
    open: Box<dyn Fn() -> Result<OpenStores, StoreError> + Send + Sync>,
    roles: Vec<(String, StoreRole)>,
    requests: BTreeMap<&'static str, RequestCounter>,
}

/// Counts of the requests to each store, by its role, as figures.
pub struct StoreRequestCounts(BTreeMap<&'static str, RequestCounter>);

/// How a process uses its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// It writes: a folder is made if it does not exist.
    ReadWrite,
    /// It only reads.
    ReadOnly,
}

impl StoresSettings {
    /// A store that is reached as the log's own is.
    pub fn beside_log(&self, url: &Url) -> Result<Store, StoreError> {
        Store::open_as(url, &StoreAccess::new(&self.log, StoreEnvironment::of_process()))
    }

    /// The store that snapshots are copied to.
    pub fn snapshot_copies(&self, url: &Url) -> Result<Store, StoreError> {
        Store::open_as(url, &StoreAccess::new(&self.copy, StoreEnvironment::of_process()))
    }

    /// Another store that an index is restored from: it is only read.
    #[cfg(feature = "archive")]
    pub(crate) fn restore_origin(&self, url: &Url) -> Result<Store, StoreError> {
        Store::open_read_only_as(url, &StoreAccess::new(self.origin(), StoreEnvironment::of_process()))
    }

    #[cfg(feature = "archive")]
    fn origin(&self) -> &StoreSettings {
        self.from.as_ref().unwrap_or(&self.index)
    }

    /// The first of these places that lies within `copies`, to which snapshots are copied, or around it. Equal URLs on different servers
    /// are different places.
    pub fn overlap_of_copies<'a>(
        &self,
        copies: &Url,
        log: &'a Url,
        metadata: &'a [Url],
        index: &'a Url,
    ) -> Option<&'a Url> {
        self.overlap((copies, &self.copy), log, metadata, index)
    }

    /// As [`Self::overlap_of_copies`], of a place that the index is restored from.
    #[cfg(feature = "archive")]
    pub(crate) fn overlap_of_origin<'a>(
        &self,
        origin: &Url,
        log: &'a Url,
        metadata: &'a [Url],
        index: &'a Url,
    ) -> Option<&'a Url> {
        self.overlap((origin, self.origin()), log, metadata, index)
    }

    fn overlap<'a>(
        &self,
        (url, settings): (&Url, &StoreSettings),
        log: &'a Url,
        metadata: &'a [Url],
        index: &'a Url,
    ) -> Option<&'a Url> {
        let of_metadata = metadata.iter().map(|url| (url, &self.metadata));
        let mut places = [(log, &self.log), (index, &self.index)].into_iter().chain(of_metadata);
        let overlaps = |(other, of_other): &(&Url, &StoreSettings)| {
            is_same_server(of_other, settings) && urls_overlap(other.as_str(), url.as_str())
        };
        places.find(overlaps).map(|(other, _)| other)
    }

    /// A log, for a command that needs no index.
    pub fn log(&self, log: &Url, metadata: &[Url]) -> Result<Log, StoreError> {
        let access = |settings| StoreAccess::new(settings, StoreEnvironment::of_process());
        let (entries, descriptors) = (access(&self.log), access(&self.metadata));
        Log::with(log, metadata, |url| Store::open_as(url, &entries), |url| Store::open_as(url, &descriptors))
    }
}

impl PodStores {
    /// Stores that are open already.
    pub fn already_open(log: Option<Log>, index: Store) -> Self {
        let mut roles = vec![(index.url().to_string(), StoreRole::Index)];
        if let Some(log) = &log {
            roles.extend(log.metadata.iter().map(|store| (store.url().to_string(), StoreRole::Metadata)));
            roles.push((log.entries.url().to_string(), StoreRole::Log));
        }
        let open = move || Ok(OpenStores { log: log.clone(), index: index.clone() });
        Self { open: Box::new(open), roles, requests: BTreeMap::new() }
    }

    /// Stores at these URLs, opened when the process starts its work.
    pub fn at(log: Option<(Url, Vec<Url>)>, index: Url, settings: &StoresSettings, mode: AccessMode) -> Self {
        let mut roles = vec![(index.to_string(), StoreRole::Index)];
        if let Some((log, metadata)) = &log {
            roles.extend(metadata.iter().map(|url| (url.to_string(), StoreRole::Metadata)));
            roles.push((log.to_string(), StoreRole::Log));
        }
        let requests: BTreeMap<_, _> =
            ["log", "metadata", "index"].map(|role| (role, RequestCounter::default())).into();
        let environment = StoreEnvironment::of_process();
        let access =
            |settings: &StoreSettings, place| StoreAccess::new(settings, environment.clone()).counted(&requests[place]);
        let of_log = access(&settings.log, "log");
        let of_metadata = access(&settings.metadata, "metadata");
        let of_index = access(&settings.index, "index");
        let one = move |url: &Url, access: &StoreAccess| match mode {
            AccessMode::ReadWrite => Store::open_as(url, access),
            AccessMode::ReadOnly => Store::open_read_only_as(url, access),
        };
        let open = move || {
            let log = log
                .as_ref()
                .map(|(log, metadata)| Log::with(log, metadata, |url| one(url, &of_log), |url| one(url, &of_metadata)));
            Ok(OpenStores { log: log.transpose()?, index: one(&index, &of_index)? })
        };
        Self { open: Box::new(open), roles, requests }
    }

    /// Opens them. Nothing is asked of a store.
    pub fn open(&self) -> Result<OpenStores, StoreError> {
        (self.open)()
    }

    /// Which place each URL is.
    pub fn roles(&self) -> Vec<(String, StoreRole)> {
        self.roles.clone()
    }

    /// The figures of their requests.
    pub fn requests(&self) -> StoreRequestCounts {
        StoreRequestCounts(self.requests.clone())
    }
}

impl fmt::Debug for PodStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roles.iter().map(|(url, _)| url)).finish()
    }
}

impl fmt::Debug for StoreRequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreRequestCounts")
    }
}

impl Collector for StoreRequestCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let kind = ConstCounter::new(0u64);
        let help = "requests to object stores by role of the store, operation and result";
        let mut family = encoder.encode_descriptor("store_requests", help, None, kind.metric_type())?;
        for (role, requests) in &self.0 {
            for (operation, result, count) in requests.counts() {
                let labels = [("role", *role), ("operation", operation), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Whether both are reached at one endpoint and account: then one URL is one place.
fn is_same_server(one: &StoreSettings, other: &StoreSettings) -> bool {
    (&one.endpoint, &one.account) == (&other.endpoint, &other.account)
}
