//! From a validated WAL to its children: one pure builder a child.
//!
//! A role fills a [`PodPlan`](crate::pod::PodPlan), from which one builder makes its pods.

mod children;
mod control_config_map;
mod data_pod_plan;
mod deployment;
mod environment;
mod indexer_deployment;
pub(crate) mod job_pod_plan;
mod metadata;
mod network_policies;
mod platform;
mod pod_revision;
mod search_deployment;
mod search_pdb;
mod search_service;
mod service_accounts;
pub(crate) mod sink_pod_plan;
#[cfg(test)]
mod tests;
mod volumes;

pub(crate) use self::{
    children::DesiredChildren,
    deployment::PROGRESS_DEADLINE_SECS,
    environment::{TOKEN_FILE_VARIABLE, span_text},
    network_policies::ingress_from_operator,
    service_accounts::role_account,
    volumes::TOKEN_VOLUME,
};
pub use self::{
    children::{WalChildren, build},
    platform::PlatformSettings,
    pod_revision::release_revision,
};
