//! One writer: who may publish in an index.
//!
//! The writer holds an epoch. Taking over publishes the next epoch; every transaction of a writer is refused in a state of
//! another epoch, so that afterwards nothing of a lower one commits, however long its owner was asleep. That is the whole
//! of safety. The rest of this file is about progress: who lives is not disturbed, and who is dead is succeeded.

use std::{convert::Infallible, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tidemark_store::{ChainRecord, Clock, Store, StoreError, StoreSecond};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    error::{AcquireError, CatalogError, PublishError, TransactionRejected},
    identity::WriterIdentity,
    index::IndexChain,
    manifest::{CompactionResult, LeaseHolder, Manifest, PublishRequest},
    mutants,
};

/// How often the holder shows that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How long the holder's heartbeat must stand still before a candidate takes over.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a candidate looks.
const STANDBY_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How many hasty take-overs in a row go without a wait.
const MAX_IMMEDIATE_TAKEOVERS: u32 = 2;
/// The wait before the first hasty take-over that is not immediate; it doubles with each further one in a row.
const MIN_TAKEOVER_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait before a hasty take-over.
const MAX_TAKEOVER_BACKOFF: Duration = Duration::from_secs(30);
/// How often the wait doubles before it is [`MAX_TAKEOVER_BACKOFF`].
const TAKEOVER_BACKOFF_STEPS: usize = 5;

/// Why a candidate waits. It is ready all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandbyReason {
    /// Another writer holds the index.
    ForHolder {
        /// Who.
        holder: WriterIdentity,
        /// In which epoch.
        epoch: u64,
        /// For how long its heartbeat was seen standing still; it is succeeded after [`HEARTBEAT_TIMEOUT`].
        silent: Duration,
    },
    /// The holder or its heartbeat could not be read: nothing is known of it, so it is not succeeded.
    Unanswered {
        /// What the store said.
        error: StoreError,
    },
    /// The index changed hands several times in a row without a publication.
    BackingOff {
        /// How long this candidate waits.
        wait: Duration,
    },
}

/// Shows until dropped that the owner of `clock` lives: a probe every [`HEARTBEAT_INTERVAL`].
///
/// The holder runs it for as long as it holds the index, beside everything else that it does, and drops it to stop. A probe
/// that fails is logged and made again a second later.
pub async fn heartbeat(clock: &Clock) -> Infallible {
    loop {
        let started = Instant::now();
        match clock.probe().await {
            Ok(_) => sleep_until(started + HEARTBEAT_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "no heartbeat: a standby takes over if this lasts");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// For how long a heartbeat was seen standing still.
#[derive(Debug, Default)]
struct HeartbeatMonitor {
    epoch: u64,
    last: Option<HeartbeatReading>,
    still: Duration,
}

/// A successful look at a heartbeat.
#[derive(Debug)]
struct HeartbeatReading {
    started: Instant,
    ended: Instant,
    beat: Option<(StoreSecond, Option<String>)>,
}

impl HeartbeatMonitor {
    /// Takes a look into account: only what lies between two looks at most [`HEARTBEAT_INTERVAL`] apart counts, so that neither an
    /// outage, during which nobody can show that he lives, nor a pause of this process counts as silence.
    fn saw(&mut self, epoch: u64, look: HeartbeatReading) {
        if self.epoch != epoch {
            *self = Self { epoch, ..Self::default() };
        }
        match &self.last {
            Some(last) if last.beat != look.beat => self.still = Duration::ZERO,
            Some(last) if look.ended.duration_since(last.started) <= HEARTBEAT_INTERVAL => {
                self.still += look.started.duration_since(last.ended);
            }
            _ => {}
        }
        self.last = Some(look);
    }

    async fn look(&mut self, epoch: u64, heartbeats: &Store, key: &str) -> Result<(), StoreError> {
        let started = Instant::now();
        let beat = heartbeats.head(key).await?.map(|info| (info.time, info.etag));
        self.saw(epoch, HeartbeatReading { started, ended: Instant::now(), beat });
        Ok(())
    }

    /// For how long the holder of `epoch` was seen silent.
    fn of(&self, epoch: u64) -> Duration {
        if self.epoch == epoch { self.still } else { Duration::ZERO }
    }
}

impl IndexChain {
    /// Becomes the index's writer: waits, ready, until that is allowed, and takes the index over.
    ///
    /// Allowed is it if nobody holds the index, if the holder is this `identity`, or if the holder's heartbeat in `heartbeats`
    /// (the log's own store) has stood still for [`HEARTBEAT_TIMEOUT`]. `on_wait` hears at every look why the candidate waits. The
    /// future may be dropped at any time. `clock` must be the one whose [`heartbeat`] the caller runs afterwards.
    pub async fn acquire(
        &self,
        identity: WriterIdentity,
        clock: &Clock,
        heartbeats: &Store,
        on_wait: impl Fn(StandbyReason) + Send,
    ) -> Result<WriterLease, AcquireError> {
        let mut candidate = WriterCandidate {
            chain: self,
            identity,
            clock,
            heartbeats,
            silence: HeartbeatMonitor::default(),
            backed_off: None,
            failure: None,
        };
        let mut seen = None;
        loop {
            seen = candidate.look(seen).await?;
            match candidate.next(seen.as_ref()).await? {
                CandidateStep::Wait(why, span) => {
                    on_wait(candidate.failure.take().map_or(why, |error| StandbyReason::Unanswered { error }));
                    sleep(span).await;
                }
                CandidateStep::Take { hasty } => {
                    if let Some(writership) = candidate.take(seen.clone(), hasty).await? {
                        return Ok(writership);
                    }
                }
            }
        }
    }
}

/// Somebody who wants to become the writer.
struct WriterCandidate<'a> {
    chain: &'a IndexChain,
    identity: WriterIdentity,
    clock: &'a Clock,
    heartbeats: &'a Store,
    silence: HeartbeatMonitor,
    /// The epoch before whose succession it has backed off already.
    backed_off: Option<u64>,
    /// Why the last look told nothing.
    failure: Option<StoreError>,
}

/// What a candidate does next.
enum CandidateStep {
    Wait(StandbyReason, Duration),
    Take { hasty: bool },
}

impl WriterCandidate<'_> {
    /// The latest manifest; the one seen before if the store fails just now.
    async fn look(
        &mut self,
        seen: Option<ChainRecord<Manifest>>,
    ) -> Result<Option<ChainRecord<Manifest>>, CatalogError> {
        let Some(seen) = seen else {
            return self.chain.latest().await;
        };
        match self.chain.poll_newer(&seen).await {
            Ok(newer) => Ok(Some(newer.unwrap_or(seen))),
            Err(CatalogError::Store(error @ StoreError::Failed { .. })) => {
                tracing::warn!(%error, "the standby could not read the index, and goes on waiting");
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

    /// Waits while another holder lives.
    async fn wait_for(&mut self, epoch: u64, holder: &LeaseHolder) -> Result<Option<CandidateStep>, CatalogError> {
        if holder.identity == self.identity {
            return Ok(None);
        }
        match self.silence.look(epoch, self.heartbeats, &holder.heartbeat).await {
            Ok(()) => {}
            Err(error @ StoreError::Failed { .. }) => {
                tracing::warn!(%error, "the standby could not read the holder's heartbeat, which counts for nothing");
                self.failure = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
        let silent = self.silence.of(epoch);
        let why = StandbyReason::ForHolder { holder: holder.identity.clone(), epoch, silent };
        Ok((silent < HEARTBEAT_TIMEOUT).then_some(CandidateStep::Wait(why, STANDBY_POLL_INTERVAL)))
    }

    /// Waits once before a take-over that follows others in haste.
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

    /// Publishes the next epoch; `None` if somebody else did so first.
    async fn take(
        &self,
        seen: Option<ChainRecord<Manifest>>,
        hasty: bool,
    ) -> Result<Option<WriterLease>, AcquireError> {
        let claims = self.chain.claims().await?;
        // The heartbeat moves before anybody looks for it.
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

/// How long to wait before a take-over that follows others in haste.
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
/// way. The owner ends its process then, and deletes nothing.
///
/// Dropping a call's future leaves open whether its transaction becomes part of the chain, as a crash does. Later calls
/// are safe all the same: each is applied to what the chain then holds.
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

    /// The epoch held: what the names of new objects bear.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds records and marks to the index.
    pub async fn publish(&mut self, publication: PublishRequest) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.publish(epoch, &publication)).await
    }

    /// Replaces objects of the index by others that hold the same.
    pub async fn adopt(&mut self, compaction: CompactionResult) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.adopt(epoch, &compaction)).await
    }

    /// Looks whether the role is still held. An idle writer calls it now and then, so that it learns that it lost it.
    pub async fn check(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        if let Some(newer) = self.chain.poll_newer(&self.slot).await? {
            self.slot = newer;
        }
        let by = self.slot.state.epoch;
        if by != self.epoch {
            self.ended = Some(LeaseEnd::Fenced { by });
            self.alive()?;
        }
        Ok(&self.slot)
    }

    /// Ends the generation in favour of `successor`, and the role with it.
    pub async fn close(mut self, successor: &Manifest) -> Result<ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.close(epoch, successor)).await.cloned()
    }

    /// Ends the index for good, and the role with it: the last record of the generation, after which all that it held may
    /// be deleted. See [`crate::IndexPurge`].
    pub async fn purge(mut self) -> Result<ChainRecord<Manifest>, PublishError> {
        self.step(Manifest::purge).await.cloned()
    }

    /// Gives the role up, so that the next candidate need not wait.
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
