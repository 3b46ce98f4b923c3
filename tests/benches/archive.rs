//! The archive: writing, reading and verifying, against plain reading of the same objects in the same run; requests of each, and the
//! largest resident memory, for tables of two sizes.
//!
//! `BENCH_ARCHIVE` (20000,200000) entries with a body of some 300 bytes and a descriptor each, in a folder and on the S3 server of this
//! process.

use std::time::Duration;

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tidemark_archive::{ArchiveError, ArchiveRow, ArchiveTable};
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_tests::{S3Server, stores};
use tidemark_wal::Token;
use tokio::time::Instant;

/// The second of the first token.
const FIRST_SECOND: u64 = 1_763_596_800;
/// Entries a second.
const RATE: u64 = 50;
/// Objects that plain reading has under way, as the archive does.
const CONCURRENT_READS: usize = 2;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes = std::env::var("BENCH_ARCHIVE").unwrap_or_else(|_| "20000,200000".to_owned());
    for size in sizes.split(',') {
        let entries = size.trim().parse()?;
        let folder = tempfile::tempdir()?;
        measure("folder", &Store::folder(folder.path())?, entries, None).await?;
        let server = S3Server::start()?;
        server.create_bucket("index");
        measure("S3", &stores::open("s3://index", &server.environment()), entries, Some(&server)).await?;
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

async fn measure(name: &str, index: &Store, entries: u64, server: Option<&S3Server>) -> anyhow::Result<()> {
    println!("== {entries} entries, {name}");
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

    let requests = Requests::of(server);
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
    let rate = entries as f64 / written.as_secs_f64();
    println!(
        "write: {written:.2?} ({made:.2?} of it to make the rows), {rate:.0} entries/s, {} versions, {} files, {:.1} MiB, {:.0} bytes an entry{requests}",
        version.number,
        version.totals.files,
        mib(bytes),
        bytes as f64 / entries as f64,
    );

    let requests = Requests::of(server);
    let started = Instant::now();
    let objects = table.store().list("data", None).map_ok(|object| {
        let store = table.store().clone();
        async move { store.get(&object.key, object.size).await }
    });
    let mut objects = objects.try_buffered(CONCURRENT_READS);
    let mut plain_bytes = 0;
    while let Some(object) = objects.try_next().await? {
        plain_bytes += object.and_then(|object| object.body).map_or(0, |body| body.len() as u64);
    }
    let plain = started.elapsed();
    ensure!(plain_bytes == bytes, "{plain_bytes} of {bytes} bytes");
    println!("plain reading: {plain:.2?}, {:.0} MiB/s{requests}", mib(bytes) / plain.as_secs_f64());

    let requests = Requests::of(server);
    let started = Instant::now();
    let report = table.verify(&version).await?;
    ensure!(report.is_intact(), "{report:?}");
    print("verify", started.elapsed(), plain, entries, bytes, &requests);

    let requests = Requests::of(server);
    let started = Instant::now();
    let count = table.rows(&version, ..).try_fold(0, async |count, _| Ok(count + 1)).await?;
    ensure!(count == entries, "{count} rows");
    print("read", started.elapsed(), plain, entries, bytes, &requests);
    println!("largest resident memory so far: {} MiB", peak_memory()? >> 10);
    Ok(())
}

fn print(what: &str, span: Duration, plain: Duration, entries: u64, bytes: u64, requests: &Requests<'_>) {
    println!(
        "{what}: {span:.2?}, {:.0} entries/s, {:.0} MiB/s, {:.0} % of plain reading{requests}",
        entries as f64 / span.as_secs_f64(),
        mib(bytes) / span.as_secs_f64(),
        100.0 * plain.as_secs_f64() / span.as_secs_f64(),
    );
}

/// The requests since this was made.
struct Requests<'a>(Option<&'a S3Server>);

impl<'a> Requests<'a> {
    fn of(server: Option<&'a S3Server>) -> Self {
        if let Some(server) = server {
            server.reset_counts();
        }
        Self(server)
    }
}

impl std::fmt::Display for Requests<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(server) => write!(f, ", requests {:?}", server.counts()),
            None => Ok(()),
        }
    }
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
