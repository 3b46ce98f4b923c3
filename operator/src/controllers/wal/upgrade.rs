//! How a new release of the operator reaches the pods: not before it is approved, and then a bounded number of WALs at a
//! time, each search first.
//!
//! Which WALs are under way is kept in the API: a WAL gets `UpgradePending` with reason `Upgrading` before anything of it is
//! changed, and keeps it until all of it is done. An operator that starts counts those first.
//!
//! A WAL whose new pods do not become ready keeps its slot: what stops it would most likely stop the others, too. After the
//! Deployment's progress deadline the reason is `UpgradeStalled` and a user has to act. One that fails after all were ready once
//! holds no slot: Kubernetes watches no deadline any more, and the WAL's other conditions report it. A WAL that is deleted or suspended, or
//! whose approval is withdrawn, stops where it is and releases its slot to the next. So does one whose new Deployment the API server
//! does not take, as nothing of it changes; it waits for a slot again each time that it is tried.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, Reason, condition, names::WalComponent};

use super::build::PROGRESS_DEADLINE_SECS;
use crate::{
    cache::{NamespacedName, RolloutStatus},
    condition_value::ConditionValue,
};

/// Whether the operator's release may roll out to a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpgradePermission {
    Granted,
    /// It is not approved.
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

/// Whether a WAL's conditions say that it is under way and makes no progress.
pub(crate) fn is_stalled(conditions: &[Condition]) -> bool {
    condition(conditions, ConditionType::UpgradePending)
        .is_some_and(|pending| pending.reason == Reason::UpgradeStalled.as_str())
}

/// What `UpgradePending` says of a WAL whose Deployment of the new release cannot be written.
pub(crate) fn blocked(release: &str, component: WalComponent) -> ConditionValue {
    let role = component.as_str();
    ConditionValue::yes(
        Reason::UpgradeStalled,
        format!(
            "the {role} Deployment of release \"{release}\" cannot be written; its pods stay as they are, and other WALs are upgraded \
             meanwhile; see the condition Applied for the cause and remove it"
        ),
    )
}

/// What `UpgradePending` says of a WAL that was under way and cannot be read any more.
pub(crate) fn interrupted() -> ConditionValue {
    ConditionValue::yes(
        Reason::UpgradeStalled,
        "the upgrade stands still: this release cannot read the WAL; its pods stay as they are, and other WALs are upgraded meanwhile; see \
         the condition Ready for the cause and remove it",
    )
}

/// What is known of a WAL's Deployments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpgradeInputs<'a> {
    /// The release that this operator builds.
    pub(crate) release: &'a str,
    pub(crate) search: Option<&'a RolloutStatus>,
    pub(crate) indexer: Option<&'a RolloutStatus>,
    pub(crate) permission: UpgradePermission,
    /// Whether the WAL's condition says that it is under way.
    pub(crate) under_way: bool,
    /// A task of the WAL that writes: it runs to its end before any pod is of another release.
    pub(crate) writing_task: Option<&'a str>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpgradeStep {
    /// Nothing: everything is of this release.
    UpToDate,
    /// Change no pod until it is approved.
    Hold,
    /// It is approved: acquire a slot, and change no pod before the status says that the WAL is under way.
    Queue,
    /// Change search, not yet the indexer.
    RollSearch,
    /// Search is of this release and not all there yet.
    AwaitSearch,
    /// Search is done: change the indexer.
    RollIndexer,
    /// The indexer is of this release and not all there yet.
    AwaitIndexer,
    /// Nothing is left to change, and the permission went before all was ready: release the slot to the next.
    Leave,
    /// All is done: release the slot to the next.
    Finish,
}

impl UpgradeStep {
    /// Whether the search Deployment may be written as it is built.
    pub(crate) fn rolls_search(self) -> bool {
        !matches!(self, Self::Hold | Self::Queue)
    }

    /// Whether the indexer's Deployment may be written as it is built.
    pub(crate) fn rolls_indexer(self) -> bool {
        matches!(self, Self::UpToDate | Self::RollIndexer | Self::AwaitIndexer | Self::Leave | Self::Finish)
    }

    /// Whether a Deployment is to be written that is of another release.
    pub(crate) fn rolls(self) -> bool {
        matches!(self, Self::RollSearch | Self::RollIndexer)
    }

    /// Whether the WAL is under way.
    pub(crate) fn is_under_way(self) -> bool {
        matches!(self, Self::RollSearch | Self::AwaitSearch | Self::RollIndexer | Self::AwaitIndexer)
    }
}

impl UpgradeInputs<'_> {
    /// What to do next.
    pub(crate) fn step(&self) -> UpgradeStep {
        let outdated = |rollout: Option<&RolloutStatus>| rollout.is_some_and(|rollout| !self.is_current(rollout));
        // Waiting protects queries. Where none is answered now, the new release may be the remedy.
        let serving = self.search.is_some_and(|search| search.available > 0);
        let search_done = self.search.is_none_or(RolloutStatus::is_rolled_out) || !serving;
        let indexer_done = self.indexer.is_none_or(RolloutStatus::is_rolled_out);
        match (outdated(self.search), outdated(self.indexer)) {
            (false, false) if !self.under_way => UpgradeStep::UpToDate,
            (true, _) | (_, true) if self.permission != UpgradePermission::Granted => UpgradeStep::Hold,
            (true, _) | (_, true) if !self.under_way => UpgradeStep::Queue,
            (true, _) => UpgradeStep::RollSearch,
            (false, false) if search_done && indexer_done => UpgradeStep::Finish,
            (false, false) if self.permission != UpgradePermission::Granted => UpgradeStep::Leave,
            (false, _) if !search_done => UpgradeStep::AwaitSearch,
            (false, true) => UpgradeStep::RollIndexer,
            (false, false) => UpgradeStep::AwaitIndexer,
        }
    }

    /// What `UpgradePending` says at this step. `held`: a change of the spec waits, too.
    pub(crate) fn condition_value(&self, step: UpgradeStep, key: &NamespacedName, held: bool) -> ConditionValue {
        let (release, old) = (self.release, self.old());
        let held = if held { ", and so does the latest change of the spec" } else { "" };
        let (namespace, name) = (&key.namespace, &key.name);
        match step {
            UpgradeStep::UpToDate | UpgradeStep::Finish => {
                ConditionValue::no(Reason::UpToDate, format!("the pods are of release \"{release}\""))
            }
            UpgradeStep::Hold => {
                let (waits, remedy) = match self.permission {
                    UpgradePermission::Suspended => {
                        ("while the WAL is suspended", "set \"spec.suspend\" to false".to_owned())
                    }
                    UpgradePermission::Deleted => {
                        ("for nothing: the WAL is being deleted", "no action is needed".to_owned())
                    }
                    UpgradePermission::Missing | UpgradePermission::Granted => {
                        let annotation = format!("tidemark.dev/approve-upgrade={release}");
                        let run =
                            format!("run \"kubectl annotate wal {name} -n {namespace} --overwrite {annotation}\"");
                        ("for approval", run)
                    }
                };
                ConditionValue::yes(
                    Reason::NewRelease,
                    format!(
                        "the pods are of release \"{old}\", the operator brings \"{release}\"; it waits {waits}{held}; {remedy}"
                    ),
                )
            }
            UpgradeStep::Leave => ConditionValue::yes(
                Reason::NewRelease,
                format!(
                    "the pods are of release \"{release}\" and have not all become ready; the upgrade is left as it is, and \
                     the next WAL is upgraded; see \"kubectl get pods -n {namespace}\" and remove the cause"
                ),
            ),
            UpgradeStep::Queue => {
                let until = match self.writing_task {
                    Some(task) => format!("task \"{task}\" has ended"),
                    None => "other WALs are done".to_owned(),
                };
                ConditionValue::yes(
                    Reason::NewRelease,
                    format!(
                        "the pods are of release \"{old}\", release \"{release}\" is approved; it waits{held} until {until}"
                    ),
                )
            }
            UpgradeStep::AwaitSearch if self.search.is_some_and(|search| search.stalled) => {
                self.stalled(key, WalComponent::Search, self.search, "search answers from the old ones")
            }
            UpgradeStep::AwaitIndexer if self.indexer.is_some_and(|indexer| indexer.stalled) => {
                self.stalled(key, WalComponent::Indexer, self.indexer, "the old one indexes as long as it runs")
            }
            UpgradeStep::RollSearch | UpgradeStep::AwaitSearch => ConditionValue::yes(
                Reason::Upgrading,
                format!("search is being upgraded to release \"{release}\", the indexer follows"),
            ),
            UpgradeStep::RollIndexer | UpgradeStep::AwaitIndexer => ConditionValue::yes(
                Reason::Upgrading,
                format!("the indexer is being upgraded to release \"{release}\""),
            ),
        }
    }

    fn stalled(
        &self,
        key: &NamespacedName,
        component: WalComponent,
        rollout: Option<&RolloutStatus>,
        meanwhile: &str,
    ) -> ConditionValue {
        let (release, role) = (self.release, component.as_str());
        let (namespace, deployment) = (&key.namespace, component.child_name(&key.name));
        let fact = if rollout.is_some_and(|rollout| rollout.paused) {
            format!("the Deployment of the {role} pods of release \"{release}\" is paused")
        } else {
            format!("the {role} pods of release \"{release}\" have not become ready for {PROGRESS_DEADLINE_SECS} s")
        };
        ConditionValue::yes(
            Reason::UpgradeStalled,
            format!(
                "{fact}; {meanwhile}, and other WALs wait; see \"kubectl describe deployment {deployment} -n {namespace}\" and remove the cause, or \
                 suspend the WAL or withdraw its approval, so that the next WAL is upgraded"
            ),
        )
    }

    fn is_current(&self, rollout: &RolloutStatus) -> bool {
        rollout.release.as_deref() == Some(self.release)
    }

    /// The release of the pods that are not of this one.
    fn old(&self) -> &str {
        let outdated = [self.search, self.indexer].into_iter().flatten().find(|rollout| !self.is_current(rollout));
        outdated.and_then(|rollout| rollout.release.as_deref()).unwrap_or("unknown")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upgrade_slots::UpgradeSlots;

    const NEW: &str = "new";

    /// A Deployment as the model of the cluster has it.
    #[derive(Clone, Debug)]
    struct DeploymentModel {
        release: &'static str,
        complete: bool,
        available: bool,
    }

    impl DeploymentModel {
        fn rollout(&self) -> RolloutStatus {
            RolloutStatus {
                release: Some(self.release.into()),
                complete: self.complete,
                available: i32::from(self.available),
                ..RolloutStatus::default()
            }
        }
    }

    #[derive(Clone, Debug)]
    struct WalModel {
        approved: bool,
        suspended: bool,
        under_way: bool,
        search: DeploymentModel,
        indexer: DeploymentModel,
    }

    impl WalModel {
        fn old(approved: bool, serving: bool) -> Self {
            let old = DeploymentModel { release: "old", complete: true, available: serving };
            Self { approved, suspended: false, under_way: false, search: old.clone(), indexer: old }
        }

        fn permission(&self) -> UpgradePermission {
            match (self.approved, self.suspended) {
                (false, _) => UpgradePermission::Missing,
                (true, true) => UpgradePermission::Suspended,
                (true, false) => UpgradePermission::Granted,
            }
        }

        fn step(&self) -> UpgradeStep {
            let (search, indexer) = (self.search.rollout(), self.indexer.rollout());
            let inputs = UpgradeInputs {
                release: NEW,
                search: Some(&search),
                indexer: Some(&indexer),
                permission: self.permission(),
                under_way: self.under_way,
                writing_task: None,
            };
            inputs.step()
        }

        /// One reconciliation, as the controller does it.
        fn reconcile(&mut self, key: &NamespacedName, slots: &UpgradeSlots) {
            let step = self.step();
            let has_slot = step == UpgradeStep::Queue && slots.acquire(key);
            if step.rolls_search() && self.search.release != NEW {
                self.search = DeploymentModel { release: NEW, complete: false, available: self.search.available };
            }
            if step.rolls_indexer() && self.indexer.release != NEW {
                assert!(self.search.release == NEW, "search is first");
                assert!(self.search.complete || !self.search.available, "search is waited for");
                self.indexer = DeploymentModel { release: NEW, complete: false, available: self.indexer.available };
            }
            self.under_way = has_slot || step.is_under_way();
            if !(has_slot || step.is_under_way() || step == UpgradeStep::Queue) {
                slots.release(key);
            }
        }

        fn is_mixed(&self) -> bool {
            let new = |deployment: &DeploymentModel| deployment.release == NEW;
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
    enum ModelAction {
        Reconcile(usize),
        SearchDone(usize),
        IndexerDone(usize),
        Approve(usize),
        Suspend(usize, bool),
        Restart,
    }

    fn acts(wals: usize) -> impl Strategy<Value = Vec<ModelAction>> {
        let act = prop_oneof![
            6 => (0..wals).prop_map(ModelAction::Reconcile),
            2 => (0..wals).prop_map(ModelAction::SearchDone),
            2 => (0..wals).prop_map(ModelAction::IndexerDone),
            1 => (0..wals).prop_map(ModelAction::Approve),
            1 => (0..wals, any::<bool>()).prop_map(|(index, suspended)| ModelAction::Suspend(index, suspended)),
            1 => Just(ModelAction::Restart),
        ];
        prop::collection::vec(act, 0..200)
    }

    fn keys(count: usize) -> Vec<NamespacedName> {
        (0..count).map(|index| NamespacedName::new("data", &format!("w{index}"))).collect()
    }

    fn restarted(worlds: &[WalModel], keys: &[NamespacedName], limit: u16) -> UpgradeSlots {
        let slots = UpgradeSlots::new(limit, 1);
        let under_way = worlds.iter().zip(keys).filter(|(world, _)| world.under_way);
        slots.count_under_way(under_way.map(|(_, key)| key.clone()));
        slots
    }

    fn act(act: ModelAction, worlds: &mut [WalModel], keys: &[NamespacedName], slots: &mut UpgradeSlots, limit: u16) {
        match act {
            ModelAction::Reconcile(index) => worlds[index].reconcile(&keys[index], slots),
            ModelAction::SearchDone(index) => worlds[index].search.complete = true,
            ModelAction::IndexerDone(index) => worlds[index].indexer.complete = true,
            ModelAction::Approve(index) => worlds[index].approved = true,
            ModelAction::Suspend(index, suspended) => worlds[index].suspended = suspended,
            ModelAction::Restart => *slots = restarted(worlds, keys, limit),
        }
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_are_under_way_and_all_that_are_approved_get_done(
            serving in prop::collection::vec(any::<bool>(), 1..6), limit in 1_u16..4, sequence in acts(5),
        ) {
            let keys = keys(serving.len());
            let mut worlds: Vec<_> = serving.iter().map(|serving| WalModel::old(false, *serving)).collect();
            let mut slots = restarted(&worlds, &keys, limit);
            // One that is suspended in the middle of it stays mixed without a slot.
            let mut stopped = vec![false; worlds.len()];
            for next in sequence {
                match next {
                    ModelAction::Reconcile(index) | ModelAction::SearchDone(index) | ModelAction::IndexerDone(index) | ModelAction::Approve(index)
                        if index >= worlds.len() => continue,
                    ModelAction::Suspend(index, _) if index >= worlds.len() => continue,
                    ModelAction::Suspend(index, true) => stopped[index] = true,
                    _ => {}
                }
                let before: Vec<_> = worlds.iter().map(|world| (world.search.release, world.indexer.release)).collect();
                act(next, &mut worlds, &keys, &mut slots, limit);
                for (world, before) in worlds.iter().zip(before) {
                    let rolled = before != (world.search.release, world.indexer.release);
                    prop_assert!(!rolled || world.permission() == UpgradePermission::Granted && world.under_way);
                }
                let under_way = worlds.iter().filter(|world| world.under_way).count();
                prop_assert!(under_way <= usize::from(limit), "{under_way} are under way");
                let mixed = worlds.iter().zip(&stopped).filter(|(world, stopped)| world.is_mixed() && !**stopped);
                prop_assert!(mixed.count() <= usize::from(limit));
                prop_assert!(worlds.iter().all(|world| world.approved || world.search.release == "old"));
            }
            for world in &mut worlds {
                (world.approved, world.suspended) = (true, false);
            }
            for _ in 0..keys.len() * 8 {
                for (world, key) in worlds.iter_mut().zip(&keys) {
                    world.reconcile(key, &slots);
                    world.search.complete = true;
                    world.indexer.complete = true;
                }
            }
            prop_assert!(worlds.iter().all(WalModel::is_done), "{worlds:?}");
        }
    }

    #[test]
    fn nothing_is_changed_before_it_is_approved_and_its_slot_is_written_down() {
        let mut world = WalModel::old(false, true);
        assert_eq!(world.step(), UpgradeStep::Hold);
        world.approved = true;
        assert_eq!(world.step(), UpgradeStep::Queue);
        assert!(!UpgradeStep::Queue.rolls_search() && !UpgradeStep::Queue.rolls_indexer());
        world.under_way = true;
        assert_eq!(world.step(), UpgradeStep::RollSearch);
    }

    #[test]
    fn an_approval_that_is_withdrawn_stops_a_wal_where_it_is() {
        let mut world = WalModel { under_way: true, ..WalModel::old(true, true) };
        world.search.release = NEW;
        assert_eq!(world.step(), UpgradeStep::RollIndexer);
        world.approved = false;
        assert_eq!(world.step(), UpgradeStep::Hold);
    }

    #[test]
    fn a_wal_that_is_suspended_stops_where_it_is_and_releases_its_slot_to_the_next() {
        let [a, b] = ["a", "b"].map(|name| NamespacedName::new("data", name));
        let slots = UpgradeSlots::new(1, 0);
        let (mut first, mut second) = (WalModel::old(true, true), WalModel::old(true, true));
        first.reconcile(&a, &slots);
        first.reconcile(&a, &slots);
        second.reconcile(&b, &slots);
        assert_eq!((first.step(), second.step()), (UpgradeStep::AwaitSearch, UpgradeStep::Queue));
        first.suspended = true;
        first.reconcile(&a, &slots);
        second.reconcile(&b, &slots);
        assert_eq!((first.step(), second.step()), (UpgradeStep::Hold, UpgradeStep::RollSearch));
        assert_eq!((first.search.release, first.indexer.release), (NEW, "old"));
        // Nothing is left to change, only to wait for.
        let mut last = WalModel { under_way: true, suspended: true, ..WalModel::old(true, true) };
        (last.search.release, last.indexer.release, last.indexer.complete) = (NEW, NEW, false);
        assert_eq!(last.step(), UpgradeStep::Leave);
        last.reconcile(&a, &slots);
        assert!(!last.under_way && last.step() == UpgradeStep::UpToDate);
    }

    #[test]
    fn new_pods_that_do_not_become_ready_are_reported_and_keep_the_slot() {
        let key = NamespacedName::new("data", "orders");
        let behind =
            RolloutStatus { release: Some(NEW.into()), available: 1, stalled: true, ..RolloutStatus::default() };
        let done =
            RolloutStatus { release: Some(NEW.into()), available: 1, complete: true, ..RolloutStatus::default() };
        let old = RolloutStatus { release: Some("old".into()), ..done.clone() };
        let of = |search, indexer| UpgradeInputs {
            release: NEW,
            search: Some(search),
            indexer: Some(indexer),
            permission: UpgradePermission::Granted,
            under_way: true,
            writing_task: None,
        };
        for (inputs, step, role) in [
            (of(&behind, &old), UpgradeStep::AwaitSearch, "search"),
            (of(&done, &behind), UpgradeStep::AwaitIndexer, "indexer"),
        ] {
            assert_eq!(inputs.step(), step);
            assert!(step.is_under_way(), "no other WAL gets the slot");
            let value = inputs.condition_value(step, &key, false);
            assert_eq!(value.reason, Reason::UpgradeStalled);
            assert!(value.message.contains(&format!("deployment orders-{role} -n data")), "{}", value.message);
        }
        let getting_on = RolloutStatus { stalled: false, ..behind.clone() };
        let value = of(&getting_on, &old).condition_value(UpgradeStep::AwaitSearch, &key, false);
        assert_eq!(value.reason, Reason::Upgrading);
    }

    /// It said `UpToDate`, with the Event `Upgraded`, of pods that never started.
    #[test]
    fn an_approval_that_is_withdrawn_from_an_indexer_that_does_not_start_is_no_success() {
        let key = NamespacedName::new("data", "orders");
        let done =
            RolloutStatus { release: Some(NEW.into()), available: 1, complete: true, ..RolloutStatus::default() };
        let behind = RolloutStatus { complete: false, stalled: true, ..done.clone() };
        let of = |indexer| UpgradeInputs {
            release: NEW,
            search: Some(&done),
            indexer: Some(indexer),
            permission: UpgradePermission::Missing,
            under_way: true,
            writing_task: None,
        };
        assert_eq!((of(&behind).step(), of(&done).step()), (UpgradeStep::Leave, UpgradeStep::Finish));
        assert!(!UpgradeStep::Leave.is_under_way(), "its slot goes to the next");
        let value = of(&behind).condition_value(UpgradeStep::Leave, &key, false);
        assert_eq!(value.reason, Reason::NewRelease);
        assert!(value.message.contains("have not all become ready; the upgrade is left"), "{}", value.message);
    }

    #[test]
    fn what_holds_a_wal_is_reported_with_its_remedy() {
        let key = NamespacedName::new("data", "orders");
        let old = RolloutStatus { release: Some("old".into()), ..RolloutStatus::default() };
        for (permission, remedy) in [
            (
                UpgradePermission::Missing,
                "run \"kubectl annotate wal orders -n data --overwrite tidemark.dev/approve-upgrade=new\"",
            ),
            (UpgradePermission::Suspended, "while the WAL is suspended; set \"spec.suspend\" to false"),
            (UpgradePermission::Deleted, "the WAL is being deleted"),
        ] {
            let inputs = UpgradeInputs {
                release: NEW,
                search: Some(&old),
                indexer: Some(&old),
                permission,
                under_way: false,
                writing_task: None,
            };
            let value = inputs.condition_value(inputs.step(), &key, false);
            assert!(value.reason == Reason::NewRelease && value.message.contains(remedy), "{}", value.message);
        }
    }

    /// Kubernetes reports no further deadline of a roll-out that was complete once, so nothing would end such a wait.
    #[test]
    fn pods_that_fail_after_their_roll_out_hold_no_slot() {
        let done =
            RolloutStatus { release: Some(NEW.into()), available: 1, complete: true, ..RolloutStatus::default() };
        let degraded = RolloutStatus { complete: false, rolled_out: true, ..done.clone() };
        let old = RolloutStatus { release: Some("old".into()), ..done.clone() };
        for (search, indexer, step) in [
            (&degraded, &old, UpgradeStep::RollIndexer),
            (&degraded, &done, UpgradeStep::Finish),
            (&done, &degraded, UpgradeStep::Finish),
        ] {
            let inputs = UpgradeInputs {
                release: NEW,
                search: Some(search),
                indexer: Some(indexer),
                permission: UpgradePermission::Granted,
                under_way: true,
                writing_task: None,
            };
            assert_eq!(inputs.step(), step);
        }
    }

    #[test]
    fn a_wal_that_answers_no_query_is_not_waited_for() {
        let mut world = WalModel { under_way: true, ..WalModel::old(true, false) };
        world.search = DeploymentModel { release: NEW, complete: false, available: false };
        assert_eq!(world.step(), UpgradeStep::RollIndexer);
    }
}
