//! Copies a verified snapshot to a second store, of another provider too.

use std::{collections::BTreeSet, io, num::NonZeroUsize, pin::pin, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tidemark_catalog::{
    CatalogError, CopyCollector, Generation, IndexPin, LogCursor, Manifest, PinChain, RootChain, SnapshotProof,
    SnapshotRetention,
};
use tidemark_store::{Store, StoreSecond, error_chain};
use tokio::sync::watch;

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    object_proof::{pinned_objects, prove_object},
    paired_streams::paired,
    pin_renewal::keep_renewed,
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
    /// The log's root: which indexes it has.
    pub root: RootChain,
    /// Where the snapshots are made.
    pub from: SnapshotPlace,
    /// Where they are copied to: no index.
    pub to: SnapshotPlace,
    /// Deletes there what no copy names any more.
    pub collector: CopyCollector,
    /// Where the progress is written.
    pub progress: watch::Sender<SnapshotProgress>,
}

impl SnapshotCopier {
    /// Copies the snapshot `name`, which `pin` is, and the archive as it is now, if the snapshot was made with it; reads from the second
    /// store what no snapshot there proves, and only then verifies the snapshot there. Of this index's snapshots there the `keep_last` latest
    /// stay, or all, and those of one that copied there before it until these hold as much; of the others the objects go that nothing names,
    /// once they are a day old. Gives the new one as it is there.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::CopyRefused`] if the second store holds an index, and a refusal of its pins if it has the copies of another one.
    pub async fn copy(
        &self,
        name: &str,
        pin: &IndexPin,
        keep_last: Option<NonZeroUsize>,
    ) -> Result<IndexPin, SnapshotError> {
        self.require_no_index().await?;
        let manifest = self.from.pins.read_list(pin).await?;
        // Before it is looked at what is there: a collector may take that for garbage until then.
        let registered = self.root.state().await?.indexes.into_keys().collect();
        let begun = self.to.pins.import(name, &self.from.pins, pin, &manifest, &registered).await?;
        let copied = tokio::select! {
            biased;
            copied = self.copy_all(pin, &manifest) => self.unless_damaged(name, &begun, copied).await?,
            lost = keep_renewed(&self.to.pins, name, &begun.list) => return Err(lost.into()),
        };
        let proof = SnapshotProof::of(&manifest, copied.as_ref().map(ArchiveVersion::extent));
        let (copied, now) = self.to.pins.verify(name, &begun.list, &proof).await?;
        // Another index may have taken its place by now: then neither of both does anything.
        let (floor, replaced, copy_of) =
            (LogCursor::default(), BTreeSet::new(), Some(self.from.index.url().to_string()));
        self.to.pins.drop_expired(&SnapshotRetention { keep_last, floor, now, replaced, copy_of }).await?;
        self.collect(&pin.generation, now).await;
        Ok(copied)
    }

    /// Everything that the snapshot holds. Gives the second archive.
    async fn copy_all(&self, pin: &IndexPin, manifest: &Manifest) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.copy_objects(manifest).await?;
        let has_archive = pin.verified.as_ref().is_some_and(|proof| proof.archive.is_some());
        if has_archive { self.copy_archive().await } else { Ok(None) }
    }

    /// What was copied. The pin of what is damaged is dropped: the next run begins again.
    async fn unless_damaged<T>(
        &self,
        name: &str,
        begun: &IndexPin,
        copied: Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let is_damage =
            |error: &SnapshotError| error.is_damage() || matches!(error, SnapshotError::ArchiveDamaged { .. });
        if copied.as_ref().is_err_and(is_damage)
            && begun.verified.is_none()
            && let Err(error) = self.to.pins.drop_pin(name, &begun.owner, &begun.list).await
        {
            tracing::warn!(%error, name, "the pin of a copy that failed was not dropped; it is dropped after a day");
        }
        copied
    }

    /// Deletes what no copy names any more. What stays takes room, and makes no copy worse.
    async fn collect(&self, last: &Generation, now: StoreSecond) {
        match self.collector.collect(last, now).await {
            Ok(garbage) if garbage.failed > 0 => {
                let url = self.to.index.url().as_str();
                tracing::warn!(
                    url,
                    objects = garbage.failed,
                    "objects that no copy names were not deleted; they take room; allow to delete there"
                );
            }
            Ok(garbage) => tracing::debug!(?garbage, "what no copy names was deleted"),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "what no copy names was not deleted; the next copy tries again"
                );
            }
        }
    }

    /// A collector of an index would delete what only a copy needs, whatever generation the index has come to.
    async fn require_no_index(&self) -> Result<(), SnapshotError> {
        if self.collector.finds_index().await? {
            return Err(SnapshotError::CopyRefused { url: self.to.index.url().to_string() });
        }
        Ok(())
    }

    async fn copy_objects(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let total = manifest.totals.bytes;
        self.progress.send_replace(SnapshotProgress { step: SnapshotStep::CopyingObjects, done: 0, total });
        for (key, size, checksum) in pinned_objects(manifest) {
            if !self.is_there(key, size, checksum).await? {
                self.copy_object(key, size, checksum).await?;
                prove_object(&self.to.index, key, size, checksum).await?;
            }
            self.progress.send_modify(|progress| progress.done += size);
        }
        Ok(())
    }

    /// Whether the object was copied before, and can be read. One that is damaged is copied again.
    async fn is_there(&self, key: &str, size: u64, checksum: &str) -> Result<bool, SnapshotError> {
        if self.to.index.head(key).await?.is_none_or(|there| there.size != size) {
            return Ok(false);
        }
        match prove_object(&self.to.index, key, size, checksum).await {
            Ok(()) => Ok(true),
            Err(SnapshotError::Damaged { key, why }) => {
                tracing::warn!(key, why, "a copy is damaged; it is copied again");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Through a file: an object may be larger than memory.
    async fn copy_object(&self, key: &str, size: u64, checksum: &str) -> Result<(), SnapshotError> {
        let failed = |source: io::Error| {
            let path = std::env::temp_dir().display().to_string();
            SnapshotError::Engine(EngineError::Disk { path, source })
        };
        let (mut file, mut digest) = (NamedTempFile::new().map_err(failed)?, Sha256::new());
        for start in (0..size).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            let piece = self.from.index.get_range(key, start..size.min(start + PIECE_BYTES)).await?;
            digest.update(&piece);
            io::Write::write_all(&mut file, &piece).map_err(failed)?;
        }
        let found = hex::encode(digest.finalize());
        if found != checksum {
            let why = format!("its SHA-256 is {found}, the manifest says {checksum}");
            return Err(SnapshotError::Damaged { key: self.from.index.url_of(key), why });
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
        let rows = self.from.archive.rows(source, seconds.clone());
        let copies = self.to.archive.rows(there, seconds);
        let mut pairs = pin!(paired(rows, copies, SettledRecord::key, SettledRecord::key));
        while let Some((row, copy)) = pairs.try_next().await? {
            if row != copy {
                let shown = |row: Option<SettledRecord>| {
                    row.map_or("nothing".to_owned(), |row| {
                        format!("operation {} of {}", row.record.op, row.record.token)
                    })
                };
                return Err(self.differs(format!("it has {}, the archive {}", shown(copy), shown(row))));
            }
            self.progress.send_modify(|progress| progress.done += 1);
        }
        Ok(())
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
