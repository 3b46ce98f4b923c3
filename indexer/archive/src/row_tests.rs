//! Every record comes back from a data file as it was.

use std::ops::Bound;

use bytes::Bytes;
use proptest::{option, prelude::*};
use serde_json::{Map, Value, json};
use tidemark_catalog::{BodyDigest, Generation};
use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, OperationKind, Outcome, Token};

use crate::{
    checked_object::CheckedObject,
    data_file::{DataFileEncoder, OpenDataFile, RowTotals},
    names::{ArchiveDay, PartKind, PartName, VersionAttempt},
    row::{ArchiveRow, MAX_RECORD_DESCRIPTOR_BYTES},
    testing::{ALL_TOKENS, SMALL, log, record, rows, token},
    token_range::TokenRange,
};

/// A data file of these rows, opened, and what they add up to.
fn written(rows: &[ArchiveRow]) -> (OpenDataFile, RowTotals) {
    let mut file = DataFileEncoder::new(&log(), ArchiveDay(20_000), SMALL).unwrap();
    for row in rows {
        file.push(row.clone());
        if file.is_group_full() {
            file.flush().unwrap();
        }
    }
    let file = file.finish().unwrap();
    let attempt = VersionAttempt { version: 1, nonce: "0".repeat(32) };
    let name =
        PartName { kind: PartKind::Data { day: file.day.to_string(), part: 0 }, attempt, sha256: "0".repeat(64) };
    let object = CheckedObject { name, bytes: file.bytes, time: StoreSecond::default() };
    (OpenDataFile::open("url".to_owned(), &object).unwrap(), file.totals)
}

fn written_and_read(rows: &[ArchiveRow]) -> Vec<ArchiveRow> {
    let (open, totals) = written(rows);
    assert_eq!(open.totals().unwrap(), totals);
    (0..open.groups()).flat_map(|group| open.rows(group, &ALL_TOKENS).unwrap()).collect()
}

#[test]
fn of_a_second_only_the_row_groups_with_it_are_decoded() {
    let rows = rows(0..60);
    let (open, _) = written(&rows);
    assert!(open.groups() > 10);
    assert_eq!(open.groups_with(&ALL_TOKENS).len(), open.groups());
    for at in 0..60 {
        let of_second = TokenRange { start: Bound::Included(token(at, 0)), end: Bound::Excluded(token(at + 1, 0)) };
        let groups = open.groups_with(&of_second);
        assert!(groups.len() <= 2, "second {at}: {groups:?}");
        let found: Vec<_> = groups.into_iter().flat_map(|group| open.rows(group, &of_second).unwrap()).collect();
        let expected: Vec<_> = rows.iter().filter(|row| of_second.contains(row.record.token)).cloned().collect();
        assert!(found == expected && !found.is_empty(), "second {at}");
    }
    let after = TokenRange { start: Bound::Excluded(token(60, 9)), end: Bound::Unbounded };
    assert!(open.groups_with(&after).is_empty());
}

/// What an entry's body may be: an intent, something malformed, nothing that was read.
fn body() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-z]{0,20}".prop_map(Value::from),
        Just(json!("bundles/r/b/bundle.yaml")),
        Just(json!(
            r#"{"version":1,"ops":[{"attributes":{"size":0.1,"n":18446744073709551615,"e":1e21}},{"attributes":{}}],"writer":"w"}"#
        )),
        Just(json!("token: 2Yx\npayload: labels/r/l/label.yaml\n")),
        ".{0,40}".prop_map(Value::from),
    ];
    let digest = any::<[u8; 4]>().prop_map(|bytes| json!({ "sha256": BodyDigest::of(&bytes) }));
    prop_oneof![4 => text, 1 => Just(json!({ "base64": "/wCA" })), 2 => digest, 1 => Just(Value::Null)]
}

fn attributes() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|number| Value::from(f64::from(number) / 8.0)),
        ".{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn observations() -> impl Strategy<Value = Value> {
    let evidence =
        prop::sample::select(vec![None, Some(Evidence::Bound), Some(Evidence::Timed), Some(Evidence::Inferred)]);
    let one = (".{0,12}", 0..u64::from(u32::MAX), "[0-9a-f]{64}", any::<bool>(), evidence).prop_map(
        |(key, time, digest, read, evidence)| {
            let digest = if read { digest } else { String::new() };
            json!({ "key": key, "time": time, "digest": digest, "evidence": evidence })
        },
    );
    prop::collection::vec(one, 0..3).prop_map(Value::from)
}

/// A record as a document of the index stores it: what follows from the bytes is derived when it is read.
fn stored_record() -> impl Strategy<Value = OperationRecord> {
    let settled = Outcome::ALL.into_iter().filter(|one| !matches!(one, Outcome::Pending | Outcome::Unreadable));
    let outcome = prop::sample::select(settled.collect::<Vec<_>>());
    let kinds = [OperationKind::Repo, OperationKind::Label, OperationKind::Entry, OperationKind::Malformed];
    let evidence = option::of(prop::sample::select(vec![Evidence::Bound, Evidence::Timed, Evidence::Inferred]));
    let times = (1_400_000_000u64..5_000_000_000, option::of(0..=u64::from(u32::MAX)));
    let guard = option::of((any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), option::of(any::<u64>())));
    let guard = guard.prop_map(|guard| {
        guard.map(|(time, grant, slot, until, by)| {
            json!({"time": time, "grant": grant, "slot": slot, "until": until, "overtakenBy": by})
        })
    });
    let decision = (outcome, evidence, times, observations(), guard);
    let decision = decision.prop_map(|(outcome, evidence, times, observations, guard)| {
        json!({
            "outcome": outcome, "evidence": evidence, "entryTime": times.0, "completed": times.1,
            "observations": observations, "guard": guard,
        })
    });
    let names = prop::collection::vec(option::of(".{0,12}"), 12);
    let numbers = (any::<u32>(), 0..=u64::MAX >> 1, 0..=i32::MAX, any::<Option<u64>>(), any::<Option<u64>>());
    let contributors = prop::collection::vec((".{0,8}", ".{0,8}"), 0..3);
    let client_time = option::of(prop::sample::select(vec!["0001-01-01T00:00:00Z", "2026-01-31T12:00:00.123456789Z"]));
    let descriptor = option::of(prop::sample::select(vec!["id: b\nmessage: m\n", "leafSize: 1.5\n", "]", ""]));
    let files = option::of((prop::collection::vec(".{0,8}", 0..3), option::of(".{0,8}")));
    let expectation = option::of(("[a-z/]{0,9}", option::of(0..9u64), option::of(0..9u64))).prop_map(|expected| {
        let conflict = |at: Option<u64>| at.map(|at| json!({ "token": token(at, 1), "op": at }));
        expected.map(|(entity, of, by)| json!({ "entity": entity, "token": of.map(|of| token(of, 1)), "conflict": conflict(by) }))
    });
    let values = (attributes(), attributes(), body(), descriptor, files, expectation);
    let parts = (decision, names, numbers, prop::sample::select(kinds.to_vec()), contributors, client_time, values);
    parts.prop_map(|(decision, names, numbers, kind, contributors, client_time, values)| {
        let (random, size, op, leaf_size, count) = numbers;
        let (payload, descriptor, body, descriptor_body, files, expectation) = values;
        let contributors: Vec<_> =
            contributors.into_iter().map(|(name, email)| json!({ "name": name, "email": email })).collect();
        let token = token(u64::from(random % 1000), u8::try_from(random % 251).unwrap());
        let body_stands = !body.is_null() && body.get("sha256").is_none();
        let mut record = json!({
            "seq": u64::from(random), "token": token, "op": op, "kind": kind, "decision": decision,
            "contributors": contributors, "size": size, "payload": if body_stands { Value::Null } else { payload },
            "descriptor": descriptor,
        });
        let named = [
            "entity",
            "repo",
            "bundle",
            "label",
            "context",
            "diamond",
            "split",
            "path",
            "message",
            "writer",
            "idempotencyKey",
            "reason",
        ];
        let optional = named.into_iter().zip(names.into_iter().map(|name| name.map(Value::from)));
        let optional = optional.chain([
            ("clientTime", client_time.map(Value::from)),
            ("leafSize", leaf_size.map(Value::from)),
            ("count", count.map(Value::from)),
            ("descriptorBody", descriptor_body.map(Value::from)),
            ("files", files.map(|(names, incomplete)| json!({ "names": names, "incomplete": incomplete }))),
            ("expectation", expectation),
            ("body", Some(body).filter(|body| !body.is_null())),
        ]);
        for (name, value) in optional {
            if let Some(value) = value {
                record[name] = value;
            }
        }
        serde_json::from_value(record).unwrap()
    })
}

#[test]
fn a_descriptor_that_is_too_large_for_the_record_comes_back_beside_it() {
    let large = Bytes::from(vec![b'd'; MAX_RECORD_DESCRIPTOR_BYTES + 1]);
    let row = ArchiveRow::new(Generation::first(), record(token(1, 1), 0, b"x"));
    let row = ArchiveRow { large_descriptor: Some(large), ..row };
    assert_eq!(written_and_read(std::slice::from_ref(&row)), [row]);
}

/// A number that its column does not hold is refused, not cut.
#[test]
fn numbers_that_do_not_fit_are_refused() {
    let mut row = ArchiveRow::new(Generation::first(), record(token(1, 1), 0, b"x"));
    row.record.size = u64::MAX;
    assert!(crate::row_encoder::encode_rows(&[row.clone()]).is_err());
    row.record.size = 1;
    row.record.decision.entry_time = StoreSecond::from_unix(u64::MAX);
    assert!(crate::row_encoder::encode_rows(&[row]).is_err());
}

#[test]
fn a_body_that_is_not_of_its_digest_is_damage() {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    let row = ArchiveRow::new(Generation::first(), record(token(1, 1), 0, b"x"));
    let batch = crate::row_encoder::encode_rows(&[row]).unwrap();
    let other = BodyDigest::of(b"y").to_string();
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| match &**field.name() {
        "entry_sha256" => std::sync::Arc::new(StringArray::from(vec![other.as_str()])) as ArrayRef,
        _ => std::sync::Arc::clone(column),
    });
    let forged = RecordBatch::try_new(std::sync::Arc::clone(&schema), columns.collect()).unwrap();
    assert!(!crate::row_decoder::RowDecoder::new(&forged).summary(0).unwrap().body_fits);
    assert!(crate::row_decoder::RowDecoder::new(&batch).summary(0).unwrap().body_fits);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_record_comes_back_as_it_was(records in prop::collection::vec(stored_record(), 1..12)) {
        let rows: Vec<_> =
            records.into_iter().map(|record| ArchiveRow::new("g3".parse().unwrap(), record)).collect();
        prop_assert_eq!(written_and_read(&rows), rows);
    }

    #[test]
    fn any_bytes_are_opened_without_a_panic(bytes: Vec<u8>, middle in 0usize..4000, flipped: u8) {
        let attempt = VersionAttempt { version: 1, nonce: "0".repeat(32) };
        let name = PartName { kind: PartKind::Manifest, attempt, sha256: "0".repeat(64) };
        let open = |bytes: Vec<u8>| {
            let object = CheckedObject { name: name.clone(), bytes: bytes.into(), time: StoreSecond::default() };
            if let Ok(open) = OpenDataFile::open(String::new(), &object) {
                let _ = (open.totals(), (0..open.groups()).map(|group| open.rows(group, &ALL_TOKENS)).collect::<Vec<_>>());
            }
        };
        open(bytes);
        let mut file = DataFileEncoder::new(&log(), ArchiveDay(20_000), SMALL).unwrap();
        file.push(ArchiveRow::new(Generation::first(), record(Token::from_bytes([9; 20]), 0, b"x")));
        let mut bytes = file.finish().unwrap().bytes.to_vec();
        let at = middle % bytes.len();
        bytes[at] ^= flipped;
        open(bytes);
    }
}
