//! What the simulated processes do.

mod archive_ledger;
pub mod chain;
mod cleaning;
mod cleanup_model;
pub mod cleanups;
mod copy_model;
mod entry_clients;
pub mod garbage;
mod generation_model;
pub mod generations;
pub mod indexers;
mod lock_clients;
pub mod locks;
mod long_run;
pub mod maintenance;
pub mod mixed;
pub mod outages;
mod publication;
pub mod purge;
pub mod readers;
mod record_writer;
mod recorded_history;
mod snapshot_copies;
mod snapshot_model;
mod snapshot_trials;
pub mod snapshots;
mod trim_model;
mod verification;
pub mod writers;

use crate::{
    config::SimConfig,
    mutants::Mutant,
    run::{SeedReport, run_seed},
};

/// A scenario of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimScenario {
    /// One chain.
    Chain,
    /// Clean-ups of a log that is indexed and snapshotted, over days.
    Cleanup,
    /// The pins and the garbage of an index, over days.
    Garbage,
    /// An index that tasks rebuild, over days.
    Generations,
    /// Holders of one write lock.
    Locks,
    /// A whole log.
    Mixed,
    /// An index that is purged while another log competes for its prefix.
    Purge,
    /// Snapshots of an index that is written and collected, over days.
    Snapshots,
}

impl SimScenario {
    /// Every scenario.
    pub const ALL: [Self; 8] = [
        Self::Chain,
        Self::Cleanup,
        Self::Garbage,
        Self::Generations,
        Self::Locks,
        Self::Mixed,
        Self::Purge,
        Self::Snapshots,
    ];

    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Cleanup => "cleanup",
            Self::Garbage => "garbage",
            Self::Generations => "generations",
            Self::Locks => "locks",
            Self::Mixed => "mixed",
            Self::Purge => "purge",
            Self::Snapshots => "snapshots",
        }
    }

    /// The scenario that shows a mutant. `Mixed` has a config for each, the others are as they always are.
    pub fn of(mutant: Mutant) -> Self {
        match mutant {
            Mutant::NoBoundaryCheck | Mutant::SlotBelowBoundaryAccepted => Self::Chain,
            Mutant::PinUnchecked
            | Mutant::PinReadStale
            | Mutant::PinListNamedByContent
            | Mutant::GarbageGraceFromCreation
            | Mutant::GarbageCollectorUnfenced
            | Mutant::GarbageOfPresentEpoch
            | Mutant::GarbageListDropped
            | Mutant::TrimmedPastReader => Self::Garbage,
            Mutant::UnfinishedSuccessorRefused
            | Mutant::ClosedWithOldDigest
            | Mutant::AbandonedUnfenced
            | Mutant::RestoreDecidesAgain
            | Mutant::PromotedWithoutOutcomes
            | Mutant::PinsOfCopiesIgnored => Self::Generations,
            Mutant::LockCheckedBeforeCommit
            | Mutant::NewHolderActsAtOnce
            | Mutant::LockSlotTrimmedUnjudged
            | Mutant::FencedWriterGoesOn => Self::Locks,
            Mutant::PurgeBeforeClosing
            | Mutant::PurgeByPrefix
            | Mutant::PurgeDropsFence
            | Mutant::PurgedGenerationReopened
            | Mutant::OtherLogAdmitted => Self::Purge,
            Mutant::PlanAfterDeletion
            | Mutant::FloorAfterDeletion
            | Mutant::UnverifiedSnapshotTrusted
            | Mutant::ListedRangeDeleted
            | Mutant::OversizedDeletedByName
            | Mutant::UnknownDeletionTaken
            | Mutant::UnknownKeepsIgnored
            | Mutant::FloorBesideRegistration => Self::Cleanup,
            Mutant::ArchiveWithoutTimes
            | Mutant::SnapshotUnread
            | Mutant::UnsettledArchived
            | Mutant::LowerEpochAdopted
            | Mutant::HintTakenForTable => Self::Snapshots,
            _ => Self::Mixed,
        }
    }

    /// Runs one seed on this thread with `mutant` turned on.
    pub fn run(self, seed: u64, mutant: Option<Mutant>, echo: bool) -> SeedReport {
        match (self, mutant) {
            (Self::Mixed, Some(target)) => run_for_mutant(seed, target, mutant, echo),
            (Self::Chain, _) => run_seed(seed, mutant, echo, chain::run),
            (Self::Cleanup, _) => run_seed(seed, mutant, echo, cleanups::run),
            (Self::Garbage, _) => run_seed(seed, mutant, echo, garbage::run),
            (Self::Generations, _) => run_seed(seed, mutant, echo, generations::run),
            (Self::Locks, _) => run_seed(seed, mutant, echo, locks::run),
            (Self::Purge, _) => run_seed(seed, mutant, echo, purge::run),
            (Self::Snapshots, _) => run_seed(seed, mutant, echo, snapshots::run),
            (Self::Mixed, None) => {
                run_seed(seed, None, echo, |seed, echo| mixed::run(seed, SimConfig::mixed(seed), echo))
            }
        }
    }
}

/// Runs one seed with the scenario and config that show `target`, with `mutant` turned on.
pub fn run_for_mutant(seed: u64, target: Mutant, mutant: Option<Mutant>, echo: bool) -> SeedReport {
    match SimScenario::of(target) {
        SimScenario::Mixed => {
            run_seed(seed, mutant, echo, |seed, echo| mixed::run(seed, SimConfig::for_mutant(seed, target), echo))
        }
        scenario => scenario.run(seed, mutant, echo),
    }
}
