//! Pins: they hold objects of an index back from deletion although no manifest names them any more.
//!
//! A pin is an entry in a chain of its own, outside of the manifests and of the generations, so that neither grows with the
//! number of pins and a pin outlives its generation. What it holds is one object: the manifest as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tidemark_store::{
    AppendOnlyChain, ChainRecord, ChainState, Create, Entropy, InvariantViolation, ObjectInfo, RecordVersions,
    StateExtensions, Store, StoreSecond, UserMetadata,
};

use crate::{
    error::{CatalogError, TransactionRejected},
    identity::LogId,
    index_chain::IndexChain,
    list_header::{UnreadableList, after_header, header_line},
    manifest::Manifest,
    mutants,
    names::{Generation, generation_of_list},
};

/// The folder of all logs' pins, below the index's URL.
pub(crate) const PIN_FOLDER: &str = "snapshots";
/// The folder of the lists, below that of a log's pins; in it is one folder a generation.
const LIST_FOLDER: &str = "list";
/// The largest list that is read: a manifest's record has as many bytes at most.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// How often a pin is made again because the index changed under it.
const MAX_PIN_ATTEMPTS: u32 = 16;

/// The state of a chain of pins: `<index>/snapshots/<log id>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinRegister {
    /// The log whose pins these are: a folder that was copied is refused.
    pub log: LogId,
    /// The last generation that was purged: it and earlier ones take no pin any more. Absent before the first purge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purged: Option<Generation>,
    /// Pins by name.
    pub pins: BTreeMap<String, IndexPin>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
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
    /// The object with the manifest, below the index's URL. It is this pin's and its copies' alone.
    pub list: String,
}

/// The bytes of a pin's list: a header, then the manifest as one line.
fn encode_list(nonce: &str, manifest: &Manifest) -> serde_json::Result<Bytes> {
    let RecordVersions { format, reads, .. } = manifest.versions();
    let mut bytes = header_line(format, reads, nonce)?;
    serde_json::to_writer(&mut bytes, manifest)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

fn decode_list(bytes: &[u8]) -> Result<Manifest, UnreadableList> {
    let manifest = after_header(bytes, Manifest::FORMAT)?;
    serde_json::from_slice(manifest).map_err(|error| UnreadableList::Damaged(error.to_string()))
}

impl ChainState for PinRegister {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for pin in self.pins.values_mut() {
            pin.made.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let lost = self.pins.iter().find(|(_, pin)| self.is_purged(&pin.generation));
        InvariantViolation::unless(lost.is_none(), "no pin is of a purged generation", || format!("{lost:?}"))
    }

    /// A pin that stays is the same, except that it may be confirmed. One that was not may make place for another of its owner.
    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.log == self.log, "the log never changes", || {
            format!("{} after {}", self.log, before.log)
        })?;
        InvariantViolation::unless(before.purged <= self.purged, "what was purged is not forgotten", || {
            format!("{:?} after {:?}", self.purged, before.purged)
        })?;
        for (name, pin) in &before.pins {
            let Some(after) = self.pins.get(name) else { continue };
            let same = IndexPin { confirmed: pin.confirmed, ..after.clone() } == *pin;
            let stays = same && pin.confirmed <= after.confirmed;
            let made_again = !pin.confirmed && !after.confirmed && pin.owner == after.owner && pin.list != after.list;
            InvariantViolation::unless(stays || made_again, "a pin never changes", || {
                format!("{after:?} after {pin:?}")
            })?;
        }
        Ok(())
    }
}

impl PinRegister {
    /// The first state, without pins, of the pins of `log`.
    pub fn new(log: LogId) -> Self {
        Self { log, purged: None, pins: BTreeMap::new(), ext: StateExtensions::NONE }
    }

    fn is_purged(&self, generation: &Generation) -> bool {
        self.purged.as_ref().is_some_and(|purged| generation <= purged)
    }

    /// The list of the pin whose place a new one of `owner` takes: the same owner's, of a process that ended before the pin
    /// counted. `None` if the name is free. Refused if it is taken, or if the generation was purged.
    fn replaced_list(
        &self,
        name: &str,
        owner: &str,
        generation: &Generation,
    ) -> Result<Option<&str>, TransactionRejected> {
        if self.is_purged(generation) {
            return Err(TransactionRejected::Purged { generation: generation.clone() });
        }
        match self.pins.get(name) {
            Some(pin) if pin.confirmed || pin.owner != owner => {
                Err(pin_refused(name, "exists already", "choose another name"))
            }
            pin => Ok(pin.map(|pin| pin.list.as_str())),
        }
    }

    /// With the pin `name`, in the place of one that has the list `replaced`.
    fn with(&self, name: &str, pin: IndexPin, replaced: Option<&str>) -> Result<Self, TransactionRejected> {
        if self.replaced_list(name, &pin.owner, &pin.generation)? != replaced {
            return Err(pin_refused(
                name,
                "was made or dropped by another process meanwhile",
                "look at it, and try again",
            ));
        }
        let mut next = self.clone();
        next.pins.insert(name.to_owned(), pin);
        Ok(next)
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
                self.with(name, IndexPin { owner: owner.to_owned(), made: None, ..pin.clone() }, None)
            }
            _ => Err(pin_refused(source, "does not exist, or does not count yet", "name a living one")),
        }
    }

    /// Without the pin `name`, provided that it is still the one with this `list`.
    fn without(&self, name: &str, owner: &str, list: &str) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        match next.pins.remove(name) {
            None => Err(pin_refused(name, "does not exist, or was dropped before", "name a living one")),
            Some(pin) if pin.owner != owner => {
                Err(pin_refused(name, &format!("is \"{}\"'s to drop", pin.owner), "let its owner drop it"))
            }
            Some(pin) if pin.list != list => {
                Err(pin_refused(name, "was made again meanwhile", "look at it, and drop it again"))
            }
            Some(_) => Ok(next),
        }
    }

    /// Without the pins of the generations up to `last`, which take none any more; `None` if that is so already.
    fn with_purged(&self, last: &Generation) -> Option<Self> {
        if self.is_purged(last) {
            return None;
        }
        let mut next = Self { purged: Some(last.clone()), ..self.clone() };
        next.pins.retain(|_, pin| pin.generation > *last);
        Some(next)
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
    chain: AppendOnlyChain<PinRegister>,
    entropy: Entropy,
}

impl PinChain {
    /// The pins of the log `log` in the store of an index. Touches nothing.
    pub fn open(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let chain = AppendOnlyChain::new(index.below(&format!("{PIN_FOLDER}/{log}")), entropy.clone());
        Self { index: index.clone(), log: log.clone(), chain, entropy }
    }

    /// The chain itself.
    pub fn chain(&self) -> &AppendOnlyChain<PinRegister> {
        &self.chain
    }

    /// The lists that are there, whether a pin has them or not.
    pub(crate) async fn lists(&self) -> Result<Vec<ObjectInfo>, CatalogError> {
        let folder = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}", self.log);
        let is_list = |key: &str| generation_of_list(key.strip_prefix(&folder)?.strip_prefix('/')?);
        let listed = self.index.list(&folder, None);
        let lists = listed.try_filter(|object| std::future::ready(is_list(&object.key).is_some()));
        Ok(lists.try_collect().await?)
    }

    /// The pins as they are.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::FolderOfAnotherLog`] if they are another log's.
    pub async fn register(&self) -> Result<PinRegister, CatalogError> {
        let Some(record) = self.chain.latest().await? else { return Ok(PinRegister::new(self.log.clone())) };
        TransactionRejected::unless_same_log(PIN_FOLDER, &self.log, &record.state.log)?;
        Ok(record.state)
    }

    /// Pins the latest manifest of `index` under `name`, for `owner`. Any process may do so; nothing waits for it.
    ///
    /// The order makes it safe: the list, the pin, and then one more look at the index. A collector that decided before the pin
    /// was visible may delete what the index had dropped by then; so the pin counts only if the index, read again, still names
    /// everything. What it drops later is seen to be unreferenced later, by a pass that reads this pin. A pin that does not count is
    /// dropped, and made again of the newer manifest. One of the same owner that a process left behind before it counted makes place.
    pub async fn pin(&self, index: &IndexChain, name: &str, owner: &str) -> Result<IndexPin, CatalogError> {
        let mut record = index.latest().await?.ok_or(TransactionRejected::Empty)?;
        for _ in 0..MAX_PIN_ATTEMPTS {
            record.state.not_closed()?;
            let known = self.register().await?;
            let replaced = known.replaced_list(name, owner, index.generation())?;
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
            match self.append(|register| register.with(name, pin.clone(), replaced)).await {
                Ok(_) => self.drop_list(replaced).await,
                Err(error) => {
                    // Only a refusal says that nothing names the list, nor ever will.
                    if matches!(error, CatalogError::Rejected(_)) {
                        self.drop_list(Some(&list)).await;
                    }
                    return Err(error);
                }
            }
            // After the pin: "next", which reads the slot behind the manifest, and never "poll", which may be a minute late.
            let newer = if mutants::is_pin_read_stale() { None } else { index.chain().latest_after(&record).await? };
            let now = newer.as_ref().unwrap_or(&record);
            if mutants::pin_counts(now.state.closed.is_none() && now.state.names_all_of(&record.state)) {
                let confirmed = self.append(|register| register.with_confirmed(name, &list)).await?;
                return confirmed.state.pins.get(name).cloned().ok_or_else(|| TransactionRejected::Empty.into());
            }
            self.drop_pin(name, owner, &list).await?;
            record = newer.unwrap_or(record);
        }
        Err(CatalogError::Conflicts { chain: self.chain.store().url().to_string(), attempts: MAX_PIN_ATTEMPTS })
    }

    /// Pins once more, under `name` and for `owner`, what the living pin `source` holds. For snapshots, which have no command yet; the
    /// simulation's pinners use it.
    pub async fn pin_again(&self, source: &str, name: &str, owner: &str) -> Result<PinRegister, CatalogError> {
        Ok(self.append(|register| register.with_copy(source, name, owner)).await?.state)
    }

    /// Drops the pin `name`, which `owner` made, and its list if no other pin has it. For the retention of snapshots, as
    /// [`Self::pin_again`].
    pub async fn unpin(&self, name: &str, owner: &str) -> Result<(), CatalogError> {
        let Some(pin) = self.register().await?.pins.remove(name) else {
            return Err(pin_refused(name, "does not exist, or was dropped before", "name a living one").into());
        };
        self.drop_pin(name, owner, &pin.list).await
    }

    /// Drops the pin `name` if it is still the one with this list.
    pub(crate) async fn drop_pin(&self, name: &str, owner: &str, list: &str) -> Result<(), CatalogError> {
        let after = self.append(|register| register.without(name, owner, list)).await?.state;
        // No later pin can have it: a copy needs a living source.
        if after.pins.values().all(|other| other.list != list) {
            self.index.delete(&[list.to_owned()]).await?;
        }
        Ok(())
    }

    /// Deletes a list that no pin has. A failure leaves an object that nothing names, and fails nothing.
    async fn drop_list(&self, list: Option<&str>) {
        let Some(list) = list else { return };
        if let Err(error) = self.index.delete(&[list.to_owned()]).await {
            tracing::warn!(list, %error, "the list of a pin was not deleted; it takes room, nothing names it; delete it by hand");
        }
    }

    /// Drops the pins of the generations up to `last`, which were purged, and their lists. Gives how many objects were deleted.
    ///
    /// First the register refuses them, then their lists are deleted: a pin whose list was created before, and which comes
    /// after, is refused. May be repeated: pins of later generations stay.
    pub(crate) async fn purge(&self, last: &Generation) -> Result<u64, CatalogError> {
        let folder = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}", self.log);
        if self.chain.latest().await?.is_none() && self.index.list(&folder, None).try_next().await?.is_none() {
            return Ok(0);
        }
        self.step(|register| Ok(register.with_purged(last))).await?;
        let keys: Vec<_> = self.index.list(&folder, None).map_ok(|object| object.key).try_collect().await?;
        // By its whole name, never by its folder: it may hold objects that Tidemark did not write.
        let generation_of = |key: &str| generation_of_list(key.strip_prefix(&folder)?.strip_prefix('/')?);
        let is_purged = |key: &String| generation_of(key).is_some_and(|generation| generation <= *last);
        let lists: Vec<_> = keys.into_iter().filter(is_purged).collect();
        self.index.delete(&lists).await?;
        Ok(lists.len() as u64)
    }

    /// What a pin holds. An absent or damaged list is [`CatalogError::Corrupt`].
    pub async fn read_list(&self, pin: &IndexPin) -> Result<Manifest, CatalogError> {
        let corrupt = |why: String| CatalogError::Corrupt { key: self.index.url_of(&pin.list), why };
        let object = self.index.get(&pin.list, MAX_LIST_BYTES).await?;
        let body = object
            .and_then(|object| object.body)
            .ok_or_else(|| corrupt("a pin names it, and it is gone".to_owned()))?;
        let manifest = decode_list(&body).map_err(|unreadable| unreadable.into_error(self.index.url_of(&pin.list)))?;
        manifest.check_state()?;
        Ok(manifest)
    }

    /// Named by a nonce and not by its content: a name that was deleted is never used again.
    async fn create_list(&self, manifest: &Manifest) -> Result<String, CatalogError> {
        let nonce = self.entropy.nonce();
        let name = mutants::list_name(nonce.clone(), manifest.next_seq);
        let key = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}/{}/{name}", self.log, manifest.generation);
        let body = encode_list(&nonce, manifest)
            .map_err(|error| CatalogError::Corrupt { key: self.index.url_of(&key), why: error.to_string() })?;
        match self.index.create_resolved(&key, body, &UserMetadata::new()).await {
            Create::Committed => Ok(key),
            Create::Lost if mutants::is_list_named_by_content() => Ok(key),
            Create::Lost => Err(CatalogError::Corrupt {
                key: self.index.url_of(&key),
                why: "another object has its name".to_owned(),
            }),
            Create::Unknown(error) => Err(error.into()),
        }
    }

    async fn append(
        &self,
        transaction: impl Fn(&PinRegister) -> Result<PinRegister, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<PinRegister>, CatalogError> {
        self.step(|register| transaction(register).map(Some)).await
    }

    /// As [`Self::append`], unless the transaction leaves the register as it is.
    async fn step(
        &self,
        transaction: impl Fn(&PinRegister) -> Result<Option<PinRegister>, TransactionRejected> + Send + Sync,
    ) -> Result<ChainRecord<PinRegister>, CatalogError> {
        let first = PinRegister::new(self.log.clone());
        let step = |register: Option<&PinRegister>| {
            let register = register.unwrap_or(&first);
            TransactionRejected::unless_same_log(PIN_FOLDER, &self.log, &register.log)?;
            transaction(register)
        };
        self.chain.append(None, step).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of format 1.
    #[test]
    fn list_1() {
        let manifest: Manifest = serde_json::from_str(include_str!("../tests/formats/manifest-1.json")).unwrap();
        let manifest = Manifest { closed: None, ..manifest };
        let bytes = encode_list(&"a".repeat(32), &manifest).unwrap();
        let file = include_bytes!("../tests/formats/pin-list-1.jsonl");
        assert_eq!(bytes, file.as_slice(), "lists are written differently: a new layout is due");
        assert_eq!(decode_list(file).unwrap(), manifest);
    }

    #[test]
    fn a_list_of_a_newer_release_is_refused_whatever_else_it_says() {
        let newer = decode_list(b"{\"format\":3,\"reads\":2,\"new\":true}\nnew\n").unwrap_err();
        assert_eq!(newer, UnreadableList::Newer { reads: 2, known: 1 });
        for damaged in [&b""[..], b"{}", b"{}\n{}\n", b"{\"format\":1,\"reads\":1,\"nonce\":\"\"}\n", b"\n"] {
            assert!(matches!(decode_list(damaged), Err(UnreadableList::Damaged(_))), "{damaged:?}");
        }
    }
}
