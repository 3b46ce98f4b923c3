//! How long it takes until the next holder of a write lock may act, after a release and after the holder's end, by the store's clock and with the requests
//! counted, against the bound of `docs/locks.md`.
//!
//! `BENCH_LOCKS` (16) locks of one log at once in each case, on the S3 server of this process, whose clock tells milliseconds; the holders read whole seconds of it.
//! The request timeout of the log is 1 s, its visibility delay 0, its clock tolerance 1 s.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use futures::future::try_join_all;
use jiff::Timestamp;
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, StoreClock};
use tidemark_tests::{
    S3Server,
    bench::{number, percentile, shortest},
    stores,
};
use tidemark_wal::{
    EntryDraft, GrantRequest, LockName, LockRef, Log, LogParameters, LogWriter, LogWriterOptions, WriteLocks,
};

/// What the holder does before the next one acquires the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HolderEnd {
    /// It releases the lock without a guarded commit.
    ReleasedUnused,
    /// It releases the lock after a guarded commit.
    Released,
    /// It does nothing more after a guarded commit.
    Gone,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (short, usual) = (Duration::from_secs(2), GrantRequest::COMPLETE_WITHIN);
    for (end, ttl, complete_within) in [
        (HolderEnd::ReleasedUnused, GrantRequest::TTL, usual),
        (HolderEnd::Released, GrantRequest::TTL, usual),
        (HolderEnd::Gone, GrantRequest::TTL, usual),
        (HolderEnd::Released, Duration::from_secs(5), short),
        (HolderEnd::Gone, Duration::from_secs(5), short),
    ] {
        HandoverCase::new(end, ttl, complete_within).await?.measure().await?;
    }
    Ok(())
}

/// A log whose locks go from one holder to another.
struct HandoverCase {
    end: HolderEnd,
    request: GrantRequest,
    parameters: LogParameters,
    server: S3Server,
    log: Log,
    writer: LogWriter,
}

/// One hand-over.
struct HandoverFigures {
    /// From the release, or from the last sign of the holder, until the next one may act.
    after_end: Duration,
    /// From the acknowledgement of the last guarded commit.
    after_commit: Duration,
}

impl HandoverCase {
    async fn new(end: HolderEnd, ttl: Duration, complete_within: Duration) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta"] {
            server.create_bucket(bucket);
        }
        let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &server.environment());
        let (log, entropy) = (Log::over(open("log"), vec![open("meta")]), Entropy::from_os());
        let root = Arc::new(RootChain::open(&log, entropy.clone()));
        let parameters = LogParameters { expiry: Duration::from_mins(1), ..shortest() };
        root.ensure(&parameters).await?;
        let writer = LogWriter::open(log.clone(), root, LogWriterOptions::named("holder"), entropy).await?;
        let request = GrantRequest { ttl, complete_within, ..GrantRequest::of("bench") };
        Ok(Self { end, request, parameters, server, log, writer })
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let names: Vec<LockName> =
            (0..number("BENCH_LOCKS", 16)).map(|n| format!("lock-{n}").parse()).collect::<Result<_, _>>()?;
        let ended = try_join_all(names.iter().map(|name| self.hold(name))).await?;
        self.server.reset_counts();
        let taken = try_join_all(names.iter().zip(ended).map(|(name, ended)| self.take_over(name, ended))).await?;
        let requests = self.server.requests() as f64 / names.len() as f64;
        let GrantRequest { ttl, complete_within, .. } = self.request;
        println!("{:?}, time to live {ttl:?}, complete within {complete_within:?}, {} locks:", self.end, names.len());
        // A commit is complete, or never will be, by then; the next second is the first that shows it.
        let settled = complete_within + self.parameters.request_timeout + self.parameters.clock_tolerance;
        let bound = match self.end {
            HolderEnd::ReleasedUnused => "none".to_owned(),
            HolderEnd::Released => format!("{settled:?} after the commit"),
            HolderEnd::Gone => format!("{ttl:?} after the last renewal and {settled:?} after the commit"),
        };
        for (what, spans) in [
            ("after the holder's end", taken.iter().map(|taken| taken.after_end).collect::<Vec<_>>()),
            ("after the last guarded commit", taken.iter().map(|taken| taken.after_commit).collect()),
        ] {
            let [p50, largest] = [0.5, 1.0].map(|share| percentile(&spans, share).as_secs_f64());
            println!("  {what}: median {p50:.2} s, largest {largest:.2} s");
        }
        println!(
            "  the bound: {bound}; {requests:.1} requests of the next holder a hand-over {:?}",
            self.server.counts()
        );
        Ok(())
    }

    /// The first holder: when it showed itself for the last time, and when its last commit was acknowledged.
    async fn hold(&self, name: &LockName) -> anyhow::Result<(Timestamp, Timestamp)> {
        let locks = self.locks(&format!("{}-first", name.as_str()));
        let begun = self.server.clock().now();
        let held = locks.acquire(name, &self.request, false).await?;
        let mut committed = begun;
        if self.end != HolderEnd::ReleasedUnused {
            let lock = Some(LockRef { name: name.clone(), grant: Some(held.grant.number) });
            self.writer.append(EntryDraft { lock, ..EntryDraft::default() }).await?;
            committed = self.server.clock().now();
        }
        if self.end == HolderEnd::Gone {
            // Its grant is its last renewal.
            return Ok((begun, committed));
        }
        locks.release(name, held.grant.number).await?;
        Ok((self.server.clock().now(), committed))
    }

    async fn take_over(
        &self,
        name: &LockName,
        (ended, committed): (Timestamp, Timestamp),
    ) -> anyhow::Result<HandoverFigures> {
        let held = self.locks(&format!("{}-next", name.as_str())).acquire(name, &self.request, true).await?;
        let is_used = self.end != HolderEnd::ReleasedUnused;
        ensure!(held.last_commit.is_some() == is_used, "{held:?}");
        let now = self.server.clock().now();
        let since = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
        Ok(HandoverFigures { after_end: since(ended), after_commit: since(committed) })
    }

    /// The locks as a process of this name sees them.
    fn locks(&self, process: &str) -> WriteLocks {
        WriteLocks::open(&self.log, StoreClock::new(self.log.stores(), process), Entropy::from_os())
    }
}
