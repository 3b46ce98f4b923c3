//! How far a snapshot has come.

/// What a snapshot does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Pins the index.
    #[default]
    Pinning,
    /// Waits until the indexer has looked for the last time at what is old enough; counts seconds of the log.
    AwaitingAudit,
    /// Writes operations to the archive; counts operations.
    Archiving,
    /// Reads the objects of the pinned manifest again; counts bytes.
    ReadingObjects,
    /// Reads the new part of the archive again; counts operations.
    ReadingArchive,
    /// Copies the objects of the pinned manifest to a second store; counts bytes.
    CopyingObjects,
    /// Copies the archive to a second store; counts operations.
    CopyingArchive,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// The present step.
    pub step: SnapshotStep,
    /// How much of it is done.
    pub done: u64,
    /// How much there is at most; an estimate while operations are archived.
    pub total: u64,
}
