//! What the simulated processes do.

pub mod chain;
pub mod indexers;
pub mod keepers;
pub mod mixed;
pub mod purge;
pub mod readers;
pub mod writers;

use crate::{
    knobs::Knobs,
    mutants::Mutant,
    run::{Report, run},
};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One chain alone.
    Chain,
    /// A whole log.
    Mixed,
    /// An index that is removed, and that another log wants.
    Purge,
}

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Chain, Self::Mixed, Self::Purge].into_iter().find(|scenario| scenario.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Mixed => "mixed",
            Self::Purge => "purge",
        }
    }

    /// Runs one seed of it on this thread, with `mutant`.
    pub fn run(self, seed: u64, mutant: Option<Mutant>, echo: bool) -> Report {
        match (self, mutant) {
            (Self::Mixed, Some(prey)) => hunt(seed, prey, mutant, echo),
            (Self::Chain, _) => run(seed, mutant, echo, chain::run),
            (Self::Purge, _) => run(seed, mutant, echo, purge::run),
            (Self::Mixed, None) => run(seed, None, echo, |seed, echo| mixed::run(seed, Knobs::mixed(seed), echo)),
        }
    }
}

/// Runs one seed under the set-up in which `prey` bites, with `mutant`.
pub fn hunt(seed: u64, prey: Mutant, mutant: Option<Mutant>, echo: bool) -> Report {
    match prey {
        Mutant::NoBoundaryCheck | Mutant::SlotBelowBoundaryAccepted => run(seed, mutant, echo, chain::run),
        Mutant::PurgeBeforeClosing
        | Mutant::PurgeByPrefix
        | Mutant::PurgeDropsFence
        | Mutant::PurgedGenerationReopened
        | Mutant::OtherLogAdmitted => run(seed, mutant, echo, purge::run),
        _ => run(seed, mutant, echo, |seed, echo| mixed::run(seed, Knobs::hunting(seed, prey), echo)),
    }
}
