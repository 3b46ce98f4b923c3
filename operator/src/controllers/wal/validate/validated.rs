//! A WAL that can be built.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use tidemark_crds::{CacheClaimSpec, DeletionPolicy, PodTemplateSettings, ServiceSpec, names::WalComponent};

use super::{validated_schedules::ValidatedSchedules, validated_stores::WalStores};

/// A WAL of which everything can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedWal {
    /// Its name; with every suffix it is a label of DNS.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// `metadata.generation` of the spec.
    pub generation: Option<i64>,
    /// What its children refer to.
    pub owner_reference: OwnerReference,
    /// What its indexer registers as the owner of the index.
    pub owner: String,
    /// Where log, metadata, index and copies of snapshots are, and how to get at them.
    pub stores: WalStores,
    /// How the log is read.
    pub log: ValidatedLog,
    /// The indexer.
    pub indexer: ValidatedIndexer,
    /// The search service.
    pub search: ValidatedSearch,
    /// The pods of jobs.
    pub jobs: ValidatedJobs,
    /// When its tasks are due.
    pub schedules: ValidatedSchedules,
    /// Whether the owner wants the index to be removed with it.
    pub deletion_policy: DeletionPolicy,
    /// Whether the WAL is being deleted and its index is being removed.
    pub purging: bool,
}

/// How a log is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedLog {
    /// `W`.
    pub expiry: Duration,
    /// `S`.
    pub signer_clock_lead: Duration,
    /// `R`.
    pub request_timeout: Duration,
    /// `V`.
    pub visibility_delay: Duration,
    /// How long an aborted operation is audited.
    pub audit_window: Duration,
    /// Bytes of the largest entry.
    pub max_entry_bytes: u64,
    /// Bytes of the largest descriptor.
    pub max_descriptor_bytes: u64,
    /// How far the clocks of the stores may differ.
    pub clock_tolerance: Duration,
    /// How long idempotency keys count; `None`: as long as the index lives.
    pub idempotency_retention: Option<Duration>,
    /// Where the log was before, if it was moved.
    pub moved_from: Option<String>,
}

/// The disk of a role's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidatedCache {
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// What the volume is claimed with; the node's own disk is taken without it.
    pub claim: Option<CacheClaimSpec>,
}

/// What every role has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedRole {
    /// Requests and limits of the container; the pod template's replace these, name by name.
    pub resources: ResourceRequirements,
    /// The disk of each pod.
    pub cache: ValidatedCache,
    /// Annotations of the ServiceAccount.
    pub service_account_annotations: BTreeMap<String, String>,
    /// What the pod template adds.
    pub template: PodTemplateSettings,
    /// Digest of the part of the spec that the role's pods are made of; empty for pods of jobs, which no change replaces.
    pub spec_digest: String,
}

/// The pods of jobs, and what they are told of the spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJobs {
    /// What every role has.
    pub role: ValidatedRole,
    /// Annotations of the ServiceAccount of cleanups.
    pub cleanup_account_annotations: BTreeMap<String, String>,
    /// Whether snapshots write to the archive.
    pub archive: bool,
    /// How many verified snapshots stay; `None`: all.
    pub keep_snapshots: Option<i32>,
    /// What a cleanup deletes.
    pub cleanup: ValidatedCleanup,
}

/// What a cleanup deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedCleanup {
    /// Younger entries stay.
    pub min_age: Duration,
    /// How many entries may stay.
    pub max_entries: Option<u64>,
    /// How many bytes of entries may stay.
    pub max_bytes: Option<u64>,
    /// How many of the newest snapshots must hold an entry that goes.
    pub keep_snapshots: i32,
}

/// The indexer.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedIndexer {
    /// What both roles have.
    pub role: ValidatedRole,
    /// Whether it compacts.
    pub compaction: bool,
    /// Whether it indexes the names of files.
    pub file_names: bool,
    /// The owner to take the index over from.
    pub adopt_owner: Option<String>,
    /// What the index is begun with if it holds nothing.
    pub bootstrap: Option<ValidatedBootstrap>,
    /// Whether it is stopped.
    pub suspended: bool,
}

/// What an index is begun with that holds nothing. It is reached as the index is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedBootstrap {
    /// Where its snapshots and its archive are.
    pub from_url: String,
    /// The time at which the index stays until it is promoted, as RFC 3339 writes it.
    pub time: Option<String>,
}

/// The search service.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedSearch {
    /// What both roles have.
    pub role: ValidatedRole,
    /// How many pods are wanted.
    pub replicas: i32,
    /// Name of the Secret with the token, if the spec names one.
    pub token_secret: Option<String>,
    /// The Service.
    pub service: ServiceSpec,
    /// Further peers that are admitted.
    pub allow_from: Vec<NetworkPolicyPeer>,
    /// Origins whose pages may read answers; none leaves that to the program.
    pub allow_origins: Vec<String>,
}

impl ValidatedWal {
    /// What both roles have.
    pub fn role(&self, component: WalComponent) -> &ValidatedRole {
        match component {
            WalComponent::Indexer => &self.indexer.role,
            WalComponent::Search => &self.search.role,
        }
    }

    /// Digest of the part of the spec that the pods of each role are made of.
    pub(crate) fn spec_digests(&self) -> Vec<(WalComponent, String)> {
        WalComponent::ALL.into_iter().map(|component| (component, self.role(component).spec_digest.clone())).collect()
    }
}
