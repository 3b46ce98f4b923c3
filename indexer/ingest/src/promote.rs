//! `tidemark promote`: a restored index takes publications again.
//!
//! What comes after the time that it was restored to was decided before: the recorded outcomes are taken from the generations that it
//! replaced, from pinned manifests and from the archive (`promotion_plan.rs`), all in one publication. Only what nothing has is decided by
//! the writer afterwards. Outcomes that were recorded and are lost are decided again only where that is asked for.

use std::{collections::BTreeSet, mem::take, sync::Arc};

use tidemark_catalog::{
    CatalogError, CopyRequest, Generation, GenerationSwitch, LogCursor, Manifest, PublishError, ReplacedGenerations,
    TransactionRejected, WriterLease,
};
use tidemark_store::StoreSecond;
use tracing::{info, warn};

use crate::{
    cause::ToCause as _,
    damage_facts::damage_facts,
    engine::{EngineError, IndexLookup},
    error::IngestError,
    generation_task::{DecideAgainReport, GenerationTask, SwitchReport, TaskCompanions, log_wait},
    mutants,
    promotion_plan::{PlannedSpan, PromotionPlan, SpanSource},
    record::OperationRecord,
    recorded_archives::{ArchivedVersions, RecordedArchives},
    restore_origin::RestoreOrigin,
    restore_source::last_second,
    retry::RetryBackoff,
    settled_reach::settled_reach,
    snapshot::{LogArchive, SnapshotError},
    span_operations::SpanOperations,
    standing_copy::StandingCopier,
};

/// Attempts to publish while the store fails: about a minute in all.
const PUBLISH_ATTEMPTS: u32 = 8;

/// What becomes of outcomes that were recorded, and that nothing has any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostOutcomePolicy {
    /// The promotion is refused.
    #[default]
    Refuse,
    /// The writer decides them again, by what the log and its metadata show by now.
    DecideAgain,
}

/// How far a promoted generation has come.
#[derive(Clone, Copy, Debug)]
struct PromotedReach {
    cursor: LogCursor,
    horizon: StoreSecond,
    audited: StoreSecond,
}

/// Promotes the index, which was restored. Refused ([`TransactionRejected::NotRestored`]) if it was not, or was promoted before by another
/// task than the one of this name.
///
/// A crash before the one publication leaves the index as it was.
pub async fn promote(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    policy: LostOutcomePolicy,
) -> Result<SwitchReport, IngestError> {
    promote_from(task, archive, None, policy).await
}

/// As [`promote`]. What the index's own archive lacks is taken from that of `origin`: what follows its end, what it passed over, and all of
/// it if it is damaged.
pub async fn promote_from(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    origin: Option<&RestoreOrigin>,
    policy: LostOutcomePolicy,
) -> Result<SwitchReport, IngestError> {
    Box::pin(promote_with(task, archives(archive, origin), policy, false)).await
}

/// As [`promote_from`], after an attempt that may have been refused: all that is to be added is read first, so that one that is refused again
/// takes no role and uploads nothing.
pub(crate) async fn promote_again(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    origin: Option<&RestoreOrigin>,
    policy: LostOutcomePolicy,
) -> Result<SwitchReport, IngestError> {
    Box::pin(promote_with(task, archives(archive, origin), policy, true)).await
}

fn archives<'a>(own: &'a dyn LogArchive, origin: Option<&'a RestoreOrigin>) -> RecordedArchives<'a> {
    RecordedArchives { own, other: origin.map(|origin| &*origin.place.archive) }
}

async fn promote_with(
    task: &GenerationTask,
    archives: RecordedArchives<'_>,
    policy: LostOutcomePolicy,
    is_again: bool,
) -> Result<SwitchReport, IngestError> {
    let switch = task.switch("promote").await?;
    let (open, latest) = switch.open_generation().await?;
    let is_done = latest.state.until.is_none() && task.name.is_some() && latest.state.promoted_by == task.name;
    let until = if is_done { None } else { Some(restored_to(&latest.state)?) };
    // A restore may have ended between its closing record and this.
    switch.repair(open.generation()).await?;
    let Some(until) = until else {
        info!(generation = %open.generation(), "this task has promoted the index before");
        return task.report(&switch).await;
    };
    let companions = task.accompany();
    let PromotionSources { mut plan, mut damages, missing } =
        find_sources(&switch, open.generation(), (archives, until), policy).await?;
    if !missing.is_empty() {
        let missing = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        warn!(generation = %open.generation(), missing, "earlier generations have neither chain nor pin; the log decides again what they alone had recorded");
    }
    let run = PromotionRun { task, archives, companions: &companions, policy };
    if is_again {
        (plan, damages) = Box::pin(run.rehearse(&latest.state, plan, damages)).await?;
    }
    let mut role = switch.seize(&open, log_wait).await.map_err(IngestError::from)?;
    let promoted = Box::pin(run.publish_recorded(&mut role, plan, damages)).await;
    // After a failure, too: the next process need not wait until this one is silent.
    let released = role.release().await;
    let decided_again = promoted?;
    released?;
    task.report_keeps(&switch).await;
    Ok(SwitchReport { decided_again, missing, ..task.report(&switch).await? })
}

/// What a promotion takes outcomes from.
struct PromotionSources {
    plan: PromotionPlan,
    /// The damage of what is left out of the plan.
    damages: Vec<IngestError>,
    /// Earlier generations of which nothing is left.
    missing: Vec<Generation>,
}

/// What has recorded outcomes beside the generation `open`.
async fn find_sources(
    switch: &GenerationSwitch,
    open: &Generation,
    (archives, until): (RecordedArchives<'_>, StoreSecond),
    policy: LostOutcomePolicy,
) -> Result<PromotionSources, IngestError> {
    let (archived, damages) = find_archived(archives, until, policy).await?;
    let ReplacedGenerations { manifests, mut missing } = switch.replaced(open).await?;
    let pinned = pinned_manifests(switch, open).await?;
    missing.retain(|generation| pinned.iter().all(|manifest| manifest.generation != *generation));
    let plan = PromotionPlan::new(mutants::replaced(manifests), mutants::replaced(pinned), archived);
    Ok(PromotionSources { plan, damages, missing })
}

/// The versions of the archives, and the damage of the index's own where that is left out: there is another one, or outcomes may be decided
/// again. Where that of another place cannot be read, an index whose own one reaches beyond `until`, the time of the restore, goes on
/// without it: that was promoted before, with what was there then.
async fn find_archived(
    RecordedArchives { own, other }: RecordedArchives<'_>,
    until: StoreSecond,
    policy: LostOutcomePolicy,
) -> Result<(ArchivedVersions, Vec<IngestError>), IngestError> {
    let mut damages = Vec::new();
    let own = match own.latest().await.map_err(IngestError::from) {
        Ok(own) => own,
        Err(damage) if damage.is_damage() && (other.is_some() || policy == LostOutcomePolicy::DecideAgain) => {
            warn!(error = %damage, "the archive is damaged; promoting the index without it");
            damages.push(damage);
            None
        }
        Err(failure) => return Err(failure),
    };
    let end = own.as_ref().map(|own| own.end).unwrap_or_default();
    let other = match other {
        Some(archive) => match archive.latest().await.map_err(IngestError::from) {
            Ok(other) => other,
            Err(failure) if end > LogCursor(until.next()) => {
                warn!(error = %failure, from = archive.url(), "the other place cannot be read; promoting the index without it");
                None
            }
            Err(failure) => return Err(failure),
        },
        None => None,
    };
    // Nothing else says what the damaged one had settled.
    if other.is_none()
        && policy == LostOutcomePolicy::Refuse
        && let Some(damage) = damages.pop()
    {
        return Err(damage);
    }
    Ok((ArchivedVersions { own, other }, damages))
}

/// What pins hold of other generations than `open`.
async fn pinned_manifests(switch: &GenerationSwitch, open: &Generation) -> Result<Vec<Manifest>, CatalogError> {
    let register = switch.pins().register().await?;
    let mut manifests = Vec::new();
    for (name, pin) in register.restorable().into_iter().filter(|(_, pin)| pin.generation != *open) {
        match switch.pins().read_list(pin).await {
            Ok(manifest) => manifests.push(manifest),
            Err(error @ CatalogError::Corrupt { .. }) => {
                warn!(%error, name, "what this pin holds cannot be read; nothing is taken from it");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(manifests)
}

/// The time that a generation was restored to.
fn restored_to(manifest: &Manifest) -> Result<StoreSecond, CatalogError> {
    let generation = manifest.generation.clone();
    manifest.until.ok_or(CatalogError::from(TransactionRejected::NotRestored { generation }))
}

/// One process that promotes.
struct PromotionRun<'a> {
    task: &'a GenerationTask,
    archives: RecordedArchives<'a>,
    companions: &'a TaskCompanions,
    policy: LostOutcomePolicy,
}

impl PromotionRun<'_> {
    /// Reads what would be added to the generation of `manifest`, and writes nothing. Gives the sources without what is damaged, and the
    /// damages.
    async fn rehearse(
        &self,
        manifest: &Manifest,
        mut plan: PromotionPlan,
        damages: Vec<IngestError>,
    ) -> Result<(PromotionPlan, Vec<IngestError>), IngestError> {
        let mut promoted = self.begin(None, manifest, (&plan, damages)).await?;
        self.add_recorded(&mut promoted, &mut plan).await?;
        Ok((plan, promoted.damages))
    }

    /// Adds what the sources of `plan` have recorded to the generation of `role`. Gives which seconds are decided again. `damages` are those
    /// of sources that are not in the plan.
    async fn publish_recorded(
        &self,
        role: &mut WriterLease,
        mut plan: PromotionPlan,
        damages: Vec<IngestError>,
    ) -> Result<Option<DecideAgainReport>, IngestError> {
        let manifest = role.manifest().state.clone();
        let mut promoted = self.begin(Some(role), &manifest, (&plan, damages)).await?;
        let decided_again = self.add_recorded(&mut promoted, &mut plan).await?;
        let Some(copied) = promoted.into_copied() else { return Ok(decided_again) };
        let generation = &manifest.generation;
        info!(%generation, operations = copied.records, cursor = %copied.cursor, "promoting the index");
        if let Some(DecideAgainReport { first, last, why }) = &decided_again {
            warn!(%generation, %first, %last, why, "outcomes of these seconds were recorded and are lost; the log decides them again");
        }
        publish(role, copied, self.task.name.as_deref()).await?;
        Ok(decided_again)
    }

    /// Adds all that `plan` offers to `promoted`. Gives which seconds are decided again; refused if they may not be.
    async fn add_recorded(
        &self,
        promoted: &mut PromotedOperations<'_>,
        plan: &mut PromotionPlan,
    ) -> Result<Option<DecideAgainReport>, IngestError> {
        promoted.add_all(plan).await?;
        if promoted.reach.cursor < plan.end() && self.policy == LostOutcomePolicy::DecideAgain {
            plan.takes_outdated = true;
            promoted.add_all(plan).await?;
        }
        let decided_again = self.lost_outcomes(promoted, plan.end())?;
        let PromotedReach { cursor, audited, .. } = promoted.reach;
        // What lies below the floor may be gone from the log: nothing is decided by a hole, and no correction is found there any more.
        let root = self.task.root.state().await?;
        root.check_floor(cursor).map_err(CatalogError::from)?;
        let (audited, floor) = (LogCursor(audited), root.floor.map(|floor| floor.second).unwrap_or_default());
        match self.policy {
            LostOutcomePolicy::Refuse if audited < floor => Err(IngestError::PromotionBelowFloor { audited, floor }),
            LostOutcomePolicy::Refuse | LostOutcomePolicy::DecideAgain => Ok(decided_again),
        }
    }

    /// Without a `role` what is added is only read.
    async fn begin(
        &self,
        role: Option<&WriterLease>,
        manifest: &Manifest,
        (plan, damages): (&PromotionPlan, Vec<IngestError>),
    ) -> Result<PromotedOperations<'_>, IngestError> {
        let task = self.task;
        let restored = task.engine.open(manifest).await?;
        let audited = settled_reach(task, self.archives, plan, (manifest, &*restored)).await?;
        let copier = match role.map(|role| task.uploader(role, self.companions)) {
            Some(uploader) => Some(StandingCopier::new(&task.engine, uploader, &task.options, manifest).await?),
            None => None,
        };
        Ok(PromotedOperations {
            run: self,
            restored,
            until: restored_to(manifest)?,
            copier,
            reach: PromotedReach { cursor: manifest.cursor, horizon: manifest.horizon, audited },
            outdated_from: None,
            damages,
        })
    }

    /// The outcomes below `end` that are lost and are decided again. Refused if they may not be, or cannot.
    fn lost_outcomes(
        &self,
        promoted: &PromotedOperations<'_>,
        end: LogCursor,
    ) -> Result<Option<DecideAgainReport>, IngestError> {
        let reach = promoted.reach.cursor;
        let Some(damage) = promoted.damages.first() else { return Ok(None) };
        let why = damage_facts(&promoted.damages);
        let lost = promoted.outdated_from.or((reach < end).then_some(reach));
        let lost = lost.map(|first| DecideAgainReport { first: first.second(), last: last_second(end), why });
        if let Some(DecideAgainReport { first, last, why }) = &lost {
            let remedy = match self.policy {
                LostOutcomePolicy::Refuse => Some(
                    "put back what is lost from a copy of the bucket, then promote the index, or let the log decide those seconds again: \
                     `tidemark promote --decide-again`",
                ),
                // The writer would publish the operations of that second once more.
                LostOutcomePolicy::DecideAgain if reach.second() <= promoted.until => Some(
                    "no writer can go on within a second: restore the index to a time, not to a token, then promote it",
                ),
                LostOutcomePolicy::DecideAgain => None,
            };
            if let Some(remedy) = remedy {
                let (why, cause) = (why.clone(), damage.to_cause());
                return Err(IngestError::OutcomesLost { first: *first, last: *last, why, cause, remedy });
            }
        }
        Ok(lost)
    }
}

/// Operations that are added to a restored index.
struct PromotedOperations<'a> {
    run: &'a PromotionRun<'a>,
    /// The index as it was restored.
    restored: Arc<dyn IndexLookup>,
    /// The second that it was restored to: of that it may have a part.
    until: StoreSecond,
    /// Left out where they are only read.
    copier: Option<StandingCopier>,
    reach: PromotedReach,
    /// From here on outcomes were taken that may have been corrected since.
    outdated_from: Option<LogCursor>,
    /// What was found damaged.
    damages: Vec<IngestError>,
}

impl PromotedOperations<'_> {
    /// Adds all that `plan` offers in one piece, and leaves out there what is found damaged.
    async fn add_all(&mut self, plan: &mut PromotionPlan) -> Result<(), IngestError> {
        while let Some(span) = plan.next_span(self.reach.cursor) {
            let checkpoint = self.copier.as_ref().map(StandingCopier::checkpoint);
            match Box::pin(self.add_span(plan, &span)).await {
                Ok(()) => self.extend_to(&span),
                Err(failure) if self.leave_out(plan, &span, &failure) => {
                    warn!(error = %failure, "what was recorded is damaged; taking from elsewhere what that lacks");
                    if let Some((copier, checkpoint)) = self.copier.as_mut().zip(checkpoint) {
                        copier.go_back(checkpoint).await?;
                    }
                    self.damages.push(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Adds the operations of the seconds of `span`.
    async fn add_span(&mut self, plan: &PromotionPlan, span: &PlannedSpan) -> Result<(), IngestError> {
        let PromotionRun { task, archives, .. } = self.run;
        let mut operations = SpanOperations::open(task, *archives, plan, (span.source, span.seconds.clone())).await?;
        while let Some(chunk) = operations.next_chunk().await? {
            self.add(chunk).await?;
        }
        if let Some(copier) = &mut self.copier {
            copier.flush().await?;
        }
        Ok(())
    }

    /// Adds those that the restored index does not have.
    async fn add(&mut self, mut operations: Vec<OperationRecord>) -> Result<(), EngineError> {
        let Some(copier) = &mut self.copier else { return Ok(()) };
        let tokens = operations.iter().map(|operation| operation.token);
        let tokens: Vec<_> = tokens.filter(|token| token.second() <= self.until).collect();
        if !tokens.is_empty() {
            let recorded = self.restored.recorded_outcomes(&tokens).await?;
            let known = tokens.into_iter().zip(recorded).filter(|(_, recorded)| !recorded.is_empty());
            let known: BTreeSet<_> = known.map(|(token, _)| token).collect();
            operations.retain(|operation| !known.contains(&operation.token));
        }
        copier.add(operations).await?;
        if copier.is_full() {
            copier.flush().await?;
        }
        Ok(())
    }

    /// Leaves out of `plan` what `failure` says is damaged, where that was read for `span`.
    fn leave_out(&self, plan: &mut PromotionPlan, span: &PlannedSpan, failure: &IngestError) -> bool {
        match (span.source, failure) {
            (
                SpanSource::Generation(_),
                IngestError::Engine(EngineError::Damaged { key, .. } | EngineError::Gone { key }),
            ) => {
                // The same object may be another manifest's as well.
                let mut is_left_out = false;
                for records in &mut plan.generations {
                    is_left_out |= records.leave_out(key);
                }
                is_left_out
            }
            // Of a generation the archive has what was settled since.
            (_, IngestError::Archive(SnapshotError::ArchiveDamaged { .. })) => {
                let is_own = self.run.archives.is_of_own(failure);
                let versions = &mut plan.archived;
                take(if is_own { &mut versions.own } else { &mut versions.other }).is_some()
            }
            _ => false,
        }
    }

    fn extend_to(&mut self, span: &PlannedSpan) {
        if span.is_outdated {
            // Below `audited` they are settled.
            let from = span.seconds.start.max(LogCursor(span.audited));
            self.outdated_from.get_or_insert(from);
        }
        self.reach = self.reach.extended_to(span);
    }

    /// What is to be published; `None` where it was only read.
    fn into_copied(self) -> Option<CopyRequest> {
        let PromotedReach { cursor, horizon, audited } = self.reach;
        self.copier.map(|mut copier| CopyRequest { cursor, horizon, audited, until: None, ..copier.take() })
    }
}

impl PromotedReach {
    /// With the seconds of `span`.
    fn extended_to(self, span: &PlannedSpan) -> Self {
        let audited = span.audited.min(span.seconds.end.second());
        // A gap in what the audit has looked at for the last time ends it.
        let audited = if self.audited == self.cursor.second() { audited.max(self.audited) } else { self.audited };
        Self { cursor: span.seconds.end, horizon: self.horizon.max(span.horizon), audited }
    }
}

/// Only failures after which nothing was written are retried.
async fn publish(role: &mut WriterLease, copied: CopyRequest, task: Option<&str>) -> Result<(), IngestError> {
    let mut backoff = RetryBackoff::new();
    for _ in 1..PUBLISH_ATTEMPTS {
        match role.promote(copied.clone(), task).await {
            Ok(_) => return Ok(()),
            Err(PublishError::Chain(error)) => {
                warn!(%error, "the promotion cannot be published; retrying");
                backoff.sleep().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    role.promote(copied, task).await?;
    Ok(())
}
