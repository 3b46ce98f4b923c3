//! From a WAL as its users wrote it to one that can be built.
//!
//! The raw spec stops here: every builder takes a [`ValidatedWal`], whose types hold only what works. The rules of the schema
//! are checked again, since a WAL may have been stored before a rule existed.

mod refusal;
mod schedule_rules;
mod spec_digest;
mod spec_rules;
#[cfg(test)]
mod tests;
mod validated;
pub(crate) mod validated_schedules;
mod validated_stores;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use tidemark_crds::{DeletionPolicy, RoleSpec, Wal, names};

pub(crate) use self::validated_schedules::{ValidatedSchedules, ValidatedSnapshots};
use self::{
    refusal::RefusalList,
    schedule_rules::schedules,
    spec_rules::{indexer, jobs, log, role, search, stores},
};
pub use self::{
    refusal::SpecRefusal,
    validated::{
        ValidatedBootstrap, ValidatedCache, ValidatedCleanup, ValidatedIndexer, ValidatedJobs, ValidatedLog,
        ValidatedRole, ValidatedSearch, ValidatedWal,
    },
    validated_stores::{StorePlace, ValidatedCredentials, ValidatedStore, WalStores},
};

/// The WAL as its children are built from it, or everything that is wrong with it.
///
/// `cluster_id` names the cluster for the owner of the index.
pub fn validate(wal: &Wal, cluster_id: &str) -> Result<ValidatedWal, Vec<SpecRefusal>> {
    let mut refusals = RefusalList::default();
    let identity = identity(wal, &mut refusals);
    let stores = stores(&wal.spec, &mut refusals);
    let log = log(&wal.spec.log, &mut refusals);
    let indexer = indexer(wal, &mut refusals);
    let search = search(wal, &mut refusals);
    let schedules = log.as_ref().map(|log| schedules(&wal.spec, log, &mut refusals)).unwrap_or_default();
    let jobs = jobs(wal, &mut refusals);
    match (identity, stores, log, jobs) {
        (Some((name, namespace, uid, owner_reference)), Some(stores), Some(log), Some(jobs))
            if refusals.0.is_empty() =>
        {
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
                schedules,
                jobs,
                purging,
            })
        }
        _ => Err(refusals.0),
    }
}

/// The role of a resource whose whole spec describes one, or everything that is wrong with it.
pub(crate) fn validate_role(spec: &RoleSpec) -> Result<ValidatedRole, Vec<SpecRefusal>> {
    let mut refusals = RefusalList::default();
    let role = role("spec", spec, &mut refusals);
    if refusals.0.is_empty() { Ok(role) } else { Err(refusals.0) }
}

fn identity(wal: &Wal, refusals: &mut RefusalList) -> Option<(String, String, String, OwnerReference)> {
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
