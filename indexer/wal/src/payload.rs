//! What an entry announces: Datamon's formats, our own versioned JSON, and the reasons for refusing everything else.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    datamon::{DatamonPath, has_datamon_layout, parse_datamon_path},
    expectation::CommitExpectation,
    lock::LockName,
    malformed::MalformedInput,
    mutants,
    token::Token,
    yaml::{read_json, read_yaml},
};

/// The version of the JSON intent that is written, and the newest that is read.
pub(crate) const INTENT_VERSION: u64 = 1;
/// Most operations in one entry.
pub const MAX_OPERATIONS: usize = 1000;
/// Longest writer, idempotency key and lock name in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Where the attributes of a payload are in its JSON, whatever its format.
const ATTRIBUTES: &str = "attributes";

/// The format of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// The YAML mapping of `token` and `payload` that Datamon's reader expects.
    Entry,
    /// A bare descriptor path, as Datamon's writer writes it.
    Path,
    /// A bare text or mapping, as Datamon's writer writes it.
    Text,
    /// Our versioned JSON.
    Intent,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// A repo.
    Repo,
    /// A bundle: one commit.
    Bundle,
    /// A label.
    Label,
    /// A context.
    Context,
    /// A diamond.
    Diamond,
    /// A split of a diamond.
    Split,
    /// Anything else that was read.
    Entry,
    /// What could not be read.
    Malformed,
}

impl OperationKind {
    const ALL: [Self; 8] = [
        Self::Repo,
        Self::Bundle,
        Self::Label,
        Self::Context,
        Self::Diamond,
        Self::Split,
        Self::Entry,
        Self::Malformed,
    ];

    /// The kind in lower case: what is stored and searched.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repo => "repo",
            Self::Bundle => "bundle",
            Self::Label => "label",
            Self::Context => "context",
            Self::Diamond => "diamond",
            Self::Split => "split",
            Self::Entry => "entry",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a kind; use one of \"repo\", \"bundle\", \"label\", \"context\", \"diamond\", \"split\", \"entry\" or \"malformed\""
)]
pub struct ParseOperationKindError(String);

impl FromStr for OperationKind {
    type Err = ParseOperationKindError;

    fn from_str(text: &str) -> Result<Self, ParseOperationKindError> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| ParseOperationKindError(text.chars().take(64).collect()))
    }
}

impl From<&DatamonPath> for OperationKind {
    fn from(path: &DatamonPath) -> Self {
        match path {
            DatamonPath::Repo { .. } => Self::Repo,
            DatamonPath::Bundle { .. } => Self::Bundle,
            DatamonPath::Label { .. } => Self::Label,
            DatamonPath::Context { .. } => Self::Context,
            DatamonPath::Diamond { .. } => Self::Diamond,
            DatamonPath::Split { .. } => Self::Split,
            DatamonPath::Other => Self::Entry,
        }
    }
}

/// The write lock that guards an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockRef {
    /// Name of the lock.
    pub name: LockName,
    /// Number of the grant that the writer holds. Without one, any grant of the lock guards it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<u64>,
}

/// What an entry announces.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryIntent {
    /// Its format.
    pub format: PayloadFormat,
    /// Who wrote it.
    pub writer: Option<String>,
    /// The key under which repeated appends count once; see [`EntryIntent::key_of`].
    pub idempotency_key: Option<String>,
    /// The lock that guards it.
    pub lock: Option<LockRef>,
    /// What it expects of an entity: else its operations are conflicted.
    pub expect: Option<CommitExpectation>,
    /// Free attributes.
    pub attributes: Map<String, Value>,
    /// The operations in their order; never empty. They are committed together or not at all.
    pub ops: Vec<IntentOperation>,
    /// The payload as JSON, for search.
    pub raw: Value,
}

/// One operation of an intent.
#[derive(Clone, Debug, PartialEq)]
pub struct IntentOperation {
    /// What it is about.
    pub kind: OperationKind,
    /// Path of the descriptor that completes it; `None` when the entry itself does.
    pub descriptor: Option<String>,
    /// SHA-256 of that descriptor, 64 lower-case hexadecimal digits, where the intent names it.
    pub digest: Option<String>,
    /// What a label names from now on.
    pub value: Option<String>,
    /// The operation's own idempotency key, in an entry that several drafts share.
    pub idempotency_key: Option<String>,
    /// Free attributes.
    pub attributes: Map<String, Value>,
}

/// Between a group's key and the number of an operation. No key that a user chooses may hold it.
const MEMBER_SEPARATOR: char = '\u{1}';

/// The key of operation `op` of a group under `key`: the first has the group's own.
pub(crate) fn member_key(key: &str, op: usize) -> String {
    if op == 0 { key.to_owned() } else { format!("{key}{}{op}", mutants::member_separator(MEMBER_SEPARATOR)) }
}

impl EntryIntent {
    /// The idempotency key of operation `op`: its own, else the intent's, made one of its own by [`member_key`] after the
    /// first, so that the operations of one group are no duplicates of each other while a repeated group is one of all.
    pub fn key_of(&self, op: usize) -> Option<String> {
        let own = self.ops.get(op)?.idempotency_key.clone();
        own.or_else(|| Some(member_key(self.idempotency_key.as_ref()?, op)))
    }

    fn simple(format: PayloadFormat, operation: IntentOperation, raw: Value) -> Self {
        Self {
            format,
            writer: None,
            idempotency_key: None,
            lock: None,
            expect: None,
            attributes: Map::new(),
            ops: vec![operation],
            raw,
        }
    }
}

impl IntentOperation {
    fn on(announced: AnnouncedPath) -> Self {
        let AnnouncedPath { descriptor, path } = announced;
        Self { kind: (&path).into(), descriptor: Some(descriptor), ..Self::entry(Map::new()) }
    }

    fn entry(attributes: Map<String, Value>) -> Self {
        Self {
            kind: OperationKind::Entry,
            descriptor: None,
            digest: None,
            value: None,
            idempotency_key: None,
            attributes,
        }
    }

    pub(crate) fn malformed() -> Self {
        Self { kind: OperationKind::Malformed, ..Self::entry(Map::new()) }
    }
}

/// Reads the payload of the entry `token`. Never panics; time and memory are linear in the body.
pub fn parse_payload(token: Token, body: &[u8]) -> Result<EntryIntent, MalformedInput> {
    let text = std::str::from_utf8(body)
        .map_err(|error| MalformedInput::new(format!("not UTF-8 text from byte {}", error.valid_up_to())))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(MalformedInput::new("empty"));
    }
    if let Some(control) = text.chars().find(|c| is_binary(*c)) {
        return Err(MalformedInput::new(format!("binary: it holds the control character {control:?}")));
    }
    if let Some(path) = as_path(token, text) {
        return Ok(EntryIntent::simple(PayloadFormat::Path, IntentOperation::on(path?), text.into()));
    }
    match mapping(text)? {
        Some(raw) if raw.contains_key("tidemark") => read_intent(raw),
        Some(raw) if is_entry(&raw) => read_entry(token, raw),
        Some(attributes) => {
            let raw = json!({ATTRIBUTES: attributes});
            Ok(EntryIntent::simple(PayloadFormat::Text, IntentOperation::entry(attributes), raw))
        }
        None => Ok(EntryIntent::simple(PayloadFormat::Text, IntentOperation::entry(Map::new()), text.into())),
    }
}

/// Whether it is Datamon's entry, which may leave the token out.
fn is_entry(raw: &Map<String, Value>) -> bool {
    raw.contains_key("payload") && (raw.contains_key("token") || raw.len() == 1)
}

/// Whether it is in no text.
fn is_binary(c: char) -> bool {
    c < ' ' && !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}')
}

/// A JSON object, or a YAML mapping: both forms of body are one. `None` for other text; an error where it is meant as our intent.
fn mapping(text: &str) -> Result<Option<Map<String, Value>>, MalformedInput> {
    let value = match text.starts_with('{').then(|| read_json(text)) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) if text.contains("\"tidemark\"") => return Err(error),
        _ => read_yaml(text),
    };
    Ok(match value {
        Ok(Value::Object(map)) => Some(map),
        _ => None,
    })
}

/// The path of a descriptor that a payload names.
struct AnnouncedPath {
    descriptor: String,
    path: DatamonPath,
}

/// Whether `text` is meant as the path of a descriptor, and if so, which one.
fn as_path(token: Token, text: &str) -> Option<Result<AnnouncedPath, MalformedInput>> {
    let descriptor = own_bundle(token, text).or_else(|| is_path(text).then(|| text.to_owned()))?;
    Some(parse_datamon_path(&descriptor).map(|path| AnnouncedPath { descriptor, path }))
}

/// `bundles/{repo}/` means the bundle whose id is the token: its writer knows no token yet.
fn own_bundle(token: Token, text: &str) -> Option<String> {
    let repo = text.strip_prefix("bundles/")?.strip_suffix('/')?;
    (!repo.is_empty() && !repo.contains(['/', '\n', '\r'])).then(|| format!("{text}{token}/bundle.yaml"))
}

fn is_path(text: &str) -> bool {
    // Datamon checks no name of a label, a context or a split.
    if !text.contains(['\n', '\r']) && has_datamon_layout(text) {
        return true;
    }
    let path = !text.contains(char::is_whitespace) && text.contains(['/', '\\']) && !text.starts_with(['{', '[', '"']);
    let file = [".yaml", ".yml", ".json"].iter().any(|end| text.ends_with(end));
    let climbs = text.starts_with(['/', '\\']) || text.split(['/', '\\']).any(|segment| segment == "..");
    path && (file || climbs)
}

/// Datamon's entry: the key is the token, so a body that names another one is not this key's.
fn read_entry(token: Token, mut raw: Map<String, Value>) -> Result<EntryIntent, MalformedInput> {
    // Its writer knows no token before the entry has one.
    let is_unnamed = raw.get("token").is_none_or(|named| named.is_null() || *named == "");
    let named = raw.get("token").and_then(Value::as_str).unwrap_or_default();
    if !is_unnamed && named != token.to_string() {
        let shown: String = named.chars().take(64).collect();
        return Err(MalformedInput::new(format!("the entry names token {shown:?}, its key is \"{token}\"")));
    }
    let operation = match raw.get("payload") {
        Some(Value::String(text)) => read_text(token, text.trim())?,
        Some(Value::Object(attributes)) => IntentOperation::entry(attributes.clone()),
        _ => IntentOperation::entry(Map::new()),
    };
    if !operation.attributes.is_empty() {
        raw.entry(ATTRIBUTES).or_insert_with(|| operation.attributes.clone().into());
    }
    Ok(EntryIntent::simple(PayloadFormat::Entry, operation, raw.into()))
}

/// The payload of Datamon's entry: a path, or a journal record that the entry itself completes.
fn read_text(token: Token, text: &str) -> Result<IntentOperation, MalformedInput> {
    if let Some(path) = as_path(token, text) {
        return Ok(IntentOperation::on(path?));
    }
    Ok(IntentOperation::entry(mapping(text).ok().flatten().unwrap_or_default()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireIntent {
    #[serde(default)]
    writer: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    lock: Option<LockRef>,
    #[serde(default)]
    expect: Option<CommitExpectation>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default)]
    ops: Vec<WireOperation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireOperation {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    descriptor: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    /// Refused: an expectation is the whole entry's.
    #[serde(default)]
    expect: Option<Value>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

fn read_intent(raw: Map<String, Value>) -> Result<EntryIntent, MalformedInput> {
    check_version(&raw)?;
    let raw = Value::Object(raw);
    let wire = WireIntent::deserialize(&raw)
        .map_err(|error| MalformedInput::new(format!("the intent cannot be read: {error}")))?;
    let ops = read_operations(wire.ops)?;
    Ok(EntryIntent {
        format: PayloadFormat::Intent,
        writer: name("writer", wire.writer)?,
        idempotency_key: name("idempotencyKey", wire.idempotency_key)?,
        lock: wire.lock,
        expect: wire.expect.map(CommitExpectation::checked).transpose()?,
        attributes: wire.attributes,
        ops,
        raw,
    })
}

fn check_version(raw: &Map<String, Value>) -> Result<(), MalformedInput> {
    match raw.get("tidemark").and_then(Value::as_u64) {
        Some(INTENT_VERSION) => Ok(()),
        Some(newer) if newer > INTENT_VERSION => Err(MalformedInput::new(format!(
            "an intent of version {newer}, newer than version {INTENT_VERSION} that this release reads; upgrade Tidemark"
        ))),
        _ => Err(MalformedInput::new("an intent without a version: \"tidemark\" must be the number 1")),
    }
}

/// An intent without operations is one operation that the entry completes.
fn read_operations(wire: Vec<WireOperation>) -> Result<Vec<IntentOperation>, MalformedInput> {
    if wire.len() > MAX_OPERATIONS {
        return Err(MalformedInput::new(format!("{} operations, more than {MAX_OPERATIONS}", wire.len())));
    }
    let ops = wire.into_iter().map(read_operation).collect::<Result<Vec<_>, _>>()?;
    let mut named = BTreeSet::new();
    for path in ops.iter().filter_map(|op| op.descriptor.as_deref()) {
        if !named.insert(path) {
            return Err(MalformedInput::new(format!("two operations name the descriptor \"{path}\"")));
        }
    }
    Ok(if ops.is_empty() { vec![IntentOperation::entry(Map::new())] } else { ops })
}

fn read_operation(wire: WireOperation) -> Result<IntentOperation, MalformedInput> {
    let path = wire.descriptor.as_deref().map(parse_datamon_path).transpose()?;
    let derived = path.as_ref().map_or(OperationKind::Entry, OperationKind::from);
    let named = wire.kind.as_deref().map(|text| text.parse().unwrap_or(OperationKind::Entry));
    if let Some(named) = named.filter(|named| *named != derived && derived != OperationKind::Entry) {
        return Err(MalformedInput::new(format!(
            "an operation of kind \"{named}\" names the descriptor of a {derived}"
        )));
    }
    if wire.expect.is_some() {
        return Err(MalformedInput::new(
            "an operation has \"expect\", which stands beside \"ops\" and holds for all of them",
        ));
    }
    if wire.digest.as_deref().is_some_and(|digest| !is_digest(digest)) {
        return Err(MalformedInput::new("a digest that is not 64 lower-case hexadecimal digits"));
    }
    Ok(IntentOperation {
        kind: derived,
        descriptor: wire.descriptor,
        digest: wire.digest,
        value: bounded("value", wire.value)?,
        idempotency_key: own_key(wire.idempotency_key)?,
        attributes: wire.attributes,
    })
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that people choose: without control characters, which derived keys are made with.
fn name(field: &str, text: Option<String>) -> Result<Option<String>, MalformedInput> {
    let text = bounded(field, text)?;
    match &text {
        Some(text) if text.contains(|c: char| c < ' ') => {
            Err(MalformedInput::new(format!("\"{field}\" holds a control character")))
        }
        _ => Ok(text),
    }
}

/// An operation's own key. Where several drafts share an entry, it is the derived one of a group's member.
fn own_key(text: Option<String>) -> Result<Option<String>, MalformedInput> {
    let member = text.as_deref().and_then(|text| text.rsplit_once(MEMBER_SEPARATOR));
    let is_number = |number: &str| number.parse().is_ok_and(|op: usize| op > 0 && op.to_string() == number);
    match member {
        Some((key, number)) if is_number(number) => {
            name("idempotencyKey", Some(key.to_owned()))?;
            bounded("idempotencyKey", text)
        }
        _ => name("idempotencyKey", text),
    }
}

fn bounded(field: &str, text: Option<String>) -> Result<Option<String>, MalformedInput> {
    match text {
        Some(text) if text.len() > MAX_NAME_BYTES => {
            Err(MalformedInput::new(format!("\"{field}\" is longer than {MAX_NAME_BYTES} bytes")))
        }
        Some(text) if text.is_empty() => Ok(None),
        other => Ok(other),
    }
}

/// An intent that is to be written; `raw` is left out, since it is what this makes.
pub(crate) fn write_intent(intent: &EntryIntent) -> Value {
    let mut object = Map::new();
    object.insert("tidemark".to_owned(), INTENT_VERSION.into());
    put(&mut object, "writer", intent.writer.clone().map(Value::from));
    put(&mut object, "idempotencyKey", intent.idempotency_key.clone().map(Value::from));
    put(&mut object, "lock", intent.lock.as_ref().map(|lock| json!(lock)));
    put(&mut object, "expect", intent.expect.as_ref().map(|expect| json!(expect)));
    put(&mut object, "attributes", filled(&intent.attributes));
    object.insert("ops".to_owned(), intent.ops.iter().map(write_operation).collect());
    Value::Object(object)
}

fn write_operation(operation: &IntentOperation) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), operation.kind.as_str().into());
    put(&mut object, "descriptor", operation.descriptor.clone().map(Value::from));
    put(&mut object, "digest", operation.digest.clone().map(Value::from));
    put(&mut object, "value", operation.value.clone().map(Value::from));
    put(&mut object, "idempotencyKey", operation.idempotency_key.clone().map(Value::from));
    put(&mut object, "attributes", filled(&operation.attributes));
    Value::Object(object)
}

fn put(object: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(field.to_owned(), value);
    }
}

fn filled(attributes: &Map<String, Value>) -> Option<Value> {
    (!attributes.is_empty()).then(|| Value::Object(attributes.clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";

    fn read(body: &str) -> Result<EntryIntent, MalformedInput> {
        parse_payload(TOKEN.parse().unwrap(), body.as_bytes())
    }

    fn reason(body: &str) -> String {
        read(body).unwrap_err().reason
    }

    #[test]
    fn an_intent_expects_one_commit_and_nothing_else_passes_for_that() {
        let expected =
            |expect: &str| read(&format!(r#"{{"tidemark": 1, "expect": {expect}}}"#)).map(|read| read.expect);
        let label = |token: Option<&str>| {
            Ok(Some(CommitExpectation {
                entity: "label/r/best".to_owned(),
                token: token.map(|token| token.parse().unwrap()),
            }))
        };
        let named = format!(r#"{{"entity": "label/r/best", "token": "{TOKEN}"}}"#);
        assert_eq!(expected(&named), label(Some(TOKEN)));
        assert_eq!(expected(r#"{"entity": "label/r/best", "token": null}"#), label(None));
        assert_eq!(expected(r#"{"entity": "label/r/best"}"#), label(None));
        assert_eq!(expected("null"), Ok(None));
        for wrong in [
            r#"{"entity": "label/r/best", "token": "b1"}"#,
            r#"{"entity": "label/r/best", "tokn": null}"#,
            r#"{"token": null}"#,
            r#"{"entity": "labels/r/best/label.yaml"}"#,
            r#"{"entity": ""}"#,
            r#"[{"entity": "label/r/best"}]"#,
            r#""label/r/best""#,
        ] {
            assert!(expected(wrong).is_err(), "{wrong}");
        }
        let in_operation = r#"{"tidemark": 1, "ops": [{"expect": {"entity": "label/r/best"}}]}"#;
        assert!(reason(in_operation).contains("stands beside \"ops\""));
        let intent = read(&format!(r#"{{"tidemark": 1, "expect": {named}}}"#)).unwrap();
        let written = write_intent(&intent).to_string();
        assert_eq!(read(&written).unwrap().expect, intent.expect);
    }

    #[test]
    fn reads_a_bare_path() {
        let intent = read("bundles/r/b/bundle.yaml\n").unwrap();
        assert_eq!((intent.format, intent.ops[0].kind), (PayloadFormat::Path, OperationKind::Bundle));
        assert_eq!(intent.ops[0].descriptor.as_deref(), Some("bundles/r/b/bundle.yaml"));
        assert_eq!(read("models/m/model.yaml").unwrap().ops[0].kind, OperationKind::Entry);
    }

    #[test]
    fn reads_datamons_entry() {
        let intent = read(&format!("token: {TOKEN}\npayload: labels/r/v1/label.yaml\n")).unwrap();
        assert_eq!((intent.format, intent.ops[0].kind), (PayloadFormat::Entry, OperationKind::Label));
        let intent = read(&format!("{{\"token\": \"{TOKEN}\", \"payload\": \"free text\"}}")).unwrap();
        assert_eq!((intent.format, intent.ops[0].kind), (PayloadFormat::Entry, OperationKind::Entry));
        assert_eq!(intent.ops[0].descriptor, None);
        let intent = read(&format!("token: {TOKEN}\npayload: '{{\"command\": \"run\"}}'\n")).unwrap();
        assert_eq!(intent.ops[0].attributes["command"], "run");
    }

    #[test]
    fn a_bare_text_or_mapping_is_completed_by_the_entry() {
        for text in ["hello", "42", "- a\n- b", "{", "a/b", "x.yaml", "journal text with a walrus", "[WIP] x: y: z"] {
            let intent = read(text).unwrap();
            assert_eq!(
                (intent.format, &intent.ops[..]),
                (PayloadFormat::Text, &[IntentOperation::entry(Map::new())][..])
            );
            assert_eq!(intent.raw, text);
        }
        for text in ["command: run\nuser: grace\n", r#"{"command": "run", "user": "grace"}"#] {
            let intent = read(text).unwrap();
            assert_eq!(intent.format, PayloadFormat::Text);
            assert_eq!(intent.ops[0].attributes["user"], "grace");
            assert_eq!(intent.raw["attributes"]["command"], "run");
        }
    }

    #[test]
    fn attributes_stand_in_one_place_in_every_format() {
        for payload in ["'{\"user\": \"grace\"}'", "{user: grace}", "\"user: grace\""] {
            let intent = read(&format!("token: {TOKEN}\npayload: {payload}\n")).unwrap();
            assert_eq!(intent.raw["attributes"]["user"], "grace", "{payload}");
            assert_eq!(intent.ops[0].attributes["user"], "grace");
        }
    }

    #[test]
    fn a_path_of_datamons_layout_is_one_with_white_space_too() {
        let paths =
            ["labels/r/never set entry/label.yaml", "contexts/with space/context.yaml", "labels/r/a\\b/label.yaml"];
        let split = "diamonds/r/d/splits/worker 3/split-done.yaml";
        for path in paths.into_iter().chain([split]) {
            let kind = OperationKind::from(&parse_datamon_path(path).unwrap());
            for (body, format) in [
                (path.to_owned(), PayloadFormat::Path),
                (format!("token: {TOKEN}\npayload: '{path}'\n"), PayloadFormat::Entry),
            ] {
                let intent = read(&body).unwrap();
                assert_eq!((intent.format, intent.ops[0].kind), (format, kind));
                assert_eq!(intent.ops[0].descriptor.as_deref(), Some(path));
            }
        }
        assert!(reason("labels/r/tab\there/label.yaml").contains("control character"));
        assert_eq!(read("see labels/r/x/label.yaml").unwrap().format, PayloadFormat::Text);
        assert_eq!(read("labels/r/x\nlabels/r/y/label.yaml").unwrap().format, PayloadFormat::Text);
    }

    #[test]
    fn a_folder_of_bundles_means_the_bundle_that_bears_the_token() {
        let expected = format!("bundles/my repo/{TOKEN}/bundle.yaml");
        for body in ["bundles/my repo/".to_owned(), "token: ''\npayload: bundles/my repo/\n".to_owned()] {
            let intent = read(&body).unwrap();
            assert_eq!(intent.ops[0].kind, OperationKind::Bundle);
            assert_eq!(intent.ops[0].descriptor.as_deref(), Some(expected.as_str()));
        }
        assert!(read("bundles/../").is_err());
        assert_eq!(read("bundles/").unwrap().format, PayloadFormat::Text);
    }

    #[test]
    fn an_entry_without_a_token_contradicts_nothing() {
        for token in ["token: ''\n", "token: ~\n", "token:\n", ""] {
            let intent = read(&format!("{token}payload: repos/r/repo.yaml\n")).unwrap();
            assert_eq!(intent.ops[0].kind, OperationKind::Repo);
        }
    }

    #[test]
    fn an_entry_that_names_another_token_is_malformed() {
        let reason = reason("token: 000000000000000000000000000\npayload: bundles/r/b/bundle.yaml\n");
        assert!(reason.contains(TOKEN) && reason.contains("000000000000000000000000000"), "{reason}");
    }

    #[test]
    fn reads_our_intent() {
        let digest = "ab".repeat(32);
        let intent = read(&format!(
            r#"{{"tidemark":1,"writer":"w","idempotencyKey":"k","lock":{{"name":"l","grant":7}},"attributes":{{"a":1}},
            "ops":[{{"kind":"bundle","descriptor":"bundles/r/b/bundle.yaml","digest":"{digest}"}},
                   {{"kind":"label","descriptor":"labels/r/v1/label.yaml","value":"b"}},{{"attributes":{{"x":true}}}}]}}"#
        ))
        .unwrap();
        assert_eq!(intent.format, PayloadFormat::Intent);
        assert_eq!(intent.lock, Some(LockRef { name: "l".parse().unwrap(), grant: Some(7) }));
        assert_eq!(
            intent.ops.iter().map(|op| op.kind).collect::<Vec<_>>(),
            [OperationKind::Bundle, OperationKind::Label, OperationKind::Entry]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|op| intent.key_of(op)),
            [Some("k".into()), Some("k\u{1}1".into()), Some("k\u{1}2".into()), None]
        );
        assert_eq!(read(r#"{"tidemark":1}"#).unwrap().ops, [IntentOperation::entry(Map::new())]);
    }

    #[test]
    fn a_key_that_a_user_chooses_is_never_that_of_another_groups_member() {
        for field in ["writer", "idempotencyKey"] {
            for control in ["\\u0001", "\\u0000", "\\n"] {
                assert!(reason(&format!(r#"{{"tidemark":1,"{field}":"k{control}1"}}"#)).contains("control character"));
            }
        }
        let op = |key: &str| read(&format!(r#"{{"tidemark":1,"ops":[{{"idempotencyKey":"{key}"}}]}}"#));
        assert_eq!(op("k#1").unwrap().key_of(0).unwrap(), "k#1");
        // As a draft of several operations has it in an entry that it shares.
        assert_eq!(op("k\\u00012").unwrap().key_of(0).unwrap(), "k\u{1}2");
        for refused in ["k\\u00010", "k\\u000101", "k\\u0001x", "k\\u0001", "a\\u00011\\u00012", "k\\t"] {
            assert!(op(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_newer_intent_says_so() {
        assert!(reason(r#"{"tidemark":2,"ops":"whatever"}"#).contains("version 2"));
        for body in [r#"{"tidemark":0}"#, r#"{"tidemark":"1"}"#, r#"{"tidemark":-1}"#] {
            assert!(reason(body).contains("version"), "{body}");
        }
    }

    #[test]
    fn refuses_hostile_paths_in_every_form() {
        for path in ["../secret.yaml", "/etc/passwd.yaml", "a/../../b", "bundles//b/bundle.yaml", "..\\\\x"] {
            assert!(read(&path.replace("\\\\", "\\")).is_err(), "{path}");
            assert!(read(&format!("token: {TOKEN}\npayload: \"{path}\"\n")).is_err(), "{path}");
            assert!(read(&format!(r#"{{"tidemark":1,"ops":[{{"descriptor":"{path}"}}]}}"#)).is_err(), "{path}");
        }
        assert!(read(r#"{"tidemark":1,"ops":[{"descriptor":"a\u0000b.yaml"}]}"#).is_err());
        assert!(read(r#"{"tidemark":1,"ops":[{"descriptor":".tidemark/root/0"}]}"#).is_err());
    }

    #[test]
    fn refuses_what_is_no_payload() {
        for body in ["", " \n", "{\"tidemark\":1", "\u{0}\u{1}", "text with a \u{7}bell"] {
            assert!(read(body).is_err(), "{body:?}");
        }
        assert!(parse_payload(TOKEN.parse().unwrap(), &[0xff, 0, 1]).unwrap_err().reason.contains("byte 0"));
    }

    #[test]
    fn refuses_intents_that_contradict_themselves() {
        let twice = r#"{"tidemark":1,"ops":[{"descriptor":"a/b.yaml"},{"descriptor":"a/b.yaml"}]}"#;
        assert!(reason(twice).contains("two operations"));
        assert!(
            reason(r#"{"tidemark":1,"ops":[{"kind":"repo","descriptor":"bundles/r/b/bundle.yaml"}]}"#).contains("kind")
        );
        assert!(reason(r#"{"tidemark":1,"ops":[{"digest":"ABC"}]}"#).contains("digest"));
        assert!(reason(&format!(r#"{{"tidemark":1,"writer":"{}"}}"#, "w".repeat(2000))).contains("writer"));
        assert!(
            reason(&format!(r#"{{"tidemark":1,"ops":[{}{{}}]}}"#, "{},".repeat(MAX_OPERATIONS))).contains("operations")
        );
    }

    #[test]
    fn megabytes_of_anything_are_read_in_bounded_time() {
        for piece in ["x", "[", "{", "a: ", "- ", "\"", "&a [*a, ", "\u{0}", "# ", "? ", "bundles/"] {
            let _ = read(&piece.repeat((1 << 20) / piece.len()));
        }
    }

    fn intents() -> impl Strategy<Value = EntryIntent> {
        let name = proptest::option::of("[a-z#:/ é]{1,12}");
        let attributes = proptest::collection::btree_map("[a-z]{1,4}", any::<i32>(), 0..3)
            .prop_map(|map| map.into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, _>>());
        let op = (name.clone(), attributes.clone(), 0..3u8);
        (name.clone(), name, attributes, proptest::collection::vec(op, 1..4)).prop_map(
            |(writer, key, attributes, ops)| {
                let ops = ops.into_iter().enumerate().map(|(n, (key, attributes, kind))| {
                    let path =
                        [None, Some(format!("bundles/r/{n}/bundle.yaml")), Some(format!("labels/r/{n}/label.yaml"))];
                    let descriptor = path[usize::from(kind)].clone();
                    IntentOperation {
                        kind: [OperationKind::Entry, OperationKind::Bundle, OperationKind::Label][usize::from(kind)],
                        digest: descriptor.as_ref().map(|_| "0a".repeat(32)),
                        value: descriptor.as_ref().map(|_| "b".to_owned()),
                        descriptor,
                        idempotency_key: key,
                        attributes,
                    }
                });
                let mut intent = EntryIntent::simple(PayloadFormat::Intent, IntentOperation::malformed(), Value::Null);
                (intent.writer, intent.idempotency_key, intent.attributes) = (writer, key, attributes);
                intent.ops = ops.collect();
                intent.raw = write_intent(&intent);
                intent
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(intent in intents()) {
            let body = serde_json::to_string(&intent.raw).unwrap();
            prop_assert_eq!(read(&body).unwrap(), intent);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let _ = parse_payload(TOKEN.parse().unwrap(), &body);
        }

        #[test]
        fn damaged_intents_are_read_without_a_panic(intent in intents(), at: prop::sample::Index, with in "[\\[\\]{}:,\"a1*&\n-]{0,6}") {
            let mut body = serde_json::to_string(&intent.raw).unwrap();
            let at = at.index(body.len());
            if body.is_char_boundary(at) {
                body.insert_str(at, &with);
            }
            let _ = read(&body);
            if body.is_char_boundary(at) {
                let _ = read(&body[..at]);
            }
        }
    }
}
