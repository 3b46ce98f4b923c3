//! The archive in readers that are not Tidemark's: pyiceberg, DuckDB and pandas read the same table to the same figures.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, process::Stdio};

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidemark_archive::{ArchiveRow, ArchiveTable, TableVersion};
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_tests::{optional_script, root};
use tidemark_wal::{Outcome, Token};

/// The first second of the first day.
const FIRST_SECOND: u64 = 1_763_596_800;
const DAY: u64 = 86_400;

/// The folder with the readers, or nothing where there is no Python; in CI there has to be one.
fn readers() -> Option<PathBuf> {
    let folder = optional_script("python.sh", &["foreign-readers"]).expect("the readers are installed");
    if folder.is_none() {
        eprintln!("SKIPPED: no Python or no packages for it, so the archive is not read by others");
    }
    folder
}

/// Entries of some days, every 900 seconds one: bare texts, groups of two operations, and such as are aborted or malformed.
fn rows(days: Range<u64>, entropy: &Entropy) -> Vec<ArchiveRow> {
    let seconds = days.start * DAY..days.end * DAY;
    let mut rows = Vec::new();
    for (number, second) in seconds.step_by(900).enumerate() {
        let token = Token::new(StoreSecond::from_unix(FIRST_SECOND + second), entropy);
        let (outcome, ops) = [("committed", 1), ("committed", 2), ("aborted", 1), ("malformed", 1)][number % 4];
        let body = match outcome {
            "malformed" => "\u{1}not an intent".to_owned(),
            _ => json!({ "version": 1, "ops": vec![json!({ "attributes": { "n": number, "ü": "\u{1f30a}" } }); ops] })
                .to_string(),
        };
        for op in 0..ops {
            let stored = if op == 0 { json!(body) } else { json!({ "sha256": hex::encode(Sha256::digest(&body)) }) };
            let time = token.second().unix();
            let record = serde_json::from_value(json!({
                "seq": rows.len() + 1, "token": token, "op": op, "kind": "entry", "size": body.len(), "body": stored,
                "payload": if op == 0 { Value::Null } else { json!({ "ops": [{ "attributes": { "n": number } }] }) },
                "decision": { "outcome": outcome, "entryTime": time + 2, "completed": time + 3 },
            }));
            rows.push(ArchiveRow::new(Generation::first(), record.expect("it is a record")));
        }
    }
    rows
}

/// What the readers are to find of these rows.
fn figures(rows: &[ArchiveRow]) -> Value {
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut bodies = Sha256::new();
    for row in rows {
        *outcomes.entry(Outcome::as_str(row.record.decision.outcome)).or_default() += 1;
        bodies.update(row.record.body.bytes().unwrap_or_default());
    }
    json!({
        "rows": rows.len(),
        "size": rows.iter().map(|row| row.record.size).sum::<u64>(),
        "outcomes": outcomes,
        "tokens": [rows.first().map(|row| row.record.token), rows.last().map(|row| row.record.token)],
        "entryTimes": rows.iter().map(|row| row.record.decision.entry_time.unix()).sum::<u64>(),
        "payloads": rows.iter().filter(|row| !row.record.payload.is_null()).count(),
        "bodies": hex::encode(bodies.finalize()),
    })
}

async fn extend(table: &ArchiveTable, rows: &[ArchiveRow], days: u64) -> TableVersion {
    let end = LogCursor(StoreSecond::from_unix(FIRST_SECOND + days * DAY));
    let rows = futures::stream::iter(rows.iter().cloned().map(Ok).collect::<Vec<_>>());
    table.extend(rows, end, &Generation::first()).await.expect("it is extended")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_readers_count_filter_and_add_up_to_the_same() {
    let Some(folder) = tokio::task::spawn_blocking(readers).await.expect("no panic") else { return };
    let home = tempfile::tempdir().expect("a folder");
    let index = Store::folder(home.path()).expect("it opens");
    let entropy = Entropy::seeded(7);
    let table = ArchiveTable::open(&index, &LogId(entropy.nonce()), entropy.clone());
    // Five versions; the fourth adds nothing.
    let parts = [rows(0..2, &entropy), rows(2..3, &entropy), rows(3..7, &entropy), vec![], rows(9..10, &entropy)];
    let mut latest = None;
    for (part, days) in parts.iter().zip([2, 3, 7, 9, 10]) {
        latest = Some(extend(&table, part, days).await);
    }
    let latest = latest.expect("it has versions");
    let all = parts.concat();
    let own: Vec<ArchiveRow> = table.rows(&latest, ..).try_collect().await.expect("it is read");
    assert_eq!(own, all);

    let (first, last) = (FIRST_SECOND + 3 * DAY, FIRST_SECOND + 4 * DAY);
    let [first_text, last_text] = [first, last].map(|second| StoreSecond::from_unix(second).to_string());
    let within = all.iter().filter(|row| (first..last).contains(&row.record.token.second().unix()));
    let within: Vec<_> = within.cloned().collect();
    let metadata = format!("{}/{}", latest.location, latest.key());
    let mut command = tokio::process::Command::new(folder.join("bin/python"));
    command.arg(root().join("tests/tools/foreign-readers/read_table.py"));
    command.args([&latest.location, &metadata, &first_text, &last_text]);
    // DuckDB keeps its extensions in the home folder.
    command.env("HOME", home.path()).kill_on_drop(true).stdin(Stdio::null());
    let ended = tokio::time::timeout(std::time::Duration::from_mins(5), command.output());
    let ended = ended.await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    let found: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("it says JSON");

    for reader in ["pyiceberg", "duckdb", "pandas"] {
        assert_eq!(found[reader]["all"], figures(&all), "{reader}");
        assert_eq!(found[reader]["range"], figures(&within), "{reader}, a day");
    }
    assert_eq!(found["duckdb"]["grouped"], figures(&all)["outcomes"]);
    assert_eq!(found["duckdb"]["byPath"], all.len(), "by the table's path");
    let iceberg = &found["pyiceberg"];
    assert_eq!((&iceberg["files"], &iceberg["filesOfRange"]), (&json!(latest.totals.files), &json!(1)), "{iceberg}");
    assert_eq!(iceberg["firstVersion"], parts[0].len(), "as of version 1");
    assert_eq!(iceberg["properties"]["tidemark.operations"], all.len().to_string());
    assert_eq!(iceberg["properties"]["tidemark.end"], (FIRST_SECOND + 10 * DAY).to_string());
    // The table of columns in the crate's specification is the table's.
    let readme = std::fs::read_to_string(root().join("indexer/archive/README.md")).expect("it is readable");
    for column in iceberg["columns"].as_array().expect("columns") {
        let name = column.as_str().expect("a name");
        assert!(readme.contains(&format!("`{name}`")), "\"{name}\" is in no row of the specification");
    }
}
