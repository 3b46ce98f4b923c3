//! From a validated WAL to its children: one pure builder a child.
//!
//! The pods of every role are made by one builder from a [`pod_plan::PodPlan`]; a role is a value that fills it.

mod children;
mod containers;
mod control_config_map;
mod deployment;
mod environment;
mod indexer_deployment;
mod metadata;
mod network_policies;
mod platform;
mod pod;
mod pod_plan;
mod pod_revision;
mod search_deployment;
mod search_pdb;
mod search_service;
mod service_accounts;
#[cfg(test)]
mod tests;
mod volumes;

pub(crate) use self::{
    children::DesiredChildren,
    deployment::{ANNOTATION_SPEC, PROGRESS_DEADLINE_SECS},
    environment::TOKEN_FILE_VARIABLE,
    volumes::TOKEN_VOLUME,
};
pub use self::{
    children::{WalChildren, build},
    platform::PlatformSettings,
    pod_revision::release_revision,
};
