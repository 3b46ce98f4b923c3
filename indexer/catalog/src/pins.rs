//! Pins: they hold objects of an index back from deletion although no manifest names them any more.
//!
//! A pin is an entry in a chain of its own, outside of the manifests and of the generations, so that neither grows with the
//! number of pins and a pin outlives its generation. What it holds is one object: the manifest as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tidemark_store::{
    Chain, ChainRecord, ChainState, Create, Entropy, InvariantViolation, Store, StoreSecond, UserMetadata,
};

use crate::{
    error::{CatalogError, TransactionRejected},
    identity::LogId,
    index::IndexChain,
    manifest::Manifest,
    mutants,
    names::Generation,
};

/// The folder of all logs' pins, below the index's URL.
pub(crate) const PIN_FOLDER: &str = "snapshots";
/// The folder of the lists, below that of a log's pins.
const LIST_FOLDER: &str = "list";
/// The largest list that is read: a manifest's record has as many bytes at most.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// How often a pin is made again because the index changed under it.
const MAX_PIN_ATTEMPTS: u32 = 16;

/// The state of a chain of pins: `<index>/snapshots/<log id>/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinRegister {
    /// Pins by name.
    pub pins: BTreeMap<String, IndexPin>,
}

/// What holds the objects of one manifest back from deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexPin {
    /// Who may drop it.
    pub owner: String,
    /// Store time of the record that made it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub made: Option<StoreSecond>,
    /// Whether the pin counts: the index still named every object after the pin was visible. Before that it holds objects back, too,
    /// but some of them may be gone already.
    pub confirmed: bool,
    /// The generation of the manifest.
    pub generation: Generation,
    /// The number of the manifest.
    pub manifest: u64,
    /// SHA-256 of the manifest's record.
    pub hash: String,
    /// The object with the manifest, below the index's URL: a [`PinnedManifest`].
    pub list: String,
}

/// What a pin's list object holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedManifest {
    /// Makes the bytes unique, so that the process that creates the object recognizes it.
    pub nonce: String,
    /// The manifest.
    pub manifest: Manifest,
}

impl ChainState for PinRegister {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for pin in self.pins.values_mut() {
            pin.made.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    /// A pin that stays is the same, except that it may be confirmed.
    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        for (name, pin) in &before.pins {
            let Some(after) = self.pins.get(name) else { continue };
            let same = IndexPin { confirmed: pin.confirmed, ..after.clone() } == *pin;
            InvariantViolation::unless(same && pin.confirmed <= after.confirmed, "a pin never changes", || {
                format!("{after:?} after {pin:?}")
            })?;
        }
        Ok(())
    }
}

impl PinRegister {
    fn with(&self, name: &str, pin: IndexPin) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        match next.pins.insert(name.to_owned(), pin) {
            Some(_) => Err(pin_refused(name, "exists already", "choose another name")),
            None => Ok(next),
        }
    }

    /// The pin `name` counts from now on, provided that it is still the one with this `list`.
    fn with_confirmed(&self, name: &str, list: &str) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        match next.pins.get_mut(name).filter(|pin| pin.list == list) {
            Some(pin) => pin.confirmed = true,
            None => return Err(pin_refused(name, "was dropped meanwhile", "make it again")),
        }
        Ok(next)
    }

    fn with_copy(&self, source: &str, name: &str, owner: &str) -> Result<Self, TransactionRejected> {
        match self.pins.get(source) {
            Some(pin) if pin.confirmed => {
                self.with(name, IndexPin { owner: owner.to_owned(), made: None, ..pin.clone() })
            }
            _ => Err(pin_refused(source, "does not exist, or does not count yet", "name a living one")),
        }
    }

    fn without(&self, name: &str, owner: &str) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        match next.pins.remove(name) {
            None => Err(pin_refused(name, "does not exist, or was dropped before", "name a living one")),
            Some(pin) if pin.owner != owner => {
                Err(pin_refused(name, &format!("is \"{}\"'s to drop", pin.owner), "let its owner drop it"))
            }
            Some(_) => Ok(next),
        }
    }
}

fn pin_refused(name: &str, why: &str, remedy: &'static str) -> TransactionRejected {
    TransactionRejected::Pin { name: name.to_owned(), why: why.to_owned(), remedy }
}

/// The pins that one log has in an index. Cheap to clone.
#[derive(Clone)]
pub struct PinChain {
    index: Store,
    log: LogId,
    chain: Chain<PinRegister>,
    entropy: Entropy,
}

impl PinChain {
    /// The pins of the log `log` in the store of an index. Touches nothing.
    pub fn open(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let chain = Chain::new(index.below(&format!("{PIN_FOLDER}/{log}")), entropy.clone());
        Self { index: index.clone(), log: log.clone(), chain, entropy }
    }

    /// The pins as they are.
    pub async fn register(&self) -> Result<PinRegister, CatalogError> {
        Ok(self.chain.latest().await?.map(|record| record.state).unwrap_or_default())
    }

    /// Pins the latest manifest of `index` under `name`, for `owner`. Any process may do so; nothing waits for it.
    ///
    /// The order makes it safe: the list, the pin, and then one more look at the index. A collector that decided before the pin
    /// was visible may delete what the index had dropped by then; so the pin counts only if the index, read again, still names
    /// everything. What it drops later is seen to be unreferenced later, by a pass that reads this pin. A pin that does not count is
    /// dropped, and made again of the newer manifest.
    pub async fn pin(&self, index: &IndexChain, name: &str, owner: &str) -> Result<IndexPin, CatalogError> {
        let mut record = index.latest().await?.ok_or(TransactionRejected::Empty)?;
        for _ in 0..MAX_PIN_ATTEMPTS {
            record.state.not_closed()?;
            let pin = IndexPin {
                owner: owner.to_owned(),
                made: None,
                confirmed: false,
                generation: index.generation().clone(),
                manifest: record.number,
                hash: record.hash.clone(),
                list: self.create_list(&record.state).await?,
            };
            let list = pin.list.clone();
            self.append(|register| register.with(name, pin.clone())).await?;
            // After the pin: "next", which reads the slot behind the manifest, and never "poll", which may be a minute late.
            let newer = if mutants::is_pin_read_stale() { None } else { index.chain().latest_after(&record).await? };
            let now = newer.as_ref().unwrap_or(&record);
            if mutants::pin_counts(now.state.closed.is_none() && now.state.names_all_of(&record.state)) {
                let confirmed = self.append(|register| register.with_confirmed(name, &list)).await?;
                return confirmed.state.pins.get(name).cloned().ok_or_else(|| TransactionRejected::Empty.into());
            }
            self.unpin(name, owner).await?;
            record = newer.unwrap_or(record);
        }
        Err(CatalogError::Conflicts { chain: self.chain.store().url().to_string(), attempts: MAX_PIN_ATTEMPTS })
    }

    /// Pins once more, under `name` and for `owner`, what the living pin `source` holds.
    pub async fn pin_again(&self, source: &str, name: &str, owner: &str) -> Result<PinRegister, CatalogError> {
        Ok(self.append(|register| register.with_copy(source, name, owner)).await?.state)
    }

    /// Drops the pin `name`, which `owner` made, and its list if no other pin has it.
    pub async fn unpin(&self, name: &str, owner: &str) -> Result<(), CatalogError> {
        let Some(pin) = self.register().await?.pins.remove(name) else {
            return Err(pin_refused(name, "does not exist, or was dropped before", "name a living one").into());
        };
        let after = self.append(|register| register.without(name, owner)).await?.state;
        if after.pins.values().all(|other| other.list != pin.list) {
            self.index.delete(&[pin.list]).await?;
        }
        Ok(())
    }

    /// Drops every pin and every list: the index is purged. Gives how many objects were deleted.
    pub(crate) async fn drop_all(&self) -> Result<u64, CatalogError> {
        if self.chain.latest().await?.is_none() {
            return Ok(0);
        }
        self.append(|_| Ok(PinRegister::default())).await?;
        let folder = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}", self.log);
        let lists: Vec<_> = self.index.list(&folder, None).map_ok(|object| object.key).try_collect().await?;
        self.index.delete(&lists).await?;
        Ok(lists.len() as u64)
    }

    /// What a pin holds. An absent or damaged list is [`CatalogError::Corrupt`].
    pub async fn read_list(&self, pin: &IndexPin) -> Result<Manifest, CatalogError> {
        let corrupt = |why: String| CatalogError::Corrupt { key: self.name(&pin.list), why };
        let object = self.index.get(&pin.list, MAX_LIST_BYTES).await?;
        let body = object
            .and_then(|object| object.body)
            .ok_or_else(|| corrupt("a pin names it, and it is gone".to_owned()))?;
        let list: PinnedManifest = serde_json::from_slice(&body).map_err(|error| corrupt(error.to_string()))?;
        list.manifest.check_state()?;
        Ok(list.manifest)
    }

    /// Named by a nonce and not by its content: a name that was deleted is never used again.
    async fn create_list(&self, manifest: &Manifest) -> Result<String, CatalogError> {
        let nonce = self.entropy.nonce();
        let name = mutants::list_name(&nonce, manifest);
        let key = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}/{name}", self.log);
        let body = serde_json::to_vec(&PinnedManifest { nonce, manifest: manifest.clone() })
            .map_err(|error| CatalogError::Corrupt { key: self.name(&key), why: error.to_string() })?;
        match self.index.create_resolved(&key, Bytes::from(body), &UserMetadata::new()).await {
            Create::Committed => Ok(key),
            Create::Lost if mutants::is_list_named_by_content() => Ok(key),
            Create::Lost => {
                Err(CatalogError::Corrupt { key: self.name(&key), why: "another object has its name".to_owned() })
            }
            Create::Unknown(error) => Err(error.into()),
        }
    }

    async fn append(
        &self,
        transaction: impl Fn(&PinRegister) -> Result<PinRegister, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<PinRegister>, CatalogError> {
        let first = PinRegister::default();
        self.chain.append(None, |state| transaction(state.unwrap_or(&first)).map(Some)).await
    }

    fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.index.url().as_str().trim_end_matches('/'))
    }
}
