//! Polls every data pod and every pod of a sink for its report, and says which WALs and sinks to reconcile because of it.
//!
//! It runs beside the reconciliation, so that a pod that does not answer delays nothing else. A settled pod is polled once an
//! interval, one that is not settled every two seconds; both with jitter.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::RwLock;
use tidemark_crds::{PodPhase, PodReport, SinkReport, names::WalComponent};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    backoff,
    cache::{DataPod, NamespacedName, ObjectCache, SinkPod},
    clock,
    metrics::OperatorMetrics,
    pod_report_client::PodReportClient,
    reconcile_queues::{ReconcileQueues, ReconcileTarget},
};

/// How often the pods are checked for those that are due.
/// A quarter of [`UNSETTLED_INTERVAL`]: a poll is late by this at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often a pod that is not settled is polled.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(2);
/// How many pods are polled at the same time.
/// Each has a connection: there may be more pods than files that a process may open.
const MAX_CONCURRENT_POLLS: usize = 128;
/// A WAL is reconciled because of moved counters at most this often.
/// The status is written because of them no more often either.
const COUNTERS_INTERVAL: Duration = Duration::from_mins(1);
/// After this many failures in a row a pod counts as not answering.
/// A single one would change a condition and change it back.
const MAX_FAILURES: u32 = 2;
/// After this many failures a pod that has never answered counts as not answering: it may be on its way.
pub(crate) const MAX_UNANSWERED: u32 = 5;

/// What is known of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodObservation {
    /// Its last report.
    pub(crate) process: Option<Arc<PodReport>>,
    /// When it answered last.
    pub(crate) seen: Option<Timestamp>,
    /// How many polls have failed since.
    pub(crate) failures: u32,
    /// What answered instead, unless nothing has since for [`MAX_FAILURES`] polls.
    pub(crate) foreign: Option<ForeignReport>,
    /// How many polls nothing has answered since anything did.
    pub(crate) unanswered: u32,
}

/// A report that is not the polled pod's. An address may be used again before the watch shows it, and any user may write our labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignReport {
    /// It names no pod, as those of older builds.
    Unnamed,
    /// It is that of another pod, or of another role.
    Other,
}

/// What came of a poll.
type PollResult = Result<PodReport, Option<ForeignReport>>;

impl PodObservation {
    /// Its report, while it answers.
    pub(crate) fn answer(&self) -> Option<&PodReport> {
        self.process.as_deref().filter(|_| self.failures < MAX_FAILURES)
    }

    /// Whether it is not known yet whether it answers.
    pub(crate) fn is_unpolled(&self) -> bool {
        self.process.is_none() && self.failures < MAX_FAILURES
    }

    /// Whether enough polls in a row have failed for it to count as not answering.
    pub(crate) fn silence(&self) -> PodSilence {
        match self.failures {
            0..MAX_FAILURES => PodSilence::None,
            MAX_FAILURES..MAX_UNANSWERED if self.seen.is_none() => PodSilence::Starting,
            _ => PodSilence::Final,
        }
    }
}

/// Whether a pod answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodSilence {
    /// It does, or has been polled hardly once.
    None,
    /// It does not, has never done, and may still be on its way.
    Starting,
    /// It does not.
    Final,
}

/// What is known of every pod, by UID.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodObservations {
    inner: Arc<RwLock<HashMap<Box<str>, PodObservation>>>,
}

impl PodObservations {
    pub(crate) fn get(&self, uid: &str) -> Option<PodObservation> {
        self.inner.read().get(uid).cloned()
    }

    /// Keeps the report of a pod, or counts a failed poll. Answers what was known before and what is known now.
    fn put(&self, uid: &str, polled: PollResult, now: Timestamp) -> (Option<PodObservation>, PodObservation) {
        let mut inner = self.inner.write();
        let before = inner.get(uid).cloned();
        let after = match polled {
            Ok(process) => {
                PodObservation { process: Some(Arc::new(process)), seen: Some(now), ..PodObservation::default() }
            }
            Err(foreign) => {
                let before = before.clone().unwrap_or_default();
                let unanswered = if foreign.is_some() { 0 } else { before.unanswered.saturating_add(1) };
                // A poll that fails in between must not change the condition and back.
                let foreign = foreign.or_else(|| before.foreign.filter(|_| unanswered < MAX_FAILURES));
                PodObservation { failures: before.failures.saturating_add(1), foreign, unanswered, ..before }
            }
        };
        inner.insert(uid.into(), after.clone());
        (before, after)
    }

    fn retain(&self, present: &HashSet<Box<str>>) {
        self.inner.write().retain(|uid, _| present.contains(uid));
    }
}

/// Polls the pods of a cache.
pub(crate) struct PodReportPoller {
    pub(crate) cache: ObjectCache,
    pub(crate) observations: PodObservations,
    pub(crate) queues: Arc<ReconcileQueues>,
    pub(crate) client: PodReportClient,
    pub(crate) port: u16,
    pub(crate) interval: Duration,
    pub(crate) metrics: OperatorMetrics,
}

/// When one pod is polled, and what came of it.
struct PollState {
    next: Instant,
    polling: bool,
    /// When its WAL was last reconciled because of its report, and with which counters.
    last_published: Option<(Instant, PodCounters)>,
    /// Whether the log says already that something else answers at its address.
    warned: bool,
}

impl PollState {
    fn new(next: Instant) -> Self {
        Self { next, polling: false, last_published: None, warned: false }
    }

    /// Whether a warning is the first one: a pod is polled every few seconds.
    fn is_first_warning(&mut self) -> bool {
        !std::mem::replace(&mut self.warned, true)
    }

    /// Whether its WAL has to be reconciled, now that it reported `after`. Counters that moved within a minute of the last time
    /// wait for the first answer after that minute: they are compared with those of that time, not with the last answer.
    fn is_news(&mut self, before: Option<&PodObservation>, after: &PodObservation, now: Instant) -> bool {
        let counters = counters(after);
        let moved = match &self.last_published {
            None => counters.is_some(),
            Some((when, published)) => now - *when >= COUNTERS_INTERVAL && *published != counters,
        };
        let news = moved || essence(before) != essence(Some(after));
        if news {
            self.last_published = Some((now, counters));
        }
        news
    }
}

/// A pod that can be polled.
struct PollTarget {
    wal: NamespacedName,
    name: Arc<str>,
    uid: Box<str>,
    address: Box<str>,
    /// What it is for; `None` for a pod of a sink.
    component: Option<WalComponent>,
    /// What has to be reconciled when its report changes.
    target: ReconcileTarget,
}

impl PollTarget {
    fn of_data(pod: &DataPod) -> Option<Self> {
        Some(Self {
            wal: pod.wal.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            address: pod.address.clone()?,
            component: Some(pod.component),
            target: pod.target(),
        })
    }

    fn of_sink(pod: &SinkPod) -> Option<Self> {
        Some(Self {
            wal: pod.wal.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            address: pod.address.clone()?,
            component: None,
            target: pod.target(),
        })
    }
}

/// A polled pod.
struct PolledPod {
    pod: PollTarget,
    result: PollResult,
}

impl PodReportPoller {
    /// Polls until cancelled.
    pub(crate) async fn run(self) {
        let mut polls: HashMap<Box<str>, PollState> = HashMap::new();
        let mut polling = JoinSet::new();
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_POLLS));
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => self.poll_due(&mut polls, &mut polling, &permits),
                Some(Ok(polled)) = polling.join_next(), if !polling.is_empty() => self.record(polled, &mut polls).await,
            }
        }
    }

    /// Starts to poll the pods that are due, and forgets those that are gone.
    fn poll_due(
        &self,
        polls: &mut HashMap<Box<str>, PollState>,
        polling: &mut JoinSet<PolledPod>,
        permits: &Arc<Semaphore>,
    ) {
        let now = Instant::now();
        let mut present = HashSet::new();
        let data_pods = self.cache.pods().into_iter().filter_map(|pod| PollTarget::of_data(&pod));
        let sink_pods = self.cache.sink_pods().into_iter().filter_map(|pod| PollTarget::of_sink(&pod));
        for pod in data_pods.chain(sink_pods) {
            present.insert(pod.uid.clone());
            let poll = polls.entry(pod.uid.clone()).or_insert_with(|| PollState::new(now));
            if poll.polling || poll.next > now {
                continue;
            }
            poll.polling = true;
            let (client, permits, port) = (self.client.clone(), permits.clone(), self.port);
            polling.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                let result = match client.fetch(&pod.address, port).await {
                    Ok(process) => own_report(process, &pod).map_err(Some),
                    Err(error) => {
                        tracing::debug!(object = %pod.wal, pod = %pod.name, %error, "a pod did not answer");
                        Err(None)
                    }
                };
                PolledPod { pod, result }
            });
        }
        polls.retain(|uid, _| present.contains(uid));
        self.observations.retain(&present);
    }

    async fn record(&self, polled: PolledPod, polls: &mut HashMap<Box<str>, PollState>) {
        let PolledPod { pod, result } = polled;
        let Some(poll) = polls.get_mut(&pod.uid) else { return };
        self.metrics.polled(result.is_ok());
        let (before, after) = self.observations.put(&pod.uid, result, clock::now());
        if let Some(foreign) = after.foreign
            && poll.is_first_warning()
        {
            tracing::warn!(object = %pod.wal, pod = %pod.name, ?foreign, "another process answers at the address of a pod, or an older build; its reports are ignored");
        }
        let now = Instant::now();
        poll.polling = false;
        let wait = if is_settled(&after) { self.interval } else { self.interval.min(UNSETTLED_INTERVAL) };
        poll.next = now + backoff::jittered(wait, backoff::random());
        if poll.is_news(before.as_ref(), &after, now) {
            self.queues.send(pod.target).await;
        }
    }
}

/// The report, if it is that of the pod: it bears the pod's UID and role.
fn own_report(process: PodReport, pod: &PollTarget) -> Result<PodReport, ForeignReport> {
    match process.identity.as_deref() {
        Some(identity) if identity == &*pod.uid && has_role(&process, pod.component) => Ok(process),
        Some(_) => Err(ForeignReport::Other),
        None => Err(ForeignReport::Unnamed),
    }
}

/// Whether the report is that of this role; none is a sink.
fn has_role(process: &PodReport, component: Option<WalComponent>) -> bool {
    match component {
        Some(component) => process.sink.is_none() && process.kind == component,
        None => process.sink.is_some(),
    }
}

/// Whether a pod does its work and reports no problem.
fn is_settled(observation: &PodObservation) -> bool {
    observation.answer().is_some_and(|process| {
        if let Some(sink) = &process.sink {
            return process.problems.is_empty() && sink.is_settled();
        }
        process.problems.is_empty()
            && match process.phase {
                PodPhase::Serving | PodPhase::Standby => true,
                PodPhase::Writing => process.caught_up,
                PodPhase::Starting
                | PodPhase::Probing
                | PodPhase::Restoring
                | PodPhase::Purging
                | PodPhase::Purged
                | PodPhase::Ended => false,
            }
    })
}

/// What conditions are made of: everything but the counters.
fn essence(observation: Option<&PodObservation>) -> (PodSilence, Option<ForeignReport>, Option<PodReport>) {
    let bare = |process: &PodReport| PodReport {
        horizon: None,
        cursor: None,
        lag_seconds: 0,
        pending_entries: 0,
        entries: 0,
        manifest: process.manifest.min(1),
        sink: process.sink.as_ref().map(SinkReport::without_counters),
        ..process.clone()
    };
    let silent = observation.map_or(PodSilence::None, PodObservation::silence);
    let foreign = observation.and_then(|observation| observation.foreign);
    (silent, foreign, observation.and_then(PodObservation::answer).map(bare))
}

/// Lag, pending entries and entries; of a sink lag, acknowledged place and dead letters; none before the first answer.
type PodCounters = Option<[u64; 3]>;

/// What a status shows beside its conditions. The horizon, and the cursor of an idle log, move with the clock; alone they are
/// not news.
fn counters(observation: &PodObservation) -> PodCounters {
    let process = observation.process.as_ref()?;
    if let Some(sink) = &process.sink {
        let acknowledged = sink.acknowledged.as_ref().map_or(0, |place| place.seq);
        return Some([sink.lag_operations.unwrap_or_default(), acknowledged, sink.dead_lettered]);
    }
    Some([process.lag_seconds, process.pending_entries, process.entries])
}

#[cfg(test)]
mod tests {
    use tidemark_crds::{BreakerPhase, names};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn one_failure_is_borne_and_two_are_silence_with_the_time_of_the_last_answer() {
        let observations = PodObservations::default();
        observations.put("u", Ok(PodReport::default()), at(10));
        let (_, once) = observations.put("u", Err(None), at(20));
        assert!(once.answer().is_some() && once.silence() == PodSilence::None);
        let (_, twice) = observations.put("u", Err(None), at(30));
        assert!(twice.answer().is_none() && twice.silence() == PodSilence::Final);
        assert_eq!(twice.seen, Some(at(10)));
        let (_, again) = observations.put("u", Ok(PodReport::default()), at(40));
        assert!(again.answer().is_some());
        let (before, foreign) = observations.put("u", Err(Some(ForeignReport::Unnamed)), at(50));
        assert_ne!(essence(before.as_ref()), essence(Some(&foreign)), "its WAL is reconciled");
        let mut poll = PollState::new(Instant::now());
        assert_eq!([(); 3].map(|()| poll.is_first_warning()), [true, false, false], "the log says it once a pod");
    }

    /// Each change is a status written and an Event.
    #[test]
    fn a_poll_that_nothing_answers_does_not_change_what_is_said_of_another_process() {
        let observations = PodObservations::default();
        let (foreign, silence) = (Some(ForeignReport::Unnamed), None);
        let polled = |result| observations.put("u", Err(result), at(10)).1;
        let poll_times = |result, count| (1..count).fold(polled(result), |_, _| polled(result));
        let repeated = poll_times(foreign, MAX_UNANSWERED);
        for result in [silence, foreign, silence, foreign] {
            assert_eq!(essence(Some(&polled(result))), essence(Some(&repeated)));
        }
        let gone = poll_times(silence, MAX_FAILURES);
        assert_eq!((gone.foreign, gone.silence()), (None, PodSilence::Final));
    }

    /// Nothing else than these polls says that the pod's condition has to change.
    #[test]
    fn a_pod_that_never_answers_is_news_when_it_counts_as_silent() {
        let (observations, now) = (PodObservations::default(), Instant::now());
        let mut poll = PollState::new(now);
        let news = [(); 8].map(|()| {
            let (before, after) = observations.put("u", Err(None), at(10));
            poll.is_news(before.as_ref(), &after, now).then_some(after.silence())
        });
        let (starting, silent) = (Some(PodSilence::Starting), Some(PodSilence::Final));
        assert_eq!(news, [None, starting, None, None, silent, None, None, None]);
    }

    #[test]
    fn a_report_counts_only_with_the_uid_and_the_role_of_the_pod() {
        let wal = NamespacedName::new("data", "orders");
        let polled = |component| PollTarget {
            wal: wal.clone(),
            name: "orders-indexer-a".into(),
            uid: "u".into(),
            address: "10.0.0.1".into(),
            component,
            target: ReconcileTarget::new(names::KIND, wal.clone()),
        };
        let (pod, of_sink) = (polled(Some(WalComponent::Indexer)), polled(None));
        let report = |identity: Option<&str>, kind| PodReport {
            identity: identity.map(str::to_owned),
            kind,
            ..PodReport::default()
        };
        assert!(own_report(report(Some("u"), WalComponent::Indexer), &pod).is_ok());
        for (other, foreign) in [
            (report(Some("u"), WalComponent::Search), ForeignReport::Other),
            (report(Some("v"), WalComponent::Indexer), ForeignReport::Other),
            (report(None, WalComponent::Indexer), ForeignReport::Unnamed),
        ] {
            assert_eq!(own_report(other, &pod), Err(foreign));
        }
        let says = || PodReport { sink: Some(SinkReport::default()), ..report(Some("u"), WalComponent::Indexer) };
        assert!(own_report(says(), &of_sink).is_ok());
        assert_eq!(own_report(says(), &pod), Err(ForeignReport::Other));
        assert_eq!(own_report(report(Some("u"), WalComponent::Indexer), &of_sink), Err(ForeignReport::Other));
    }

    #[test]
    fn moving_counters_are_no_change_of_essence() {
        let observation = |entries, horizon| PodObservation {
            process: Some(Arc::new(PodReport { entries, horizon: Some(at(horizon)), ..PodReport::default() })),
            ..PodObservation::default()
        };
        let (before, moved, later) = (observation(1, 1), observation(2, 1), observation(1, 2));
        assert_eq!(essence(Some(&before)), essence(Some(&moved)));
        assert_ne!(counters(&before), counters(&moved));
        assert_eq!(counters(&before), counters(&later), "the horizon alone is no news");
    }

    /// A log that is idle after its first entries never showed any of them.
    #[test]
    fn counters_that_moved_soon_after_a_reconciliation_are_published_a_minute_after_it() {
        let said = |entries, horizon| PodObservation {
            process: Some(Arc::new(PodReport { entries, horizon: Some(at(horizon)), ..PodReport::default() })),
            ..PodObservation::default()
        };
        let start = Instant::now();
        let mut poll = PollState::new(start);
        let (empty, five) = (said(0, 1), said(5, 2));
        let mut answers = |before: Option<&PodObservation>, after, second| {
            poll.is_news(before, after, start + Duration::from_secs(second))
        };
        assert!(answers(None, &empty, 0), "the first answer");
        assert!(!answers(Some(&empty), &five, 20), "too soon for counters alone");
        assert!(!answers(Some(&five), &five, 50), "still too soon");
        assert!(answers(Some(&five), &five, 61), "they are published late rather than never");
        assert!(!answers(Some(&five), &said(5, 99), 200), "the clock alone is no news");
    }

    #[test]
    fn a_pod_that_is_not_settled_is_asked_more_often() {
        let observation = |phase, caught_up| PodObservation {
            process: Some(Arc::new(PodReport { phase, caught_up, ..PodReport::default() })),
            ..PodObservation::default()
        };
        assert!(
            is_settled(&observation(PodPhase::Writing, true)) && is_settled(&observation(PodPhase::Serving, false))
        );
        assert!(
            !is_settled(&observation(PodPhase::Writing, false)) && !is_settled(&observation(PodPhase::Starting, false))
        );
        assert!(!is_settled(&PodObservation::default()));
        let sink = |breaker, lag_operations| PodObservation {
            process: Some(Arc::new(PodReport {
                sink: Some(SinkReport { holding: true, breaker, lag_operations, ..SinkReport::default() }),
                ..PodReport::default()
            })),
            ..PodObservation::default()
        };
        assert!(is_settled(&sink(BreakerPhase::Closed, Some(0))) && !is_settled(&sink(BreakerPhase::Open, Some(0))));
        assert!(!is_settled(&sink(BreakerPhase::Closed, None)), "it has not read the index yet");
    }
}
