//! What is mounted into a data pod: keys, certificates, the cache, requests of the operator.
//!
//! Secrets and `ConfigMap`s are optional, so that a pod starts and reports what is missing, and whole folders, so that a
//! changed one arrives without a restart.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, SecretVolumeSource, Volume, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};
use tidemark_crds::names;

use crate::controllers::wal::validate::{StoreAccess, StoreSettings, ValidatedWal};

/// Where fetched segments are.
pub(super) const CACHE_FOLDER: &str = "/var/cache/tidemark";
/// Where the control ConfigMap is.
pub(super) const CONTROL_FOLDER: &str = "/etc/tidemark/control";
/// Where the search token is.
pub(super) const TOKEN_FILE: &str = "/etc/tidemark/auth/token";

/// Volume of the search token.
pub(crate) const TOKEN_VOLUME: &str = "auth";
const TOKEN_FOLDER: &str = "/etc/tidemark/auth";
/// Bytes of the cache's volume: twice what the cache takes in all, so that no miscount evicts a pod.
const CACHE_LIMIT: &str = "8Gi";
/// Bytes of the temporary folder's volume.
const TEMPORARY_LIMIT: &str = "1Gi";
/// For the owner and the group to read.
const KEY_MODE: i32 = 0o440;

/// Where the keys of a store are.
pub(super) fn credentials_folder(folder: &str) -> String {
    format!("/etc/tidemark/credentials/{folder}")
}

/// Where the certificates to trust for a store are.
pub(super) fn ca_file(folder: &str) -> String {
    format!("/etc/tidemark/ca/{folder}/ca.crt")
}

/// The volumes of every data pod, and where they are mounted.
pub(super) fn common(wal: &ValidatedWal) -> Vec<(Volume, VolumeMount)> {
    let mut all = vec![scratch("cache", CACHE_FOLDER, CACHE_LIMIT), scratch("tmp", "/tmp", TEMPORARY_LIMIT)];
    for (folder, store) in distinct(wal) {
        if let StoreAccess::Secret(name) = &store.access {
            all.push(secret(format!("credentials-{folder}"), &credentials_folder(folder), name, None));
        }
        if let Some(ca) = &store.ca {
            let path = format!("/etc/tidemark/ca/{folder}");
            all.push(config_map(format!("ca-{folder}"), &path, ca, Some("ca.crt")));
        }
    }
    all
}

/// The control ConfigMap of an indexer.
pub(super) fn control(wal: &ValidatedWal) -> (Volume, VolumeMount) {
    config_map("control".to_owned(), CONTROL_FOLDER, &names::control_config_map(&wal.name), None)
}

/// The token of a search pod, if the spec names one.
pub(super) fn token(wal: &ValidatedWal) -> Option<(Volume, VolumeMount)> {
    let name = wal.search.token_secret.as_ref()?;
    Some(secret(TOKEN_VOLUME.to_owned(), TOKEN_FOLDER, name, Some("token")))
}

/// Each store once: several places may share one.
fn distinct(wal: &ValidatedWal) -> BTreeMap<&'static str, &StoreSettings> {
    wal.stores.each().into_iter().map(|(_, store)| (store.folder, store)).collect()
}

fn scratch(name: &str, path: &str, limit: &str) -> (Volume, VolumeMount) {
    let source = EmptyDirVolumeSource { size_limit: Some(Quantity(limit.to_owned())), medium: None };
    let volume = Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() };
    (volume, VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() })
}

fn secret(name: String, path: &str, secret: &str, key: Option<&str>) -> (Volume, VolumeMount) {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        optional: Some(true),
        default_mode: Some(KEY_MODE),
        items: key.map(only),
    };
    let mount = read_only(&name, path);
    (Volume { name, secret: Some(source), ..Volume::default() }, mount)
}

fn config_map(name: String, path: &str, config_map: &str, key: Option<&str>) -> (Volume, VolumeMount) {
    let source = ConfigMapVolumeSource {
        name: config_map.to_owned(),
        optional: Some(true),
        default_mode: Some(KEY_MODE),
        items: key.map(only),
    };
    let mount = read_only(&name, path);
    (Volume { name, config_map: Some(source), ..Volume::default() }, mount)
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    let (name, mount_path) = (name.to_owned(), path.to_owned());
    VolumeMount { name, mount_path, read_only: Some(true), ..VolumeMount::default() }
}

fn only(key: &str) -> Vec<KeyToPath> {
    vec![KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None }]
}
