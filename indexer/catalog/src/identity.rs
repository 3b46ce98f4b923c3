//! Identities of logs, owners of indexes, and writers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies a log, independently of its URL: 32 hexadecimal digits, drawn with its first root record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub String);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies an index, independently of its URL: 32 hexadecimal digits, drawn with the first record of the generation that it begins with. A
/// generation that takes the place of another one has the same; one that begins after a purge, or after all records were lost, has another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IndexId(pub String);

impl fmt::Display for IndexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The owner of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum IndexOwner {
    /// A `WAL` resource of a cluster.
    Resource {
        /// The cluster's id.
        cluster: String,
        /// The resource's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID: it changes when the resource is deleted and created again.
        uid: String,
    },
    /// Something else that calls itself by a name: the owner of a folder's lock, a process outside of a cluster.
    Named {
        /// The name.
        name: String,
    },
}

impl IndexOwner {
    /// What names this owner when another one adopts its index: the UID, or the name.
    pub fn id(&self) -> &str {
        match self {
            Self::Resource { uid, .. } => uid,
            Self::Named { name } => name,
        }
    }

    /// Whether the two are the same resource of the same cluster, perhaps deleted and created again in between.
    pub(crate) fn is_again(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Resource { cluster, namespace, name, .. },
                Self::Resource { cluster: c, namespace: ns, name: n, .. },
            ) => (cluster, namespace, name) == (c, ns, n),
            _ => self == other,
        }
    }
}

impl fmt::Display for IndexOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { cluster, namespace, name, uid } => {
                write!(f, "\"{namespace}/{name}\" of cluster \"{cluster}\" (uid \"{uid}\")")
            }
            Self::Named { name } => write!(f, "\"{name}\""),
        }
    }
}

/// Identifies a writer: a pod's UID, the owner of a folder's lock, or a random text. A process with the same identity is the same
/// writer, started again; so two processes that run at once never share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterIdentity(pub String);

/// How the identity begins of a process that switches an index to another generation.
const SWITCH_PREFIX: &str = "switch: ";

impl WriterIdentity {
    /// A process that switches an index to another generation on behalf of `task`, and is none of its writers.
    pub(crate) fn of_switch(task: &str, nonce: &str) -> Self {
        Self(format!("{SWITCH_PREFIX}{task} {nonce}"))
    }

    /// Whether this process switches the index to another generation: a writer that it fenced goes on in that one.
    pub fn is_switch(&self) -> bool {
        self.0.starts_with(SWITCH_PREFIX)
    }
}

impl fmt::Display for WriterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which log's records a generation holds: named by the generation itself, so that a process with another log finds out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogClaim {
    /// The log. It never changes.
    pub log: LogId,
    /// Where the log is, with its endpoint: a copy of it has the same id. It changes when the log is moved.
    pub url: String,
    /// The owner of the index at that time: for people. The log's root has the present one.
    pub owner: IndexOwner,
}

/// A log as a process finds it: what the claim of an index is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The id in its root; absent before the first record.
    pub id: Option<LogId>,
    /// Where it is, with its endpoint: [`tidemark_store::Store::location`].
    pub url: String,
    /// Where it was before, as somebody says who knows that it was moved and is no copy.
    pub moved_from: Option<String>,
}

impl LogIdentity {
    /// Whether the log is where the claim says, or was moved from there.
    pub(crate) fn is_at(&self, claim: &LogClaim) -> bool {
        claim.url == self.url || self.moved_from.as_ref() == Some(&claim.url)
    }
}
