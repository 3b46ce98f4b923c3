//! From a version to its files: the manifest list, the manifests, the data files.

use tidemark_store::Store;

use crate::{
    checked_object::{CheckedObject, read_checked},
    error::ArchiveError,
    location::key_of_path,
    manifest::{ManifestEntry, decode_manifest},
    manifest_list::{ListedManifest, decode_manifest_list},
    metadata::TableVersion,
    names::{ArchiveDay, PartKind, PartName},
};

/// A data file of a version.
#[derive(Clone, Debug)]
pub(crate) struct TableFile {
    /// Below the table's prefix.
    pub(crate) key: String,
    pub(crate) entry: ManifestEntry,
}

/// The manifests of `version`, by the versions that added them.
pub(crate) async fn read_manifest_list(
    store: &Store,
    version: &TableVersion,
) -> Result<Vec<ListedManifest>, ArchiveError> {
    let by = store.url_of(&version.key());
    let path = version
        .manifest_list()
        .ok_or_else(|| ArchiveError::Damaged { key: by.clone(), why: "it names no manifest list".to_owned() })?;
    let object = read_checked(store, key_of_path(&version.location, path, &by)?, None).await?;
    let damaged = |why: String| ArchiveError::Damaged { key: store.url_of(&object.name.to_string()), why };
    if object.name.attempt != version.attempt {
        return Err(damaged(format!("version {} names it, and another attempt has written it", version.number)));
    }
    let manifests = decode_manifest_list(&object.bytes).map_err(&damaged)?;
    let ascending = manifests.is_sorted_by(|one, next| one.version < next.version);
    let last = manifests.last().map_or(0, |last| last.version);
    if !ascending || last > version.number {
        return Err(damaged("its manifests are not in the order of versions".to_owned()));
    }
    Ok(manifests)
}

/// The data files that `manifest` names, by their tokens.
pub(crate) async fn read_manifest(
    store: &Store,
    location: &str,
    manifest: &ListedManifest,
) -> Result<Vec<TableFile>, ArchiveError> {
    let key = key_of_path(location, &manifest.path, store.url().as_str())?;
    let object = read_checked(store, key, Some(manifest.bytes)).await?;
    let url = store.url_of(key);
    let damaged = |why: String| ArchiveError::Damaged { key: url.clone(), why };
    let entries = decode_manifest(&object.bytes).map_err(damaged)?;
    if !is_manifest_of(&object, manifest) || entries.len() as u64 != manifest.files {
        return Err(damaged("it is not the manifest that the list names".to_owned()));
    }
    let mut files = Vec::with_capacity(entries.len());
    for (version, entry) in entries {
        let key = key_of_path(location, &entry.path, &url)?.to_owned();
        if version != manifest.version || !is_file_of(&object.name, &key, &entry) {
            return Err(damaged(format!("it names \"{key}\", which another attempt has written, or for another day")));
        }
        files.push(TableFile { key, entry });
    }
    Ok(files)
}

fn is_manifest_of(object: &CheckedObject, manifest: &ListedManifest) -> bool {
    object.name.kind == PartKind::Manifest && object.name.attempt.version == manifest.version
}

/// Whether `key` is the name of a data file of the manifest's attempt, with the rows that `entry` promises.
fn is_file_of(manifest: &PartName, key: &str, entry: &ManifestEntry) -> bool {
    let (first, last) = entry.tokens;
    let days = [first, last].map(|token| ArchiveDay::of(token.second()));
    PartName::parse(key).is_some_and(|name| {
        let of_day = matches!(&name.kind, PartKind::Data { day, .. } if *day == entry.day.to_string());
        of_day && name.attempt == manifest.attempt && days == [entry.day; 2]
    })
}
