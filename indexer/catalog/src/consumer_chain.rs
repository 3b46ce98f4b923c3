//! A named consumer of an index's changes: who holds it, and up to where it has acknowledged them.
//!
//! Safety rests on the epoch, as that of the index's writer does: a claim appends the next one, and nothing of a lower epoch is
//! appended afterwards. Heartbeats only say when to contend.

use std::{convert::Infallible, time::Duration};

use futures::TryStreamExt as _;
use tidemark_store::{AppendOnlyChain, ChainRecord, Entropy, Store, StoreClock, StoreError};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    consumer_state::{ConsumerName, ConsumerPosition, ConsumerProgress, ConsumerState},
    error::{AcquireError, CatalogError, TransactionRejected},
    identity::{IndexId, LogId, WriterIdentity},
    manifest::LeaseHolder,
    takeover::{HeartbeatMonitor, STANDBY_POLL_INTERVAL},
    writer_lease::HEARTBEAT_TIMEOUT,
};

/// The folder of the consumers, below the index's URL.
const CONSUMER_FOLDER: &str = "consumers";
/// The least time between two records of what a holder has acknowledged.
const MIN_APPEND_INTERVAL: Duration = Duration::from_secs(1);

/// How often the heartbeats of processes that are gone are looked for.
const HEARTBEAT_CLEANUP_INTERVAL: Duration = Duration::from_hours(1);

/// Deletes the heartbeats in the folder of `clock` whose processes are gone: at once and then every hour, until dropped. A process that lives moves
/// its own every few seconds; one that was not moved for a day is deleted.
pub async fn clean_heartbeats(clock: &StoreClock, entropy: &Entropy) -> Infallible {
    let mut is_told = false;
    loop {
        match clock.delete_abandoned().await {
            Ok(_) => is_told = false,
            Err(error) if is_told => tracing::debug!(%error, "heartbeats of processes that are gone were not deleted"),
            Err(error) => {
                // A right that is missing is one warning.
                is_told = true;
                tracing::warn!(%error, "heartbeats of processes that are gone were not deleted; they take room; each hour they are tried again");
            }
        }
        sleep(entropy.jittered(HEARTBEAT_CLEANUP_INTERVAL)).await;
    }
}

/// The chain of one consumer. Cheap to clone.
#[derive(Clone)]
pub struct ConsumerChain {
    log: LogId,
    index: IndexId,
    name: ConsumerName,
    folder: Store,
    beats: Store,
    chain: AppendOnlyChain<ConsumerState>,
}

/// Why a candidate waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerStandby {
    /// Who holds the consumer.
    pub holder: WriterIdentity,
    /// For how long its heartbeat has stood still; after [`HEARTBEAT_TIMEOUT`] the candidate takes over.
    pub silent: Duration,
    /// The last failure to read the chain or the heartbeat: then the holder may live.
    pub failure: Option<StoreError>,
}

impl ConsumerChain {
    /// The consumer `name` of the index `index` in the store `store`, which holds records of the log `log`. Touches nothing.
    pub fn open(store: &Store, log: &LogId, index: &IndexId, name: &ConsumerName, entropy: Entropy) -> Self {
        let beats = store.below(CONSUMER_FOLDER);
        let folder = beats.below(name.as_str());
        let chain = AppendOnlyChain::new(folder.clone(), entropy);
        Self { log: log.clone(), index: index.clone(), name: name.clone(), folder, beats, chain }
    }

    /// The chain itself.
    pub fn chain(&self) -> &AppendOnlyChain<ConsumerState> {
        &self.chain
    }

    /// The folder of the consumer, which holds its records and whatever else is its own.
    pub fn folder(&self) -> &Store {
        &self.folder
    }

    /// The clock of a process that holds a consumer of this index, or wants to. Its object is the heartbeat.
    pub fn clock(&self, name: &str) -> StoreClock {
        StoreClock::new([&self.beats], name)
    }

    /// The latest state; `None` if the consumer was never held. Refused if the folder is another consumer's.
    pub async fn latest(&self) -> Result<Option<ChainRecord<ConsumerState>>, CatalogError> {
        let latest = self.chain.latest().await?;
        latest.iter().try_for_each(|latest| latest.state.require(&self.log, &self.index, &self.name))?;
        Ok(latest)
    }

    /// The names of the consumers of the index in the store `index`, also of those that nobody holds.
    pub async fn names(index: &Store) -> Result<Vec<ConsumerName>, StoreError> {
        let mut names = Vec::new();
        let mut objects = index.list(CONSUMER_FOLDER, None);
        while let Some(object) = objects.try_next().await? {
            let folder = object.key.strip_prefix(CONSUMER_FOLDER).and_then(|key| key.split('/').nth(1));
            let name: Option<ConsumerName> = folder.and_then(|name| name.parse().ok());
            names.extend(name.filter(|name| names.last() != Some(name)));
        }
        Ok(names)
    }

    /// Becomes the holder: waits until that is allowed, and claims the consumer. One that was never held begins at `start`.
    ///
    /// It is allowed if no process holds it, if the holder is this `identity`, or if the holder's heartbeat has stood still for
    /// [`HEARTBEAT_TIMEOUT`]. `on_wait` gets the reason after every poll that ends in waiting. The future may be dropped at any time.
    /// `clock` is one of [`Self::clock`], whose [`crate::heartbeat`] the caller runs afterwards.
    pub async fn claim(
        &self,
        identity: WriterIdentity,
        clock: &StoreClock,
        start: &ConsumerPosition,
        on_wait: impl Fn(ConsumerStandby) + Send,
    ) -> Result<ConsumerLease, AcquireError> {
        let mut monitor = HeartbeatMonitor::default();
        let mut seen = self.latest().await?;
        loop {
            let holder = seen.as_ref().and_then(|latest| latest.state.holder.clone());
            let wait = match (&seen, holder) {
                (Some(latest), Some(holder)) if holder.identity != identity => {
                    self.wait_for(latest.state.epoch, &holder, &mut monitor).await?
                }
                _ => None,
            };
            let Some(mut wait) = wait else {
                if let Some(lease) = self.take(seen.clone(), &identity, clock, start).await? {
                    return Ok(lease);
                }
                seen = self.latest().await?;
                continue;
            };
            match self.poll(seen.as_ref()).await {
                Ok(newer) => seen = newer.or(seen),
                Err(CatalogError::Store(error @ StoreError::Failed { .. })) => wait.failure = Some(error),
                Err(error) => return Err(error.into()),
            }
            on_wait(wait);
            sleep(STANDBY_POLL_INTERVAL).await;
        }
    }

    /// Whether to wait because another holder lives.
    async fn wait_for(
        &self,
        epoch: u64,
        holder: &LeaseHolder,
        monitor: &mut HeartbeatMonitor,
    ) -> Result<Option<ConsumerStandby>, CatalogError> {
        let failure = match monitor.poll(epoch, &self.beats, &holder.heartbeat).await {
            Ok(()) => None,
            Err(error @ StoreError::Failed { .. }) => Some(error),
            Err(error) => return Err(error.into()),
        };
        let silent = monitor.silence_of(epoch);
        let standby = ConsumerStandby { holder: holder.identity.clone(), silent, failure };
        Ok((silent < HEARTBEAT_TIMEOUT).then_some(standby))
    }

    async fn poll(
        &self,
        seen: Option<&ChainRecord<ConsumerState>>,
    ) -> Result<Option<ChainRecord<ConsumerState>>, CatalogError> {
        match seen {
            Some(seen) => self.chain.poll_newer(seen).await,
            None => self.latest().await,
        }
    }

    /// Appends the next epoch; `None` if another process did so first.
    async fn take(
        &self,
        seen: Option<ChainRecord<ConsumerState>>,
        identity: &WriterIdentity,
        clock: &StoreClock,
        start: &ConsumerPosition,
    ) -> Result<Option<ConsumerLease>, AcquireError> {
        // Move the heartbeat before other candidates read it.
        clock.probe().await?;
        let holder = LeaseHolder { identity: identity.clone(), heartbeat: clock.heartbeat_key(), since: None };
        let saw = seen.as_ref().map_or(0, |latest| latest.state.epoch);
        let first = ConsumerState::new(self.log.clone(), self.index.clone(), self.name.clone(), start.clone());
        let claimed = self.chain.append(seen, |state| {
            let state = state.unwrap_or(&first);
            state.require(&self.log, &self.index, &self.name)?;
            state.claim(saw, holder.clone()).map(Some)
        });
        match claimed.await {
            Ok(latest) => Ok(Some(ConsumerLease::new(self.chain.clone(), latest))),
            Err(CatalogError::Rejected(TransactionRejected::ConsumerFenced { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The right to acknowledge for a consumer, held until it is released or another process claims it.
///
/// The first call that finds it lost, or whose outcome is unknown, ends it: that call and every later one fail. The owner then ends
/// its process, and claims nothing again by itself.
pub struct ConsumerLease {
    chain: AppendOnlyChain<ConsumerState>,
    latest: ChainRecord<ConsumerState>,
    epoch: u64,
    /// When the last record was appended.
    appended: Instant,
    ended: Option<ConsumerLeaseEnd>,
}

#[derive(Clone)]
enum ConsumerLeaseEnd {
    Fenced { by: u64 },
    Unknown { key: String, why: String },
}

impl ConsumerLease {
    fn new(chain: AppendOnlyChain<ConsumerState>, latest: ChainRecord<ConsumerState>) -> Self {
        let epoch = latest.state.epoch;
        Self { chain, latest, epoch, appended: Instant::now(), ended: None }
    }

    /// The newest state that this holder knows.
    pub fn state(&self) -> &ConsumerState {
        &self.latest.state
    }

    /// Records what is acknowledged, at most once a second: waits until a second after the record before. Nothing that is not newer is
    /// written.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::ConsumerFenced`] once another process holds the consumer. After [`CatalogError::Unknown`] the process has to end.
    pub async fn acknowledge(&mut self, progress: &ConsumerProgress) -> Result<&ConsumerState, CatalogError> {
        sleep_until(self.appended + MIN_APPEND_INTERVAL).await;
        self.step(|state, epoch| state.acknowledge(epoch, progress)).await?;
        self.appended = Instant::now();
        Ok(&self.latest.state)
    }

    /// Whether the consumer is still held: an idle holder calls this now and then to notice that it lost it.
    pub async fn check(&mut self) -> Result<(), CatalogError> {
        self.require_alive()?;
        if let Some(newer) = self.chain.poll_newer(&self.latest).await? {
            self.latest = newer;
        }
        let by = self.latest.state.epoch;
        if by != self.epoch {
            self.ended = Some(ConsumerLeaseEnd::Fenced { by });
        }
        self.require_alive()
    }

    /// Releases the consumer, so that the next holder need not wait.
    pub async fn release(mut self) -> Result<(), CatalogError> {
        self.step(ConsumerState::release).await
    }

    async fn step(
        &mut self,
        transaction: impl Fn(&ConsumerState, u64) -> Result<Option<ConsumerState>, TransactionRejected> + Send + Sync,
    ) -> Result<(), CatalogError> {
        self.require_alive()?;
        let epoch = self.epoch;
        let appended = self.chain.append(Some(self.latest.clone()), |state| {
            let state = state.ok_or(TransactionRejected::Empty)?;
            transaction(state, epoch)
        });
        match appended.await {
            Ok(appended) => {
                self.latest = appended;
                Ok(())
            }
            Err(error) => {
                self.ended = end_of(&error);
                Err(error)
            }
        }
    }

    fn require_alive(&self) -> Result<(), CatalogError> {
        match self.ended.clone() {
            None => Ok(()),
            Some(ConsumerLeaseEnd::Fenced { by }) => {
                let name = self.latest.state.name.to_string();
                Err(TransactionRejected::ConsumerFenced { name, epoch: self.epoch, by }.into())
            }
            Some(ConsumerLeaseEnd::Unknown { key, why }) => Err(CatalogError::Unknown { key, why }),
        }
    }
}

fn end_of(error: &CatalogError) -> Option<ConsumerLeaseEnd> {
    match error {
        CatalogError::Rejected(TransactionRejected::ConsumerFenced { by, .. }) => {
            Some(ConsumerLeaseEnd::Fenced { by: *by })
        }
        CatalogError::Unknown { key, why } => Some(ConsumerLeaseEnd::Unknown { key: key.clone(), why: why.clone() }),
        _ => None,
    }
}
