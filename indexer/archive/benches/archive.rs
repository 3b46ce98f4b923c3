//! The archive in a folder: writing, verifying and reading it, against plain reading of the same objects in the same run, and the largest
//! resident memory, for tables of several sizes.
//!
//! `BENCH_ARCHIVE` (20000,200000) entries with a body of some 300 bytes and a descriptor each.

use std::time::Duration;

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tidemark_archive::{ArchiveError, ArchiveRow, ArchiveTable};
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::Token;
use tokio::time::Instant;

/// The second of the first token.
const FIRST_SECOND: u64 = 1_763_596_800;
/// Entries a second.
const RATE: u64 = 50;
/// Objects that plain reading has under way, as the archive does.
const CONCURRENT_READS: usize = 2;
/// How often each reading is measured, in turn.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes = std::env::var("BENCH_ARCHIVE").unwrap_or_else(|_| "20000,200000".to_owned());
    for size in sizes.split(',') {
        let folder = tempfile::tempdir()?;
        measure(&Store::folder(folder.path())?, size.trim().parse()?).await?;
    }
    Ok(())
}

/// Row `number`, made when it is asked for.
fn row(number: u64, entropy: &Entropy, last: Token) -> ArchiveRow {
    let second = StoreSecond::from_unix(FIRST_SECOND + number / RATE);
    let token = Token::after(last, second, entropy);
    let words = ["horizon", "manifest", "watermark", "genome", "daily", "prices", "weather", "maps"];
    let text: Vec<_> = entropy.bytes::<24>().iter().map(|byte| words[usize::from(byte % 8)]).collect();
    let body = json!({ "version": 1, "writer": "bench", "ops": [{ "descriptor": format!("bundles/repo-{}/{token}/bundle.yaml", number % 50),
        "attributes": { "text": text.join(" "), "ticket": number } }] });
    let descriptor = format!("id: {token}\nmessage: {}\nleafSize: 2097152\ncount: {number}\n", text[..8].join(" "));
    let time = second.unix();
    let record = json!({
        "seq": number + 1, "token": token, "op": 0, "kind": "bundle", "repo": format!("repo-{}", number % 50),
        "path": format!("bundles/repo-{}/{token}/bundle.yaml", number % 50), "size": body.to_string().len(),
        "body": body.to_string(), "descriptorBody": descriptor,
        "decision": { "outcome": "committed", "evidence": "bound", "entryTime": time + 1, "completed": time + 2,
            "observations": [{ "key": "bundle.yaml", "time": time + 2, "evidence": "bound" }] },
    });
    ArchiveRow::new(Generation::first(), serde_json::from_value(record).unwrap_or_else(|error| panic!("{error}")))
}

async fn measure(index: &Store, entries: u64) -> anyhow::Result<()> {
    println!("== {entries} entries");
    let entropy = Entropy::seeded(1);
    let table = ArchiveTable::open(index, &LogId(entropy.nonce()), entropy.clone());
    let up_to = LogCursor(StoreSecond::from_unix(FIRST_SECOND + entries / RATE + 1));

    // Rows cost time too: what they cost alone is told apart.
    let mut last = Token::from_bytes([0; 20]);
    let started = Instant::now();
    for number in 0..entries {
        last = row(number, &entropy, last).record.token;
    }
    let made = started.elapsed();

    let mut last = Token::from_bytes([0; 20]);
    let rows = futures::stream::iter(0..entries).map(|number| {
        let row = row(number, &entropy, last);
        last = row.record.token;
        Ok::<_, ArchiveError>(row)
    });
    let started = Instant::now();
    let version = table.extend(rows, up_to, &Generation::first()).await?;
    let written = started.elapsed();
    let bytes = version.totals.bytes;
    println!(
        "write: {written:.2?} ({made:.2?} of it to make the rows), {:.0} entries/s, {} versions, {} files, {:.1} MiB, {:.0} bytes an entry",
        entries as f64 / written.as_secs_f64(),
        version.number,
        version.totals.files,
        mib(bytes),
        bytes as f64 / entries as f64,
    );
    for round in 0..ROUNDS {
        let plain = plain_reading(&table, bytes, |_| {}).await?;
        let hashed = plain_reading(&table, bytes, |body| {
            let _ = Sha256::digest(body);
        })
        .await?;
        let started = Instant::now();
        let report = table.verify(&version).await?;
        let verified = started.elapsed();
        ensure!(report.is_intact(), "{report:?}");
        let started = Instant::now();
        let count = table.rows(&version, ..).try_fold(0, async |count, _| Ok(count + 1)).await?;
        let read = started.elapsed();
        ensure!(count == entries, "{count} rows");
        println!("round {round}:");
        for (what, span) in [("plain reading", plain), ("with SHA-256", hashed), ("verify", verified), ("rows", read)] {
            println!(
                "  {what}: {span:.2?}, {:.0} entries/s, {:.0} MiB/s, {:.0} % of plain reading, {:.0} % of that with SHA-256",
                entries as f64 / span.as_secs_f64(),
                mib(bytes) / span.as_secs_f64(),
                100.0 * plain.as_secs_f64() / span.as_secs_f64(),
                100.0 * hashed.as_secs_f64() / span.as_secs_f64(),
            );
        }
    }
    println!("largest resident memory so far: {} MiB", peak_memory()? >> 10);
    Ok(())
}

/// How long it takes to read all data files, with what is done with the bytes of each.
async fn plain_reading(table: &ArchiveTable, bytes: u64, each: impl Fn(&[u8])) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let objects = table.store().list("data", None).map_ok(|object| {
        let store = table.store().clone();
        async move { store.get(&object.key, object.size).await }
    });
    let mut objects = objects.try_buffered(CONCURRENT_READS);
    let mut read = 0;
    while let Some(object) = objects.try_next().await? {
        let body = object.and_then(|object| object.body).unwrap_or_default();
        each(&body);
        read += body.len() as u64;
    }
    ensure!(read == bytes, "{read} of {bytes} bytes");
    Ok(started.elapsed())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The largest resident memory of this process in KiB.
fn peak_memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or_default().trim().trim_end_matches(" kB").parse()?)
}
