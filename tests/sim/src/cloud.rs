//! The buckets that all simulated processes share, with the store's clock and a record of what landed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::{Duration, Instant};

use crate::{dice::Dice, trace::Trace, truth::META, weather::Weather};

/// True time at the start of every simulation, milliseconds since the Unix epoch.
pub(crate) const START: u64 = 1_700_000_000_000;

/// User metadata of an object.
pub type Metadata = BTreeMap<String, String>;

/// An object as the store has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Store time in milliseconds.
    pub stamp: u64,
    /// The body.
    pub body: Bytes,
    /// User metadata.
    pub metadata: Metadata,
    /// Entity tag.
    pub tag: u64,
}

/// What a landed operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A new object.
    Created,
    /// Another body under a key that had one.
    Replaced,
    /// The object is gone.
    Deleted,
}

/// An operation that landed. Refused and lost ones leave no event.
#[derive(Clone, Debug)]
pub struct Event {
    /// True time in milliseconds.
    pub at: u64,
    /// The bucket.
    pub bucket: String,
    /// The whole key.
    pub key: String,
    /// What happened.
    pub what: What,
    /// The object, as it is now (as it was, when it was deleted).
    pub object: Stored,
    /// The process that asked for it.
    pub by: String,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put { body: Bytes, metadata: Metadata, create: bool },
    Delete,
}

/// Decides whether a write may land that arrives when the bucket's clock shows `clock` (milliseconds).
pub type Guard = Box<dyn Fn(&str, &str, &Metadata, u64) -> bool + Send>;
/// Sees every event as it lands. What it returns is a violated invariant.
pub type Watcher = Box<dyn FnMut(&Event) -> Result<(), String> + Send>;

/// The shared world. Cheap to clone.
#[derive(Clone)]
pub struct Cloud(Arc<Inner>);

struct Inner {
    epoch: Instant,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    pub(crate) buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    offsets: BTreeMap<String, u64>,
    events: Vec<Event>,
    pub(crate) trace: Trace,
    next_tag: u64,
    guard: Option<Guard>,
    watcher: Option<Watcher>,
    failures: Vec<String>,
    marks: BTreeSet<String>,
}

impl Cloud {
    /// An empty world. Must be made on the simulation's runtime.
    pub fn new(seed: u64, weather: Weather, echo: bool) -> Self {
        Self(Arc::new(Inner {
            epoch: Instant::now(),
            state: Mutex::new(State {
                dice: Dice::seeded(seed),
                weather,
                buckets: BTreeMap::new(),
                offsets: BTreeMap::new(),
                events: Vec::new(),
                trace: Trace::new(echo),
                next_tag: 0,
                guard: None,
                watcher: None,
                failures: Vec::new(),
                marks: BTreeSet::new(),
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

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the weather from now on.
    pub fn weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state().weather);
    }

    /// Sets what a store checks when a write arrives.
    pub fn guard(&self, guard: Guard) {
        self.state().guard = Some(guard);
    }

    /// Sets who sees every event.
    pub fn watch(&self, watcher: Watcher) {
        self.state().watcher = Some(watcher);
    }

    /// Adds a line to the trace.
    pub fn note(&self, text: &str) {
        let at = self.elapsed();
        self.state().trace.line(at, text);
    }

    /// Records that an invariant is violated.
    pub fn fail(&self, violation: impl Into<String>) {
        let violation = violation.into();
        self.note(&format!("VIOLATED {violation}"));
        self.state().failures.push(violation);
    }

    /// Records that something rare happened, so that a test can ask whether it ever did.
    pub fn mark(&self, what: impl Into<String>) {
        self.state().marks.insert(what.into());
    }

    /// What rare things happened.
    pub fn marks(&self) -> BTreeSet<String> {
        self.state().marks.clone()
    }

    /// The first violated invariant.
    pub fn failure(&self) -> Option<String> {
        self.state().failures.first().cloned()
    }

    /// Everything that landed so far.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// The objects of a bucket now.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Stored> {
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

    /// What the clock of a front-end of `bucket` shows now, milliseconds.
    pub fn clock(&self, bucket: &str) -> u64 {
        let now = self.now();
        now + self.state().offset(bucket)
    }

    /// Whether a write that arrives now is let through.
    pub(crate) fn admits(&self, bucket: &str, key: &str, metadata: &Metadata) -> bool {
        let clock = self.clock(bucket);
        let mut state = self.state();
        let admitted = state.guard.as_ref().is_none_or(|guard| guard(bucket, key, metadata, clock));
        if !admitted {
            let at = self.elapsed();
            state.trace.line(at, &format!("REFUSED {bucket}/{key} its time is over"));
        }
        admitted
    }

    /// The store time that a write gets, and for how long it stays unseen although the store promised otherwise.
    pub(crate) fn straggle(&self, bucket: &str) -> Option<(u64, Duration)> {
        let now = self.now();
        let mut state = self.state();
        let weather = state.weather.clone();
        if bucket != META || !state.dice.chance(weather.straggle) {
            return None;
        }
        let unseen = state.dice.among(&weather.straggling);
        let stamp = now + state.offset(bucket);
        state.trace.line(now - START, &format!("a write to {bucket} stays unseen for {unseen} ms"));
        Some((stamp, Duration::from_millis(unseen)))
    }

    /// Writes an object. `false`: something has the key, and the write was to create it.
    pub(crate) fn land(&self, by: &str, bucket: &str, key: &str, write: &Write, stamp: Option<u64>) -> bool {
        let Write::Put { body, metadata, create } = write else { return false };
        let now = self.now();
        let mut state = self.state();
        let exists = state.buckets.entry(bucket.to_owned()).or_default().contains_key(key);
        if exists && *create {
            state.trace.line(now - START, &format!("{by} create {bucket}/{key} exists"));
            return false;
        }
        let hidden = state.weather.hidden.clone();
        let usual = now + state.offset(bucket) - state.dice.among(&hidden);
        let stamp = stamp.unwrap_or(usual);
        state.next_tag += 1;
        let object = Stored { stamp, body: body.clone(), metadata: metadata.clone(), tag: state.next_tag };
        state.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object.clone());
        let what = if exists { What::Replaced } else { What::Created };
        state.record(now, by, bucket, key, what, object);
        true
    }

    /// Deletes an object. `false`: there was none.
    pub(crate) fn remove(&self, by: &str, bucket: &str, key: &str) -> bool {
        let now = self.now();
        let mut state = self.state();
        let Some(object) = state.buckets.entry(bucket.to_owned()).or_default().remove(key) else {
            return false;
        };
        state.record(now, by, bucket, key, What::Deleted, object);
        true
    }
}

impl State {
    /// How far the clock of the front-end that is hit is ahead of true time. Half of the calls hit the store's usual one.
    fn offset(&mut self, bucket: &str) -> u64 {
        let spread = 0..=self.weather.spread;
        if spread == (0..=0) {
            return 0;
        }
        let drawn = self.dice.among(&spread);
        let usual = *self.offsets.entry(bucket.to_owned()).or_insert(drawn);
        if self.dice.chance(500) { usual } else { drawn }
    }

    fn record(&mut self, now: u64, by: &str, bucket: &str, key: &str, what: What, object: Stored) {
        let digest = hex::encode(&Sha256::digest(&object.body)[..6]);
        let (at, size) = (now - START, object.body.len());
        let stamp = i128::from(object.stamp) - i128::from(START);
        self.trace.line(at, &format!("{by} {what:?} {bucket}/{key} {size} B {digest} stamped {stamp}"));
        let event = Event { at: now, bucket: bucket.to_owned(), key: key.to_owned(), what, object, by: by.to_owned() };
        if let Some(Err(violation)) = self.watcher.as_mut().map(|watcher| watcher(&event)) {
            self.trace.line(at, &format!("VIOLATED {violation}"));
            self.failures.push(violation);
        }
        self.events.push(event);
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cloud")
    }
}
