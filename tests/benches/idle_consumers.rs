//! What consumers cost that wait for a change: clients of one `tidemark serve`, by streams of events, `WebSocket`s and long polls, against the same service
//! without any; and named consumers, each a `tidemark sink` that has delivered everything.
//!
//! `BENCH_IDLE_CLIENTS` (1000) clients of each kind in turn, for `BENCH_IDLE_SECONDS` (60) each; how many the service takes and how many it refuses is printed.
//! `BENCH_IDLE_SINKS` (4) sinks. No entry is written and no indexer runs. Requests are counted by the S3 server of this process; processor time and memory are
//! those of the programs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, RequestBuilder, StatusCode, header};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tidemark_tests::{LocalIndex, SinkPeer, TidemarkProcess, bench::number};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, interval, sleep},
};

const RECORDS: u64 = 500;
/// How long everything is left alone before it is measured: what polls for changes does so more and more slowly.
const SETTLE: Duration = Duration::from_secs(15);
/// How often a WebSocket shows that it lives; the service ends it after a minute of silence.
const PONG_INTERVAL: Duration = Duration::from_secs(20);
/// A pong without content, with a mask of zeros.
const PONG: [u8; 6] = [0x8A, 0x80, 0, 0, 0, 0];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The programs that it starts have it, too.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let world = LocalIndex::new()?;
    for number in 0..RECORDS {
        world.bundle(3600 + number, &format!("b{number}"));
    }
    let indexer = world.indexer(&[]).await?;
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == RECORDS).await;
    ensure!(indexer.stop().await?.success(), "the indexer ends well");
    clients(&world).await?;
    sinks(&world).await
}

/// How a client waits.
#[derive(Clone, Copy, Debug)]
enum WaitKind {
    Events,
    WebSocket,
    LongPoll,
}

/// Clients that the service took, that it refused, and whose connection it ended; and how often one asked again, as it had lost its
/// connection before an answer: while many connect at once the service closes those that wait for their clients.
#[derive(Debug, Default)]
struct ClientCounts {
    held: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    asked_again: AtomicU64,
}

async fn clients(world: &LocalIndex) -> anyhow::Result<()> {
    let serving = TidemarkProcess::serving(&["serve"], &world.environment).await?;
    serving.until_answer("/v1/changes", |answer| answer["changes"][0].is_object()).await;
    let wanted = number("BENCH_IDLE_CLIENTS", 1000);
    idle(world, &[&serving], &"no client").await?;
    for kind in [WaitKind::Events, WaitKind::WebSocket, WaitKind::LongPoll] {
        let (counts, client) = (Arc::new(ClientCounts::default()), Client::new());
        let mut waiting = JoinSet::new();
        for _ in 0..wanted {
            waiting.spawn(wait(kind, client.clone(), serving.url().to_owned(), Arc::clone(&counts)));
        }
        let started = || {
            let ClientCounts { held, refused, closed, .. } = &*counts;
            [held, refused, closed].iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
        };
        serving
            .until("connected", async || if started() >= wanted { Ok(()) } else { Err(format!("{counts:?}")) })
            .await;
        idle(world, &[&serving], &format!("{wanted} clients, {kind:?}")).await?;
        println!("  {counts:?}");
        waiting.shutdown().await;
        // The service sees the end of a long poll with its next answer.
        sleep(SETTLE).await;
    }
    serving.stop().await?;
    Ok(())
}

/// A client until it is refused or closed.
async fn wait(kind: WaitKind, client: Client, url: String, counts: Arc<ClientCounts>) {
    let ended = match kind {
        WaitKind::Events => wait_for_events(&client, &url, &counts).await,
        WaitKind::WebSocket => wait_on_socket(&client, &url, &counts).await,
        WaitKind::LongPoll => long_poll(&client, &url, &counts).await,
    };
    if let Err(error) = ended {
        let was_first = counts.closed.fetch_add(1, Ordering::Relaxed) == 0;
        if was_first {
            eprintln!("a client ended: {error:#}");
        }
    }
}

async fn wait_for_events(client: &Client, url: &str, counts: &ClientCounts) -> anyhow::Result<()> {
    let request = client.get(format!("{url}/v1/changes?from=now")).header(header::ACCEPT, "text/event-stream");
    let Some(mut response) = admitted(request, StatusCode::OK, counts).await? else { return Ok(()) };
    counts.held.fetch_add(1, Ordering::Relaxed);
    while response.chunk().await?.is_some() {}
    bail!("the stream ends");
}

async fn wait_on_socket(client: &Client, url: &str, counts: &ClientCounts) -> anyhow::Result<()> {
    let request = client
        .get(format!("{url}/v1/changes?from=now"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "AAAAAAAAAAAAAAAAAAAAAA==")
        .header(header::SEC_WEBSOCKET_PROTOCOL, "tidemark.changes.v1");
    let Some(response) = admitted(request, StatusCode::SWITCHING_PROTOCOLS, counts).await? else { return Ok(()) };
    counts.held.fetch_add(1, Ordering::Relaxed);
    let mut socket = response.upgrade().await?;
    let (mut ticks, mut received) = (interval(PONG_INTERVAL), [0; 512]);
    loop {
        tokio::select! {
            _ = ticks.tick() => socket.write_all(&PONG).await?,
            read = socket.read(&mut received) => ensure!(read? > 0, "the socket is closed"),
        }
    }
}

async fn long_poll(client: &Client, url: &str, counts: &ClientCounts) -> anyhow::Result<()> {
    let (mut from, mut is_held) = ("now".to_owned(), false);
    loop {
        // The first one waits for nothing, and says from where to wait.
        let wait = if is_held { 20 } else { 0 };
        let request = client.get(format!("{url}/v1/changes?from={from}&wait={wait}"));
        let admitted = match admitted(request, StatusCode::OK, counts).await {
            Err(error) if error.downcast_ref().is_some_and(reqwest::Error::is_request) => {
                counts.asked_again.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            admitted => admitted?,
        };
        let Some(response) = admitted else {
            // Once more is a client that was held before.
            counts.held.fetch_sub(u64::from(is_held), Ordering::Relaxed);
            return Ok(());
        };
        let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
        answer["next"].as_str().context("a position")?.clone_into(&mut from);
        counts.held.fetch_add(u64::from(!is_held), Ordering::Relaxed);
        is_held = true;
    }
}

/// The answer, if the service takes the client.
async fn admitted(
    request: RequestBuilder,
    wanted: StatusCode,
    counts: &ClientCounts,
) -> anyhow::Result<Option<reqwest::Response>> {
    let response = request.send().await?;
    match response.status() {
        status if status == wanted => Ok(Some(response)),
        StatusCode::SERVICE_UNAVAILABLE => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            Ok(None)
        }
        status => bail!("{status}"),
    }
}

/// Consumers that have acknowledged everything.
async fn sinks(world: &LocalIndex) -> anyhow::Result<()> {
    let (peer, count) = (SinkPeer::start()?, number("BENCH_IDLE_SINKS", 4));
    let hook = format!("{}/hook", peer.url());
    let mut sinks = Vec::new();
    for number in 0..count {
        let name = format!("sink-{number}");
        let arguments = ["sink", "--name", &name, "--identity", &name, "--webhook", &hook];
        sinks.push(TidemarkProcess::begun(&arguments, &world.environment).await?);
    }
    peer.until_taken(usize::try_from(RECORDS * count)?).await;
    let requests = idle(world, &sinks.iter().collect::<Vec<_>>(), &format!("{count} sinks")).await?;
    let each = requests / count as f64;
    println!("  a named consumer: {each:.1} requests a minute; 1000 of them: {:.0}", 1000.0 * each);
    Ok(())
}

/// What the processes take while nothing happens. Gives the store requests a minute.
async fn idle(world: &LocalIndex, processes: &[&TidemarkProcess], what: &dyn fmt::Display) -> anyhow::Result<f64> {
    let processor = || -> anyhow::Result<Duration> { processes.iter().map(|process| process.processor_time()).sum() };
    sleep(SETTLE).await;
    world.server.reset_counts();
    let (started, before) = (Instant::now(), processor()?);
    sleep(Duration::from_secs(number("BENCH_IDLE_SECONDS", 60))).await;
    let (span, used) = (started.elapsed().as_secs_f64(), processor()?.saturating_sub(before));
    let requests = world.server.requests() as f64 * 60.0 / span;
    let (mut resident, mut anonymous) = (0, 0);
    for process in processes {
        let memory = process.memory()?;
        (resident, anonymous) = (resident + memory.resident, anonymous + memory.anonymous);
    }
    println!(
        "{what}: {requests:.1} store requests a minute {:?}, {:.2} % of a core, {:.1} MiB resident, {:.1} that no file holds",
        world.server.counts(),
        100.0 * used.as_secs_f64() / span,
        resident as f64 / f64::from(1 << 20),
        anonymous as f64 / f64::from(1 << 20)
    );
    Ok(requests)
}
