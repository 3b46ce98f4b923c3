//! From a WAL as its users wrote it to one that can be built.
//!
//! The raw spec stops here: every builder takes a [`ValidatedWal`], whose types hold only what works. The rules of the schema
//! are looked at again, since a WAL may have been stored before a rule was there.

mod storage;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use k8s_openapi::{
    api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Resource as _;
use tidemark_crds::{
    AuthType, DeletionPolicy, LogPlace, PodTemplate, PodTemplateSettings, Reason, SearchSpec, ServiceSpec, Span, Wal,
    names,
};

pub use self::storage::{Access, Place, Store, Stores};

/// Why a WAL cannot be built, for its condition and Event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// [`Reason::SpecInvalid`] or [`Reason::PodTemplateRefused`].
    pub reason: Reason,
    /// Fact, effect and remedy.
    pub message: String,
}

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
    /// Where log, metadata and index are, and how to get at them.
    pub stores: Stores,
    /// How the log is read.
    pub log: ValidatedLog,
    /// The indexer.
    pub indexer: ValidatedIndexer,
    /// The search service.
    pub search: ValidatedSearch,
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
    /// How long an aborted operation is looked at again.
    pub audit_window: Duration,
    /// Bytes of the largest entry that is read.
    pub max_entry_bytes: u64,
}

/// What both roles have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedRole {
    /// Requests and limits of the container; the pod template's replace these, name by name.
    pub resources: ResourceRequirements,
    /// Annotations of the ServiceAccount.
    pub service_account_annotations: BTreeMap<String, String>,
    /// What the pod template adds.
    pub template: PodTemplateSettings,
}

/// The indexer.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedIndexer {
    /// What both roles have.
    pub role: ValidatedRole,
    /// Whether it compacts.
    pub compaction: bool,
    /// The owner to take the index over from.
    pub adopt_owner: Option<String>,
    /// Whether it is stopped.
    pub suspended: bool,
}

/// The search service.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedSearch {
    /// What both roles have.
    pub role: ValidatedRole,
    /// How many pods are wanted.
    pub replicas: i32,
    /// Name of the Secret with the token, if one is asked for.
    pub token_secret: Option<String>,
    /// The Service.
    pub service: ServiceSpec,
    /// Further peers that are let in.
    pub allow_from: Vec<NetworkPolicyPeer>,
}

/// The WAL as its children are built from it, or everything that is wrong with it.
///
/// `cluster_id` names the cluster for the owner of the index.
pub fn validate(wal: &Wal, cluster_id: &str) -> Result<ValidatedWal, Vec<Refusal>> {
    let mut refusals = Refusals::default();
    let identity = identity(wal, &mut refusals);
    let stores = storage::stores(&wal.spec, &mut refusals);
    let log = log(&wal.spec.log, &mut refusals);
    let indexer = indexer(wal, &mut refusals);
    let search = search(&wal.spec.search, &mut refusals);
    match (identity, stores, log) {
        (Some((name, namespace, uid, owner_reference)), Some(stores), Some(log)) if refusals.0.is_empty() => {
            let purging =
                wal.spec.deletion_policy == DeletionPolicy::Purge && wal.metadata.deletion_timestamp.is_some();
            Ok(ValidatedWal {
                owner: names::owner(cluster_id, &namespace, &name, &uid),
                generation: wal.metadata.generation,
                deletion_policy: wal.spec.deletion_policy,
                name,
                namespace,
                uid,
                owner_reference,
                stores,
                log,
                indexer,
                search,
                purging,
            })
        }
        _ => Err(refusals.0),
    }
}

/// What is wrong so far.
#[derive(Debug, Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn spec(&mut self, message: impl Into<String>) {
        let refusal = Refusal { reason: Reason::SpecInvalid, message: message.into() };
        // Three places may share one store.
        if !self.0.contains(&refusal) {
            self.0.push(refusal);
        }
    }

    /// The value, or the error as a refusal of the field `path`.
    fn read<T>(&mut self, path: &str, value: Result<T, impl std::error::Error>) -> Option<T> {
        value.map_err(|error| self.spec(format!("\"{path}\": {error}"))).ok()
    }
}

fn identity(wal: &Wal, refusals: &mut Refusals) -> Option<(String, String, String, OwnerReference)> {
    let name = wal.metadata.name.clone().unwrap_or_default();
    if !fits(&name) {
        refusals.spec(format!(
            "the name \"{name}\" does not fit its children's names; take at most 40 lower-case letters, digits and dashes"
        ));
    }
    let found = (wal.metadata.namespace.clone(), wal.metadata.uid.clone(), wal.controller_owner_ref(&()));
    let (Some(namespace), Some(uid), Some(owner)) = found else {
        refusals.spec("the WAL has no namespace or no UID: it was not read from the API server");
        return None;
    };
    Some((name, namespace, uid, owner))
}

/// Whether the name is one of [`names::WAL_NAME_PATTERN`].
fn fits(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    plain && name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-')
}

const HOUR: Duration = Duration::from_hours(1);

fn log(log: &LogPlace, refusals: &mut Refusals) -> Option<ValidatedLog> {
    let expiry = span("spec.log.expiry", &log.expiry, Duration::from_secs(1), 168 * HOUR, refusals);
    let signer_clock_lead = span("spec.log.signerClockLead", &log.signer_clock_lead, Duration::ZERO, HOUR, refusals);
    let request_timeout = span("spec.log.requestTimeout", &log.request_timeout, Duration::ZERO, HOUR, refusals);
    let visibility_delay = span("spec.log.visibilityDelay", &log.visibility_delay, Duration::ZERO, HOUR, refusals);
    let audit_window = span("spec.log.auditWindow", &log.audit_window, Duration::ZERO, 8784 * HOUR, refusals);
    let max_entry_bytes = refusals.read("spec.log.maxEntrySize", log.max_entry_size.bytes());
    if max_entry_bytes.is_some_and(|bytes| !(1 << 10..=64 << 20).contains(&bytes)) {
        refusals.spec(format!("\"spec.log.maxEntrySize\" is \"{}\"; it is from 1Ki to 64Mi", log.max_entry_size));
    }
    Some(ValidatedLog {
        expiry: expiry?,
        signer_clock_lead: signer_clock_lead?,
        request_timeout: request_timeout?,
        visibility_delay: visibility_delay?,
        audit_window: audit_window?,
        max_entry_bytes: max_entry_bytes?,
    })
}

fn span(path: &str, span: &Span, least: Duration, most: Duration, refusals: &mut Refusals) -> Option<Duration> {
    let read = refusals.read(path, span.duration())?;
    if !(least..=most).contains(&read) {
        let (least, most) = (least.as_secs(), most.as_secs() / 3600);
        refusals.spec(format!("\"{path}\" is \"{span}\"; it is from {least}s to {most}h"));
    }
    Some(read)
}

fn indexer(wal: &Wal, refusals: &mut Refusals) -> ValidatedIndexer {
    let spec = &wal.spec.indexer;
    let role = ValidatedRole {
        resources: spec.resources.clone().unwrap_or_default(),
        service_account_annotations: spec.service_account_annotations.clone(),
        template: template("spec.indexer.podTemplate", spec.pod_template.as_ref(), refusals),
    };
    let adopt_owner = Some(wal.spec.adopt_owner.clone()).filter(|owner| !owner.is_empty());
    ValidatedIndexer { role, compaction: wal.spec.compaction.enabled, adopt_owner, suspended: wal.spec.suspend }
}

fn search(spec: &SearchSpec, refusals: &mut Refusals) -> ValidatedSearch {
    if spec.replicas < 0 {
        refusals.spec(format!("\"spec.search.replicas\" is {}; 0 turns search off", spec.replicas));
    }
    let secret = spec.auth.secret_ref.as_ref().map(|secret| secret.name.clone());
    let token_secret = match (spec.auth.r#type, secret) {
        (AuthType::None, _) => {
            if spec.service.r#type != tidemark_crds::ServiceType::ClusterIP {
                refusals.spec(
                    "a Service that is reachable from outside of the cluster needs \"spec.search.auth\" of type Token",
                );
            }
            None
        }
        (AuthType::Token, Some(secret)) => Some(secret),
        (AuthType::Token, None) => {
            refusals.spec("\"spec.search.auth\" of type Token needs a secretRef; name the Secret that holds the token");
            None
        }
    };
    let role = ValidatedRole {
        resources: spec.resources.clone().unwrap_or_default(),
        service_account_annotations: spec.service_account_annotations.clone(),
        template: template("spec.search.podTemplate", spec.pod_template.as_ref(), refusals),
    };
    let allow_from = spec.allow_from.clone();
    check_peers(&allow_from, refusals);
    ValidatedSearch { role, replicas: spec.replicas, token_secret, service: spec.service.clone(), allow_from }
}

fn check_peers(peers: &[NetworkPolicyPeer], refusals: &mut Refusals) {
    let blocks = peers.iter().filter_map(|peer| peer.ip_block.as_ref());
    for range in blocks.flat_map(|block| block.except.iter().flatten().chain([&block.cidr])) {
        if !is_range(range) {
            refusals.spec(format!(
                "\"spec.search.allowFrom\" has \"{range}\"; write a range of addresses such as 10.0.0.0/8"
            ));
        }
    }
}

/// Whether the text is an address, a slash and how many of its bits count.
fn is_range(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u8>()) else { return false };
    bits <= if address.is_ipv4() { 32 } else { 128 }
}

fn template(path: &str, template: Option<&PodTemplate>, refusals: &mut Refusals) -> PodTemplateSettings {
    let settings = template.map_or_else(|| Ok(PodTemplateSettings::default()), PodTemplate::settings);
    settings.unwrap_or_else(|refused| {
        let reason = Reason::PodTemplateRefused;
        refusals.0.extend(refused.into_iter().map(|refused| {
            let message = format!("\"{path}.{}\" {}", refused.path, refused.why);
            Refusal { reason, message }
        }));
        PodTemplateSettings::default()
    })
}
