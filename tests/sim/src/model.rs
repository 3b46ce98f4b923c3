//! The model of a log: the outcome of every entry, from what was written to the buckets and when, by a naive reading of the
//! outcome rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{BodyDigest, LogCursor};
use tidemark_store::StoreSecond;
use tidemark_wal::{
    EntryIntent, IntentOperation, LockName, LockRef, LogParameters, MalformedInput, OperationKind, Outcome,
    PayloadFormat, Token,
};

use crate::chain_record::record_state;
use crate::simulated_store::{ObjectMetadata, StoreChange, StoreEvent};

/// Buckets of every simulated log.
pub(crate) const LOG: &str = "log";
/// Descriptors.
pub(crate) const META: &str = "meta";
/// Labels and their markers.
pub(crate) const VMETA: &str = "vmeta";

/// The folders of locks and of guards in the log.
pub(crate) const LOCKS: &str = ".tidemark/locks/";
pub(crate) const GUARDS: &str = ".tidemark/guard/";

/// An entry that was written.
#[derive(Clone, Debug)]
pub struct LoggedEntry {
    /// Store time, floored to the second.
    pub time: StoreSecond,
    /// What it announces.
    pub intent: Result<EntryIntent, MalformedInput>,
    /// The digest of its body.
    pub body: BodyDigest,
}

/// One version of an object of a metadata bucket.
#[derive(Clone, Debug)]
struct ObjectVersion {
    time: StoreSecond,
    metadata: ObjectMetadata,
    digest: String,
}

/// What a guard says, as far as an outcome depends on it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenGuard {
    lock: LockName,
    grant: u64,
    until: StoreSecond,
    overtaken_by: Option<u64>,
}

/// Which operation of a log a descriptor may belong to.
#[derive(Clone, Copy, Debug)]
struct OperationPlace {
    token: Token,
    number: usize,
    /// What is known to be its own is not older: a token's second comes from one clock, a descriptor's from another.
    oldest: StoreSecond,
}

/// All that was written to the log and its metadata buckets.
#[derive(Debug)]
pub struct LogModel {
    /// The log's parameters with the second from which each set holds, oldest first.
    sets: Vec<(StoreSecond, LogParameters)>,
    /// All entries.
    pub entries: BTreeMap<Token, LoggedEntry>,
    /// The log's floor.
    pub floor: Option<LogCursor>,
    versions: BTreeMap<String, Vec<ObjectVersion>>,
    /// The guards of entries, each with its store time.
    guards: BTreeMap<Token, (StoreSecond, WrittenGuard)>,
}

impl ObjectVersion {
    /// Whether it may belong to the operation: nothing says that it belongs to another.
    fn completes(&self, key: &str, of: &OperationPlace, op: &IntentOperation) -> bool {
        let OperationPlace { token, number, oldest } = *of;
        // A token is written out only where that matters: this is asked again for every entry at every manifest.
        let theirs = self.metadata.get("tidemarktoken").is_some_and(|named| *named != token.to_string())
            || self.metadata.get("tidemarkop").is_some_and(|named| *named != number.to_string());
        let other = op.digest.as_ref().is_some_and(|digest| *digest != self.digest);
        let is_bound =
            || self.metadata.contains_key("tidemarktoken") || op.digest.is_some() || key.contains(&token.to_string());
        !theirs && !other && (self.time >= token.second() || self.time >= oldest && is_bound())
    }
}

impl LogModel {
    /// The model of an empty log.
    pub fn new() -> Self {
        Self {
            sets: Vec::new(),
            entries: BTreeMap::new(),
            floor: None,
            versions: BTreeMap::new(),
            guards: BTreeMap::new(),
        }
    }

    /// Adds an event. Returns the tokens whose outcome it may change.
    pub fn observe(&mut self, event: &StoreEvent) -> Result<Vec<Token>, String> {
        match event.bucket.as_str() {
            LOG => self.entry(event),
            META | VMETA => self.version(event),
            _ => Ok(Vec::new()),
        }
    }

    fn entry(&mut self, event: &StoreEvent) -> Result<Vec<Token>, String> {
        if event.key.starts_with(".tidemark/root/") {
            self.root(event);
        }
        if let Some(token) = event.key.strip_prefix(GUARDS).and_then(|token| token.parse().ok()) {
            return self.guard(token, event);
        }
        let Ok(token) = event.key.parse::<Token>() else { return Ok(Vec::new()) };
        if event.change != StoreChange::Created {
            return Err(format!("entry {token} was {:?}", event.change));
        }
        let entry = LoggedEntry {
            time: StoreSecond::from_unix(event.object.stamp / 1000),
            intent: tidemark_wal::parse_payload(token, &event.object.body),
            body: BodyDigest::of(&event.object.body),
        };
        self.entries.insert(token, entry);
        Ok(vec![token])
    }

    fn guard(&mut self, token: Token, event: &StoreEvent) -> Result<Vec<Token>, String> {
        if event.change != StoreChange::Created {
            return Err(format!("the guard of {token} was {:?}", event.change));
        }
        let guard = serde_json::from_slice(&event.object.body).map_err(|error| format!("{}: {error}", event.key))?;
        self.guards.insert(token, (StoreSecond::from_unix(event.object.stamp / 1000), guard));
        Ok(vec![token])
    }

    /// The guard of the entry, under the lock and the grant that it names.
    fn guard_of(&self, token: Token, lock: &LockRef, oldest: StoreSecond) -> Option<&(StoreSecond, WrittenGuard)> {
        self.guards.get(&token).filter(|(time, guard)| {
            *time >= oldest && guard.lock == lock.name && lock.grant.is_none_or(|grant| grant == guard.grant)
        })
    }

    /// Adds the set of parameters that a record of the root chain has beyond those of the record before.
    fn root(&mut self, event: &StoreEvent) {
        let Ok(state) = record_state::<Value>(&event.object.body) else { return };
        self.floor = state
            .get("floor")
            .and_then(|floor| serde_json::from_value(floor.get("second")?.clone()).ok())
            .or(self.floor);
        let sets = state.get("parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let added =
            sets.get(self.sets.len()).and_then(|set| serde_json::from_value(set.get("parameters")?.clone()).ok());
        let Some(added) = added.filter(|_| event.change == StoreChange::Created) else { return };
        let from = self
            .sets
            .last()
            .map(|(before, old): &(StoreSecond, LogParameters)| takes_effect(event, *before, old, &added));
        self.sets.push((from.unwrap_or_default(), added));
    }

    /// The parameters in force at second `at`.
    pub fn parameters(&self, at: StoreSecond) -> Option<LogParameters> {
        let sets = self.sets.iter().rev();
        sets.clone().find(|(from, _)| *from <= at).map(|(_, set)| *set)
    }

    /// The newest set.
    pub fn newest(&self) -> Option<LogParameters> {
        self.sets.last().map(|(_, set)| *set)
    }

    fn version(&mut self, event: &StoreEvent) -> Result<Vec<Token>, String> {
        if event.key.starts_with(".tidemark/clock/") {
            return Ok(Vec::new());
        }
        let versions = self.versions.entry(event.key.clone()).or_default();
        if event.change == StoreChange::Deleted {
            return Ok(Vec::new());
        }
        let mutable = event.key.starts_with("labels/");
        if event.change == StoreChange::Replaced && !mutable {
            return Err(format!("descriptor \"{}\" was overwritten by {}", event.key, event.by));
        }
        versions.push(ObjectVersion {
            time: StoreSecond::from_unix(event.object.stamp / 1000),
            metadata: event.object.metadata.clone(),
            digest: hex::encode(Sha256::digest(&event.object.body)),
        });
        let marked =
            event.key.rsplit('/').next().and_then(|name| name.get(..Token::DIGITS)).and_then(|name| name.parse().ok());
        let named = self.naming(&event.key).into_iter().chain(marked);
        Ok(named.collect::<BTreeSet<Token>>().into_iter().collect())
    }

    /// The second at which the operation was complete; `None`: it is not. A descriptor that was deleted later counts: its
    /// deletion does not undo the update.
    fn completion(&self, of: &OperationPlace, format: PayloadFormat, op: &IntentOperation) -> Option<StoreSecond> {
        let OperationPlace { token, number, oldest } = *of;
        let key = match (&op.descriptor, op.kind, format) {
            (Some(path), OperationKind::Label, PayloadFormat::Intent) => marker(path, token, number)?,
            (Some(path), _, _) => path.clone(),
            (None, _, _) => return Some(token.second()),
        };
        let marked = key.starts_with(".tidemark/");
        let own = self
            .versions
            .get(&key)?
            .iter()
            .filter(|version| if marked { version.time >= oldest } else { version.completes(&key, of, op) });
        own.map(|version| version.time).min()
    }

    /// The path of the label that the entry moves without a marker. Its outcome depends on what else was written to the key when
    /// it was decided, since the store keeps no versions.
    pub fn moved_label(&self, token: Token) -> Option<&str> {
        let intent = self.entries.get(&token)?.intent.as_ref().ok()?;
        let moves = intent.format != PayloadFormat::Intent && intent.ops[0].kind == OperationKind::Label;
        intent.ops[0].descriptor.as_deref().filter(|_| moves)
    }

    /// The entry with a later token that may have written what the label had at `time`, and not `token`.
    pub fn later_move(&self, token: Token, time: StoreSecond) -> Option<Token> {
        let (path, parameters) = (self.moved_label(token)?, self.parameters(token.second())?);
        let mut later = self.entries.range(token..).skip(1);
        let may_write = |(token, entry): &(&Token, &LoggedEntry)| {
            token.second() <= time
                && entry.time <= time.after(parameters.clock_tolerance)
                && self.moved_label(**token) == Some(path)
        };
        later.find(may_write).map(|(token, _)| *token)
    }

    /// The outcome of an entry by the naive rule, leaving duplicates aside; unknown for a label's move without a marker.
    pub fn outcome(&self, token: Token) -> Option<Outcome> {
        let entry = self.entries.get(&token)?;
        let parameters = self.parameters(token.second())?;
        let Ok(intent) = &entry.intent else { return Some(Outcome::Malformed) };
        let bound = parameters.commit_bound() + Duration::from_secs(1);
        let audit = parameters.audit_window.max(bound);
        let late = |time: StoreSecond| time.since(token.second()) > bound;
        if entry.time.since(token.second()) > audit {
            return Some(Outcome::Expired);
        }
        if self.moved_label(token).is_some() {
            return Some(Outcome::Unknown);
        }
        let ops = intent.ops.iter().enumerate();
        let oldest = token.second().before(Duration::from_secs(parameters.clock_tolerance.as_secs()));
        let at = |number| OperationPlace { token, number, oldest };
        let guard = intent.lock.as_ref().map(|lock| self.guard_of(token, lock, oldest));
        let from = entry.time.max(token.second());
        let is_unseen = |time: StoreSecond| late(time) && time.since(from) > audit;
        let guard = match guard {
            Some(None) => return Some(Outcome::Aborted),
            Some(Some((time, WrittenGuard { overtaken_by: Some(_), .. }))) => {
                return Some(if is_unseen(*time) { Outcome::Expired } else { Outcome::Fenced });
            }
            Some(guard) => guard,
            None => None,
        };
        let times: Option<Vec<StoreSecond>> = ops.map(|(n, op)| self.completion(&at(n), intent.format, op)).collect();
        let Some(mut times) = times else { return Some(Outcome::Aborted) };
        times.extend(guard.map(|(time, _)| *time));
        let is_late = |time: StoreSecond| late(time) || guard.is_some_and(|(_, guard)| time > guard.until);
        Some(if times.iter().any(|time| is_unseen(*time)) {
            Outcome::Expired
        } else if late(entry.time) || times.iter().any(|time| is_late(*time)) {
            Outcome::Late
        } else {
            Outcome::Committed
        })
    }

    /// Whether the entry is committed by what was written so far.
    pub fn committed(&self, token: Token) -> bool {
        self.outcome(token) == Some(Outcome::Committed)
    }

    /// The outcomes of all operations below `cursor`, duplicates and conflicts included. A malformed entry is one operation.
    pub fn outcomes(&self, cursor: StoreSecond) -> BTreeMap<(Token, u32), Outcome> {
        let mut committed: BTreeMap<_, Token> = BTreeMap::new();
        let mut newest: BTreeMap<String, (StoreSecond, Token)> = BTreeMap::new();
        let mut outcomes = BTreeMap::new();
        for (token, entry) in self.entries.range(..Token::first_of(cursor)) {
            let Some(outcome) = self.outcome(*token) else { continue };
            let ops = entry.intent.as_ref().map_or(1, |intent| intent.ops.len());
            let conflicts = entry.intent.as_ref().is_ok_and(|intent| conflicts(*token, entry, intent, &newest));
            for op in 0..ops {
                let intent = entry.intent.as_ref().ok();
                let key = intent.and_then(|intent| key_of(intent, op));
                let last = key.as_ref().and_then(|key| committed.get(key));
                let outcome = match outcome {
                    Outcome::Committed if last.is_some_and(|last| self.retains_key(*last, *token)) => {
                        Outcome::Duplicate
                    }
                    Outcome::Committed if conflicts => Outcome::Conflicted,
                    outcome => outcome,
                };
                if outcome == Outcome::Committed {
                    if let Some(key) = key {
                        committed.insert(key, *token);
                    }
                    if let Some(entity) = intent.and_then(|intent| free_entity(intent, op)) {
                        let commit = (entry.time, *token);
                        let known = newest.entry(entity).or_insert(commit);
                        *known = commit.max(*known);
                    }
                }
                outcomes.insert((*token, u32::try_from(op).unwrap_or(u32::MAX)), outcome);
            }
        }
        outcomes
    }

    /// Whether the key of a committed entry counts for a later one.
    pub fn retains_key(&self, earlier: Token, later: Token) -> bool {
        let retention = self.parameters(later.second()).and_then(|parameters| parameters.idempotency_retention);
        retention.is_none_or(|retention| later.second().since(earlier.second()) <= retention)
    }

    /// Whether entries that are committed with one key, in the order of the log, are one at least, and none for which the one before counts.
    pub fn count_once(&self, committed: &BTreeSet<Token>) -> bool {
        let mut pairs = committed.iter().zip(committed.iter().skip(1));
        !committed.is_empty() && pairs.all(|(one, next)| !self.retains_key(*one, *next))
    }

    /// Entries that name the descriptor.
    pub fn naming(&self, path: &str) -> Vec<Token> {
        let named = |entry: &LoggedEntry| {
            entry.intent.iter().flat_map(|intent| &intent.ops).any(|op| op.descriptor.as_deref() == Some(path))
        };
        self.entries.iter().filter(|(_, entry)| named(entry)).map(|(token, _)| *token).collect()
    }

    /// All operations with the writer and the key of this one, itself included.
    pub fn same_key(&self, (token, op): (Token, u32)) -> Vec<(Token, u32)> {
        let key_at = |intent: &EntryIntent, op: u32| key_of(intent, usize::try_from(op).unwrap_or(usize::MAX));
        let intent_of = |token: &Token| self.entries.get(token)?.intent.as_ref().ok();
        let Some(key) = intent_of(&token).and_then(|intent| key_at(intent, op)) else { return Vec::new() };
        let mut same = Vec::new();
        for token in self.entries.keys() {
            let Some(intent) = intent_of(token) else { continue };
            let ops = u32::try_from(intent.ops.len()).unwrap_or(u32::MAX);
            same.extend((0..ops).filter(|op| key_at(intent, *op).as_ref() == Some(&key)).map(|op| (*token, op)));
        }
        same
    }

    /// How many entries of this writer with this key are committed by what was written so far.
    pub fn times_committed(&self, writer: &str, key: &str) -> usize {
        let ours = |intent: &EntryIntent| {
            (0..intent.ops.len()).any(|op| key_of(intent, op) == Some((writer.to_owned(), key.to_owned(), 0)))
        };
        let entries = self.entries.iter().filter(|(_, entry)| entry.intent.as_ref().is_ok_and(ours));
        entries.filter(|(token, _)| self.committed(**token)).count()
    }
}

impl Default for LogModel {
    fn default() -> Self {
        Self::new()
    }
}

/// Writer and idempotency key of an operation, and its number where the key is that of its group.
fn key_of(intent: &EntryIntent, op: usize) -> Option<(String, String, usize)> {
    let writer = intent.writer.clone().unwrap_or_default();
    match &intent.ops.get(op)?.idempotency_key {
        Some(own) => Some((writer, own.clone(), 0)),
        None => Some((writer, intent.idempotency_key.clone()?, op)),
    }
}

/// The entity that an operation without a descriptor names.
fn free_entity(intent: &EntryIntent, op: usize) -> Option<String> {
    let op = intent.ops.get(op).filter(|op| op.descriptor.is_none())?;
    let name = op.attributes.get("entity").or_else(|| intent.attributes.get("entity"))?;
    Some(format!("entry/{}", name.as_str()?))
}

/// Whether what the entry expects of an entity does not hold. Of a simulated log only entries without descriptors expect something.
fn conflicts(
    token: Token,
    entry: &LoggedEntry,
    intent: &EntryIntent,
    newest: &BTreeMap<String, (StoreSecond, Token)>,
) -> bool {
    let Some(expect) = &intent.expect else { return false };
    let found = newest.get(&expect.entity);
    let is_own = (0..intent.ops.len()).any(|op| free_entity(intent, op).as_ref() == Some(&expect.entity));
    expect.token != found.map(|(_, token)| *token) || is_own && found.is_some_and(|found| *found > (entry.time, token))
}

/// The completion marker of a label's operation.
fn marker(path: &str, token: Token, number: usize) -> Option<String> {
    let mut parts = path.split('/').skip(1);
    let (repo, label) = (parts.next()?, parts.next()?);
    Some(format!(".tidemark/done/{repo}/{label}/{token}-{number}"))
}

/// A change takes effect five minutes and `V` after it was recorded.
fn takes_effect(event: &StoreEvent, before: StoreSecond, old: &LogParameters, new: &LogParameters) -> StoreSecond {
    let recorded = StoreSecond::from_unix(event.object.stamp / 1000);
    let visible = old.visibility_delay.max(new.visibility_delay);
    recorded.after(Duration::from_mins(5)).after(visible).max(before.next())
}
