//! What can go wrong with a chain, and what to do about it.

use tidemark_store::StoreError;

use crate::{Cursor, Generation};

/// A failure of a chain. Only [`ChainError::Unknown`] leaves open whether something was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The transaction does not apply to the chain's state; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Others won the slot every time; nothing was written.
    #[error("\"{chain}\" took records of others {attempts} times in a row; nothing was appended; try again later")]
    Conflicts {
        #[doc = "the chain"]
        chain: String,
        #[doc = "how many slots were lost"]
        attempts: u32,
    },
    /// Nobody can say whether the record is part of the chain. The process has to exit and clean up nothing: whoever
    /// starts next reads the chain and sees.
    #[error(
        "whether \"{key}\" was appended is unknown ({why}); this process ends, and cleans up nothing; start it again, its \
         successor reads the chain"
    )]
    Unknown {
        #[doc = "the slot"]
        key: String,
        #[doc = "what happened"]
        why: String,
    },
    /// The store failed; nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record would be larger than any reader takes; nothing was written.
    #[error(
        "\"{key}\" would have {bytes} bytes and a record has {limit} at most; nothing was written; drop pins that are \
         no longer wanted, and let compaction merge objects"
    )]
    TooLarge {
        #[doc = "the slot"]
        key: String,
        #[doc = "the record's size in bytes"]
        bytes: u64,
        #[doc = "what a record may have"]
        limit: u64,
    },
    /// An object is not what the format says.
    #[error(
        "\"{key}\" is damaged: {why}; nothing that follows from it can be trusted; bring that object back from the \
         bucket's versions or from a copy of the bucket"
    )]
    Corrupt {
        #[doc = "the object"]
        key: String,
        #[doc = "what is wrong with it"]
        why: String,
    },
    /// A newer release wrote the object.
    #[error(
        "\"{key}\" has format {found} and this release reads up to format {known}; nothing is made of it; upgrade this process"
    )]
    NewerFormat {
        #[doc = "the object"]
        key: String,
        #[doc = "its format version"]
        found: u32,
        #[doc = "the newest version that this release reads"]
        known: u32,
    },
}

/// Why a transaction does not apply. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another writer took the index over.
    #[error("epoch {epoch} was overtaken by epoch {by}; this writer may publish nothing more; end this process")]
    Fenced {
        #[doc = "the writer's epoch"]
        epoch: u64,
        #[doc = "the epoch in force"]
        by: u64,
    },
    /// The index has no manifest yet.
    #[error("the index has no manifest yet; there is nothing to change; let its first writer create it")]
    Empty,
    /// The index was closed in favour of another generation.
    #[error("the generation is closed; nothing is written there any more; open \"{successor}\", which follows it")]
    Closed {
        #[doc = "the next generation"]
        successor: Generation,
    },
    /// The generation was closed for good.
    #[error(
        "generation \"{generation}\" was purged; nothing is written there any more; open the index again, it starts the \
         generation after that"
    )]
    Purged {
        #[doc = "the generation"]
        generation: Generation,
    },
    /// The index was purged on behalf of the very owner who asks for it.
    #[error(
        "index \"{url}\" was purged on behalf of {owner}; it is not made again for the same one; make the resource again, it \
         then has another UID and may have the prefix"
    )]
    PurgedForOwner {
        #[doc = "the index"]
        url: String,
        #[doc = "the owner"]
        owner: String,
    },
    /// A restored generation takes no publications before it is promoted.
    #[error("the generation was restored to {until} and is not promoted; nothing is published; run `tidemark promote`")]
    NotPromoted {
        #[doc = "the time that it was restored to"]
        until: tidemark_store::StoreSecond,
    },
    /// The publication does not start where the index ends.
    #[error(
        "a publication from {from} does not continue the index, whose cursor is {cursor}; nothing was published; read the manifest \
         again"
    )]
    NotContiguous {
        #[doc = "where the publication starts"]
        from: Cursor,
        #[doc = "where the index ends"]
        cursor: Cursor,
    },
    /// The publication's seqs do not continue those of the index.
    #[error(
        "a publication from seq {first} does not continue the index, whose next seq is {next}; nothing was published; read the \
         manifest again"
    )]
    SeqNotContiguous {
        #[doc = "the publication's first seq"]
        first: u64,
        #[doc = "the index's next seq"]
        next: u64,
    },
    /// The publication reaches beyond what is frozen.
    #[error(
        "a publication up to {to} reaches beyond the horizon {horizon}; nothing was published; wait until the horizon has passed it"
    )]
    BeyondHorizon {
        #[doc = "where the publication ends"]
        to: Cursor,
        #[doc = "the horizon"]
        horizon: tidemark_store::StoreSecond,
    },
    /// A compaction replaces an object that the manifest does not name (any more).
    #[error("\"{key}\" is not part of the manifest; it cannot be replaced; read the manifest again")]
    NotReferenced {
        #[doc = "the object"]
        key: String,
    },
    /// A pin of that name exists, or is somebody else's, or does not exist.
    #[error("pin \"{name}\" {why}; nothing was changed; {remedy}")]
    Pin {
        #[doc = "the pin"]
        name: String,
        #[doc = "what is wrong"]
        why: String,
        #[doc = "what to do"]
        remedy: &'static str,
    },
    /// The successor of a generation is not the same index.
    #[error(
        "\"{successor}\" cannot follow this generation: its {what} differs; this generation stays open; let that one catch up first"
    )]
    NotASuccessor {
        #[doc = "the generation"]
        successor: Generation,
        #[doc = "what differs"]
        what: String,
    },
    /// A flag differs from the log's recorded parameter.
    #[error(
        "\"{name}\" is {given} here but {recorded} in the log, for which it was recorded when the first indexer started; \
         nothing is indexed with another value; drop the flag, or change the log's value with `tidemark log set`"
    )]
    ParameterDiffers {
        #[doc = "the parameter"]
        name: &'static str,
        #[doc = "the log's value"]
        recorded: String,
        #[doc = "the flag's value"]
        given: String,
    },
    /// The log has no parameters yet.
    #[error(
        "the log has no parameters yet; nothing is written without them; let the first `tidemark index` or `tidemark dev` set them, \
         `--expiry` at least"
    )]
    NoParameters,
    /// Parameters that cannot work.
    #[error("parameter \"{name}\" cannot be {given}; nothing was recorded; choose another value: {why}")]
    ParameterUnusable {
        #[doc = "the parameter"]
        name: &'static str,
        #[doc = "the value"]
        given: String,
        #[doc = "the rule"]
        why: &'static str,
    },
    /// The index belongs to somebody else.
    #[error(
        "index \"{url}\" belongs to {owner}; nothing is written there; choose another prefix, or take it over with `adoptOwner: \
         \"{id}\"` in the WAL (`--adopt-owner` on the command line)"
    )]
    OwnedByAnother {
        #[doc = "the index"]
        url: String,
        #[doc = "its owner"]
        owner: String,
        #[doc = "what names the owner when its index is adopted"]
        id: String,
    },
    /// The index holds the records of another log.
    #[error(
        "index \"{url}\" holds the records of the log \"{log}\" for {owner}; nothing of this log is written or served there, \
         since the records of two logs would be mixed; choose another prefix, or purge the index through its own log \
         (`adoptOwner` does not help)"
    )]
    OfAnotherLog {
        #[doc = "the index"]
        url: String,
        #[doc = "the log that it belongs to"]
        log: String,
        #[doc = "its owner there"]
        owner: String,
    },
    /// The index was written and does not say for which log.
    #[error(
        "index \"{url}\" does not say which log's records it holds (a build before the first release wrote it); nothing is \
         written or served there; choose another prefix, or delete what lies below this one"
    )]
    Unclaimed {
        #[doc = "the index"]
        url: String,
    },
    /// Another registration has the name or an overlapping prefix.
    #[error(
        "index \"{name}\" at \"{url}\" overlaps index \"{other}\" at \"{other_url}\"; nothing is written there; choose another prefix"
    )]
    Overlaps {
        #[doc = "the new index"]
        name: String,
        #[doc = "its URL"]
        url: String,
        #[doc = "the registered index"]
        other: String,
        #[doc = "its URL"]
        other_url: String,
    },
    /// The log has a cleaner already.
    #[error(
        "the log is cleaned by {cleaner} already and has one cleaner at most; this one cleans nothing; let that one do it"
    )]
    SecondCleaner {
        #[doc = "the cleaner"]
        cleaner: String,
    },
    /// The log floor would go back.
    #[error("the log floor cannot go back from {floor} to {to}; it stays; name a later second")]
    FloorBack {
        #[doc = "the floor"]
        floor: Cursor,
        #[doc = "what was asked for"]
        to: Cursor,
    },
    /// Nothing of that name is registered.
    #[error("no {what} is named \"{name}\"; nothing was changed; correct the name, or register it first")]
    NotRegistered {
        #[doc = "index or consumer"]
        what: &'static str,
        #[doc = "the name"]
        name: String,
    },
    /// A trim boundary would go back.
    #[error("the trim boundary cannot go back from {boundary} to {to}; it stays; name a later record")]
    BoundaryBack {
        #[doc = "the boundary"]
        boundary: u64,
        #[doc = "what was asked for"]
        to: u64,
    },
    /// A trim boundary would reach the latest record.
    #[error(
        "the trim boundary {to} would reach the chain's latest record {latest}, which must stay; nothing was trimmed; name an earlier \
         record"
    )]
    BoundaryReachesLatest {
        #[doc = "what was asked for"]
        to: u64,
        #[doc = "the latest record"]
        latest: u64,
    },
    /// The state would break an invariant: a fault of the program, found before it was written.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant broken, {invariant}: {found}; nothing was written; report it, this is a fault of the program")]
pub struct Broken {
    /// What must hold.
    pub invariant: &'static str,
    /// What was found instead.
    pub found: String,
}

impl Broken {
    /// `Ok` if the invariant holds; else what `found` tells.
    pub(crate) fn unless(holds: bool, invariant: &'static str, found: impl FnOnce() -> String) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { invariant, found: found() }) }
    }
}

/// Why a writer could not publish.
///
/// After [`PublishError::Fenced`] and [`PublishError::Unknown`] every later call fails the same way: the process has to
/// end, and deletes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Another writer took the index over.
    #[error("epoch {epoch} was overtaken by epoch {by}; this writer may publish nothing more; end this process")]
    Fenced {
        #[doc = "the writer's epoch"]
        epoch: u64,
        #[doc = "the epoch in force"]
        by: u64,
    },
    /// Nobody can say whether the publication is part of the index.
    #[error(
        "whether \"{key}\" was published is unknown ({why}); this process ends, and cleans up nothing; start it again, its \
         successor reads the chain"
    )]
    Unknown {
        #[doc = "the slot"]
        key: String,
        #[doc = "what happened"]
        why: String,
    },
    /// The publication does not apply; nothing was written.
    #[error(transparent)]
    Refused(Refused),
    /// The chain failed; nothing was written.
    #[error(transparent)]
    Chain(ChainError),
}

impl From<ChainError> for PublishError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Refused(Refused::Fenced { epoch, by }) => Self::Fenced { epoch, by },
            ChainError::Refused(refused) => Self::Refused(refused),
            ChainError::Unknown { key, why } => Self::Unknown { key, why },
            other => Self::Chain(other),
        }
    }
}

/// Why a purge ended early. Whoever starts it again goes on where it was.
///
/// After an unknown outcome ([`ChainError::Unknown`], [`PublishError::Unknown`]) the process has to end first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// A chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The writer's role could not be had.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The index could not be closed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Why a candidate does not become the writer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The chain failed. After [`ChainError::Unknown`] the process has to end.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store's clock could not be read, so that the candidate could not show that it lives.
    #[error(transparent)]
    Clock(#[from] tidemark_store::ClockError),
}
