//! A second kind of resource beside the WALs, small and for tests alone: what the kinds share serves it as it is.
//!
//! A note belongs to a WAL, as a task will. It owns one ConfigMap, which bears that WAL's label.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{core::v1::ConfigMap, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    CustomResource, Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DeserializeGuard},
    runtime::{controller::Action, reflector::store},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_crds::{ConditionKind, Reason, Wal, condition, names, set_condition};

use super::{
    fake_world::{FakeWorld, eventually, settings, settled, wal_spec},
    kind_controller::{KindController, ReconcileError, run_kind},
    unreadable_object,
    wal::WalController,
};
use crate::{
    cache::NamespacedName,
    child_metadata::child_metadata,
    clock,
    condition_tally::ConditionTally,
    condition_value::ConditionValue,
    context::ReconcileContext,
    desired_object::DesiredObject,
    finalizer::ManagedFinalizer,
    metrics::{ConditionGauges, ConditionLabels},
    object_applier::{ApplyError, ObjectApplier},
    object_owner::ObjectOwner,
    problem_events::problem_events,
    reconcile_queues::ReconcileQueues,
    status_cache::StatusCache,
    status_writer::{ReportedStatus, StatusWriter, WriteTiming},
    upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

const NOTE_KIND: &str = "WALNote";
const NOTE_MANAGER: &str = "test-note";
const NOTE_FINALIZER: ManagedFinalizer =
    ManagedFinalizer { name: "tidemark.dev/test-note", field_manager: NOTE_MANAGER };

#[derive(Clone, Debug, CustomResource, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "WALNote",
    root = "Note",
    plural = "walnotes",
    namespaced,
    status = "NoteStatus",
    schema = "disabled"
)]
struct NoteSpec {
    /// The WAL that it belongs to.
    wal: String,
    text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NoteStatus {
    observed_generation: Option<i64>,
    conditions: Vec<Condition>,
}

impl ReportedStatus for NoteStatus {
    fn without_counters(&self) -> Self {
        self.clone()
    }

    fn with_clock_of(&self, _before: &Self) -> Self {
        self.clone()
    }

    fn observed_time(&self) -> Option<jiff::Timestamp> {
        None
    }
}

#[derive(Clone, Copy)]
struct NoteWritten;

impl ConditionKind for NoteWritten {
    const ALL: &'static [Self] = &[Self];

    fn type_name(self) -> &'static str {
        "Written"
    }
}

struct NoteController {
    context: ReconcileContext,
    statuses: StatusCache<Note>,
    tally: ConditionTally,
}

impl KindController for NoteController {
    type Object = Note;

    const NAME: &'static str = "note";

    async fn reconcile(&self, note: &DeserializeGuard<Note>) -> Result<Action, ReconcileError> {
        let client = &self.context.shared.client;
        match &note.0 {
            Ok(note) => self.write(note).await?,
            Err(invalid) => {
                let values = |message: &str, _: &[Condition]| {
                    vec![(NoteWritten, ConditionValue::no(Reason::SpecInvalid, message))]
                };
                let reported =
                    unreadable_object::report::<Note, _>(invalid, client, values, NOTE_MANAGER, None, clock::now());
                reported.await.map_err(ReconcileError::Status)?;
            }
        }
        Ok(Action::await_change())
    }

    fn is_own_write(&self, key: &NamespacedName, shown: &Note) -> bool {
        self.statuses.is_own_write(key, shown)
    }

    fn listed(&self, _notes: &[Arc<DeserializeGuard<Note>>]) {}

    fn forget(&self, key: &NamespacedName) {
        self.statuses.forget(key);
        self.tally.forget(key);
    }
}

impl NoteController {
    async fn write(&self, note: &Note) -> Result<(), ReconcileError> {
        let ReconcileContext { shared, cache, .. } = &self.context;
        let (client, key, uid) = (&shared.client, NamespacedName::of(note.meta()), note.uid().unwrap_or_default());
        let resource = || ApiResource::erase::<Note>(&());
        let deleting = note.metadata.deletion_timestamp.is_some();
        let owner =
            ObjectOwner { kind: NOTE_KIND, resource, key: &key, uid: &uid, deleting, field_manager: NOTE_MANAGER };
        let applier = ObjectApplier { client, cache, owner };
        if deleting {
            let wal = NamespacedName::new(&key.namespace, &note.spec.wal);
            applier.remove_unwanted(&cache.owned(&wal), &[]).await?;
            NOTE_FINALIZER.set::<Note>(client, note.meta(), false).await.map_err(ReconcileError::Finalizer)?;
            return Ok(());
        }
        if !NOTE_FINALIZER.is_on(note.meta()) {
            NOTE_FINALIZER.set::<Note>(client, note.meta(), true).await.map_err(ReconcileError::Finalizer)?;
        }
        let written = applier.ensure(DesiredObject::ConfigMap(&child(note))).await;
        let ConditionValue { status, reason, message } = match &written {
            Ok(_) => ConditionValue::yes(Reason::Ready, "it is written"),
            Err(error @ ApplyError::NameTaken { .. }) => ConditionValue::no(Reason::NameTaken, error.to_string()),
            Err(error) => ConditionValue::unknown(Reason::Internal, error.to_string()),
        };
        let before = self.statuses.status(&key, note);
        let mut after = before.clone();
        after.observed_generation = note.metadata.generation;
        let generation = note.metadata.generation;
        set_condition(&mut after.conditions, NoteWritten, status, reason, &message, generation, clock::now());
        let writer = StatusWriter { client, statuses: &self.statuses, field_manager: NOTE_MANAGER };
        if writer.update(owner, &before, &after).await.map_err(ReconcileError::Status)? == WriteTiming::Now {
            let events = problem_events(before.conditions.iter(), after.conditions.iter());
            shared.events.publish(&note.object_ref(&()), &events).await;
        }
        self.tally.count(&key, &after.conditions);
        written?;
        Ok(())
    }
}

fn child(note: &Note) -> ConfigMap {
    let labels = [(names::LABEL_MANAGED_BY, names::MANAGED_BY), (names::LABEL_WAL, &*note.spec.wal)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (namespace, owner) = (note.namespace().unwrap_or_default(), note.controller_owner_ref(&()).unwrap());
    ConfigMap {
        metadata: child_metadata(&namespace, &owner, format!("{}-note", note.name_any()), labels.into()),
        data: Some([("text".to_owned(), note.spec.text.clone())].into()),
        ..ConfigMap::default()
    }
}

/// The controllers of both kinds, in one process, on one API server.
struct TwoKinds {
    world: FakeWorld,
    notes: ConditionGauges,
}

impl TwoKinds {
    fn start() -> Self {
        let (mut world, notes) = (FakeWorld::new(), ConditionGauges::default());
        let mut queues = ReconcileQueues::default();
        let [wals, changed] = [names::KIND, NOTE_KIND].map(|kind| queues.open(kind, None));
        let context = world.context(queues, settings());
        let tally = ConditionTally::new(notes.clone());
        let note = NoteController { context: context.clone(), statuses: StatusCache::default(), tally };
        let (slots, tasks) = (Arc::new(UpgradeSlots::new(1, 1)), world.follow_tasks(&context));
        let wal = WalController::new(context.clone(), slots, WritingTurns::default(), tasks);
        world.run(context, async |shared, listed| {
            tokio::join!(
                run_kind(wal, store(), shared.clone(), None, wals, listed.clone()),
                run_kind(note, store(), shared, None, changed, listed),
            );
        });
        Self { world, notes }
    }

    async fn make(&self, note: &str, spec: Value) {
        self.world.make::<Note>(note, spec).await;
    }

    /// What the child of a note says.
    async fn text(&self, note: &str) -> Option<String> {
        let child = self.world.api::<ConfigMap>().get_opt(&format!("{note}-note")).await.unwrap()?;
        child.data?.remove("text")
    }

    /// Waits until a note's condition is about its present spec and has this status and reason, and gives its message.
    async fn is(&self, note: &str, wanted: (&str, &str)) -> String {
        eventually(&format!("{note} is {wanted:?}"), async || {
            let note = self.world.untyped::<Note>().get(note).await.unwrap();
            let conditions: Vec<Condition> =
                serde_json::from_value(note.data.pointer("/status/conditions")?.clone()).unwrap();
            let found = condition(&conditions, NoteWritten)?;
            let current = found.observed_generation == note.metadata.generation;
            (current && (&*found.status, &*found.reason) == wanted).then(|| found.message.clone())
        })
        .await
    }

    /// How many notes count as written.
    fn ready_notes(&self) -> i64 {
        let (condition, status, reason) = ("Written".to_owned(), "True".to_owned(), "Ready");
        self.notes.get_or_create(&ConditionLabels { condition, status, reason }).get()
    }

    /// Waits until nothing happens any more, and gives how often WALs and notes were reconciled, and the number of writes.
    async fn settled(&self) -> (u32, u32, usize) {
        let look = || (self.world.reconciled("wal"), self.world.reconciled("note"), self.world.server.writes());
        settled(look).await
    }
}

fn text(text: &str) -> Value {
    json!({"wal": "orders", "text": text})
}

/// The note is called like its WAL.
async fn a_wal_and_its_note() -> TwoKinds {
    let world = TwoKinds::start();
    world.world.make::<Wal>("orders", wal_spec()).await;
    world.make("orders", text("one")).await;
    assert_eq!(world.is("orders", ("True", "Ready")).await, "it is written");
    eventually("the WAL has a status", async || {
        world.world.api::<Wal>().get("orders").await.unwrap().status.filter(|status| !status.conditions.is_empty())
    })
    .await;
    world
}

#[tokio::test(start_paused = true)]
async fn two_kinds_keep_objects_of_the_same_name_apart() {
    let world = a_wal_and_its_note().await;
    let (wals, notes, writes) = world.settled().await;
    println!("{wals} reconciliations of WALs, {notes} of notes, {writes} writes until both were settled");
    let note = world.world.api::<Note>().get("orders").await.unwrap();
    assert_eq!(note.finalizers(), [NOTE_FINALIZER.name]);
    let wal = world.world.api::<Wal>().get("orders").await.unwrap();
    assert_eq!((wal.finalizers().len(), wal.status.unwrap().conditions.len()), (0, 9));
    // Both children bear the label of the WAL; each has the owner that made it.
    for (child, kind, uid) in [
        ("orders-note", NOTE_KIND, note.metadata.uid.clone()),
        ("orders-control", names::KIND, wal.metadata.uid.clone()),
    ] {
        let child = world.world.api::<ConfigMap>().get(child).await.unwrap();
        assert_eq!(child.labels()[names::LABEL_WAL], "orders");
        let owner = &child.owner_references()[0];
        assert_eq!((&*owner.kind, Some(&owner.uid)), (kind, uid.as_ref()));
    }
    assert_eq!(world.ready_notes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_second_kind_writes_itself_is_no_reason_to_look_again() {
    let world = a_wal_and_its_note().await;
    let before = world.settled().await;
    let patch = Patch::Merge(json!({"spec": {"text": "two"}}));
    world.world.api::<Note>().patch("orders", &PatchParams::default(), &patch).await.unwrap();
    eventually("the child is changed", async || world.text("orders").await.filter(|text| text == "two")).await;
    let after = world.settled().await;
    // The user's patch, the child and the status.
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (0, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_somebody_changes_or_removes_is_the_business_of_its_owner() {
    let world = a_wal_and_its_note().await;
    world.make("later", text("later")).await;
    world.is("later", ("True", "Ready")).await;
    let before = world.settled().await;
    let children = world.world.api::<ConfigMap>();
    let patch = Patch::Merge(json!({"data": {"text": "theirs"}}));
    children.patch("later-note", &PatchParams::default(), &patch).await.unwrap();
    eventually("the child is repaired", async || world.text("later").await.filter(|text| text == "later")).await;
    children.delete("later-note", &DeleteParams::default()).await.unwrap();
    eventually("the child is made again", async || world.text("later").await).await;
    let after = world.settled().await;
    assert_eq!(after.1 - before.1, 2, "the note was looked at twice, and the other note never");
    assert_eq!(after.2 - before.2, 4, "two writes by others, two by the note's controller");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_and_an_object_that_cannot_be_read_are_reported_and_delay_no_other() {
    let world = a_wal_and_its_note().await;
    let theirs = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("second-note".to_owned()), ..Default::default() },
        data: Some(BTreeMap::new()),
        ..ConfigMap::default()
    };
    world.world.api::<ConfigMap>().create(&PostParams::default(), &theirs).await.unwrap();
    world.make("second", text("second")).await;
    world.make("newer", json!({"wal": "orders", "text": ["a list"]})).await;
    let message = world.is("second", ("False", "NameTaken")).await;
    assert!(message.contains("the one of this WALNote is not created"), "{message}");
    let message = world.is("newer", ("False", "SpecInvalid")).await;
    assert!(message.contains("the WALNote cannot be read"), "{message}");
    world.make("third", text("third")).await;
    world.is("third", ("True", "Ready")).await;
    world.world.api::<ConfigMap>().delete("second-note", &DeleteParams::default()).await.unwrap();
    world.is("second", ("True", "Ready")).await;
    assert_eq!(world.text("second").await.as_deref(), Some("second"));
    let mut events = world.world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    events.retain(|event| event.regarding.as_ref().is_some_and(|about| about.kind.as_deref() == Some(NOTE_KIND)));
    let reasons: Vec<_> = events.iter().map(|event| event.reason.as_deref().unwrap()).collect();
    assert_eq!(reasons, ["NameTaken"], "once, however often it was tried");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_goes_with_its_children_and_leaves_the_wal_of_its_name_alone() {
    let world = a_wal_and_its_note().await;
    let before = world.settled().await;
    world.world.api::<Note>().delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("the note is gone", async || {
        world.world.api::<Note>().get_opt("orders").await.unwrap().is_none().then_some(())
    })
    .await;
    let after = world.settled().await;
    assert_eq!(world.text("orders").await, None);
    assert!(world.world.api::<ConfigMap>().get_opt("orders-control").await.unwrap().is_some());
    assert_eq!(after.2 - before.2, 3, "the deletion, the child, the finalizer");
    assert_eq!(world.ready_notes(), 0, "it is counted no more");
}
