//! How a process becomes an index's writer: it stands by while the holder's heartbeat moves, and takes over, in the next epoch, from
//! one that ended or released the lease.
//!
//! All of this is about progress: a writer that lives keeps the lease, and one that ended is replaced. Safety rests on the epoch
//! alone (`writer_lease.rs`).

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tidemark_store::{ChainRecord, Store, StoreClock, StoreError, StoreSecond};
use tokio::time::{Instant, sleep};

use crate::{
    error::{AcquireError, CatalogError, TransactionRejected},
    identity::{IndexId, WriterIdentity},
    index_chain::IndexChain,
    manifest::{LeaseHolder, Manifest},
    names::Generation,
    writer_lease::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, WriterLease},
};

/// How often a candidate reads the heartbeat.
/// A third of a heartbeat: only readings at most one heartbeat apart count as silence, and an answer may be slow.
pub(crate) const STANDBY_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How many hasty take-overs in a row go without a wait.
const MAX_IMMEDIATE_TAKEOVERS: u32 = 2;
/// The wait before the first hasty take-over that is not immediate; it doubles with each further one in a row.
const MIN_TAKEOVER_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait before a hasty take-over.
const MAX_TAKEOVER_BACKOFF: Duration = Duration::from_secs(30);
/// How often the wait doubles before it is [`MAX_TAKEOVER_BACKOFF`].
const TAKEOVER_BACKOFF_STEPS: usize = 5;

/// Why a candidate waits. The process is ready meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandbyReason {
    /// Another writer holds the index.
    ForHolder {
        /// The holder.
        holder: WriterIdentity,
        /// Its epoch.
        epoch: u64,
        /// For how long its heartbeat has stood still; after [`HEARTBEAT_TIMEOUT`] the candidate takes over.
        silent: Duration,
    },
    /// The holder or its heartbeat could not be read: the holder may live, so the candidate does not take over.
    Unanswered {
        /// The store's error.
        error: StoreError,
    },
    /// The index was restored, and takes no publications before it is promoted.
    NotPromoted {
        /// The time that it was restored to.
        until: StoreSecond,
    },
    /// The index changed hands several times in a row without a publication.
    BackingOff {
        /// How long this candidate waits.
        wait: Duration,
    },
}

/// Measures for how long a heartbeat stands still.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatMonitor {
    epoch: u64,
    last: Option<HeartbeatReading>,
    still: Duration,
}

/// A successful read of a heartbeat.
#[derive(Debug)]
struct HeartbeatReading {
    started: Instant,
    ended: Instant,
    heartbeat: Option<(StoreSecond, Option<String>)>,
}

impl HeartbeatMonitor {
    /// Adds a reading. Only the time between two readings at most [`HEARTBEAT_INTERVAL`] apart counts as silence: an outage,
    /// during which no holder can move its heartbeat, does not, nor does a pause of this process. A clock object that is gone is no
    /// heartbeat: those of holders that ended long ago are deleted.
    fn record(&mut self, epoch: u64, mut reading: HeartbeatReading) {
        if self.epoch != epoch {
            *self = Self { epoch, ..Self::default() };
        }
        reading.heartbeat = reading.heartbeat.or_else(|| self.last.as_ref()?.heartbeat.clone());
        match &self.last {
            Some(last) if last.heartbeat != reading.heartbeat => self.still = Duration::ZERO,
            Some(last) if reading.ended.duration_since(last.started) <= HEARTBEAT_INTERVAL => {
                self.still += reading.started.duration_since(last.ended);
            }
            _ => {}
        }
        self.last = Some(reading);
    }

    /// Reads the heartbeat `key` of the holder of `epoch`.
    pub(crate) async fn poll(&mut self, epoch: u64, heartbeats: &Store, key: &str) -> Result<(), StoreError> {
        let started = Instant::now();
        let heartbeat = heartbeats.head(key).await?.map(|info| (info.time, info.etag));
        self.record(epoch, HeartbeatReading { started, ended: Instant::now(), heartbeat });
        Ok(())
    }

    /// For how long the heartbeat of the holder of `epoch` has stood still.
    pub(crate) fn silence_of(&self, epoch: u64) -> Duration {
        if self.epoch == epoch { self.still } else { Duration::ZERO }
    }
}

impl IndexChain {
    /// Becomes the index's writer: waits until that is allowed, and takes the index over.
    ///
    /// It is allowed if no process holds the index, if the holder is this `identity`, or if the holder's heartbeat in `heartbeats`
    /// (the log's own store) has stood still for [`HEARTBEAT_TIMEOUT`]. `on_wait` gets the reason after every poll that ends in
    /// waiting. The future may be dropped at any time. `clock` must be the one whose [`heartbeat`] the caller runs afterwards.
    pub async fn acquire(
        &self,
        identity: WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        self.acquire_as(CandidateRole::Writer, identity, clock, heartbeats, on_wait).await
    }

    /// As [`Self::acquire`], for a process that publishes nothing: it does not wait until a restored index is promoted.
    pub async fn acquire_as_owner(
        &self,
        identity: WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        self.acquire_as(CandidateRole::Owner, identity, clock, heartbeats, on_wait).await
    }

    /// As [`Self::acquire`], for a process that switches the index to another generation: it waits for no writer, which goes on in
    /// that one, but for another switch.
    pub(crate) async fn seize(
        &self,
        identity: WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        self.acquire_as(CandidateRole::Switch, identity, clock, heartbeats, on_wait).await
    }

    /// As [`Self::acquire`], for the maker of a generation: its first record names `task`. Refused
    /// ([`TransactionRejected::Building`], [`TransactionRejected::NotBuilding`]) if another task makes it, or none. It is to replace
    /// `open`.
    pub(crate) async fn build(
        &self,
        (task, open): (&str, &Generation),
        identity: WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        let role = CandidateRole::Maker { task: task.to_owned(), open: open.clone() };
        self.acquire_as(role, identity, clock, heartbeats, on_wait).await
    }

    async fn acquire_as(
        &self,
        role: CandidateRole,
        identity: WriterIdentity,
        clock: &StoreClock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        let mut candidate = WriterCandidate {
            chain: self,
            role,
            identity,
            clock,
            heartbeats,
            heartbeat: HeartbeatMonitor::default(),
            backed_off: None,
            failure: None,
        };
        let mut seen = None;
        loop {
            seen = candidate.poll(seen).await?;
            match candidate.next(seen.as_ref()).await? {
                CandidateStep::Wait(why, span) => {
                    on_wait(candidate.failure.take().map_or(why, |error| StandbyReason::Unanswered { error }));
                    sleep(span).await;
                }
                CandidateStep::Take { hasty } => {
                    if let Some(writer_lease) = candidate.take(seen.clone(), hasty).await? {
                        return Ok(writer_lease);
                    }
                }
            }
        }
    }
}

impl IndexChain {
    /// Whether a writer holds the index and lives: its heartbeat in `heartbeats` moves within [`HEARTBEAT_TIMEOUT`]. Where it does not, the
    /// answer takes as long. A heartbeat that cannot be read is an error.
    pub async fn has_live_writer(&self, heartbeats: &Store) -> Result<bool, CatalogError> {
        let mut monitor = HeartbeatMonitor::default();
        let mut first = None;
        loop {
            let Some(latest) = self.latest().await? else { return Ok(false) };
            let Some(holder) = &latest.state.holder else { return Ok(false) };
            let epoch = latest.state.epoch;
            monitor.poll(epoch, heartbeats, &holder.heartbeat).await?;
            let seen = (epoch, monitor.last.as_ref().and_then(|reading| reading.heartbeat.clone()));
            if *first.get_or_insert_with(|| seen.clone()) != seen {
                return Ok(true);
            }
            if monitor.silence_of(epoch) >= HEARTBEAT_TIMEOUT {
                return Ok(false);
            }
            sleep(STANDBY_POLL_INTERVAL).await;
        }
    }
}

impl IndexChain {
    /// Whether the writer of `epoch` was fenced by a process that switches the index to another generation, or gives one up, whatever has
    /// happened to the index since: it goes on in the generation that is open.
    ///
    /// Where the record is trimmed that took the role from it, the present holder decides.
    pub async fn is_fenced_by_switch(&self, epoch: u64) -> Result<bool, CatalogError> {
        let Some(latest) = self.latest().await? else { return Ok(false) };
        let (mut record, mut fencer) = (Some(latest), None);
        while let Some(ChainRecord { number, state, .. }) = record.filter(|record| record.state.epoch > epoch) {
            fencer = state.holder.or(fencer);
            record = self.chain().read(number.saturating_sub(1)).await?;
        }
        Ok(fencer.is_some_and(|holder| holder.identity.is_switch()))
    }
}

/// What a candidate wants the index for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CandidateRole {
    /// To write it.
    Writer,
    /// To change it without writing to it, as a purge does.
    Owner,
    /// To switch it to another generation.
    Switch,
    /// To make this generation.
    Maker {
        /// The task.
        task: String,
        /// The generation that it is to replace.
        open: Generation,
    },
}

/// A process that waits to become the writer.
struct WriterCandidate<'a> {
    chain: &'a IndexChain,
    role: CandidateRole,
    identity: WriterIdentity,
    clock: &'a StoreClock,
    heartbeats: &'a Store,
    heartbeat: HeartbeatMonitor,
    /// The epoch for whose take-over it has backed off already.
    backed_off: Option<u64>,
    /// Why the last poll failed.
    failure: Option<StoreError>,
}

/// What a candidate does next.
enum CandidateStep {
    Wait(StandbyReason, Duration),
    Take { hasty: bool },
}

impl WriterCandidate<'_> {
    /// The latest manifest; the one seen before if the store fails just now.
    async fn poll(
        &mut self,
        seen: Option<ChainRecord<Manifest>>,
    ) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        let Some(seen) = seen else {
            return self.chain.latest().await;
        };
        match self.chain.poll_newer(&seen).await {
            Ok(newer) => Ok(Some(newer.unwrap_or(seen))),
            Err(CatalogError::Store(error @ StoreError::Failed { .. })) => {
                tracing::warn!(%error, "reading the index failed; the standby keeps waiting and retries");
                self.failure = Some(error);
                Ok(Some(seen))
            }
            Err(error) => Err(error),
        }
    }

    async fn next(&mut self, seen: Option<&ChainRecord<Manifest>>) -> Result<CandidateStep, AcquireError> {
        let Some(ChainRecord { state, .. }) = seen else {
            return Ok(CandidateStep::Take { hasty: false });
        };
        state.not_closed().map_err(CatalogError::from)?;
        self.check_maker(state)?;
        if let (CandidateRole::Writer, Some(until)) = (&self.role, state.until) {
            return Ok(CandidateStep::Wait(StandbyReason::NotPromoted { until }, STANDBY_POLL_INTERVAL));
        }
        let Some(holder) = &state.holder else {
            return Ok(CandidateStep::Take { hasty: false });
        };
        if let Some(wait) = self.wait_for(state.epoch, holder).await? {
            return Ok(wait);
        }
        self.back_off(state, holder).await
    }

    /// A generation that is being built has one maker.
    fn check_maker(&self, state: &Manifest) -> Result<(), CatalogError> {
        let CandidateRole::Maker { task, .. } = &self.role else { return Ok(()) };
        let generation = state.generation.clone();
        match &state.building {
            Some(known) if known == task => Ok(()),
            Some(known) => Err(TransactionRejected::Building { generation, task: known.clone() }.into()),
            None => Err(TransactionRejected::NotBuilding { generation }.into()),
        }
    }

    /// Whether to wait because another holder lives.
    async fn wait_for(&mut self, epoch: u64, holder: &LeaseHolder) -> Result<Option<CandidateStep>, CatalogError> {
        let seizes = self.role == CandidateRole::Switch && !holder.identity.is_switch();
        if holder.identity == self.identity || seizes {
            return Ok(None);
        }
        match self.heartbeat.poll(epoch, self.heartbeats, &holder.heartbeat).await {
            Ok(()) => {}
            Err(error @ StoreError::Failed { .. }) => {
                tracing::warn!(%error, "reading the holder's heartbeat failed; the standby keeps waiting and retries");
                self.failure = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
        let silent = self.heartbeat.silence_of(epoch);
        let why = StandbyReason::ForHolder { holder: holder.identity.clone(), epoch, silent };
        Ok((silent < HEARTBEAT_TIMEOUT).then_some(CandidateStep::Wait(why, STANDBY_POLL_INTERVAL)))
    }

    /// Waits once before a hasty take-over.
    async fn back_off(&mut self, state: &Manifest, holder: &LeaseHolder) -> Result<CandidateStep, AcquireError> {
        if self.role == CandidateRole::Switch {
            return Ok(CandidateStep::Take { hasty: false });
        }
        let now = self.clock.probe().await?.now;
        let hasty = holder.since.is_some_and(|since| now.since(since) < HEARTBEAT_TIMEOUT);
        let wait = wait_before(state.hasty_takeovers);
        if !hasty || wait.is_zero() || self.backed_off == Some(state.epoch) {
            return Ok(CandidateStep::Take { hasty });
        }
        self.backed_off = Some(state.epoch);
        let wait = self.chain.entropy().jittered(wait);
        Ok(CandidateStep::Wait(StandbyReason::BackingOff { wait }, wait))
    }

    /// The state before record 1. What takes the place of another generation is of the same index; what is begun as the index itself is a
    /// new one, also where an index was before that was purged or lost: its records have other seqs.
    async fn first_state(&self) -> Result<Manifest, CatalogError> {
        let generation = self.chain.generation().clone();
        let drawn = || IndexId(self.chain.entropy().nonce());
        let CandidateRole::Maker { task, open } = &self.role else {
            return Ok(Manifest::new(generation).of_index(drawn()));
        };
        let latest = self.chain.sibling(open.clone()).latest().await?;
        let id = latest.and_then(|latest| latest.state.id).unwrap_or_else(drawn);
        Ok(Manifest::building(generation, task).replacing(open).of_index(id))
    }

    /// Publishes the next epoch; `None` if another process did so first.
    async fn take(
        &self,
        seen: Option<ChainRecord<Manifest>>,
        hasty: bool,
    ) -> Result<Option<WriterLease>, AcquireError> {
        let claims = self.chain.claims().await?;
        // Move the heartbeat before other candidates read it.
        self.clock.probe().await?;
        let holder =
            LeaseHolder { identity: self.identity.clone(), heartbeat: self.clock.heartbeat_key(), since: None };
        let saw = seen.as_ref().map_or(0, |latest| latest.state.epoch);
        let first = match &seen {
            Some(latest) => latest.state.clone(),
            None => self.first_state().await?,
        };
        let is_finished = self.chain.is_successor();
        let taken = self.chain.chain().append(seen, |state| {
            let state = state.unwrap_or(&first);
            let taken = state.take_over(saw, holder.clone(), hasty).and_then(&claims)?;
            // The index has switched to it: the next process need not ask for that again.
            Ok(Some(if is_finished { taken.built() } else { taken }))
        });
        match taken.await {
            Ok(latest) => Ok(Some(WriterLease::new(self.chain.clone(), latest))),
            Err(CatalogError::Rejected(TransactionRejected::Fenced { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// How long to wait before a hasty take-over.
fn wait_before(hasty_takeovers: u32) -> Duration {
    let Some(excess) = hasty_takeovers.checked_sub(MAX_IMMEDIATE_TAKEOVERS) else { return Duration::ZERO };
    let backoff = ExponentialBuilder::new()
        .with_min_delay(MIN_TAKEOVER_BACKOFF)
        .with_max_delay(MAX_TAKEOVER_BACKOFF)
        .with_max_times(TAKEOVER_BACKOFF_STEPS);
    // The iterator ends after its last step, so that a high count costs no more than a low one.
    backoff.build().nth(excess as usize).unwrap_or(MAX_TAKEOVER_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hasty_takeovers_wait_longer_each_time_up_to_the_longest() {
        let waits = [0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX].map(|count| wait_before(count).as_secs());
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
