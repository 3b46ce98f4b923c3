//! Kind `WAL`: a write-ahead log in object storage, indexed and searched.
#![expect(unreachable_pub, reason = "`KubeSchema` repeats the type inside of a function")]

mod cache;
mod maintenance;
mod places;
mod roles;
mod spec;
mod status;

pub use self::{
    cache::{CacheAccessMode, CacheClaimSpec, CacheClaimTemplate, CacheSizeError, CacheSpec},
    maintenance::{ArchiveSpec, CleanupSpec, GcSpec, JobsSpec, SnapshotCopySpec, SnapshotsSpec, VerifySpec},
    places::{BootstrapSpec, IndexPlace, LogPlace, MetadataPlace},
    roles::{AuthType, CompactionSpec, IndexerSpec, RoleSpec, SearchAuth, SearchSpec, ServiceSpec, ServiceType},
    spec::{DeletionPolicy, Wal, WalSpec},
    status::{
        CleanupStatus, CursorStatus, DamageStatus, IndexerRole, IndexerStatus, LogSizeStatus, RecoveryWindowStatus,
        RestoreStatus, ScheduleStatus, SearchStatus, SnapshotStatus, VerificationStatus, WalStatus,
    },
};
