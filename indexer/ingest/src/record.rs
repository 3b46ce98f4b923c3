//! One operation of an entry with its outcome: what a segment stores and what a search returns.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_store::StoreSecond;
use tidemark_wal::{
    Contributor, DatamonDescriptor, DatamonPath, EntryIntent, IntentOperation, MalformedInput, MemoryShare,
    OperationKind, Outcome, OutcomeDecision, ResolvedEntry, ResolvedOperation, Token, entity_key, text_bytes,
    value_bytes,
};

/// How many bytes of a malformed body are kept as searchable text.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Longest name of an entity in bytes that an operation may choose.
const MAX_ENTITY_BYTES: usize = 1024;
/// What an entry says of all its operations is repeated in each of their records up to this many bytes in all; where it
/// would be more, only the first record has it.
const MAX_REPEATED_BYTES: usize = 1 << 20;
/// The most that a record takes in memory besides the values and texts that it copies: itself, its names and the frame of
/// its payload. (Measured: 1.5 KiB for an operation without attributes.)
const FRAME_BYTES: u64 = size_of::<OperationRecord>() as u64 + 1536;

/// One operation with its outcome, or the correction of one.
///
/// Its JSON is what a document stores, so the names are persisted: a field may be added, none may change its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entity: Option<String>,
    /// Repository.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repo: Option<String>,
    /// Bundle id; for a label the bundle that it points to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bundle: Option<String>,
    /// Label name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Context name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<String>,
    /// Diamond id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diamond: Option<String>,
    /// Split id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub split: Option<String>,
    /// The descriptor's path, as the entry names it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// The descriptor's message, else its description.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Who made it, as the descriptor says.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub contributors: Vec<Contributor>,
    /// The client's own time stamp, as the descriptor says. Decides nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_time: Option<Timestamp>,
    /// Size of the entry in bytes.
    pub size: u64,
    /// The descriptor's `leafSize`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leaf_size: Option<u64>,
    /// The descriptor's `count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// The writer that the intent names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub writer: Option<String>,
    /// The idempotency key that the intent names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idempotency_key: Option<String>,
    /// Why the entry is malformed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The operation's share of the entry's payload: what the entry says of all its operations, and in `ops` this one
    /// alone. The whole payload where there is one operation; null when malformed.
    #[serde(skip_serializing_if = "Value::is_null", default)]
    pub payload: Value,
    /// The descriptor; null when there is none.
    #[serde(skip_serializing_if = "Value::is_null", default)]
    pub descriptor: Value,
    /// The body of a malformed entry as text: lossy, and cut at 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

impl OperationRecord {
    /// The records of a resolved entry, by op; their seqs are 0. A malformed entry gives exactly one.
    pub fn from_resolved(resolved: &ResolvedEntry) -> Vec<Self> {
        let repeated = resolved.intent.as_ref().is_ok_and(may_repeat);
        let records = resolved.ops.iter().enumerate().map(|(number, op)| {
            let mut record = Self::of_op(resolved, op, u32::try_from(number).unwrap_or(u32::MAX));
            match &resolved.intent {
                Ok(intent) => record.set_intent(intent, number, repeated || number == 0),
                Err(malformed) => record.set_malformed(malformed, &resolved.body),
            }
            record
        });
        records.collect()
    }

    /// As [`OperationRecord::from_resolved`], charged to `memory` before the records are made. Only they are charged
    /// afterwards.
    pub async fn charged(resolved: ResolvedEntry, memory: &MemoryShare) -> Vec<Self> {
        memory.charge(records_bytes(&resolved)).await;
        let records = Self::from_resolved(&resolved);
        drop(resolved);
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
        size_of::<Self>() as u64 + texts + values + contributors.chain(observations).sum::<u64>()
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

    fn of_op(resolved: &ResolvedEntry, op: &ResolvedOperation, number: u32) -> Self {
        let descriptor = op.descriptor.as_ref();
        let names = DescriptorNames::of(&op.path);
        Self {
            seq: 0,
            token: resolved.token,
            op: number,
            kind: op.operation.kind,
            decision: op.decision.clone(),
            entity: entity_key(&op.path),
            bundle: names.bundle.or_else(|| named_bundle(&op.path, &op.operation, descriptor)),
            repo: names.repo,
            label: names.label,
            context: names.context,
            diamond: names.diamond,
            split: names.split,
            path: op.operation.descriptor.clone(),
            message: descriptor.and_then(|d| d.message.clone().or_else(|| d.description.clone())),
            contributors: descriptor.map(|d| d.contributors.clone()).unwrap_or_default(),
            client_time: descriptor.and_then(|d| d.timestamp),
            size: resolved.size,
            leaf_size: descriptor.and_then(|d| d.leaf_size),
            count: descriptor.and_then(|d| d.count),
            writer: None,
            idempotency_key: None,
            reason: op.unreadable.as_ref().map(|why| format!("the descriptor cannot be read: {why}")),
            payload: Value::Null,
            descriptor: descriptor.map(|d| d.raw.clone()).unwrap_or_default(),
            text: None,
        }
    }

    /// Copies what the intent says of operation `number`, and if `common`, what it says of all of them.
    fn set_intent(&mut self, intent: &EntryIntent, number: usize, common: bool) {
        self.payload = payload_share(intent, number, common);
        self.writer.clone_from(&intent.writer);
        self.idempotency_key = intent.key_of(number);
        let own = intent.ops.get(number).map(|op| &op.attributes);
        let attribute = |name: &str| {
            let found = own.and_then(|own| own.get(name)).or_else(|| intent.attributes.get(name));
            found?.as_str()
        };
        if self.entity.is_none() {
            self.entity = attribute("entity").and_then(free_entity);
        }
        if self.message.is_none() {
            let own = own.is_some_and(|own| own.contains_key("message"));
            self.message = attribute("message").filter(|_| own || common).map(ToOwned::to_owned);
        }
    }

    fn set_malformed(&mut self, why: &MalformedInput, body: &[u8]) {
        self.reason = Some(why.to_string());
        self.text = readable(body);
    }
}

/// Whether what the intent says of all its operations is small enough to be in each of their records.
fn may_repeat(intent: &EntryIntent) -> bool {
    let Value::Object(raw) = &intent.raw else { return true };
    let common = raw.iter().filter(|(name, _)| *name != "ops");
    let size: usize = common.map(|(name, value)| name.len() + value.to_string().len()).sum();
    size * intent.ops.len() <= MAX_REPEATED_BYTES
}

/// The most that the records of `resolved` take in memory.
fn records_bytes(resolved: &ResolvedEntry) -> u64 {
    let count = resolved.ops.len() as u64;
    let payload = match &resolved.intent {
        Ok(intent) if count > 1 && may_repeat(intent) => {
            let common = intent.raw.as_object().into_iter().flatten().filter(|(name, _)| *name != "ops");
            value_bytes(&intent.raw) + count * common.map(|(_, value)| 128 + value_bytes(value)).sum::<u64>()
        }
        Ok(intent) => value_bytes(&intent.raw),
        Err(_) => 3 * resolved.body.len().min(MAX_TEXT_BYTES) as u64,
    };
    let descriptors = resolved.ops.iter().filter_map(|op| op.descriptor.as_ref());
    // Its texts are copied too.
    count * FRAME_BYTES + 2 * payload + 2 * descriptors.map(|one| value_bytes(&one.raw)).sum::<u64>()
}

/// The payload of operation `number`: its own, and if `common`, what the intent says of all operations.
fn payload_share(intent: &EntryIntent, number: usize, common: bool) -> Value {
    let Value::Object(raw) = &intent.raw else { return intent.raw.clone() };
    if intent.ops.len() == 1 {
        return intent.raw.clone();
    }
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
    fn of(place: &DatamonPath) -> Self {
        let mut names = Self::default();
        match place.clone() {
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

/// The entity key of an operation that names its entity itself, in a name space of its own, so that no free name can
/// pass for a label or a bundle.
fn free_entity(name: &str) -> Option<String> {
    (!name.is_empty() && name.len() <= MAX_ENTITY_BYTES).then(|| format!("entry/{name}"))
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
    use tidemark_wal::{MemoryBudget, OutcomeDecision, parse_datamon_path, parse_payload};

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
        };
        let op = |operation: IntentOperation| ResolvedOperation {
            path: operation.descriptor.as_deref().map_or(DatamonPath::Other, |path| parse_datamon_path(path).unwrap()),
            operation,
            decision: decision.clone(),
            descriptor: None,
            unreadable: None,
        };
        let ops = intent.clone().map(|intent| intent.ops.into_iter().map(op).collect()).unwrap_or_default();
        let (entry_time, size) = (token.second(), body.len() as u64);
        ResolvedEntry { token, entry_time, size, answered: None, body: body.to_vec().into(), intent, ops }
    }

    #[test]
    fn each_operation_has_its_names_and_its_own_key_and_survives_storing() {
        let body =
            br#"{"tidemark": 1, "writer": "w", "idempotencyKey": "k", "attributes": {"entity": "job/7"}, "ops": [
            {"descriptor": "bundles/r/b/bundle.yaml"}, {"kind": "entry", "attributes": {"message": "done"}}]}"#;
        let records = OperationRecord::from_resolved(&resolved(body));
        let [bundle, entry] = &records[..] else { panic!("{records:?}") };
        assert_eq!((bundle.repo.as_deref(), bundle.bundle.as_deref()), (Some("r"), Some("b")));
        assert_eq!(bundle.entity.as_deref(), Some("bundle/r/b"));
        assert_eq!((entry.entity.as_deref(), entry.message.as_deref()), (Some("entry/job/7"), Some("done")));
        assert_ne!(bundle.writer_key(), entry.writer_key());
        for record in &records {
            let stored = serde_json::to_string(record).unwrap();
            assert_eq!(serde_json::from_str::<OperationRecord>(&stored).unwrap(), *record);
        }
    }

    #[test]
    fn a_free_name_never_passes_for_a_label() {
        assert_eq!(free_entity("label/r/prod").as_deref(), Some("entry/label/r/prod"));
        assert_eq!(free_entity(""), None);
        assert_eq!(free_entity(&"x".repeat(MAX_ENTITY_BYTES + 1)), None);
    }

    #[test]
    fn a_malformed_body_is_kept_as_far_as_it_can_be_read() {
        assert_eq!(readable(b"left\x00right\xff").as_deref(), Some("left right\u{fffd}"));
        assert_eq!(readable(b" \n\x01"), None);
        assert_eq!(readable(&vec![b'x'; MAX_TEXT_BYTES * 2]).map(|text| text.len()), Some(MAX_TEXT_BYTES));
    }

    fn records(body: &Value) -> (usize, Vec<OperationRecord>) {
        let body = body.to_string();
        (body.len(), OperationRecord::from_resolved(&resolved(body.as_bytes())))
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
            json!({"tidemark": 1, "attributes": {"x": vec![json!({"": 0}); 10_000]}}),
        ];
        for body in intents.iter().map(Value::to_string) {
            let resolved = resolved(body.as_bytes());
            let (estimate, count) = (records_bytes(&resolved), resolved.ops.len() as u64);
            let records = OperationRecord::from_resolved(&resolved);
            let bytes: u64 = records.iter().map(OperationRecord::memory_bytes).sum();
            assert!(
                estimate >= bytes && bytes >= count * 500,
                "{estimate} for {bytes}: {}",
                &body[..body.len().min(80)]
            );
            let memory = MemoryBudget::new(1 << 20).open();
            assert_eq!(OperationRecord::charged(resolved, &memory).await.len(), records.len());
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
