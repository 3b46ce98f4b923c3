//! What a caller wants appended, and what is prepared of it before it has a token.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::AppendError;
use crate::{
    datamon::{DatamonPath, parse_datamon_path},
    expectation::CommitExpectation,
    lock::LockName,
    parameters::LogParameters,
    payload::{
        EntryIntent, IntentOperation, LockRef, OperationKind, PayloadFormat, member_key, parse_payload, write_intent,
    },
    reader::{OP_FIELD, TOKEN_FIELD, digest_of},
    token::Token,
};
use tidemark_store::Entropy;

/// Longest body in bytes that Datamon's reader reads: it waits without end for the rest of a longer one.
const MAX_DATAMON_BYTES: usize = 1024;

/// The form of the entries that a writer writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryForm {
    /// Our intent in JSON.
    #[default]
    Intent,
    /// The mapping of `token` and `payload` that Datamon's reader reads: one operation an entry, and no idempotency key, so that
    /// a writer tries one token only.
    Datamon,
}

/// An entry to append: its operations are committed together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryDraft {
    /// Who writes; the writer's own name when absent.
    pub writer: Option<String>,
    /// Makes repeated appends of the same draft count once; a random one when absent.
    pub idempotency_key: Option<String>,
    /// The write lock that guards it, with the grant that its writer holds: it is committed only if nobody was granted the lock since.
    pub lock: Option<LockRef>,
    /// What is expected of an entity: it is committed only if that holds when it is decided, and nobody knows that before.
    pub expect: Option<CommitExpectation>,
    /// Free attributes of the entry.
    pub attributes: Map<String, Value>,
    /// The operations; none means one that the entry itself completes.
    pub ops: Vec<DraftOperation>,
}

/// One operation to append.
#[derive(Clone, Debug, PartialEq)]
pub enum DraftOperation {
    /// An update that is complete when its descriptor exists.
    Descriptor {
        /// Key of the descriptor in the first metadata store.
        path: String,
        /// The descriptor.
        body: Bytes,
    },
    /// A label moved to a bundle.
    Label {
        /// The repo.
        repo: String,
        /// The label.
        label: String,
        /// The bundle that it names from now on.
        bundle: String,
        /// The new `label.yaml`.
        body: Bytes,
    },
    /// A record that the entry itself completes.
    Entry {
        /// Free attributes of the operation.
        attributes: Map<String, Value>,
    },
}

impl EntryDraft {
    /// Whether the entry itself completes every operation, so that the draft may share an entry with others.
    pub(super) fn is_entry_only(&self) -> bool {
        self.lock.is_none()
            && self.expect.is_none()
            && self.ops.iter().all(|op| matches!(op, DraftOperation::Entry { .. }))
    }

    /// How many operations it makes.
    pub(super) fn operations(&self) -> usize {
        self.ops.len().max(1)
    }

    /// About how many bytes its operations take in an entry: attributes of the draft are repeated for each.
    pub(super) fn weight(&self) -> usize {
        let bytes = |attributes: &Map<String, Value>| serde_json::to_string(attributes).map_or(0, |text| text.len());
        let key = self.idempotency_key.as_ref().map_or(32, String::len);
        let each = bytes(&self.attributes) + key + 100;
        let own = self.ops.iter().map(|op| match op {
            DraftOperation::Entry { attributes } => bytes(attributes),
            _ => 0,
        });
        own.sum::<usize>() + each * self.operations()
    }
}

/// A draft that was found valid, with everything that does not depend on its token.
#[derive(Clone, Debug)]
pub(super) struct PreparedEntry {
    pub(super) key: String,
    /// The lock that guards it, with the grant.
    pub(super) lock: Option<(LockName, u64)>,
    /// Whether it names an expectation, so that only an index can tell whether it is committed.
    pub(super) is_conditional: bool,
    content: EntryContent,
    pub(super) parts: Vec<CompletionPart>,
}

/// What the body of an entry is made of.
#[derive(Clone, Debug)]
enum EntryContent {
    /// The body.
    Intent(Bytes),
    /// The payload beside the token.
    Datamon(String),
}

/// What completes one operation.
#[derive(Clone, Debug)]
pub(super) struct CompletionPart {
    pub(super) op: u32,
    pub(super) target: CompletionTarget,
    pub(super) body: Bytes,
}

/// Where a part goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CompletionTarget {
    /// A descriptor in the first metadata store.
    Descriptor(String),
    /// A marker in the last metadata store.
    Label { repo: String, label: String },
    /// The entry's guard, in the log's own store.
    Guard,
}

impl PreparedEntry {
    /// Checks the draft by reading what it would write, so that no writer writes what no reader reads.
    pub(super) fn of(draft: EntryDraft, form: EntryForm, writer: &str, entropy: &Entropy) -> Result<Self, AppendError> {
        if form == EntryForm::Datamon {
            return Self::in_datamons_form(draft, entropy);
        }
        let key = draft.idempotency_key.filter(|key| !key.is_empty()).unwrap_or_else(|| entropy.nonce());
        let lock = match &draft.lock {
            None => None,
            Some(LockRef { name, grant: Some(grant) }) => Some((name.clone(), *grant)),
            Some(LockRef { name, grant: None }) => {
                let why = format!("it names lock \"{name}\" without the grant that its writer holds");
                return Err(AppendError::Invalid { why });
            }
        };
        let is_conditional = draft.expect.is_some();
        let parts = draft.ops.iter().enumerate().filter_map(|(op, draft)| completion_part(op, draft)).collect();
        let intent = EntryIntent {
            format: PayloadFormat::Intent,
            writer: Some(draft.writer.unwrap_or_else(|| writer.to_owned())),
            idempotency_key: Some(key.clone()),
            lock: draft.lock,
            expect: draft.expect,
            attributes: draft.attributes,
            ops: draft.ops.into_iter().map(operation).collect(),
            raw: Value::Null,
        };
        Ok(Self { lock, is_conditional, ..Self::checked(key, &intent, parts)? })
    }

    /// A draft as an entry that Datamon's reader reads.
    fn in_datamons_form(draft: EntryDraft, entropy: &Entropy) -> Result<Self, AppendError> {
        let invalid = |why: &str| AppendError::Invalid { why: format!("{why} in Datamon's form") };
        let EntryDraft { writer, idempotency_key, lock, expect, attributes, mut ops } = draft;
        if lock.is_some() {
            return Err(invalid("an entry has no lock"));
        }
        if expect.is_some() {
            return Err(invalid("an entry has no expectation"));
        }
        if writer.is_some() || idempotency_key.is_some() {
            return Err(invalid("an entry has no writer and no idempotency key"));
        }
        let (payload, parts) = match (ops.pop(), ops.is_empty()) {
            (None, _) => (Value::Object(attributes).to_string(), Vec::new()),
            (Some(_), false) => return Err(invalid("an entry has one operation")),
            (Some(_), true) if !attributes.is_empty() => {
                return Err(invalid("an entry with an operation has no attributes of its own"));
            }
            (Some(DraftOperation::Label { .. }), true) => return Err(invalid("a label cannot be moved")),
            (Some(DraftOperation::Entry { attributes }), true) => (Value::Object(attributes).to_string(), Vec::new()),
            (Some(DraftOperation::Descriptor { path, body }), true) => {
                let target = CompletionTarget::Descriptor(path.clone());
                (path, vec![CompletionPart { op: 0, target, body }])
            }
        };
        let (key, content) = (entropy.nonce(), EntryContent::Datamon(payload));
        let prepared = Self { key, lock: None, is_conditional: false, content, parts };
        let any_token = Token::from_bytes([0; Token::BYTES]);
        let body = prepared.body(any_token);
        if body.len() > MAX_DATAMON_BYTES {
            return Err(invalid(&format!("an entry of {} bytes is longer than {MAX_DATAMON_BYTES}", body.len())));
        }
        let read =
            parse_payload(any_token, &body).map_err(|malformed| AppendError::Invalid { why: malformed.reason })?;
        let announced = read.ops.first().and_then(|op| op.descriptor.as_deref());
        let written = prepared.parts.first().and_then(|part| match &part.target {
            CompletionTarget::Descriptor(path) => Some(path.as_str()),
            CompletionTarget::Label { .. } | CompletionTarget::Guard => None,
        });
        if announced != written {
            return Err(invalid("the path is not that of a descriptor"));
        }
        if read.ops.iter().any(|op| op.kind == OperationKind::Label) {
            return Err(invalid("a label cannot be moved"));
        }
        Ok(prepared)
    }

    /// The body of the entry `token`.
    pub(super) fn body(&self, token: Token) -> Bytes {
        match &self.content {
            EntryContent::Intent(body) => body.clone(),
            EntryContent::Datamon(payload) => Bytes::from(json!({"token": token, "payload": payload}).to_string()),
        }
    }

    /// Whether readers count it once under whatever tokens it is appended.
    pub(super) fn counts_once(&self) -> bool {
        matches!(self.content, EntryContent::Intent(_))
    }

    /// The labels that it moves.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().filter_map(|part| match &part.target {
            CompletionTarget::Label { repo, label } => Some((repo.as_str(), label.as_str())),
            CompletionTarget::Descriptor(_) | CompletionTarget::Guard => None,
        })
    }

    /// Operations of several drafts, each under the key of its own, that the entry itself completes.
    pub(super) fn shared(drafts: Vec<EntryDraft>, writer: &str, entropy: &Entropy) -> Result<Self, AppendError> {
        let key = entropy.nonce();
        let intent = EntryIntent {
            format: PayloadFormat::Intent,
            writer: Some(writer.to_owned()),
            idempotency_key: Some(key.clone()),
            lock: None,
            expect: None,
            attributes: Map::new(),
            ops: drafts.into_iter().flat_map(keyed_operations).collect(),
            raw: Value::Null,
        };
        Self::checked(key, &intent, Vec::new())
    }

    fn checked(key: String, intent: &EntryIntent, parts: Vec<CompletionPart>) -> Result<Self, AppendError> {
        let invalid = |why: String| AppendError::Invalid { why };
        let body = Bytes::from(write_intent(intent).to_string());
        let any_token = Token::from_bytes([0; Token::BYTES]);
        parse_payload(any_token, &body).map_err(|malformed| invalid(malformed.reason))?;
        Ok(Self { key, lock: None, is_conditional: false, content: EntryContent::Intent(body), parts })
    }

    /// Refuses what readers would not read under the `parameters` of its token.
    pub(super) fn check_sizes(&self, parameters: &LogParameters) -> Result<(), AppendError> {
        let LogParameters { max_entry_size, max_descriptor_size, .. } = *parameters;
        let entry = self.body(Token::from_bytes([0; Token::BYTES])).len() as u64;
        if entry > max_entry_size {
            let why = format!("its entry has {entry} bytes, more than the log's maxEntrySize of {max_entry_size}");
            return Err(AppendError::Invalid { why });
        }
        match self.parts.iter().find(|part| part.body.len() as u64 > max_descriptor_size) {
            None => Ok(()),
            Some(CompletionPart { op, body, .. }) => {
                let (size, limit) = (body.len(), max_descriptor_size);
                let why = format!(
                    "operation {op} has a descriptor of {size} bytes, more than the log's maxDescriptorSize of {limit}"
                );
                Err(AppendError::Invalid { why })
            }
        }
    }

    /// Whether a further entry may complete it: descriptors have names that only one entry can have.
    pub(super) fn allows_another_token(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.target, CompletionTarget::Label { .. }))
    }
}

fn completion_part(op: usize, draft: &DraftOperation) -> Option<CompletionPart> {
    let op = u32::try_from(op).unwrap_or(u32::MAX);
    let (target, body) = match draft {
        DraftOperation::Descriptor { path, body } => (CompletionTarget::Descriptor(path.clone()), body),
        DraftOperation::Label { repo, label, body, .. } => {
            let (repo, label) = (repo.clone(), label.clone());
            (CompletionTarget::Label { repo, label }, body)
        }
        DraftOperation::Entry { .. } => return None,
    };
    Some(CompletionPart { op, target, body: body.clone() })
}

fn operation(draft: DraftOperation) -> IntentOperation {
    let empty = |kind, path, body: &Bytes| IntentOperation {
        kind,
        descriptor: path,
        digest: Some(digest_of(body)),
        value: None,
        idempotency_key: None,
        attributes: Map::new(),
    };
    match draft {
        DraftOperation::Descriptor { path, body } => {
            let kind = parse_datamon_path(&path).as_ref().map_or(OperationKind::Entry, OperationKind::from);
            empty(kind, Some(path), &body)
        }
        DraftOperation::Label { repo, label, bundle, body } => IntentOperation {
            value: Some(bundle),
            ..empty(OperationKind::Label, DatamonPath::Label { repo, label }.path(), &body)
        },
        DraftOperation::Entry { attributes } => {
            IntentOperation { digest: None, attributes, ..empty(OperationKind::Entry, None, &Bytes::new()) }
        }
    }
}

/// The operations of a draft that shares an entry: each carries the draft's key and attributes.
fn keyed_operations(draft: EntryDraft) -> Vec<IntentOperation> {
    let EntryDraft { idempotency_key, attributes, ops, .. } = draft;
    let idempotency_key = idempotency_key.filter(|key| !key.is_empty());
    let ops = if ops.is_empty() { vec![DraftOperation::Entry { attributes: Map::new() }] } else { ops };
    let keyed = ops.into_iter().map(operation).enumerate().map(|(n, mut op)| {
        let mut all = attributes.clone();
        all.append(&mut op.attributes);
        op.attributes = all;
        op.idempotency_key = idempotency_key.as_ref().map(|key| member_key(key, n));
        op
    });
    keyed.collect()
}

/// The user metadata that binds an object to its operation.
pub(super) fn binding(token: Token, op: u32) -> tidemark_store::UserMetadata {
    [(TOKEN_FIELD.to_owned(), token.to_string()), (OP_FIELD.to_owned(), op.to_string())].into()
}
