//! `tidemark restore`: a generation of an index with every operation up to a time, each with the outcome that was recorded last.
//!
//! The records come from the open generation; from a pinned manifest if that reaches further; or from the archive, if neither does or what
//! they name is damaged. Or all of them come from another place: from snapshots there, or its archive; what the index's own archive has is
//! final all the same. The log is not read, and nothing is decided again. The restored generation takes publications only once it is
//! promoted.

use tidemark_catalog::{
    CatalogError, CopyRequest, EndReason, FIRST_SEQ, GenerationSwitch, IndexChain, IndexOwner, IndexPin,
    IndexRegistration, LogCursor, Manifest, SegmentMeta, SetDigest, TransactionRejected, WriterLease,
};
use tracing::{info, warn};

use crate::{
    archived_operations::ArchivedOperations,
    cause::ToCause as _,
    damage_facts::{damage_fact, damage_facts},
    engine::EngineError,
    error::IngestError,
    generation_copy::publish_copy,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, UnauditedReport, give_up_after, log_wait},
    mutants,
    record::OperationRecord,
    recorded_archives::{ArchivedVersions, RecordedArchives},
    recorded_operations::RecordedOperations,
    restore_origin::RestoreOrigin,
    restore_source::{RestoreBound, RestorePlace, RestoreSources, RestoreTarget, last_second},
    settled_operations::{SettledOperations, SettledSource, audited_with},
    snapshot::LogArchive,
    standing_copy::StandingCopier,
};

/// What is restored, and for whom.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// To what.
    pub target: RestoreTarget,
    /// The owner for whom the index is registered if it is on no register.
    pub owner: IndexOwner,
    /// Whether it is refused where it does not reach to the log's floor: no writer could go on from there.
    pub reaches_floor: bool,
}

/// Makes a generation of the operations up to the target, and switches the index to it. Refused before anything is written if nothing holds
/// them. An index that nobody has begun, or that was purged, is begun with what the `archive` of its log holds.
///
/// Stores that fail are tried for about a minute. The future may be dropped at any time; that is no different from a crash.
pub async fn restore(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    request: &RestoreRequest,
) -> Result<SwitchReport, IngestError> {
    // Callers hold it: it takes many kilobytes.
    Box::pin(restore_with(task, (archive, None), request, RestoreScope::Any)).await
}

/// As [`restore`], with the operations of another place, which is only read: of verified snapshots there, or of its archive. What the index's
/// own `archive` has is taken from there. Refused too if there is nothing of the log in the place, and if the index is another owner's.
///
/// # Errors
///
/// [`IngestError::OriginLost`] if what it was restored from was removed or is damaged, and nothing else there reaches to the target.
pub async fn restore_from(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    origin: &RestoreOrigin,
    request: &RestoreRequest,
) -> Result<SwitchReport, IngestError> {
    Box::pin(restore_with(task, (archive, Some(origin)), request, RestoreScope::Any)).await
}

/// As [`restore`], or as [`restore_from`] of an `origin`, of an index that holds nothing: one that was begun meanwhile is left as it is.
pub(crate) async fn restore_empty(
    task: &GenerationTask,
    archive: &dyn LogArchive,
    origin: Option<&RestoreOrigin>,
    request: &RestoreRequest,
) -> Result<SwitchReport, IngestError> {
    Box::pin(restore_with(task, (archive, origin), request, RestoreScope::Empty)).await
}

/// Which indexes a restore is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestoreScope {
    Any,
    /// Those that hold nothing.
    Empty,
}

impl RestoreScope {
    /// Whether one of which `open` is the latest manifest is left as it is.
    fn leaves(self, open: &Manifest) -> bool {
        self == Self::Empty && !holds_nothing(open)
    }
}

/// Whether nothing was written to the index of the manifest `latest` yet: one that was indexed for a moment has come on in the log, also
/// where that is empty.
pub(crate) fn holds_nothing(latest: &Manifest) -> bool {
    latest.next_seq == FIRST_SEQ && latest.cursor == LogCursor::default() && latest.until.is_none()
}

/// What a restore to `target` is called, by which its processes know each other's work.
pub(crate) fn restore_name(target: &RestoreTarget, origin: Option<&RestoreOrigin>) -> String {
    match origin {
        None => format!("restore to {target}"),
        Some(origin) => format!("restore to {target} from {}", origin.url()),
    }
}

async fn restore_with(
    task: &GenerationTask,
    (archive, origin): (&dyn LogArchive, Option<&RestoreOrigin>),
    request: &RestoreRequest,
    scope: RestoreScope,
) -> Result<SwitchReport, IngestError> {
    let RestoreRequest { target, owner, reaches_floor } = request;
    let switch = task.switch(&restore_name(target, origin)).await?;
    let (open, latest) = switch.open_chain().await?;
    let latest = latest.map(|latest| latest.state);
    // One that was lost and begun again holds nothing, and an old pin may still say that this task made one of its name.
    if let Some(latest) = latest.as_ref().filter(|latest| latest.until.is_some() || latest.next_seq > FIRST_SEQ)
        && switch.has_made(latest, task.name.is_some()).await?
    {
        switch.repair(open.generation()).await?;
        info!(generation = %open.generation(), "this task has restored the index before");
        return task.report(&switch).await;
    }
    if latest.as_ref().is_some_and(|latest| scope.leaves(latest)) {
        info!(generation = %open.generation(), "the index was begun meanwhile; it is left as it is");
        return task.report(&switch).await;
    }
    let sources = match origin {
        None => RestoreSources::find((switch.index_url(), switch.pins()), archive, latest.as_ref(), target).await?,
        Some(origin) => sources_in(task, (archive, origin), target).await?,
    };
    if !reaches_floor {
        warn_of_unaudited(task, &sources).await?;
    }
    // Only now: it writes a heartbeat, and what is refused changes nothing.
    let companions = task.accompany();
    register(task, &open, owner, sources.end(), origin.is_some()).await?;
    if latest.is_none() {
        switch.begin_index(&open, log_wait).await?;
    }
    info!(generation = %open.generation(), %target, from = origin.map(RestoreOrigin::url), "restoring the index");
    let (switch, open) = (&switch, &open);
    let archives = RecordedArchives { own: archive, other: origin.map(|origin| &*origin.place.archive) };
    let mut run = RestoreRun {
        task,
        archives,
        origin,
        reaches_floor: *reaches_floor,
        scope,
        switch,
        open,
        companions: &companions,
        role: None,
        damages: Vec::new(),
    };
    let found: Vec<_> = sources.found_damages().map(damage_fact).collect();
    let is_switched = Box::pin(run.until_switched(sources)).await;
    if !matches!(is_switched, Ok(true)) {
        run.release().await;
    }
    if is_switched? {
        info!(
            "the index has switched to the restored generation, which takes no publications before `tidemark promote`"
        );
    } else {
        info!(generation = %open.generation(), "the index was begun meanwhile; what was restored is given up");
    }
    let damaged = run.damaged(found);
    Ok(SwitchReport { damaged, ..task.report(switch).await? })
}

/// Says before anything is written that what is to be restored can only be looked at: a promotion is refused.
async fn warn_of_unaudited(task: &GenerationTask, sources: &RestoreSources) -> Result<(), IngestError> {
    let root = task.root.state().await?;
    let (cursor, audited) = sources.preferring_above_floor(&root).reach()?;
    if let Some(UnauditedReport { audited, floor }) = UnauditedReport::of(&root, cursor, audited) {
        warn!(%audited, %floor, "what is restored was not audited up to the log's floor: it can be searched, and is promoted only with \
            `tidemark promote --decide-again`; restore to another target to promote it without");
    }
    Ok(())
}

/// What there is of the log in `origin`, for an index whose own archive is `own`. Refused if it is of another log, or of a copy of this one.
pub(crate) async fn sources_in(
    task: &GenerationTask,
    (own, origin): (&dyn LogArchive, &RestoreOrigin),
    target: &RestoreTarget,
) -> Result<RestoreSources, IngestError> {
    let log = task.root.id().await?.ok_or(CatalogError::from(TransactionRejected::NoParameters))?;
    origin.require_log(&log).await?;
    let sources = RestoreSources::find_in((own, origin), target).await?;
    if let RestorePlace::Pin(name) = &sources.choose()?.place {
        match origin.read(name, &task.root).await {
            // It is left out later.
            Err(error) if error.is_damage() => {}
            read => drop(read?),
        }
    }
    Ok(sources)
}

/// Registers the index of `open` for `owner`, if it is on no register; what is recorded of the log reaches up to `end`. Where it
/// `is_compared`, one that is another owner's is refused.
async fn register(
    task: &GenerationTask,
    open: &IndexChain,
    owner: &IndexOwner,
    end: LogCursor,
    is_compared: bool,
) -> Result<(), CatalogError> {
    let url = task.index.url().to_string();
    let head = task.root.head().await?;
    let state = head.as_ref().map(|head| head.state.clone()).unwrap_or_default();
    if !is_compared && state.indexes.contains_key(&url) {
        return Ok(());
    }
    let parameters = state.schedule().ok_or(TransactionRejected::NoParameters)?.newest().parameters;
    let registration = IndexRegistration::new(url.clone(), owner.clone(), open.generation().clone());
    task.root.register(head, &parameters, &url, &registration, end, None).await.map(drop)
}

/// How an attempt ended.
enum AttemptEnd {
    /// The index has switched to what was made.
    Switched,
    /// Operations up to the target were corrected meanwhile, and what was made is given up. The role of the open generation is held
    /// now, so that it does not happen again.
    Corrected,
    /// The index was begun meanwhile, and what was made is given up.
    Begun,
    /// A process before this one began it with something else, and what was made is given up.
    OtherSource,
    /// What it was made from is damaged, and what was made is given up. Where it is a manifest's segment, that one.
    Damaged(IngestError, Option<Box<SegmentMeta>>),
    /// What was made is not audited up to the log's floor as it is by now, and is given up.
    BelowFloor,
    /// The archive has settled more of what was made meanwhile, and that is given up.
    Settled,
}

/// What the operations are read from.
enum OperationSource {
    Manifest(Box<Manifest>),
    Archive(ArchivedVersions),
}

impl OperationSource {
    /// The segment of it of which `failure` says that it is damaged.
    fn segment_of(&self, failure: &IngestError) -> Option<SegmentMeta> {
        let (Self::Manifest(held), IngestError::Engine(EngineError::Damaged { key, .. } | EngineError::Gone { key })) =
            (self, failure)
        else {
            return None;
        };
        held.segments.iter().find(|segment| segment.key == *key).cloned()
    }
}

/// The operations of a source.
enum OperationReader {
    Settled(Box<SettledOperations>),
    Archived(Box<ArchivedOperations>),
}

impl OperationReader {
    async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        match self {
            Self::Settled(operations) => operations.next_chunk().await,
            Self::Archived(operations) => operations.next_chunk().await,
        }
    }
}

/// What a process before this one has restored of the same operations: they come in the same order.
struct RestoredPrefix {
    /// How many of them are to be passed over.
    left: u64,
    /// The set digest of those that were.
    passed: SetDigest,
    /// What it has to be in the end, where nothing else says what it was made from.
    wanted: Option<SetDigest>,
}

impl RestoredPrefix {
    /// Takes the operations that are restored already off the front of `chunk`.
    fn pass_over(&mut self, chunk: &mut Vec<OperationRecord>) {
        let known = usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
        self.left -= known as u64;
        for operation in chunk.drain(..known) {
            self.passed.insert(&operation.set_element());
        }
    }

    /// Whether another source was begun with.
    fn differs(&self) -> bool {
        self.left == 0 && self.wanted.is_some_and(|wanted| wanted != self.passed)
    }
}

/// One process that restores.
struct RestoreRun<'a> {
    task: &'a GenerationTask,
    /// That of the index, and that of the origin.
    archives: RecordedArchives<'a>,
    /// Where the operations come from, if it is not the index.
    origin: Option<&'a RestoreOrigin>,
    reaches_floor: bool,
    scope: RestoreScope,
    switch: &'a GenerationSwitch,
    open: &'a IndexChain,
    companions: &'a TaskCompanions,
    /// The role of the open generation, once it is held.
    role: Option<WriterLease>,
    /// What was found damaged.
    damages: Vec<IngestError>,
}

impl RestoreRun<'_> {
    /// Gives whether the index has switched; it was begun meanwhile if not.
    async fn until_switched(&mut self, mut sources: RestoreSources) -> Result<bool, IngestError> {
        sources = self.above_floor(sources).await?;
        let mut is_archive_damaged = sources.archive_damage().is_some();
        loop {
            let place = sources.choose()?.place.clone();
            match Box::pin(self.attempt(&place, &sources)).await? {
                AttemptEnd::Switched => return Ok(true),
                AttemptEnd::Begun => return Ok(false),
                AttemptEnd::Corrected => {
                    info!("outcomes were corrected meanwhile; restoring once more, while the writer waits");
                }
                AttemptEnd::OtherSource => {
                    info!("what was begun is of another snapshot or archive; restoring from the beginning");
                }
                AttemptEnd::Damaged(failure, segment) => {
                    is_archive_damaged |= matches!(failure, IngestError::Archive(_));
                    // What an earlier process had begun with it is given up; the next attempt begins with `place`, which may be sound.
                    let is_gone_around =
                        matches!(failure, IngestError::Archive(_)) && sources.archived() == ArchivedVersions::default();
                    let is_own = self.archives.is_of_own(&failure) && sources.leave_out_own();
                    let damaged = sources.damaged_by(&failure, &place);
                    if !is_gone_around && !is_own && !sources.leave_out(&damaged, segment.as_deref()) {
                        let failure = if is_archive_damaged { self.all_damaged(&sources, failure) } else { failure };
                        return Err(self.lost(failure));
                    }
                    warn!(error = %failure, place = ?damaged, "what the index was restored from is damaged; restoring from what else is recorded");
                    self.damages.push(failure);
                }
                AttemptEnd::BelowFloor => {
                    info!("what was restored is not audited up to the log's floor; restoring from what is");
                    sources = self.above_floor(sources).await?;
                }
                AttemptEnd::Settled => {
                    info!("outcomes were archived meanwhile; restoring once more, while the writer waits");
                    sources.renew_archives(self.archives).await?;
                }
            }
        }
    }

    /// Leaves out what was not audited up to the log's floor, from where no writer could go on; where that is not asked for, it comes last.
    async fn above_floor(&self, sources: RestoreSources) -> Result<RestoreSources, IngestError> {
        let root = self.task.root.state().await?;
        if !self.reaches_floor {
            return Ok(sources.preferring_above_floor(&root));
        }
        sources.above_floor(&root).map_err(|below| self.lost(below.into()))
    }

    /// Whether `made` is refused since it was not audited up to the log's floor. The floor may have risen since the sources were found,
    /// and a generation that was begun before goes on with the source that it was begun with.
    async fn is_below_floor(&self, made: &Manifest) -> Result<bool, IngestError> {
        Ok(self.reaches_floor && self.task.root.state().await?.check_floor(LogCursor(made.audited)).is_err())
    }

    /// Nothing is left to restore from: the archive, which could stand for other objects, is damaged too.
    fn all_damaged(&self, sources: &RestoreSources, failure: IngestError) -> IngestError {
        let known = self.damages.iter().chain(sources.archive_damage()).chain([&failure]);
        let (archives, others): (Vec<_>, Vec<_>) = known.partition(|damage| matches!(damage, IngestError::Archive(_)));
        let Some(archive) = archives.first().filter(|_| !others.is_empty()) else { return failure };
        let cause = archive.to_cause();
        IngestError::SourcesDamaged { why: damage_facts(archives.into_iter().chain(others)), cause }
    }

    /// What was found damaged, each object once, with what was `found` before.
    fn damaged(&self, found: Vec<String>) -> Vec<String> {
        let mut facts: Vec<_> = self.damages.iter().map(damage_fact).chain(found).collect();
        facts.sort();
        facts.dedup();
        facts
    }

    /// Nothing is left to restore from.
    fn lost(&self, failure: IngestError) -> IngestError {
        match self.origin {
            None => failure,
            Some(origin) => IngestError::OriginLost { url: origin.url().to_owned(), source: Box::new(failure) },
        }
    }

    /// Makes a generation, or goes on with the one that this task began, and switches to it.
    async fn attempt(&mut self, place: &RestorePlace, sources: &RestoreSources) -> Result<AttemptEnd, IngestError> {
        let mut made = Box::pin(self.switch.begin(self.open, log_wait)).await?;
        let generation = made.manifest().state.generation.clone();
        let found = self.source_of(&mut made, place, sources).await;
        let filled = match &found {
            Ok(source) => self.fill(&mut made, (place, source), sources).await.map_err(|failure| {
                let segment = source.segment_of(&failure);
                (failure, segment)
            }),
            Err(_) => Ok(None),
        };
        let ended = match (found, filled) {
            (Ok(source), Ok(Some(bound))) => Box::pin(self.end_filled(made, (place, &source, bound), sources)).await,
            (Ok(_), Ok(None)) => self.discard(made).await.map(|()| AttemptEnd::OtherSource),
            (Ok(_), Err((failure, segment))) => Box::pin(self.give_up_damaged(made, failure, segment)).await,
            (Err(failure), _) => Box::pin(self.give_up_damaged(made, failure, None)).await,
        };
        if let Err(failure) = &ended {
            give_up_after(failure, self.switch, &generation, self.open.generation()).await;
        }
        ended
    }

    /// Switches to `made`, which has all of `source` up to `bound`, unless more was recorded meanwhile.
    async fn end_filled(
        &mut self,
        made: WriterLease,
        (place, source, bound): (&RestorePlace, &OperationSource, RestoreBound),
        sources: &RestoreSources,
    ) -> Result<AttemptEnd, IngestError> {
        match self.is_current(place, source, bound).await {
            Ok(true) => Box::pin(self.switch_to(made, (place, source, bound), sources)).await,
            Ok(false) => self.discard(made).await.map(|()| AttemptEnd::Corrected),
            Err(failure) => Box::pin(self.give_up_damaged(made, failure, None)).await,
        }
    }

    /// Gives up what was made where `failure` says that its source is damaged.
    async fn give_up_damaged(
        &mut self,
        made: WriterLease,
        failure: IngestError,
        segment: Option<SegmentMeta>,
    ) -> Result<AttemptEnd, IngestError> {
        if !failure.is_damage() {
            return Err(failure);
        }
        self.discard(made).await.map(|()| AttemptEnd::Damaged(failure, segment.map(Box::new)))
    }

    /// What the generation of `made` is made from. One that has records goes on with what these came from.
    async fn source_of(
        &self,
        made: &mut WriterLease,
        place: &RestorePlace,
        sources: &RestoreSources,
    ) -> Result<OperationSource, IngestError> {
        let archived = |version| OperationSource::Archive(sources.archived_beside(Some(version)));
        if let Some(origin) = self.origin {
            // Nothing can be held back there: the operations themselves say whether it was begun with the same.
            return Ok(match place {
                RestorePlace::Archive(version) => archived(version.clone()),
                RestorePlace::Pin(name) => {
                    OperationSource::Manifest(Box::new(origin.read(name, &self.task.root).await?))
                }
                RestorePlace::Open => return Err(CatalogError::from(TransactionRejected::Empty).into()),
            });
        }
        let generation = made.manifest().state.generation.clone();
        if let Some(held) = self.switch.held_source(&generation).await? {
            return Ok(OperationSource::Manifest(Box::new(held)));
        }
        // While this process was suspended, another one may have given the generation up, and dropped its pin after that.
        let made = &made.verify().await?.state;
        // A pin comes before the first record.
        let began_with_archive = made.next_seq > FIRST_SEQ;
        let pin = match place {
            RestorePlace::Archive(version) => return Ok(archived(version.clone())),
            _ if began_with_archive => {
                let version = self.archives.own.latest().await?;
                return Ok(archived(version.ok_or(CatalogError::from(TransactionRejected::Empty))?));
            }
            RestorePlace::Open => None,
            RestorePlace::Pin(name) => Some(name),
        };
        let hold = async |name: String, owner: String| hold(self.switch, self.open, pin, &name, &owner).await;
        Ok(OperationSource::Manifest(Box::new(self.switch.hold_source(&generation, hold).await?)))
    }

    /// Copies the operations up to the target to the generation of `made`. `None` if that was begun with others.
    async fn fill(
        &self,
        made: &mut WriterLease,
        (place, source): (&RestorePlace, &OperationSource),
        sources: &RestoreSources,
    ) -> Result<Option<RestoreBound>, IngestError> {
        let (bound, horizon, audited) = match source {
            OperationSource::Manifest(held) => {
                let audited = audited_with(held, &sources.archived());
                (sources.bound(last_second(held.cursor)), held.horizon, audited)
            }
            // What is archived is settled.
            OperationSource::Archive(versions) => {
                let end = self.source_end(versions);
                (sources.bound(last_second(end)), end.second(), versions.end().second())
            }
        };
        let Some(mut copied) = self.copy_operations(made, (place, source), (bound, sources)).await? else {
            return Ok(None);
        };
        copied.cursor = bound.cursor();
        copied.horizon = horizon;
        // A process before this one may have come so far that it took over how far the open generation is audited.
        copied.audited = audited.min(bound.cursor().second()).max(made.manifest().state.audited);
        copied.until = Some(bound.second);
        publish_copy(made, copied).await?;
        Ok(Some(bound))
    }

    /// Up to where the archive among `versions` reaches that is the source.
    fn source_end(&self, versions: &ArchivedVersions) -> LogCursor {
        let source = if self.origin.is_some() { &versions.other } else { &versions.own };
        source.as_ref().map(|version| version.end).unwrap_or_default()
    }

    /// Publishes all operations but the last ones, and gives these. `None` if the generation has others already. What archives have settled
    /// since a manifest, or what its lost segments held, is taken from there.
    async fn copy_operations(
        &self,
        made: &mut WriterLease,
        (place, source): (&RestorePlace, &OperationSource),
        (bound, sources): (RestoreBound, &RestoreSources),
    ) -> Result<Option<CopyRequest>, IngestError> {
        let log = &self.task.log;
        let (mut operations, total) = match source {
            OperationSource::Manifest(held) => {
                let engine = match self.origin {
                    Some(origin) => origin.engine()?,
                    None => &self.task.engine,
                };
                let (archives, versions, from) =
                    (self.archives, sources.archived(), sources.archived_from(place, held));
                let lost = sources.lost_of(place);
                // Nothing would say that the operations are lacking.
                if let Some(segment) = lost.iter().find(|segment| !versions.end().covers(segment.last)) {
                    return Err(EngineError::Gone { key: segment.key.clone() }.into());
                }
                let settled = SettledSource { archives, versions: &versions, from, lost, log };
                let left = without(held, lost);
                let operations = SettledOperations::open(engine, &left, &bound.seconds(), settled).await?;
                (OperationReader::Settled(Box::new(operations)), held.next_seq - FIRST_SEQ)
            }
            OperationSource::Archive(versions) => {
                let end = self.source_end(versions);
                let seconds = LogCursor::default()..LogCursor(bound.second.next()).min(end);
                // What a process before this one has restored. Entries may come to the log between them.
                let segments = made.manifest().state.segments.iter().map(|segment| segment.last);
                let after = segments.max().filter(|_| self.origin.is_none());
                let archived = ArchivedOperations::new((self.archives, versions), log, seconds, after);
                let versions = versions.own.iter().chain(&versions.other);
                let total = versions.map(|version| version.operations).max().unwrap_or_default();
                (OperationReader::Archived(Box::new(archived)), total)
            }
        };
        let progress = self.task.progress_of(total);
        let uploader = self.task.uploader(made, self.companions);
        let (task, manifest) = (self.task, &made.manifest().state);
        let mut copier = StandingCopier::new(&task.engine, uploader, &task.options, manifest).await?;
        let mut prefix = self.prefix(manifest, source);
        let mut read = 0;
        while let Some(mut chunk) = operations.next_chunk().await? {
            read += chunk.len() as u64;
            chunk.retain(|operation| bound.includes(operation.token));
            prefix.pass_over(&mut chunk);
            if prefix.differs() {
                return Ok(None);
            }
            copier.add(chunk.into_iter().map(as_recorded).collect()).await?;
            if copier.is_full() {
                copier.flush().await?;
                publish_copy(made, copier.take()).await?;
                progress(read);
            }
        }
        if prefix.left > 0 && prefix.wanted.is_some() {
            return Ok(None);
        }
        copier.flush().await?;
        Ok(Some(copier.take()))
    }

    /// What `made` has of the operations of `source`. Nothing says which version of an archive those were made from: the operations themselves
    /// do, but for the index's own archive alone, which goes on after the last of them.
    fn prefix(&self, made: &Manifest, source: &OperationSource) -> RestoredPrefix {
        let passed = SetDigest::default();
        match source {
            OperationSource::Archive(_) if self.origin.is_none() => RestoredPrefix { left: 0, passed, wanted: None },
            _ => RestoredPrefix { left: made.next_seq - FIRST_SEQ, passed, wanted: Some(made.totals.digest) },
        }
    }

    /// Whether what was copied from `source` is still all that is recorded up to the target. With the role of the open generation: it stays
    /// so while that is held.
    async fn is_current(
        &mut self,
        place: &RestorePlace,
        source: &OperationSource,
        bound: RestoreBound,
    ) -> Result<bool, IngestError> {
        let role = self.take_role().await?;
        let corrected = match (place, source) {
            (RestorePlace::Open, OperationSource::Manifest(held)) => {
                is_corrected(self.task, held, &role.manifest().state, bound).await
            }
            // Something else is taken only where the open generation is damaged or ends before, and it is restored as it is: once more
            // would give the same. What the audit still looked at is found again after the promotion.
            _ => Ok(false),
        };
        self.role = Some(role);
        Ok(!corrected?)
    }

    async fn switch_to(
        &mut self,
        mut made: WriterLease,
        (place, source, bound): (&RestorePlace, &OperationSource, RestoreBound),
        sources: &RestoreSources,
    ) -> Result<AttemptEnd, IngestError> {
        let role = self.take_role().await?;
        let open = role.manifest().state.clone();
        self.role = Some(role);
        if self.scope.leaves(&open) {
            return self.discard(made).await.map(|()| AttemptEnd::Begun);
        }
        if *place == RestorePlace::Open {
            take_over_audit(&mut made, source, &open).await?;
        }
        if self.is_below_floor(&made.manifest().state).await? {
            return self.discard(made).await.map(|()| AttemptEnd::BelowFloor);
        }
        // With the role, while no writer settles more.
        if sources.is_settled_since(self.archives, &made.manifest().state).await? {
            return self.discard(made).await.map(|()| AttemptEnd::Settled);
        }
        let role = self.take_role().await?;
        Box::pin(self.switch.close(role, made, EndReason::Restore { to: bound.second })).await?;
        Ok(AttemptEnd::Switched)
    }

    /// Gives up what was made.
    async fn discard(&mut self, made: WriterLease) -> Result<(), IngestError> {
        let role = self.take_role().await?;
        let discarded = self.switch.discard(made, &role).await;
        self.role = Some(role);
        Ok(discarded?)
    }

    async fn take_role(&mut self) -> Result<WriterLease, IngestError> {
        match self.role.take() {
            Some(role) => Ok(role),
            None => Ok(self.switch.seize(self.open, log_wait).await?),
        }
    }

    /// The writer need not wait until this process is silent.
    async fn release(&mut self) {
        let Some(role) = self.role.take() else { return };
        if let Err(error) = role.release().await {
            warn!(%error, "the writer was not told to go on; it takes the lease by itself");
        }
    }
}

/// Whether `now` has records up to the target that `held`, an earlier manifest of the same generation, does not have.
async fn is_corrected(
    task: &GenerationTask,
    held: &Manifest,
    now: &Manifest,
    bound: RestoreBound,
) -> Result<bool, EngineError> {
    if held.generation != now.generation {
        return Ok(false);
    }
    let mut since = RecordedOperations::new(&task.engine, now, held.next_seq).of_seconds(&bound.seconds());
    loop {
        let chunk = since.next_chunk().await?;
        if chunk.is_empty() || chunk.iter().any(|record| bound.includes(record.token)) {
            return Ok(!chunk.is_empty());
        }
    }
}

/// What was made from an earlier manifest of the generation of `open`, which has corrected nothing of it since, is audited as far as that
/// is by now: what an archive took for settled meanwhile is not looked at again.
async fn take_over_audit(made: &mut WriterLease, source: &OperationSource, open: &Manifest) -> Result<(), IngestError> {
    let state = &made.manifest().state;
    let audited = open.audited.min(state.cursor.second());
    match source {
        OperationSource::Manifest(held) if held.generation == open.generation && state.audited < audited => {
            let copied = CopyRequest { audited, ..CopyRequest::after(state) };
            publish_copy(made, copied).await
        }
        OperationSource::Manifest(_) | OperationSource::Archive(_) => Ok(()),
    }
}

/// `held` without the segments that are `lost`.
fn without(held: &Manifest, lost: &[SegmentMeta]) -> Manifest {
    let mut left = held.clone();
    left.segments.retain(|segment| lost.iter().all(|lost| lost.key != segment.key));
    left
}

fn as_recorded(mut operation: OperationRecord) -> OperationRecord {
    operation.decision.outcome = mutants::restored_outcome(operation.decision.outcome);
    operation
}

/// Holds the source back from deletion under another name: what the pin `source` holds, or the open generation.
async fn hold(
    switch: &GenerationSwitch,
    open: &IndexChain,
    source: Option<&String>,
    name: &str,
    owner: &str,
) -> Result<IndexPin, CatalogError> {
    let Some(source) = source else { return switch.pins().pin(open, name, owner).await };
    let copied = switch.pins().pin_again(source, name, owner).await?.pins.remove(name);
    copied.ok_or_else(|| TransactionRejected::Empty.into())
}
