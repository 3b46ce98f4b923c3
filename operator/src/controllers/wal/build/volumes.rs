//! What is mounted into a data pod: keys, certificates, the cache, requests of the operator.

use std::collections::BTreeMap;

use tidemark_crds::names;

use crate::{
    controllers::wal::validate::{StorePlace, ValidatedCache, ValidatedCredentials, ValidatedStore, ValidatedWal},
    pod::{MountedVolume, claimed, config_map, scratch, secret},
};

/// Where segments are. Below the volume itself, in which a file system may keep a folder of its own (`lost+found`).
pub(super) const CACHE_FOLDER: &str = "/var/cache/tidemark/segments";
/// Where the control ConfigMap is.
pub(super) const CONTROL_FOLDER: &str = "/etc/tidemark/control";
/// Where the search token is.
pub(super) const TOKEN_FILE: &str = "/etc/tidemark/auth/token";

/// Volume of the search token.
pub(crate) const TOKEN_VOLUME: &str = "auth";
const TOKEN_FOLDER: &str = "/etc/tidemark/auth";
const CACHE_VOLUME: &str = "cache";
const CACHE_MOUNT: &str = "/var/cache/tidemark";
/// Bytes of the temporary folder's volume. The program itself writes nothing there.
const TEMPORARY_BYTES: u64 = 64 << 20;

/// Where the keys of a store are.
pub(super) fn credentials_folder(folder: &str) -> String {
    format!("/etc/tidemark/credentials/{folder}")
}

/// Where the certificates to trust for a store are.
pub(super) fn ca_file(folder: &str) -> String {
    format!("/etc/tidemark/ca/{folder}/ca.crt")
}

/// MiB of a cache volume that the program may take. An eighth is left out: a file system needs room for itself (ext4 up to a
/// twentieth), files end in blocks that are not full, and one that is removed while it is mapped takes its bytes until then.
pub(super) fn cache_mib(cache: &ValidatedCache) -> u64 {
    (cache.volume_bytes - cache.volume_bytes / 8) >> 20
}

/// The volumes of every pod that has these stores, and where they are mounted.
pub(super) fn common(stores: &[(StorePlace, &ValidatedStore)], of_role: &ValidatedCache) -> Vec<MountedVolume> {
    let mut all = vec![cache(of_role), scratch("tmp", "/tmp", TEMPORARY_BYTES)];
    for (folder, store) in distinct(stores) {
        if let ValidatedCredentials::Secret(name) = &store.access {
            all.push(secret(format!("credentials-{folder}"), &credentials_folder(folder), name, None));
        }
        if let Some(ca) = &store.ca {
            let path = format!("/etc/tidemark/ca/{folder}");
            all.push(config_map(format!("ca-{folder}"), &path, ca, Some("ca.crt")));
        }
    }
    all
}

fn cache(cache: &ValidatedCache) -> MountedVolume {
    let ValidatedCache { volume_bytes, claim } = cache;
    match claim {
        None => scratch(CACHE_VOLUME, CACHE_MOUNT, *volume_bytes),
        Some(claim) => claimed(CACHE_VOLUME, CACHE_MOUNT, *volume_bytes, claim),
    }
}

/// The control ConfigMap of an indexer.
pub(super) fn control(wal: &ValidatedWal) -> MountedVolume {
    config_map("control".to_owned(), CONTROL_FOLDER, &names::control_config_map(&wal.name), None)
}

/// The token of a search pod, if the spec names one.
pub(super) fn token(wal: &ValidatedWal) -> Option<MountedVolume> {
    let name = wal.search.token_secret.as_ref()?;
    Some(secret(TOKEN_VOLUME.to_owned(), TOKEN_FOLDER, name, Some("token")))
}

/// Each store once: several places may share one.
fn distinct<'a>(stores: &[(StorePlace, &'a ValidatedStore)]) -> BTreeMap<&'static str, &'a ValidatedStore> {
    stores.iter().map(|(_, store)| (store.folder, *store)).collect()
}
