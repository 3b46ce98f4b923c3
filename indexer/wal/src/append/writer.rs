//! The writer: a token from store time, the entry, what completes it, and the proof.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::try_join_all;
use tokio::sync::Mutex;

use super::{
    AppendError, CompletionUpload, EntryDraft, ParameterSource,
    attempt::{AppendAttempt, AttemptOutcome, UnprovenAttempt},
    draft::PreparedEntry,
};
use crate::{Log, LogParameters, LogReader, MAX_PARAMETER_AGE, ParameterSchedule, ReaderLimits, Token};
use tidemark_store::{Clock, Entropy, StoreSecond};

/// The clocks of the stores may never be farther apart than this for an append.
const MOST_SPREAD: Duration = Duration::from_secs(30);
/// The pause before the second token; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How a writer behaves.
#[derive(Clone, Debug)]
pub struct LogWriterOptions {
    /// Name of the writer: its clock object, and `writer` of drafts that name none. One process, one name.
    pub name: String,
    /// How many tokens one append may take before it gives up.
    pub attempts: u32,
}

impl LogWriterOptions {
    /// The defaults for a writer of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), attempts: 4 }
    }
}

/// Appends to one log. Cheap to clone; clones share clock and parameters.
#[derive(Clone)]
pub struct LogWriter(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) reader: LogReader,
    pub(super) entropy: Entropy,
    source: Arc<dyn ParameterSource>,
    options: LogWriterOptions,
    trust: Mutex<Option<CachedParameters>>,
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

/// Proof that the operations under an idempotency key are committed, in every index and for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendReceipt {
    /// The token of the entry.
    pub token: Token,
    /// The draft's first operation within the entry: 0 unless it shares the entry with others.
    pub op: u32,
    /// Store time at which everything was seen.
    pub acknowledged: StoreSecond,
    /// How many tokens it took.
    pub attempts: u32,
}

/// An entry that is durable, and what somebody else is to put until its end.
#[derive(Clone, Debug)]
pub struct PendingAppend {
    /// The token of the entry.
    pub token: Token,
    /// The key under which repeated appends count once.
    pub idempotency_key: String,
    /// Store time after which none of the URLs is valid any more.
    pub ends: StoreSecond,
    /// What is to be put, in this order; empty when the entry completes itself.
    pub uploads: Vec<CompletionUpload>,
}

impl LogWriter {
    /// Opens a writer: probes the clock and reads the parameters once, so that what is wrong shows here.
    pub async fn open(
        log: Log,
        source: Arc<dyn ParameterSource>,
        options: LogWriterOptions,
        entropy: Entropy,
    ) -> Result<Self, AppendError> {
        let writer = Self(Arc::new(Shared {
            clock: Clock::new(log.stores(), &options.name),
            reader: LogReader::new(&log, ReaderLimits::default()),
            log,
            entropy,
            source,
            options,
            trust: Mutex::default(),
        }));
        writer.now().await?;
        Ok(writer)
    }

    /// The writer's name.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Appends `draft` and completes it: entry, descriptors, read back, proven.
    ///
    /// Takes a new token under the same idempotency key as often as [`LogWriterOptions::attempts`] allows. What it wrote in
    /// vain stays: the outcome of an unknown write is never guessed.
    pub async fn append(&self, draft: EntryDraft) -> Result<AppendReceipt, AppendError> {
        let prepared = PreparedEntry::of(draft, &self.0.options.name, &self.0.entropy)?;
        self.append_prepared(&prepared).await
    }

    pub(super) async fn append_prepared(&self, prepared: &PreparedEntry) -> Result<AppendReceipt, AppendError> {
        let mut tried: Vec<AppendAttempt> = Vec::new();
        let mut missed: Option<UnprovenAttempt> = None;
        loop {
            let now = match self.now().await {
                Ok(now) => now,
                Err(error) => return Err(missed.map_or(error, |missed| missed.error(prepared))),
            };
            let schedule = now.schedule.clone();
            tried.push(AppendAttempt::new(now, &self.0.entropy));
            let attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX);
            match self.attempt(&tried, prepared).await {
                AttemptOutcome::Proven { token, acknowledged } => {
                    self.refresh_labels(token, prepared, &schedule).await;
                    return Ok(AppendReceipt { token, op: 0, acknowledged, attempts });
                }
                AttemptOutcome::Over(error) => return Err(error),
                AttemptOutcome::Again(why) if attempts >= self.0.options.attempts => return Err(why.error(prepared)),
                AttemptOutcome::Again(why) => missed = Some(why),
            }
            self.pause_after(attempts).await;
        }
    }

    /// Writes the entry of `draft` and signs the URLs with which somebody else completes it until [`PendingAppend::ends`].
    ///
    /// Nothing is acknowledged: whoever completes it calls [`LogWriter::confirm`], or leaves the outcome to the readers.
    pub async fn begin(&self, draft: EntryDraft) -> Result<PendingAppend, AppendError> {
        let prepared = PreparedEntry::of(draft, &self.0.options.name, &self.0.entropy)?;
        let mut attempts = 0;
        loop {
            let started = AppendAttempt::new(self.now().await?, &self.0.entropy);
            match self.write_entry(&started, &prepared).await {
                Ok(()) => return self.begun(&started, prepared).await,
                Err(missed) if attempts >= self.0.options.attempts => return Err(missed.error(&prepared)),
                Err(_) => attempts += 1,
            }
            self.pause_after(attempts).await;
        }
    }

    async fn begun(&self, started: &AppendAttempt, prepared: PreparedEntry) -> Result<PendingAppend, AppendError> {
        let uploads = try_join_all(prepared.parts.iter().map(|part| self.upload(started, part))).await;
        Ok(PendingAppend {
            token: started.token,
            ends: started.ends(),
            uploads: uploads.map_err(|error| started.missed(error.to_string()).error(&prepared))?,
            idempotency_key: prepared.key,
        })
    }

    /// Reads back what [`LogWriter::begin`] started and somebody else completed, and acknowledges it if it is proven.
    pub async fn confirm(&self, begun: &PendingAppend) -> Result<AppendReceipt, AppendError> {
        let schedule = self.now().await?.schedule;
        let started = AppendAttempt { token: begun.token, schedule };
        match self.look(&started, None).await {
            Ok(seen) => Ok(AppendReceipt { token: begun.token, op: 0, acknowledged: seen, attempts: 1 }),
            Err(unseen) => Err(unseen.missed.unproven(&begun.idempotency_key)),
        }
    }

    /// Store time and the parameters for a token of it: what is known while that may be relied on, else a probe of the
    /// clock and then the head of the root chain.
    async fn now(&self) -> Result<StoreTime, AppendError> {
        let mut trust = self.0.trust.lock().await;
        if let (Some(second), Some(CachedParameters { schedule, until })) = (self.0.clock.estimate(), trust.as_ref())
            && second < *until
        {
            let schedule = schedule.clone();
            return Ok(StoreTime { second, schedule });
        }
        *trust = None;
        let reading = self.0.clock.probe().await?;
        let schedule = self.0.source.schedule().await?;
        let second = reading.now;
        check_spread(reading.spread, schedule.at(second))?;
        let until = second.after(MAX_PARAMETER_AGE);
        *trust = Some(CachedParameters { schedule: schedule.clone(), until });
        Ok(StoreTime { second, schedule })
    }

    /// Waits after attempt number `attempt`, and has the clock probed before the next: an estimate may be what was wrong.
    async fn pause_after(&self, attempt: u32) {
        *self.0.trust.lock().await = None;
        tokio::time::sleep(FIRST_PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1).min(8))).await;
    }
}

fn check_spread(spread: Duration, parameters: &LogParameters) -> Result<(), AppendError> {
    let allowed = MOST_SPREAD.min(parameters.expiry / 4);
    if spread > allowed {
        return Err(AppendError::Spread { spread, allowed });
    }
    Ok(())
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogWriter(\"{}\" on {:?})", self.0.options.name, self.0.log.entries)
    }
}
