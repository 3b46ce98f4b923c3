//! A process that registers an index, writes it and purges it.

use std::time::Duration;

use tidemark_catalog::{
    AcquireError, CatalogError, Generation, IndexChain, IndexOwner, IndexPurge, IndexRegistration, LogCursor, Manifest,
    PublishError, PublishRequest, PurgeStats, RegistrationOutcome, RootChain, WriterIdentity, WriterLease,
};
use tidemark_store::{Entropy, StoreClock};
use tidemark_wal::{Log, LogParameters};

use super::ScriptedStore;

/// The index, and its name in the root chain.
pub(crate) const INDEX: &str = "memory:///index";
/// The expiry of every log.
const EXPIRY: Duration = Duration::from_mins(10);

/// A process of an owner, with a log of its own or the one that most have.
pub(crate) struct IndexProcess {
    name: String,
    stage: ScriptedStore,
    pub(crate) log: Log,
    pub(crate) clock: StoreClock,
    pub(crate) root: RootChain,
    owner: IndexOwner,
    entropy: Entropy,
}

/// A resource with this UID.
pub(crate) fn owner(uid: &str) -> IndexOwner {
    let (cluster, namespace, name) = ("c".to_owned(), "ns".to_owned(), "wal".to_owned());
    IndexOwner::Resource { cluster, namespace, name, uid: uid.to_owned() }
}

impl IndexProcess {
    pub(crate) fn new(name: &str, stage: &ScriptedStore, owner: IndexOwner) -> Self {
        Self::of_log("log", name, stage, owner)
    }

    /// One that indexes the log below the prefix `log`.
    pub(crate) fn of_log(log: &str, name: &str, stage: &ScriptedStore, owner: IndexOwner) -> Self {
        let entropy = Entropy::seeded(format!("{log}{name}").bytes().map(u64::from).sum());
        let log = Log::over(stage.store().below(log), Vec::new());
        let (clock, root) = (StoreClock::new(log.stores(), name), RootChain::open(&log, entropy.clone()));
        Self { name: name.to_owned(), stage: stage.clone(), log, clock, root, owner, entropy }
    }

    /// The same process, which knows where the log was before.
    pub(crate) fn moved_from(self, url: &str) -> Self {
        Self { root: self.root.moved_from(Some(url)), ..self }
    }

    pub(crate) async fn open(&self) -> Result<(RegistrationOutcome, IndexChain), CatalogError> {
        let head = self.root.head().await?;
        let start = head.as_ref().map_or_else(Generation::first, |head| head.state.generation_of(INDEX));
        let chain = IndexChain::open(&self.stage.store().below("index"), start, self.entropy.clone());
        let chain = chain.for_log(&self.root).follow().await?;
        let (url, owner, generation) = (INDEX.to_owned(), self.owner.clone(), chain.generation().clone());
        let (registration, parameters) =
            (IndexRegistration::new(url, owner, generation), LogParameters::with_expiry(EXPIRY));
        let how = self.root.register(head, &parameters, INDEX, &registration, LogCursor::default(), None).await?;
        Ok((how, chain))
    }

    /// Becomes the writer of `chain`.
    pub(crate) async fn acquire(&self, chain: &IndexChain) -> Result<WriterLease, AcquireError> {
        chain.acquire(WriterIdentity(self.name.clone()), &self.clock, &self.log.entries, |_| ()).await
    }

    /// Registers the index and becomes its writer.
    pub(crate) async fn writes(&self) -> WriterLease {
        let chain = self.open().await.unwrap().1;
        self.acquire(&chain).await.unwrap()
    }

    pub(crate) fn purge(&self) -> IndexPurge {
        let index = self.stage.store().below("index");
        IndexPurge::new(self.root.clone(), index, INDEX, self.owner.clone(), self.entropy.clone())
    }

    pub(crate) async fn purges(&self) -> PurgeStats {
        self.purge().run(&WriterIdentity(self.name.clone()), &self.clock, &self.log.entries, |_| ()).await.unwrap()
    }
}

/// The next second, with nothing in it.
pub(crate) fn advance(manifest: &Manifest) -> PublishRequest {
    let to = LogCursor(manifest.cursor.second().next());
    PublishRequest { to, horizon: to.second(), ..PublishRequest::after(manifest) }
}

pub(crate) async fn publish(writer: &mut WriterLease) -> Result<u64, PublishError> {
    let publication = advance(&writer.manifest().state);
    writer.publish(publication).await.map(|slot| slot.number)
}
