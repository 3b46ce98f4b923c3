//! The mutants that the simulation must find: what each one breaks, and where its body is.

mod archive;
mod engine;
mod store;

use tidemark_store::mutants::{activate, is_active};

pub use archive::ARCHIVE_MUTANTS;
pub(crate) use archive::mutated_archive;
pub(crate) use engine::{RedecidingEngine, TruncatingEngine, UnverifyingEngine};
pub use store::STORE_MUTANTS;
pub(crate) use store::{ENTRY_MEMORY, mutated};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Wrong code, named after what it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        /// Every mutant.
        pub const MUTANTS: [Mutant; [$(Mutant::$name),*].len()] = [$(Mutant::$name),*];

        impl Mutant {
            /// Its name, which the crate that has its body knows too.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

mutants! {
    /// An entry counts as committed once its expiry has passed, whatever its descriptors say (`tidemark-wal`).
    OutcomeFromExpiryAlone,
    /// A descriptor may be overwritten (store).
    OverwritableDescriptor,
    /// The clock is read after the listing that the horizon is used for (`tidemark-ingest`).
    ClockReadAfterListing,
    /// A writer deletes what it wrote when the outcome of the write is unknown (store).
    CleanupOnUnknown,
    /// An append does not check the boundary of its chain afterwards (store).
    NoBoundaryCheck,
    /// The cursor's second counts as decided too (`tidemark-ingest`).
    CursorOffByOne,
    /// An indexer that lost its epoch still publishes (`tidemark-catalog`).
    FencedIngestPublishes,
    /// A compaction drops the sidecar that was published while it ran (`tidemark-ingest`).
    CompactionLosesCorrection,
    /// A sidecar is published one manifest after the records that caused it (`tidemark-ingest`).
    SidecarAfterCause,
    /// A candidate takes over although the holder's heartbeat moves (store).
    CandidatesFenceEachOther,
    /// A descriptor of another operation counts as proof (`tidemark-wal`).
    ForeignDescriptorAccepted,
    /// A rebuild decides outcomes again instead of taking the recorded ones (engine).
    OutcomeDecidedAgain,
    /// A lowered expiry moves the horizon at once (`tidemark-wal`).
    LoweredExpiryAtOnce,
    /// A writer acknowledges an append without checking when its descriptor became visible (`tidemark-wal`).
    AcknowledgedUnseen,
    /// A late operation makes a duplicate of its retry (`tidemark-ingest`).
    LateMakesDuplicate,
    /// How long an idempotency key counts is measured from its last repetition, not from its commit (`tidemark-ingest`).
    RetentionFromDuplicate,
    /// Whether an idempotency key was committed is asked of the process's memory, which a restart forgets, and not of the index
    /// (`tidemark-ingest`).
    DuplicateFromMemory,
    /// A reader accepts a slot of a chain without checking the boundary (store).
    SlotBelowBoundaryAccepted,
    /// A purge deletes before the index is closed (process, in `scenario/purge.rs`).
    PurgeBeforeClosing,
    /// A purge deletes every object below the index's prefix (store).
    PurgeByPrefix,
    /// A purge also deletes the closing record and the boundary (store).
    PurgeDropsFence,
    /// An index that is created again continues the generation that was purged (`tidemark-catalog`).
    PurgedGenerationReopened,
    /// An index takes the records of another log (`tidemark-catalog`).
    OtherLogAdmitted,
    /// An index takes the records of a copy of its log (`tidemark-catalog`).
    CopiedLogAdmitted,
    /// A pin counts although the index may have dropped what it holds (`tidemark-catalog`).
    PinUnchecked,
    /// A pin is checked against the manifest of which it was made (`tidemark-catalog`).
    PinReadStale,
    /// A pin's list has a name that was used before (`tidemark-catalog`).
    PinListNamedByContent,
    /// The grace of garbage counts from when the object was written (`tidemark-catalog`).
    GarbageGraceFromCreation,
    /// A collector goes on although a later pass has begun (`tidemark-catalog`).
    GarbageCollectorUnfenced,
    /// What the present writer may still publish counts as garbage (`tidemark-catalog`).
    GarbageOfPresentEpoch,
    /// A list of an earlier pass is dropped although objects that it names are still there (`tidemark-catalog`).
    GarbageListDropped,
    /// A generation that the index has switched to is opened only once its maker has finished it: a switch that stops ingest for ever after a
    /// crash (`tidemark-catalog`).
    UnfinishedSuccessorRefused,
    /// A generation is closed in favour of one that lacks what was published last (`tidemark-catalog`, `tidemark-ingest`).
    ClosedWithOldDigest,
    /// A generation is given up while its maker may still switch to it (`tidemark-catalog`).
    AbandonedUnfenced,
    /// A restore decides outcomes by what the log shows now (`tidemark-ingest`).
    RestoreDecidesAgain,
    /// A promotion leaves what was recorded after the time of the restore to be decided again (`tidemark-ingest`).
    PromotedWithoutOutcomes,
    /// What collects in a second store deletes what nothing but copies of snapshots names (`tidemark-catalog`).
    PinsOfCopiesIgnored,
    /// A panic while one entry is read is taken for the end of the listing (`tidemark-ingest`).
    PanicEndsListing,
    /// A chain whose first record is missing is taken for empty and begun again (`tidemark-store`).
    EmptiedChainBegunAnew,
    /// A chain ends where a record in its middle is missing (store).
    HoleTakenForEnd,
    /// An entry that is larger than the memory for entries is left out (store).
    LargeEntrySkipped,
    /// A segment ends where the disk was full, and what follows is lost (engine).
    FullDiskCutsSegment,
    /// The key that is derived for an operation of a group is one that another entry may bear (`tidemark-wal`).
    GroupKeyCollides,
    /// What an intent expects is compared with the index, and not with what precedes it in the batch (`tidemark-ingest`).
    ExpectationOfIndexAlone,
    /// An entry that is refused is judged unreadable although nothing else is read either (`tidemark-wal`).
    UnreadableWithoutProof,
    /// More than a hundred objects an hour are judged unreadable (`tidemark-wal`).
    UnboundedUnreadable,
    /// An index whose cursor is below the log's floor goes on (`tidemark-ingest`).
    FloorIgnored,
    /// A descriptor counts only if its store's clock is not behind the log's (`tidemark-wal`).
    ClocksTakenForEqual,
    /// A lowered audit window drops the later looks at what was appended before (`tidemark-ingest`).
    LoweredWindowDropsLook,
    /// A compaction takes its inputs as they are on the disk, without comparing them with the manifest (engine).
    UnverifiedCompactionInput,
    /// What a label holds is taken for each of several entries that may have written it (`tidemark-wal`).
    LabelOfLaterEntry,
    /// An operation is archived with the time of its token in place of its entry's store time (`tidemark-ingest`).
    ArchiveWithoutTimes,
    /// A snapshot is verified although nothing was read again (`tidemark-ingest`).
    SnapshotUnread,
    /// What the audit still looks at is archived (`tidemark-ingest`).
    UnsettledArchived,
    /// A writer publishes an object of an earlier epoch (process, in `scenario/recorded_history.rs`).
    LowerEpochAdopted,
    /// A clean-up deletes before it has recorded what (`tidemark-ingest`).
    PlanAfterDeletion,
    /// A clean-up raises the log's floor after it has deleted (`tidemark-ingest`).
    FloorAfterDeletion,
    /// A clean-up deletes what no verified snapshot has in the archive (`tidemark-ingest`).
    UnverifiedSnapshotTrusted,
    /// A clean-up deletes whatever is listed below the floor (`tidemark-ingest`).
    ListedRangeDeleted,
    /// A clean-up deletes an entry of which the archive has no bytes (`tidemark-ingest`).
    OversizedDeletedByName,
    /// An entry whose deletion failed is taken for deleted (`tidemark-ingest`).
    UnknownDeletionTaken,
    /// The floor is raised beside an index of which it is not known what it needs (`tidemark-catalog`).
    UnknownKeepsIgnored,
    /// The floor is raised beside an index that registers (`tidemark-catalog`).
    FloorBesideRegistration,
    /// The archive has two commit points: its current version is the one that a hint names, which is written after the record of the chain, and
    /// a record that the hint does not name is taken for that of an attempt that failed (archive).
    HintTakenForTable,
    /// What a lock was before the slot of a commit was taken decides whether the commit counts (`tidemark-wal`).
    LockCheckedBeforeCommit,
    /// A new holder of a lock acts before what an earlier one may still complete is past its bound (`tidemark-wal`).
    NewHolderActsAtOnce,
    /// The slot of a commit that was trimmed before its entry is judged is judged all the same: its writer does not see the boundary, takes the slot
    /// for its own and writes a guard (store).
    LockSlotTrimmedUnjudged,
    /// A writer that was fenced acquires the lock again and goes on with what it knew (process, in `scenario/lock_clients.rs`).
    FencedWriterGoesOn,
    /// A trim takes every record of a chain for old: what a reader that slept for minutes looks for is gone (store).
    TrimmedPastReader,
}

/// The mutants whose body is in an engine: `mutants/engine.rs`.
pub const ENGINE_MUTANTS: [Mutant; 3] =
    [Mutant::OutcomeDecidedAgain, Mutant::UnverifiedCompactionInput, Mutant::FullDiskCutsSegment];
/// The mutants whose body is in a process of a scenario: `scenario/`.
pub const PROCESS_MUTANTS: [Mutant; 3] =
    [Mutant::PurgeBeforeClosing, Mutant::LowerEpochAdopted, Mutant::FencedWriterGoesOn];
/// The names of the mutants whose body is in a crate: `indexer/{store,wal,catalog,ingest}/src/mutants.rs`.
pub const CRATE_MUTANTS: [&[&str]; 4] = [
    tidemark_store::mutants::MUTANT_HOOKS,
    tidemark_wal::MUTANT_HOOKS,
    tidemark_catalog::MUTANT_HOOKS,
    tidemark_ingest::MUTANT_HOOKS,
];

impl Mutant {
    /// The mutant of this name.
    pub fn named(name: &str) -> Option<Self> {
        MUTANTS.into_iter().find(|mutant| mutant.name() == name)
    }

    /// Whether it is on for this thread.
    pub(crate) fn is_on(self) -> bool {
        is_active(self.name())
    }
}

/// Turns `mutant` on for this thread and the previous one off.
pub(crate) fn turn_on(mutant: Option<Mutant>) {
    activate(mutant.map(Mutant::name));
}
