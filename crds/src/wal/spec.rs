//! The spec of a `WAL`, with the rules that the API server checks.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    maintenance::{ArchiveSpec, CleanupSpec, GcSpec, JobsSpec, SnapshotsSpec, VerifySpec},
    places::{BootstrapSpec, IndexPlace, LogPlace, MetadataPlace},
    roles::{CompactionSpec, IndexerSpec, SearchSpec},
    status::WalStatus,
};
use crate::storage::StorageSpec;

/// What a WAL is: where its log, its metadata and its index are, and how it is indexed and searched.
#[derive(Clone, Debug, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "WAL",
    root = "Wal",
    plural = "wals",
    singular = "wal",
    namespaced,
    category = "tidemark",
    status = "WalStatus",
    derive = "PartialEq",
    doc = "A write-ahead log in object storage, with an index over it and a search service.",
    scale(
        spec_replicas_path = ".spec.search.replicas",
        status_replicas_path = ".status.search.replicas",
        label_selector_path = ".status.search.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the log is indexed and can be searched."
    ),
    printcolumn(
        name = "Watermark",
        type_ = "date",
        json_path = ".status.cursor.time",
        description = "Every entry older than this is decided and in the index."
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lagSeconds",
        description = "Seconds of sealed entries that are not published yet; 0 when there are none."
    ),
    printcolumn(
        name = "Entries",
        type_ = "integer",
        json_path = ".status.entries",
        description = "Entries in the index."
    ),
    printcolumn(
        name = "Last-Snapshot",
        type_ = "date",
        json_path = ".status.lastSnapshot.time",
        description = "When the newest verified snapshot was taken."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Search",
        type_ = "integer",
        json_path = ".status.search.replicas",
        description = "Search pods that exist.",
        priority = 1
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "Version of the writing indexer.",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why Ready is what it is.",
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("the name starts with a letter, ends with a letter or digit, and has at most 40 letters, digits and dashes: the names of its Deployments and of its Service are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.log.url == oldSelf.log.url")
        .message("the log's URL cannot change: the index holds that log's entries. Create another WAL for another log")
        .field_path(".log.url"),
    validation = Rule::new("self.metadata.urls == oldSelf.metadata.urls")
        .message("the metadata URLs cannot change: recorded outcomes were decided by what is there. Create another WAL")
        .field_path(".metadata.urls"),
    validation = Rule::new("self.index.url == oldSelf.index.url")
        .message("the index's URL cannot change: search would lose its history. Create another WAL for an index elsewhere")
        .field_path(".index.url"),
    validation = Rule::new("!(self.log.url + '/').startsWith(self.index.url + '/') && !(self.index.url + '/').startsWith(self.log.url + '/')")
        .message("log and index must not lie one below the other: the index's objects would be read as entries")
        .field_path(".index.url"),
    validation = Rule::new("self.metadata.urls.all(u, !(u + '/').startsWith(self.log.url + '/') && !(self.log.url + '/').startsWith(u + '/'))")
        .message("log and metadata must not lie one below the other: descriptors would be read as entries")
        .field_path(".metadata.urls"),
    validation = Rule::new("self.metadata.urls.all(u, !(u + '/').startsWith(self.index.url + '/') && !(self.index.url + '/').startsWith(u + '/'))")
        .message("index and metadata must not lie one below the other: each is listed and cleaned by its own rules")
        .field_path(".metadata.urls"),
    validation = Rule::new("has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || self.bootstrap == oldSelf.bootstrap)")
        .message("bootstrap cannot change, nor be added or removed: the index was begun with it, or without. Create another WAL")
        .field_path(".bootstrap"),
    validation = Rule::new("!has(self.bootstrap) || (!(self.bootstrap.fromURL + '/').startsWith(self.log.url + '/') && !(self.log.url + '/').startsWith(self.bootstrap.fromURL + '/') && !(self.bootstrap.fromURL + '/').startsWith(self.index.url + '/') && !(self.index.url + '/').startsWith(self.bootstrap.fromURL + '/'))")
        .message("what an index is begun with lies neither below log and index nor above them")
        .field_path(".bootstrap.fromURL"),
    validation = Rule::new("!has(self.bootstrap) || self.metadata.urls.all(u, !(u + '/').startsWith(self.bootstrap.fromURL + '/') && !(self.bootstrap.fromURL + '/').startsWith(u + '/'))")
        .message("what an index is begun with lies neither below the metadata nor above it")
        .field_path(".bootstrap.fromURL"),
    validation = Rule::new("has(self.storage) || (has(self.log.storage) && has(self.metadata.storage) && has(self.index.storage))")
        .message("storage is needed, unless log, metadata and index each have their own")
        .field_path(".storage"),
    validation = Rule::new("!self.cleanup.enabled || (has(self.snapshots) && self.archive.enabled)")
        .message("cleanup needs snapshots and the archive: it deletes only what a verified snapshot has there. Add spec.snapshots, and leave archive.enabled true")
        .field_path(".cleanup.enabled"),
    validation = Rule::new("!self.cleanup.enabled || !has(self.snapshots) || self.cleanup.keepSnapshots <= self.snapshots.keepLast")
        .message("cleanup.keepSnapshots is at most snapshots.keepLast: no more snapshots than those stay")
        .field_path(".cleanup.keepSnapshots"),
    validation = Rule::new("!has(self.snapshots) || !has(self.snapshots.copyTo) || (!(self.snapshots.copyTo.url + '/').startsWith(self.log.url + '/') && !(self.log.url + '/').startsWith(self.snapshots.copyTo.url + '/') && !(self.snapshots.copyTo.url + '/').startsWith(self.index.url + '/') && !(self.index.url + '/').startsWith(self.snapshots.copyTo.url + '/'))")
        .message("a copy of the snapshots lies neither below log and index nor above them")
        .field_path(".snapshots.copyTo.url"),
    validation = Rule::new("!has(self.snapshots) || !has(self.snapshots.copyTo) || self.metadata.urls.all(u, !(u + '/').startsWith(self.snapshots.copyTo.url + '/') && !(self.snapshots.copyTo.url + '/').startsWith(u + '/'))")
        .message("a copy of the snapshots lies neither below the metadata nor above it")
        .field_path(".snapshots.copyTo.url"),
    validation = Rule::new("!has(self.snapshots) || !has(self.snapshots.copyTo) || has(self.snapshots.copyTo.storage) || has(self.storage)")
        .message("snapshots.copyTo needs a storage of its own where spec.storage is left out")
        .field_path(".snapshots.copyTo.storage")
)]
pub struct WalSpec {
    /// The object store that holds log, metadata and index, and the credentials for it. Each of the three may name its own
    /// store instead; then that one replaces this one whole for its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// The log: one object an entry.
    pub log: LogPlace,
    /// Where the descriptors are that complete updates.
    pub metadata: MetadataPlace,
    /// Where the index is kept. An index holds one log: a prefix with the records of another one is refused.
    pub index: IndexPlace,
    /// The indexer: it tails the log, compacts and publishes. One pod writes; another one that starts waits as a standby.
    #[serde(default)]
    pub indexer: IndexerSpec,
    /// The search service: stateless pods over the published index and the log's newest entries.
    #[serde(default)]
    pub search: SearchSpec,
    /// Compaction of the index, which runs in the indexer.
    #[serde(default)]
    pub compaction: CompactionSpec,
    /// The pods of jobs, which run the tasks of this WAL: those that users make (kind `WALTask`) and those that the schedules make.
    #[serde(default)]
    pub jobs: JobsSpec,
    /// The archive, which snapshots write and restores read: an Apache Iceberg table below `index.url`.
    #[serde(default)]
    pub archive: ArchiveSpec,
    /// When snapshots are taken. Left out, only those that tasks ask for; `{}` takes one a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotsSpec>,
    /// What is deleted from the log, and when.
    #[serde(default)]
    pub cleanup: CleanupSpec,
    /// When index and archive are verified. Left out, only when tasks ask for it; `{}` does it once a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,
    /// When jobs delete the objects of the index that nothing names any more. Left out, the indexer alone does so, once a day while
    /// it runs; `{}` has a job do it once a week, too, also for what was left by jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<GcSpec>,
    /// What the index is begun with if it holds nothing and has no archive or snapshots of its own: those of another index of the same log.
    /// Their outcomes are taken, and only what is newer is decided. It has no effect on an index that holds something, and cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,
    /// The owner to take this index over from: the UID that the condition `StorageReady` names with reason `OwnedByAnother`.
    /// Empty adopts nothing but an index of the same cluster, namespace and name. It has no effect once this WAL is the owner, and an
    /// index of another log is never taken over.
    #[serde(default)]
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9._:-]*$"))]
    pub adopt_owner: String,
    /// Stops the indexer. Search stays and answers what is published, and the log's newer entries from memory. The log goes
    /// on growing; the indexer catches up when this is `false` again. A new release waits until then, too.
    #[serde(default)]
    pub suspend: bool,
    /// What happens to the index when this WAL is deleted. `Retain`: it stays, and a new WAL of the same name goes on with it.
    /// `Purge`: its own objects below `index.url` are removed first; log and metadata are never touched. After 10 minutes, or
    /// in a namespace that is being deleted, the WAL goes and the rest of the index stays.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What happens to the index of a deleted WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is removed.
    Purge,
}
