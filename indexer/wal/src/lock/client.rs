//! Acquiring, renewing, releasing and listing the locks of a log.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_store::{ChainError, Entropy, Store, StoreClock, StoreError, StoreSecond};
use tokio::time::{Instant, sleep};

use super::{
    chain::{LOCK_FOLDER, LockChain, LockSlot},
    error::{LockError, LockRejected},
    name::LockName,
    state::{GrantRequest, GuardedCommit, LockGrant, LockState},
};
use crate::{log::Log, mutants, outcome::Outcome, parameters::ParameterSchedule, reader::LogReader, token::Token};

/// How often who waits for a lock looks at it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A lock that is held is renewed after this part of its time to live.
const RENEWALS_PER_TTL: u32 = 3;

/// The locks of one log. Cheap to clone; clones share the clock.
#[derive(Clone)]
pub struct WriteLocks {
    log: Store,
    clock: StoreClock,
    entropy: Entropy,
}

/// A lock that was acquired, and that earlier holders can write nothing under any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// The lock.
    pub name: LockName,
    /// The grant.
    pub grant: LockGrant,
    /// The newest guarded commit of an earlier grant, whether its entry was completed or not; see [`WriteLocks::last_committed`].
    pub last_commit: Option<GuardedCommit>,
}

/// A lock as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockDescription {
    /// The newest slot.
    pub state: LockState,
    /// Store time of the last renewal, or of the grant; `None` once it is released.
    pub renewed: Option<StoreSecond>,
    /// When others may contend unless it is renewed; `None` once it is released.
    pub expires: Option<StoreSecond>,
}

impl HeldLock {
    /// How often the lock is to be renewed.
    pub fn renewal_interval(&self) -> Duration {
        renewal_interval(&self.grant)
    }
}

impl WriteLocks {
    /// The locks of `log`, by the clock `clock` of all its stores. Touches nothing.
    pub fn open(log: &Log, clock: StoreClock, entropy: Entropy) -> Self {
        Self { log: log.entries.clone(), clock, entropy }
    }

    /// Acquires the lock: at once if nobody holds it or its holder did not renew it, else when that is so, or never if not `waits`.
    ///
    /// Returns only when nothing can complete what an earlier holder committed any more. The lock is renewed until then; afterwards the
    /// caller renews it.
    pub async fn acquire(&self, name: &LockName, request: &GrantRequest, waits: bool) -> Result<HeldLock, LockError> {
        request.check().map_err(|why| LockError::Invalid { lock: name.clone(), why })?;
        let chain = self.chain(name);
        let mut base = chain.latest().await?;
        let slot = loop {
            let judged = match &base {
                Some(slot) if slot.state.is_held() => match self.expiry(slot).await? {
                    GrantExpiry::Passed => Some(slot.number),
                    GrantExpiry::At(until) if !waits => return Err(held(slot, until)),
                    GrantExpiry::At(_) => {
                        sleep(POLL_INTERVAL).await;
                        base = Some(chain.poll(slot.clone()).await?);
                        continue;
                    }
                },
                _ => None,
            };
            match chain.grant(base, request, judged).await {
                Ok(slot) => break slot,
                Err(ChainError::Rejected(LockRejected::Held { .. })) => base = chain.latest().await?,
                Err(error) => return Err(error.into()),
            }
        };
        let held =
            HeldLock { name: name.clone(), last_commit: slot.state.commit.clone(), grant: slot.state.grant.clone() };
        if let Err(error) = self.delete_heartbeats_before(name, held.grant.number).await {
            tracing::debug!(%error, %name, "heartbeats of earlier grants stay");
        }
        self.await_earlier_commits(&held, mutants::earlier_commits(slot.state.commits_until())).await?;
        Ok(held)
    }

    /// The newest entry that was committed under the lock before it was granted: who has read it has the latest state. Whether an entry was
    /// committed is certain by now, also where the index has not sealed it yet. `None`: none of the commits whose slots are still there.
    pub async fn last_committed(
        &self,
        held: &HeldLock,
        reader: &LogReader,
        schedule: &ParameterSchedule,
    ) -> Result<Option<Token>, LockError> {
        let chain = self.chain(&held.name);
        let mut commit = held.last_commit.clone();
        while let Some(GuardedCommit { token, slot, .. }) = commit {
            let found = reader.lookup(token, schedule).await?;
            let outcome = found.as_ref().and_then(|entry| entry.ops.first()).map(|op| op.decision.outcome);
            // One that a clean-up has deleted was decided long ago, and an earlier one is older still.
            if outcome.is_none_or(|outcome| outcome == Outcome::Committed) {
                return Ok(Some(token));
            }
            commit = chain.read(slot.saturating_sub(1)).await?.and_then(|slot| slot.state.commit);
        }
        Ok(None)
    }

    /// Moves the heartbeat of `grant`, so that others do not contend. Refused if it was overtaken or released.
    pub async fn renew(&self, name: &LockName, grant: u64) -> Result<(), LockError> {
        let slot = self.chain(name).latest().await?;
        let slot = slot.ok_or_else(|| LockError::no_such_grant(name, grant))?;
        slot.state.require_held(grant).map_err(ChainError::Rejected)?;
        self.beat(name, grant).await
    }

    /// Gives up `grant`: the next one need not wait for it to expire. Refused if it was overtaken.
    pub async fn release(&self, name: &LockName, grant: u64) -> Result<(), LockError> {
        self.chain(name).release(grant).await?;
        // Others need it no more; one that stays is deleted with the next grant's.
        if let Err(error) = self.log.delete(&[heartbeat_key(name, grant)]).await {
            tracing::debug!(%error, %name, grant, "the heartbeat of a released lock stays");
        }
        Ok(())
    }

    /// The lock as it is now; `None` if it was never acquired.
    pub async fn describe(&self, name: &LockName) -> Result<Option<LockDescription>, LockError> {
        let Some(slot) = self.chain(name).latest().await? else { return Ok(None) };
        let renewed = if slot.state.is_held() { Some(self.last_renewal(&slot).await?) } else { None };
        let expires = renewed.map(|renewed| renewed.after(Duration::from_secs(slot.state.grant.ttl_seconds)));
        Ok(Some(LockDescription { state: slot.state, renewed, expires }))
    }

    /// The names of all locks that were ever acquired, in order.
    pub async fn names(&self) -> Result<Vec<LockName>, LockError> {
        let (folder, mut names) = (self.log.below(LOCK_FOLDER), Vec::new());
        let mut after: Option<String> = None;
        loop {
            let mut listing = folder.list("", after.as_deref());
            let Some(found) = listing.next().await.transpose()? else { return Ok(names) };
            let name = found.key.split('/').next().unwrap_or_default();
            // `0` is the character after `/`: what follows is beyond the folder of this name.
            after = Some(format!("{name}0"));
            names.extend(name.parse::<LockName>().ok());
        }
    }

    fn chain(&self, name: &LockName) -> LockChain {
        LockChain::open(&self.log, name, &self.entropy)
    }

    /// When others may contend for the lock, which is held. Only a probe shows that this has passed.
    async fn expiry(&self, slot: &LockSlot) -> Result<GrantExpiry, LockError> {
        let ttl = Duration::from_secs(slot.state.grant.ttl_seconds);
        let until = self.last_renewal(slot).await?.after(ttl);
        if self.clock.rough_estimate().is_some_and(|now| now <= until) {
            return Ok(GrantExpiry::At(until));
        }
        Ok(if self.clock.probe().await?.now > until { GrantExpiry::Passed } else { GrantExpiry::At(until) })
    }

    async fn last_renewal(&self, slot: &LockSlot) -> Result<StoreSecond, StoreError> {
        let grant = &slot.state.grant;
        let heartbeat = self.log.head(&heartbeat_key(&slot.state.name, grant.number)).await?;
        Ok(grant.since.max(heartbeat.map(|heartbeat| heartbeat.time)).unwrap_or(slot.time))
    }

    /// Waits until what completes an earlier commit is visible, so that no reader sees more of it later, and renews the grant meanwhile.
    async fn await_earlier_commits(&self, held: &HeldLock, until: Option<StoreSecond>) -> Result<(), LockError> {
        let Some(until) = until else { return Ok(()) };
        let mut renewed = Instant::now();
        loop {
            let now = self.clock.probe().await?.now;
            if now > until {
                return Ok(());
            }
            if renewed.elapsed() >= held.renewal_interval() {
                self.renew(&held.name, held.grant.number).await?;
                renewed = Instant::now();
            }
            sleep(until.next().since(now).min(held.renewal_interval()).max(POLL_INTERVAL)).await;
        }
    }

    async fn beat(&self, name: &LockName, grant: u64) -> Result<(), LockError> {
        Ok(self.log.put(&heartbeat_key(name, grant), Bytes::new()).await?)
    }

    /// Deletes the heartbeats of grants before `grant`.
    async fn delete_heartbeats_before(&self, name: &LockName, grant: u64) -> Result<(), LockError> {
        let own = heartbeat_key(name, grant);
        let folder = heartbeat_folder(name);
        let listed: Vec<_> = self.log.list(&folder, None).try_collect().await?;
        let old: Vec<String> = listed.into_iter().map(|found| found.key).filter(|key| *key < own).collect();
        Ok(self.log.delete(&old).await?)
    }
}

/// Whether others may contend.
enum GrantExpiry {
    Passed,
    /// Not before this second has passed.
    At(StoreSecond),
}

fn held(slot: &LockSlot, until: StoreSecond) -> LockError {
    let LockGrant { holder, number, .. } = slot.state.grant.clone();
    LockError::Held { lock: slot.state.name.clone(), holder, grant: number, until: Some(until) }
}

fn renewal_interval(grant: &LockGrant) -> Duration {
    Duration::from_secs(grant.ttl_seconds) / RENEWALS_PER_TTL
}

fn heartbeat_folder(name: &LockName) -> String {
    format!("{LOCK_FOLDER}/{name}/heartbeat")
}

/// Digits of fixed width, as those of slots.
fn heartbeat_key(name: &LockName, grant: u64) -> String {
    format!("{}/{grant:020}", heartbeat_folder(name))
}
