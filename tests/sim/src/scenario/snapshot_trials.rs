//! At the end of a run, each verified snapshot and each copy in the second store is restored to a random time, and so is the archive of either
//! place alone: each to an index of its own, which must be the fold of all that was decided up to then.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidemark_catalog::{
    CatalogError, IndexOwner, IndexPin, LogCursor, LogId, PinChain, RootChain, SnapshotProof, TransactionRejected,
};
use tidemark_ingest::{
    GenerationTask, IngestError, IngestOptions, RestoreOrigin, RestoreRequest, RestoreTarget,
    engine::IndexEngine,
    model_engine::ModelEngine,
    restore_from,
    snapshot::{SnapshotPlace, model_archive::ModelArchive},
};
use tidemark_store::{StoreClock, StoreSecond};
use tidemark_wal::Token;
use tokio::sync::watch;

use super::{
    generation_model::{GenerationModel, SourceAge},
    long_run::{COPIES, INDEX, LongRun},
    snapshot_copies,
};
use crate::process::SimProcess;

/// What a trial restores.
struct TrialSource {
    /// Where it is: the index's store, or that of the copies.
    place: &'static str,
    /// By which its buckets are called.
    name: String,
    /// Where snapshots are pinned: nothing but the one of the trial, or none.
    pins: PinChain,
    /// The seconds of which it has operations.
    seconds: RangeInclusive<StoreSecond>,
    age: SourceAge,
    is_archive: bool,
}

/// Tries out what one index can be restored from.
pub(super) struct SnapshotTrials<'a> {
    run: &'a LongRun,
    model: &'a Mutex<GenerationModel>,
    process: SimProcess,
    log: LogId,
}

impl<'a> SnapshotTrials<'a> {
    pub(super) async fn new(run: &'a LongRun, model: &'a Mutex<GenerationModel>) -> Self {
        let process = SimProcess::new("trial", false);
        let log = run.log_id(&process).await;
        Self { run, model, process, log }
    }

    /// Restores all of them.
    pub(super) async fn run(&self) {
        if let Err(error) = Box::pin(self.try_all()).await {
            self.run.simulated_store.fail(format!("what was recorded cannot be restored: {error:#}"));
        }
    }

    async fn try_all(&self) -> anyhow::Result<()> {
        for place in [INDEX, COPIES] {
            self.try_place(place).await?;
        }
        Ok(())
    }

    /// Each verified snapshot of a place alone, and the archive there alone.
    async fn try_place(&self, place: &'static str) -> anyhow::Result<()> {
        let is_copy = place == COPIES;
        let SnapshotPlace { pins, archive, .. } = self.place(place);
        let register = pins.register().await?;
        let archived = archive.latest().await?;
        let end = archived.as_ref().map(|version| version.end.second()).unwrap_or_default();
        for (number, (name, pin, proof)) in register.snapshots().into_iter().enumerate() {
            let source = self.snapshot((place, number), (name, pin, proof), (&pins, end)).await?;
            let Some(source) = source else { continue };
            if self.restore(&source).await? {
                let restored = if is_copy { "a copy was restored" } else { "a snapshot was restored" };
                self.run.simulated_store.mark(restored);
                if self.model.lock().open().is_some_and(|open| pin.generation < open.generation) {
                    self.run.simulated_store.mark("a snapshot of a replaced generation was restored");
                }
            }
        }
        if archived.is_none() {
            return Ok(());
        }
        let audit_window = self.run.parameters().audit_window;
        let source = TrialSource {
            place,
            name: format!("{place}-archive"),
            pins: self.pins_in(&format!("pins-{place}-archive")),
            seconds: StoreSecond::default()..=end.before(Duration::from_secs(1)),
            age: SourceAge { audited: end, manifest: None, reads_archive: true, audit_window },
            is_archive: true,
        };
        if self.restore(&source).await? {
            let restored =
                if is_copy { "the archive of the copies was restored" } else { "the archive alone was restored" };
            self.run.simulated_store.mark(restored);
        }
        Ok(())
    }

    fn place(&self, bucket: &str) -> SnapshotPlace {
        snapshot_copies::place(self.run, &self.process, &self.log, bucket)
    }

    /// The pins that are in `bucket`.
    fn pins_in(&self, bucket: &str) -> PinChain {
        PinChain::open(&self.run.store(bucket, &self.process), &self.log, self.run.entropy())
    }

    /// The snapshot `name`, alone: a restore takes the one that reaches furthest. With the archive, which ends at `archived`. `None` if it has
    /// no operation, or was dropped meanwhile.
    async fn snapshot(
        &self,
        (place, number): (&'static str, usize),
        (name, pin, proof): (&str, &IndexPin, &SnapshotProof),
        (pins, archived): (&PinChain, StoreSecond),
    ) -> Result<Option<TrialSource>, CatalogError> {
        let Some(first) = proof.first else { return Ok(None) };
        let manifest = pins.read_list(pin).await?;
        let alone = self.pins_in(&format!("pins-{place}-{number}"));
        let imported = match alone.import(name, pins, pin, &manifest, &BTreeSet::new()).await {
            Err(CatalogError::Rejected(_)) => return Ok(None),
            imported => imported?,
        };
        alone.verify(name, &imported.list, proof).await?;
        Ok(Some(TrialSource {
            place,
            name: format!("{place}-{number}"),
            pins: alone,
            seconds: first..=proof.cursor.second().before(Duration::from_secs(1)),
            age: SourceAge {
                audited: proof.audited.max(archived.min(proof.cursor.second())),
                manifest: Some((pin.generation.number(), pin.manifest)),
                reads_archive: proof.audited < archived,
                audit_window: self.run.parameters().audit_window,
            },
            is_archive: false,
        }))
    }

    /// Restores it to the time or the token of one of its operations, and compares. Gives whether it has an operation.
    async fn restore(&self, source: &TrialSource) -> anyhow::Result<bool> {
        let number = self.run.number(0..=1_000_000);
        let chosen = self.model.lock().token_within(&source.seconds, number);
        let Some(token) = chosen else { return Ok(false) };
        let is_to_token = self.run.number(0..=2) == 0;
        let target = if is_to_token { RestoreTarget::Token(token) } else { RestoreTarget::Time(token.second()) };
        let bucket = format!("restored-{}", source.name);
        self.run.simulated_store.note(&format!("{bucket}: {:?} to {target}", source.seconds));
        let log = self.run.log(&self.process);
        let store = self.run.store(&bucket, &self.process);
        let task = GenerationTask {
            clock: StoreClock::new(log.stores(), self.process.name()),
            root: RootChain::open(&log, self.run.entropy()),
            engine: Arc::new(ModelEngine::new(store.clone())),
            index: store,
            log,
            name: Some(source.name.clone()),
            options: IngestOptions { batch_records: self.run.number(20..=200), ..IngestOptions::default() },
            entropy: self.run.entropy(),
            progress: watch::Sender::default(),
        };
        let origin = RestoreOrigin::new(
            SnapshotPlace { pins: source.pins.clone(), ..self.place(source.place) },
            Box::new(|store| Ok(Arc::new(ModelEngine::new(store)) as Arc<dyn IndexEngine>)),
        );
        let owner = IndexOwner::Named { name: "sim".to_owned() };
        let own = ModelArchive::open(&task.index, &self.log, self.run.entropy());
        let floor = task.root.state().await?.floor.map(|floor| floor.second).unwrap_or_default();
        match restore_from(&task, &own, &origin, &RestoreRequest { target, owner, reaches_floor: false }).await {
            // The copies were made before the log was cleaned up to there: they are no beginning of another index.
            Err(IngestError::Root(CatalogError::Rejected(TransactionRejected::BelowFloor { .. })))
                if source.place == COPIES && LogCursor(source.age.audited) < floor =>
            {
                self.run.simulated_store.mark("copies below the log's floor were refused");
                return Ok(false);
            }
            restored => restored.map(drop)?,
        }
        self.compare(source, &bucket, (token, is_to_token)).map_err(anyhow::Error::msg)?;
        if LogCursor(token.second()) < floor && !source.is_archive {
            self.run.simulated_store.mark("a snapshot was restored to a second below the floor");
        }
        Ok(true)
    }

    /// Compares what is in `bucket` with all that was decided up to `last`, or of the second of that.
    fn compare(&self, source: &TrialSource, bucket: &str, (last, is_to_token): (Token, bool)) -> Result<(), String> {
        let (manifest, content) = GenerationModel::read_index(&self.run.simulated_store.objects(bucket))?;
        if manifest.until != Some(last.second()) {
            return Err(format!("what was to be restored up to {last} reaches up to {:?}", manifest.until));
        }
        let wanted = |token: Token| if is_to_token { token <= last } else { token.second() <= last.second() };
        let checked = self.model.lock().check_restored(&content, source.age, wanted);
        checked.map_err(|why| format!("{:?} restored up to {last}: {why}", source.seconds))
    }
}
