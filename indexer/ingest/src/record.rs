//! One operation of an entry with its outcome: what a segment stores and what a search returns.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tidemark_catalog::{BodyDigest, SetElement};
use tidemark_store::StoreSecond;
use tidemark_wal::{
    ClientTime, Contributor, DatamonDescriptor, DatamonPath, EntryIntent, FileNames, GuardObservation, IntentOperation,
    MalformedInput, MemoryShare, Observation, OperationKind, Outcome, OutcomeDecision, ResolvedEntry,
    ResolvedOperation, Token, entity_key, parse_datamon_path, parse_payload, read_descriptor, text_bytes, value_bytes,
};

use crate::{
    entity_name::chosen_entity,
    expectation::RecordedExpectation,
    record_bytes::{EntryBody, ObjectBytes},
};

/// How many bytes of a malformed body are kept as searchable text.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// What an entry says of all its operations is repeated in each of their records up to this many bytes in all; where it
/// would be more, only the first record has it.
const MAX_REPEATED_BYTES: usize = 1 << 20;
/// The most that a record takes in memory besides the values and texts that it copies: itself, its names and the frame of
/// its payload. (Measured: 1.5 KiB for an operation without attributes.)
const FRAME_BYTES: u64 = size_of::<OperationRecord>() as u64 + 1536;

/// One operation with its outcome, or the correction of one.
///
/// Its JSON is what a document stores, so the names are persisted: a field may be added, none may change its meaning. The JSON
/// leaves out what follows from the bytes that it holds; reading it parses them again.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct OperationRecord {
    /// The dense number that publishing gave it; 0 before.
    pub seq: u64,
    /// The entry.
    pub token: Token,
    /// The operation's place within its entry, from 0.
    pub op: u32,
    /// What the operation is about.
    pub kind: OperationKind,
    /// The outcome and what it rests on.
    pub decision: OutcomeDecision,
    /// The key whose history this operation belongs to, as in `label/{repo}/{label}`.
    #[serde(default)]
    pub entity: Option<String>,
    /// Repository.
    #[serde(default)]
    pub repo: Option<String>,
    /// Bundle id; for a label the bundle that it points to.
    #[serde(default)]
    pub bundle: Option<String>,
    /// Label name.
    #[serde(default)]
    pub label: Option<String>,
    /// Context name.
    #[serde(default)]
    pub context: Option<String>,
    /// Diamond id.
    #[serde(default)]
    pub diamond: Option<String>,
    /// Split id.
    #[serde(default)]
    pub split: Option<String>,
    /// The descriptor's path, as the entry names it.
    #[serde(default)]
    pub path: Option<String>,
    /// The descriptor's message, else its description.
    #[serde(default)]
    pub message: Option<String>,
    /// Who made it, as the descriptor says.
    #[serde(default)]
    pub contributors: Vec<Contributor>,
    /// The client's own time stamp, as the descriptor says. Decides nothing.
    #[serde(default)]
    pub client_time: Option<ClientTime>,
    /// Size of the entry in bytes.
    pub size: u64,
    /// The entry's body as it was judged: the bytes in the record of its first operation, their digest in the others.
    #[serde(default)]
    pub body: EntryBody,
    /// The descriptor's bytes as they were judged. None where there is no descriptor of this operation, and where it is too large:
    /// then its observation has the digest.
    #[serde(default)]
    pub descriptor_body: Option<ObjectBytes>,
    /// The files of a bundle, where the index has the names of files.
    #[serde(default)]
    pub files: Option<FileNames>,
    /// The descriptor's `leafSize`.
    #[serde(default)]
    pub leaf_size: Option<u64>,
    /// The descriptor's `count`.
    #[serde(default)]
    pub count: Option<u64>,
    /// The writer that the intent names.
    #[serde(default)]
    pub writer: Option<String>,
    /// The idempotency key that the intent names.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// What the intent expects of an entity, and what was in the way of a conflicted operation.
    #[serde(default)]
    pub expectation: Option<RecordedExpectation>,
    /// Why the entry is malformed, its descriptor is not read, or the outcome claims nothing.
    #[serde(default)]
    pub reason: Option<String>,
    /// The operation's share of the entry's payload: what the entry says of all its operations, and in `ops` this one
    /// alone. The whole payload where there is one operation; null when malformed. Not stored beside the entry's body.
    #[serde(default)]
    pub payload: Value,
    /// The descriptor; null when there is none. Not stored beside its bytes.
    #[serde(default)]
    pub descriptor: Value,
    /// The body of a malformed entry as text: lossy, and cut at 64 KiB. Not stored beside the entry's body.
    #[serde(default)]
    pub text: Option<String>,
    /// Whether its entry was judged without being read before: an archive that was past its second by the time it was read lacks it. Every
    /// copy of the record says so, also where the one that it corrected stays behind.
    #[serde(default)]
    pub was_unreadable: bool,
}

impl OperationRecord {
    /// The records of a resolved entry, by op; their seqs are 0. A malformed entry gives exactly one.
    pub fn from_resolved(resolved: ResolvedEntry) -> Vec<Self> {
        let ResolvedEntry { token, size, body, intent, ops, .. } = resolved;
        let repeated = intent.as_ref().is_ok_and(may_repeat);
        let records = ops.into_iter().enumerate().map(|(number, op)| {
            let mut record = Self::of_op(token, size, op, u32::try_from(number).unwrap_or(u32::MAX));
            match &intent {
                Ok(intent) => record.set_intent(intent, number, repeated || number == 0),
                Err(malformed) => record.set_malformed(malformed, body.as_deref()),
            }
            record
        });
        let mut records: Vec<_> = records.collect();
        let body = body.map_or(EntryBody::Unread, EntryBody::of);
        if let [_, further @ ..] = &mut records[..]
            && !further.is_empty()
        {
            let digest = body.to_digest();
            for record in further {
                record.body.clone_from(&digest);
            }
        }
        if let Some(first) = records.first_mut() {
            first.body = body;
        }
        set_payloads(&mut records, intent, repeated);
        records
    }

    /// As [`OperationRecord::from_resolved`], charged to `memory` before the records are made. Only they are charged
    /// afterwards.
    pub async fn charged(resolved: ResolvedEntry, memory: &MemoryShare) -> Vec<Self> {
        memory.charge(records_bytes(&resolved)).await;
        let records = Self::from_resolved(resolved);
        memory.shrink_to(records.iter().map(Self::memory_bytes).sum());
        records
    }

    /// What the record takes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let Self { entity, repo, bundle, label, context, diamond, split, path, .. } = self;
        let Self { message, writer, idempotency_key, reason, text, .. } = self;
        let texts = [
            entity,
            repo,
            bundle,
            label,
            context,
            diamond,
            split,
            path,
            message,
            writer,
            idempotency_key,
            reason,
            text,
        ];
        let texts: u64 = texts.into_iter().flatten().map(text_bytes).sum();
        let contributors = self.contributors.iter().map(|one| 64 + text_bytes(&one.name) + text_bytes(&one.email));
        let observations = self.decision.observations.iter();
        let observations = observations.map(|seen| 96 + text_bytes(&seen.key) + text_bytes(&seen.digest));
        let values = value_bytes(&self.payload) + value_bytes(&self.descriptor);
        let bytes = self.body.memory_bytes() + self.descriptor_body.as_ref().map_or(0, |body| body.0.len() as u64);
        let files = self.files.as_ref().map_or(0, FileNames::memory_bytes);
        let files = files + self.expectation.as_ref().map_or(0, RecordedExpectation::memory_bytes);
        size_of::<Self>() as u64 + texts + values + bytes + files + contributors.chain(observations).sum::<u64>()
    }

    /// What a set digest says of the record.
    pub fn set_element(&self) -> SetElement {
        let OutcomeDecision { outcome, evidence, .. } = self.decision;
        SetElement { token: self.token, op: self.op, outcome, evidence, body: self.body.digest() }
    }

    /// Whether the operation is committed.
    pub fn is_committed(&self) -> bool {
        self.decision.outcome == Outcome::Committed
    }

    /// The entity with this operation's claim to be its newest; none unless it is committed.
    pub fn entity_commit(&self) -> Option<(&str, LatestCommit)> {
        let current = LatestCommit {
            completed: self.decision.completed.unwrap_or(self.decision.entry_time),
            token: self.token,
            op: self.op,
            seq: self.seq,
        };
        self.is_committed().then_some((self.entity.as_deref()?, current))
    }

    /// The idempotency key with its writer; none when the intent names no key.
    pub fn writer_key(&self) -> Option<WriterKey> {
        Some(WriterKey { writer: self.writer.clone().unwrap_or_default(), key: self.idempotency_key.clone()? })
    }

    /// The operation with its idempotency key; none when the intent names no key.
    pub fn keyed(&self) -> Option<KeyedOperation> {
        Some(KeyedOperation { place: (self.token, self.op), key: self.writer_key()? })
    }

    fn of_op(token: Token, size: u64, op: ResolvedOperation, number: u32) -> Self {
        let ResolvedOperation { operation, path, decision, descriptor, descriptor_body, files, unreadable } = op;
        let reason = unreadable.map(|why| format!("the descriptor cannot be read: {why}"));
        let reason = reason.or_else(|| what_is_missing(&operation, &decision));
        let entity = entity_key(&path);
        let named = named_bundle(&path, &operation, descriptor.as_ref());
        let names = DescriptorNames::of(path);
        let descriptor = descriptor.unwrap_or_default();
        Self {
            seq: 0,
            token,
            op: number,
            kind: operation.kind,
            decision,
            entity,
            bundle: names.bundle.or(named),
            repo: names.repo,
            label: names.label,
            context: names.context,
            diamond: names.diamond,
            split: names.split,
            path: operation.descriptor,
            message: descriptor.message.or(descriptor.description),
            contributors: descriptor.contributors,
            client_time: descriptor.timestamp,
            size,
            body: EntryBody::Unread,
            descriptor_body: descriptor_body.map(ObjectBytes),
            files,
            leaf_size: descriptor.leaf_size,
            count: descriptor.count,
            writer: None,
            idempotency_key: None,
            expectation: None,
            reason,
            payload: Value::Null,
            descriptor: descriptor.raw,
            text: None,
            was_unreadable: false,
        }
    }

    /// Copies what the intent says of operation `number`, and if `common`, what it says of all of them; but for the payload.
    fn set_intent(&mut self, intent: &EntryIntent, number: usize, common: bool) {
        self.writer.clone_from(&intent.writer);
        self.idempotency_key = intent.key_of(number);
        self.expectation = intent.expect.as_ref().map(RecordedExpectation::of);
        let is_unguarded = intent.lock.is_some() && self.decision.guard.is_none();
        if is_unguarded && self.decision.outcome == Outcome::Aborted {
            self.reason.get_or_insert_with(|| "its guard was missing when the outcome was decided".to_owned());
        }
        let own = intent.ops.get(number).map(|op| &op.attributes);
        let attribute = |name: &str| {
            let found = own.and_then(|own| own.get(name)).or_else(|| intent.attributes.get(name));
            found?.as_str()
        };
        if self.entity.is_none() {
            self.entity = chosen_entity(intent, number);
        }
        if self.message.is_none() {
            let own = own.is_some_and(|own| own.contains_key("message"));
            self.message = attribute("message").filter(|_| own || common).map(ToOwned::to_owned);
        }
    }

    fn set_malformed(&mut self, why: &MalformedInput, body: Option<&[u8]>) {
        self.reason = Some(why.to_string());
        self.text = body.and_then(readable);
    }

    /// Derives what is not stored from the bytes that are: payload and text from the entry's, the descriptor and its digest from
    /// the descriptor's.
    pub fn parse_bytes(&mut self) {
        if let Some(body) = self.body.bytes() {
            match parse_payload(self.token, body) {
                // The first operation, as all that have the bytes.
                Ok(intent) if intent.ops.len() > 1 => self.payload = payload_share(&intent, 0, true),
                Ok(intent) => self.payload = intent.raw,
                Err(_) => self.text = readable(body),
            }
        }
        if let Some(ObjectBytes(body)) = &self.descriptor_body {
            let path = self.path.as_deref().and_then(|path| parse_datamon_path(path).ok());
            let read = read_descriptor(&path.unwrap_or(DatamonPath::Other), body);
            self.descriptor = read.map(|descriptor| descriptor.raw).unwrap_or_default();
            let digest = BodyDigest::of(body).to_string();
            self.decision.observations.iter_mut().for_each(|observation| observation.digest.clone_from(&digest));
        }
    }
}

impl Serialize for OperationRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        StoredRecord::of(self).serialize(serializer)
    }
}

/// A record without what [`OperationRecord::parse_bytes`] derives.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredRecord<'a> {
    seq: u64,
    token: Token,
    op: u32,
    kind: OperationKind,
    decision: Cow<'a, OutcomeDecision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repo: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diamond: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    contributors: &'a [Contributor],
    #[serde(skip_serializing_if = "Option::is_none")]
    client_time: Option<ClientTime>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a EntryBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor_body: Option<&'a ObjectBytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a FileNames>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaf_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectation: Option<&'a RecordedExpectation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    was_unreadable: bool,
}

impl<'a> StoredRecord<'a> {
    fn of(record: &'a OperationRecord) -> Self {
        // By name, so that no field is forgotten.
        let OperationRecord { seq, token, op, kind, decision, entity, repo, bundle, label, context, .. } = record;
        let OperationRecord { diamond, split, path, message, contributors, client_time, size, body, .. } = record;
        let OperationRecord { descriptor_body, leaf_size, count, writer, idempotency_key, reason, .. } = record;
        let OperationRecord { payload, descriptor, text, files, was_unreadable, expectation, .. } = record;
        let (body_stands, descriptor_stands) = (body.bytes().is_some(), descriptor_body.is_some());
        Self {
            seq: *seq,
            token: *token,
            op: *op,
            kind: *kind,
            decision: if descriptor_stands { Cow::Owned(without_digests(decision)) } else { Cow::Borrowed(decision) },
            entity: entity.as_deref(),
            repo: repo.as_deref(),
            bundle: bundle.as_deref(),
            label: label.as_deref(),
            context: context.as_deref(),
            diamond: diamond.as_deref(),
            split: split.as_deref(),
            path: path.as_deref(),
            message: message.as_deref(),
            contributors,
            client_time: *client_time,
            size: *size,
            body: Some(body).filter(|body| !body.is_unread()),
            descriptor_body: descriptor_body.as_ref(),
            files: files.as_ref(),
            leaf_size: *leaf_size,
            count: *count,
            writer: writer.as_deref(),
            idempotency_key: idempotency_key.as_deref(),
            expectation: expectation.as_ref(),
            reason: reason.as_deref(),
            payload: Some(payload).filter(|payload| !body_stands && !payload.is_null()),
            descriptor: Some(descriptor).filter(|descriptor| !descriptor_stands && !descriptor.is_null()),
            text: text.as_deref().filter(|_| !body_stands),
            was_unreadable: *was_unreadable,
        }
    }
}

/// The decision of a record that has the descriptor's bytes: their digest follows from them.
fn without_digests(decision: &OutcomeDecision) -> OutcomeDecision {
    let OutcomeDecision { outcome, evidence, entry_time, completed, ref observations, ref guard } = *decision;
    let seen = observations.iter().map(|Observation { key, time, evidence, digest: _ }| Observation {
        key: key.clone(),
        time: *time,
        evidence: *evidence,
        digest: String::new(),
    });
    let guard = guard.clone();
    OutcomeDecision { outcome, evidence, entry_time, completed, observations: seen.collect(), guard }
}

impl<'de> Deserialize<'de> for OperationRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Self::deserialize(deserializer)?;
        record.parse_bytes();
        Ok(record)
    }
}

/// Whether what the intent says of all its operations is small enough to be in each of their records.
fn may_repeat(intent: &EntryIntent) -> bool {
    if intent.ops.len() == 1 {
        return true;
    }
    let Value::Object(raw) = &intent.raw else { return true };
    let common = raw.iter().filter(|(name, _)| *name != "ops");
    let size: usize = common.map(|(name, value)| name.len() + value.to_string().len()).sum();
    size * intent.ops.len() <= MAX_REPEATED_BYTES
}

/// The most that the records of `resolved` take in memory.
fn records_bytes(resolved: &ResolvedEntry) -> u64 {
    let count = resolved.ops.len() as u64;
    let body = resolved.body.as_ref().map_or(0, |body| body.len() as u64);
    let payload = match &resolved.intent {
        Ok(intent) if count > 1 && may_repeat(intent) => {
            let common = intent.raw.as_object().into_iter().flatten().filter(|(name, _)| *name != "ops");
            value_bytes(&intent.raw) + count * common.map(|(_, value)| 128 + value_bytes(value)).sum::<u64>()
        }
        Ok(intent) => value_bytes(&intent.raw),
        Err(_) => 3 * body.min(MAX_TEXT_BYTES as u64),
    };
    let descriptors = resolved.ops.iter().filter_map(|op| op.descriptor.as_ref());
    let descriptor_bodies = resolved.ops.iter().filter_map(|op| op.descriptor_body.as_ref());
    let bodies = body + descriptor_bodies.map(|body| body.len() as u64).sum::<u64>();
    let files: u64 = resolved.ops.iter().filter_map(|op| op.files.as_ref()).map(FileNames::memory_bytes).sum();
    let expected = resolved.intent.as_ref().ok().and_then(|intent| intent.expect.as_ref());
    let expected = count * expected.map_or(0, |expect| text_bytes(&expect.entity));
    // Its texts are copied too.
    count * FRAME_BYTES
        + bodies
        + files
        + expected
        + 2 * payload
        + 2 * descriptors.map(|one| value_bytes(&one.raw)).sum::<u64>()
}

/// Why nothing shows that the operation was completed.
fn what_is_missing(operation: &IntentOperation, decision: &OutcomeDecision) -> Option<String> {
    let why = match decision.outcome {
        Outcome::Aborted if operation.descriptor.is_some() && decision.observations.is_empty() => {
            "its descriptor was missing when the outcome was decided"
        }
        Outcome::Unknown => "the label was overwritten since, and its bucket keeps no versions",
        Outcome::Fenced => return decision.guard.as_ref().map(how_fenced),
        _ => return None,
    };
    Some(why.to_owned())
}

/// What came before the slot of a fenced entry.
fn how_fenced(guard: &GuardObservation) -> String {
    let GuardObservation { grant, slot, overtaken_by, .. } = guard;
    match overtaken_by {
        Some(by) if by != grant => {
            format!("grant {grant} of its lock was overtaken by grant {by} before its slot {slot}")
        }
        _ => format!("grant {grant} of its lock was released before its slot {slot}"),
    }
}

/// Gives each record its share of the payload; the whole of it to a single one.
fn set_payloads(records: &mut [OperationRecord], intent: Result<EntryIntent, MalformedInput>, repeated: bool) {
    match (records, intent) {
        ([record], Ok(intent)) if intent.ops.len() == 1 => record.payload = intent.raw,
        (records, Ok(intent)) => {
            for (number, record) in records.iter_mut().enumerate() {
                record.payload = payload_share(&intent, number, repeated || number == 0);
            }
        }
        (_, Err(_)) => {}
    }
}

/// The payload of operation `number`: its own, and if `common`, what the intent says of all operations.
fn payload_share(intent: &EntryIntent, number: usize, common: bool) -> Value {
    let Value::Object(raw) = &intent.raw else { return intent.raw.clone() };
    let parts = raw.iter().filter_map(|(name, value)| match value {
        Value::Array(ops) if name == "ops" => Some((name.clone(), ops.get(number).cloned().into_iter().collect())),
        value => common.then(|| (name.clone(), value.clone())),
    });
    Value::Object(parts.collect::<Map<_, _>>())
}

/// The payload of an entry with these records, which come by op; several may be of the same operation.
pub fn whole_payload<'a>(records: impl IntoIterator<Item = &'a OperationRecord>) -> Value {
    let mut records = records.into_iter();
    let Some(first) = records.next() else { return Value::Null };
    let (mut payload, mut last) = (first.payload.clone(), first.op);
    for record in records {
        if record.op == std::mem::replace(&mut last, record.op) {
            continue;
        }
        if let (Some(Value::Array(ops)), Some(Value::Array(own))) = (payload.get_mut("ops"), record.payload.get("ops"))
        {
            ops.extend(own.iter().cloned());
        }
    }
    payload
}

/// The names in a descriptor's path.
#[derive(Default)]
struct DescriptorNames {
    repo: Option<String>,
    bundle: Option<String>,
    label: Option<String>,
    context: Option<String>,
    diamond: Option<String>,
    split: Option<String>,
}

impl DescriptorNames {
    fn of(place: DatamonPath) -> Self {
        let mut names = Self::default();
        match place {
            DatamonPath::Repo { repo } => names.repo = Some(repo),
            DatamonPath::Bundle { repo, bundle } => (names.repo, names.bundle) = (Some(repo), Some(bundle)),
            DatamonPath::Label { repo, label } => (names.repo, names.label) = (Some(repo), Some(label)),
            DatamonPath::Context { context } => names.context = Some(context),
            DatamonPath::Diamond { repo, diamond, .. } => (names.repo, names.diamond) = (Some(repo), Some(diamond)),
            DatamonPath::Split { repo, diamond, split, .. } => {
                (names.repo, names.diamond, names.split) = (Some(repo), Some(diamond), Some(split));
            }
            DatamonPath::Other => {}
        }
        names
    }
}

/// The bundle that a label points to, or that a diamond became.
fn named_bundle(
    place: &DatamonPath,
    operation: &IntentOperation,
    descriptor: Option<&DatamonDescriptor>,
) -> Option<String> {
    match place {
        DatamonPath::Label { .. } => operation.value.clone().or_else(|| descriptor?.id.clone()),
        DatamonPath::Diamond { .. } => descriptor?.bundle.clone(),
        _ => None,
    }
}

/// The body as text for search; nothing when there is nothing to read in it.
fn readable(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT_BYTES)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!text.trim().is_empty()).then_some(text)
}

/// An idempotency key with the writer that used it; a writer without a name is the empty one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterKey {
    /// The writer's name.
    pub writer: String,
    /// The idempotency key.
    pub key: String,
}

/// An entry and the place of an operation within it: the order of the log.
pub type OperationPlace = (Token, u32);

/// An operation with its idempotency key and writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedOperation {
    /// The operation.
    pub place: OperationPlace,
    /// Its key.
    pub key: WriterKey,
}

/// The newest committed operation of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LatestCommit {
    /// When it was complete.
    pub completed: StoreSecond,
    /// Its entry.
    pub token: Token,
    /// Its place within the entry.
    pub op: u32,
    /// The record's seq.
    pub seq: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use tidemark_store::StoreSecond;
    use tidemark_wal::{MemoryBudget, OutcomeDecision};

    use super::*;

    /// An entry with this body, whose operations are committed.
    pub(crate) fn resolved(body: &[u8]) -> ResolvedEntry {
        let token = Token::from_parts(StoreSecond::from_unix(1_800_000_000), [1; 16]);
        let intent = parse_payload(token, body);
        let decision = OutcomeDecision {
            outcome: Outcome::Committed,
            evidence: None,
            entry_time: token.second(),
            completed: Some(token.second()),
            observations: Vec::new(),
            guard: None,
        };
        let op = |operation: IntentOperation| ResolvedOperation {
            path: operation.descriptor.as_deref().map_or(DatamonPath::Other, |path| parse_datamon_path(path).unwrap()),
            operation,
            decision: decision.clone(),
            descriptor: None,
            descriptor_body: None,
            files: None,
            unreadable: None,
        };
        let ops = intent.clone().map(|intent| intent.ops.into_iter().map(op).collect()).unwrap_or_default();
        let (entry_time, size) = (token.second(), body.len() as u64);
        ResolvedEntry { token, entry_time, size, answered: None, body: Some(body.to_vec().into()), intent, ops }
    }

    /// As a reader gives an entry with this body, which is no intent.
    fn resolved_malformed(body: &[u8]) -> ResolvedEntry {
        let mut resolved = resolved(br#"{"tidemark": 1}"#);
        resolved.intent = parse_payload(resolved.token, body);
        assert!(resolved.intent.is_err());
        resolved.body = Some(body.to_vec().into());
        resolved.ops[0].operation.kind = OperationKind::Malformed;
        resolved.ops[0].decision.outcome = Outcome::Malformed;
        resolved
    }

    #[test]
    fn each_operation_has_its_names_and_its_own_key_and_survives_storing() {
        let body =
            br#"{"tidemark": 1, "writer": "w", "idempotencyKey": "k", "expect": {"entity": "bundle/r/b"}, "attributes": {"entity": "job/7"}, "ops": [
            {"descriptor": "bundles/r/b/bundle.yaml"}, {"kind": "entry", "attributes": {"message": "done"}}]}"#;
        let records = OperationRecord::from_resolved(resolved(body));
        let [bundle, entry] = &records[..] else { panic!("{records:?}") };
        assert_eq!((bundle.repo.as_deref(), bundle.bundle.as_deref()), (Some("r"), Some("b")));
        assert_eq!(bundle.entity.as_deref(), Some("bundle/r/b"));
        assert_eq!((entry.entity.as_deref(), entry.message.as_deref()), (Some("entry/job/7"), Some("done")));
        assert_ne!(bundle.writer_key(), entry.writer_key());
        for record in &records {
            assert_eq!(record.expectation.as_ref().map(|expected| expected.entity.as_str()), Some("bundle/r/b"));
            let stored = serde_json::to_string(record).unwrap();
            assert_eq!(serde_json::from_str::<OperationRecord>(&stored).unwrap(), *record);
        }
    }

    #[test]
    fn what_is_not_complete_says_why() {
        let reason = |outcome, body: &[u8]| {
            let mut resolved = resolved(body);
            resolved.ops[0].decision.outcome = outcome;
            OperationRecord::from_resolved(resolved).remove(0).reason.unwrap_or_default()
        };
        assert!(reason(Outcome::Aborted, b"bundles/r/b/bundle.yaml").contains("missing when the outcome was decided"));
        assert!(reason(Outcome::Unknown, b"labels/r/l/label.yaml").contains("keeps no versions"));
        assert_eq!(reason(Outcome::Committed, b"bundles/r/b/bundle.yaml"), "");
        assert_eq!(reason(Outcome::Aborted, b"a text"), "");
    }

    /// What is stored of `record`, which reads as `record` again.
    fn stored_value(record: &OperationRecord) -> Value {
        let stored = serde_json::to_vec(record).unwrap();
        assert_eq!(serde_json::from_slice::<OperationRecord>(&stored).unwrap(), *record);
        serde_json::from_slice(&stored).unwrap()
    }

    #[test]
    fn the_bytes_stand_once_and_what_is_parsed_follows_from_them() {
        let group = r#"{"tidemark": 1,  "writer": "w", "ops": [{"kind": "entry"}, {"attributes": {"n": 1}}]}"#;
        let records = OperationRecord::from_resolved(resolved(group.as_bytes()));
        let [first, second] = &records[..] else { panic!("{records:?}") };
        assert_eq!(first.body.bytes(), Some(group.as_bytes()));
        assert_eq!(first.payload, json!({"tidemark": 1, "writer": "w", "ops": [{"kind": "entry"}]}));
        let stored = stored_value(first);
        assert_eq!((&stored["body"], &stored["payload"]), (&json!(group), &Value::Null));
        // A share of the payload does not follow from what its own record holds.
        let stored = stored_value(second);
        assert_eq!(stored["body"], json!({"sha256": BodyDigest::of(group.as_bytes()).to_string()}));
        assert_eq!(stored["payload"], second.payload);
        assert_eq!(first.set_element().body, second.set_element().body);
    }

    #[test]
    fn a_body_that_cannot_be_read_is_kept_as_it_is() {
        let binary = [b"neither path nor mapping \xff".as_slice(), &[0; 3]].concat();
        let record = OperationRecord::from_resolved(resolved_malformed(&binary)).remove(0);
        assert!(record.text.as_deref().is_some_and(|text| text.starts_with("neither")));
        let stored = stored_value(&record);
        assert_eq!((&stored["text"], &stored["body"]["sha256"]), (&Value::Null, &Value::Null));
        assert_eq!(record.body.bytes(), Some(&binary[..]));
        assert!(stored["body"]["base64"].is_string());
        let mut oversized = resolved_malformed(&binary);
        oversized.body = None;
        let record = OperationRecord::from_resolved(oversized).remove(0);
        assert_eq!((stored_value(&record).get("body"), record.set_element().body), (None, None));
    }

    #[test]
    fn a_descriptor_is_kept_as_its_bytes() {
        let path = "bundles/r/b/bundle.yaml";
        let text = "id: b\nmessage: 'a ''message'''\n# a remark\ncount: 3\n";
        let mut resolved = resolved(path.as_bytes());
        let op = &mut resolved.ops[0];
        op.descriptor_body = Some(text.into());
        op.descriptor = Some(read_descriptor(&op.path, text.as_bytes()).unwrap());
        let digest = BodyDigest::of(text.as_bytes()).to_string();
        let seen = tidemark_wal::Observation {
            key: path.to_owned(),
            time: resolved.entry_time,
            digest: digest.clone(),
            evidence: None,
        };
        op.decision.observations.push(seen);
        let record = OperationRecord::from_resolved(resolved).remove(0);
        assert_eq!(record.descriptor, json!({"id": "b", "message": "a 'message'", "count": 3}));
        let stored = stored_value(&record);
        assert_eq!((&stored["descriptorBody"], &stored["descriptor"]), (&json!(text), &Value::Null));
        assert_eq!(stored["decision"]["observations"][0].get("digest"), None, "it follows from the bytes");
        // Of a large one only the digest is kept.
        let large = OperationRecord { descriptor_body: None, descriptor: Value::Null, ..record };
        assert_eq!(stored_value(&large)["decision"]["observations"][0]["digest"], json!(digest));
    }

    #[test]
    fn the_names_of_files_are_stored_and_charged() {
        let files = FileNames { names: vec!["a/b.csv".to_owned(); 1000], incomplete: Some("more".to_owned()) };
        let mut resolved = resolved(b"bundles/r/b/bundle.yaml");
        let without = records_bytes(&resolved);
        resolved.ops[0].files = Some(files.clone());
        assert_eq!(records_bytes(&resolved) - without, files.memory_bytes());
        let record = OperationRecord::from_resolved(resolved).remove(0);
        assert_eq!(stored_value(&record)["files"], json!({ "names": files.names, "incomplete": "more" }));
        // Clones: they have room for no more than they hold.
        let (record, bare) = (record.clone(), OperationRecord { files: None, ..record }.clone());
        assert_eq!(record.memory_bytes() - bare.memory_bytes(), files.memory_bytes());
        assert_eq!(stored_value(&bare).get("files"), None);
    }

    #[test]
    fn a_malformed_body_is_kept_as_far_as_it_can_be_read() {
        assert_eq!(readable(b"left\x00right\xff").as_deref(), Some("left right\u{fffd}"));
        assert_eq!(readable(b" \n\x01"), None);
        assert_eq!(readable(&vec![b'x'; MAX_TEXT_BYTES * 2]).map(|text| text.len()), Some(MAX_TEXT_BYTES));
    }

    fn records(body: &Value) -> (usize, Vec<OperationRecord>) {
        let body = body.to_string();
        (body.len(), OperationRecord::from_resolved(resolved(body.as_bytes())))
    }

    fn op(number: usize, filler: usize) -> Value {
        json!({"kind": "entry", "attributes": {"n": format!("n{number}"), "filler": "x".repeat(filler)}})
    }

    fn stored(records: &[OperationRecord]) -> usize {
        records.iter().map(|record| serde_json::to_vec(record).unwrap().len()).sum()
    }

    #[test]
    fn the_records_of_a_large_entry_are_together_about_as_large_as_it_is() {
        let ops: Vec<Value> = (0..1000).map(|number| op(number, 950)).collect();
        let (size, records) = records(&json!({"tidemark": 1, "writer": "w", "ops": ops}));
        assert!(size > 1_000_000 && records.len() == 1000);
        let stored = stored(&records);
        assert!(stored <= 3 * size, "{stored} bytes for a body of {size}");
        for (number, record) in records.iter().enumerate() {
            assert_eq!(record.payload["ops"], json!([op(number, 950)]), "neighbours are not in it");
            assert_eq!((&record.payload["tidemark"], &record.payload["writer"]), (&json!(1), &json!("w")));
        }
    }

    #[tokio::test]
    async fn records_are_charged_before_they_are_made_and_take_what_they_say() {
        let ops = vec![json!({}); 1000];
        let common = json!({"ticket": "OPS-7", "tags": ["a", "b"]});
        let intents = [
            json!({"tidemark": 1}),
            json!({"tidemark": 1, "ops": ops}),
            json!({"tidemark": 1, "writer": "w", "idempotencyKey": "k", "attributes": common, "ops": ops}),
            json!({"tidemark": 1, "attributes": {"x": "y".repeat(100_000)}, "ops": ops}),
            json!({"tidemark": 1, "expect": {"entity": format!("entry/{}", "e".repeat(1000))}, "attributes": {"x": "y".repeat(1000)}, "ops": ops}),
            json!({"tidemark": 1, "attributes": {"x": vec![json!({"": 0}); 10_000]}}),
        ];
        for body in intents.iter().map(Value::to_string) {
            let resolved = resolved(body.as_bytes());
            let (estimate, count) = (records_bytes(&resolved), resolved.ops.len() as u64);
            let memory = MemoryBudget::new(1 << 20).open();
            let records = OperationRecord::charged(resolved, &memory).await;
            assert_eq!(records.len() as u64, count);
            let bytes: u64 = records.iter().map(OperationRecord::memory_bytes).sum();
            assert!(
                estimate >= bytes && bytes >= count * 500,
                "{estimate} for {bytes}: {}",
                &body[..body.len().min(80)]
            );
            assert_eq!(memory.bytes(), bytes);
        }
    }

    #[test]
    fn what_is_too_large_to_repeat_is_in_the_first_record_alone() {
        let ops: Vec<Value> = (0..1000).map(|number| op(number, 10)).collect();
        let common = json!({"entity": "e", "message": "m".repeat(300_000), "notes": "y".repeat(500_000)});
        let (size, records) = records(&json!({"tidemark": 1, "attributes": common, "ops": ops}));
        let stored = stored(&records);
        assert!(stored <= 3 * size, "{stored} bytes for a body of {size}");
        assert_eq!(records[0].payload["attributes"], common);
        assert_eq!((&records[1].payload, &records[1].message), (&json!({"ops": [op(1, 10)]}), &None));
        assert!(records.iter().all(|record| record.entity.as_deref() == Some("entry/e")));
    }

    #[test]
    fn the_shares_make_the_whole_payload_again() {
        for ops in [json!([op(0, 1)]), json!([op(0, 1), op(1, 2), {"kind": "entry"}]), json!([])] {
            let body = json!({"tidemark": 1, "ops": ops, "attributes": {"ticket": "OPS-7"}});
            let (_, mut records) = records(&body);
            assert!(records.iter().all(|record| record.payload["attributes"]["ticket"] == "OPS-7"));
            let again = records[0].clone();
            records.insert(0, again);
            assert_eq!(whole_payload(&records), body);
        }
    }
}
