//! The resources of Tidemark's Kubernetes API: types, defaults, rules, names, and what their generated YAML holds.
//!
//! No client and no runtime: the operator, the command line and the tests share what is here. The doc comments of the
//! fields are the reference that `kubectl explain wal.spec` prints.

mod conditions;
mod crd;
mod kinds;
mod lint;
pub mod names;
mod pod_template;
mod schema;
mod size;
mod span;
mod storage;
mod wal;

pub use self::{
    conditions::{ConditionKind, ConditionStatus, ConditionType, Reason, condition, is_true, set_condition},
    crd::{CRD_VERSION, CRD_VERSION_ANNOTATION, SIZE_LIMIT, wal_crd, wal_crd_yaml},
    kinds::{KINDS, ResourceKind},
    lint::{Finding, Linted, Skipped, lint},
    pod_template::{PodTemplate, PodTemplateRefusal, PodTemplateSettings},
    size::{ByteSize, ByteSizeError},
    span::{Span, SpanError},
    storage::{CaReference, Credentials, CredentialsType, SecretReference, Storage},
    wal::{
        Auth, AuthType, CompactionSpec, Cursor, DeletionPolicy, IndexPlace, IndexerRole, IndexerSpec, IndexerStatus,
        LogPlace, MetadataPlace, RoleSpec, SearchSpec, SearchStatus, ServiceSpec, ServiceType, Wal, WalSpec, WalStatus,
    },
};
