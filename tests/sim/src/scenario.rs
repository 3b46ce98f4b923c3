//! What the simulated processes do.

pub mod chain;
pub mod indexers;
pub mod keepers;
pub mod mixed;
pub mod purge;
pub mod readers;
pub mod writers;

use tidemark_store::planted::Fault;

use crate::{
    knobs::Knobs,
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

    /// Runs one seed of it on this thread, with `fault` planted.
    pub fn run(self, seed: u64, fault: Option<Fault>, echo: bool) -> Report {
        match (self, fault) {
            (Self::Mixed, Some(prey)) => hunt(seed, prey, fault, echo),
            (Self::Chain, _) => run(seed, fault, echo, chain::run),
            (Self::Purge, _) => run(seed, fault, echo, purge::run),
            (Self::Mixed, None) => run(seed, None, echo, |seed, echo| mixed::run(seed, Knobs::mixed(seed), echo)),
        }
    }
}

/// Runs one seed under the set-up in which `prey` bites, with `fault` planted.
pub fn hunt(seed: u64, prey: Fault, fault: Option<Fault>, echo: bool) -> Report {
    match prey {
        Fault::NoBoundaryCheck | Fault::SlotBelowBoundaryAccepted => run(seed, fault, echo, chain::run),
        Fault::PurgeBeforeClosing
        | Fault::PurgeByPrefix
        | Fault::PurgeDropsFence
        | Fault::PurgedGenerationReopened
        | Fault::OtherLogAdmitted => run(seed, fault, echo, purge::run),
        _ => run(seed, fault, echo, |seed, echo| mixed::run(seed, Knobs::hunting(seed, prey), echo)),
    }
}
