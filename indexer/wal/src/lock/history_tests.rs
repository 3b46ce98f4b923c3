//! Several clients that hold one lock in turn and count, under random faults and pauses: each reads the count, and appends the next
//! numbers under the lock. A number that stands twice, or is left out, shows that two held the lock at once, or that one read before
//! what came before it was complete. Many seeds of it: a linearizable counter. Clients with a planted fault show that it would be seen.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{TryStreamExt as _, future::join_all};
use parking_lot::Mutex;
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};
use serde_json::json;
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tokio::time::sleep;

use super::*;
use crate::{
    AppendError, DraftOperation, EntryDraft, GuardObservation, ListedEntry, LockRef, Log, LogParameters, LogReader,
    LogWriter, LogWriterOptions, Outcome, ParameterSchedule, Token,
    testing::{TestStore, WriteFault},
};

/// What a client does in one turn.
#[derive(Clone, Debug)]
struct ClientTurn {
    /// Seconds before it acquires the lock, and before each append: longer than the time to live now and then.
    pauses: Vec<u64>,
    /// Whether its entries have descriptors.
    has_descriptors: bool,
    releases: bool,
}

/// A fault of the next write of a key that contains this text.
type PlantedFault = (&'static str, WriteFault);

/// What a client does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientFault {
    /// It looks whether it holds the lock, and commits later even if another one holds it then.
    LockCheckedBeforeCommit,
    /// It takes its grant for enough, and does not wait for what an earlier holder may still complete.
    NewHolderActsAtOnce,
}

/// How an assertion says that the committed entries do not count 1, 2, 3, …
const MISCOUNT: &str = "a number stands twice or is left out";

fn turn() -> impl Strategy<Value = ClientTurn> {
    let pause = prop_oneof![3 => 0u64..3, 1 => 5u64..40];
    (prop::collection::vec(pause, 1..5), any::<bool>(), any::<bool>())
        .prop_map(|(pauses, has_descriptors, releases)| ClientTurn { pauses, has_descriptors, releases })
}

fn fault() -> impl Strategy<Value = PlantedFault> {
    let keys = prop::sample::select(vec!["locks/count/0", "tidemark/guard", "bundle.yaml", "heartbeat", "log/2"]);
    let fault = prop_oneof![
        Just(WriteFault::LostAnswer),
        Just(WriteFault::LostWrite),
        (1u64..40).prop_map(|span| WriteFault::Slow(Duration::from_secs(span))),
    ];
    (keys, fault)
}

fn history() -> impl Strategy<Value = (Vec<Vec<ClientTurn>>, Vec<PlantedFault>)> {
    let clients = prop::collection::vec(prop::collection::vec(turn(), 1..4), 2..4);
    (clients, prop::collection::vec(fault(), 0..8))
}

fn schedule() -> ParameterSchedule {
    ParameterSchedule::constant(LogParameters {
        request_timeout: Duration::from_secs(3),
        visibility_delay: Duration::ZERO,
        ..LogParameters::with_expiry(Duration::from_mins(5))
    })
}

fn name() -> LockName {
    "count".parse().unwrap()
}

/// A committed entry.
struct CommittedCount {
    token: Token,
    key: Option<String>,
    count: u64,
    guard: GuardObservation,
}

/// The entries that are committed, in the order of their slots; of those with one key the first.
async fn committed(log: &Log) -> Vec<CommittedCount> {
    let reader = LogReader::new(log);
    let listed: Vec<ListedEntry> =
        reader.list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await.unwrap();
    let (mut committed, mut keys) = (Vec::new(), BTreeSet::new());
    for listed in listed {
        let entry = reader.fetch(&listed, &schedule()).await.unwrap();
        let decision = entry.ops[0].decision.clone();
        let intent = entry.intent.unwrap();
        if decision.outcome == Outcome::Committed && keys.insert(intent.idempotency_key.clone()) {
            let (key, count) = (intent.idempotency_key, intent.attributes["count"].as_u64().unwrap());
            committed.push(CommittedCount { token: entry.token, key, count, guard: decision.guard.unwrap() });
        }
    }
    committed.sort_by_key(|one| one.guard.slot);
    committed
}

/// Acquires the lock and does not wait for what earlier holders committed: gives the grant as soon as the chain has it.
async fn acquire_at_once(locks: &WriteLocks, chain: &LockChain, request: &GrantRequest) -> Result<u64, LockError> {
    let before = chain.latest().await?.map_or(0, |slot| slot.state.grant.number);
    let granted = async {
        loop {
            let slot = chain.latest().await?;
            let own = slot.filter(|slot| slot.state.grant.number > before && slot.state.grant.holder == request.holder);
            if let Some(slot) = own {
                return Ok::<u64, LockError>(slot.state.grant.number);
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let lock = name();
    tokio::select! {
        grant = granted => grant,
        held = locks.acquire(&lock, request, true) => Ok(held?.grant.number),
    }
}

/// A client's turns. Gives what it got receipts for.
async fn count(
    log: Log,
    who: String,
    turns: Vec<ClientTurn>,
    acknowledged: Arc<Mutex<Vec<Token>>>,
    fault: Option<ClientFault>,
) {
    let chain = LockChain::open(&log.entries, &name(), &Entropy::seeded(1));
    let seed = who.bytes().map(u64::from).sum();
    let locks = WriteLocks::open(&log, StoreClock::new(log.stores(), &format!("{who}-lock")), Entropy::seeded(seed));
    let options = LogWriterOptions::named(who.clone());
    let writer =
        LogWriter::open(log.clone(), Arc::new(schedule()), options, Entropy::seeded(seed + 1000)).await.unwrap();
    for (turn, ClientTurn { pauses, has_descriptors, releases }) in turns.into_iter().enumerate() {
        let request = GrantRequest {
            ttl: Duration::from_secs(10),
            complete_within: Duration::from_secs(4),
            ..GrantRequest::of(who.clone())
        };
        let acquired = match fault {
            Some(ClientFault::NewHolderActsAtOnce) => acquire_at_once(&locks, &chain, &request).await,
            _ => locks.acquire(&name(), &request, true).await.map(|held| held.grant.number),
        };
        let Ok(own) = acquired else { continue };
        let before = committed(&log).await;
        let mut count = before.iter().map(|one| one.count).max().unwrap_or(0);
        for pause in pauses {
            let checks_before = fault == Some(ClientFault::LockCheckedBeforeCommit);
            if checks_before && locks.renew(&name(), own).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(pause)).await;
            let grant = if checks_before { chain.latest().await.unwrap().unwrap().state.grant.number } else { own };
            count += 1;
            let path = format!("bundles/r/{who}-{turn}-{count}/bundle.yaml");
            let bundle = DraftOperation::Descriptor { path, body: format!("id: {who}-{turn}-{count}\n").into() };
            let draft = EntryDraft {
                lock: Some(LockRef { name: name(), grant: Some(grant) }),
                attributes: [("count".to_owned(), json!(count))].into_iter().collect(),
                ops: if has_descriptors { vec![bundle] } else { Vec::new() },
                ..EntryDraft::default()
            };
            match writer.append(draft).await {
                Ok(receipt) => acknowledged.lock().push(receipt.token),
                Err(AppendError::Lock(error)) => panic!("{error}"),
                // After one that is not acknowledged it does not know the count.
                Err(_) => break,
            }
        }
        if releases {
            drop(locks.release(&name(), own).await);
        }
    }
}

async fn history_is_linearizable(
    clients: Vec<Vec<ClientTurn>>,
    faults: Vec<PlantedFault>,
    client_fault: Option<ClientFault>,
) {
    let lab = TestStore::new();
    for (key, fault) in faults {
        lab.trouble(key, fault);
    }
    let acknowledged = Arc::default();
    let clients = clients.into_iter().enumerate();
    let count = |(n, turns): (usize, Vec<ClientTurn>)| {
        count(lab.log(), format!("c{n}"), turns, Arc::clone(&acknowledged), client_fault)
    };
    join_all(clients.map(count)).await;
    let committed = committed(&lab.log()).await;
    let history: Vec<_> =
        committed.iter().map(|one| (one.guard.slot, one.guard.grant, one.count, one.key.as_deref())).collect();
    let counts: Vec<u64> = committed.iter().map(|one| one.count).collect();
    assert_eq!(counts, (1..=committed.len() as u64).collect::<Vec<_>>(), "{MISCOUNT}: {history:?}");
    assert!(committed.is_sorted_by_key(|one| one.guard.grant), "{history:?}");
    let tokens: BTreeSet<Token> = committed.iter().map(|one| one.token).collect();
    for token in acknowledged.lock().iter() {
        assert!(tokens.contains(token), "{token} was acknowledged: {history:?}");
    }
    check_guards(&lab.log().entries).await;
}

/// Every guard says what a naive reading of the slots before its own says.
async fn check_guards(log: &Store) {
    let chain = LockChain::open(log, &name(), &Entropy::seeded(1));
    let mut events = Vec::new();
    while let Some(slot) = chain.read(events.len() as u64 + 1).await.unwrap() {
        events.push(slot.state.event);
    }
    let guards: Vec<_> = log.list(".tidemark/guard", None).try_collect().await.unwrap();
    for guard in guards {
        let body = log.get(&guard.key, 4096).await.unwrap().unwrap().body.unwrap();
        let guard = CommitGuard::parse(&body).unwrap();
        let before = &events[..usize::try_from(guard.slot).unwrap() - 1];
        assert_eq!(guard.overtaken_by.is_none(), super::tests::counts(before, guard.grant), "{guard:?} {events:?}");
        let commit = LockEvent::Commit { token: guard.token, grant: guard.grant };
        assert_eq!(events[before.len()], commit);
    }
}

fn run_history(clients: Vec<Vec<ClientTurn>>, faults: Vec<PlantedFault>, client_fault: Option<ClientFault>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(history_is_linearizable(clients, faults, client_fault));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn holders_of_a_lock_count_without_a_gap((clients, faults) in history()) {
        run_history(clients, faults, None);
    }
}

/// Runs histories of clients with this fault until one shows it.
fn assert_caught(client_fault: ClientFault) {
    let config =
        ProptestConfig { cases: 512, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let found = runner.run(&history(), |(clients, faults)| {
        run_history(clients, faults, Some(client_fault));
        Ok(())
    });
    let miscount = matches!(&found, Err(TestError::Fail(reason, _)) if reason.message().contains(MISCOUNT));
    assert!(miscount, "{client_fault:?}: {found:?}");
}

#[test]
fn a_lock_that_is_checked_before_the_commit_is_seen() {
    assert_caught(ClientFault::LockCheckedBeforeCommit);
}

#[test]
fn a_new_holder_that_does_not_wait_is_seen() {
    assert_caught(ClientFault::NewHolderActsAtOnce);
}
