//! How a new release of the operator reaches the pods: not before it is approved, and then a bounded number of WALs at a
//! time, each search first.
//!
//! Which WALs are under way is kept in the API: a WAL gets `UpgradePending` with reason `Upgrading` before anything of it is
//! changed, and keeps it until all of it is done. An operator that starts counts those first.
//!
//! A WAL whose new pods do not become ready keeps its turn: what stops it would most likely stop the others, too. After the
//! Deployment's progress deadline the reason is `UpgradeStalled` and a person is asked. A WAL that is deleted or suspended, or
//! whose approval is withdrawn, stops where it is and gives its turn to the next.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, Reason, condition, names::Component};

use super::{assess::Verdict, build::PROGRESS_SECONDS};
use crate::cache::{Rollout, WalKey};

/// Whether the operator's release may roll out to a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Granted,
    /// Nobody has approved it.
    Missing,
    /// It is approved, and the WAL is suspended.
    Suspended,
    /// The WAL is being deleted.
    Deleted,
}

/// Whether a WAL's conditions say that it is under way.
pub(crate) fn is_under_way(conditions: &[Condition]) -> bool {
    let reason =
        condition(conditions, ConditionType::UpgradePending).and_then(|pending| Reason::parse(&pending.reason));
    matches!(reason, Some(Reason::Upgrading | Reason::UpgradeStalled))
}

/// Whether a WAL's conditions say that it is under way and does not get on.
pub(crate) fn is_stalled(conditions: &[Condition]) -> bool {
    condition(conditions, ConditionType::UpgradePending)
        .is_some_and(|pending| pending.reason == Reason::UpgradeStalled.as_str())
}

/// What is known of a WAL's Deployments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// The release that this operator builds.
    pub(crate) release: &'a str,
    pub(crate) search: Option<&'a Rollout>,
    pub(crate) indexer: Option<&'a Rollout>,
    pub(crate) permission: Permission,
    /// Whether the WAL's condition says that it is under way.
    pub(crate) under_way: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: everything is of this release.
    UpToDate,
    /// Change no pod until somebody approves.
    Hold,
    /// It is approved: ask for a turn, and change no pod before it is written down that it is this WAL's.
    Queue,
    /// Change search, not yet the indexer.
    RollSearch,
    /// Search is of this release and not all there yet.
    AwaitSearch,
    /// Search is done: change the indexer.
    RollIndexer,
    /// The indexer is of this release and not all there yet.
    AwaitIndexer,
    /// Nothing is left to change, and the permission went before all was ready: give the turn to the next.
    Leave,
    /// All is done: give the turn to the next.
    Finish,
}

impl Step {
    /// Whether the search Deployment may be written as it is built.
    pub(crate) fn rolls_search(self) -> bool {
        !matches!(self, Self::Hold | Self::Queue)
    }

    /// Whether the indexer's Deployment may be written as it is built.
    pub(crate) fn rolls_indexer(self) -> bool {
        matches!(self, Self::UpToDate | Self::RollIndexer | Self::AwaitIndexer | Self::Leave | Self::Finish)
    }

    /// Whether the WAL is under way.
    pub(crate) fn is_under_way(self) -> bool {
        matches!(self, Self::RollSearch | Self::AwaitSearch | Self::RollIndexer | Self::AwaitIndexer)
    }
}

impl Situation<'_> {
    /// What to do next.
    pub(crate) fn step(&self) -> Step {
        let outdated = |rollout: Option<&Rollout>| rollout.is_some_and(|rollout| !self.is_current(rollout));
        // Waiting protects queries. Where none is answered now, a new release may be the very remedy.
        let serving = self.search.is_some_and(|search| search.available > 0);
        let search_done = self.search.is_none_or(|search| search.complete) || !serving;
        let indexer_done = self.indexer.is_none_or(|indexer| indexer.complete);
        match (outdated(self.search), outdated(self.indexer)) {
            (false, false) if !self.under_way => Step::UpToDate,
            (true, _) | (_, true) if self.permission != Permission::Granted => Step::Hold,
            (true, _) | (_, true) if !self.under_way => Step::Queue,
            (true, _) => Step::RollSearch,
            (false, false) if search_done && indexer_done => Step::Finish,
            (false, false) if self.permission != Permission::Granted => Step::Leave,
            (false, _) if !search_done => Step::AwaitSearch,
            (false, true) => Step::RollIndexer,
            (false, false) => Step::AwaitIndexer,
        }
    }

    /// What `UpgradePending` says at this step. `held` tells whether a change of the spec waits, too.
    pub(crate) fn verdict(&self, step: Step, key: &WalKey, held: bool) -> Verdict {
        let (release, old) = (self.release, self.old());
        let held = if held { ", and so does the latest change of the spec" } else { "" };
        let (namespace, name) = (&key.namespace, &key.name);
        match step {
            Step::UpToDate | Step::Finish => {
                Verdict::no(Reason::UpToDate, format!("the pods are of release \"{release}\""))
            }
            Step::Hold => {
                let (waits, remedy) = match self.permission {
                    Permission::Suspended => ("while the WAL is suspended", "set \"spec.suspend\" to false".to_owned()),
                    Permission::Deleted => {
                        ("for nothing: the WAL is being deleted", "nothing is to be done".to_owned())
                    }
                    Permission::Missing | Permission::Granted => {
                        let annotation = format!("tidemark.dev/approve-upgrade={release}");
                        let run =
                            format!("run \"kubectl annotate wal {name} -n {namespace} --overwrite {annotation}\"");
                        ("for approval", run)
                    }
                };
                Verdict::yes(
                    Reason::NewRelease,
                    format!(
                        "the pods are of release \"{old}\", the operator brings \"{release}\"; it waits {waits}{held}; {remedy}"
                    ),
                )
            }
            Step::Leave => Verdict::yes(
                Reason::NewRelease,
                format!(
                    "the pods are of release \"{release}\" and have not all become ready; the upgrade is left as it is, and \
                     the next WAL gets the turn; see \"kubectl get pods -n {namespace}\" and mend the cause"
                ),
            ),
            Step::Queue => Verdict::yes(
                Reason::NewRelease,
                format!(
                    "the pods are of release \"{old}\", release \"{release}\" is approved; it waits{held} until other WALs \
                     are done"
                ),
            ),
            Step::AwaitSearch if self.search.is_some_and(|search| search.stalled) => {
                self.stalled(key, Component::Search, "search answers from the old ones")
            }
            Step::AwaitIndexer if self.indexer.is_some_and(|indexer| indexer.stalled) => {
                self.stalled(key, Component::Indexer, "the old one indexes as long as it runs")
            }
            Step::RollSearch | Step::AwaitSearch => Verdict::yes(
                Reason::Upgrading,
                format!("search is being upgraded to release \"{release}\", the indexer follows"),
            ),
            Step::RollIndexer | Step::AwaitIndexer => {
                Verdict::yes(Reason::Upgrading, format!("the indexer is being upgraded to release \"{release}\""))
            }
        }
    }

    fn stalled(&self, key: &WalKey, component: Component, meanwhile: &str) -> Verdict {
        let (release, role) = (self.release, component.as_str());
        let (namespace, deployment) = (&key.namespace, component.child_name(&key.name));
        Verdict::yes(
            Reason::UpgradeStalled,
            format!(
                "the {role} pods of release \"{release}\" have not become ready for {PROGRESS_SECONDS} s; {meanwhile}, and no \
                 other WAL gets this one's turn; see \"kubectl describe deployment {deployment} -n {namespace}\" and mend the \
                 cause, or suspend the WAL or withdraw its approval, so that the next gets the turn"
            ),
        )
    }

    fn is_current(&self, rollout: &Rollout) -> bool {
        rollout.release.as_deref() == Some(self.release)
    }

    /// The release of the pods that are not of this one.
    fn old(&self) -> &str {
        let outdated = [self.search, self.indexer].into_iter().flatten().find(|rollout| !self.is_current(rollout));
        outdated.and_then(|rollout| rollout.release.as_deref()).unwrap_or("unknown")
    }
}

/// The turns of the WALs that are upgraded.
#[derive(Debug)]
pub(crate) struct Turns {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Parts of the cluster whose WALs under way have not been counted yet.
    uncounted: usize,
    under_way: HashSet<WalKey>,
    waiting: BTreeSet<WalKey>,
}

impl Turns {
    /// At most `most` at a time, once [`Turns::count`] was called `parts` times.
    pub(crate) fn new(most: u16, parts: usize) -> Self {
        let inner = Inner { uncounted: parts, under_way: HashSet::new(), waiting: BTreeSet::new() };
        Self { most: usize::from(most), inner: Mutex::new(inner) }
    }

    /// Counts the WALs of one part of the cluster that are under way already.
    pub(crate) fn count(&self, under_way: impl IntoIterator<Item = WalKey>) {
        let mut inner = self.lock();
        inner.uncounted = inner.uncounted.saturating_sub(1);
        inner.under_way.extend(under_way);
    }

    /// Asks for a turn. One that is refused waits in line.
    pub(crate) fn take(&self, key: &WalKey) -> bool {
        let mut inner = self.lock();
        if inner.under_way.contains(key) {
            return true;
        }
        if inner.uncounted == 0 && inner.under_way.len() < self.most {
            inner.waiting.remove(key);
            inner.under_way.insert(key.clone());
            return true;
        }
        inner.waiting.insert(key.clone());
        false
    }

    /// Gives a turn, or a place in line, back. Answers who may ask now.
    pub(crate) fn give_back(&self, key: &WalKey) -> Vec<WalKey> {
        let mut inner = self.lock();
        inner.waiting.remove(key);
        if !inner.under_way.remove(key) {
            return Vec::new();
        }
        let free = self.most.saturating_sub(inner.under_way.len());
        inner.waiting.iter().take(free).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: &str = "new";

    /// A Deployment as the model of the cluster has it.
    #[derive(Clone, Debug)]
    struct Deployment {
        release: &'static str,
        complete: bool,
        available: bool,
    }

    impl Deployment {
        fn rollout(&self) -> Rollout {
            Rollout {
                release: Some(self.release.into()),
                complete: self.complete,
                available: i32::from(self.available),
                ..Rollout::default()
            }
        }
    }

    #[derive(Clone, Debug)]
    struct World {
        approved: bool,
        suspended: bool,
        under_way: bool,
        search: Deployment,
        indexer: Deployment,
    }

    impl World {
        fn old(approved: bool, serving: bool) -> Self {
            let old = Deployment { release: "old", complete: true, available: serving };
            Self { approved, suspended: false, under_way: false, search: old.clone(), indexer: old }
        }

        fn permission(&self) -> Permission {
            match (self.approved, self.suspended) {
                (false, _) => Permission::Missing,
                (true, true) => Permission::Suspended,
                (true, false) => Permission::Granted,
            }
        }

        fn step(&self) -> Step {
            let (search, indexer) = (self.search.rollout(), self.indexer.rollout());
            let situation = Situation {
                release: NEW,
                search: Some(&search),
                indexer: Some(&indexer),
                permission: self.permission(),
                under_way: self.under_way,
            };
            situation.step()
        }

        /// One reconciliation, as the controller does it.
        fn reconcile(&mut self, key: &WalKey, turns: &Turns) {
            let step = self.step();
            let has_turn = step == Step::Queue && turns.take(key);
            if step.rolls_search() && self.search.release != NEW {
                self.search = Deployment { release: NEW, complete: false, available: self.search.available };
            }
            if step.rolls_indexer() && self.indexer.release != NEW {
                assert!(self.search.release == NEW, "search is first");
                assert!(self.search.complete || !self.search.available, "search is waited for");
                self.indexer = Deployment { release: NEW, complete: false, available: self.indexer.available };
            }
            self.under_way = has_turn || step.is_under_way();
            if !(has_turn || step.is_under_way() || step == Step::Queue) {
                turns.give_back(key);
            }
        }

        fn is_mixed(&self) -> bool {
            let new = |deployment: &Deployment| deployment.release == NEW;
            new(&self.search) != new(&self.indexer) || new(&self.search) && (self.unfinished())
        }

        fn unfinished(&self) -> bool {
            !self.indexer.complete || (!self.search.complete && self.search.available)
        }

        fn is_done(&self) -> bool {
            self.search.release == NEW && self.indexer.release == NEW && !self.unfinished() && !self.under_way
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Reconcile(usize),
        SearchDone(usize),
        IndexerDone(usize),
        Approve(usize),
        Suspend(usize, bool),
        Restart,
    }

    fn acts(wals: usize) -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => (0..wals).prop_map(Act::Reconcile),
            2 => (0..wals).prop_map(Act::SearchDone),
            2 => (0..wals).prop_map(Act::IndexerDone),
            1 => (0..wals).prop_map(Act::Approve),
            1 => (0..wals, any::<bool>()).prop_map(|(index, suspended)| Act::Suspend(index, suspended)),
            1 => Just(Act::Restart),
        ];
        prop::collection::vec(act, 0..200)
    }

    fn keys(count: usize) -> Vec<WalKey> {
        (0..count).map(|index| WalKey::new("data", &format!("w{index}"))).collect()
    }

    fn restarted(worlds: &[World], keys: &[WalKey], most: u16) -> Turns {
        let turns = Turns::new(most, 1);
        let under_way = worlds.iter().zip(keys).filter(|(world, _)| world.under_way);
        turns.count(under_way.map(|(_, key)| key.clone()));
        turns
    }

    fn act(act: Act, worlds: &mut [World], keys: &[WalKey], turns: &mut Turns, most: u16) {
        match act {
            Act::Reconcile(index) => worlds[index].reconcile(&keys[index], turns),
            Act::SearchDone(index) => worlds[index].search.complete = true,
            Act::IndexerDone(index) => worlds[index].indexer.complete = true,
            Act::Approve(index) => worlds[index].approved = true,
            Act::Suspend(index, suspended) => worlds[index].suspended = suspended,
            Act::Restart => *turns = restarted(worlds, keys, most),
        }
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_are_under_way_and_all_that_are_approved_get_done(
            serving in prop::collection::vec(any::<bool>(), 1..6), most in 1_u16..4, sequence in acts(5),
        ) {
            let keys = keys(serving.len());
            let mut worlds: Vec<_> = serving.iter().map(|serving| World::old(false, *serving)).collect();
            let mut turns = restarted(&worlds, &keys, most);
            // One that is suspended in the middle of it stays mixed without a turn.
            let mut stopped = vec![false; worlds.len()];
            for next in sequence {
                match next {
                    Act::Reconcile(index) | Act::SearchDone(index) | Act::IndexerDone(index) | Act::Approve(index)
                        if index >= worlds.len() => continue,
                    Act::Suspend(index, _) if index >= worlds.len() => continue,
                    Act::Suspend(index, true) => stopped[index] = true,
                    _ => {}
                }
                let before: Vec<_> = worlds.iter().map(|world| (world.search.release, world.indexer.release)).collect();
                act(next, &mut worlds, &keys, &mut turns, most);
                for (world, before) in worlds.iter().zip(before) {
                    let rolled = before != (world.search.release, world.indexer.release);
                    prop_assert!(!rolled || world.permission() == Permission::Granted && world.under_way);
                }
                let under_way = worlds.iter().filter(|world| world.under_way).count();
                prop_assert!(under_way <= usize::from(most), "{under_way} are under way");
                let mixed = worlds.iter().zip(&stopped).filter(|(world, stopped)| world.is_mixed() && !**stopped);
                prop_assert!(mixed.count() <= usize::from(most));
                prop_assert!(worlds.iter().all(|world| world.approved || world.search.release == "old"));
            }
            for world in &mut worlds {
                (world.approved, world.suspended) = (true, false);
            }
            for _ in 0..keys.len() * 8 {
                for (world, key) in worlds.iter_mut().zip(&keys) {
                    world.reconcile(key, &turns);
                    world.search.complete = true;
                    world.indexer.complete = true;
                }
            }
            prop_assert!(worlds.iter().all(World::is_done), "{worlds:?}");
        }
    }

    #[test]
    fn nothing_is_changed_before_it_is_approved_and_its_turn_is_written_down() {
        let mut world = World::old(false, true);
        assert_eq!(world.step(), Step::Hold);
        world.approved = true;
        assert_eq!(world.step(), Step::Queue);
        assert!(!Step::Queue.rolls_search() && !Step::Queue.rolls_indexer());
        world.under_way = true;
        assert_eq!(world.step(), Step::RollSearch);
    }

    #[test]
    fn an_approval_that_is_withdrawn_stops_a_wal_where_it_is() {
        let mut world = World { under_way: true, ..World::old(true, true) };
        world.search.release = NEW;
        assert_eq!(world.step(), Step::RollIndexer);
        world.approved = false;
        assert_eq!(world.step(), Step::Hold);
    }

    #[test]
    fn a_wal_that_is_suspended_stops_where_it_is_and_gives_its_turn_to_the_next() {
        let [a, b] = ["a", "b"].map(|name| WalKey::new("data", name));
        let turns = Turns::new(1, 0);
        let (mut first, mut second) = (World::old(true, true), World::old(true, true));
        first.reconcile(&a, &turns);
        first.reconcile(&a, &turns);
        second.reconcile(&b, &turns);
        assert_eq!((first.step(), second.step()), (Step::AwaitSearch, Step::Queue));
        first.suspended = true;
        first.reconcile(&a, &turns);
        second.reconcile(&b, &turns);
        assert_eq!((first.step(), second.step()), (Step::Hold, Step::RollSearch));
        assert_eq!((first.search.release, first.indexer.release), (NEW, "old"));
        // Nothing is left to change, only to wait for.
        let mut last = World { under_way: true, suspended: true, ..World::old(true, true) };
        (last.search.release, last.indexer.release, last.indexer.complete) = (NEW, NEW, false);
        assert_eq!(last.step(), Step::Leave);
        last.reconcile(&a, &turns);
        assert!(!last.under_way && last.step() == Step::UpToDate);
    }

    #[test]
    fn new_pods_that_do_not_become_ready_are_told_and_keep_the_turn() {
        let key = WalKey::new("data", "orders");
        let behind = Rollout { release: Some(NEW.into()), available: 1, stalled: true, ..Rollout::default() };
        let done = Rollout { release: Some(NEW.into()), available: 1, complete: true, ..Rollout::default() };
        let old = Rollout { release: Some("old".into()), ..done.clone() };
        let of = |search, indexer| Situation {
            release: NEW,
            search: Some(search),
            indexer: Some(indexer),
            permission: Permission::Granted,
            under_way: true,
        };
        for (situation, step, role) in
            [(of(&behind, &old), Step::AwaitSearch, "search"), (of(&done, &behind), Step::AwaitIndexer, "indexer")]
        {
            assert_eq!(situation.step(), step);
            assert!(step.is_under_way(), "no other WAL is given the turn");
            let verdict = situation.verdict(step, &key, false);
            assert_eq!(verdict.reason, Reason::UpgradeStalled);
            assert!(verdict.message.contains(&format!("deployment orders-{role} -n data")), "{}", verdict.message);
        }
        let getting_on = Rollout { stalled: false, ..behind.clone() };
        let verdict = of(&getting_on, &old).verdict(Step::AwaitSearch, &key, false);
        assert_eq!(verdict.reason, Reason::Upgrading);
    }

    /// It said `UpToDate`, with the Event `Upgraded`, of pods that never started.
    #[test]
    fn an_approval_that_is_withdrawn_from_an_indexer_that_does_not_start_is_no_success() {
        let key = WalKey::new("data", "orders");
        let done = Rollout { release: Some(NEW.into()), available: 1, complete: true, ..Rollout::default() };
        let behind = Rollout { complete: false, stalled: true, ..done.clone() };
        let of = |indexer| Situation {
            release: NEW,
            search: Some(&done),
            indexer: Some(indexer),
            permission: Permission::Missing,
            under_way: true,
        };
        assert_eq!((of(&behind).step(), of(&done).step()), (Step::Leave, Step::Finish));
        assert!(!Step::Leave.is_under_way(), "its turn goes to the next");
        let verdict = of(&behind).verdict(Step::Leave, &key, false);
        assert_eq!(verdict.reason, Reason::NewRelease);
        assert!(verdict.message.contains("have not all become ready; the upgrade is left"), "{}", verdict.message);
    }

    #[test]
    fn what_holds_a_wal_is_told_with_its_remedy() {
        let key = WalKey::new("data", "orders");
        let old = Rollout { release: Some("old".into()), ..Rollout::default() };
        for (permission, remedy) in [
            (
                Permission::Missing,
                "run \"kubectl annotate wal orders -n data --overwrite tidemark.dev/approve-upgrade=new\"",
            ),
            (Permission::Suspended, "while the WAL is suspended; set \"spec.suspend\" to false"),
            (Permission::Deleted, "the WAL is being deleted"),
        ] {
            let situation =
                Situation { release: NEW, search: Some(&old), indexer: Some(&old), permission, under_way: false };
            let verdict = situation.verdict(situation.step(), &key, false);
            assert!(verdict.reason == Reason::NewRelease && verdict.message.contains(remedy), "{}", verdict.message);
        }
    }

    #[test]
    fn a_wal_that_answers_no_query_is_not_waited_for() {
        let mut world = World { under_way: true, ..World::old(true, false) };
        world.search = Deployment { release: NEW, complete: false, available: false };
        assert_eq!(world.step(), Step::RollIndexer);
    }

    #[test]
    fn nobody_gets_a_turn_before_all_parts_are_counted() {
        let turns = Turns::new(1, 2);
        let key = WalKey::new("data", "orders");
        turns.count([]);
        assert!(!turns.take(&key));
        turns.count([]);
        assert!(turns.take(&key));
    }

    #[test]
    fn a_turn_that_is_given_back_goes_to_the_next_in_line() {
        let turns = Turns::new(1, 0);
        let [a, b, c] = ["a", "b", "c"].map(|name| WalKey::new("data", name));
        assert!(turns.take(&a) && !turns.take(&c) && !turns.take(&b));
        assert_eq!(turns.give_back(&a), std::slice::from_ref(&b));
        assert!(turns.give_back(&a).is_empty());
        assert!(turns.take(&b));
    }
}
