//! Copies a verified snapshot to a second store, of another provider too.

use std::{collections::BTreeSet, io, num::NonZeroUsize, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _};
use tempfile::NamedTempFile;
use tidemark_catalog::{CatalogError, IndexPin, LogCursor, Manifest, PinChain, SnapshotProof, SnapshotRetention};
use tidemark_store::Store;
use tokio::sync::watch;

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    object_proof::{pinned_objects, prove_object},
    progress::{SnapshotProgress, SnapshotStep},
};
use crate::engine::EngineError;

/// Bytes that are read from the one store and written to a file at once.
const PIECE_BYTES: u64 = 8 << 20;
/// How often the second archive is extended once more because another process extended it first.
const MAX_EXTENSIONS: u32 = 16;

/// An index's store with the log's pins and its archive.
pub struct SnapshotPlace {
    /// The store.
    pub index: Store,
    /// The log's pins there.
    pub pins: PinChain,
    /// The log's archive there.
    pub archive: Arc<dyn LogArchive>,
}

/// Copies snapshots of one log from the store of its index to a second one, where each has the same names below its own URL. What is
/// there already is compared and not copied again, so that a copy that ended early goes on.
pub struct SnapshotCopier {
    /// Where the snapshots are made.
    pub from: SnapshotPlace,
    /// Where they are copied to: no index.
    pub to: SnapshotPlace,
    /// Where the progress is written.
    pub progress: watch::Sender<SnapshotProgress>,
}

impl SnapshotCopier {
    /// Copies the snapshot `name`, which `pin` is, and the archive as it is now, if the snapshot was made with it; reads from the second
    /// store what no snapshot there proves, and only then takes the snapshot in there. Of the snapshots there the `keep_last` latest stay,
    /// or all; their objects stay in any case. Gives the new one as it is there.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::CopyRefused`] if the second store holds an index.
    pub async fn copy(
        &self,
        name: &str,
        pin: &IndexPin,
        keep_last: Option<NonZeroUsize>,
    ) -> Result<IndexPin, SnapshotError> {
        self.require_no_index(pin).await?;
        let manifest = self.from.pins.read_list(pin).await?;
        self.copy_objects(&manifest).await?;
        let has_archive = pin.verified.as_ref().is_some_and(|proof| proof.archive.is_some());
        let version = if has_archive { self.copy_archive().await? } else { None };
        let proof = SnapshotProof::of(&manifest, version.as_ref().map(ArchiveVersion::extent));
        let copied = self.to.pins.import(name, pin, &manifest, &proof).await?;
        let now = copied.made.unwrap_or_default();
        let (floor, replaced) = (LogCursor::default(), BTreeSet::new());
        self.to.pins.drop_expired(&SnapshotRetention { keep_last, floor, now, replaced }).await?;
        Ok(copied)
    }

    /// A collector of an index would delete what only a copy needs.
    async fn require_no_index(&self, pin: &IndexPin) -> Result<(), SnapshotError> {
        let manifests = format!("{}/manifest", pin.generation);
        match self.to.index.list(&manifests, None).try_next().await? {
            Some(_) => Err(SnapshotError::CopyRefused { url: self.to.index.url().to_string() }),
            None => Ok(()),
        }
    }

    async fn copy_objects(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let total = manifest.totals.bytes;
        self.progress.send_replace(SnapshotProgress { step: SnapshotStep::CopyingObjects, done: 0, total });
        for (key, size, checksum) in pinned_objects(manifest) {
            let there = self.to.index.head(key).await?;
            if there.is_none_or(|there| there.size != size) {
                self.copy_object(key, size).await?;
            }
            prove_object(&self.to.index, key, size, checksum).await?;
            self.progress.send_modify(|progress| progress.done += size);
        }
        Ok(())
    }

    /// Through a file: an object may be larger than memory.
    async fn copy_object(&self, key: &str, size: u64) -> Result<(), SnapshotError> {
        let failed = |source: io::Error| {
            let path = std::env::temp_dir().display().to_string();
            SnapshotError::Engine(EngineError::Disk { path, source })
        };
        let mut file = NamedTempFile::new().map_err(failed)?;
        for start in (0..size).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            let piece = self.from.index.get_range(key, start..size.min(start + PIECE_BYTES)).await?;
            io::Write::write_all(&mut file, &piece).map_err(failed)?;
        }
        Ok(self.to.index.put_file(key, file.path()).await?)
    }

    /// Adds to the second archive what it lacks, and reads it again. Every row is the first one's; the table's own files name its own place.
    async fn copy_archive(&self) -> Result<Option<ArchiveVersion>, SnapshotError> {
        let Some(source) = self.from.archive.latest().await? else { return Ok(None) };
        for _ in 0..MAX_EXTENSIONS {
            let there = self.to.archive.latest().await?;
            let start = there.as_ref().map(|there| there.end).unwrap_or_default();
            if source.end <= start {
                let there = self.same_archive(&source, there)?;
                self.read_again(&source, &there).await?;
                return Ok(Some(there));
            }
            match self.extend(&source, start).await {
                Ok(()) | Err(SnapshotError::Overtaken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (chain, attempts) = (self.to.index.url().to_string(), MAX_EXTENSIONS);
        Err(CatalogError::Conflicts { chain, attempts }.into())
    }

    async fn extend(&self, source: &ArchiveVersion, start: LogCursor) -> Result<(), SnapshotError> {
        let total = source.operations;
        self.progress.send_replace(SnapshotProgress { step: SnapshotStep::CopyingArchive, done: 0, total });
        let progress = self.progress.clone();
        let rows = self.from.archive.rows(source, start..source.end);
        let rows = rows.inspect_ok(move |_| progress.send_modify(|progress| progress.done += 1));
        self.to.archive.extend(rows.boxed(), source.end, &source.generation).await.map(drop)
    }

    /// Compares the two archives row by row, from where the snapshots of the second store prove it: also what an earlier copy wrote, and
    /// ended before it had read it again.
    async fn read_again(&self, source: &ArchiveVersion, there: &ArchiveVersion) -> Result<(), SnapshotError> {
        let register = self.to.pins.register().await?;
        let proven = register.snapshots().iter().map(|(_, _, proof)| proof.archive_end()).max().unwrap_or_default();
        let seconds = proven..source.end;
        if seconds.is_empty() {
            return Ok(());
        }
        let total = source.operations;
        self.progress.send_replace(SnapshotProgress { step: SnapshotStep::ReadingArchive, done: 0, total });
        let mut rows = self.from.archive.rows(source, seconds.clone());
        let mut copies = self.to.archive.rows(there, seconds);
        loop {
            let (row, copy) = (rows.try_next().await?, copies.try_next().await?);
            if row != copy {
                let shown = |row: Option<SettledRecord>| {
                    row.map_or("nothing".to_owned(), |row| {
                        format!("operation {} of {}", row.record.op, row.record.token)
                    })
                };
                return Err(self.differs(format!("it has {}, the archive {}", shown(copy), shown(row))));
            }
            if row.is_none() {
                return Ok(());
            }
            self.progress.send_modify(|progress| progress.done += 1);
        }
    }

    /// Where both reach as far, they hold the same.
    fn same_archive(
        &self,
        source: &ArchiveVersion,
        there: Option<ArchiveVersion>,
    ) -> Result<ArchiveVersion, SnapshotError> {
        let there = there.ok_or_else(|| self.differs("it is gone".to_owned()))?;
        let sums = |version: &ArchiveVersion| (version.operations, version.digest);
        if there.end == source.end && sums(&there) != sums(source) {
            let ((here, digest), (copied, other)) = (sums(source), sums(&there));
            return Err(self.differs(format!(
                "it has {copied} operations with digest {other} where the archive has {here} with {digest}"
            )));
        }
        Ok(there)
    }

    fn differs(&self, why: String) -> SnapshotError {
        SnapshotError::ArchiveDamaged { key: self.to.index.url_of("archive"), why }
    }
}
