//! The model of the object store: the buckets that all processes share, the store's clock, and every operation that took effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep},
};

use crate::{
    chain_record::{boundary_number, manifest_number},
    checker::INDEX,
    fault_schedule::FaultSchedule,
    model::{LOG, META},
    refusals::{RefusalKind, StoreRefusals},
    rng::SimRng,
    totals::RunTotals,
    trace::SimTrace,
};

/// True time at the start of every simulation, milliseconds since the Unix epoch.
pub(crate) const START: u64 = 1_700_000_000_000;

/// How long a recovery is at least.
const RECOVERY_STEP: Duration = Duration::from_hours(12);

/// Who put the objects that are no process's.
pub(crate) const STRANGER: &str = "stranger";

/// User metadata of an object.
pub type ObjectMetadata = BTreeMap<String, String>;

/// An object as the store has it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Store time in milliseconds.
    pub stamp: u64,
    /// The body.
    pub body: Bytes,
    /// User metadata.
    pub metadata: ObjectMetadata,
    /// Entity tag.
    pub tag: u64,
}

/// What an operation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// The object is new.
    Created,
    /// The key had another body before.
    Replaced,
    /// The object is gone.
    Deleted,
}

/// An operation that took effect. Refused and lost ones leave no event.
#[derive(Clone, Debug)]
pub struct StoreEvent {
    /// True time in milliseconds.
    pub at: u64,
    /// The bucket.
    pub bucket: String,
    /// The full key.
    pub key: String,
    /// What happened.
    pub change: StoreChange,
    /// The object, as it is now (as it was, when it was deleted).
    pub object: StoredObject,
    /// The process that sent it.
    pub by: String,
}

impl StoreEvent {
    fn new(at: u64, (by, bucket, key): (&str, &str, &str), change: StoreChange, object: StoredObject) -> Self {
        Self { at, bucket: bucket.to_owned(), key: key.to_owned(), change, object, by: by.to_owned() }
    }
}

/// A write that was sent.
#[derive(Clone, Debug)]
pub(crate) enum StoreWrite {
    Put {
        body: Bytes,
        metadata: ObjectMetadata,
        create: bool,
    },
    /// Takes the object with this stamp only, or any.
    Delete {
        stamp: Option<u64>,
    },
}

/// Decides whether the store accepts a write. Arguments: bucket, key, metadata, and the bucket's clock at its arrival
/// (milliseconds).
pub type WriteAdmission = Box<dyn Fn(&str, &str, &ObjectMetadata, u64) -> bool + Send>;
/// Is called with every event in order. An error is a violated invariant.
pub type StoreObserver = Box<dyn FnMut(&StoreEvent) -> Result<(), String> + Send>;

/// All buckets, and what the processes share beside them: the clock, the random numbers, the trace and the violations found.
/// Cheap to clone.
#[derive(Clone)]
pub struct SimulatedStore(Arc<SimulatedStoreInner>);

struct SimulatedStoreInner {
    epoch: Instant,
    refusals: StoreRefusals,
    /// Resolves when an invariant is violated.
    failed: Notify,
    state: Mutex<SimulatedStoreState>,
}

pub(crate) struct SimulatedStoreState {
    pub(crate) rng: SimRng,
    pub(crate) fault_schedule: FaultSchedule,
    pub(crate) buckets: BTreeMap<String, BTreeMap<String, StoredObject>>,
    offsets: BTreeMap<String, u64>,
    /// How far all clocks were set ahead.
    clock_jump: u64,
    events: Vec<StoreEvent>,
    pub(crate) trace: SimTrace,
    next_tag: u64,
    write_admission: Option<WriteAdmission>,
    observer: Option<StoreObserver>,
    failures: Vec<String>,
    marks: BTreeSet<String>,
    /// What has happened so far.
    pub(crate) totals: RunTotals,
    lost: LostObjects,
    /// The true time at which each process started.
    started: BTreeMap<String, u64>,
}

/// Objects that were removed behind the back of all processes, until they are put back.
#[derive(Debug, Default)]
struct LostObjects {
    objects: BTreeMap<(String, String), StoredObject>,
    /// When they were removed, and when they were put back.
    since: u64,
    until: Option<u64>,
}

impl SimulatedStore {
    /// An empty store. Must be created on the simulation's runtime.
    pub fn new(seed: u64, fault_schedule: FaultSchedule, echo: bool) -> Self {
        Self(Arc::new(SimulatedStoreInner {
            epoch: Instant::now(),
            refusals: StoreRefusals::default(),
            failed: Notify::new(),
            state: Mutex::new(SimulatedStoreState {
                rng: SimRng::seeded(seed),
                fault_schedule,
                buckets: BTreeMap::new(),
                offsets: BTreeMap::new(),
                clock_jump: 0,
                events: Vec::new(),
                trace: SimTrace::new(echo),
                next_tag: 0,
                write_admission: None,
                observer: None,
                failures: Vec::new(),
                marks: BTreeSet::new(),
                totals: RunTotals::default(),
                lost: LostObjects::default(),
                started: BTreeMap::new(),
            }),
        }))
    }

    /// True time, milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        START + self.elapsed()
    }

    /// Milliseconds since the simulation started.
    pub fn elapsed(&self) -> u64 {
        u64::try_from(self.0.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, SimulatedStoreState> {
        self.0.state.lock()
    }

    /// Lets the processes run for `span`, or until an invariant is violated: what follows shows nothing more.
    pub(crate) async fn run_for(&self, span: Duration) {
        if self.failure().is_some() {
            return;
        }
        tokio::select! {
            biased;
            () = self.0.failed.notified() => {}
            () = sleep(span) => {}
        }
    }

    /// Lets the processes run without faults until `has_recovered`, which is asked now and then; for `longest` at most.
    pub(crate) async fn recover(&self, longest: Duration, has_recovered: impl Fn() -> bool) {
        let end = Instant::now() + longest;
        while Instant::now() < end && self.failure().is_none() {
            self.run_for(RECOVERY_STEP).await;
            if has_recovered() {
                return;
            }
        }
    }

    /// A process crashes, or is killed.
    pub(crate) fn count_crash(&self) {
        self.state().totals.crashes += 1;
    }

    /// So many faults happen.
    pub(crate) fn count_faults(&self, faults: u64) {
        self.state().totals.faults += faults;
    }

    /// What has happened so far.
    pub fn totals(&self) -> RunTotals {
        self.state().totals
    }

    /// The objects that it refuses to give.
    pub(crate) fn refusals(&self) -> &StoreRefusals {
        &self.0.refusals
    }

    /// A process starts.
    pub(crate) fn record_start(&self, process: &str) {
        let now = self.now();
        self.state().started.insert(process.to_owned(), now);
        self.note(&format!("{process} starts"));
    }

    /// Removes objects without an event, as a lifecycle rule of the bucket or an administrator does.
    pub(crate) fn lose(&self, bucket: &str, keys: &[String]) {
        let now = self.now();
        let mut state = self.state();
        for key in keys {
            if let Some(object) = state.buckets.entry(bucket.to_owned()).or_default().remove(key) {
                state.trace.line(now - START, &format!("LOST {bucket}/{key}"));
                state.lost.objects.insert((bucket.to_owned(), key.clone()), object);
                state.totals.faults += 1;
            }
        }
        (state.lost.since, state.lost.until) = (now, None);
    }

    /// Puts all lost objects back as they were.
    pub(crate) fn put_back(&self) {
        let now = self.now();
        let mut state = self.state();
        for ((bucket, key), object) in std::mem::take(&mut state.lost.objects) {
            state.trace.line(now - START, &format!("PUT BACK {bucket}/{key}"));
            state.buckets.entry(bucket).or_default().insert(key, object);
        }
        state.lost.until = Some(now);
    }

    /// Whether objects are lost, or were within the last minute.
    pub(crate) fn has_lost_objects(&self) -> bool {
        let now = self.now();
        let state = self.state();
        !state.lost.objects.is_empty() || state.lost.until.is_some_and(|until| now < until + 60_000)
    }

    /// Changes the fault schedule from now on.
    pub fn change_fault_schedule(&self, change: impl FnOnce(&mut FaultSchedule)) {
        change(&mut self.state().fault_schedule);
    }

    /// Sets the check that the store makes when a write arrives.
    pub fn set_write_admission(&self, admission: WriteAdmission) {
        self.state().write_admission = Some(admission);
    }

    /// Sets the observer of all events.
    pub fn set_observer(&self, observer: StoreObserver) {
        self.state().observer = Some(observer);
    }

    /// Adds a line to the trace.
    pub fn note(&self, text: &str) {
        let at = self.elapsed();
        self.state().trace.line(at, text);
    }

    /// Records that an invariant is violated.
    pub fn fail(&self, violation: impl Into<String>) {
        let violation = violation.into();
        let at = self.elapsed();
        self.violate(&mut self.state(), at, violation);
    }

    fn violate(&self, state: &mut SimulatedStoreState, at: u64, violation: String) {
        state.trace.line(at, &format!("VIOLATED {violation}"));
        state.failures.push(violation);
        self.0.failed.notify_one();
    }

    /// Puts objects that are no process's: each body is one byte.
    pub(crate) fn plant_foreign(&self, bucket: &str, keys: &[&str]) {
        let put = StoreWrite::Put { body: Bytes::from_static(b"x"), metadata: ObjectMetadata::new(), create: true };
        for key in keys {
            self.apply_write(STRANGER, bucket, key, &put, None);
        }
    }

    /// Copies what the bucket `from` holds now to the bucket `to`, as a replication or a restored backup does.
    pub(crate) fn copy_bucket(&self, from: &str, to: &str) {
        for (key, StoredObject { body, metadata, .. }) in self.objects(from) {
            self.apply_write(STRANGER, to, &key, &StoreWrite::Put { body, metadata, create: true }, None);
        }
    }

    /// Records that something rare happened, so that a test can check that it does happen.
    pub fn mark(&self, what: impl Into<String>) {
        self.state().marks.insert(what.into());
    }

    /// The rare things that happened.
    pub fn marks(&self) -> BTreeSet<String> {
        self.state().marks.clone()
    }

    /// The first violated invariant.
    pub fn failure(&self) -> Option<String> {
        self.state().failures.first().cloned()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<StoreEvent> {
        self.state().events.clone()
    }

    /// The objects of a bucket now.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, StoredObject> {
        self.state().buckets.get(bucket).cloned().unwrap_or_default()
    }

    /// Hash of the trace and its length.
    pub fn trace(&self) -> (String, u64) {
        let state = self.state();
        (state.trace.hash(), state.trace.lines())
    }

    /// The end of the trace.
    pub fn tail(&self) -> String {
        self.state().trace.tail()
    }

    /// The clock of a front-end of `bucket`, milliseconds.
    pub fn clock(&self, bucket: &str) -> u64 {
        let now = self.now();
        now + self.state().offset(bucket)
    }

    /// Sets the clocks of all buckets ahead, by so many milliseconds.
    pub(crate) fn jump_clock(&self, by: u64) {
        self.note(&format!("the clock of the stores jumps by {by} ms"));
        self.mark("the clock of the stores jumped");
        self.state().clock_jump += by;
    }

    /// Whether the store accepts a write that arrives now.
    pub(crate) fn admits(&self, bucket: &str, key: &str, metadata: &ObjectMetadata) -> bool {
        let clock = self.clock(bucket);
        let mut state = self.state();
        let admitted = state.write_admission.as_ref().is_none_or(|admission| admission(bucket, key, metadata, clock));
        if !admitted {
            let at = self.elapsed();
            state.trace.line(at, &format!("REFUSED {bucket}/{key} its time is over"));
        }
        admitted
    }

    /// The store time of a write that becomes visible later than the store promises, and how much later.
    pub(crate) fn slow_visibility(&self, bucket: &str) -> Option<(u64, Duration)> {
        let now = self.now();
        let mut state = self.state();
        let fault_schedule = state.fault_schedule.clone();
        if bucket != META || !state.rng.chance(fault_schedule.slow_visibility) {
            return None;
        }
        let unseen = state.rng.in_range(&fault_schedule.slow_visibility_delay);
        let stamp = now + state.offset(bucket);
        state.totals.faults += 1;
        state.trace.line(now - START, &format!("a write to {bucket} stays unseen for {unseen} ms"));
        Some((stamp, Duration::from_millis(unseen)))
    }

    /// Applies a write. `false`: the object exists, and the write was to create it.
    pub(crate) fn apply_write(
        &self,
        by: &str,
        bucket: &str,
        key: &str,
        write: &StoreWrite,
        stamp: Option<u64>,
    ) -> bool {
        let StoreWrite::Put { body, metadata, create } = write else { return false };
        let now = self.now();
        let mut state = self.state();
        let exists = state.buckets.entry(bucket.to_owned()).or_default().contains_key(key);
        if exists && *create {
            state.trace.line(now - START, &format!("{by} create {bucket}/{key} exists"));
            return false;
        }
        if state.restore_same(now, by, bucket, key, body) {
            return true;
        }
        let hidden = state.fault_schedule.visibility_lag.clone();
        let usual = now + state.offset(bucket) - state.rng.in_range(&hidden);
        let stamp = stamp.unwrap_or(usual);
        if let Some(violation) = state.check_slot(by, bucket, key) {
            self.violate(&mut state, now - START, violation);
        }
        state.draw_refusal(now, bucket, key, metadata, &self.0.refusals);
        state.next_tag += 1;
        let object = StoredObject { stamp, body: body.clone(), metadata: metadata.clone(), tag: state.next_tag };
        state.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object.clone());
        let change = if exists { StoreChange::Replaced } else { StoreChange::Created };
        self.record(&mut state, StoreEvent::new(now, (by, bucket, key), change, object));
        true
    }

    /// Deletes an object. `false`: there was none.
    pub(crate) fn apply_delete(&self, by: &str, bucket: &str, key: &str, stamp: Option<u64>) -> bool {
        let now = self.now();
        let mut state = self.state();
        let objects = state.buckets.entry(bucket.to_owned()).or_default();
        if objects.get(key).is_some_and(|object| stamp.is_some_and(|stamp| stamp != object.stamp)) {
            return false;
        }
        let Some(object) = objects.remove(key) else {
            return false;
        };
        self.record(&mut state, StoreEvent::new(now, (by, bucket, key), StoreChange::Deleted, object));
        true
    }

    fn record(&self, state: &mut SimulatedStoreState, event: StoreEvent) {
        let StoreEvent { at, bucket, key, change, object, by } = &event;
        let digest = hex::encode(&Sha256::digest(&object.body)[..6]);
        let (at, size) = (at - START, object.body.len());
        let stamp = i128::from(object.stamp) - i128::from(START);
        state.trace.line(at, &format!("{by} {change:?} {bucket}/{key} {size} B {digest} stamped {stamp}"));
        if let Some(Err(violation)) = state.observer.as_mut().map(|observer| observer(&event)) {
            self.violate(state, at, violation);
        }
        state.events.push(event);
    }
}

impl SimulatedStoreState {
    /// How far the clock of the front-end that takes the call is ahead of true time. Half of the calls reach the usual one.
    fn offset(&mut self, bucket: &str) -> u64 {
        self.clock_jump + self.spread_offset(bucket)
    }

    fn spread_offset(&mut self, bucket: &str) -> u64 {
        let spread = 0..=self.fault_schedule.clock_spread;
        if spread == (0..=0) {
            return 0;
        }
        if self.fault_schedule.split_clocks {
            return if bucket == LOG { *spread.end() } else { 0 };
        }
        let drawn = self.rng.in_range(&spread);
        let usual = *self.offsets.entry(bucket.to_owned()).or_insert(drawn);
        if self.rng.chance(500) { usual } else { drawn }
    }

    /// Draws whether the store will refuse a new object for good.
    fn draw_refusal(&mut self, now: u64, bucket: &str, key: &str, metadata: &ObjectMetadata, refusals: &StoreRefusals) {
        let schedule = self.fault_schedule.clone();
        let is_entry = bucket == LOG && !key.starts_with('.');
        if is_entry && schedule.undeletable_entries > 0 && self.rng.chance(schedule.undeletable_entries) {
            let from = now + self.rng.in_range(&schedule.refusal_delay);
            self.totals.faults += 1;
            self.trace.line(now - START, &format!("{bucket}/{key} will not be deleted"));
            refusals.refuse(bucket, key, RefusalKind::Undeletable, from);
            return;
        }
        let panics = bucket == LOG && self.rng.chance(schedule.panicking_entries);
        let refused = match bucket {
            LOG => self.rng.chance(schedule.refused_entries),
            META => metadata.is_empty() && self.rng.chance(schedule.refused_descriptors),
            _ => false,
        };
        if !panics && !refused || key.starts_with('.') {
            return;
        }
        let kind = match () {
            () if panics => RefusalKind::Panics,
            () if self.rng.chance(500) => RefusalKind::Archived,
            () => RefusalKind::Denied,
        };
        let from = now + self.rng.in_range(&schedule.refusal_delay);
        self.totals.faults += 1;
        self.trace.line(now - START, &format!("{bucket}/{key} will be refused: {kind:?}"));
        refusals.refuse(bucket, key, kind, from);
    }

    /// Puts a lost object back if it is written with the same bytes: a write that arrives twice mends what it made.
    fn restore_same(&mut self, now: u64, by: &str, bucket: &str, key: &str, body: &Bytes) -> bool {
        let place = (bucket.to_owned(), key.to_owned());
        if self.lost.objects.get(&place).is_none_or(|lost| lost.body != *body) {
            return false;
        }
        let Some(lost) = self.lost.objects.remove(&place) else { return false };
        self.trace.line(now - START, &format!("{by} puts back {bucket}/{key}"));
        self.buckets.entry(place.0).or_default().insert(place.1, lost);
        true
    }

    /// The violation that a write by `by` is if it begins a damaged chain again, or fills a hole in it.
    fn check_slot(&self, by: &str, bucket: &str, key: &str) -> Option<String> {
        if self.lost.objects.contains_key(&(bucket.to_owned(), key.to_owned())) {
            return Some(format!("{by} wrote \"{key}\" again, whose record is lost"));
        }
        let started = self.started.get(by).copied().unwrap_or(0);
        if bucket != INDEX || manifest_number(key).is_none() || started <= self.lost_first_since()? {
            return None;
        }
        Some(format!("{by} wrote \"{key}\", although it started on a chain whose first record is lost"))
    }

    /// Since when the manifest after the trim boundary is lost; `None`: it is not. One in the middle of the chain becomes the first
    /// when the boundary is moved up to it.
    fn lost_first_since(&self) -> Option<u64> {
        let boundaries = self.buckets.get(INDEX).into_iter().flatten();
        let boundary = boundaries.filter_map(|(key, _)| boundary_number(key)).max();
        let first = boundary.unwrap_or(0) + 1;
        let is_first = |(bucket, key): &(String, String)| bucket == INDEX && manifest_number(key) == Some(first);
        self.lost.objects.keys().find(|place| is_first(place))?;
        let moves_it = |event: &&StoreEvent| {
            event.bucket == INDEX && boundary_number(&event.key) == boundary && event.change == StoreChange::Created
        };
        let moved = boundary.and_then(|_| self.events.iter().rev().find(moves_it)).map_or(0, |event| event.at);
        Some(moved.max(self.lost.since))
    }
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}
