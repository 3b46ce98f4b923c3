//! Clients that hold one lock in turn: each reads what was committed before, and appends under it. And who trims the lock's chain.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use parking_lot::Mutex;
use serde_json::json;
use tidemark_store::{AppendOnlyChain, ChainError, StoreClock, StoreError, StoreSecond};
use tidemark_wal::{
    AppendError, DraftOperation, EntryDraft, GrantRequest, LockError, LockName, LockRef, LockState, Log, LogReader,
    LogWriter, LogWriterOptions, Outcome, ParameterSchedule, ResolvedEntry, Token, WriteLocks,
};
use tokio::time::Duration;

use super::writers::bundle_yaml;
use crate::{
    checker::AppendAcknowledgement,
    fault_injecting_store::FaultInjectingStore,
    lock_history::{LockAnswer, LockCall, LockHistory},
    model::LOG,
    mutants::Mutant,
    process::SimProcess,
    supervise::ProcessEnd,
    world::SimWorld,
};

/// The folder of the lock's chain.
pub(super) const CHAIN: &str = ".tidemark/locks/turn/";
/// The attribute that has the number of an entry.
const NUMBER: &str = "number";
/// Entries that are read at once.
const FETCHES: usize = 16;
/// How often a client reads the log before it gives up.
const MAX_READS: u32 = 4;

/// What all clients of one lock share. Cheap to clone.
#[derive(Clone)]
pub(super) struct LockWorld {
    pub(super) world: SimWorld,
    pub(super) history: Arc<Mutex<LockHistory>>,
    /// The entries whose appends were answered as fenced.
    pub(super) fenced: Arc<Mutex<Vec<Token>>>,
}

/// An entry that is committed.
pub(super) struct CommittedNumber {
    pub(super) number: u64,
    grant: u64,
    slot: u64,
}

/// A client while it runs.
struct LockClient {
    shared: LockWorld,
    who: String,
    log: Log,
    locks: WriteLocks,
    writer: LogWriter,
}

/// Why a client ends its turn.
enum TurnEnd {
    Done,
    /// Its grant was overtaken or released.
    Fenced,
    /// It does not know what became of its last call.
    Unknown(String),
}

fn lock_name() -> LockName {
    "turn".parse().unwrap_or_else(|error| unreachable!("{error}"))
}

/// What is committed under the lock, in the order of the slots; of those with one number the first.
pub(super) async fn committed(world: &SimWorld, log: &Log) -> Result<Vec<CommittedNumber>, StoreError> {
    let (reader, schedule) = (LogReader::new(log), ParameterSchedule::constant(world.config.parameters));
    let listed: Vec<_> = reader.list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await?;
    let fetched: Vec<_> = listed.iter().map(|listed| reader.fetch(listed, &schedule)).collect();
    let entries: Vec<ResolvedEntry> = futures::stream::iter(fetched).buffered(FETCHES).try_collect().await?;
    let mut numbers = BTreeSet::new();
    let mut committed: Vec<_> = entries.into_iter().filter_map(committed_number).collect();
    committed.retain(|one| numbers.insert(one.number));
    committed.sort_by_key(|one| one.slot);
    Ok(committed)
}

fn committed_number(entry: ResolvedEntry) -> Option<CommittedNumber> {
    let decision = &entry.ops.first()?.decision;
    let guard = decision.guard.as_ref().filter(|_| decision.outcome == Outcome::Committed)?;
    let (grant, slot) = (guard.grant, guard.slot);
    let number = entry.intent.ok()?.attributes.get(NUMBER)?.as_u64()?;
    Some(CommittedNumber { number, grant, slot })
}

/// A client, until the burst is over or it crashes.
pub(super) async fn hold_in_turn(shared: LockWorld, process: SimProcess, name: String) -> ProcessEnd {
    let world = shared.world.clone();
    let log = world.log(&process);
    let who = process.name().to_owned();
    let locks = WriteLocks::open(&log, StoreClock::new(log.stores(), &format!("{who}-lock")), world.entropy());
    let schedule = Arc::new(ParameterSchedule::constant(world.config.parameters));
    let opened = LogWriter::open(log.clone(), schedule, LogWriterOptions::named(name), world.entropy());
    let writer = match opened.await {
        Ok(writer) => writer,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    let client = LockClient { shared, who, log, locks, writer };
    while !world.is_fault_burst_over() {
        if let TurnEnd::Unknown(why) = client.turn().await {
            return ProcessEnd::GaveUp(why);
        }
        world.sleep_for(0..=8_000).await;
    }
    ProcessEnd::Done
}

impl LockClient {
    fn begin(&self, call: impl FnOnce(u64) -> LockCall) -> usize {
        self.shared.history.lock().begin(call)
    }

    fn end(&self, place: usize, answer: LockAnswer) {
        self.shared.world.simulated_store.note(&format!("{} gets the answer {answer:?}", self.who));
        self.shared.history.lock().end(place, answer);
    }

    /// Acquires the lock, reads, appends, and mostly releases the lock.
    async fn turn(&self) -> TurnEnd {
        let acquire = self.begin(|_| self.acquire_call());
        let mut grant = match self.acquire().await {
            Ok(grant) => grant,
            Err(end) => return end,
        };
        let mut known = self.committed_before(grant).await;
        self.end(acquire, LockAnswer::Granted { grant, committed: known.clone() });
        loop {
            match self.append_some(grant, &mut known).await {
                TurnEnd::Fenced if Mutant::FencedWriterGoesOn.is_on() => {
                    // It takes what it knew for what there is.
                    let acquire = self.begin(|_| self.acquire_call());
                    grant = match self.acquire().await {
                        Ok(grant) => grant,
                        Err(end) => return end,
                    };
                    self.end(acquire, LockAnswer::Granted { grant, committed: known.clone() });
                }
                TurnEnd::Done if self.shared.world.chance(700) => return self.release(grant).await,
                end => return end,
            }
        }
    }

    fn acquire_call(&self) -> LockCall {
        LockCall::Acquire { client: self.who.clone() }
    }

    async fn acquire(&self) -> Result<u64, TurnEnd> {
        let world = &self.shared.world;
        let ttl = Duration::from_secs(world.in_range(4..=15));
        let complete_within = Duration::from_secs(world.in_range(2..=5));
        let request = GrantRequest { ttl, complete_within, ..GrantRequest::of(self.who.clone()) };
        match self.locks.acquire(&lock_name(), &request, true).await {
            Ok(held) => Ok(held.grant.number),
            Err(error) => Err(self.unknown(&error)),
        }
    }

    /// What was committed before the grant; `None`: that cannot be read now.
    async fn committed_before(&self, grant: u64) -> Option<Vec<u64>> {
        for _ in 0..MAX_READS {
            if let Ok(committed) = committed(&self.shared.world, &self.log).await {
                return Some(committed.iter().filter(|one| one.grant < grant).map(|one| one.number).collect());
            }
        }
        None
    }

    async fn release(&self, grant: u64) -> TurnEnd {
        let release = self.begin(|_| LockCall::Release { grant });
        match self.locks.release(&lock_name(), grant).await {
            Ok(()) => self.end(release, LockAnswer::Released),
            Err(error) if error.rejection().is_some() => self.end(release, LockAnswer::Lost),
            Err(error) => return self.unknown(&error),
        }
        TurnEnd::Done
    }

    async fn renew(&self, grant: u64) {
        let renew = self.begin(|_| LockCall::Renew { grant });
        match self.locks.renew(&lock_name(), grant).await {
            Ok(()) => self.end(renew, LockAnswer::Held),
            Err(error) if error.rejection().is_some() => self.end(renew, LockAnswer::Lost),
            Err(error) => drop(self.unknown(&error)),
        }
    }

    /// Appends while every append is acknowledged. Goes on after a renewal that was lost, as a client that was suspended before it does.
    async fn append_some(&self, grant: u64, known: &mut Option<Vec<u64>>) -> TurnEnd {
        let world = &self.shared.world;
        for _ in 0..world.in_range(1..=4) {
            if world.chance(250) {
                world.sleep_for(0..=25_000).await;
            } else {
                self.renew(grant).await;
            }
            let append = self.begin(|number| LockCall::Append { grant, number });
            let number = append as u64;
            let (draft, key) = self.draft(grant, number);
            match self.writer.append(draft).await {
                Ok(receipt) => {
                    let (writer, token) = (self.writer.name().to_owned(), receipt.token);
                    world.check(|checker| checker.acknowledge(AppendAcknowledgement { writer, key, token }));
                    self.end(append, LockAnswer::Committed);
                    if let Some(known) = known {
                        known.push(number);
                    }
                }
                Err(AppendError::Fenced { token, .. }) => {
                    self.shared.fenced.lock().push(token);
                    self.end(append, LockAnswer::Fenced);
                    return TurnEnd::Fenced;
                }
                Err(AppendError::Lock(error)) => return self.unknown(&error),
                Err(error) => return TurnEnd::Unknown(error.to_string()),
            }
        }
        TurnEnd::Done
    }

    fn draft(&self, grant: u64, number: u64) -> (EntryDraft, String) {
        let id = format!("turn-{number}");
        let path = format!("bundles/r/{id}/bundle.yaml");
        let bundle = DraftOperation::Descriptor { path, body: bundle_yaml(&id, "in turn") };
        let draft = EntryDraft {
            writer: Some(self.writer.name().to_owned()),
            idempotency_key: Some(id.clone()),
            lock: Some(LockRef { name: lock_name(), grant: Some(grant) }),
            expect: None,
            attributes: [(NUMBER.to_owned(), json!(number))].into_iter().collect(),
            ops: if self.shared.world.chance(600) { vec![bundle] } else { Vec::new() },
        };
        (draft, id)
    }

    /// What became of the call is not known. A chain that lost a record of its own is damaged, whatever its clients make of it.
    fn unknown(&self, error: &LockError) -> TurnEnd {
        if let LockError::Chain(ChainError::Corrupt { .. } | ChainError::Invariant(_)) = error {
            self.shared.world.simulated_store.fail(format!("{}: {error}", self.who));
        }
        TurnEnd::Unknown(error.to_string())
    }
}

/// Trims the lock's chain: raises the boundary, and deletes the slots below it only then.
pub(super) async fn trim_lock_chain(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let log = FaultInjectingStore::new(&world.simulated_store, LOG, &process);
    let store = world.store(LOG, &process).below(CHAIN.trim_end_matches('/'));
    let chain = AppendOnlyChain::<LockState>::new(store, world.entropy());
    // So that a writer finds its slot trimmed in time for its entry.
    let is_hasty = Mutant::LockSlotTrimmedUnjudged.is_on();
    while !world.is_fault_burst_over() {
        world.sleep_for(if is_hasty { 1_000..=3_000 } else { 5_000..=30_000 }).await;
        let Ok(Some(latest)) = chain.latest().await else { continue };
        let kept = if is_hasty { 1 } else { world.in_range(1..=4) };
        let Some(to) = latest.number.checked_sub(kept).filter(|to| *to > 0) else { continue };
        if chain.set_boundary(to).await.is_err() {
            continue;
        }
        world.simulated_store.mark("slots of the lock were trimmed");
        for key in world.simulated_store.objects(LOG).into_keys() {
            if slot_number(&key).is_some_and(|number| number <= to) {
                let _ = log.delete(&object_store::path::Path::from(key)).await;
            }
        }
    }
    ProcessEnd::Done
}

/// The number of the slot of this key.
pub(super) fn slot_number(key: &str) -> Option<u64> {
    key.strip_prefix(CHAIN)?.parse().ok()
}
