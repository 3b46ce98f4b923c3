//! Reads the objects of a pinned manifest again.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::Manifest;
use tidemark_store::Store;

use super::error::SnapshotError;

/// Objects that are read at once, piece by piece.
const CONCURRENCY: usize = 4;

/// The objects of `manifest`: key, size and checksum of each.
pub(super) fn pinned_objects(manifest: &Manifest) -> impl Iterator<Item = (&str, u64, &str)> {
    let segments = manifest.segments.iter();
    let segments = segments.map(|segment| (segment.key.as_str(), segment.size, segment.checksum.as_str()));
    let sidecars = manifest.sidecars.iter();
    segments.chain(sidecars.map(|sidecar| (sidecar.key.as_str(), sidecar.size, sidecar.checksum.as_str())))
}

/// Reads every segment and sidecar of `manifest` from `index`: each is there and is what the manifest says. `on_bytes` is called with
/// the bytes of each.
pub(super) async fn prove_objects(
    index: &Store,
    manifest: &Manifest,
    on_bytes: impl Fn(u64),
) -> Result<(), SnapshotError> {
    let owned = |(key, size, checksum): (&str, u64, &str)| (key.to_owned(), size, checksum.to_owned());
    let objects: Vec<_> = pinned_objects(manifest).map(owned).collect();
    let read = stream::iter(objects)
        .map(|(key, size, checksum)| async move { prove_object(index, &key, size, &checksum).await.map(|()| size) });
    read.buffered(CONCURRENCY)
        .try_for_each(|bytes| {
            on_bytes(bytes);
            std::future::ready(Ok(()))
        })
        .await
}

/// Reads an object: it is there, and is what the manifest says.
pub(super) async fn prove_object(index: &Store, key: &str, size: u64, checksum: &str) -> Result<(), SnapshotError> {
    let damaged = |why: String| SnapshotError::Damaged { key: index.url_of(key), why };
    let read = index.get_digest(key, size).await?;
    let (object, digest) =
        read.ok_or_else(|| damaged("it is gone although the pinned manifest names it".to_owned()))?;
    match digest {
        Some(digest) if digest == checksum && object.info.size == size => Ok(()),
        Some(digest) => Err(damaged(format!(
            "it has {} bytes with SHA-256 {digest}, the manifest says {size} with {checksum}",
            object.info.size
        ))),
        None => Err(damaged(format!("it has {} bytes, the manifest says {size}", object.info.size))),
    }
}
