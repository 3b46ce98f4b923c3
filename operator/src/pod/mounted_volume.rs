//! Volumes together with where they are mounted.
//!
//! Secrets and `ConfigMap`s are optional, so that a pod starts and reports what is missing, and whole folders, so that a
//! changed one arrives without a restart.

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, EmptyDirVolumeSource, EphemeralVolumeSource, KeyToPath, PersistentVolumeClaimSpec,
        PersistentVolumeClaimTemplate, SecretVolumeSource, Volume, VolumeMount, VolumeResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use tidemark_crds::{CacheClaimSpec, parse_quantity_millis};

/// For the owner and the group to read.
/// The files belong to root; the pod reads them through its `fsGroup`.
const KEY_MODE: i32 = 0o440;

/// A volume, and where a container has it.
pub(crate) type MountedVolume = (Volume, VolumeMount);

/// An empty folder of the node that goes with the pod, of at most `bytes`.
pub(crate) fn scratch(name: &str, path: &str, bytes: u64) -> MountedVolume {
    let source = EmptyDirVolumeSource { size_limit: Some(quantity(bytes)), medium: None };
    let volume = Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() };
    (volume, writable(name, path))
}

/// A volume of a storage class, with `bytes`, that is made and deleted with the pod.
pub(crate) fn claimed(name: &str, path: &str, bytes: u64, claim: &CacheClaimSpec) -> MountedVolume {
    let requests = [("storage".to_owned(), quantity(bytes))].into();
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(claim.access_modes.iter().map(|mode| mode.as_str().to_owned()).collect()),
        storage_class_name: claim.storage_class_name.clone(),
        resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..PersistentVolumeClaimSpec::default()
    };
    let template = PersistentVolumeClaimTemplate { metadata: None, spec };
    let source = EphemeralVolumeSource { volume_claim_template: Some(template) };
    let volume = Volume { name: name.to_owned(), ephemeral: Some(source), ..Volume::default() };
    (volume, writable(name, path))
}

/// What the emptyDir volumes may hold together, in bytes: what a pod takes of its node's disk.
pub(super) fn node_disk_bytes<'a>(volumes: impl IntoIterator<Item = &'a MountedVolume>) -> u64 {
    let limits = volumes.into_iter().filter_map(|(volume, _)| volume.empty_dir.as_ref()?.size_limit.as_ref());
    let bytes = limits.filter_map(|limit| parse_quantity_millis(&limit.0)).sum::<i128>() / 1000;
    u64::try_from(bytes).unwrap_or_default()
}

/// In the largest binary unit of which it is a multiple, as people write it.
pub(super) fn quantity(bytes: u64) -> Quantity {
    const UNITS: [(u32, &str); 3] = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.into_iter().find(|(bits, _)| bytes.is_multiple_of(1 << bits));
    Quantity(unit.map_or_else(|| bytes.to_string(), |(bits, unit)| format!("{}{unit}", bytes >> bits)))
}

/// A Secret, or one key of it.
pub(crate) fn secret(name: String, path: &str, secret: &str, key: Option<&str>) -> MountedVolume {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        optional: Some(true),
        default_mode: Some(KEY_MODE),
        items: key.map(only),
    };
    let mount = read_only(&name, path);
    (Volume { name, secret: Some(source), ..Volume::default() }, mount)
}

/// A ConfigMap, or one key of it.
pub(crate) fn config_map(name: String, path: &str, config_map: &str, key: Option<&str>) -> MountedVolume {
    let source = ConfigMapVolumeSource {
        name: config_map.to_owned(),
        optional: Some(true),
        default_mode: Some(KEY_MODE),
        items: key.map(only),
    };
    let mount = read_only(&name, path);
    (Volume { name, config_map: Some(source), ..Volume::default() }, mount)
}

fn writable(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    let (name, mount_path) = (name.to_owned(), path.to_owned());
    VolumeMount { name, mount_path, read_only: Some(true), ..VolumeMount::default() }
}

fn only(key: &str) -> Vec<KeyToPath> {
    vec![KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None }]
}
