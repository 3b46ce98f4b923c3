//! A drill: the latest snapshot is restored into a prefix of its own, compared with what was proven of it, and removed again. The index is
//! left as it is.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use tidemark_catalog::{
    CatalogError, FIRST_SEQ, GARBAGE_GRACE, Generation, IndexPin, LogCursor, Manifest, ObjectName, PinChain, SetDigest,
    SnapshotProof,
};
use tidemark_crds::Reason;
use tidemark_store::{Entropy, ObjectInfo, Store, StoreError, StoreSecond};
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cause::{FailureCause, ToCause},
    engine::{EngineError, EngineOpener, IndexEngine, RecordStats},
    generation_task::CopyProgress,
    options::IngestOptions,
    restore_source::last_second,
    retry::StageRetrier,
    segment_upload::SegmentUploader,
    snapshot::{LogArchive, SnapshotError},
    standing_copy::{StandingCopier, StandingOperations},
    status::IngestStatusTracker,
};

/// The folder of all drills, below the index's URL.
const DRILL_FOLDER: &str = "drill";
/// The object in the folder of one drill that it writes again and again while it runs.
const HEARTBEAT_KEY: &str = "heartbeat";
/// How often. A drill that has written nothing for [`GARBAGE_GRACE`] has ended, or was suspended for that long.
const HEARTBEAT_INTERVAL: Duration = Duration::from_hours(1);

/// Restores snapshots of one index for a trial.
pub struct RestoreDrill {
    /// The store of the index.
    pub index: Store,
    /// The log's pins in it.
    pub pins: PinChain,
    /// What reads the segments of the index.
    pub engine: Arc<dyn IndexEngine>,
    /// The log's archive.
    pub archive: Arc<dyn LogArchive>,
    /// Makes what builds and reads segments in the store of the drill.
    pub drill_engine: EngineOpener,
    /// Limits on memory.
    pub options: IngestOptions,
    /// For the names of objects.
    pub entropy: Entropy,
    /// How many records of how many are restored.
    pub progress: watch::Sender<CopyProgress>,
}

/// What a drill has restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillReport {
    /// The snapshot.
    pub snapshot: String,
    /// The last second of which it has everything.
    pub last: StoreSecond,
    /// Operations that were restored from it, as they stand.
    pub operations: u64,
    /// Operations that were read from the archive.
    pub archived: u64,
    /// Bytes of the objects that were written, and removed again.
    pub bytes: u64,
}

/// Why a drill failed. The index was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrillError {
    /// There is nothing to restore.
    #[error(
        "no snapshot of \"{url}\" is verified; nothing was tried out; make one with `tidemark snapshot`, then try again"
    )]
    NoSnapshot {
        /// The index.
        url: String,
    },
    /// What was restored is not what was proven of the snapshot.
    #[error(
        "{what} restored from \"{from}\" is {found} where {wanted} was recorded; a restore from it would be wrong; make another snapshot, \
         and report this"
    )]
    Differs {
        /// What was restored from.
        from: String,
        /// What differs.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was proven.
        wanted: String,
    },
    /// Pins cannot be read.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// Segments cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] SnapshotError),
    /// The index's store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ToCause for DrillError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::NoSnapshot { url } => FailureCause::at(Reason::SnapshotMissing, url),
            Self::Differs { .. } => FailureCause::of(Reason::DrillFailed),
            Self::Chain(error) => error.to_cause(),
            Self::Engine(error) => error.to_cause(),
            Self::Archive(error) => error.to_cause(),
            Self::Store(error) => error.to_cause(),
        }
    }
}

impl RestoreDrill {
    /// Restores the latest verified snapshot, reads its archive, compares both with what was proven, and removes what was written.
    ///
    /// What a drill that ended early has left is removed by one that begins a day later.
    pub async fn run(&self) -> Result<DrillReport, DrillError> {
        let register = self.pins.register().await?;
        let latest = register.snapshots().into_iter().next();
        let Some((name, pin, proof)) = latest else {
            return Err(DrillError::NoSnapshot { url: self.index.url().to_string() });
        };
        let (folder, nonce) = (self.index.below(DRILL_FOLDER), self.entropy.nonce());
        let scratch = folder.below(&nonce);
        scratch.put(HEARTBEAT_KEY, Bytes::new()).await?;
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(move_heartbeat(scratch.clone())));
        let drilled = self.drill(name, pin, proof, &scratch).await;
        drop(heartbeat);
        let removed = remove_objects(&folder, &nonce).await;
        let report = drilled?;
        removed?;
        Ok(report)
    }

    async fn drill(
        &self,
        name: &str,
        pin: &IndexPin,
        proof: &SnapshotProof,
        scratch: &Store,
    ) -> Result<DrillReport, DrillError> {
        let held = self.pins.read_list(pin).await?;
        let engine = (self.drill_engine)(scratch.clone())?;
        let from = || format!("snapshot \"{name}\"");
        let restored = self.restore(&held, scratch, &engine).await?;
        let same = |what, found: String, wanted: String| {
            if found == wanted { Ok(()) } else { Err(DrillError::Differs { from: from(), what, found, wanted }) }
        };
        let totals = &restored.totals;
        same("the number of operations", totals.records.to_string(), proof.counts.total().to_string())?;
        same("their outcomes", format!("{:?}", totals.counts), format!("{:?}", proof.counts))?;
        same("their digest", totals.digest.to_string(), proof.digest.to_string())?;
        for segment in &restored.segments {
            let read: RecordStats = engine.verified_stats(segment, Arc::default()).await?.into_iter().sum();
            same("a segment", format!("{read:?}"), format!("{:?}", RecordStats::of(segment)))?;
        }
        let archived = self.read_archive(proof).await?;
        let (operations, bytes) = (totals.records, totals.bytes);
        Ok(DrillReport { snapshot: name.to_owned(), last: last_second(held.cursor), operations, archived, bytes })
    }

    /// Restores everything that `held` has. Gives what a manifest would say of it.
    async fn restore(
        &self,
        held: &Manifest,
        scratch: &Store,
        engine: &Arc<dyn IndexEngine>,
    ) -> Result<Manifest, DrillError> {
        let (retrier, events) = StageRetrier::new();
        let tracker = IngestStatusTracker::new(watch::Sender::default());
        let _failures = AbortOnDropHandle::new(tokio::spawn(async move { tracker.follow(events).await }));
        let generation = Generation::first();
        let names = (generation.clone(), 1);
        let uploader = SegmentUploader::new(scratch.clone(), engine.clone(), names, self.entropy.clone(), retrier);
        let empty = Manifest::new(generation);
        let mut copier = StandingCopier::new(engine, uploader, &self.options, &empty).await?;
        let all = StoreSecond::default()..=StoreSecond::KSUID_END;
        let mut operations = StandingOperations::open(&self.engine, held, &all).await?;
        let (mut copied, total) = (0, held.next_seq - FIRST_SEQ);
        while let Some(chunk) = operations.next_chunk().await? {
            copied += chunk.len() as u64;
            copier.add(chunk).await?;
            if copier.is_full() {
                copier.flush().await?;
            }
            self.progress.send_replace(CopyProgress { copied, total });
        }
        copier.flush().await?;
        Ok(copier.into_draft())
    }

    /// Reads the archive as the snapshot has proven it. Gives how many operations it has.
    async fn read_archive(&self, proof: &SnapshotProof) -> Result<u64, DrillError> {
        let Some(proven) = &proof.archive else { return Ok(0) };
        let Some(version) = self.archive.remembered_version(proven).await? else {
            let (from, found) =
                (format!("version {} of the archive", proven.version), "gone or another one".to_owned());
            return Err(DrillError::Differs { from, what: "the record", found, wanted: proven.hash.clone() });
        };
        let mut rows = self.archive.rows(&version, LogCursor::default()..version.end);
        let (mut found, mut digest) = (0, SetDigest::default());
        while let Some(row) = rows.try_next().await? {
            found += 1;
            digest.insert(&row.record.set_element());
        }
        for (what, found, wanted) in [
            ("the number of operations", found.to_string(), version.operations.to_string()),
            ("their digest", digest.to_string(), version.digest.to_string()),
        ] {
            if found != wanted {
                let from = format!("version {} of the archive", version.number);
                return Err(DrillError::Differs { from, what, found, wanted });
            }
        }
        Ok(found)
    }
}

/// Writes the heartbeat of the drill in `scratch` until it is dropped.
async fn move_heartbeat(scratch: Store) -> Infallible {
    loop {
        sleep(HEARTBEAT_INTERVAL).await;
        if let Err(error) = scratch.put(HEARTBEAT_KEY, Bytes::new()).await {
            tracing::warn!(%error, "the drill's heartbeat was not written; after a day without one another drill takes this one for ended; retrying");
        }
    }
}

/// Removes what the drill `nonce` has written below `folder`, and what drills have left there that have ended: the latest object of theirs
/// was written a day before the latest one of all. A drill that was suspended for so long may lose its objects. It then fails, and the
/// index is as it was. Objects whose names are not a drill's stay.
async fn remove_objects(folder: &Store, nonce: &str) -> Result<(), StoreError> {
    let objects: Vec<_> = folder.list("", None).try_collect().await?;
    let of_drill = |object: &ObjectInfo| {
        let (drill, name) = object.key.split_once('/')?;
        let is_own = name == HEARTBEAT_KEY || name.parse::<ObjectName>().is_ok();
        is_own.then(|| (drill.to_owned(), object.time, object.key.clone()))
    };
    let objects: Vec<_> = objects.iter().filter_map(of_drill).collect();
    let mut written: BTreeMap<&str, StoreSecond> = BTreeMap::new();
    for (drill, time, _) in &objects {
        let last = written.entry(drill.as_str()).or_insert(*time);
        *last = (*last).max(*time);
    }
    // This drill has written its heartbeat within the last hours.
    let now = written.values().max().copied().unwrap_or_default();
    let has_ended = |drill: &str| drill == nonce || written[drill].after(GARBAGE_GRACE) <= now;
    let keys: Vec<_> = objects.iter().filter(|(drill, ..)| has_ended(drill)).map(|(_, _, key)| key.clone()).collect();
    if keys.is_empty() { Ok(()) } else { folder.delete(&keys).await }
}
