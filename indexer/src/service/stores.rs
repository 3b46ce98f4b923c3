//! The stores that a process stands on: where they are, how each is reached, and what their requests come to.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};
use serde::{Deserialize, Serialize};
use tidemark_store::{RequestCounter, Store, StoreAccess, StoreEnvironment, StoreError, StoreSettings};
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
}

/// What was opened: the log, if one was named, and the index.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The log.
    pub log: Option<Log>,
    /// The index.
    pub index: Store,
}

/// The stores of a process, which opens them as often as it must.
pub struct Stores {
    open: Box<dyn Fn() -> Result<Opened, StoreError> + Send + Sync>,
    places: Vec<(String, StoreRole)>,
    requests: BTreeMap<&'static str, RequestCounter>,
}

/// What the requests to each place's store have come to, as figures.
pub struct PlaceRequests(BTreeMap<&'static str, RequestCounter>);

/// What a process does with its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It writes: a folder is made if it does not exist.
    Writing,
    /// It only reads.
    Reading,
}

impl StoresSettings {
    /// A store that is reached as the log's own is.
    pub fn beside_log(&self, url: &Url) -> Result<Store, StoreError> {
        Store::open_as(url, &StoreAccess::new(&self.log, StoreEnvironment::of_process()))
    }

    /// A log, for a command that needs no index.
    pub fn log(&self, log: &Url, metadata: &[Url]) -> Result<Log, StoreError> {
        let access = |settings| StoreAccess::new(settings, StoreEnvironment::of_process());
        let (entries, descriptors) = (access(&self.log), access(&self.metadata));
        Log::with(log, metadata, |url| Store::open_as(url, &entries), |url| Store::open_as(url, &descriptors))
    }
}

impl Stores {
    /// Stores that are open already.
    pub fn opened(log: Option<Log>, index: Store) -> Self {
        let mut places = vec![(index.url().to_string(), StoreRole::Index)];
        if let Some(log) = &log {
            places.extend(log.metadata.iter().map(|store| (store.url().to_string(), StoreRole::Metadata)));
            places.push((log.entries.url().to_string(), StoreRole::Log));
        }
        let open = move || Ok(Opened { log: log.clone(), index: index.clone() });
        Self { open: Box::new(open), places, requests: BTreeMap::new() }
    }

    /// Stores at these URLs, opened when the process starts its work.
    pub fn at(log: Option<(Url, Vec<Url>)>, index: Url, settings: &StoresSettings, used: Use) -> Self {
        let mut places = vec![(index.to_string(), StoreRole::Index)];
        if let Some((log, metadata)) = &log {
            places.extend(metadata.iter().map(|url| (url.to_string(), StoreRole::Metadata)));
            places.push((log.to_string(), StoreRole::Log));
        }
        let requests: BTreeMap<_, _> =
            ["log", "metadata", "index"].map(|place| (place, RequestCounter::default())).into();
        let environment = StoreEnvironment::of_process();
        let access =
            |settings: &StoreSettings, place| StoreAccess::new(settings, environment.clone()).counted(&requests[place]);
        let of_log = access(&settings.log, "log");
        let of_metadata = access(&settings.metadata, "metadata");
        let of_index = access(&settings.index, "index");
        let one = move |url: &Url, access: &StoreAccess| match used {
            Use::Writing => Store::open_as(url, access),
            Use::Reading => Store::open_read_only_as(url, access),
        };
        let open = move || {
            let log = log
                .as_ref()
                .map(|(log, metadata)| Log::with(log, metadata, |url| one(url, &of_log), |url| one(url, &of_metadata)));
            Ok(Opened { log: log.transpose()?, index: one(&index, &of_index)? })
        };
        Self { open: Box::new(open), places, requests }
    }

    /// Opens them. Nothing is asked of a store.
    pub fn open(&self) -> Result<Opened, StoreError> {
        (self.open)()
    }

    /// Which place each URL is.
    pub fn places(&self) -> Vec<(String, StoreRole)> {
        self.places.clone()
    }

    /// The figures of their requests.
    pub fn requests(&self) -> PlaceRequests {
        PlaceRequests(self.requests.clone())
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places.iter().map(|(url, _)| url)).finish()
    }
}

impl fmt::Debug for PlaceRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlaceRequests")
    }
}

impl Collector for PlaceRequests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let kind = ConstCounter::new(0u64);
        let help = "requests to object stores by place, operation and result";
        let mut family = encoder.encode_descriptor("store_requests", help, None, kind.metric_type())?;
        for (place, requests) in &self.0 {
            for (operation, result, count) in requests.counts() {
                let labels = [("place", *place), ("operation", operation), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
