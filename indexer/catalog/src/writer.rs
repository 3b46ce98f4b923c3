//! One writer: who may publish in an index.
//!
//! The writer holds an epoch. A take-over publishes the next epoch. A transaction of a writer is refused in a state of another
//! epoch, so nothing of a lower epoch commits afterwards, no matter how long its writer was suspended. Safety needs nothing
//! else. The rest of this file is about progress: a writer that lives keeps the lease, and one that ended is replaced.

use std::{convert::Infallible, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tidemark_store::{ChainRecord, Store, StoreClock, StoreError, StoreSecond};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    error::{AcquireError, CatalogError, PublishError, TransactionRejected},
    identity::WriterIdentity,
    index_chain::IndexChain,
    manifest::{CompactionResult, LeaseHolder, Manifest, PublishRequest},
    mutants,
    pins::PinChain,
};

/// How often the holder moves its heartbeat.
/// A shorter interval would let a standby take over sooner, but an idle log would exceed its 25 requests a minute (README, 4.2).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How long the holder's heartbeat must stand still before a candidate takes over.
/// Four beats: a holder does not lose its role because one of them fails or is late.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a candidate reads the heartbeat.
/// A third of a beat: only readings at most one beat apart count as silence, and an answer may be slow.
const STANDBY_POLL_INTERVAL: Duration = Duration::from_secs(5);
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
    /// The index changed hands several times in a row without a publication.
    BackingOff {
        /// How long this candidate waits.
        wait: Duration,
    },
}

/// Moves the heartbeat of the owner of `clock` until dropped: a write in the log's own store every [`HEARTBEAT_INTERVAL`],
/// unless a probe has moved it meanwhile.
///
/// The holder runs it beside its other work while it holds the index, and drops it to stop. A write that fails is logged and
/// retried after a second.
pub async fn heartbeat(clock: &StoreClock) -> Infallible {
    loop {
        let due = clock.last_beat().map(|last| last + HEARTBEAT_INTERVAL).filter(|due| *due > Instant::now());
        if let Some(due) = due {
            sleep_until(due).await;
            continue;
        }
        match clock.beat().await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; a standby takes over if this lasts; retrying");
                // Do not wait for the next beat: three more failures would cost the role.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Measures for how long a heartbeat stands still.
#[derive(Debug, Default)]
struct HeartbeatMonitor {
    epoch: u64,
    last: Option<HeartbeatReading>,
    still: Duration,
}

/// A successful read of a heartbeat.
#[derive(Debug)]
struct HeartbeatReading {
    started: Instant,
    ended: Instant,
    beat: Option<(StoreSecond, Option<String>)>,
}

impl HeartbeatMonitor {
    /// Adds a reading. Only the time between two readings at most [`HEARTBEAT_INTERVAL`] apart counts as silence: an outage,
    /// during which no holder can move its heartbeat, does not, nor does a pause of this process. A clock object that is gone is no
    /// beat: those of holders that ended long ago are deleted.
    fn record(&mut self, epoch: u64, mut reading: HeartbeatReading) {
        if self.epoch != epoch {
            *self = Self { epoch, ..Self::default() };
        }
        reading.beat = reading.beat.or_else(|| self.last.as_ref()?.beat.clone());
        match &self.last {
            Some(last) if last.beat != reading.beat => self.still = Duration::ZERO,
            Some(last) if reading.ended.duration_since(last.started) <= HEARTBEAT_INTERVAL => {
                self.still += reading.started.duration_since(last.ended);
            }
            _ => {}
        }
        self.last = Some(reading);
    }

    async fn poll(&mut self, epoch: u64, heartbeats: &Store, key: &str) -> Result<(), StoreError> {
        let started = Instant::now();
        let beat = heartbeats.head(key).await?.map(|info| (info.time, info.etag));
        self.record(epoch, HeartbeatReading { started, ended: Instant::now(), beat });
        Ok(())
    }

    /// For how long the heartbeat of the holder of `epoch` has stood still.
    fn silence_of(&self, epoch: u64) -> Duration {
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
        let mut candidate = WriterCandidate {
            chain: self,
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
            let Some(slot) = self.latest().await? else { return Ok(false) };
            let Some(holder) = &slot.state.holder else { return Ok(false) };
            let epoch = slot.state.epoch;
            monitor.poll(epoch, heartbeats, &holder.heartbeat).await?;
            let seen = (epoch, monitor.last.as_ref().and_then(|reading| reading.beat.clone()));
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

/// A process that waits to become the writer.
struct WriterCandidate<'a> {
    chain: &'a IndexChain,
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
        let Some(holder) = &state.holder else {
            return Ok(CandidateStep::Take { hasty: false });
        };
        if let Some(wait) = self.wait_for(state.epoch, holder).await? {
            return Ok(wait);
        }
        self.back_off(state, holder).await
    }

    /// Whether to wait because another holder lives.
    async fn wait_for(&mut self, epoch: u64, holder: &LeaseHolder) -> Result<Option<CandidateStep>, CatalogError> {
        if holder.identity == self.identity {
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
        let saw = seen.as_ref().map_or(0, |slot| slot.state.epoch);
        let first = Manifest::new(self.chain.generation().clone());
        let taken = self.chain.chain().append(seen, |state| {
            let state = state.unwrap_or(&first);
            state.take_over(saw, holder.clone(), hasty).and_then(&claims).map(Some)
        });
        match taken.await {
            Ok(slot) => Ok(Some(WriterLease::new(self.chain.clone(), slot))),
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

/// The right to publish in an index, held until it is released or another writer takes over.
///
/// The first call that finds it lost, or whose outcome is unknown, ends it: that call and every later one fail in the same
/// way. The owner then ends its process, and deletes nothing.
///
/// If a call's future is dropped, its transaction may or may not become part of the chain, as after a crash. Later calls are
/// safe all the same: each applies to what the chain then holds.
pub struct WriterLease {
    chain: IndexChain,
    slot: ChainRecord<Manifest>,
    epoch: u64,
    ended: Option<LeaseEnd>,
}

#[derive(Clone)]
enum LeaseEnd {
    Fenced { by: u64 },
    Unknown { key: String, why: String },
}

impl WriterLease {
    fn new(chain: IndexChain, slot: ChainRecord<Manifest>) -> Self {
        let epoch = slot.state.epoch;
        Self { chain, slot, epoch, ended: None }
    }

    /// The newest manifest that this writer knows.
    pub fn manifest(&self) -> &ChainRecord<Manifest> {
        &self.slot
    }

    /// The epoch of the lease, which is part of the names of new objects.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds records and marks to the index.
    pub async fn publish(&mut self, publication: PublishRequest) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.publish(epoch, &publication)).await
    }

    /// Replaces objects of the index by others with the same records.
    pub async fn adopt(&mut self, compaction: CompactionResult) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.adopt(epoch, &compaction)).await
    }

    /// Goes on in the next epoch, so that what this writer uploaded and never published becomes garbage. Nothing that is being
    /// uploaded now can be published afterwards.
    pub async fn raise_epoch(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        let raised = self.step(Manifest::raise_epoch).await.map(|slot| slot.state.epoch)?;
        self.epoch = raised;
        Ok(&self.slot)
    }

    /// Checks whether the lease is still held. An idle writer calls this now and then to notice that it lost the lease.
    pub async fn check(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        // The holder of the lease had the claim: if that is another process now, a higher epoch fences this one.
        if let Some(newer) = self.chain.chain().poll_newer(&self.slot).await? {
            self.slot = newer;
        }
        let by = self.slot.state.epoch;
        if by != self.epoch {
            self.ended = Some(LeaseEnd::Fenced { by });
            self.alive()?;
        }
        Ok(&self.slot)
    }

    /// Ends the generation in favour of `successor`, and the lease with it. First pins, for `owner`, the manifest that it ends with,
    /// as `before-` and the successor's name: a closed generation holds none of its objects back by itself.
    ///
    /// After a close that ended early the next writer closes, and makes the pin again.
    pub async fn close(
        mut self,
        successor: &Manifest,
        pins: &PinChain,
        owner: &str,
    ) -> Result<ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        let name = format!("before-{}", successor.generation);
        let left = pins.register().await?.pins.remove(&name).filter(|pin| pin.confirmed && pin.owner == owner);
        // After the register was read: the pin of a later writer, which may have closed by now, must not be taken for one that was left.
        if let Some(newer) = self.chain.chain().latest_after(&self.slot).await? {
            self.slot = newer;
        }
        // Nothing is pinned for what is refused. What lands in the index later is refused below.
        self.slot.state.close(self.epoch, successor).map_err(CatalogError::from)?;
        if let Some(pin) = left {
            pins.drop_pin(&name, owner, &pin.list).await?;
        }
        pins.pin(&self.chain, &name, owner).await?;
        self.step(|state, epoch| state.close(epoch, successor)).await.cloned()
    }

    /// Ends the index for good, and the lease with it: appends the last record of the generation, after which everything that
    /// it held may be deleted. See [`crate::IndexPurge`].
    pub async fn purge(mut self) -> Result<ChainRecord<Manifest>, PublishError> {
        self.step(Manifest::purge).await.cloned()
    }

    /// Releases the lease, so that the next candidate need not wait.
    pub async fn release(mut self) -> Result<(), PublishError> {
        self.step(Manifest::release).await.map(drop)
    }

    async fn step(
        &mut self,
        transaction: impl Fn(&Manifest, u64) -> Result<Manifest, TransactionRejected> + Send + Sync,
    ) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        let epoch = self.epoch;
        let appended = self.chain.chain().append(Some(self.slot.clone()), |state| {
            let state = state.ok_or(TransactionRejected::Empty)?;
            transaction(state, mutants::writer_epoch(epoch, state.epoch)).map(Some)
        });
        match appended.await.map_err(PublishError::from) {
            Ok(slot) => self.slot = slot,
            Err(error) => {
                self.ended = ended_by(&error);
                return Err(error);
            }
        }
        Ok(&self.slot)
    }

    fn alive(&self) -> Result<(), PublishError> {
        match self.ended.clone() {
            None => Ok(()),
            Some(LeaseEnd::Fenced { by }) => Err(PublishError::Fenced { epoch: self.epoch, by }),
            Some(LeaseEnd::Unknown { key, why }) => Err(PublishError::Unknown { key, why }),
        }
    }
}

fn ended_by(error: &PublishError) -> Option<LeaseEnd> {
    match error {
        PublishError::Fenced { by, .. } => Some(LeaseEnd::Fenced { by: *by }),
        PublishError::Unknown { key, why } => Some(LeaseEnd::Unknown { key: key.clone(), why: why.clone() }),
        PublishError::Rejected(_) | PublishError::Chain(_) => None,
    }
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
