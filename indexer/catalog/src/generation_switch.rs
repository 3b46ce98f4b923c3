//! Switching an index from its open generation to another one, which a task makes beside it.
//!
//! The closing record of the open generation is the switch: before it the one is the index, afterwards the other. Two chains take
//! part, and no record commits in both. So that no generation is given up that the index switched to, nor the other way round, every
//! process takes the same two roles in the same order:
//!
//! - The maker has the role of the generation that it makes, then takes that of the open one, then sees that it still has the first,
//!   then closes.
//! - A process that gives a generation up takes its role, then that of the open one, then gives up.
//!
//! Let both happen. If the other one took the open generation's role after the maker, the maker is fenced there and closes nothing any
//! more, or it has closed before, and the other one sees that. If it took it before, it had the made generation's role before that,
//! and the maker sees so when it looks again. Neither rests on time; how long a maker was silent only decides when to begin.

use tidemark_store::{ChainRecord, ClockError, Entropy, Store, StoreClock, StoreError};

use crate::{
    error::{AcquireError, CatalogError, PublishError, TransactionRejected},
    garbage_grace::GARBAGE_GRACE,
    identity::{LogId, WriterIdentity},
    index_chain::IndexChain,
    manifest::{EndReason, Manifest},
    mutants,
    names::Generation,
    pin_register::IndexPin,
    pins::PinChain,
    root_chain::RootChain,
    snapshot_name::closing_name,
    takeover::StandbyReason,
    writer_lease::WriterLease,
};

/// The switch of one index to a generation that one task makes. Cheap to clone.
#[derive(Clone)]
pub struct GenerationSwitch {
    root: RootChain,
    index: Store,
    /// The log's own store, in which holders move their heartbeats.
    heartbeats: Store,
    clock: StoreClock,
    pins: PinChain,
    task: String,
    identity: WriterIdentity,
    entropy: Entropy,
}

/// The generations that another one took the place of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplacedGenerations {
    /// Their last manifests: of the one before it, of the one before that, and so on.
    pub manifests: Vec<Manifest>,
    /// Earlier ones that have no chain, the latest one first. Whether they were replaced, and what they held, is not known.
    pub missing: Vec<Generation>,
}

/// Why a switch ended early. The task that is started again goes on with it.
///
/// After an unknown outcome ([`CatalogError::Unknown`], [`PublishError::Unknown`]) the process has to end first.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// A chain failed, or refuses.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The role of a generation could not be taken.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// A generation could not be changed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The store's clock could not be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A heartbeat could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl GenerationSwitch {
    /// The switch on behalf of `task` of the index in the store `index`, which is registered in `root` under its URL. `heartbeats` is
    /// the log's own store; `clock` is the one whose [`crate::heartbeat`] the caller runs. Touches nothing.
    pub fn new(
        (root, log): (&RootChain, &LogId),
        index: &Store,
        (heartbeats, clock): (&Store, &StoreClock),
        task: &str,
        entropy: &Entropy,
    ) -> Self {
        Self {
            root: root.clone(),
            index: index.clone(),
            heartbeats: heartbeats.clone(),
            clock: clock.clone(),
            pins: PinChain::open(index, log, entropy.clone()),
            task: task.to_owned(),
            identity: WriterIdentity::of_switch(task, &entropy.nonce()),
            entropy: entropy.clone(),
        }
    }

    /// The pins of the index.
    pub fn pins(&self) -> &PinChain {
        &self.pins
    }

    /// The URL of the index.
    pub fn index_url(&self) -> &str {
        self.index.url().as_str()
    }

    /// The chain of `generation`.
    pub fn chain(&self, generation: Generation) -> IndexChain {
        IndexChain::open(&self.index, generation, self.entropy.clone()).for_log(&self.root)
    }

    /// The chain of the open generation, and its latest manifest; `None` of an index without a record.
    pub async fn open_chain(&self) -> Result<(IndexChain, Option<ChainRecord<Manifest>>), CatalogError> {
        let start = self.root.state().await?.generation_of(self.index.url().as_str());
        let chain = self.chain(start).follow().await?;
        let latest = chain.latest().await?;
        Ok((chain, latest))
    }

    /// As [`Self::open_chain`]. Refused ([`TransactionRejected::Empty`]) if there is no manifest.
    pub async fn open_generation(&self) -> Result<(IndexChain, ChainRecord<Manifest>), CatalogError> {
        let (chain, latest) = self.open_chain().await?;
        Ok((chain, latest.ok_or(TransactionRejected::Empty)?))
    }

    /// Begins the index with a generation that holds nothing, so that there is one to switch from.
    pub async fn begin_index(
        &self,
        open: &IndexChain,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<(), SwitchError> {
        Ok(self.seize(open, on_wait).await?.release().await?)
    }

    /// Whether it was this task that switched the index to the generation of `open`, its latest manifest. After the switch is through
    /// only a task `is_unique` for ever knows.
    pub async fn has_made(&self, open: &Manifest, is_unique: bool) -> Result<bool, CatalogError> {
        if open.building.as_ref() == Some(&self.task) {
            return Ok(true);
        }
        Ok(is_unique && self.closing_owner(open).await?.is_some_and(|owner| owner == self.task))
    }

    /// The task that switched the index to the generation of `open`, its latest manifest; `None` if that is not known any more, or no
    /// task did.
    pub async fn maker_of(&self, open: &Manifest) -> Result<Option<String>, CatalogError> {
        match &open.building {
            Some(task) => Ok(Some(task.clone())),
            None => self.closing_owner(open).await,
        }
    }

    /// Who pinned the manifest that was closed in favour of the generation of `open`.
    async fn closing_owner(&self, open: &Manifest) -> Result<Option<String>, CatalogError> {
        let closing = self.pins.register().await?.pins.remove(&closing_name(&open.generation));
        Ok(closing.map(|pin| pin.owner))
    }

    /// The role of the generation that this task makes, in place of `open`: goes on with the one that it began, else begins one with
    /// the next number that is free. One on the way whose maker has been silent for the grace is given up, and so is one that this task
    /// began beside another generation, which the index has left since: it holds what was recorded there, and is never switched to.
    ///
    /// `on_wait` gets the reason of each wait for another process of this task.
    pub async fn begin(
        &self,
        open: &IndexChain,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<WriterLease, SwitchError> {
        let mut generation = open.generation().clone();
        let index = open.latest().await?.and_then(|latest| latest.state.id);
        while let Some(next) = generation.next() {
            let chain = self.chain(next.clone());
            generation = next;
            if let Some(latest) = chain.latest().await? {
                match (&latest.state.closed, &latest.state.building) {
                    (Some(_), _) => continue,
                    (None, Some(task)) if *task == self.task => match &latest.state.replaces {
                        // Or the index was lost since, and begun again as another one: it is never closed in favour of this.
                        Some(left) if left < open.generation() || latest.state.id != index => {
                            self.give_up_left(&chain, left, &on_wait).await?;
                            continue;
                        }
                        // The index has switched since `open` was read.
                        Some(newer) if newer > open.generation() => return Err(closed_in_favour_of(newer).into()),
                        _ => {}
                    },
                    (None, Some(_)) => {
                        if self.is_given_up(&latest).await? {
                            self.give_up_of_another(&chain, open, &on_wait).await?;
                        }
                        continue;
                    }
                    // It is the index by now.
                    (None, None) => return Err(closed_in_favour_of(&generation).into()),
                }
            }
            let identity = self.identity.clone();
            let made_by = (self.task.as_str(), open.generation());
            match chain.build(made_by, identity, &self.clock, &self.heartbeats, &on_wait).await {
                Ok(made) => return Ok(made),
                // Another process of this task has finished it: it is the index by now.
                Err(AcquireError::Chain(CatalogError::Rejected(TransactionRejected::NotBuilding { .. }))) => {
                    return Err(closed_in_favour_of(&generation).into());
                }
                // Another task took the number, or it was given up.
                Err(AcquireError::Chain(CatalogError::Rejected(
                    TransactionRejected::Building { .. }
                    | TransactionRejected::Abandoned { .. }
                    | TransactionRejected::Closed { .. },
                ))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::from(TransactionRejected::Empty).into())
    }

    /// The generations that `open` took the place of, as far back as the last one that was purged.
    pub async fn replaced(&self, open: &Generation) -> Result<ReplacedGenerations, CatalogError> {
        let (mut successor, mut replaced) = (open.clone(), ReplacedGenerations::default());
        for generation in (1..open.number()).rev().map(Generation::numbered) {
            let Some(latest) = self.chain(generation.clone()).latest().await? else {
                replaced.missing.push(generation);
                continue;
            };
            match &latest.state.closed {
                Some(end) if end.generation.as_ref() == Some(&successor) => {
                    successor = latest.state.generation.clone();
                    replaced.manifests.push(latest.state);
                }
                Some(end) if end.by == EndReason::Purge => break,
                _ => {}
            }
        }
        Ok(replaced)
    }

    /// Takes the role of the open generation, which fences its writer: the writer waits, and goes on in the generation that takes its
    /// place, or here if this process ends. Refused ([`TransactionRejected::Closed`]) if the index has switched meanwhile.
    pub async fn seize(
        &self,
        open: &IndexChain,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<WriterLease, AcquireError> {
        open.seize(self.identity.clone(), &self.clock, &self.heartbeats, on_wait).await
    }

    /// The switch: closes the generation of `open`, whose role this process took, in favour of the one that it made, and makes that one
    /// the index. `by` is a reindex or a restore.
    ///
    /// The closing record counts. What fails after it is repaired by the process that opens the index next, and is only logged.
    pub async fn close(
        &self,
        open: WriterLease,
        mut made: WriterLease,
        by: EndReason,
    ) -> Result<Generation, SwitchError> {
        // After the other role was taken, and never from a poll: see the head of this file.
        let successor = made.verify().await?.state.clone();
        match by {
            EndReason::Restore { to } => open.close_for_restore(&successor, to, &self.pins, &self.task).await?,
            _ => open.close(&successor, &self.pins, &self.task).await?,
        };
        self.settle(made).await;
        Ok(successor.generation)
    }

    /// What follows a switch: the next writer need not wait for this process to be silent.
    async fn settle(&self, mut made: WriterLease) {
        let generation = made.manifest().state.generation.clone();
        let released = async {
            made.finish().await?;
            made.release().await
        };
        if let Err(error) = released.await {
            tracing::warn!(%generation, %error, "the index has switched, and its lease was not released; its next writer waits until that expires");
        }
        if let Err(error) = self.repair(&generation).await {
            tracing::warn!(%generation, %error, "the index has switched, and the log's root does not say so; its next writer registers it");
        }
    }

    /// The log's root names `generation`, to which the index has switched, and nothing holds back any more what it was made from.
    pub async fn repair(&self, generation: &Generation) -> Result<(), CatalogError> {
        self.root.switch_generation(self.index.url().as_str(), generation).await?;
        self.drop_source(generation).await
    }

    /// Gives up the generation `made` of this task if the index has switched from `source` to another one: that one will never be
    /// closed in favour of it.
    pub async fn give_up_unless_open(
        &self,
        made: &Generation,
        source: &Generation,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<(), SwitchError> {
        let (open, _) = self.open_generation().await?;
        if open.generation() == made || open.generation() == source {
            return Ok(());
        }
        self.give_up_left(&self.chain(made.clone()), source, on_wait).await
    }

    /// Gives up the generation of `chain`, which this task began beside the generation `left`. The index has left that one: it is closed, and
    /// never again in favour of another one, so its role need not be taken.
    async fn give_up_left(
        &self,
        chain: &IndexChain,
        left: &Generation,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<(), SwitchError> {
        let (generation, identity) = (chain.generation(), self.identity.clone());
        let made_by = (self.task.as_str(), left);
        match chain.build(made_by, identity, &self.clock, &self.heartbeats, on_wait).await {
            Ok(made) => {
                tracing::info!(%generation, %left, "the index has left what this generation was begun beside; giving it up");
                made.abandon().await?;
            }
            // Another process of this task has given it up.
            Err(AcquireError::Chain(CatalogError::Rejected(TransactionRejected::Abandoned { .. }))) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.drop_source(generation).await?)
    }

    /// Gives up the generation of `made`, in favour of which the open one is not closed: its role is `open`, held by this process.
    pub async fn discard(&self, made: WriterLease, open: &WriterLease) -> Result<(), SwitchError> {
        let generation = made.manifest().state.generation.clone();
        tracing::debug!(%generation, instead = %open.manifest().state.generation, "giving up what was made");
        made.abandon().await?;
        Ok(self.drop_source(&generation).await?)
    }

    /// Whether the maker of the generation is gone: neither its heartbeat nor the chain has moved for the grace.
    async fn is_given_up(&self, latest: &ChainRecord<Manifest>) -> Result<bool, SwitchError> {
        let beat = match &latest.state.holder {
            Some(holder) => self.heartbeats.head(&holder.heartbeat).await?.map(|beat| beat.time),
            None => None,
        };
        let now = self.clock.probe().await?.now;
        Ok(now.since(latest.time.max(beat.unwrap_or_default())) >= GARBAGE_GRACE)
    }

    /// The generations that tasks began after `open`, the open one, and whose makers have been silent for the grace. Writes nothing but the
    /// clock's probe, and that only where a generation is being built.
    pub async fn silent_generations(&self, open: &IndexChain) -> Result<Vec<Generation>, SwitchError> {
        let (mut silent, mut last) = (Vec::new(), open.generation().clone());
        while let Some(generation) = last.next() {
            let Some(latest) = self.chain(generation.clone()).latest().await? else { break };
            let is_being_built = latest.state.building.is_some() && latest.state.closed.is_none();
            if is_being_built && self.is_given_up(&latest).await? {
                silent.push(generation.clone());
            }
            last = generation;
        }
        Ok(silent)
    }

    /// Gives up the [`Self::silent_generations`], as the next task would. Gives those that it gave up.
    ///
    /// `on_wait` gets the reason of each wait for another process.
    pub async fn give_up_silent(
        &self,
        open: &IndexChain,
        on_wait: impl Fn(StandbyReason) + Send + Sync,
    ) -> Result<Vec<Generation>, SwitchError> {
        let mut given_up = Vec::new();
        for generation in self.silent_generations(open).await? {
            if self.give_up_of_another(&self.chain(generation.clone()), open, &on_wait).await? {
                given_up.push(generation);
            }
        }
        Ok(given_up)
    }

    /// Gives up a generation that another task began. The writer of the open one is fenced for that, and goes on there once the role is
    /// released. Gives whether it was this process that did so.
    async fn give_up_of_another(
        &self,
        chain: &IndexChain,
        open: &IndexChain,
        on_wait: &(impl Fn(StandbyReason) + Send + Sync),
    ) -> Result<bool, SwitchError> {
        let acquired = chain.acquire_as_owner(self.identity.clone(), &self.clock, &self.heartbeats, on_wait).await;
        let made = match acquired {
            Ok(made) => made,
            Err(AcquireError::Chain(CatalogError::Rejected(_))) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // Its maker has woken up meanwhile and finished it.
        if mutants::fences_maker() && made.manifest().state.building.is_none() {
            made.release().await?;
            return Ok(false);
        }
        let fence = if mutants::fences_maker() { Some(self.seize(open, on_wait).await?) } else { None };
        let generation = chain.generation();
        tracing::warn!(%generation, "the maker of this generation has been silent for a day; giving it up");
        let abandoned = made.abandon().await;
        // After a failure, too: the writer and other switches need not wait until this process is silent.
        let released = match fence {
            Some(fence) => fence.release().await,
            None => Ok(()),
        };
        abandoned?;
        released?;
        self.drop_source(generation).await?;
        if let Some(pin) = self.pins.register().await?.pins.get(&closing_name(generation)) {
            self.pins.unpin(&closing_name(generation), &pin.owner).await?;
        }
        Ok(true)
    }

    /// Holds back from deletion what `generation` is made from, and gives it: what a process of this task held before, else what `hold`
    /// makes of the name and the owner of a pin. Refused ([`TransactionRejected::Abandoned`]), and nothing is held, if the generation was given up.
    pub async fn hold_source<F>(
        &self,
        generation: &Generation,
        hold: impl FnOnce(String, String) -> F,
    ) -> Result<Manifest, CatalogError>
    where
        F: Future<Output = Result<IndexPin, CatalogError>>,
    {
        if let Some(held) = self.held_source(generation).await? {
            return Ok(held);
        }
        let pin = hold(source_of(generation), self.task.clone()).await?;
        // A process that gave the generation up meanwhile may have looked for the pin before it was there.
        if let Some(Err(closed)) = self.chain(generation.clone()).latest().await?.map(|made| made.state.not_closed()) {
            self.drop_source(generation).await?;
            return Err(closed.into());
        }
        self.pins.read_list(&pin).await
    }

    /// What a process of this task has held back to make `generation` from. Nothing is held any more once the generation was given up: a
    /// process that draws a conclusion from that verifies its role first.
    pub async fn held_source(&self, generation: &Generation) -> Result<Option<Manifest>, CatalogError> {
        let held = self.pins.register().await?.pins.remove(&source_of(generation));
        match held.filter(|pin| pin.confirmed && pin.owner == self.task) {
            Some(pin) => Ok(Some(self.pins.read_list(&pin).await?)),
            None => Ok(None),
        }
    }

    async fn drop_source(&self, generation: &Generation) -> Result<(), CatalogError> {
        let name = source_of(generation);
        match self.pins.register().await?.pins.get(&name) {
            Some(pin) => self.pins.unpin(&name, &pin.owner).await,
            None => Ok(()),
        }
    }
}

/// The pin of what `generation` is made from.
fn source_of(generation: &Generation) -> String {
    format!("source-of-{generation}")
}

fn closed_in_favour_of(successor: &Generation) -> CatalogError {
    TransactionRejected::Closed { successor: successor.clone() }.into()
}
