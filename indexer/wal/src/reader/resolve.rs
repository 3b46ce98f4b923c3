//! Finding what an entry names, and saying how it is known to be that.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use sha2::{Digest as _, Sha256};

use super::{Reader, Resolved, ResolvedOp};
use crate::{
    Decision, Descriptor, Evidence, Form, Intent, Malformed, Operation, Outcome, Parameters, Place, Sighting, Token,
    judge, marker_key, outcome, parse, place, read_descriptor,
};
use tidemark_store::{Object, Second, Store, StoreError};

/// The user metadata that binds a descriptor to its operation.
pub(crate) const TOKEN_FIELD: &str = "tidemarktoken";
pub(crate) const OP_FIELD: &str = "tidemarkop";
/// How many descriptors of one entry are read at once.
const SIDE_BY_SIDE: usize = 8;

/// What was found for one operation.
#[derive(Default)]
struct Found {
    sighting: Option<Sighting>,
    /// The store's clock in the answer that showed it, where it said.
    answered: Option<Second>,
    descriptor: Option<Result<Descriptor, Malformed>>,
}

/// The operation that a descriptor is wanted for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    token: Token,
    op: u32,
    operation: &'a Operation,
    place: &'a Place,
    /// The last second in which it completes in time.
    last: Second,
}

impl Reader {
    pub(super) fn oversized(&self, token: Token, entry_time: Second, size: u64) -> Resolved {
        let reason = format!("{size} bytes, more than the limit of {} bytes; not read", self.limits.entry);
        malformed(token, entry_time, size, Bytes::new(), Malformed { reason })
    }

    pub(super) async fn resolve(
        &self,
        token: Token,
        entry: Object,
        parameters: &Parameters,
    ) -> Result<Resolved, StoreError> {
        let (entry_time, body) = (entry.info.time, entry.body.unwrap_or_default());
        let size = body.len() as u64;
        let intent = match parse(token, &body) {
            Ok(intent) => intent,
            Err(reason) => return Ok(malformed(token, entry_time, size, body, reason)),
        };
        let (ops, answered) = self.resolve_ops(token, entry_time, &intent, parameters).await?;
        let answered = latest([entry.answered].into_iter().chain(answered));
        Ok(Resolved { token, entry_time, size, body, intent: Ok(intent), answered, ops })
    }

    async fn resolve_ops(
        &self,
        token: Token,
        entry_time: Second,
        intent: &Intent,
        parameters: &Parameters,
    ) -> Result<(Vec<ResolvedOp>, Vec<Option<Second>>), StoreError> {
        let last = outcome::last_in_time(parameters, token);
        let places: Vec<Place> = intent.ops.iter().map(place_of).collect();
        // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move
        // between threads.
        let finds: Vec<BoxFuture<'_, Result<Found, StoreError>>> = (0..)
            .zip(intent.ops.iter().zip(&places))
            .map(|(op, (operation, place))| {
                let wanted = Wanted { token, op, operation, place, last };
                self.find(intent.form, wanted).boxed()
            })
            .collect();
        let found: Vec<Found> = stream::iter(finds).buffered(SIDE_BY_SIDE).try_collect().await?;
        let named =
            |(operation, found): (&Operation, &Found)| operation.descriptor.as_ref().map(|_| found.sighting.clone());
        let seen: Vec<Option<Sighting>> = intent.ops.iter().zip(&found).filter_map(named).collect();
        let group = judge(parameters, token, entry_time, seen.len(), &seen);
        let answered = found.iter().filter(|found| found.sighting.is_some()).map(|found| found.answered).collect();
        let parts = intent.ops.iter().zip(places).zip(found);
        let ops = parts.map(|((operation, place), found)| part(&group, operation, place, found));
        Ok((ops.collect(), answered))
    }

    /// Looks for the descriptor where it is likely, then in the other stores; one that counts ends the search.
    async fn find(&self, form: Form, wanted: Wanted<'_>) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let Some(path) = &wanted.operation.descriptor else {
            return Ok(found);
        };
        let marker = marker_of(form, &wanted);
        let key = marker.as_ref().unwrap_or(path);
        for store in self.likely(wanted.place) {
            let object = match store.get(key, self.limits.descriptor).await {
                // A key that the store cannot have is absent, whatever strangers write.
                Err(StoreError::BadKey { .. }) => None,
                other => other?,
            };
            let Some(object) = object else {
                continue;
            };
            let seen = sight(&wanted, marker.is_some(), key, &object);
            let counts = seen.evidence.is_some() && seen.time >= wanted.token.second();
            if counts || found.sighting.is_none() {
                found.descriptor = counts.then(|| read(&wanted, &seen, object.body.as_ref())).flatten();
                found.sighting = Some(seen);
                found.answered = object.answered;
            }
            if counts {
                break;
            }
        }
        Ok(found)
    }

    /// The metadata stores, the likely one first. A store is asked once.
    fn likely(&self, place: &Place) -> Vec<&Store> {
        let mut stores: Vec<&Store> = self.log.metadata.iter().collect();
        if place.is_mutable() {
            stores.reverse();
        }
        stores.dedup_by(|one, other| one.is_same(other));
        stores
    }
}

/// A label of a JSON intent completes by a marker, since its own key is overwritten.
fn marker_of(form: Form, wanted: &Wanted<'_>) -> Option<String> {
    match wanted.place {
        Place::Label { repo, label } if form == Form::Intent => Some(marker_key(repo, label, wanted.token, wanted.op)),
        _ => None,
    }
}

fn place_of(operation: &Operation) -> Place {
    let named = operation.descriptor.as_deref().map(place);
    named.and_then(Result::ok).unwrap_or(Place::Other)
}

fn sight(wanted: &Wanted<'_>, marker: bool, key: &str, object: &Object) -> Sighting {
    let digest = object.body.as_ref().map(digest_of);
    let evidence = match digest.as_deref() {
        _ if marker => Some(Evidence::Bound),
        digest if wanted.place.is_mutable() => Some(on_mutable(wanted, digest, object)),
        digest => on_immutable(wanted, digest, object),
    };
    Sighting { key: key.to_owned(), time: object.info.time, digest: digest.unwrap_or_default(), evidence }
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn digest_of(body: &Bytes) -> String {
    hex::encode(Sha256::digest(body))
}

/// Whether the object's metadata names this operation; `None` where it names none.
fn names_us(wanted: &Wanted<'_>, object: &Object) -> Option<bool> {
    let token = object.metadata.get(TOKEN_FIELD)?;
    let op = object.metadata.get(OP_FIELD);
    Some(*token == wanted.token.to_string() && op.is_none_or(|op| *op == wanted.op.to_string()))
}

/// A descriptor is written once: whatever says that it is another operation's is right.
fn on_immutable(wanted: &Wanted<'_>, digest: Option<&str>, object: &Object) -> Option<Evidence> {
    let named = names_us(wanted, object);
    let fits = wanted.operation.digest.as_deref().map(|named| digest == Some(named));
    if named == Some(false) || fits == Some(false) {
        return None;
    }
    let by_key = object.info.key.contains(&wanted.token.to_string());
    let bound = named == Some(true) || fits == Some(true) || by_key;
    Some(if bound { Evidence::Bound } else { Evidence::Timed })
}

/// A value that others overwrite: what is another operation's now may have been ours before.
fn on_mutable(wanted: &Wanted<'_>, digest: Option<&str>, object: &Object) -> Evidence {
    let named = names_us(wanted, object);
    let fits = wanted.operation.digest.as_deref().map(|named| digest == Some(named));
    let overwritten = object.info.time > wanted.last || named == Some(false) || fits == Some(false);
    match (named == Some(true) || fits == Some(true), overwritten) {
        (true, false) => Evidence::Bound,
        (false, false) => Evidence::Timed,
        (_, true) => Evidence::Inferred,
    }
}

/// What an overwritten value says is another operation's.
fn read(wanted: &Wanted<'_>, seen: &Sighting, body: Option<&Bytes>) -> Option<Result<Descriptor, Malformed>> {
    if seen.evidence == Some(Evidence::Inferred) {
        return None;
    }
    Some(match body {
        Some(body) => read_descriptor(wanted.place, body),
        None => Err(Malformed { reason: "the descriptor is over the size limit; not read".to_owned() }),
    })
}

/// One operation's part of what was decided for the group.
fn part(group: &Decision, operation: &Operation, place: Place, found: Found) -> ResolvedOp {
    let own = found.sighting.as_ref().and_then(|sighting| sighting.evidence);
    let (descriptor, unreadable) = match found.descriptor {
        Some(Ok(descriptor)) => (Some(descriptor), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    ResolvedOp {
        operation: operation.clone(),
        place,
        decision: Decision {
            evidence: group.completed.and(own),
            sightings: found.sighting.into_iter().collect(),
            ..group.clone()
        },
        descriptor,
        unreadable,
    }
}

/// The latest of the times, if all are there.
fn latest(times: impl Iterator<Item = Option<Second>>) -> Option<Second> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn malformed(token: Token, entry_time: Second, size: u64, body: Bytes, reason: Malformed) -> Resolved {
    let decision =
        Decision { outcome: Outcome::Malformed, evidence: None, entry_time, completed: None, sightings: Vec::new() };
    Resolved {
        token,
        entry_time,
        size,
        body,
        intent: Err(reason),
        answered: None,
        ops: vec![ResolvedOp {
            operation: Operation::malformed(),
            place: Place::Other,
            decision,
            descriptor: None,
            unreadable: None,
        }],
    }
}
