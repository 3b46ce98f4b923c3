//! The root chain: who sets the parameters, and from when a change holds.

use std::{collections::BTreeMap, time::Duration};

use tidemark_catalog::{
    ArchiveExtent, CatalogError, Generation, IndexOwner, IndexRegistration, LogCursor, LogFloor, RegistrationOutcome,
    RootChain, TransactionRejected,
};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{Log, LogParameters, PARAMETER_CHANGE_DELAY, ParameterSchedule, ParameterSource as _};
use tokio::time::advance;

use super::support::{CallFault, ScriptedStore, StoreCall};

fn open(stage: &ScriptedStore, seed: u64) -> RootChain {
    RootChain::open(&Log::over(stage.store().below("log"), Vec::new()), Entropy::seeded(seed))
}

fn seconds(seconds: u64) -> LogParameters {
    LogParameters::with_expiry(Duration::from_secs(seconds))
}

fn probed() -> BTreeMap<String, &'static str> {
    ["memory:///a", "memory:///b"].map(|url| (url.to_owned(), "passed")).into()
}

#[tokio::test(start_paused = true)]
async fn of_two_first_indexers_one_sets_the_parameters_and_the_other_is_refused() {
    let stage = ScriptedStore::new();
    assert!(open(&stage, 0).schedule().await.unwrap_err().to_string().contains("--expiry"));
    let (a, b) = (open(&stage, 1), open(&stage, 2));
    let (five, six) = (seconds(5), seconds(6));
    let (a, b) = tokio::join!(a.ensure(&five), b.ensure(&six));
    let (set, refused) = if a.is_ok() { (a, b) } else { (b, a) };
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, CatalogError::Rejected(TransactionRejected::ParameterDiffers { name: "expiry", .. })),
        "{refused}"
    );
    assert_eq!(open(&stage, 3).schedule().await.unwrap(), set.unwrap());
    assert!(stage.keys().await.iter().all(|key| key.starts_with("log/.tidemark/root/")));
}

#[tokio::test(start_paused = true)]
async fn a_change_holds_from_its_records_store_time_on_for_every_reader() {
    let stage = ScriptedStore::new();
    let (a, b) = (open(&stage, 1), open(&stage, 2));
    a.ensure(&seconds(600)).await.unwrap();
    advance(Duration::from_secs(1000)).await;
    let set = a.set_parameters(&seconds(60)).await.unwrap();
    let recorded = StoreSecond::from_unix(1_700_001_000);
    assert_eq!(set, ParameterSchedule::constant(seconds(600)).changed(seconds(60), recorded));
    assert!(set.newest().from >= recorded.after(PARAMETER_CHANGE_DELAY));
    for reader in [&a, &b, &open(&stage, 3)] {
        assert_eq!(reader.schedule().await.unwrap(), set);
    }
    // A later record, by a process that read the change, says the same date.
    advance(Duration::from_secs(5000)).await;
    b.record_probes(b.head().await.unwrap(), &probed()).await.unwrap();
    assert_eq!(open(&stage, 4).schedule().await.unwrap(), set);
    assert_eq!(b.ensure(&seconds(60)).await.unwrap(), set);
    let old = b.ensure(&seconds(600)).await.unwrap_err().to_string();
    assert!(old.contains("600s") && old.contains("60s") && old.contains("tidemark log set"), "{old}");
}

/// The one prefix, registered for an owner.
fn index(owner: &str) -> IndexRegistration {
    IndexRegistration::new("memory:///index", IndexOwner::Named { name: owner.to_owned() }, Generation::first())
}

#[tokio::test(start_paused = true)]
async fn two_owners_race_for_one_prefix_and_one_of_them_gets_it() {
    let stage = ScriptedStore::new();
    let (a, b) = (open(&stage, 1), open(&stage, 2));
    let (ours, theirs) = (index("a"), index("b"));
    let five = seconds(5);
    let (first, second) = tokio::join!(
        a.register(None, &five, "main", &ours, LogCursor::default(), None),
        b.register(None, &five, "main", &theirs, LogCursor::default(), None)
    );
    assert!(first.is_ok() != second.is_ok());
    let (winner, loser) = if first.is_ok() { (ours, theirs) } else { (theirs, ours) };
    let head = a.head().await.unwrap();
    assert_eq!(
        a.register(head, &five, "main", &winner, LogCursor::default(), None).await.unwrap(),
        RegistrationOutcome::Known
    );
    let adopt = winner.owner.id();
    let adopted =
        b.register(b.head().await.unwrap(), &five, "main", &loser, LogCursor::default(), Some(adopt)).await.unwrap();
    assert_eq!(adopted, RegistrationOutcome::Adopted { from: winner.owner.clone() });
    assert_eq!(a.state().await.unwrap().indexes["main"], loser);
}

#[tokio::test(start_paused = true)]
async fn parameters_and_an_index_are_one_record_and_a_head_that_was_overtaken_is_read_again() {
    let stage = ScriptedStore::new();
    let (a, b) = (open(&stage, 1), open(&stage, 2));
    let (head, five) = (b.head().await.unwrap(), seconds(5));
    assert_eq!(
        a.register(None, &five, "main", &index("a"), LogCursor::default(), None).await.unwrap(),
        RegistrationOutcome::New
    );
    assert_eq!(a.head().await.unwrap().unwrap().number, 1);
    // What `b` read is old by now.
    let refused =
        b.register(head.clone(), &seconds(6), "main", &index("a"), LogCursor::default(), None).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::ParameterDiffers { .. })), "{refused}");
    let refused = b.register(head, &five, "main", &index("b"), LogCursor::default(), None).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::OwnedByAnother { .. })), "{refused}");
    let before = (stage.keys().await, stage.calls());
    let head = a.head().await.unwrap();
    let read = stage.calls();
    assert_eq!(
        a.register(head, &five, "main", &index("a"), LogCursor::default(), None).await.unwrap(),
        RegistrationOutcome::Known
    );
    assert_eq!((stage.keys().await, stage.calls()), (before.0, read), "nothing is asked where nothing changes");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_nothing_changes() {
    let stage = ScriptedStore::new();
    let root = open(&stage, 1);
    root.ensure(&seconds(5)).await.unwrap();
    root.record_probes(root.head().await.unwrap(), &probed()).await.unwrap();
    let before = stage.keys().await;
    root.ensure(&seconds(5)).await.unwrap();
    root.record_probes(root.head().await.unwrap(), &probed()).await.unwrap();
    root.set_parameters(&seconds(5)).await.unwrap();
    assert_eq!(stage.keys().await, before);
}

/// A log that the index "old" has cleaned up, which is on no register any more; "new" is.
async fn cleaned(root: &RootChain) -> LogFloor {
    let at = |second| LogCursor(StoreSecond::from_unix(second));
    for name in ["old", "new"] {
        let url = format!("memory:///{name}");
        let owner = IndexOwner::Named { name: name.to_owned() };
        let registration = IndexRegistration::new(url, owner, Generation::first());
        let head = root.head().await.unwrap();
        root.register(head, &seconds(5), name, &registration, LogCursor::default(), None).await.unwrap();
        root.keep(name, &Generation::first(), at(9)).await.unwrap();
    }
    let floor = root.begin_cleanup("old", at(5), "memory:///old/archive", &extent(1)).await.unwrap().floor.unwrap();
    let old = root.state().await.unwrap().indexes["old"].clone();
    root.unregister("old", &old).await.unwrap();
    floor
}

fn extent(version: u64) -> ArchiveExtent {
    ArchiveExtent { version, hash: format!("{version:064x}"), end: LogCursor(StoreSecond::from_unix(9)) }
}

const NEW_ARCHIVE: &str = "memory:///new/archive";

#[tokio::test(start_paused = true)]
async fn a_move_of_the_floor_whose_outcome_is_unknown_is_read_by_the_next_process() {
    for fault in [CallFault::LoseAnswer, CallFault::Drop] {
        let stage = ScriptedStore::new();
        let (quiet, broken) = (open(&stage, 1), stage.calm());
        let seen = cleaned(&quiet).await;
        let records = quiet.head().await.unwrap().unwrap().number;
        let root = open(&broken, 2);
        root.head().await.unwrap();
        let before = broken.calls();
        root.head().await.unwrap();
        let reads = broken.calls() - before;
        // The put goes wrong, and what became of it cannot be looked at.
        broken.disturb(StoreCall::Put, "root", 0, 1, fault.clone());
        broken.disturb(StoreCall::Any, "root", reads, u64::MAX, CallFault::Drop);
        let moved = root.move_floor("new", &seen, NEW_ARCHIVE, &extent(3)).await;
        assert!(matches!(moved, Err(CatalogError::Unknown { .. })), "{fault:?}: {moved:?}");
        // Whichever it was: the next one makes one record of it, and no second.
        let root = open(&stage, 3);
        let floor = root.move_floor("new", &seen, NEW_ARCHIVE, &extent(3)).await.unwrap().floor.unwrap();
        assert_eq!((floor.archive.as_str(), floor.second, &floor.extent), (NEW_ARCHIVE, seen.second, &extent(3)));
        assert_eq!(root.head().await.unwrap().unwrap().number, records + 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_moves_of_one_floor_one_is_refused() {
    let stage = ScriptedStore::new();
    let (a, b) = (open(&stage, 1), open(&stage, 2));
    let seen = cleaned(&a).await;
    let (one, other) = (extent(3), extent(4));
    let (one, other) =
        tokio::join!(a.move_floor("new", &seen, NEW_ARCHIVE, &one), b.move_floor("new", &seen, NEW_ARCHIVE, &other));
    let (moved, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    assert!(matches!(refused, Err(CatalogError::Rejected(TransactionRejected::FloorChanged { .. }))), "{refused:?}");
    assert_eq!(open(&stage, 3).state().await.unwrap().floor, moved.unwrap().floor);
}
