//! What can go wrong with the root and the index, and what to do about it.

use tidemark_store::{ChainError, InvariantViolation};

use crate::{
    identity::{IndexId, LogId},
    log_cursor::LogCursor,
    names::Generation,
};

/// A failure of one of the catalog's chains. Only [`ChainError::Unknown`] leaves open whether something was written.
pub type CatalogError = ChainError<TransactionRejected>;

impl From<TransactionRejected> for CatalogError {
    fn from(rejected: TransactionRejected) -> Self {
        Self::Rejected(rejected)
    }
}

/// Why a transaction does not apply. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionRejected {
    /// Another writer took the index over.
    #[error("epoch {epoch} was overtaken by epoch {by}; this writer may publish nothing more; end this process")]
    Fenced {
        /// The writer's epoch.
        epoch: u64,
        /// The epoch in force.
        by: u64,
    },
    /// Another process holds the consumer.
    #[error(
        "consumer \"{name}\" is held by another process since (epoch {epoch} was overtaken by epoch {by}); this one delivers and \
         acknowledges nothing more; let one process at a time run under that name"
    )]
    ConsumerFenced {
        /// The consumer.
        name: String,
        /// The epoch of the process.
        epoch: u64,
        /// The epoch in force.
        by: u64,
    },
    /// The folder of a consumer is that of another one.
    #[error(
        "the folder \"consumers/{name}\" of the index holds the positions of consumer \"{found}\" of the log \"{found_log}\", and the log is \
         \"{log}\": it was copied or renamed; nothing is delivered; choose another name"
    )]
    AnotherConsumer {
        /// The consumer.
        name: String,
        /// The log of the index.
        log: LogId,
        /// The consumer whose positions are there.
        found: String,
        /// The log that those are of.
        found_log: LogId,
    },
    /// The index was begun again since a consumer of its name acknowledged changes.
    #[error(
        "consumer \"{name}\" has acknowledged changes of the index \"{found}\", and the index is \"{index}\": it was begun again, and its records \
         have other positions; nothing is delivered; choose another name"
    )]
    ConsumerOfEarlierIndex {
        /// The consumer.
        name: String,
        /// The id of the index.
        index: IndexId,
        /// The id of the index whose changes were acknowledged.
        found: IndexId,
    },
    /// The index has no manifest yet.
    #[error("the index has no manifest yet; there is nothing to change; let its first writer create it")]
    Empty,
    /// The index was closed in favour of another generation.
    #[error("the generation is closed; nothing is written there any more; open \"{successor}\", which follows it")]
    Closed {
        /// The next generation.
        successor: Generation,
    },
    /// The generation was closed for good.
    #[error(
        "generation \"{generation}\" was purged; nothing is written there any more; open the index again, it starts the \
         generation after that"
    )]
    Purged {
        /// The generation.
        generation: Generation,
    },
    /// The generation was given up before it was finished.
    #[error(
        "generation \"{generation}\" was given up before it was finished; nothing is written there any more; build another one"
    )]
    Abandoned {
        /// The generation.
        generation: Generation,
    },
    /// The generation is not finished.
    #[error(
        "generation \"{generation}\" is being built by \"{task}\"; it is not opened before the index switches to it; open the \
         generation that is in use"
    )]
    Building {
        /// The generation.
        generation: Generation,
        /// Who builds it.
        task: String,
    },
    /// The generation is no restored one that waits for its promotion.
    #[error(
        "generation \"{generation}\" is not restored, or was promoted before; nothing was changed; restore the index first, if that is \
         what you want"
    )]
    NotRestored {
        /// The generation.
        generation: Generation,
    },
    /// The generation is no longer being built.
    #[error(
        "generation \"{generation}\" is not being built; nothing is copied to it; look at the index, which may have switched to it"
    )]
    NotBuilding {
        /// The generation.
        generation: Generation,
    },
    /// The index was purged on behalf of the same owner that requests it.
    #[error(
        "index \"{url}\" was purged on behalf of {owner}; it is not created again for the same one; create the resource again, it \
         then has another UID and may have the prefix"
    )]
    PurgedForOwner {
        /// The index.
        url: String,
        /// The owner.
        owner: String,
    },
    /// A restored generation takes no publications before it is promoted.
    #[error("the generation was restored to {until} and is not promoted; nothing is published; run `tidemark promote`")]
    NotPromoted {
        /// The time that it was restored to.
        until: tidemark_store::StoreSecond,
    },
    /// The publication does not start where the index ends.
    #[error(
        "a publication from {from} does not continue the index, whose cursor is {cursor}; nothing was published; read the manifest \
         again"
    )]
    NotContiguous {
        /// Where the publication starts.
        from: LogCursor,
        /// Where the index ends.
        cursor: LogCursor,
    },
    /// The publication's seqs do not continue those of the index.
    #[error(
        "a publication from seq {first} does not continue the index, whose next seq is {next}; nothing was published; read the \
         manifest again"
    )]
    SeqNotContiguous {
        /// The publication's first seq.
        first: u64,
        /// The index's next seq.
        next: u64,
    },
    /// The publication reaches beyond what is frozen.
    #[error(
        "a publication up to {to} reaches beyond the horizon {horizon}; nothing was published; wait until the horizon has passed it"
    )]
    BeyondHorizon {
        /// Where the publication ends.
        to: LogCursor,
        /// The horizon.
        horizon: tidemark_store::StoreSecond,
    },
    /// A compaction replaces an object that the manifest does not name (any more).
    #[error("\"{key}\" is not part of the manifest; it cannot be replaced; read the manifest again")]
    NotReferenced {
        /// The object.
        key: String,
    },
    /// A pin of that name exists, or belongs to another owner.
    #[error("pin \"{name}\" {why}; nothing was changed; {remedy}")]
    Pin {
        /// The pin.
        name: String,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process made or dropped a pin while this one worked on it: another attempt finds the pins as they are by then.
    #[error("pin \"{name}\" {why}; nothing was changed; {remedy}")]
    PinChanged {
        /// The pin.
        name: String,
        /// What happened to it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The successor of a generation is not the same index.
    #[error(
        "\"{successor}\" cannot follow this generation: its {what} differs; this generation stays open; let that one catch up first"
    )]
    NotASuccessor {
        /// The generation.
        successor: Generation,
        /// What differs.
        what: String,
    },
    /// A flag differs from the log's recorded parameter.
    #[error(
        "\"{name}\" is {given} here but {recorded} in the log, for which it was recorded when the first indexer started; \
         nothing is indexed with another value; drop the flag, or change the log's value with `tidemark log set`"
    )]
    ParameterDiffers {
        /// The parameter.
        name: &'static str,
        /// The log's value.
        recorded: String,
        /// The flag's value.
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
        /// The parameter.
        name: &'static str,
        /// The value.
        given: String,
        /// The rule.
        why: &'static str,
    },
    /// The index belongs to another owner.
    #[error(
        "index \"{url}\" belongs to {owner}; nothing is written there; choose another prefix, or take it over with `adoptOwner: \
         \"{id}\"` in the WAL (`--adopt-owner` on the command line)"
    )]
    OwnedByAnother {
        /// The index.
        url: String,
        /// Its owner.
        owner: String,
        /// What names the owner when its index is adopted.
        id: String,
    },
    /// The index holds the records of another log.
    #[error(
        "index \"{url}\" holds the records of the log \"{log}\" for {owner}; nothing of this log is written or served there, \
         since the records of two logs would be mixed; choose another prefix, or purge the index through its own log \
         (`adoptOwner` does not help)"
    )]
    OfAnotherLog {
        /// The index.
        url: String,
        /// The log that it belongs to.
        log: String,
        /// Its owner there.
        owner: String,
    },
    /// The index holds the records of a log of this id that was elsewhere.
    #[error(
        "index \"{url}\" holds the records of the log at \"{claimed}\", and this log, which has the same id, is at \"{log}\": it was \
         moved, or it is a copy; nothing is written or served there, since the records of a log and of its copy would be mixed; if it \
         was moved and no process writes to \"{claimed}\" any more, give --moved-from '{claimed}' (`movedFrom` in the WAL); for a \
         copy choose another prefix for its index"
    )]
    LogMoved {
        /// The index.
        url: String,
        /// Where this log is.
        log: String,
        /// Where the log of the index's records was.
        claimed: String,
    },
    /// The index was written and does not say for which log.
    #[error(
        "index \"{url}\" does not say which log's records it holds (a build before the first release wrote it); nothing is \
         written or served there; choose another prefix, or delete what lies below this one"
    )]
    Unclaimed {
        /// The index.
        url: String,
    },
    /// A folder that bears the id of a log holds the records of another one.
    #[error(
        "the folder \"{folder}/{log}\" of the index holds the records of the log \"{found}\": it was copied or renamed; nothing is written \
         or deleted there; move it to \"{folder}/{found}\""
    )]
    FolderOfAnotherLog {
        /// The folder of all logs.
        folder: &'static str,
        /// The log that the folder's name names.
        log: LogId,
        /// The log whose records it holds.
        found: LogId,
    },
    /// Another registration has the name or an overlapping prefix.
    #[error(
        "index \"{name}\" at \"{url}\" overlaps index \"{other}\" at \"{other_url}\"; nothing is written there; choose another prefix"
    )]
    Overlaps {
        /// The new index.
        name: String,
        /// Its URL.
        url: String,
        /// The registered index.
        other: String,
        /// Its URL.
        other_url: String,
    },
    /// The log has a cleaner already.
    #[error(
        "the log is cleaned by {cleaner} already and has one cleaner at most; this one cleans nothing; let that one do it, or, if no process \
         writes that index any more, take it off with `tidemark log unregister`"
    )]
    SecondCleaner {
        /// The cleaner.
        cleaner: String,
    },
    /// The log floor would go back.
    #[error("the log floor cannot go back from {floor} to {to}; it stays; name a later second")]
    FloorBack {
        /// The floor.
        floor: LogCursor,
        /// What was asked for.
        to: LogCursor,
    },
    /// The log floor would rise above what an index needs.
    #[error(
        "the log floor cannot rise to {to}: index \"{index}\" may need the log from {keeps} on; it stays; wait until its indexer has \
         looked at what is below, or, if no process writes that index any more, take it off with `tidemark log unregister`"
    )]
    FloorAboveIndex {
        /// The index.
        index: String,
        /// What it needs.
        keeps: LogCursor,
        /// What was asked for.
        to: LogCursor,
    },
    /// The index is not registered as it was a moment ago.
    #[error(
        "index \"{index}\" was registered again, or looked at the log, while it was checked: an indexer writes it; it stays on the \
         register; stop that indexer first"
    )]
    IndexIsWritten {
        /// The index.
        index: String,
    },
    /// The archive is not the one that holds what was deleted before.
    #[error(
        "the log floor cannot rest on the archive \"{archive}\": what was deleted before is in \"{known}\"; it stays; archive to that \
         one, or move the floor with `tidemark log floor`"
    )]
    FloorOfAnotherArchive {
        /// The archive.
        archive: String,
        /// The one of the present floor.
        known: String,
    },
    /// The floor is not the one that an archive was compared with.
    #[error(
        "the log floor was at {seen} when the archive was compared with it, and is at {now} by now; it stays there; run it again"
    )]
    FloorChanged {
        /// The floor as it was seen.
        seen: String,
        /// The floor as it is.
        now: String,
    },
    /// The index has not read what lies below the log floor, which may be gone from the log.
    #[error(
        "the index has the log, or has audited it, up to {cursor} only, and what lies below {floor} may have been cleaned up since: it is \
         in the archive \"{archive}\"; nothing is indexed, so that no hole is taken for the log; begin the index from it with `tidemark \
         restore --latest` and `tidemark promote` (with `--decide-again` where nothing that is left was audited up to there: then outcomes \
         stand as they were seen), or use an index that was there before the clean-up"
    )]
    BelowFloor {
        /// Where the index stands.
        cursor: LogCursor,
        /// The log floor.
        floor: LogCursor,
        /// The URL of the archive.
        archive: String,
    },
    /// A second store has the copies of another index.
    #[error(
        "\"{url}\" has the copies of the snapshots of index \"{other}\"; those of \"{index}\" are not copied there, since one place has one \
         index; choose a prefix of its own for them, or, if no process writes that index any more, take it off with `tidemark log unregister`"
    )]
    CopiesOfAnother {
        /// Where it was to be copied.
        url: String,
        /// The index.
        index: String,
        /// The one that has its copies there.
        other: String,
    },
    /// Nothing of that name is registered.
    #[error("no {what} is named \"{name}\"; nothing was changed; correct the name, or register it first")]
    NotRegistered {
        /// The index, or its generation.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The transaction would violate an invariant: a bug of the program, found before anything was written.
    #[error(transparent)]
    Invariant(#[from] InvariantViolation),
}

impl TransactionRejected {
    /// Refused unless `found`, which a state in `folder` of an index bears, is this `log`.
    pub(crate) fn unless_same_log(folder: &'static str, log: &LogId, found: &LogId) -> Result<(), Self> {
        if log == found {
            return Ok(());
        }
        Err(Self::FolderOfAnotherLog { folder, log: log.clone(), found: found.clone() })
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
        /// The writer's epoch.
        epoch: u64,
        /// The epoch in force.
        by: u64,
    },
    /// It is unknown whether the publication is part of the index.
    #[error(
        "whether \"{key}\" was published is unknown ({why}); this process ends and cleans up nothing; start it again, its \
         successor reads the chain"
    )]
    Unknown {
        /// The slot.
        key: String,
        /// What happened.
        why: String,
    },
    /// The publication does not apply; nothing was written.
    #[error(transparent)]
    Rejected(TransactionRejected),
    /// The chain failed; nothing was written.
    #[error(transparent)]
    Chain(CatalogError),
}

impl From<CatalogError> for PublishError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Rejected(TransactionRejected::Fenced { epoch, by }) => Self::Fenced { epoch, by },
            CatalogError::Rejected(rejected) => Self::Rejected(rejected),
            CatalogError::Unknown { key, why } => Self::Unknown { key, why },
            other => Self::Chain(other),
        }
    }
}

/// Why a purge ended early. A purge that is started again continues from there.
///
/// After an unknown outcome ([`ChainError::Unknown`], [`PublishError::Unknown`]) the process has to end first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// A chain failed.
    #[error(transparent)]
    Chain(#[from] CatalogError),
    /// The writer's lease could not be acquired.
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
    Chain(#[from] CatalogError),
    /// The store's clock could not be read, so the candidate could not move its heartbeat.
    #[error(transparent)]
    Clock(#[from] tidemark_store::ClockError),
}
