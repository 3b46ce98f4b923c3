//! `tidemark restore`: a generation of an index with every operation up to a time, each with the outcome that was recorded last.
//!
//! The records come from the open generation, or from a snapshot if that reaches further: the log is not read, and nothing is decided
//! again. The restored generation takes publications only once it is promoted.

use std::{fmt, time::Duration};

use tidemark_catalog::{
    CatalogError, CopyRequest, EndReason, FIRST_SEQ, GenerationSwitch, IndexChain, IndexPin, LogCursor, Manifest,
    TransactionRejected, WriterLease,
};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;
use tracing::info;

use crate::{
    engine::EngineError,
    error::IngestError,
    generation_copy::publish_copy,
    generation_task::{GenerationTask, SwitchReport, TaskCompanions, give_up_after, log_wait},
    mutants,
    record::OperationRecord,
    recorded_operations::RecordedOperations,
    standing_copy::{StandingCopier, StandingOperations},
};

/// What an index is restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Every operation of an entry whose token's second is not after this one.
    Time(StoreSecond),
    /// Every operation of this entry and of those with smaller tokens.
    Token(Token),
    /// The time of the snapshot of this name.
    Snapshot(String),
    /// As far as anything that was recorded reaches.
    Latest,
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(second) => write!(f, "{second}"),
            Self::Token(token) => write!(f, "token {token}"),
            Self::Snapshot(name) => write!(f, "snapshot \"{name}\""),
            Self::Latest => f.write_str("the latest time"),
        }
    }
}

/// Which operations are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RestoreBound {
    /// The last second of which there are operations.
    second: StoreSecond,
    /// The last entry, if it is not the last one of its second.
    token: Option<Token>,
}

impl RestoreBound {
    fn includes(&self, token: Token) -> bool {
        self.token.map_or(token.second() <= self.second, |last| token <= last)
    }

    /// Every token whose second lies below it is restored, if it is in the index.
    fn cursor(&self) -> LogCursor {
        LogCursor(if self.token.is_some() { self.second } else { self.second.next() })
    }
}

/// What the operations are taken from.
struct RestoreSource {
    /// The snapshot; none if it is the open generation.
    pin: Option<String>,
    /// `None`: as far as the source reaches.
    bound: Option<RestoreBound>,
}

/// Makes a generation of the operations up to `target`, and switches the index to it. Refused before anything is written if nothing holds
/// them.
///
/// Stores that fail are tried for about a minute. The future may be dropped at any time; that is no different from a crash.
pub async fn restore(task: &GenerationTask, target: &RestoreTarget) -> Result<SwitchReport, IngestError> {
    let companions = task.accompany();
    let switch = task.switch(&format!("restore to {target}")).await?;
    let (open, latest) = switch.open_generation().await?;
    if switch.has_made(&latest.state, task.name.is_some()).await? {
        switch.repair(open.generation()).await?;
        info!(generation = %open.generation(), "this task has restored the index before");
        return task.report(&switch).await;
    }
    let source = find_source(&switch, &latest.state, target).await?;
    info!(generation = %open.generation(), %target, snapshot = ?source.pin, "restoring the index");
    let mut role = None;
    loop {
        let made = switch.begin(&open, log_wait).await?;
        let generation = made.manifest().state.generation.clone();
        let restored = build_and_switch(task, &switch, (&open, &source), made, (&mut role, &companions)).await;
        match restored {
            Ok(true) => break,
            Ok(false) => info!("outcomes were corrected meanwhile; restoring once more, while the writer waits"),
            Err(failure) => {
                give_up_after(&failure, &switch, &generation, open.generation()).await;
                return Err(failure);
            }
        }
    }
    info!("the index has switched to the restored generation, which takes no publications before `tidemark promote`");
    task.report(&switch).await
}

/// Fills the generation of `made` and switches to it, with the role of the open generation, which is taken unless it is held already.
///
/// `false`: operations up to the target were corrected meanwhile, and what was made is given up. While the role is held that does not happen again.
async fn build_and_switch(
    task: &GenerationTask,
    switch: &GenerationSwitch,
    (open, source): (&IndexChain, &RestoreSource),
    made: WriterLease,
    (role, companions): (&mut Option<WriterLease>, &TaskCompanions),
) -> Result<bool, IngestError> {
    let generation = made.manifest().state.generation.clone();
    let pin = source.pin.as_deref();
    let held = switch.hold_source(&generation, |name, owner| hold(switch, open, pin, name, owner)).await?;
    let bound = source.bound.unwrap_or(RestoreBound { second: last_second(&held), token: None });
    let made = build(task, &held, bound, made, companions).await?;
    let held_role = match role.take() {
        Some(role) => role,
        None => switch.seize(open, log_wait).await?,
    };
    if is_corrected(task, &held, &held_role.manifest().state, bound).await? {
        switch.discard(made, &held_role).await?;
        *role = Some(held_role);
        return Ok(false);
    }
    switch.close(held_role, made, EndReason::Restore { to: bound.second }).await?;
    Ok(true)
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
    let mut since = RecordedOperations::new(&task.engine, now, held.next_seq);
    loop {
        let chunk = since.next_chunk().await?;
        if chunk.is_empty() || chunk.iter().any(|record| bound.includes(record.token)) {
            return Ok(!chunk.is_empty());
        }
    }
}

/// Copies the operations of `held` up to the target to the generation of `made`.
async fn build(
    task: &GenerationTask,
    held: &Manifest,
    bound: RestoreBound,
    mut made: WriterLease,
    companions: &TaskCompanions,
) -> Result<WriterLease, IngestError> {
    let progress = task.progress_of(held);
    let uploader = task.uploader(&made, companions);
    let mut copier = StandingCopier::new(&task.engine, uploader, &task.options, &made.manifest().state).await?;
    let mut operations = StandingOperations::open(&task.engine, held).await?;
    // What a process before this one has restored: they come in the same order.
    let mut restored = made.manifest().state.next_seq - FIRST_SEQ;
    let mut read = 0;
    while let Some(mut chunk) = operations.next_chunk().await? {
        read += chunk.len() as u64;
        chunk.retain(|operation| bound.includes(operation.token));
        let known = usize::try_from(restored).map_or(chunk.len(), |restored| restored.min(chunk.len()));
        restored -= known as u64;
        copier.add(chunk.split_off(known).into_iter().map(as_recorded).collect()).await?;
        if copier.is_full() {
            copier.flush().await?;
            publish_copy(&mut made, copier.take()).await?;
            progress(read);
        }
    }
    copier.flush().await?;
    let last = CopyRequest {
        cursor: bound.cursor(),
        horizon: held.horizon,
        audited: held.audited.min(bound.cursor().second()),
        until: Some(bound.second),
        ..copier.take()
    };
    publish_copy(&mut made, last).await?;
    Ok(made)
}

fn as_recorded(mut operation: OperationRecord) -> OperationRecord {
    operation.decision.outcome = mutants::restored_outcome(operation.decision.outcome);
    operation
}

/// Holds the source back from deletion under another name.
async fn hold(
    switch: &GenerationSwitch,
    open: &IndexChain,
    pin: Option<&str>,
    name: String,
    owner: String,
) -> Result<IndexPin, CatalogError> {
    let Some(source) = pin else { return switch.pins().pin(open, &name, &owner).await };
    let copied = switch.pins().pin_again(source, &name, &owner).await?.pins.remove(&name);
    copied.ok_or_else(|| TransactionRejected::Empty.into())
}

/// Where the operations up to `target` are: in the open generation, whose latest manifest is `open`, or in the snapshot that reaches furthest.
async fn find_source(
    switch: &GenerationSwitch,
    open: &Manifest,
    target: &RestoreTarget,
) -> Result<RestoreSource, IngestError> {
    let mut pins = switch.pins().register().await?.pins;
    pins.retain(|_, pin| pin.confirmed);
    let bound = match target {
        RestoreTarget::Time(second) => Some(RestoreBound { second: *second, token: None }),
        RestoreTarget::Token(token) => Some(RestoreBound { second: token.second(), token: Some(*token) }),
        RestoreTarget::Snapshot(name) => {
            let pin = pins.get(name).ok_or_else(|| IngestError::SnapshotMissing { name: name.clone() })?;
            Some(RestoreBound { second: last_second(&switch.pins().read_list(pin).await?), token: None })
        }
        RestoreTarget::Latest => None,
    };
    let mut furthest = (None, reach(open));
    // The open generation has the newest outcomes: another source is asked only for what that does not have.
    if bound.is_none_or(|bound| bound.second > furthest.1.1) {
        for (name, pin) in &pins {
            let reach = reach(&switch.pins().read_list(pin).await?);
            if reach.1 > furthest.1.1 {
                furthest = (Some(name.clone()), reach);
            }
        }
    }
    let (pin, (first, last)) = furthest;
    match (bound, first) {
        (Some(bound), Some(first)) if (first..=last).contains(&bound.second) => {
            Ok(RestoreSource { pin, bound: Some(bound) })
        }
        (None, Some(_)) => Ok(RestoreSource { pin, bound: None }),
        (_, first) => {
            let target = target.to_string();
            Err(IngestError::OutsideRecoveryWindow { target, first: first.unwrap_or(last), last })
        }
    }
}

/// The first second of which a manifest has entries, and the last one that it has in whole.
fn reach(manifest: &Manifest) -> (Option<StoreSecond>, StoreSecond) {
    let first = manifest.segments.iter().map(|segment| segment.first.second()).min();
    (first, last_second(manifest))
}

/// The last second that a manifest has in whole.
fn last_second(manifest: &Manifest) -> StoreSecond {
    manifest.cursor.second().before(Duration::from_secs(1))
}
