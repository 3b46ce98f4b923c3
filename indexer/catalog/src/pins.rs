//! Pins: they hold objects of an index back from deletion although no manifest names them any more.
//!
//! A pin is an entry in a chain of its own, outside of the manifests and of the generations, so that neither grows with the
//! number of pins and a pin outlives its generation. What it holds is one object: the manifest as it was.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tidemark_store::{
    AppendOnlyChain, ChainRecord, ChainState as _, Create, Entropy, ObjectInfo, Store, StoreError, StoreSecond,
    UserMetadata,
};

use crate::{
    error::{CatalogError, TransactionRejected},
    identity::LogId,
    index_chain::IndexChain,
    manifest::Manifest,
    mutants,
    names::{Generation, generation_of_list},
    pin_list::{decode_list, encode_list},
    pin_register::{CopyClaim, IndexPin, PinRegister, SNAPSHOT_OWNER, pin_changed},
    snapshot_name::successor_of_closing,
    snapshot_proof::SnapshotProof,
    snapshot_retention::SnapshotRetention,
};

/// The folder of all logs' pins, below the index's URL.
pub(crate) const PIN_FOLDER: &str = "snapshots";
/// The folder of the lists, below that of a log's pins; in it is one folder a generation.
const LIST_FOLDER: &str = "list";
/// The largest list that is read: a manifest's record has as many bytes at most.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// How often a pin is made again because the index changed under it.
const MAX_PIN_ATTEMPTS: u32 = 16;

/// How a pin is named.
enum PinNaming<'a> {
    /// By its owner.
    Given {
        /// The name.
        name: &'a str,
        /// The owner.
        owner: &'a str,
    },
    /// A snapshot's, by the store time.
    Dated,
}

impl PinNaming<'_> {
    /// Refused if the name is taken already: then no list is made.
    fn check(&self, register: &PinRegister, generation: &Generation) -> Result<(), TransactionRejected> {
        match self {
            Self::Given { name, owner } => register.replaced_list(name, owner, generation).map(drop),
            Self::Dated => Ok(()),
        }
    }

    /// Whether another name is as good, where another process has taken the first one.
    fn may_choose_again(&self) -> bool {
        matches!(self, Self::Dated)
    }
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

    /// The pins of the log `log` in the index that `index` is a generation of. Touches nothing.
    pub fn of_index(index: &IndexChain, log: &LogId) -> Self {
        Self::open(index.index(), log, index.entropy().clone())
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
        self.pin_latest(index, &PinNaming::Given { name, owner }).await.map(|(_, pin)| pin)
    }

    /// As [`Self::pin`], to become a snapshot, under a name made of the store time.
    pub async fn pin_dated(&self, index: &IndexChain) -> Result<(String, IndexPin), CatalogError> {
        self.pin_latest(index, &PinNaming::Dated).await
    }

    async fn pin_latest(&self, index: &IndexChain, naming: &PinNaming<'_>) -> Result<(String, IndexPin), CatalogError> {
        let mut record = index.latest().await?.ok_or(TransactionRejected::Empty)?;
        for _ in 0..MAX_PIN_ATTEMPTS {
            record.state.not_closed()?;
            let known = self.register().await?;
            naming.check(&known, index.generation())?;
            let (list, checksum) = self.create_list(&record.state).await?;
            let (name, owner) = match naming {
                PinNaming::Given { name, owner } => ((*name).to_owned(), *owner),
                PinNaming::Dated => (known.free_name(self.time_of(&list).await?).to_string(), SNAPSHOT_OWNER),
            };
            let replaced = known.replaced_list(&name, owner, index.generation())?;
            let pin = IndexPin {
                owner: owner.to_owned(),
                made: None,
                renewed: None,
                confirmed: false,
                generation: index.generation().clone(),
                manifest: record.number,
                hash: record.hash.clone(),
                list: list.clone(),
                checksum,
                copy_of: None,
                verified: None,
            };
            match self.append(|register| register.with(&name, pin.clone(), replaced)).await {
                Ok(_) => self.drop_list(replaced).await,
                // Only a refusal says that nothing names the list, nor ever will.
                Err(error @ CatalogError::Rejected(_)) => {
                    self.drop_list(Some(&list)).await;
                    if naming.may_choose_again() && self.register().await?.pins.contains_key(&name) {
                        continue;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            // After the pin: "next", which reads the slot behind the manifest, and never "poll", which may be a minute late.
            let newer = if mutants::is_pin_read_stale() { None } else { index.chain().latest_after(&record).await? };
            let now = newer.as_ref().unwrap_or(&record);
            if mutants::pin_counts(now.state.closed.is_none() && now.state.names_all_of(&record.state)) {
                let confirmed = self.append(|register| register.with_confirmed(&name, &list)).await?;
                let pin = confirmed.state.pins.get(&name).cloned().ok_or(TransactionRejected::Empty)?;
                return Ok((name, pin));
            }
            self.drop_pin(&name, owner, &list).await?;
            record = newer.unwrap_or(record);
        }
        Err(CatalogError::Conflicts { chain: self.chain.store().url().to_string(), attempts: MAX_PIN_ATTEMPTS })
    }

    /// Says that the maker of the pin `name`, which has this `list`, still works on it. One that was not renewed for the grace is taken
    /// for left.
    pub async fn renew(&self, name: &str, list: &str) -> Result<(), CatalogError> {
        self.step(|register| register.with_renewed(name, list)).await.map(drop)
    }

    /// Makes a snapshot of the pin `name`: `proof` is what was read again. Refused unless the pin counts and still has this `list`. Where
    /// it is one already, it stays as it is. Gives it, and the store time of the latest record.
    pub async fn verify(
        &self,
        name: &str,
        list: &str,
        proof: &SnapshotProof,
    ) -> Result<(IndexPin, StoreSecond), CatalogError> {
        let record = self.step(|register| register.with_proof(name, list, proof)).await?;
        let pin = record.state.pins.get(name).cloned().ok_or(TransactionRejected::Empty)?;
        Ok((pin, record.time))
    }

    /// Begins to take in the snapshot `name` of the index that `source` are the pins of, of this log too: `pin` is its pin there, and
    /// `manifest` is what it holds. What is copied to this store after that, or is there already, is held back from then on; the copier
    /// says later that it has read all of it ([`Self::verify`]). Where a copier has begun before, or has ended, it is that one's pin.
    ///
    /// One store takes in the snapshots of one index: those of another one only once the first is not among the URLs `registered` of the
    /// log's indexes any more, or has no copy here and none under way. Its copies stay until those of the other one hold as much.
    ///
    /// The pin here, and then a look whether `source` still has its own: a collector that did not see the one has seen the other.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::PinChanged`] if `source` has dropped its pin, [`TransactionRejected::CopiesOfAnother`] if there are copies of another
    /// index.
    pub async fn import(
        &self,
        name: &str,
        source: &Self,
        pin: &IndexPin,
        manifest: &Manifest,
        registered: &BTreeSet<String>,
    ) -> Result<IndexPin, CatalogError> {
        let imported = self.append_import(name, pin, manifest, (source.index.url().as_str(), registered)).await?;
        let has_list = |other: &IndexPin| other.list == pin.list;
        if imported.verified.is_some() || source.register().await?.pins.values().any(has_list) {
            return Ok(imported);
        }
        self.drop_pin(name, &imported.owner, &imported.list).await?;
        Err(pin_changed(name, "was dropped in the index while it was copied", "copy a later one").into())
    }

    async fn append_import(
        &self,
        name: &str,
        pin: &IndexPin,
        manifest: &Manifest,
        (index, registered): (&str, &BTreeSet<String>),
    ) -> Result<IndexPin, CatalogError> {
        let (list, checksum) = self.create_list(manifest).await?;
        let (copies, now) = (self.index.url().as_str(), self.time_of(&list).await?);
        let claim = CopyClaim { copies, index, registered, now };
        let imported = IndexPin {
            made: None,
            renewed: None,
            confirmed: true,
            list: list.clone(),
            checksum,
            copy_of: Some(index.to_owned()),
            verified: None,
            ..pin.clone()
        };
        let appended = self.step(|register| register.with_import(name, &imported, &claim)).await;
        let is_named = |pin: &IndexPin| pin.list == list;
        match &appended {
            Ok(record) if record.state.pins.values().any(is_named) => {}
            Ok(_) | Err(CatalogError::Rejected(_)) => self.drop_list(Some(&list)).await,
            Err(_) => {}
        }
        let pin = appended?.state.pins.get(name).cloned().ok_or(TransactionRejected::Empty)?;
        if pin.list != list {
            // A copier that ended may have left it long ago.
            self.renew(name, &pin.list).await?;
        }
        Ok(pin)
    }

    /// Drops the pins that have served their time by `retention`, in one record, then their lists. Gives their names.
    pub async fn drop_expired(&self, retention: &SnapshotRetention) -> Result<Vec<String>, CatalogError> {
        let before = self.register().await?;
        if retention.expired(&before).is_empty() {
            return Ok(Vec::new());
        }
        let after = self.step(|register| Ok(register.without_all(&retention.expired(register)))).await?.state;
        let mut dropped = Vec::new();
        for (name, pin) in before.pins {
            if after.pins.get(&name).is_none_or(|other| other.list != pin.list) {
                // No later pin can have it: a copy needs a living source.
                if after.pins.values().all(|other| other.list != pin.list) {
                    self.drop_list(Some(&pin.list)).await;
                }
                dropped.push(name);
            }
        }
        Ok(dropped)
    }

    /// The lists of pins of closing manifests that `open`, the open generation, has caught up with: it is promoted, and its cursor is
    /// not below theirs. What they hold is not needed to go on.
    pub async fn replaced_lists(&self, open: &Manifest) -> Result<Vec<String>, CatalogError> {
        let mut replaced = Vec::new();
        if open.until.is_some() || open.building.is_some() || open.closed.is_some() {
            return Ok(replaced);
        }
        for (name, pin) in self.register().await?.pins {
            let follows = successor_of_closing(&name).is_some_and(|successor| successor <= open.generation);
            if pin.confirmed && follows && self.read_list(&pin).await?.cursor <= open.cursor {
                replaced.push(pin.list);
            }
        }
        Ok(replaced)
    }

    /// Pins once more, under `name` and for `owner`, what the living pin `source` holds. The simulation's pinners use it.
    pub async fn pin_again(&self, source: &str, name: &str, owner: &str) -> Result<PinRegister, CatalogError> {
        Ok(self.append(|register| register.with_copy(source, name, owner)).await?.state)
    }

    /// Drops the pin `name`, which `owner` made, and its list if no other pin has it. Refused if it is a verified snapshot.
    pub async fn unpin(&self, name: &str, owner: &str) -> Result<(), CatalogError> {
        let Some(pin) = self.register().await?.pins.remove(name) else {
            return Err(pin_changed(name, "does not exist, or was dropped before", "name a living one").into());
        };
        self.drop_pin(name, owner, &pin.list).await
    }

    /// Drops the pin `name`, which `owner` made, if it is still the one with this list, and the list if no other pin has it. Refused if it
    /// is a verified snapshot.
    pub async fn drop_pin(&self, name: &str, owner: &str, list: &str) -> Result<(), CatalogError> {
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

    /// What a pin holds. A list that is absent, or is not the one that was written, is [`CatalogError::Corrupt`].
    pub async fn read_list(&self, pin: &IndexPin) -> Result<Manifest, CatalogError> {
        let corrupt = |why: String| CatalogError::Corrupt { key: self.index.url_of(&pin.list), why };
        let object = self.index.get(&pin.list, MAX_LIST_BYTES).await?;
        let body = object
            .and_then(|object| object.body)
            .ok_or_else(|| corrupt("a pin names it, and it is gone".to_owned()))?;
        let found = checksum_of(&body);
        let manifest = decode_list(&body).map_err(|unreadable| unreadable.into_error(self.index.url_of(&pin.list)))?;
        // After the header, which tells a list that only a newer release reads.
        if found != pin.checksum {
            return Err(corrupt(format!("its SHA-256 is {found}, the pin says {}", pin.checksum)));
        }
        manifest.check_state()?;
        Ok(manifest)
    }

    /// Store time of the object `key`, which was just made.
    async fn time_of(&self, key: &str) -> Result<StoreSecond, CatalogError> {
        let made = self.index.head(key).await?;
        let gone = || StoreError::Absent { url: self.index.url().to_string(), key: key.to_owned() };
        Ok(made.ok_or_else(gone)?.time)
    }

    /// The key and the checksum of a new list. Named by a nonce and not by its content: a name that was deleted is never used again.
    async fn create_list(&self, manifest: &Manifest) -> Result<(String, String), CatalogError> {
        let nonce = mutants::list_name(self.entropy.nonce(), manifest.next_seq);
        let key = format!("{PIN_FOLDER}/{}/{LIST_FOLDER}/{}/{nonce}", self.log, manifest.generation);
        let body = encode_list(&nonce, manifest)
            .map_err(|error| CatalogError::Corrupt { key: self.index.url_of(&key), why: error.to_string() })?;
        let checksum = checksum_of(&body);
        match self.index.create_resolved(&key, body, &UserMetadata::new()).await {
            Create::Committed => Ok((key, checksum)),
            Create::Lost if mutants::is_list_named_by_content() => Ok((key, checksum)),
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

fn checksum_of(list: &[u8]) -> String {
    hex::encode(Sha256::digest(list))
}
