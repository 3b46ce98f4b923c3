//! The lease of an index's one writer: its epoch, which fences every earlier writer, and the heartbeat that renews it.
//!
//! A take-over (`takeover.rs`) publishes the next epoch. A transaction of a writer is refused in a state of another epoch, so
//! nothing of a lower epoch commits afterwards, no matter how long its writer was suspended. Safety needs nothing else.

use std::{convert::Infallible, time::Duration};

use tidemark_store::{ChainRecord, StoreClock, StoreSecond};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    error::{CatalogError, PublishError, TransactionRejected},
    index_chain::IndexChain,
    manifest::{CompactionResult, CopyRequest, Manifest, PublishRequest},
    mutants,
    names::Generation,
    pins::PinChain,
    snapshot_name::closing_name,
};

/// How often the holder moves its heartbeat.
/// A shorter interval would let a standby take over sooner, but an idle log would exceed its 25 requests a minute (README, 4.2).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How long the holder's heartbeat must stand still before a candidate takes over.
/// Four heartbeats: a holder does not lose its role because one of them fails or is late.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_mins(1);

/// Moves the heartbeat of the owner of `clock` until dropped: a write in the log's own store every [`HEARTBEAT_INTERVAL`],
/// unless a probe has moved it meanwhile.
///
/// The holder runs it beside its other work while it holds the index, and drops it to stop. A write that fails is logged and
/// retried after a second.
pub async fn heartbeat(clock: &StoreClock) -> Infallible {
    loop {
        let due = clock.last_heartbeat().map(|last| last + HEARTBEAT_INTERVAL).filter(|due| *due > Instant::now());
        if let Some(due) = due {
            sleep_until(due).await;
            continue;
        }
        match clock.write_heartbeat().await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; a standby takes over if this lasts; retrying");
                // Do not wait for the next heartbeat: three more failures would cost the role.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
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
    /// The newest record that this writer knows.
    latest: ChainRecord<Manifest>,
    epoch: u64,
    ended: Option<LeaseEnd>,
}

#[derive(Clone)]
enum LeaseEnd {
    Fenced { by: u64 },
    Unknown { key: String, why: String },
}

impl WriterLease {
    pub(crate) fn new(chain: IndexChain, latest: ChainRecord<Manifest>) -> Self {
        let epoch = latest.state.epoch;
        Self { chain, latest, epoch, ended: None }
    }

    /// The newest manifest that this writer knows.
    pub fn manifest(&self) -> &ChainRecord<Manifest> {
        &self.latest
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
        let raised = self.step(Manifest::raise_epoch).await.map(|latest| latest.state.epoch)?;
        self.epoch = raised;
        Ok(&self.latest)
    }

    /// Checks whether the lease is still held. An idle writer calls this now and then to notice that it lost the lease.
    pub async fn check(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        // The holder of the lease had the claim: if that is another process now, a higher epoch fences this one.
        if let Some(newer) = self.chain.chain().poll_newer(&self.latest).await? {
            self.latest = newer;
        }
        let by = self.latest.state.epoch;
        if by != self.epoch {
            self.ended = Some(LeaseEnd::Fenced { by });
            self.alive()?;
        }
        Ok(&self.latest)
    }

    /// Adds what was copied to a generation that is being built.
    pub async fn copy(&mut self, copied: CopyRequest) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.copy(epoch, &copied)).await
    }

    /// Adds to a restored generation what was recorded after the time that it was restored to: it takes publications from now on.
    /// `task` is the name of the task that does so, if it has one.
    pub async fn promote(
        &mut self,
        copied: CopyRequest,
        task: Option<&str>,
    ) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(|state, epoch| state.promote(epoch, &copied, task)).await
    }

    /// The generation that was being built is the index from now on: the closing record of an earlier one names it.
    pub async fn finish(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.step(Manifest::finish).await
    }

    /// Gives the generation up that is being built, and the lease with it. No process may be able to close another one in favour of it any
    /// more: see [`crate::GenerationSwitch`].
    pub(crate) async fn abandon(mut self) -> Result<ChainRecord<Manifest>, PublishError> {
        self.step(Manifest::abandon).await.cloned()
    }

    /// The latest manifest as it is now, never from a poll. Fails if the lease was lost.
    pub async fn verify(&mut self) -> Result<&ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        if let Some(newer) = self.chain.chain().latest_after(&self.latest).await? {
            self.latest = newer;
        }
        self.latest.state.check_epoch(self.epoch).map_err(CatalogError::from)?;
        Ok(&self.latest)
    }

    /// Ends the generation in favour of `successor`, and the lease with it. First pins, for `owner`, the manifest that it ends with,
    /// as `before-` and the successor's name: a closed generation holds none of its objects back by itself.
    ///
    /// After a close that ended early the next writer closes, and makes the pin again.
    pub async fn close(
        self,
        successor: &Manifest,
        pins: &PinChain,
        owner: &str,
    ) -> Result<ChainRecord<Manifest>, PublishError> {
        self.close_by(&successor.generation, pins, owner, |state, epoch| state.close(epoch, successor)).await
    }

    /// As [`Self::close`], in favour of a generation that was restored to the second `to`.
    pub(crate) async fn close_for_restore(
        self,
        successor: &Manifest,
        to: StoreSecond,
        pins: &PinChain,
        owner: &str,
    ) -> Result<ChainRecord<Manifest>, PublishError> {
        let close = |state: &Manifest, epoch| state.close_for_restore(epoch, successor, to);
        self.close_by(&successor.generation, pins, owner, close).await
    }

    async fn close_by(
        mut self,
        successor: &Generation,
        pins: &PinChain,
        owner: &str,
        close: impl Fn(&Manifest, u64) -> Result<Manifest, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<Manifest>, PublishError> {
        self.alive()?;
        let name = closing_name(successor);
        let left = pins.register().await?.pins.remove(&name).filter(|pin| pin.confirmed && pin.owner == owner);
        // After the register was read: the pin of a later writer, which may have closed by now, must not be taken for one that was left.
        if let Some(newer) = self.chain.chain().latest_after(&self.latest).await? {
            self.latest = newer;
        }
        // Nothing is pinned for what is refused. What lands in the index later is refused below.
        close(&self.latest.state, self.epoch).map_err(CatalogError::from)?;
        if let Some(pin) = left {
            pins.drop_pin(&name, owner, &pin.list).await?;
        }
        pins.pin(&self.chain, &name, owner).await?;
        self.step(close).await.cloned()
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
        let appended = self.chain.chain().append(Some(self.latest.clone()), |state| {
            let state = state.ok_or(TransactionRejected::Empty)?;
            transaction(state, mutants::writer_epoch(epoch, state.epoch)).map(Some)
        });
        match appended.await.map_err(PublishError::from) {
            Ok(appended) => self.latest = appended,
            Err(error) => {
                self.ended = ended_by(&error);
                return Err(error);
            }
        }
        Ok(&self.latest)
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
