//! What all appends of one writer share, and the time and parameters of one attempt.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::{error::AppendError, prepared::PreparedEntry, receipt::AppendProof, source::ParameterSource};
use crate::{
    lock::{LockChain, LockName},
    log::Log,
    parameters::{LogParameters, MAX_PARAMETER_AGE, ParameterSchedule},
    reader::LogReader,
    token::Token,
};
use tidemark_store::{Entropy, StoreClock, StoreSecond};

/// The clocks of the stores may be at most this far apart for an append.
const MAX_SPREAD: Duration = Duration::from_secs(30);
/// How often the clocks are read before their distance refuses an append: they tell whole seconds, and two that agree may be
/// read on either side of one.
const SPREAD_READINGS: u32 = 3;

/// The log, its clock and its parameters, as one writer uses them.
pub(super) struct AppendSession {
    pub(super) log: Log,
    pub(super) clock: StoreClock,
    pub(super) reader: LogReader,
    pub(super) entropy: Entropy,
    source: Arc<dyn ParameterSource>,
    cached: Mutex<Option<CachedParameters>>,
    /// The last token of this writer.
    last: parking_lot::Mutex<Option<Token>>,
    /// The chains of the locks that guarded an entry of this writer: each knows where it ends.
    locks: parking_lot::Mutex<BTreeMap<LockName, LockChain>>,
}

/// Parameters that may be relied on for seconds before `until`.
struct CachedParameters {
    schedule: ParameterSchedule,
    until: StoreSecond,
}

/// Store time for a token, with the parameters in force.
#[derive(Clone, Debug)]
pub(super) struct StoreTime {
    pub(super) second: StoreSecond,
    pub(super) schedule: ParameterSchedule,
}

/// An attempt: a token, and the parameters that decide its outcome.
#[derive(Clone, Debug)]
pub(super) struct AppendAttempt {
    pub(super) token: Token,
    pub(super) schedule: ParameterSchedule,
    /// Of a guarded entry whose slot was taken, when it ends.
    pub(super) guard: Option<GuardBounds>,
}

/// Until when a guarded entry may be completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardBounds {
    /// Nothing is put any more after it: the slot's store time + `completeWithin`.
    pub(super) ends: StoreSecond,
}

impl AppendSession {
    /// A session on `log` whose clock object bears `name`.
    pub(super) fn new(log: Log, source: Arc<dyn ParameterSource>, name: &str, entropy: Entropy) -> Self {
        Self {
            clock: StoreClock::new(log.stores(), name),
            reader: LogReader::new(&log),
            log,
            entropy,
            source,
            cached: Mutex::default(),
            last: parking_lot::Mutex::default(),
            locks: parking_lot::Mutex::default(),
        }
    }

    /// The chain of the lock `name`.
    pub(super) fn lock_chain(&self, name: &LockName) -> LockChain {
        let open = || LockChain::open(&self.log.entries, name, &self.entropy);
        self.locks.lock().entry(name.clone()).or_insert_with(open).clone()
    }

    /// Store time and the parameters for a token of it: what is cached while that may be relied on, else a probe of the
    /// clock and then the head of the root chain.
    pub(super) async fn now(&self) -> Result<StoreTime, AppendError> {
        let mut cached = self.cached.lock().await;
        if let (Some(second), Some(CachedParameters { schedule, until })) = (self.clock.estimate(), cached.as_ref())
            && second < *until
        {
            let schedule = schedule.clone();
            return Ok(StoreTime { second, schedule });
        }
        *cached = None;
        let mut readings = 1;
        let (second, schedule) = loop {
            // The clock first: what is read after the probe is at least as new as the time that it is relied on from.
            let reading = self.clock.probe().await?;
            let schedule = self.source.schedule().await?;
            match check_spread(reading.spread, schedule.at(reading.now)) {
                Ok(()) => break (reading.now, schedule),
                Err(_) if readings < SPREAD_READINGS => readings += 1,
                Err(refusal) => return Err(refusal),
            }
        };
        let until = second.after(MAX_PARAMETER_AGE);
        *cached = Some(CachedParameters { schedule: schedule.clone(), until });
        Ok(StoreTime { second, schedule })
    }

    /// An attempt of this time, unless readers would not read what is `prepared` under a token of it. The tokens of one writer
    /// ascend, also within a second: its own order is the log's. They are above those that moved the same labels before, too.
    pub(super) async fn begin_attempt(&self, prepared: &PreparedEntry) -> Result<AppendAttempt, AppendError> {
        let now = self.now().await?;
        prepared.check_sizes(now.parameters())?;
        let newest = self.newest_move(prepared, now.second).await?;
        let mut last = self.last.lock();
        let token = match (*last).max(newest) {
            None => Token::new(now.second, &self.entropy),
            Some(last) => Token::after(last, now.second, &self.entropy),
        };
        *last = Some(token);
        Ok(AppendAttempt { token, schedule: now.schedule, guard: None })
    }

    /// Has the clock probed before the next token: an estimate may be what was wrong with the last one.
    pub(super) async fn forget_parameters(&self) {
        *self.cached.lock().await = None;
    }
}

impl StoreTime {
    /// The parameters in force now.
    pub(super) fn parameters(&self) -> &LogParameters {
        self.schedule.at(self.second)
    }
}

impl AppendAttempt {
    pub(super) fn parameters(&self) -> &LogParameters {
        self.schedule.at(self.token.second())
    }

    /// The second after which nothing is put any more: token + `W`, never rounded up, and not after what the guard allows.
    pub(super) fn ends(&self) -> StoreSecond {
        let expiry = self.parameters().expiry.as_secs();
        let ends = self.token.second().after(Duration::from_secs(expiry));
        self.guard.map_or(ends, |guard| guard.ends.min(ends))
    }

    /// What it proves that everything was seen at `seen`, in time.
    pub(super) fn proof(&self, seen: StoreSecond, is_conditional: bool) -> AppendProof {
        if !is_conditional {
            return AppendProof::Committed { acknowledged: seen };
        }
        // The first second in which the horizon may be beyond the token's.
        let decided = self.token.second().after(self.parameters().horizon_delay()).next();
        AppendProof::Undecided { seen, decided }
    }

    /// Whether `time` is not after token + `C`.
    pub(super) fn in_bound(&self, time: StoreSecond) -> bool {
        time.since(self.token.second()) <= self.parameters().commit_bound()
    }
}

fn check_spread(spread: Duration, parameters: &LogParameters) -> Result<(), AppendError> {
    let allowed = MAX_SPREAD.min(parameters.expiry / 4);
    if spread > allowed {
        return Err(AppendError::Spread { spread, allowed });
    }
    Ok(())
}
