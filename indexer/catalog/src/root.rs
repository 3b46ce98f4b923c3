//! The root chain's state: what a log is, and who takes part in it. Membership only; positions live elsewhere.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond, urls_overlap};
use tidemark_wal::{LogParameters, ParameterSchedule};

use crate::{
    error::TransactionRejected,
    identity::{IndexOwner, LogClaim, LogId},
    log_cursor::LogCursor,
    mutants,
    names::Generation,
    snapshot_proof::ArchiveExtent,
};

/// One set of the log's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParameterSet {
    /// The set.
    pub parameters: LogParameters,
    /// Store time of the record that introduced it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recorded: Option<StoreSecond>,
}

/// What the probe of a store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeRecord {
    /// The report, as the probe wrote it.
    pub report: Value,
    /// Store time of the record that introduced it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recorded: Option<StoreSecond>,
}

/// An index of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexRegistration {
    /// Where it lives.
    pub url: String,
    /// Its owner.
    pub owner: IndexOwner,
    /// Its generation: a hint that can be repaired, the truth is the chain's closing record.
    pub generation: Generation,
    /// What it needs of the log: below this second every entry had its last look. It holds the log's floor back.
    pub keeps: LogCursor,
}

impl IndexRegistration {
    /// An index that has looked at nothing yet.
    pub fn new(url: impl Into<String>, owner: IndexOwner, generation: Generation) -> Self {
        Self { url: url.into(), owner, generation, keeps: LogCursor::default() }
    }
}

/// What of the log may be gone, and where it is then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFloor {
    /// What lies below this second may have been deleted.
    pub second: LogCursor,
    /// URL of the archive that holds everything below it.
    pub archive: String,
    /// The version of the archive that does. Later versions hold it too.
    pub extent: ArchiveExtent,
    /// The log that the archive is of.
    pub log: LogId,
}

impl LogFloor {
    /// Whether its archive holds what that of the floor `before` did: it is the same version, or a later one.
    fn holds_all_of(&self, before: &Self) -> bool {
        let (version, known) = (&self.extent, &before.extent);
        let is_same = version.version == known.version && version.hash == known.hash;
        self.archive == before.archive && (is_same || version.version > known.version)
    }

    /// The version of the archive, as messages name it.
    fn archive_version(&self) -> String {
        let ArchiveExtent { version, hash, .. } = &self.extent;
        format!("{}, version {version} ({hash})", self.archive)
    }
}

/// An index that was purged: what is left of it means nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PurgedIndex {
    /// Where it lived.
    pub url: String,
    /// Its owner.
    pub owner: IndexOwner,
    /// Its last generation: an index that is created there again starts the one after it.
    pub generation: Generation,
    /// Store time of the record that introduced it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recorded: Option<StoreSecond>,
}

/// How an index came to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationOutcome {
    /// It is new.
    New,
    /// It was registered so before.
    Known,
    /// It was registered by the same owner before, perhaps under another UID or generation.
    Renewed {
        /// How the owner was registered before.
        from: IndexOwner,
    },
    /// Another owner had it.
    Adopted {
        /// Its owner.
        from: IndexOwner,
    },
}

/// The one process that cleans the log up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogCleaner {
    /// The index on whose behalf it cleans.
    pub index: String,
    /// Its owner.
    pub owner: IndexOwner,
}

/// The state of a log's root chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootState {
    /// Identifies the log; absent before the first record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<LogId>,
    /// The log's parameters, oldest first. The first set holds for all earlier time too.
    pub parameters: Vec<ParameterSet>,
    /// What the probes found, by the store's URL.
    pub probes: BTreeMap<String, ProbeRecord>,
    /// The indexes by name.
    pub indexes: BTreeMap<String, IndexRegistration>,
    /// The indexes that were purged, by name, each as it was purged last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub purged: BTreeMap<String, PurgedIndex>,
    /// The one cleaner.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cleaner: Option<LogCleaner>,
    /// The log floor; absent while nothing was deleted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor: Option<LogFloor>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl RootState {
    /// Sets the `id` of the log, unless it has one.
    pub(crate) fn identified(mut self, id: &LogId) -> Self {
        self.id.get_or_insert_with(|| id.clone());
        self
    }

    /// What the index `name` of this log, which is at `log`, says of itself. Refused unless it is registered.
    pub(crate) fn claim(&self, name: &str, log: &str) -> Result<LogClaim, TransactionRejected> {
        match (&self.id, self.indexes.get(name)) {
            (Some(id), Some(known)) => {
                Ok(LogClaim { log: id.clone(), url: log.to_owned(), owner: known.owner.clone() })
            }
            _ => Err(TransactionRejected::NotRegistered { what: "index", name: name.to_owned() }),
        }
    }

    /// The schedule of the log's parameters, computed from the store times of the records that introduced them; `None`
    /// before the first set. The state must come from a chain, so that every set is dated.
    pub fn schedule(&self) -> Option<ParameterSchedule> {
        let (first, later) = self.parameters.split_first()?;
        let first = ParameterSchedule::constant(first.parameters);
        Some(later.iter().fold(first, |schedule, set| {
            // A set without a date is not in the chain yet: it takes effect at the end of time.
            schedule.changed(set.parameters, set.recorded.unwrap_or(StoreSecond::from_unix(u64::MAX)))
        }))
    }

    /// The first indexer sets the parameters: `None` if they are set already, in the same way. Refused if a parameter
    /// differs from the set that was recorded last.
    pub fn ensure(&self, parameters: &LogParameters) -> Result<Option<Self>, TransactionRejected> {
        let Some(newest) = self.parameters.last() else {
            return self.with_parameters(parameters).map(Some);
        };
        let given = named(parameters);
        for ((name, recorded), (_, given)) in named(&newest.parameters).into_iter().zip(given) {
            if recorded != given {
                let (recorded, given) = (recorded.to_string(), given.to_string());
                return Err(TransactionRejected::ParameterDiffers { name, recorded, given });
            }
        }
        Ok(None)
    }

    /// Changes the parameters; `None` if they are so already. The change takes effect as [`ParameterSchedule::changed`] says.
    pub fn set_parameters(&self, parameters: &LogParameters) -> Result<Option<Self>, TransactionRejected> {
        match self.parameters.last() {
            None => Err(TransactionRejected::NoParameters),
            Some(newest) if newest.parameters == *parameters => Ok(None),
            Some(_) => self.with_parameters(parameters).map(Some),
        }
    }

    fn with_parameters(&self, parameters: &LogParameters) -> Result<Self, TransactionRejected> {
        usable(parameters)?;
        let mut next = self.clone();
        next.parameters.push(ParameterSet { parameters: *parameters, recorded: None });
        Ok(next)
    }

    /// Records what the probes of stores found, by URL; `None` if the same is recorded already.
    pub fn record_probes(&self, reports: &BTreeMap<String, Value>) -> Option<Self> {
        let known = |url: &str, report: &Value| self.probes.get(url).is_some_and(|known| known.report == *report);
        let new: Vec<_> = reports.iter().filter(|(url, report)| !known(url, report)).collect();
        let mut next = self.clone();
        for (url, report) in &new {
            next.probes.insert((*url).clone(), ProbeRecord { report: (*report).clone(), recorded: None });
        }
        (!new.is_empty()).then_some(next)
    }

    /// Registers an index of the log, and says how it came to be registered.
    ///
    /// One prefix is one owner's: refused while another owner has it, unless `adopt` names that one (its UID, or its
    /// name). Refused too if the prefix overlaps that of an index of another name, and if the index, which is at `cursor`, is not on
    /// the register and below the floor: there it would hold the floor back, and it could not go on. One that is registered may be
    /// below it: it was restored to an earlier time.
    pub fn register_index(
        &self,
        name: &str,
        index: &IndexRegistration,
        cursor: LogCursor,
        adopt: Option<&str>,
    ) -> Result<(RegistrationOutcome, Option<Self>), TransactionRejected> {
        self.apart(name, index)?;
        self.after_purge(name, index)?;
        let known = self.indexes.get(name);
        // Another generation has looked at the log for itself, or has not.
        let keeps = known.filter(|known| known.generation == index.generation).map(|known| known.keeps);
        let index = &IndexRegistration { keeps: keeps.unwrap_or_default(), ..index.clone() };
        let registration = match known {
            None => RegistrationOutcome::New,
            Some(known) if known == index => return Ok((RegistrationOutcome::Known, None)),
            Some(known) if known.owner.is_again(&index.owner) => {
                RegistrationOutcome::Renewed { from: known.owner.clone() }
            }
            Some(known) if adopt == Some(known.owner.id()) => {
                RegistrationOutcome::Adopted { from: known.owner.clone() }
            }
            Some(known) => return Err(owned_by_another(known)),
        };
        // The floor waits for an index that is registered.
        if registration == RegistrationOutcome::New {
            self.check_floor(cursor)?;
        }
        let mut next = self.clone();
        next.indexes.insert(name.to_owned(), index.clone());
        Ok((registration, Some(next)))
    }

    /// The generation to open first for an index of this name: the registered one, or the one after the last that was
    /// purged there, or the first.
    pub fn generation_of(&self, name: &str) -> Generation {
        let registered = self.indexes.get(name).map(|known| known.generation.clone());
        let purged = mutants::remembered_purge(self.purged.get(name));
        registered.or_else(|| purged?.generation.next()).unwrap_or_else(Generation::first)
    }

    /// Takes the purged index of `owner` off the register, so that another owner may have its prefix; `None` if that is done.
    ///
    /// `generation` is the index's last one, and closed for good. Refused unless the index is exactly this owner's: not that
    /// of a resource that was deleted and created again meanwhile.
    pub fn purge_index(
        &self,
        name: &str,
        owner: &IndexOwner,
        generation: &Generation,
    ) -> Result<Option<Self>, TransactionRejected> {
        // Even if another owner has the prefix by now.
        let done = |gone: &PurgedIndex| gone.owner == *owner && gone.generation.number() >= generation.number();
        if self.purged.get(name).is_some_and(done) {
            return Ok(None);
        }
        let known = self.registered(name)?;
        if known.owner != *owner {
            return Err(owned_by_another(known));
        }
        if known.generation.number() > generation.number() {
            return Err(TransactionRejected::NotRegistered {
                what: "generation of the index",
                name: generation.to_string(),
            });
        }
        Ok(Some(self.without(name, known, Some(generation))))
    }

    /// The index `name`, in `generation`, needs nothing of the log below `second` any more; `None` if it needs no more already.
    pub fn keep(
        &self,
        name: &str,
        generation: &Generation,
        second: LogCursor,
    ) -> Result<Option<Self>, TransactionRejected> {
        let known = self.registered(name)?;
        if known.generation != *generation {
            return Err(TransactionRejected::NotRegistered {
                what: "generation of the index",
                name: generation.to_string(),
            });
        }
        if second <= known.keeps {
            return Ok(None);
        }
        let mut next = self.clone();
        next.indexes.insert(name.to_owned(), IndexRegistration { keeps: second, ..known.clone() });
        Ok(Some(next))
    }

    /// The index `name` has switched to `generation`; `None` if it is registered with that one, or with a later one. What it keeps of
    /// the log begins again.
    pub fn switch_generation(&self, name: &str, generation: &Generation) -> Result<Option<Self>, TransactionRejected> {
        let known = self.registered(name)?;
        if known.generation >= *generation {
            return Ok(None);
        }
        let (url, owner) = (known.url.clone(), known.owner.clone());
        let mut next = self.clone();
        next.indexes.insert(name.to_owned(), IndexRegistration::new(url, owner, generation.clone()));
        Ok(Some(next))
    }

    /// Takes the index `name` off the register, so that it does not hold the log's floor back any more. Nothing of it is deleted. The
    /// caller makes sure that no process writes it; refused if it is not registered as it was `seen` before that.
    pub fn unregister(&self, name: &str, seen: &IndexRegistration) -> Result<Self, TransactionRejected> {
        let known = self.registered(name)?;
        if known != seen {
            return Err(TransactionRejected::IndexIsWritten { index: name.to_owned() });
        }
        Ok(self.without(name, known, None))
    }

    fn registered(&self, name: &str) -> Result<&IndexRegistration, TransactionRejected> {
        let missing = || TransactionRejected::NotRegistered { what: "index", name: name.to_owned() };
        self.indexes.get(name).ok_or_else(missing)
    }

    /// Takes an index of `owner` off the register whose generation `to` another log has; `last` is the one before that was
    /// purged on behalf of this log, if there is one. `None` if it is not registered, or no more in that generation.
    pub fn unregister_lost_index(
        &self,
        name: &str,
        owner: &IndexOwner,
        last: Option<&Generation>,
        to: &Generation,
    ) -> Option<Self> {
        let known = self.indexes.get(name).filter(|known| known.owner == *owner && known.generation == *to)?;
        // What is remembered of a later purge stays.
        let gone = self.purged.get(name).map_or(0, |gone| gone.generation.number());
        Some(self.without(name, known, last.filter(|last| last.number() > gone)))
    }

    fn without(&self, name: &str, known: &IndexRegistration, purged: Option<&Generation>) -> Self {
        let mut next = self.clone();
        next.indexes.remove(name);
        if let Some(generation) = purged.cloned() {
            let (url, owner) = (known.url.clone(), known.owner.clone());
            next.purged.insert(name.to_owned(), PurgedIndex { url, owner, generation, recorded: None });
        }
        next.cleaner.take_if(|cleaner| cleaner.index == name);
        next
    }

    /// A purged generation stays closed, and its owner does not come back under the same UID.
    fn after_purge(&self, name: &str, index: &IndexRegistration) -> Result<(), TransactionRejected> {
        let Some(gone) = mutants::remembered_purge(self.purged.get(name)) else {
            return Ok(());
        };
        if gone.owner == index.owner && matches!(gone.owner, IndexOwner::Resource { .. }) {
            return Err(TransactionRejected::PurgedForOwner { url: gone.url.clone(), owner: gone.owner.to_string() });
        }
        if index.generation.number() <= gone.generation.number() {
            return Err(TransactionRejected::Purged { generation: index.generation.clone() });
        }
        Ok(())
    }

    fn apart(&self, name: &str, index: &IndexRegistration) -> Result<(), TransactionRejected> {
        let others = self.indexes.iter().filter(|(other, _)| *other != name);
        let overlapping: Vec<_> = others.filter(|(_, known)| urls_overlap(&known.url, &index.url)).collect();
        if let Some((_, foreign)) = overlapping.iter().find(|(_, known)| !known.owner.is_again(&index.owner)) {
            return Err(owned_by_another(foreign));
        }
        match overlapping.first() {
            None => Ok(()),
            Some((other, known)) => Err(TransactionRejected::Overlaps {
                name: name.to_owned(),
                url: index.url.clone(),
                other: (*other).clone(),
                other_url: known.url.clone(),
            }),
        }
    }

    /// Makes `cleaner` the one cleaner; `None` if it is already. Refused while there is another one.
    pub fn set_cleaner(&self, cleaner: &LogCleaner) -> Result<Option<Self>, TransactionRejected> {
        match &self.cleaner {
            Some(known) if known == cleaner => Ok(None),
            Some(known) if known.index != cleaner.index || !known.owner.is_again(&cleaner.owner) => {
                Err(second_cleaner(known))
            }
            _ => Ok(Some(Self { cleaner: Some(cleaner.clone()), ..self.clone() })),
        }
    }

    /// The clean-up of the index `index` begins: it is the log's one cleaner, and the floor is raised to `second`, both in one record;
    /// `None` if that is so already. See [`RootState::set_cleaner`] and [`RootState::raise_floor`].
    pub fn begin_cleanup(
        &self,
        index: &str,
        second: LogCursor,
        archive: &str,
        extent: &ArchiveExtent,
    ) -> Result<Option<Self>, TransactionRejected> {
        let owner = self.registered(index)?.owner.clone();
        let cleaning = self.set_cleaner(&LogCleaner { index: index.to_owned(), owner })?;
        let raised = cleaning.as_ref().unwrap_or(self).raise_floor(second, archive, extent)?;
        Ok(raised.or(cleaning))
    }

    /// Raises the log floor to `second`, below which the version `extent` of the archive at the URL `archive` holds everything; `None` if
    /// it is there already. Refused while a registered index keeps below it, and if the archive does not hold what lies below the
    /// present floor: it is another one, or an earlier version.
    pub fn raise_floor(
        &self,
        second: LogCursor,
        archive: &str,
        extent: &ArchiveExtent,
    ) -> Result<Option<Self>, TransactionRejected> {
        let Some(log) = self.id.clone() else {
            return Err(TransactionRejected::NoParameters);
        };
        let floor = LogFloor { second, archive: archive.to_owned(), extent: extent.clone(), log };
        match &self.floor {
            Some(known) if *known == floor => return Ok(None),
            Some(known) if known.second > second => {
                return Err(TransactionRejected::FloorBack { floor: known.second, to: second });
            }
            Some(known) if !floor.holds_all_of(known) => {
                return Err(TransactionRejected::FloorOfAnotherArchive {
                    archive: floor.archive_version(),
                    known: known.archive_version(),
                });
            }
            _ => {}
        }
        let is_raised = self.floor.as_ref().is_none_or(|known| known.second < second);
        let holding = self.holding().find(|(_, known)| known.keeps < second);
        if let Some((index, known)) = holding.filter(|_| is_raised && mutants::is_floor_checked()) {
            return Err(TransactionRejected::FloorAboveIndex { index: index.clone(), keeps: known.keeps, to: second });
        }
        Ok(Some(Self { floor: Some(floor), ..self.clone() }))
    }

    /// Puts the floor on another archive, that of the registered index `index`: its version `extent`, at the URL `archive`, holds all that
    /// lies below the floor as it was `seen`, which the caller has made sure of. The second stays. `None` if that is so already.
    ///
    /// Refused unless the floor still is the one that was seen, and while another index cleans the log up: what that one deletes is in its
    /// own archive.
    pub fn move_floor(
        &self,
        index: &str,
        seen: &LogFloor,
        archive: &str,
        extent: &ArchiveExtent,
    ) -> Result<Option<Self>, TransactionRejected> {
        self.registered(index)?;
        let moved = LogFloor { archive: archive.to_owned(), extent: extent.clone(), ..seen.clone() };
        if self.floor.as_ref() == Some(&moved) {
            return Ok(None);
        }
        if self.floor.as_ref() != Some(seen) {
            let words = |floor: &LogFloor| format!("{} with {}", floor.second, floor.archive_version());
            let now = self.floor.as_ref().map_or_else(|| "no second".to_owned(), words);
            return Err(TransactionRejected::FloorChanged { seen: words(seen), now });
        }
        if let Some(other) = self.cleaner.as_ref().filter(|cleaner| cleaner.index != index) {
            return Err(second_cleaner(other));
        }
        Ok(Some(Self { floor: Some(moved), ..self.clone() }))
    }

    /// Refused if an index at `cursor` has not read all of what may be gone from the log.
    pub fn check_floor(&self, cursor: LogCursor) -> Result<(), TransactionRejected> {
        match &self.floor {
            Some(LogFloor { second: floor, archive, .. }) if cursor < *floor => {
                Err(TransactionRejected::BelowFloor { cursor, floor: *floor, archive: archive.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The indexes for which the floor waits, by name: all that are registered.
    pub fn holding(&self) -> impl Iterator<Item = (&String, &IndexRegistration)> {
        self.indexes.iter().filter(|(_, known)| mutants::holds_floor(known.keeps))
    }

    /// The first index that keeps below `second`.
    fn below(&self, second: LogCursor) -> Option<(&String, &IndexRegistration)> {
        self.indexes.iter().find(|(_, known)| known.keeps < second)
    }
}

fn second_cleaner(known: &LogCleaner) -> TransactionRejected {
    TransactionRejected::SecondCleaner { cleaner: format!("{}, for index \"{}\"", known.owner, known.index) }
}

fn owned_by_another(known: &IndexRegistration) -> TransactionRejected {
    let IndexRegistration { url, owner, .. } = known;
    TransactionRejected::OwnedByAnother { url: url.clone(), owner: owner.to_string(), id: owner.id().to_owned() }
}

/// The value of a parameter, in the unit that it is recorded in.
#[derive(Clone, Copy, PartialEq)]
enum ParameterValue {
    Span(Duration),
    Bytes(u64),
    /// A span; `None` never ends.
    Retention(Option<Duration>),
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(span) | Self::Retention(Some(span)) => write!(f, "{span:?}"),
            Self::Retention(None) => f.write_str("forever"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

impl ParameterValue {
    /// Whether the value lies within `least` and `most`, in seconds or bytes.
    fn is_within(self, least: u64, most: u64) -> bool {
        match self {
            Self::Span(span) | Self::Retention(Some(span)) => {
                span >= Duration::from_secs(least) && span <= Duration::from_secs(most)
            }
            Self::Bytes(bytes) => (least..=most).contains(&bytes),
            Self::Retention(None) => true,
        }
    }
}

/// The parameters with the names of their flags.
fn named(parameters: &LogParameters) -> [(&'static str, ParameterValue); 9] {
    let LogParameters {
        expiry,
        signer_clock_lead,
        request_timeout,
        visibility_delay,
        audit_window,
        max_entry_size,
        max_descriptor_size,
        clock_tolerance,
        idempotency_retention,
    } = *parameters;
    [
        ("expiry", ParameterValue::Span(expiry)),
        ("signerClockLead", ParameterValue::Span(signer_clock_lead)),
        ("requestTimeout", ParameterValue::Span(request_timeout)),
        ("visibilityDelay", ParameterValue::Span(visibility_delay)),
        ("auditWindow", ParameterValue::Span(audit_window)),
        ("maxEntrySize", ParameterValue::Bytes(max_entry_size)),
        ("maxDescriptorSize", ParameterValue::Bytes(max_descriptor_size)),
        ("clockTolerance", ParameterValue::Span(clock_tolerance)),
        ("idempotencyRetention", ParameterValue::Retention(idempotency_retention)),
    ]
}

/// Refuses parameters under which no log works.
fn usable(parameters: &LogParameters) -> Result<(), TransactionRejected> {
    const HOUR: u64 = 3600;
    const RULES: [(&str, u64, u64, &str); 9] = [
        ("expiry", 1, 168 * HOUR, "1s to 168h are possible, the longest that a signed URL lives"),
        ("signerClockLead", 0, HOUR, "0s to 1h are possible"),
        ("requestTimeout", 0, HOUR, "0s to 1h are possible"),
        ("visibilityDelay", 0, HOUR, "0s to 1h are possible"),
        ("auditWindow", 0, 366 * 24 * HOUR, "0s to 366 days are possible"),
        ("maxEntrySize", 1 << 10, 64 << 20, "1Ki to 64Mi are possible"),
        ("maxDescriptorSize", 1 << 10, 256 << 20, "1Ki to 256Mi are possible"),
        ("clockTolerance", 0, 60, "0s to 1m are possible"),
        ("idempotencyRetention", 1, 10 * 366 * 24 * HOUR, "87840h (3660 days) are possible at most, and \"forever\""),
    ];
    for ((name, given), (_, least, most, why)) in named(parameters).into_iter().zip(RULES) {
        if !given.is_within(least, most) {
            return Err(TransactionRejected::ParameterUnusable { name, given: given.to_string(), why });
        }
    }
    match parameters.idempotency_retention {
        Some(retention) if retention < parameters.min_idempotency_retention() => {
            Err(TransactionRejected::ParameterUnusable {
                name: "idempotencyRetention",
                given: format!("{retention:?}"),
                why: "it is at least expiry + signerClockLead + requestTimeout + 1s, so that an update and its retry count once",
            })
        }
        _ => Ok(()),
    }
}

impl ChainState for RootState {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for set in &mut self.parameters {
            set.recorded.get_or_insert(recorded);
        }
        for probe in self.probes.values_mut() {
            probe.recorded.get_or_insert(recorded);
        }
        for gone in self.purged.values_mut() {
            gone.recorded.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let undated = self.parameters.iter().rev().skip(1).any(|set| set.recorded.is_none());
        InvariantViolation::unless(!undated, "only the newest parameters may be undated", || {
            "an older set is".to_owned()
        })?;
        let reopened = self.indexes.iter().find(|(name, index)| {
            self.purged.get(*name).is_some_and(|gone| index.generation.number() <= gone.generation.number())
        });
        InvariantViolation::unless(reopened.is_none(), "a purged generation stays closed", || format!("{reopened:?}"))?;
        let hole = self.floor.as_ref().filter(|floor| floor.second > floor.extent.end);
        InvariantViolation::unless(hole.is_none(), "the archive reaches the log floor", || format!("{hole:?}"))
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.id.is_none() || self.id == before.id, "a log stays the same one", || {
            format!("{:?} after {:?}", self.id, before.id)
        })?;
        InvariantViolation::unless(
            self.parameters.starts_with(&before.parameters),
            "recorded parameters never change",
            || format!("{:?} after {:?}", self.parameters, before.parameters),
        )?;
        let second = |root: &Self| root.floor.as_ref().map(|floor| floor.second);
        let (floor, floor_before) = (second(self), second(before));
        InvariantViolation::unless(floor >= floor_before, "the log floor never goes back", || {
            format!("{:?} after {:?}", self.floor, before.floor)
        })?;
        let archive = |root: &Self| root.floor.as_ref().map(|floor| floor.archive.clone());
        let is_moved = before.floor.is_some() && archive(self) != archive(before);
        InvariantViolation::unless(
            !is_moved || floor == floor_before,
            "a floor that moves to another archive stays at its second",
            || format!("{:?} after {:?}", self.floor, before.floor),
        )?;
        let held = floor.filter(|_| floor > floor_before).and_then(|floor| self.below(floor));
        InvariantViolation::unless(held.is_none(), "every index keeps at or above a floor that is raised", || {
            format!("{held:?} below {floor:?}")
        })?;
        let gone_back = before.indexes.iter().find(|(name, known)| {
            let after = self.indexes.get(*name).filter(|after| after.generation == known.generation);
            after.is_some_and(|after| after.keeps < known.keeps)
        });
        InvariantViolation::unless(gone_back.is_none(), "what an index keeps never goes back", || {
            format!("{gone_back:?}")
        })?;
        let forgotten = before.purged.iter().find(|(name, gone)| {
            self.purged.get(*name).is_none_or(|after| after.generation.number() < gone.generation.number())
        });
        InvariantViolation::unless(forgotten.is_none(), "what was purged is not forgotten", || format!("{forgotten:?}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_wal::PARAMETER_CHANGE_DELAY;

    use super::*;

    fn seconds(seconds: u64) -> LogParameters {
        LogParameters::with_expiry(Duration::from_secs(seconds))
    }

    /// What a chain makes of a step at store time `at`.
    fn recorded(before: &RootState, next: Option<RootState>, at: u64) -> RootState {
        let mut next = next.unwrap_or_else(|| before.clone());
        next.check_state().and_then(|()| next.check_transition(before)).unwrap();
        next.apply_store_time(StoreSecond::from_unix(at));
        next
    }

    fn resource(name: &str, uid: &str) -> IndexOwner {
        let (cluster, namespace) = ("c".to_owned(), "ns".to_owned());
        IndexOwner::Resource { cluster, namespace, name: name.to_owned(), uid: uid.to_owned() }
    }

    fn index(url: &str, owner: IndexOwner) -> IndexRegistration {
        IndexRegistration::new(url, owner, Generation::first())
    }

    #[test]
    fn the_first_indexer_sets_the_parameters_and_a_differing_flag_is_refused() {
        let empty = RootState::default();
        let root = recorded(&empty, empty.ensure(&seconds(600)).unwrap(), 1000);
        assert_eq!(root.schedule(), Some(ParameterSchedule::constant(seconds(600))));
        assert_eq!(root.ensure(&seconds(600)), Ok(None));
        let message = root.ensure(&seconds(5)).unwrap_err().to_string();
        for part in ["\"expiry\"", "5s", "600s", "`tidemark log set`"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_change_is_dated_by_the_store_time_of_its_record_and_by_nothing_else() {
        let empty = RootState::default();
        let first = recorded(&empty, empty.ensure(&seconds(600)).unwrap(), 1000);
        let changed = recorded(&first, first.set_parameters(&seconds(60)).unwrap(), 5000);
        let expected = ParameterSchedule::constant(seconds(600)).changed(seconds(60), StoreSecond::from_unix(5000));
        assert_eq!(changed.schedule(), Some(expected.clone()));
        let from = expected.newest().from;
        assert!(from >= StoreSecond::from_unix(5000).after(PARAMETER_CHANGE_DELAY));
        // Later records, whatever their own time, leave the date alone.
        let later = recorded(&changed, changed.record_probes(&[("s3://b".to_owned(), Value::Null)].into()), 9000);
        assert_eq!(later.schedule(), Some(expected));
        assert_eq!(later.ensure(&seconds(60)), Ok(None));
        assert_eq!(later.set_parameters(&seconds(60)), Ok(None));
    }

    #[test]
    fn nothing_changes_what_was_never_set_and_nothing_impossible_is_set() {
        let root = RootState::default();
        assert_eq!(root.set_parameters(&seconds(60)), Err(TransactionRejected::NoParameters));
        for impossible in [seconds(0), seconds(8 * 24 * 3600)] {
            assert!(matches!(
                root.ensure(&impossible),
                Err(TransactionRejected::ParameterUnusable { name: "expiry", .. })
            ));
        }
    }

    #[test]
    fn keys_are_kept_for_longer_than_an_update_takes() {
        let retaining =
            |retention: Option<Duration>| LogParameters { idempotency_retention: retention, ..seconds(600) };
        let root = RootState::default();
        // W, R, and a second.
        let least = Duration::from_secs(661);
        for possible in [None, Some(least), Some(Duration::from_hours(87_840))] {
            assert!(root.ensure(&retaining(possible)).is_ok(), "{possible:?}");
        }
        for impossible in [Duration::ZERO, least.saturating_sub(Duration::from_millis(1)), Duration::from_hours(87_841)]
        {
            let refused = root.ensure(&retaining(Some(impossible))).unwrap_err().to_string();
            assert!(refused.contains("\"idempotencyRetention\""), "{refused}");
        }
        // A change of another parameter must not undo it.
        let root = recorded(&root, root.ensure(&retaining(Some(least))).unwrap(), 1000);
        let longer = LogParameters { request_timeout: Duration::from_secs(61), ..retaining(Some(least)) };
        assert!(root.set_parameters(&longer).unwrap_err().to_string().contains("count once"));
        let differs = root.ensure(&retaining(None)).unwrap_err().to_string();
        assert!(differs.contains("661s") && differs.contains("forever"), "{differs}");
    }

    #[test]
    fn recorded_parameters_never_change() {
        let empty = RootState::default();
        let root = recorded(&empty, empty.ensure(&seconds(600)).unwrap(), 1000);
        let mut moved = root.clone();
        moved.parameters[0].recorded = Some(StoreSecond::from_unix(2000));
        assert!(moved.check_transition(&root).is_err());
    }

    #[test]
    fn one_prefix_has_one_owner() {
        let empty = RootState::default();
        let mine = index("s3://b/index", resource("a", "1"));
        let (how, next) = empty.register_index("a", &mine, at(0), None).unwrap();
        assert_eq!(how, RegistrationOutcome::New);
        let root = recorded(&empty, next, 1);
        assert_eq!(root.register_index("a", &mine, at(0), None).unwrap(), (RegistrationOutcome::Known, None));

        let again = index("s3://b/index", resource("a", "2"));
        let (how, _) = root.register_index("a", &again, at(0), None).unwrap();
        assert_eq!(how, RegistrationOutcome::Renewed { from: resource("a", "1") });

        let theirs = index("s3://b/index/", IndexOwner::Named { name: "laptop".to_owned() });
        for name in ["a", "b"] {
            let refused = root.register_index(name, &theirs, at(0), Some("7")).unwrap_err();
            assert!(matches!(refused, TransactionRejected::OwnedByAnother { .. }), "{refused}");
        }
        let (how, next) = root.register_index("a", &theirs, at(0), Some("1")).unwrap();
        assert_eq!(how, RegistrationOutcome::Adopted { from: resource("a", "1") });
        assert_eq!(next.unwrap().indexes["a"], theirs);
    }

    #[test]
    fn two_indexes_on_one_log_are_fine_unless_their_prefixes_overlap() {
        let empty = RootState::default();
        let next = empty.register_index("a", &index("s3://b/index", resource("a", "1")), at(0), None).unwrap().1;
        let root = recorded(&empty, next, 1);
        assert!(root.register_index("b", &index("s3://b/index2", resource("b", "2")), at(0), None).is_ok());
        let below = index("s3://b/index/sub", resource("a", "1"));
        assert!(matches!(root.register_index("b", &below, at(0), None), Err(TransactionRejected::Overlaps { .. })));
    }

    #[test]
    fn one_log_has_one_cleaner_and_its_floor_never_goes_back() {
        let empty = RootState::default();
        let cleaner = |index: &str| LogCleaner { index: index.to_owned(), owner: resource("a", "1") };
        let root = recorded(&empty, empty.set_cleaner(&cleaner("a")).unwrap(), 1);
        assert_eq!(root.set_cleaner(&cleaner("a")), Ok(None));
        assert!(matches!(root.set_cleaner(&cleaner("b")), Err(TransactionRejected::SecondCleaner { .. })));
        let root = RootState { id: Some(LogId("id".to_owned())), ..root };
        let root = recorded(&root, root.raise_floor(at(9), ARCHIVE, &version(1)).unwrap(), 2);
        assert_eq!(root.raise_floor(at(9), ARCHIVE, &version(1)), Ok(None));
        assert!(matches!(root.raise_floor(at(8), ARCHIVE, &version(1)), Err(TransactionRejected::FloorBack { .. })));
        let other = root.raise_floor(at(10), "s3://other/archive", &version(1));
        assert!(matches!(other, Err(TransactionRejected::FloorOfAnotherArchive { .. })), "{other:?}");
        assert!(RootState { floor: None, ..root.clone() }.check_transition(&root).is_err());
    }

    const ARCHIVE: &str = "s3://b/index/archive";

    fn at(unix: u64) -> LogCursor {
        LogCursor(StoreSecond::from_unix(unix))
    }

    /// A version of the archive that holds everything.
    fn version(version: u64) -> ArchiveExtent {
        ArchiveExtent { version, hash: format!("{version:064x}"), end: LogCursor(StoreSecond::KSUID_END) }
    }

    #[test]
    fn the_floor_rests_on_what_the_archive_held_before() {
        let root = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
        let root = recorded(&root, root.raise_floor(at(9), ARCHIVE, &version(3)).unwrap(), 1);
        // The archive was lost, and another one begins at its place.
        let replaced = ArchiveExtent { hash: "f".repeat(64), ..version(3) };
        for other in [version(2), replaced] {
            let refused = root.raise_floor(at(10), ARCHIVE, &other).unwrap_err();
            assert!(matches!(refused, TransactionRejected::FloorOfAnotherArchive { .. }), "{refused}");
        }
        recorded(&root, root.raise_floor(at(9), ARCHIVE, &version(4)).unwrap(), 2);
        // A version that does not reach so far is a bug of the caller.
        let short = ArchiveExtent { end: at(10), ..version(4) };
        assert!(root.raise_floor(at(11), ARCHIVE, &short).unwrap().unwrap().check_state().is_err());
    }

    #[test]
    fn the_floor_moves_to_the_archive_of_another_index_and_stays_at_its_second() {
        let empty = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
        let register = |root: &RootState, name: &str, keeps| {
            let mine = index(&format!("s3://b/{name}"), resource(name, "1"));
            let root = recorded(root, root.register_index(name, &mine, at(keeps), None).unwrap().1, 1);
            recorded(&root, root.keep(name, &Generation::first(), at(keeps)).unwrap(), 1)
        };
        let root = register(&empty, "old", 9);
        let root = recorded(&root, root.begin_cleanup("old", at(5), ARCHIVE, &version(3)).unwrap(), 2);
        let (root, seen) = (register(&root, "new", 9), root.floor.clone().unwrap());
        let (other, whole) = ("s3://b/new/archive", version(1));
        let moves = |root: &RootState, index| root.move_floor(index, &seen, other, &whole);
        // Nothing but this command moves it.
        let cleaned = root.raise_floor(at(5), other, &whole);
        assert!(matches!(cleaned, Err(TransactionRejected::FloorOfAnotherArchive { .. })), "{cleaned:?}");
        assert!(matches!(moves(&root, "absent"), Err(TransactionRejected::NotRegistered { what: "index", .. })));
        // The old index cleans up into its own archive.
        assert!(matches!(moves(&root, "new"), Err(TransactionRejected::SecondCleaner { .. })));
        let old = root.indexes["old"].clone();
        let root = recorded(&root, Some(root.unregister("old", &old).unwrap()), 3);
        let moved = recorded(&root, moves(&root, "new").unwrap(), 4);
        let floor = moved.floor.clone().unwrap();
        assert_eq!(
            (floor.second, floor.archive.as_str(), &floor.extent, &floor.log),
            (at(5), other, &whole, &seen.log)
        );
        assert_eq!(moves(&moved, "new"), Ok(None), "it is there");
        // A clean-up goes on from there, and none with the archive that it rested on.
        let back = moved.begin_cleanup("new", at(9), ARCHIVE, &version(4));
        assert!(matches!(back, Err(TransactionRejected::FloorOfAnotherArchive { .. })), "{back:?}");
        let raised = recorded(&moved, moved.begin_cleanup("new", at(9), other, &version(2)).unwrap(), 5);
        assert!(matches!(moves(&raised, "new"), Err(TransactionRejected::FloorChanged { .. })));
        // One that was raised meanwhile is not the one that was looked at.
        let later = register(&root, "old", 9);
        let later = recorded(&later, later.raise_floor(at(8), ARCHIVE, &version(4)).unwrap(), 5);
        let refused = moves(&later, "new").unwrap_err();
        assert!(matches!(refused, TransactionRejected::FloorChanged { .. }), "{refused}");
        let none = RootState { floor: None, ..root.clone() };
        assert!(matches!(moves(&none, "new"), Err(TransactionRejected::FloorChanged { .. })));
        // No other way around it, and to no archive that ends below it.
        let higher = RootState { floor: Some(LogFloor { second: at(6), ..floor.clone() }), ..moved.clone() };
        assert!(higher.check_transition(&root).is_err());
        let short = ArchiveExtent { end: at(4), ..version(1) };
        assert!(root.move_floor("new", &seen, other, &short).unwrap().unwrap().check_state().is_err());
    }

    #[test]
    fn a_cleanup_names_its_cleaner_and_raises_the_floor_in_one_record() {
        let empty = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
        let begin = |root: &RootState, second| root.begin_cleanup("a", at(second), ARCHIVE, &version(1));
        assert!(matches!(begin(&empty, 5), Err(TransactionRejected::NotRegistered { .. })));
        let mine = index("s3://b/a", resource("a", "1"));
        let root = recorded(&empty, empty.register_index("a", &mine, at(0), None).unwrap().1, 1);
        // It is not known what the index needs.
        assert!(matches!(begin(&root, 5), Err(TransactionRejected::FloorAboveIndex { .. })));
        let root = recorded(&root, root.keep("a", &Generation::first(), at(9)).unwrap(), 2);
        let begun = recorded(&root, begin(&root, 5).unwrap(), 3);
        assert_eq!(
            (begun.cleaner.as_ref().unwrap().index.as_str(), begun.floor.as_ref().unwrap().second),
            ("a", at(5))
        );
        assert_eq!(begin(&begun, 5), Ok(None));
        // An index that registers with what lies above the floor does not need what lies below: a clean-up goes on, the floor waits.
        let other = index("s3://b/b", resource("b", "1"));
        let later = recorded(&begun, begun.register_index("b", &other, at(5), None).unwrap().1, 4);
        assert_eq!(begin(&later, 5), Ok(None));
        assert!(matches!(begin(&later, 6), Err(TransactionRejected::FloorAboveIndex { .. })));
        let another = later.begin_cleanup("b", at(5), ARCHIVE, &version(1));
        assert!(matches!(another, Err(TransactionRejected::SecondCleaner { .. })), "{another:?}");
    }

    #[test]
    fn the_floor_waits_for_every_registered_index() {
        let empty = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
        let first = |name: &str| index(&format!("s3://b/{name}"), resource(name, "1"));
        let with = |root: &RootState, name| root.register_index(name, &first(name), at(0), None).unwrap().1;
        let root = recorded(&empty, with(&empty, "a"), 1);
        let root = recorded(&root, with(&root, "b"), 1);
        let g1 = Generation::first();
        let root = recorded(&root, root.keep("a", &g1, at(100)).unwrap(), 2);
        assert_eq!(root.keep("a", &g1, at(99)), Ok(None), "it never goes back");
        let refused = root.raise_floor(at(90), ARCHIVE, &version(1)).unwrap_err().to_string();
        assert!(refused.contains("index \"b\"") && refused.contains("tidemark log unregister"), "{refused}");
        let kept = recorded(&root, root.keep("b", &g1, at(90)).unwrap(), 3);
        assert!(kept.raise_floor(at(91), ARCHIVE, &version(1)).is_err());
        recorded(&kept, kept.raise_floor(at(90), ARCHIVE, &version(1)).unwrap(), 4);
        // Or the one that holds it back is taken off.
        let alone = recorded(&root, Some(root.unregister("b", &first("b")).unwrap()), 3);
        let raised = recorded(&alone, alone.raise_floor(at(90), ARCHIVE, &version(1)).unwrap(), 4);
        assert_eq!(raised.floor.as_ref().map(|floor| (floor.second, floor.archive.as_str())), Some((at(90), ARCHIVE)));
        assert!(matches!(alone.unregister("b", &first("b")), Err(TransactionRejected::NotRegistered { .. })));
        let refused = root.unregister("a", &first("a")).unwrap_err();
        assert!(matches!(refused, TransactionRejected::IndexIsWritten { .. }), "it has looked at the log since");
        // No other way around it.
        let forced = RootState { floor: raised.floor.clone(), ..root.clone() };
        assert!(forced.check_transition(&root).is_err());
    }

    /// An index on the register holds the floor back, whatever generation of it is open.
    #[test]
    fn an_index_that_is_registered_may_be_restored_to_a_time_below_the_floor() {
        let empty = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
        let first = index("s3://b/a", resource("a", "1"));
        let root = recorded(&empty, empty.register_index("a", &first, at(0), None).unwrap().1, 1);
        let root = recorded(&root, root.keep("a", &Generation::first(), at(90)).unwrap(), 2);
        let root = recorded(&root, root.raise_floor(at(90), ARCHIVE, &version(1)).unwrap(), 3);
        // Its closing record names the next generation, which is not in the root yet.
        let restored = IndexRegistration { generation: "g2".parse().unwrap(), ..first };
        let (how, next) = root.register_index("a", &restored, at(50), None).unwrap();
        assert!(matches!(how, RegistrationOutcome::Renewed { .. }));
        let root = recorded(&root, next, 4);
        assert_eq!(root.indexes["a"].generation, restored.generation);
        assert!(matches!(
            root.raise_floor(at(91), ARCHIVE, &version(2)),
            Err(TransactionRejected::FloorAboveIndex { .. })
        ));
        let refused = root.register_index("b", &index("s3://b/b", resource("b", "1")), at(89), None).unwrap_err();
        assert!(matches!(refused, TransactionRejected::BelowFloor { .. }), "{refused}");
    }

    #[test]
    fn what_an_index_keeps_is_its_generations() {
        let empty = RootState::default();
        let first = index("s3://b/a", resource("a", "1"));
        let root = recorded(&empty, empty.register_index("a", &first, at(0), None).unwrap().1, 1);
        let root = recorded(&root, root.keep("a", &Generation::first(), at(100)).unwrap(), 2);
        // The same again, and under another UID: it is what it was.
        assert_eq!(root.register_index("a", &first, at(0), None).unwrap(), (RegistrationOutcome::Known, None));
        let again = index("s3://b/a", resource("a", "2"));
        assert_eq!(root.register_index("a", &again, at(0), None).unwrap().1.unwrap().indexes["a"].keeps, at(100));
        // Another generation says for itself what it has seen, and an earlier one speaks for it no more.
        let second = Generation::first().next().unwrap();
        let next = IndexRegistration { generation: second.clone(), ..first };
        let root = recorded(&root, root.register_index("a", &next, at(0), None).unwrap().1, 3);
        assert_eq!(root.indexes["a"].keeps, at(0));
        assert!(matches!(
            root.keep("a", &Generation::first(), at(200)),
            Err(TransactionRejected::NotRegistered { what: "generation of the index", .. })
        ));
        let kept = recorded(&root, root.keep("a", &second, at(50)).unwrap(), 4);
        assert!(root.check_transition(&kept).is_err());
    }

    /// A step of a process on the register.
    fn steps() -> impl Strategy<Value = Vec<(u8, u8, u64)>> {
        prop::collection::vec((0u8..4, 0u8..3, 0u64..40), 1..40)
    }

    proptest! {
        /// Whatever processes do, no index loses what it needs, and no invariant stops a step that a transaction allows.
        #[test]
        fn the_floor_never_passes_what_an_index_needs(steps in steps()) {
            let mut root = RootState { id: Some(LogId("id".to_owned())), ..RootState::default() };
            for (kind, which, second) in steps {
                let name = format!("s3://b/{which}");
                let generation = Generation::numbered(1 + second % 2);
                let next = match kind {
                    0 => root.keep(&name, &generation, at(second)),
                    1 => root.raise_floor(at(second), ARCHIVE, &version(1 + second)),
                    2 => root.register_index(&name, &IndexRegistration::new(name.clone(), resource(&name, "1"), generation), at(second), None)
                        .map(|(_, next)| next),
                    _ => root.registered(&name).cloned().and_then(|seen| root.unregister(&name, &seen)).map(Some),
                };
                let Ok(Some(next)) = next else { continue };
                if next.floor != root.floor {
                    let floor = next.floor.clone().unwrap();
                    prop_assert!(next.indexes.values().all(|index| index.keeps >= floor.second));
                }
                root = recorded(&root, Some(next), 1);
            }
        }

        /// However many changes, at whatever store times: each is dated once, and the horizon never goes back.
        #[test]
        fn the_schedule_only_grows(changes in prop::collection::vec((1u64..1000, 0u64..2000), 1..12)) {
            let empty = RootState::default();
            let mut now = 1_600_000_000;
            let mut root = recorded(&empty, empty.ensure(&seconds(changes[0].0)).unwrap(), now);
            let mut horizon = StoreSecond::default();
            for (expiry, pause) in changes {
                let before = root.schedule().unwrap();
                now += pause;
                horizon = horizon.max(before.horizon(StoreSecond::from_unix(now)));
                root = recorded(&root, root.set_parameters(&seconds(expiry)).unwrap(), now);
                let schedule = root.schedule().unwrap();
                prop_assert_eq!(&schedule.sets()[..before.sets().len()], before.sets());
                let next = schedule.horizon(StoreSecond::from_unix(now));
                prop_assert!(next >= horizon, "horizon from {} to {}", horizon, next);
            }
        }
    }
}
