//! The root chain of a log.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use tidemark_store::{AppendOnlyChain, ChainRecord, Entropy, Store};
use tidemark_wal::{Log, LogParameters, ParameterSchedule, ParameterSource, ParameterSourceError};

use crate::{
    error::{CatalogError, TransactionRejected},
    identity::{IndexOwner, LogClaim, LogId, LogIdentity},
    log_cursor::LogCursor,
    names::Generation,
    root::{IndexRegistration, LogFloor, RegistrationOutcome, RootState},
    snapshot_proof::ArchiveExtent,
};

/// The records below `<log>/.tidemark/root/`, which sorts before every token. Cheap to clone; clones share the newest
/// record that one of them has read.
#[derive(Clone)]
pub struct RootChain {
    /// The log's own store.
    log: Store,
    /// Where the log was before.
    moved_from: Option<Arc<str>>,
    entropy: Entropy,
    chain: AppendOnlyChain<RootState>,
    newest: Arc<Mutex<Option<ChainRecord<RootState>>>>,
}

impl RootChain {
    /// The root chain of `log`. Touches nothing.
    pub fn open(log: &Log, entropy: Entropy) -> Self {
        let store = log.entries.below(".tidemark/root");
        let (chain, log) = (AppendOnlyChain::new(store, entropy.clone()), log.entries.clone());
        Self { log, moved_from: None, chain, entropy, newest: Arc::default() }
    }

    /// The same chain of a log that was at the location `url` before, and is no copy of what is there: an index whose claim names
    /// that location is this log's. `None` changes nothing.
    #[must_use]
    pub fn moved_from(self, url: Option<&str>) -> Self {
        Self { moved_from: url.map(Into::into), ..self }
    }

    /// The chain itself.
    pub fn chain(&self) -> &AppendOnlyChain<RootState> {
        &self.chain
    }

    /// The head as it is now, never from memory; `None` before the first record.
    pub async fn head(&self) -> Result<Option<ChainRecord<RootState>>, CatalogError> {
        let head = match self.known() {
            Some(known) => Some(self.chain.latest_after(&known).await?.unwrap_or(known)),
            None => self.chain.latest().await?,
        };
        Ok(head.map(|head| self.remember(head)))
    }

    /// The state as it is now, never from memory; empty before the first record.
    pub async fn state(&self) -> Result<RootState, CatalogError> {
        Ok(self.head().await?.map(|head| head.state).unwrap_or_default())
    }

    /// The identity of the log, which never changes; `None` before the first record.
    pub async fn id(&self) -> Result<Option<LogId>, CatalogError> {
        let known = self.known().and_then(|latest| latest.state.id);
        match known {
            Some(id) => Ok(Some(id)),
            None => Ok(self.state().await?.id),
        }
    }

    /// The log as this process finds it. The id is read once, since it never changes.
    pub async fn identity(&self) -> Result<LogIdentity, CatalogError> {
        let id = self.id().await?;
        let moved_from = self.moved_from.as_deref().map(str::to_owned);
        // After the root was read: credentials, which may name the endpoint, are there.
        Ok(LogIdentity { id, url: self.log.location(), moved_from })
    }

    /// The log, and what the index `name` says of itself, as this process registered it.
    pub(crate) async fn claim(&self, name: &str) -> Result<(LogIdentity, LogClaim), CatalogError> {
        let root = match self.known() {
            Some(latest) => latest.state,
            None => self.state().await?,
        };
        let log = self.identity().await?;
        let claim = root.claim(name, &log.url)?;
        Ok((log, claim))
    }

    /// The index `name`, in `generation`, needs nothing of the log below `second` any more. See [`RootState::keep`].
    pub async fn keep(&self, name: &str, generation: &Generation, second: LogCursor) -> Result<(), CatalogError> {
        self.step(|root| root.keep(name, generation, second)).await.map(drop)
    }

    /// The clean-up of the index `index` begins: from here on, what lies below `second` may be gone. Gives the state with that floor, or a
    /// later one of the same cleaner. See [`RootState::begin_cleanup`].
    pub async fn begin_cleanup(
        &self,
        index: &str,
        second: LogCursor,
        archive: &str,
        extent: &ArchiveExtent,
    ) -> Result<RootState, CatalogError> {
        self.step(|root| root.begin_cleanup(index, second, archive, extent)).await
    }

    /// The floor, as it was `seen`, rests on the archive of the index `index` from here on. Gives the state with that floor. See
    /// [`RootState::move_floor`].
    pub async fn move_floor(
        &self,
        index: &str,
        seen: &LogFloor,
        archive: &str,
        extent: &ArchiveExtent,
    ) -> Result<RootState, CatalogError> {
        self.step(|root| root.move_floor(index, seen, archive, extent)).await
    }

    /// The index `name` has switched to `generation`. See [`RootState::switch_generation`].
    pub(crate) async fn switch_generation(&self, name: &str, generation: &Generation) -> Result<(), CatalogError> {
        self.step(|root| root.switch_generation(name, generation)).await.map(drop)
    }

    /// Takes an index off the register that no process writes any more. See [`RootState::unregister`].
    pub async fn unregister(&self, name: &str, seen: &IndexRegistration) -> Result<(), CatalogError> {
        self.step(|root| root.unregister(name, seen).map(Some)).await.map(drop)
    }

    /// The parameters' schedule as it is now; `None` before the first indexer has set them.
    pub async fn parameters(&self) -> Result<Option<ParameterSchedule>, CatalogError> {
        Ok(self.state().await?.schedule())
    }

    /// The first indexer sets the log's parameters; every later one must give the same. Refused, with both values named,
    /// if it does not.
    pub async fn ensure(&self, parameters: &LogParameters) -> Result<ParameterSchedule, CatalogError> {
        self.step(|root| root.ensure(parameters)).await?.schedule().ok_or_else(no_parameters)
    }

    /// Changes the log's parameters, from [`tidemark_wal::PARAMETER_CHANGE_DELAY`] + `V` after the store time of the new record on.
    pub async fn set_parameters(&self, parameters: &LogParameters) -> Result<ParameterSchedule, CatalogError> {
        self.step(|root| root.set_parameters(parameters)).await?.schedule().ok_or_else(no_parameters)
    }

    /// Records what the probes of stores found, by URL, in one record. `head` is the chain's head as it was just read; so is
    /// the answer.
    pub async fn record_probes<R: Serialize>(
        &self,
        head: Option<ChainRecord<RootState>>,
        reports: &BTreeMap<String, R>,
    ) -> Result<Option<ChainRecord<RootState>>, CatalogError> {
        // A report is plain data, which is always JSON.
        let values =
            reports.iter().map(|(url, report)| (url.clone(), serde_json::to_value(report).unwrap_or_default()));
        let values = values.collect();
        self.step_from(head, |root| Ok(root.record_probes(&values))).await
    }

    /// Sets the parameters as [`Self::ensure`] does, and registers an index, or learns that it is another owner's: both in one
    /// record. `head` is the chain's head as it was just read; `cursor` is the index's. See [`RootState::register_index`].
    pub async fn register(
        &self,
        head: Option<ChainRecord<RootState>>,
        parameters: &LogParameters,
        name: &str,
        index: &IndexRegistration,
        cursor: LogCursor,
        adopt: Option<&str>,
    ) -> Result<RegistrationOutcome, CatalogError> {
        let how = Mutex::new(RegistrationOutcome::Known);
        self.step_from(head, |root| {
            let set = root.ensure(parameters)?;
            let registered = registered(set.as_ref().unwrap_or(root), name, (index, cursor), adopt, &how)?;
            Ok(registered.or(set))
        })
        .await?;
        Ok(how.into_inner())
    }

    /// Takes the purged index of `owner` off the register. See [`RootState::purge_index`].
    pub(crate) async fn purge_index(
        &self,
        name: &str,
        owner: &IndexOwner,
        generation: &Generation,
    ) -> Result<(), CatalogError> {
        self.step(|root| root.purge_index(name, owner, generation)).await.map(drop)
    }

    /// Takes an index off the register that another log has. See [`RootState::unregister_lost_index`].
    pub(crate) async fn unregister_lost_index(
        &self,
        name: &str,
        owner: &IndexOwner,
        last: Option<&Generation>,
        to: &Generation,
    ) -> Result<(), CatalogError> {
        self.step(|root| Ok(root.unregister_lost_index(name, owner, last, to))).await.map(drop)
    }

    /// Appends what `transaction` makes of the head, unless it leaves it as it is.
    async fn step(
        &self,
        transaction: impl Fn(&RootState) -> Result<Option<RootState>, TransactionRejected> + Send + Sync,
    ) -> Result<RootState, CatalogError> {
        let latest = self.step_from(self.head().await?, transaction).await?;
        Ok(latest.map(|latest| latest.state).unwrap_or_default())
    }

    /// As [`Self::step`], from the head that was just read. Gives the head as it is afterwards.
    async fn step_from(
        &self,
        head: Option<ChainRecord<RootState>>,
        transaction: impl Fn(&RootState) -> Result<Option<RootState>, TransactionRejected> + Send + Sync,
    ) -> Result<Option<ChainRecord<RootState>>, CatalogError> {
        let (empty, id) = (RootState::default(), LogId(self.entropy.nonce()));
        let step = |root: Option<&RootState>| Ok(transaction(root.unwrap_or(&empty))?.map(|next| next.identified(&id)));
        match self.chain.append(head, step).await {
            Ok(latest) => Ok(Some(self.remember(latest))),
            // Nothing to change in a chain without records.
            Err(CatalogError::Empty { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest record that this process has read; `None` before the first. No request.
    pub fn known(&self) -> Option<ChainRecord<RootState>> {
        self.newest.lock().clone()
    }

    /// Remembers the newest record, so that no later answer goes back behind it.
    fn remember(&self, latest: ChainRecord<RootState>) -> ChainRecord<RootState> {
        let mut newest = self.newest.lock();
        if newest.as_ref().is_none_or(|known| known.number < latest.number) {
            *newest = Some(latest.clone());
        }
        newest.clone().unwrap_or(latest)
    }
}

/// What a registration makes of the root; `how` gets how the index came to be registered.
fn registered(
    root: &RootState,
    name: &str,
    (index, cursor): (&IndexRegistration, LogCursor),
    adopt: Option<&str>,
    how: &Mutex<RegistrationOutcome>,
) -> Result<Option<RootState>, TransactionRejected> {
    let (registration, next) = root.register_index(name, index, cursor, adopt)?;
    *how.lock() = registration;
    // A log gets its id before an index is written on its behalf.
    Ok(next.or_else(|| root.id.is_none().then(|| root.clone())))
}

fn no_parameters() -> CatalogError {
    TransactionRejected::NoParameters.into()
}

#[async_trait]
impl ParameterSource for RootChain {
    async fn schedule(&self) -> Result<ParameterSchedule, ParameterSourceError> {
        let schedule = self.parameters().await.and_then(|schedule| schedule.ok_or_else(no_parameters));
        schedule.map_err(|error| ParameterSourceError { why: error.to_string() })
    }
}
