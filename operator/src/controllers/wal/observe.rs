//! Asks every data pod how it is, and says which WALs to look at again.
//!
//! It runs beside the reconciliation, so that a pod that does not answer holds nobody up. A settled pod is asked once an
//! interval, one that is not settled every two seconds; both with jitter.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    backoff,
    cache::{Cache, Pod, WalKey},
    clock,
    metrics::Metrics,
    process::{Asker, Phase, Process},
};

/// How often the pods are looked through for those whose turn it is.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a pod is asked that is not settled.
const UNSETTLED: Duration = Duration::from_secs(2);
/// How many pods are asked at the same time.
const CONCURRENCY: usize = 128;
/// A WAL whose figures moved is looked at again at most this often.
const FIGURES: Duration = Duration::from_mins(1);
/// So many failures in a row make a pod one that does not answer.
const FAILURES: u32 = 2;

/// What is known of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    /// Its last answer.
    pub(crate) process: Option<Arc<Process>>,
    /// When it answered last.
    pub(crate) seen: Option<Timestamp>,
    /// How often it has not answered since.
    pub(crate) failures: u32,
}

impl Observation {
    /// What it says, while it answers.
    pub(crate) fn answer(&self) -> Option<&Process> {
        self.process.as_deref().filter(|_| self.failures < FAILURES)
    }

    /// Whether nobody can say yet whether it answers.
    pub(crate) fn is_unasked(&self) -> bool {
        self.process.is_none() && self.failures < FAILURES
    }

    /// Whether it has been asked in vain for so long that it counts as not answering.
    pub(crate) fn is_silent(&self) -> bool {
        self.failures >= FAILURES
    }
}

/// What is known of every pod, by UID.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observations {
    inner: Arc<RwLock<HashMap<Box<str>, Observation>>>,
}

impl Observations {
    pub(crate) fn get(&self, uid: &str) -> Option<Observation> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Keeps what a pod answered (or that it did not), and answers what was known before and is known now.
    fn put(&self, uid: &str, process: Option<Process>, now: Timestamp) -> (Option<Observation>, Observation) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let before = inner.get(uid).cloned();
        let after = if let Some(process) = process {
            Observation { process: Some(Arc::new(process)), seen: Some(now), failures: 0 }
        } else {
            let before = before.clone().unwrap_or_default();
            Observation { failures: before.failures.saturating_add(1), ..before }
        };
        inner.insert(uid.into(), after.clone());
        (before, after)
    }

    fn retain(&self, present: &HashSet<Box<str>>) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| present.contains(uid));
    }
}

/// Asks the pods of a cache.
pub(crate) struct Observer {
    pub(crate) cache: Cache,
    pub(crate) observations: Observations,
    pub(crate) changed: mpsc::Sender<WalKey>,
    pub(crate) asker: Asker,
    pub(crate) port: u16,
    pub(crate) interval: Duration,
    pub(crate) metrics: Metrics,
}

/// One pod's turns.
struct Turn {
    next: Instant,
    asking: bool,
    /// When its WAL was last looked at because of what it says, and with which figures.
    told: Option<(Instant, Figures)>,
}

impl Turn {
    /// Whether its WAL is to be looked at, now that it said `after`. Figures that moved within a minute of the last look wait
    /// for the first answer after that minute: they are compared with those that were looked at, not with the last answer.
    fn is_news(&mut self, before: Option<&Observation>, after: &Observation, now: Instant) -> bool {
        let figures = figures(after);
        let moved = match &self.told {
            None => figures.is_some(),
            Some((when, told)) => now - *when >= FIGURES && *told != figures,
        };
        let news = moved || essence(before) != essence(Some(after));
        if news {
            self.told = Some((now, figures));
        }
        news
    }
}

/// A pod that was asked.
struct Asked {
    pod: Arc<Pod>,
    process: Option<Process>,
}

impl Observer {
    /// Asks for ever.
    pub(crate) async fn run(self) {
        let mut turns: HashMap<Box<str>, Turn> = HashMap::new();
        let mut asking = JoinSet::new();
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => self.ask_due(&mut turns, &mut asking, &permits),
                Some(Ok(asked)) = asking.join_next(), if !asking.is_empty() => self.answered(asked, &mut turns).await,
            }
        }
    }

    /// Starts to ask the pods whose turn it is, and forgets those that are gone.
    fn ask_due(&self, turns: &mut HashMap<Box<str>, Turn>, asking: &mut JoinSet<Asked>, permits: &Arc<Semaphore>) {
        let now = Instant::now();
        let mut present = HashSet::new();
        for pod in self.cache.pods() {
            let Some(address) = pod.address.clone() else { continue };
            present.insert(pod.uid.clone());
            let turn = turns.entry(pod.uid.clone()).or_insert(Turn { next: now, asking: false, told: None });
            if turn.asking || turn.next > now {
                continue;
            }
            turn.asking = true;
            let (asker, permits, port) = (self.asker.clone(), permits.clone(), self.port);
            asking.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                let process = match asker.ask(&address, port).await {
                    Ok(process) => Some(process),
                    Err(error) => {
                        tracing::debug!(wal = %pod.wal, pod = %pod.name, %error, "a pod did not answer");
                        None
                    }
                };
                Asked { pod, process }
            });
        }
        turns.retain(|uid, _| present.contains(uid));
        self.observations.retain(&present);
    }

    async fn answered(&self, asked: Asked, turns: &mut HashMap<Box<str>, Turn>) {
        let Asked { pod, process } = asked;
        let Some(turn) = turns.get_mut(&pod.uid) else { return };
        self.metrics.polled(process.is_some());
        let (before, after) = self.observations.put(&pod.uid, process, clock::now());
        let now = Instant::now();
        turn.asking = false;
        let wait = if is_settled(&after) { self.interval } else { self.interval.min(UNSETTLED) };
        turn.next = now + backoff::jittered(wait, backoff::random());
        if turn.is_news(before.as_ref(), &after, now) {
            // Nobody listens only while the process ends.
            drop(self.changed.send(pod.wal.clone()).await);
        }
    }
}

/// Whether a pod does its work and has nothing to tell.
fn is_settled(observation: &Observation) -> bool {
    observation.answer().is_some_and(|process| {
        process.problems.is_empty()
            && match process.phase {
                Phase::Serving | Phase::Standby => true,
                Phase::Writing => process.caught_up,
                Phase::Starting | Phase::Probing | Phase::Purging | Phase::Purged | Phase::Ended => false,
            }
    })
}

/// What conditions are made of: everything but the figures.
fn essence(observation: Option<&Observation>) -> (bool, Option<Process>) {
    let bare = |process: &Process| Process {
        horizon: None,
        cursor: None,
        lag_seconds: None,
        pending_entries: None,
        entries: None,
        manifest: process.manifest.map(|number| number.min(1)),
        ..process.clone()
    };
    let silent = observation.is_some_and(Observation::is_silent);
    (silent, observation.and_then(Observation::answer).map(bare))
}

/// Lag, pending entries and entries; none before the first answer.
type Figures = Option<[Option<i64>; 3]>;

/// What a status tells beside its conditions. The horizon, and the cursor of an idle log, move with the clock and are no news
/// of their own.
fn figures(observation: &Observation) -> Figures {
    let process = observation.process.as_ref()?;
    Some([process.lag_seconds, process.pending_entries, process.entries])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn one_failure_is_borne_and_two_are_silence_with_the_time_of_the_last_answer() {
        let observations = Observations::default();
        observations.put("u", Some(Process::default()), at(10));
        let (_, once) = observations.put("u", None, at(20));
        assert!(once.answer().is_some() && !once.is_silent());
        let (_, twice) = observations.put("u", None, at(30));
        assert!(twice.answer().is_none() && twice.is_silent());
        assert_eq!(twice.seen, Some(at(10)));
        let (_, again) = observations.put("u", Some(Process::default()), at(40));
        assert!(again.answer().is_some());
    }

    #[test]
    fn moving_figures_are_no_change_of_essence() {
        let observation = |entries, horizon| Observation {
            process: Some(Arc::new(Process {
                entries: Some(entries),
                horizon: Some(at(horizon)),
                ..Process::default()
            })),
            ..Observation::default()
        };
        let (before, moved, later) = (observation(1, 1), observation(2, 1), observation(1, 2));
        assert_eq!(essence(Some(&before)), essence(Some(&moved)));
        assert_ne!(figures(&before), figures(&moved));
        assert_eq!(figures(&before), figures(&later), "the horizon alone is no news");
    }

    /// A log that rests after its first entries showed none of them for ever.
    #[test]
    fn figures_that_moved_soon_after_a_look_are_told_a_minute_after_it() {
        let said = |entries, horizon| Observation {
            process: Some(Arc::new(Process { entries, horizon: Some(at(horizon)), ..Process::default() })),
            ..Observation::default()
        };
        let start = Instant::now();
        let mut turn = Turn { next: start, asking: false, told: None };
        let (empty, five) = (said(Some(0), 1), said(Some(5), 2));
        let mut answers = |before: Option<&Observation>, after, second| {
            turn.is_news(before, after, start + Duration::from_secs(second))
        };
        assert!(answers(None, &empty, 0), "the first answer");
        assert!(!answers(Some(&empty), &five, 20), "too soon for figures alone");
        assert!(!answers(Some(&five), &five, 50), "still too soon");
        assert!(answers(Some(&five), &five, 61), "they are told late rather than never");
        assert!(!answers(Some(&five), &said(Some(5), 99), 200), "the clock alone is no news");
    }

    #[test]
    fn a_pod_that_is_not_settled_is_asked_more_often() {
        let observation = |phase, caught_up| Observation {
            process: Some(Arc::new(Process { phase, caught_up, ..Process::default() })),
            ..Observation::default()
        };
        assert!(is_settled(&observation(Phase::Writing, true)) && is_settled(&observation(Phase::Serving, false)));
        assert!(!is_settled(&observation(Phase::Writing, false)) && !is_settled(&observation(Phase::Starting, false)));
        assert!(!is_settled(&Observation::default()));
    }
}
