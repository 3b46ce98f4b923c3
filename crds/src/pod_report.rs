//! The contract of `GET /v1/process`: what a data pod reports about itself, read by the operator and by people.
//!
//! Pods of another release answer, too: a field that is left out has its default, and an unknown phase or reason is mapped to the
//! one that promises least ([`PodPhase::Starting`], [`Reason::Internal`]); an unknown role of a store is left out.

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IntoDeserializer as _, value::StringDeserializer},
};

use crate::{names::WalComponent, reason::Reason, sink_report::SinkReport};

/// What a pod does at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PodPhase {
    /// It proves that a store is fit, once a prefix.
    Probing,
    /// It begins an index that holds nothing with what is recorded of the log elsewhere, or waits for another process that does.
    Restoring,
    /// Another process writes the index; this one takes over when that one falls silent.
    Standby,
    /// It writes the index.
    Writing,
    /// It serves search.
    Serving,
    /// It removes the index, as it was asked to.
    Purging,
    /// The index is removed.
    Purged,
    /// It ends.
    Ended,
    /// It opens what it stands on, and tries again where that fails. Also what a phase of a newer release is read as.
    #[default]
    #[serde(other)]
    Starting,
}

/// What a store is to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StoreRole {
    /// The log's own store.
    Log,
    /// A store of descriptors.
    Metadata,
    /// The index.
    Index,
    /// The file with the token that requests must bear.
    Auth,
}

/// What keeps a pod from its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodProblem {
    /// Why, in one word that is part of the API.
    pub reason: Reason,
    /// Which store is at fault, if one is.
    #[serde(default, deserialize_with = "known_or_none")]
    pub role: Option<StoreRole>,
    /// The fact, the effect and the remedy.
    #[serde(default)]
    pub message: String,
}

impl PodProblem {
    /// Whether it is about the stores or what is in them.
    pub fn is_storage(&self) -> bool {
        !matches!(self.reason, Reason::Fenced | Reason::DiskFull | Reason::Internal | Reason::ParametersDiffer)
            && !self.reason.is_unusable_token()
    }
}

/// How far an index is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestoreProgress {
    /// Operations that were read.
    pub copied: u64,
    /// How many there are; 0 before that is known.
    pub total: u64,
}

/// What a pod reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodReport {
    /// The release.
    pub version: String,
    /// What the pod is for.
    #[serde(deserialize_with = "known_or_default")]
    pub kind: WalComponent,
    /// What it does at present.
    pub phase: PodPhase,
    /// Its name, in a cluster the UID of the pod. It is known from the start.
    pub identity: Option<String>,
    /// The generation of the index.
    pub generation: Option<String>,
    /// The number of the index's writer; 0 before it is known.
    pub epoch: u64,
    /// The number of the manifest that was published or read last; 0 before there is one.
    pub manifest: u64,
    /// Whole seconds before this one are frozen in the log.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub horizon: Option<Timestamp>,
    /// Every entry whose second lies before this one is decided and indexed.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub cursor: Option<Timestamp>,
    /// How long sealed entries wait to be published; 0 when none does.
    pub lag_seconds: u64,
    /// Entries that were read and are not published yet.
    pub pending_entries: u64,
    /// Operations in the index.
    pub entries: u64,
    /// Bytes of the index's segments and sidecars; 0 where that is not known.
    pub index_bytes: u64,
    /// Those of them whose entries the store refuses to give: they are in the index without their content.
    pub unreadable_entries: u64,
    /// Whether everything up to the horizon was published once since this process started, and nothing waits now.
    pub caught_up: bool,
    /// Whether the stores were proven fit.
    pub probed: bool,
    /// The owner from whom the index was taken over when this process registered it: another one, or the same resource before it
    /// was deleted and made again.
    pub adopted_from: Option<String>,
    /// The present writer.
    pub writer: Option<String>,
    /// How far the index is restored, while the pod begins it with what is recorded.
    pub restore: Option<RestoreProgress>,
    /// The time to which the index was restored, while it waits for its promotion.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub restored_to: Option<Timestamp>,
    /// How far its delivery is, if it is the pod of a sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkReport>,
    /// What keeps the pod from its work; empty when all is well.
    pub problems: Vec<PodProblem>,
}

/// The value of a name; the default for a name that this release does not know.
fn known_or_default<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    known_or_none(deserializer).map(Option::unwrap_or_default)
}

/// The value of a name; none for a name that this release does not know.
fn known_or_none<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.and_then(|name| {
        let name: StringDeserializer<serde::de::value::Error> = name.into_deserializer();
        T::deserialize(name).ok()
    }))
}
