//! Moves the log's floor to the archive of another index, where the index whose archive it rests on is lost.

use std::sync::Arc;

use tidemark_catalog::{CatalogError, LogCursor, LogFloor, RootChain};
use tokio::sync::watch;

use super::floor_error::FloorMoveError;
use crate::{
    cause::{FailureCause, ToCause as _},
    snapshot::{
        ArchiveCoverage, ArchiveFault, ArchiveReport, ArchiveVersion, CoverageFault, LogArchive, SnapshotError,
    },
};

/// Moves the log's floor to the archive of one of its indexes.
pub struct FloorMover {
    /// The log's root.
    pub root: RootChain,
    /// The name by which the index is registered: its URL.
    pub index: String,
    /// The log's archive in that index.
    pub archive: Arc<dyn LogArchive>,
    /// The archive that the floor rests on, or why it cannot be opened.
    pub known: Result<Arc<dyn LogArchive>, SnapshotError>,
    /// How many operations were compared so far.
    pub progress: watch::Sender<u64>,
}

/// How the floor is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloorMoveRequest {
    /// Whether the archive that the floor rests on is lost, or damaged for good: all that can be read of it is compared. A store that fails
    /// while it is read is no loss.
    pub accepts_loss: bool,
    /// Whether everything is looked at, and nothing moved.
    pub dry_run: bool,
}

/// What was found, and where the floor rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorMoveReport {
    /// The floor as it rests on the archive.
    pub floor: LogFloor,
    /// Whether it rested there before.
    pub was_there: bool,
    /// Operations of the archive that it rested on that the new one holds as well.
    pub compared: u64,
    /// Why the others could not be compared; `None`: there are none.
    pub unread: Option<String>,
}

/// The comparison of the two archives.
struct FloorComparison {
    compared: u64,
    /// Why some could not be compared, and what that means.
    unread: Option<(String, FailureCause)>,
}

impl FloorComparison {
    /// One in which some could not be compared.
    fn without(compared: u64, error: &SnapshotError) -> Self {
        let message = error.to_string();
        // The fact alone: effect and remedy are those of the move.
        let fact = message.split("; ").next().unwrap_or_default().to_owned();
        Self { compared, unread: Some((fact, error.to_cause())) }
    }
}

impl FloorMover {
    /// Moves the floor, which was `seen` in the log's root, to the latest version of the archive. It stays at its second.
    ///
    /// Everything is read before, and nothing is written but the one record of the root:
    ///
    /// 1. The archive is this log's, and reaches the floor.
    /// 2. All of its objects are there and whole.
    /// 3. It holds each operation below the floor that the archive holds on which the floor rests.
    /// 4. The floor is the one that was seen, and no other index cleans the log up: else the root refuses it.
    ///
    /// It may end at any step; the next one looks at everything again.
    ///
    /// # Errors
    ///
    /// The floor is where it was, unless the outcome is unknown ([`FloorMoveError::is_unknown`]).
    pub async fn run(&self, seen: &LogFloor, request: FloorMoveRequest) -> Result<FloorMoveReport, FloorMoveError> {
        let archive = self.archive.url();
        if seen.archive == archive && self.archive.remembered_version(&seen.extent).await?.is_some() {
            return Ok(FloorMoveReport { floor: seen.clone(), was_there: true, compared: 0, unread: None });
        }
        let version = self.version_reaching(seen.second).await?;
        let extent = version.extent();
        // Before hours of reading: what the root refuses anyway.
        let root = self.root.state().await?;
        root.move_floor(&self.index, seen, &archive, &extent).map_err(CatalogError::from)?;
        self.require_whole(&version).await?;
        let FloorComparison { compared, unread } = self.compare(seen, &version).await?;
        let unread = match unread {
            Some((why, cause)) if !request.accepts_loss => {
                return Err(FloorMoveError::Unread { known: seen.archive.clone(), archive, why, cause });
            }
            unread => unread.map(|(why, _)| why),
        };
        if !request.dry_run {
            self.root.move_floor(&self.index, seen, &archive, &extent).await?;
        }
        let floor = LogFloor { archive, extent, ..seen.clone() };
        Ok(FloorMoveReport { floor, was_there: false, compared, unread })
    }

    async fn version_reaching(&self, floor: LogCursor) -> Result<ArchiveVersion, FloorMoveError> {
        let latest = self.archive.latest().await?;
        let end = latest.as_ref().map(|latest| latest.end);
        let reaching = latest.filter(|latest| floor <= latest.end);
        reaching.ok_or_else(|| FloorMoveError::Short { archive: self.archive.url(), end, floor })
    }

    async fn require_whole(&self, version: &ArchiveVersion) -> Result<(), FloorMoveError> {
        let ArchiveReport { damaged, damaged_count: count, .. } = self.archive.verify(version).await?;
        if count == 0 {
            return Ok(());
        }
        let archive = self.archive.url();
        let (key, why) =
            damaged.into_iter().next().map(|ArchiveFault { location, why }| (location, why)).unwrap_or_default();
        Err(FloorMoveError::Damaged { archive, count, key, why })
    }

    /// Compares what lies below the floor. An operation that the new archive lacks is an error, whatever cannot be read behind it.
    async fn compare(&self, seen: &LogFloor, version: &ArchiveVersion) -> Result<FloorComparison, FloorMoveError> {
        let unread = |error: &SnapshotError| Ok(FloorComparison::without(*self.progress.borrow(), error));
        self.progress.send_replace(0);
        let known = match &self.known {
            Ok(known) => known,
            Err(error) => return unread(error),
        };
        let of_known = match known.remembered_version(&seen.extent).await {
            Ok(Some(of_known)) => of_known,
            Ok(None) => {
                let key = format!("version {} of the archive", seen.extent.version);
                return unread(&SnapshotError::ArchiveDamaged { key, why: "it is gone, or is another one".to_owned() });
            }
            Err(error) => return unread(&error),
        };
        let coverage = ArchiveCoverage { archive: (&*self.archive, version), other: (&**known, &of_known) };
        let on_row = || self.progress.send_modify(|compared| *compared += 1);
        match coverage.require(LogCursor::default()..seen.second, on_row).await {
            Ok(None) => Ok(FloorComparison { compared: *self.progress.borrow(), unread: None }),
            Ok(Some(damage)) => unread(&damage),
            // It is there, and can be read at another time.
            Err(CoverageFault::Other(error) | CoverageFault::Archive(error)) => Err(error.into()),
            Err(CoverageFault::Lacks { token, op, what }) => {
                let (archive, known) = (self.archive.url(), seen.archive.clone());
                Err(FloorMoveError::Lacks { archive, known, token, op, what })
            }
        }
    }
}
