//! The resources of Tidemark's Kubernetes API: types, defaults, rules, names, and what their generated YAML holds.
//!
//! No client and no runtime: the operator, the command line and the tests share what is here. The doc comments of the
//! fields are the reference that `kubectl explain wal.spec` prints.

mod byte_size;
#[cfg(feature = "kinds")]
mod conditions;
#[cfg(feature = "kinds")]
mod crd;
#[cfg(feature = "kinds")]
mod cron_schedule;
#[cfg(feature = "kinds")]
mod generated;
#[cfg(feature = "kinds")]
mod kinds;
#[cfg(feature = "kinds")]
mod lint;
pub mod names;
mod pod_report;
#[cfg(feature = "kinds")]
mod pod_template;
mod reason;
#[cfg(feature = "kinds")]
mod schema;
mod sink_report;
#[cfg(feature = "kinds")]
mod storage;
mod task_result;
mod time_span;
#[cfg(feature = "kinds")]
mod wal;
#[cfg(feature = "kinds")]
mod wal_sink;
#[cfg(feature = "kinds")]
mod wal_task;
mod web_origin;

pub use self::{
    byte_size::{ByteSize, ByteSizeError, parse_byte_size, parse_quantity_millis},
    pod_report::{PodPhase, PodProblem, PodReport, RestoreProgress, StoreRole},
    reason::Reason,
    sink_report::{BreakerPhase, FeedPlace, SinkReport},
    task_result::{MAX_RESULT_BYTES, RecoveryWindow, TaskFigures, TaskResult, TaskState},
    time_span::{TimeSpan, TimeSpanError, parse_span},
    web_origin::is_web_origin,
};
#[cfg(feature = "kinds")]
pub use self::{
    conditions::{
        ConditionKind, ConditionStatus, ConditionType, SinkConditionType, TaskConditionType, condition, is_true,
        remove_condition, set_condition,
    },
    crd::{CRD_VERSION, CRD_VERSION_ANNOTATION, SIZE_LIMIT, wal_crd, wal_crd_yaml, wal_sink_crd, wal_task_crd},
    cron_schedule::{CronSchedule, CronScheduleError},
    generated::{GeneratedFile, generated_files},
    kinds::{KINDS, ResourceKind, ResourceWriters},
    lint::{LintFinding, LintReport, SkippedDocument, lint},
    pod_template::{PodTemplate, PodTemplateRefusal, PodTemplateSettings},
    storage::{CaReference, CredentialsType, SecretReference, StorageCredentials, StorageSpec},
    wal::{
        ArchiveSpec, AuthType, BootstrapSpec, CacheAccessMode, CacheClaimSpec, CacheClaimTemplate, CacheSizeError,
        CacheSpec, CleanupSpec, CleanupStatus, CompactionSpec, CursorStatus, DamageStatus, DeletionPolicy, GcSpec,
        IndexPlace, IndexerRole, IndexerSpec, IndexerStatus, JobsSpec, LogPlace, LogSizeStatus, MetadataPlace,
        RecoveryWindowStatus, RestoreStatus, RoleSpec, ScheduleStatus, SearchAuth, SearchSpec, SearchStatus,
        ServiceSpec, ServiceType, SnapshotCopySpec, SnapshotStatus, SnapshotsSpec, VerificationStatus, VerifySpec, Wal,
        WalSpec, WalStatus,
    },
    wal_sink::{
        BulkDestination, RejectedAction, SinkBatch, SinkBreaker, SinkBreakerState, SinkPosition, SinkStart, SinkType,
        SinkWindow, WalSink, WalSinkSpec, WalSinkStatus, WebSocketDestination, WebhookDestination,
    },
    wal_task::{
        CleanupTask, PromoteTask, RestoreTarget, SnapshotTask, TASK_COMMANDS, TaskCommand, TaskFailureClass, TaskType,
        VerifyTask, WalReference, WalTask, WalTaskSpec, WalTaskState, WalTaskStatus,
    },
};
