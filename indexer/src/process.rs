//! What a process says about itself: its phase, how far it is, and what keeps it from its work.
//!
//! The operator and people read it at `/v1/process`. It is there from the first moment, before any store was asked.

mod reason;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_wal::Second;
use tokio::sync::watch;
use utoipa::ToSchema;

pub use reason::{Cause, Failure, Reason};

use crate::{
    ingest::{IngestStatus, Role},
    search::{
        Search,
        api::{self, OutcomeCounts, Position, StatusAnswer, instant},
    },
};

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It writes an index, or stands by.
    Indexer,
    /// It serves search.
    Search,
}

/// What a process does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It opens what it stands on, and tries again where that fails.
    Starting,
    /// It proves that a store is fit, once a prefix.
    Probing,
    /// Another process writes the index; this one takes over when that one falls silent.
    Standby,
    /// It writes the index.
    Writing,
    /// It serves search.
    Serving,
    /// It removes the index, as it was asked to.
    Purging,
    /// The index is removed.
    Purged,
    /// It ends.
    Ended,
}

/// A store's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The log's own store.
    Log,
    /// A store of descriptors.
    Metadata,
    /// The index.
    Index,
    /// The token that requests must bear.
    Auth,
}

/// What keeps a process from its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Why, in one word that is part of the API.
    pub reason: Reason,
    /// Which place is at fault, if one is.
    pub place: Option<Place>,
    /// The fact, the effect and the remedy.
    pub message: String,
}

/// What a process says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessAnswer {
    /// The release.
    pub version: String,
    /// What it is for.
    pub kind: Kind,
    /// What it does at present.
    pub phase: Phase,
    /// Its name as a writer.
    pub identity: Option<String>,
    /// The generation of the index.
    pub generation: Option<String>,
    /// The number of the index's writer.
    pub epoch: u64,
    /// The number of the manifest that was published or read last.
    pub manifest: u64,
    /// Whole seconds before this one are frozen in the log.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub horizon: Option<Timestamp>,
    /// Every entry whose second lies before this one is decided and indexed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cursor: Option<Timestamp>,
    /// How long sealed entries wait to be published; 0 when none does.
    pub lag_seconds: u64,
    /// Entries that were read and are not published yet.
    pub pending_entries: u64,
    /// Operations in the index.
    pub entries: u64,
    /// Whether everything up to the horizon was published once since this process started, and nothing waits now.
    pub caught_up: bool,
    /// Whether the stores were proven fit.
    pub probed: bool,
    /// The owner from whom the index was taken over when this process registered it: another one, or the same resource before it
    /// was deleted and made again.
    pub adopted_from: Option<String>,
    /// The present writer.
    pub writer: Option<String>,
    /// What keeps it from its work; empty when all is well.
    pub problems: Vec<Problem>,
}

/// A process as its server sees it. Clones share it.
#[derive(Clone)]
pub struct Process(Arc<Shared>);

struct Shared {
    kind: Kind,
    ingest: Option<watch::Receiver<IngestStatus>>,
    search: Option<Arc<dyn Search>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<Phase>,
    identity: Option<String>,
    generation: Option<String>,
    probed: bool,
    adopted_from: Option<String>,
    places: Vec<(String, Place)>,
    /// By what was tried.
    problems: BTreeMap<&'static str, (Cause, String)>,
}

impl Process {
    /// A process that writes an index and may serve search beside it.
    pub fn indexer(ingest: watch::Receiver<IngestStatus>, search: Option<Arc<dyn Search>>) -> Self {
        Self::new(Kind::Indexer, Some(ingest), search)
    }

    /// A process that serves search.
    pub fn searching(search: Arc<dyn Search>) -> Self {
        Self::new(Kind::Search, None, Some(search))
    }

    fn new(kind: Kind, ingest: Option<watch::Receiver<IngestStatus>>, search: Option<Arc<dyn Search>>) -> Self {
        Self(Arc::new(Shared { kind, ingest, search, state: Mutex::default() }))
    }

    /// Says which place each URL is, so that problems name it.
    pub fn set_places(&self, places: Vec<(String, Place)>) {
        self.state().places = places;
    }

    /// Sets a phase that goes before what ingest and search say; `None` lets those speak.
    pub fn set_phase(&self, phase: Option<Phase>) {
        self.state().phase = phase;
    }

    /// Sets the name as a writer.
    pub(crate) fn set_identity(&self, identity: &str) {
        self.state().identity = Some(identity.to_owned());
    }

    /// The stores were proven fit.
    pub(crate) fn set_probed(&self) {
        self.state().probed = true;
    }

    /// The index was registered.
    pub(crate) fn set_registered(&self, generation: &str, adopted_from: Option<String>) {
        let mut state = self.state();
        state.generation = Some(generation.to_owned());
        state.adopted_from = adopted_from.or(state.adopted_from.take());
    }

    /// `doing` failed and is tried again.
    pub(crate) fn failed(&self, doing: &'static str, failure: &impl Failure) {
        self.reported(doing, failure.meaning(), failure.to_string());
    }

    /// `doing` keeps the process from its work, with words that tell the remedy.
    pub(crate) fn reported(&self, doing: &'static str, cause: Cause, message: String) {
        self.state().problems.insert(doing, (cause, message));
    }

    /// `doing` works.
    pub(crate) fn works(&self, doing: &'static str) {
        self.state().problems.remove(doing);
    }

    /// Everything that is known.
    pub fn answer(&self) -> ProcessAnswer {
        let ingest = self.0.ingest.as_ref().map(|ingest| ingest.borrow().clone());
        let search = self.0.search.as_ref().and_then(|search| search.status());
        let state = self.state();
        let mut answer = ProcessAnswer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: self.0.kind,
            phase: Phase::Starting,
            identity: state.identity.clone(),
            generation: state.generation.clone(),
            epoch: 0,
            manifest: 0,
            horizon: None,
            cursor: None,
            lag_seconds: 0,
            pending_entries: 0,
            entries: 0,
            caught_up: false,
            probed: state.probed,
            adopted_from: state.adopted_from.clone(),
            writer: None,
            problems: self.problems(&state, ingest.as_ref()),
        };
        match &ingest {
            Some(ingest) => answer.ingesting(ingest),
            None => answer.serving(search),
        }
        answer.phase = state.phase.unwrap_or(answer.phase);
        answer
    }

    /// The state of the index as an indexer knows it that serves no search; `None` before it knows a manifest.
    pub(crate) fn status(&self) -> Option<StatusAnswer> {
        let ingest = self.0.ingest.as_ref()?.borrow().clone();
        let ProcessAnswer { generation, horizon, cursor, writer, problems, .. } = self.answer();
        let totals = ingest.totals.filter(|_| ingest.manifest > 0)?;
        Some(StatusAnswer {
            horizon,
            position: Position { generation: generation?, manifest: ingest.manifest, watermark: cursor? },
            lag_seconds: ingest.lag_seconds,
            lag_reason: None,
            epoch: ingest.epoch,
            writer,
            role: if ingest.role == Role::Writer { api::Role::Writer } else { api::Role::Standby },
            entries: OutcomeCounts::of(&ingest.entries, 0),
            segments: totals.segments,
            documents: totals.records,
            bytes: totals.bytes,
            strangers: ingest.strangers,
            overlay: None,
            problems: problems.into_iter().map(|problem| problem.message).collect(),
            details: serde_json::Map::new(),
        })
    }

    fn problems(&self, state: &State, ingest: Option<&IngestStatus>) -> Vec<Problem> {
        let mut found: Vec<(Cause, String)> = state.problems.values().cloned().collect();
        if let Some(trouble) = ingest.and_then(|ingest| ingest.trouble.as_ref()) {
            found.push((trouble.cause.clone(), trouble.message.clone()));
        }
        if let Some(search) = &self.0.search {
            found.extend(search.failures());
        }
        let mut problems = Vec::<Problem>::new();
        for (Cause { reason, url }, message) in found {
            let place = match reason {
                Reason::AuthTokenMissing => Some(Place::Auth),
                _ => url.and_then(|url| place_of(&state.places, &url)),
            };
            if !problems.iter().any(|known| (known.reason, known.place) == (reason, place)) {
                problems.push(Problem { reason, place, message });
            }
        }
        problems
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessAnswer {
    fn ingesting(&mut self, ingest: &IngestStatus) {
        self.phase = match ingest.role {
            Role::Starting => Phase::Starting,
            Role::Standby => Phase::Standby,
            Role::Writer => Phase::Writing,
            Role::Ended => Phase::Ended,
        };
        let known = |second: Second| (second > Second::default()).then(|| instant(second));
        self.epoch = ingest.epoch;
        self.manifest = ingest.manifest;
        self.horizon = known(ingest.horizon);
        self.cursor = known(ingest.cursor.second());
        self.lag_seconds = ingest.lag_seconds;
        self.pending_entries = ingest.pending;
        self.entries = OutcomeCounts::of(&ingest.entries, 0).total();
        self.caught_up = ingest.caught_up && ingest.lag_seconds == 0 && ingest.role == Role::Writer;
        self.writer = if ingest.role == Role::Writer { self.identity.clone() } else { ingest.holder.clone() };
    }

    fn serving(&mut self, status: Option<StatusAnswer>) {
        let Some(status) = status else { return };
        self.phase = Phase::Serving;
        self.generation = Some(status.position.generation);
        self.epoch = status.epoch;
        self.manifest = status.position.manifest;
        self.horizon = status.horizon;
        self.cursor = (status.position.watermark > Timestamp::UNIX_EPOCH).then_some(status.position.watermark);
        self.lag_seconds = status.lag_seconds;
        self.entries = OutcomeCounts { pending: 0, ..status.entries }.total();
        self.caught_up = status.lag_seconds == 0;
        self.writer = status.writer;
    }
}

/// The place whose URL is `url` or the longest prefix of it.
fn place_of(places: &[(String, Place)], url: &str) -> Option<Place> {
    let below = |root: &str| {
        let root = root.trim_end_matches('/');
        url.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = places.iter().filter(|(root, _)| below(root)).max_by_key(|(root, _)| root.len());
    found.map(|(_, place)| *place)
}

#[cfg(test)]
mod tests {
    use tidemark_wal::StoreError;

    use super::*;

    fn failed(url: &str) -> StoreError {
        StoreError::Failed { url: url.to_owned(), key: "k".to_owned(), why: "gone".to_owned() }
    }

    #[test]
    fn a_problem_names_its_place_and_goes_when_it_is_mended() {
        let process = Process::indexer(watch::channel(IngestStatus::default()).1, None);
        process.set_places(vec![
            ("s3://b/log".to_owned(), Place::Log),
            ("s3://b/log-2".to_owned(), Place::Metadata),
            ("s3://b/log/index".to_owned(), Place::Index),
        ]);
        for (url, place) in [
            ("s3://b/log/.tidemark/root", Place::Log),
            ("s3://b/log-2", Place::Metadata),
            ("s3://b/log/index/g1", Place::Index),
        ] {
            process.failed("opening", &failed(url));
            let problems = process.answer().problems;
            assert_eq!(problems.iter().map(|problem| problem.place).collect::<Vec<_>>(), [Some(place)], "{url}");
            assert_eq!(problems[0].reason, Reason::Unreachable);
        }
        process.works("opening");
        assert_eq!(process.answer().problems, []);
    }

    #[test]
    fn a_phase_that_was_set_goes_before_the_role() {
        let (sender, receiver) = watch::channel(IngestStatus::default());
        let process = Process::indexer(receiver, None);
        assert_eq!(process.answer().phase, Phase::Starting);
        sender.send_modify(|status| status.role = Role::Standby);
        assert_eq!(process.answer().phase, Phase::Standby);
        process.set_phase(Some(Phase::Purging));
        assert_eq!(process.answer().phase, Phase::Purging);
        process.set_phase(None);
        assert_eq!(process.answer().phase, Phase::Standby);
    }
}
