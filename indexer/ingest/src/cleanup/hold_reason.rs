//! Why an entry stays in the log although the rules let it go.

use serde::Serialize;
use tidemark_store::StoreError;

/// What the words of a store say of an object that a lock or a retention holds: S3, Google, Azure.
const LOCK_WORDS: [&str; 8] =
    ["objectlock", "object lock", "worm", "retention", "legalhold", "legal hold", "immutab", "active hold"];

/// Why an entry stays in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldReason {
    /// The archive has no operation of it.
    NotArchived,
    /// The archive has none of its bytes.
    NotWhole,
    /// The archive lacks operations of it.
    Incomplete,
    /// It has other bytes than the archive.
    Differs,
    /// It is older than the archive says.
    Older,
    /// The store does not give it.
    Unread,
    /// The store does not let these credentials delete it.
    Denied,
    /// A lock or a retention of the bucket holds it.
    Locked,
    /// Its deletion failed, and it is still there.
    NotDeleted,
    /// Whether it was deleted is not known.
    Unknown,
}

impl HoldReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NotArchived,
        Self::NotWhole,
        Self::Incomplete,
        Self::Differs,
        Self::Older,
        Self::Unread,
        Self::Denied,
        Self::Locked,
        Self::NotDeleted,
        Self::Unknown,
    ];

    /// Of an entry that is still there after its deletion failed with `error`.
    pub(super) fn of_failed_deletion(error: &StoreError) -> Self {
        match error {
            StoreError::Denied { why, .. } | StoreError::ReadOnly { why, .. } | StoreError::Refused { why, .. } => {
                if is_locked(why) {
                    Self::Locked
                } else {
                    Self::Denied
                }
            }
            // S3 answers a deletion of many object by object, not with a status.
            StoreError::Failed { why, .. } if is_locked(why) => Self::Locked,
            _ => Self::NotDeleted,
        }
    }

    /// Whether the clean-up could not do what it wanted. Else the entry is kept on purpose.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Unread | Self::Denied | Self::Locked | Self::NotDeleted | Self::Unknown)
    }

    /// Whether it may be the store or its rights that fail, so that others fail too. A lock or a hold is of its own entries alone.
    pub(super) const fn may_concern_all(self) -> bool {
        self.is_failure() && !matches!(self, Self::Locked)
    }

    /// The fact and the remedy.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotArchived => {
                "not in the archive: it could not be read, or came after the audit; nothing is to be done, it is kept for good"
            }
            Self::NotWhole => {
                "its bytes are not in the archive: it is larger than the log takes; delete it by hand if nobody needs it"
            }
            Self::Incomplete => "operations of it are missing in the archive; run `tidemark verify`",
            Self::Differs => {
                "its bytes are not those that were indexed and archived: it was written again; compare both, and delete it by hand"
            }
            Self::Older => "it is older than the archive says; run `tidemark verify`",
            Self::Unread => {
                "the store does not give it; check the credentials and the object, and run the clean-up again"
            }
            Self::Denied => {
                "the store does not let these credentials delete it; allow them to delete below the log's URL (the account `<wal>-cleanup` \
                 on Kubernetes), and run the clean-up again"
            }
            Self::Locked => {
                "a lock, a hold or a retention of the bucket keeps it; the clean-up that follows its end deletes it"
            }
            Self::NotDeleted => "its deletion failed and it is still there; run the clean-up again",
            Self::Unknown => "whether it was deleted is not known; run the clean-up again",
        }
    }
}

fn is_locked(why: &str) -> bool {
    let why = why.to_lowercase();
    LOCK_WORDS.iter().any(|word| why.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_an_object_is_read_from_the_stores_words() {
        let denied = |why: &str| StoreError::Denied { url: String::new(), key: String::new(), why: why.to_owned() };
        let reason = |why: &str| HoldReason::of_failed_deletion(&denied(why));
        assert_eq!(reason("AccessDenied: Access Denied."), HoldReason::Denied);
        for why in [
            "AccessDenied: Access Denied because object protected by object lock.",
            "ObjectLocked: Object is WORM protected and cannot be overwritten",
            "RetentionPolicyNotMet: Object 'b/x' is subject to bucket's retention policy",
            "ObjectUnderActiveHold: Object 'b/x' is under active hold",
            "BlobImmutableDueToPolicy: This operation is not permitted as the blob is immutable due to a policy.",
        ] {
            assert_eq!(reason(why), HoldReason::Locked, "{why}");
        }
        let failed = StoreError::Failed { url: String::new(), key: String::new(), why: "503".to_owned() };
        assert_eq!(HoldReason::of_failed_deletion(&failed), HoldReason::NotDeleted);
    }

    #[test]
    fn every_reason_names_what_is_to_be_done() {
        for reason in HoldReason::ALL {
            assert!(reason.words().contains("; "), "{reason:?}");
        }
    }
}
