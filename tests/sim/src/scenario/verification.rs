//! Verifications beside everything else, and one at the end: whatever goes on, none takes it for damage.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{LogId, RootChain};
use tidemark_ingest::{
    ArchiveOpener, FindingSeverity, IndexVerifier, OutcomeSelection, VerifyCheck, VerifyError, VerifyFinding,
    VerifyObserver, VerifyOptions, VerifySummary,
    model_engine::ModelEngine,
    snapshot::{LogArchive, model_archive::ModelArchive},
};
use tidemark_store::{Entropy, Store};
use tokio::time::sleep;

use super::{
    indexers,
    long_run::{INDEX, LongRun},
};
use crate::{
    config::SimConfig, process::SimProcess, simulated_store::SimulatedStore, supervise::ProcessEnd, world::SimWorld,
};

/// Fails the simulation at the first finding of damage.
struct DamageWatch<'a> {
    simulated_store: &'a SimulatedStore,
    /// Whether a finding counts.
    counts: &'a (dyn Fn(&VerifyFinding) -> bool + Send + Sync),
}

impl VerifyObserver for DamageWatch<'_> {
    fn found(&self, finding: &VerifyFinding) {
        if finding.severity == FindingSeverity::Damage && (self.counts)(finding) {
            self.simulated_store.fail(format!("a verification finds damage where there is none: {finding:?}"));
        }
        self.simulated_store.note(&format!("verification: {finding:?}"));
    }

    fn progress(&self, _: VerifyCheck, _: u64, _: u64) {}
}

/// Whether what a verification says is certain: no record is lost on purpose, the index is written for its log, and what is written is
/// visible in time.
fn is_decided(world: &SimWorld) -> bool {
    let SimConfig { record_loss, cleaned_log, fault_schedule, .. } = &*world.config;
    let is_lossless = record_loss.is_none() && fault_schedule.damaged_segments == 0;
    is_lossless && !cleaned_log && world.checker().visibility_bounded
}

/// Verifies samples while the others work.
pub(super) async fn verify_samples(world: SimWorld, process: SimProcess) -> ProcessEnd {
    while is_decided(&world) && !world.is_fault_burst_over() {
        world.sleep_for(20_000..=90_000).await;
        let sample = OutcomeSelection::Sample { count: world.in_range(0..=12), seed: world.in_range(0..=u64::MAX / 2) };
        if verify(&world, &process, sample).await.is_some_and(|summary| summary.outcomes.is_some()) {
            world.simulated_store.mark("verified meanwhile");
        }
    }
    ProcessEnd::Done
}

/// Verifies everything, once nothing fails any more.
pub(super) async fn verify_all(world: &SimWorld) {
    if !is_decided(world) {
        return;
    }
    let process = SimProcess::new("verifier.last", false);
    let Some(summary) = verify(world, &process, OutcomeSelection::All).await else { return };
    if summary.unverified > 0 || summary.outcomes.is_none() {
        world.simulated_store.fail(format!("a verification cannot read what is there: {summary:?}"));
    }
    for (mark, count) in summary.outcomes.iter().flat_map(|figures| {
        [("agreed", figures.agree), ("unprovable", figures.unprovable), ("pending", figures.pending)]
    }) {
        if count > 0 {
            world.simulated_store.mark(mark);
        }
    }
}

/// Verifies the index of a run of days, once nothing fails any more.
pub(super) async fn verify_stored(run: &LongRun) {
    let process = SimProcess::new("verifier.last", false);
    let counts = |finding: &VerifyFinding| says_truth(run, finding);
    let watch = DamageWatch { simulated_store: &run.simulated_store, counts: &counts };
    match stored_verifier(run, &process, OutcomeSelection::All).run(&watch).await {
        Ok(summary) if summary.archive.is_some_and(|archive| archive.compared > 0) => {
            run.simulated_store.mark("the archive was verified");
        }
        Ok(_) => {}
        Err(error) => run.simulated_store.fail(format!("an index that is whole cannot be verified: {error}")),
    }
}

/// Verifies the index of a run of days now and then, beside everything else. `is_damaged_since`: whether the index lacked an object at any
/// time since then, true time in milliseconds.
pub(super) async fn verify_now_and_then(
    run: LongRun,
    process: SimProcess,
    is_damaged_since: impl Fn(u64) -> bool + Send + Sync,
) -> ProcessEnd {
    run.log_id(&process).await;
    loop {
        run.sleep_minutes(100..=1_500).await;
        if !run.is_fault_burst_over() && run.number(0..=3) == 0 {
            // Longer than the grace, somewhere within the verification.
            let (run, process) = (run.clone(), process.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(run.number(0..=10_000))).await;
                run.suspend(&process, 20..=60);
            });
        }
        let began = run.simulated_store.now();
        let counts = |finding: &VerifyFinding| says_truth(&run, finding) && !is_damaged_since(began);
        let watch = DamageWatch { simulated_store: &run.simulated_store, counts: &counts };
        let sample = OutcomeSelection::Sample { count: run.number(0..=20), seed: run.number(0..=u64::MAX / 2) };
        match stored_verifier(&run, &process, sample).run(&watch).await {
            Ok(_) => run.simulated_store.mark("verified meanwhile"),
            Err(error) => run.simulated_store.note(&format!("nothing was verified: {error}")),
        }
    }
}

/// Records that are made up are no outcomes of the log's entries, and no rule decides them from what is archived with them.
fn says_truth(run: &LongRun, finding: &VerifyFinding) -> bool {
    let is_of_outcomes =
        matches!(finding.check, VerifyCheck::Outcomes | VerifyCheck::ArchivedOutcomes | VerifyCheck::Log);
    run.is_ingested || !is_of_outcomes
}

fn stored_verifier(run: &LongRun, process: &SimProcess, outcomes: OutcomeSelection) -> IndexVerifier {
    let (log, index) = (run.log(process), run.store(INDEX, process));
    IndexVerifier {
        root: RootChain::open(&log, run.entropy()),
        engine: Arc::new(ModelEngine::new(index.clone())),
        index,
        archive: archive_opener(run.entropy()),
        entropy: run.entropy(),
        options: VerifyOptions { outcomes, fetches: 4, entry_memory: 1 << 20 },
        log,
    }
}

fn archive_opener(entropy: Entropy) -> ArchiveOpener {
    Box::new(move |index: &Store, log: &LogId| -> Arc<dyn LogArchive> {
        Arc::new(ModelArchive::open(index, log, entropy.clone()))
    })
}

async fn verify(world: &SimWorld, process: &SimProcess, outcomes: OutcomeSelection) -> Option<VerifySummary> {
    let log = world.log(process);
    let verifier = IndexVerifier {
        root: RootChain::open(&log, world.entropy()),
        index: world.index(process),
        engine: indexers::engine(world, process).ok()?,
        archive: archive_opener(world.entropy()),
        entropy: world.entropy(),
        options: VerifyOptions { outcomes, fetches: 4, entry_memory: 1 << 20 },
        log,
    };
    let watch = DamageWatch { simulated_store: &world.simulated_store, counts: &|_| true };
    match verifier.run(&watch).await {
        Ok(summary) => Some(summary),
        Err(error @ (VerifyError::NeverIndexed { .. } | VerifyError::NoIndex { .. })) => {
            world.simulated_store.note(&error.to_string());
            None
        }
        Err(error) => {
            world.simulated_store.note(&format!("nothing was verified: {error}"));
            None
        }
    }
}
