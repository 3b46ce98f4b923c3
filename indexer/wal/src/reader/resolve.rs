//! Finding the descriptors that an entry names, and the evidence that they belong to it.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use sha2::{Digest as _, Sha256};

use super::log_reader::{LogReader, ReadObject, ResolvedEntry, ResolvedOperation};
use crate::{
    datamon::{DatamonDescriptor, DatamonPath, parse_datamon_path, read_descriptor},
    malformed::MalformedInput,
    marker::marker_key,
    outcome::{Evidence, Observation, Outcome, OutcomeDecision, decide_outcome, is_in_time_for, last_in_time},
    parameters::LogParameters,
    payload::{EntryIntent, IntentOperation, PayloadFormat, parse_payload},
    token::Token,
};
use tidemark_store::{ObjectInfo, Store, StoreError, StoreSecond, StoredObject, UserMetadata};

/// The user metadata that binds a descriptor to its operation.
pub(crate) const TOKEN_FIELD: &str = "tidemarktoken";
pub(crate) const OP_FIELD: &str = "tidemarkop";
/// How many descriptors of one entry are read at once.
const MAX_CONCURRENT_GETS: usize = 8;

/// What was found for one operation.
#[derive(Default)]
struct DescriptorLookup {
    observation: Option<Observation>,
    /// The store's clock in the answer that showed it, where it said.
    answered: Option<StoreSecond>,
    descriptor: Option<Result<DatamonDescriptor, MalformedInput>>,
}

/// The operation that a descriptor is wanted for.
#[derive(Clone, Copy)]
struct DescriptorQuery<'a> {
    token: Token,
    op: u32,
    operation: &'a IntentOperation,
    path: &'a DatamonPath,
    /// The last second in which it completes in time.
    last: StoreSecond,
}

impl LogReader {
    pub(super) fn oversized(&self, token: Token, entry_time: StoreSecond, size: u64) -> ResolvedEntry {
        let reason = format!("{size} bytes, more than the limit of {} bytes; not read", self.limits.entry);
        malformed(token, entry_time, size, Bytes::new(), MalformedInput { reason })
    }

    pub(super) async fn resolve(
        &self,
        token: Token,
        entry: StoredObject,
        parameters: &LogParameters,
    ) -> Result<ResolvedEntry, StoreError> {
        let (entry_time, body) = (entry.info.time, entry.body.unwrap_or_default());
        let size = body.len() as u64;
        let intent = match parse_payload(token, &body) {
            Ok(intent) => intent,
            Err(reason) => return Ok(malformed(token, entry_time, size, body, reason)),
        };
        let (ops, answered) = self.resolve_ops(token, entry_time, &intent, parameters).await?;
        let answered = latest([entry.answered].into_iter().chain(answered));
        Ok(ResolvedEntry { token, entry_time, size, body, intent: Ok(intent), answered, ops })
    }

    async fn resolve_ops(
        &self,
        token: Token,
        entry_time: StoreSecond,
        intent: &EntryIntent,
        parameters: &LogParameters,
    ) -> Result<(Vec<ResolvedOperation>, Vec<Option<StoreSecond>>), StoreError> {
        let last = last_in_time(parameters, token);
        let paths: Vec<DatamonPath> = intent.ops.iter().map(path_of).collect();
        // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move
        // between threads.
        let finds: Vec<BoxFuture<'_, Result<DescriptorLookup, StoreError>>> = (0..)
            .zip(intent.ops.iter().zip(&paths))
            .map(|(op, (operation, path))| {
                let wanted = DescriptorQuery { token, op, operation, path, last };
                self.find(intent.format, wanted).boxed()
            })
            .collect();
        let found: Vec<DescriptorLookup> = stream::iter(finds).buffered(MAX_CONCURRENT_GETS).try_collect().await?;
        let named = |(operation, found): (&IntentOperation, &DescriptorLookup)| {
            operation.descriptor.as_ref().map(|_| found.observation.clone())
        };
        let seen: Vec<Option<Observation>> = intent.ops.iter().zip(&found).filter_map(named).collect();
        let group = decide_outcome(parameters, token, entry_time, seen.len(), &seen);
        let answered = found.iter().filter(|found| found.observation.is_some()).map(|found| found.answered).collect();
        let parts = intent.ops.iter().zip(paths).zip(found);
        let ops = parts.map(|((operation, path), found)| resolved_operation(&group, operation, path, found));
        Ok((ops.collect(), answered))
    }

    /// Looks for the descriptor where it is likely, then in the other stores; one that counts ends the search.
    async fn find(&self, format: PayloadFormat, wanted: DescriptorQuery<'_>) -> Result<DescriptorLookup, StoreError> {
        let mut found = DescriptorLookup::default();
        let Some(path) = &wanted.operation.descriptor else {
            return Ok(found);
        };
        let marker = marker_of(format, &wanted);
        let key = marker.as_ref().unwrap_or(path);
        for store in self.likely(wanted.path) {
            let (object, refused) = match self.read(store, key, self.limits.descriptor).await? {
                ReadObject::Absent => continue,
                ReadObject::Read(object) => (object, None),
                // Existence decides, so that it counts by its attributes.
                ReadObject::Refused { info, why } => {
                    (StoredObject { info, metadata: UserMetadata::new(), body: None, answered: None }, Some(why))
                }
            };
            let seen = observe(&wanted, marker.is_some(), key, &object);
            let counts = seen.evidence.is_some() && is_in_time_for(wanted.token.second(), &seen);
            if counts || found.observation.is_none() {
                found.descriptor = match refused {
                    Some(why) => counts.then_some(Err(why)),
                    None => counts.then(|| read_content(&wanted, &seen, object.body.as_ref())).flatten(),
                };
                found.observation = Some(seen);
                found.answered = object.answered;
            }
            if counts {
                break;
            }
        }
        Ok(found)
    }

    /// The metadata stores, the likely one first. A store is asked once.
    fn likely(&self, path: &DatamonPath) -> Vec<&Store> {
        let mut stores: Vec<&Store> = self.log.metadata.iter().collect();
        if path.is_mutable() {
            stores.reverse();
        }
        stores.dedup_by(|one, other| one.is_same(other));
        stores
    }
}

/// A label of a JSON intent completes by a marker, since its own key is overwritten.
fn marker_of(format: PayloadFormat, wanted: &DescriptorQuery<'_>) -> Option<String> {
    match wanted.path {
        DatamonPath::Label { repo, label } if format == PayloadFormat::Intent => {
            Some(marker_key(repo, label, wanted.token, wanted.op))
        }
        _ => None,
    }
}

fn path_of(operation: &IntentOperation) -> DatamonPath {
    let named = operation.descriptor.as_deref().map(parse_datamon_path);
    named.and_then(Result::ok).unwrap_or(DatamonPath::Other)
}

fn observe(wanted: &DescriptorQuery<'_>, marker: bool, key: &str, object: &StoredObject) -> Observation {
    let digest = object.body.as_ref().map(digest_of);
    let evidence = match digest.as_deref() {
        _ if marker => Some(Evidence::Bound),
        digest if wanted.path.is_mutable() => Some(on_mutable(wanted, digest, object)),
        digest => on_immutable(wanted, digest, object),
    };
    Observation { key: key.to_owned(), time: object.info.time, digest: digest.unwrap_or_default(), evidence }
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn digest_of(body: &Bytes) -> String {
    hex::encode(Sha256::digest(body))
}

/// Whether the object's metadata names this operation; `None` where it names none.
fn names_us(wanted: &DescriptorQuery<'_>, object: &StoredObject) -> Option<bool> {
    let token = object.metadata.get(TOKEN_FIELD)?;
    let op = object.metadata.get(OP_FIELD);
    Some(*token == wanted.token.to_string() && op.is_none_or(|op| *op == wanted.op.to_string()))
}

/// Whether the body is the one whose digest the intent names; `None` where it names none, or the body was not read.
fn fits(wanted: &DescriptorQuery<'_>, digest: Option<&str>) -> Option<bool> {
    Some(wanted.operation.digest.as_deref()? == digest?)
}

/// A descriptor is written once: any sign that it belongs to another operation is right.
fn on_immutable(wanted: &DescriptorQuery<'_>, digest: Option<&str>, object: &StoredObject) -> Option<Evidence> {
    let named = names_us(wanted, object);
    let fits = fits(wanted, digest);
    if named == Some(false) || fits == Some(false) {
        return None;
    }
    let by_key = object.info.key.contains(&wanted.token.to_string());
    let bound = named == Some(true) || fits == Some(true) || by_key;
    Some(if bound { Evidence::Bound } else { Evidence::Timed })
}

/// A value that others overwrite: what is another operation's now may have been ours before.
fn on_mutable(wanted: &DescriptorQuery<'_>, digest: Option<&str>, object: &StoredObject) -> Evidence {
    let named = names_us(wanted, object);
    let fits = fits(wanted, digest);
    let overwritten = object.info.time > wanted.last || named == Some(false) || fits == Some(false);
    match (named == Some(true) || fits == Some(true), overwritten) {
        (true, false) => Evidence::Bound,
        (false, false) => Evidence::Timed,
        (_, true) => Evidence::Inferred,
    }
}

/// What an overwritten value says is another operation's.
fn read_content(
    wanted: &DescriptorQuery<'_>,
    seen: &Observation,
    body: Option<&Bytes>,
) -> Option<Result<DatamonDescriptor, MalformedInput>> {
    if seen.evidence == Some(Evidence::Inferred) {
        return None;
    }
    Some(match body {
        Some(body) => read_descriptor(wanted.path, body),
        None => Err(MalformedInput { reason: "the descriptor is over the size limit; not read".to_owned() }),
    })
}

/// One operation's part of what was decided for the group.
fn resolved_operation(
    group: &OutcomeDecision,
    operation: &IntentOperation,
    path: DatamonPath,
    found: DescriptorLookup,
) -> ResolvedOperation {
    let own = found.observation.as_ref().and_then(|observation| observation.evidence);
    let (descriptor, unreadable) = match found.descriptor {
        Some(Ok(descriptor)) => (Some(descriptor), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    ResolvedOperation {
        operation: operation.clone(),
        path,
        decision: OutcomeDecision {
            evidence: group.completed.and(own),
            observations: found.observation.into_iter().collect(),
            ..group.clone()
        },
        descriptor,
        unreadable,
    }
}

/// The latest of the times, if all are there.
fn latest(times: impl Iterator<Item = Option<StoreSecond>>) -> Option<StoreSecond> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn malformed(token: Token, entry_time: StoreSecond, size: u64, body: Bytes, reason: MalformedInput) -> ResolvedEntry {
    without_intent(Outcome::Malformed, token, entry_time, size, body, reason)
}

/// An entry that the store refuses to give.
pub(super) fn unreadable(token: Token, info: &ObjectInfo, why: MalformedInput) -> ResolvedEntry {
    without_intent(Outcome::Unreadable, token, info.time, info.size, Bytes::new(), why)
}

fn without_intent(
    outcome: Outcome,
    token: Token,
    entry_time: StoreSecond,
    size: u64,
    body: Bytes,
    reason: MalformedInput,
) -> ResolvedEntry {
    let decision = OutcomeDecision { outcome, evidence: None, entry_time, completed: None, observations: Vec::new() };
    ResolvedEntry {
        token,
        entry_time,
        size,
        body,
        intent: Err(reason),
        answered: None,
        ops: vec![ResolvedOperation {
            operation: IntentOperation::malformed(),
            path: DatamonPath::Other,
            decision,
            descriptor: None,
            unreadable: None,
        }],
    }
}
