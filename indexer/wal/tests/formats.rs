//! Old formats stay readable: one file a format that was ever written. A file is never changed; a new format brings a new one.

#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::{Value, json};
use tidemark_wal::{EntryIntent, IntentOperation, LockRef, OperationKind, PayloadFormat, Token, parse_payload};

fn object(value: Value) -> serde_json::Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

/// With every field, and one that a later writer of the same version may add.
#[test]
fn an_intent_of_version_1_is_read() {
    let kept = include_bytes!("formats/intent-1.json");
    let operation = |kind| IntentOperation {
        kind,
        descriptor: None,
        digest: None,
        value: None,
        idempotency_key: None,
        attributes: object(json!({})),
    };
    let expected = EntryIntent {
        format: PayloadFormat::Intent,
        writer: Some("w".to_owned()),
        idempotency_key: Some("k".to_owned()),
        lock: Some(LockRef { name: "l".parse().unwrap(), grant: Some(7) }),
        expect: Some("label/r/v1=0ujtsYcgvSTl8PAuAdqWYSMnLOv".parse().unwrap()),
        attributes: object(serde_json::from_str(r#"{"team": "tide", "share": 2.50}"#).unwrap()),
        ops: vec![
            IntentOperation {
                descriptor: Some("bundles/r/b/bundle.yaml".to_owned()),
                digest: Some("ab".repeat(32)),
                ..operation(OperationKind::Bundle)
            },
            IntentOperation {
                descriptor: Some("labels/r/v1/label.yaml".to_owned()),
                value: Some("b".to_owned()),
                ..operation(OperationKind::Label)
            },
            IntentOperation {
                idempotency_key: Some("own".to_owned()),
                attributes: object(json!({"x": [true, null]})),
                ..operation(OperationKind::Entry)
            },
        ],
        raw: serde_json::from_slice(kept).unwrap(),
    };
    let read = parse_payload(Token::from_bytes([1; 20]), kept).unwrap();
    assert_eq!(read, expected);
    assert_eq!([0, 1, 2].map(|op| read.key_of(op).unwrap()), ["k", "k\u{1}1", "own"]);
}
