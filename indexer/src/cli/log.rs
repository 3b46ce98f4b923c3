//! `tidemark log`: the entries of a log with their outcomes, straight from the bucket; and its dated parameters.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tidemark_catalog::{LogFloor, RootChain};
use tidemark_store::{ClockError, Entropy, StoreClock, StoreError, StoreSecond};
use tidemark_wal::{
    Evidence, ListedEntry, LogReader, Outcome, ParameterSchedule, ParameterSource as _, ResolvedEntry, Token,
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "archive")]
use super::log_floor::LogFloorCommand;
use super::{
    args::{LogArgs, OutputArgs, ParameterArgs, parameter_flags},
    exit::CommandExit,
    failure_verdict::ended,
    log_unregister::LogUnregisterCommand,
    output::{print_json, print_line},
    read_commits::ReadCommits,
    shutdown::stop_on_signal,
};
use crate::service::{ServiceError, verify_log_contract};

/// Entries read at once.
const CONCURRENCY: usize = 32;
/// The name of the clock object, the same for all who run this command: each would leave one behind otherwise. Two at once share it,
/// which is safe: a probe by the other one is later, and before the answer that is read.
pub(super) const CLOCK_NAME: &str = "command-line";
/// How often `--follow` looks again.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// List or follow the entries of a log with their outcomes.
///
/// Reads the buckets alone, no index. An entry is `pending` until its second is sealed; with `--follow` it is printed
/// when it is seen and again when it is decided. Duplicates, and conflicts with what an entry expects, are detected among the entries that
/// this command has read, so start at the beginning where they matter; an entry is `duplicate` when all of its operations are.
///
/// Writes one thing: the object `.tidemark/clock/command-line` in each store, whose store time is the time that decides. With
/// --follow, a temporary failure of the store is logged, and listing goes on.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example: tidemark log --log s3://wal/orders --metadata s3://meta --json | head\n\
    Example: tidemark log set --log s3://wal/orders --metadata s3://meta --expiry 20m"
)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    command: Option<LogSubcommand>,
    // Optional as a whole, since a subcommand has its own. (An optional `LogListArgs` would be absent without its own flags.)
    #[command(flatten)]
    log: Option<LogArgs>,
    #[command(flatten)]
    list: LogListArgs,
}

#[derive(Debug, Subcommand)]
enum LogSubcommand {
    #[cfg(feature = "archive")]
    Floor(LogFloorCommand),
    Set(LogSetCommand),
    Unregister(LogUnregisterCommand),
}

#[derive(Debug, Args)]
struct LogListArgs {
    /// Only entries from this time on (RFC 3339).
    #[arg(long, env = "TIDEMARK_FROM", value_name = "TIME")]
    from: Option<jiff::Timestamp>,
    /// Only entries before this time (RFC 3339).
    #[arg(long, env = "TIDEMARK_TO", value_name = "TIME")]
    to: Option<jiff::Timestamp>,
    /// Continue with new entries, until interrupted.
    #[arg(long, env = "TIDEMARK_FOLLOW")]
    follow: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Record or change the dated parameters of a log.
///
/// The first set holds for all time so far. A change takes effect 5 minutes plus the visibility delay after it was
/// recorded, so that no process still relies on the old one; lowering the expiry moves the horizon only after the old
/// bound has passed. Prints each set as flags, with the time from which it holds. The first to write to a store verifies its contract, as
/// `tidemark check` does.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark log set --log s3://wal/orders --metadata s3://meta --expiry 20m")]
struct LogSetCommand {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    parameters: ParameterArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl LogCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match (self.command, self.log) {
            #[cfg(feature = "archive")]
            (Some(LogSubcommand::Floor(floor)), _) => Box::pin(floor.run()).await,
            (Some(LogSubcommand::Set(set)), _) => set.run().await,
            (Some(LogSubcommand::Unregister(unregister)), _) => unregister.run().await,
            (None, Some(log)) => self.list.run(log).await,
            (None, None) => anyhow::bail!(
                "--log and --metadata are required; nothing was listed; give both, or the variables TIDEMARK_LOG and TIDEMARK_METADATA"
            ),
        }
    }
}

impl LogListArgs {
    async fn run(self, log: LogArgs) -> anyhow::Result<()> {
        let Self { from, to, follow, output } = self;
        let stores = log.open()?;
        let entropy = Entropy::from_os();
        let mut listing = LogPrinter {
            clock: StoreClock::new(stores.stores(), CLOCK_NAME),
            root: RootChain::open(&stores, entropy),
            reader: LogReader::new(&stores),
            from: from.map_or(StoreSecond::KSUID_EPOCH, StoreSecond::floor),
            to: to.map_or(StoreSecond::KSUID_END.next(), StoreSecond::floor),
            seen: BTreeSet::new(),
            decided: None,
            committed: ReadCommits::since(from.map_or(StoreSecond::KSUID_EPOCH, StoreSecond::floor)),
            output,
        };
        if follow {
            let stop = CancellationToken::new();
            let _signal = stop_on_signal(stop.clone())?;
            stop.run_until_cancelled(listing.follow()).await.transpose()?;
        } else {
            listing.pass().await?;
        }
        let floor =
            listing.root.known().and_then(|root| root.state.floor).filter(|floor| listing.from < floor.second.second());
        if let Some(LogFloor { second, archive, .. }) = floor {
            tracing::warn!(%second, archive, "the log was cleaned up: entries before this second may be gone, and are in the archive");
        }
        let unrecognized_keys = listing.reader.unrecognized_keys();
        if unrecognized_keys > 0 {
            tracing::warn!(unrecognized_keys, "skipped keys that are not valid tokens");
        }
        Ok(())
    }
}

struct LogPrinter {
    clock: StoreClock,
    root: RootChain,
    reader: LogReader,
    /// Everything below is printed with its outcome.
    from: StoreSecond,
    to: StoreSecond,
    /// What is printed as pending.
    seen: BTreeSet<Token>,
    /// Everything sealed up to this one is printed with its outcome: the pass after a failed one goes on behind it.
    decided: Option<Token>,
    committed: ReadCommits,
    output: OutputArgs,
}

impl LogPrinter {
    /// Prints what comes, and never ends. Only the first pass has to succeed: later a store may fail for a while.
    async fn follow(&mut self) -> anyhow::Result<()> {
        self.pass().await?;
        loop {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
            match self.pass().await {
                Err(error) if is_retryable(&error) => tracing::warn!("{error:#}; trying again"),
                passed => passed?,
            }
        }
    }

    /// Prints what is new since the last pass.
    async fn pass(&mut self) -> anyhow::Result<()> {
        // The order matters: what the horizon proves, it proves of listings made after the probe.
        let now = self.clock.probe().await?.now;
        let schedule = self.root.schedule().await?;
        let horizon = schedule.horizon(now);
        self.reader.seal(horizon);
        let (reader, sets) = (self.reader.clone(), schedule.clone());
        let mut entries = self
            .reader
            .list(self.from, self.to.min(now.next()))
            .map(|listed| fetch(&reader, &sets, listed))
            .buffered(CONCURRENCY);
        while let Some(entry) = entries.try_next().await? {
            let sealed = entry.token.second() < horizon;
            let new = if sealed { self.decided < Some(entry.token) } else { self.seen.insert(entry.token) };
            if new {
                print(&line(&entry, sealed, &mut self.committed, &schedule), self.output)?;
            }
            if sealed {
                self.decided = self.decided.max(Some(entry.token));
            }
        }
        self.from = self.from.max(horizon.min(self.to));
        let from = self.from;
        self.seen.retain(|token| token.second() >= from);
        Ok(())
    }
}

/// Whether a later pass may succeed. A refusal is permanent, and so is a closed output.
fn is_retryable(error: &anyhow::Error) -> bool {
    let store = match error.downcast_ref::<ClockError>() {
        Some(ClockError::Store(store)) => Some(store),
        _ => error.downcast_ref::<StoreError>(),
    };
    store.map_or_else(|| !error.is::<std::io::Error>(), StoreError::is_retryable)
}

async fn fetch(
    reader: &LogReader,
    schedule: &ParameterSchedule,
    listed: Result<ListedEntry, StoreError>,
) -> anyhow::Result<ResolvedEntry> {
    Ok(reader.fetch(&listed?, schedule).await?)
}

/// One line of output.
#[derive(Serialize)]
struct EntryLine {
    token: Token,
    time: String,
    outcome: Outcome,
    evidence: Option<Evidence>,
    ops: Vec<OperationLine>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationLine {
    kind: tidemark_wal::OperationKind,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

fn line(entry: &ResolvedEntry, sealed: bool, committed: &mut ReadCommits, schedule: &ParameterSchedule) -> EntryLine {
    let outcomes = if sealed { committed.decide(entry, schedule) } else { vec![Outcome::Pending; entry.ops.len()] };
    // The operations of one entry share the outcome, except that some may be duplicates; the weakest evidence is the entry's.
    let shared = outcomes.iter().find(|outcome| **outcome != Outcome::Duplicate).or(outcomes.first());
    EntryLine {
        token: entry.token,
        time: entry.token.second().to_string(),
        outcome: shared.copied().unwrap_or(Outcome::Malformed),
        evidence: entry.ops.iter().filter_map(|op| op.decision.evidence).max().filter(|_| sealed),
        ops: entry.ops.iter().zip(outcomes).map(|(op, outcome)| operation(op, outcome)).collect(),
    }
}

fn operation(op: &tidemark_wal::ResolvedOperation, outcome: Outcome) -> OperationLine {
    OperationLine {
        kind: op.operation.kind,
        outcome,
        descriptor: op.operation.descriptor.clone(),
        value: op.operation.value.clone(),
        completed: op.decision.completed.map(|at| at.to_string()),
    }
}

fn print(line: &EntryLine, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(line);
    }
    let ops = line.ops.iter().map(|op| {
        let name = op.descriptor.as_deref().unwrap_or(op.kind.as_str());
        if op.outcome == line.outcome { name.to_owned() } else { format!("{name} ({})", op.outcome.as_str()) }
    });
    let ops: Vec<_> = ops.collect();
    print_line(&format!("{} {} {:<9} {}", line.token, line.time, line.outcome.as_str(), ops.join(" ")))
}

impl LogSetCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, parameters, output } = self;
        let stores = log.open()?;
        let entropy = Entropy::from_os();
        let root = RootChain::open(&stores, entropy.clone());
        let recorded = root.parameters().await?.map(|recorded| recorded.newest().parameters);
        let wanted = match recorded {
            Some(recorded) => parameters.over(recorded),
            None => parameters.complete().ok_or_else(no_expiry)?,
        };
        ended(verify_log_contract(&root, &stores, &entropy).await)?;
        let set = match recorded {
            Some(_) => root.set_parameters(&wanted).await,
            None => root.ensure(&wanted).await,
        };
        let schedule = ended(set.map_err(ServiceError::from))?;
        for dated in schedule.sets() {
            if output.json {
                print_json(dated)?;
            } else {
                print_line(&format!("from {}: {}", dated.from, parameter_flags(&dated.parameters)))?;
            }
        }
        Ok(())
    }
}

fn no_expiry() -> anyhow::Error {
    CommandExit::Usage.with(anyhow::anyhow!(
        "the log has no parameters yet; nothing is changed; give --expiry, how long its signed URLs last at most"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tidemark_wal::{DatamonPath, LogParameters, OutcomeDecision, ResolvedOperation, parse_payload};

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        log: LogCommand,
    }

    #[test]
    fn the_places_of_a_log_are_read_in_every_order() {
        let places = ["--log", "s3://wal/orders", "--metadata", "s3://meta"];
        for more in [&[][..], &["--json"], &["--stores", "log: {region: r}"]] {
            for words in [[&["log"], &places[..], more].concat(), [&["log"], more, &places[..]].concat()] {
                let parsed = TestCli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
                assert!(parsed.log.log.is_some(), "{words:?}");
            }
        }
    }

    #[test]
    fn the_sizes_are_parameters_of_the_log() {
        let words = ["log", "set", "--log", "s3://wal/orders", "--metadata", "s3://meta", "--max-entry-size", "64Ki"];
        let words = words.iter().chain(&["--max-descriptor-size", "1Mi", "--clock-tolerance", "2s"]);
        let Some(LogSubcommand::Set(set)) = TestCli::try_parse_from(words).unwrap().log.command else {
            panic!("it is no `set`")
        };
        let base = LogParameters::with_expiry(Duration::from_secs(9));
        let changed = set.parameters.over(base);
        assert_eq!((changed.max_entry_size, changed.max_descriptor_size), (64 << 10, 1 << 20));
        assert_eq!((changed.clock_tolerance, changed.expiry), (Duration::from_secs(2), base.expiry));
    }

    #[test]
    fn a_retention_of_keys_is_set_and_taken_back() {
        let over = |text: &str, base| {
            let words =
                ["log", "set", "--log", "s3://wal/orders", "--metadata", "s3://meta", "--idempotency-retention", text];
            let Some(LogSubcommand::Set(set)) = TestCli::try_parse_from(words).unwrap().log.command else {
                panic!("it is no `set`")
            };
            set.parameters.over(base)
        };
        let base = LogParameters::with_expiry(Duration::from_secs(9));
        assert!(!parameter_flags(&base).contains("retention"));
        let set = over("2h", base);
        assert_eq!(set.idempotency_retention, Some(Duration::from_hours(2)));
        assert!(parameter_flags(&set).ends_with("--idempotency-retention 7200s"));
        assert_eq!(over("forever", set), base);
    }

    #[test]
    fn a_repeated_key_is_a_duplicate_for_its_retention() {
        let idempotency_retention = Some(Duration::from_secs(80));
        let parameters = LogParameters { idempotency_retention, ..LogParameters::with_expiry(Duration::from_secs(9)) };
        let schedule = ParameterSchedule::constant(parameters);
        let mut committed = ReadCommits::since(StoreSecond::default());
        let outcomes = [0, 79, 80, 81, 161].map(|second| {
            let entry = entry(second, r#"{"tidemark": 1, "writer": "w", "idempotencyKey": "nightly", "ops": [{}]}"#);
            line(&entry, true, &mut committed, &schedule).outcome
        });
        let (committed, duplicate) = (Outcome::Committed, Outcome::Duplicate);
        assert_eq!(outcomes, [committed, duplicate, duplicate, committed, duplicate]);
    }

    /// A committed entry of the `n`th second.
    fn entry(n: u64, body: &str) -> ResolvedEntry {
        let token = Token::from_parts(StoreSecond::from_unix(1_800_000_000 + n), [1; 16]);
        let intent = parse_payload(token, body.as_bytes());
        let decision = OutcomeDecision {
            outcome: Outcome::Committed,
            evidence: None,
            entry_time: token.second(),
            completed: Some(token.second()),
            observations: Vec::new(),
            guard: None,
        };
        let op = |operation| ResolvedOperation {
            operation,
            path: DatamonPath::Other,
            decision: decision.clone(),
            descriptor: None,
            descriptor_body: None,
            files: None,
            unreadable: None,
        };
        let ops = intent.clone().expect("it is an intent").ops.into_iter().map(op).collect();
        let size = body.len() as u64;
        ResolvedEntry {
            token,
            entry_time: token.second(),
            size,
            answered: None,
            body: Some(body.to_owned().into()),
            intent,
            ops,
        }
    }

    #[test]
    fn duplicates_are_told_by_each_operations_own_key() {
        use Outcome::{Committed, Duplicate};
        let schedule = ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_secs(9)));
        let mut committed = ReadCommits::since(StoreSecond::default());
        for (n, (body, outcome, ops)) in [
            // The keys of its operations are k and k#1.
            (r#""writer": "w", "idempotencyKey": "k", "ops": [{}, {}]"#, Committed, vec![Committed, Committed]),
            // Entries that several callers share have no key of their own.
            (r#""writer": "w", "ops": [{"idempotencyKey": "k"}]"#, Duplicate, vec![Duplicate]),
            (
                r#""writer": "w", "ops": [{"idempotencyKey": "new"}, {"idempotencyKey": "k\u00011"}]"#,
                Committed,
                vec![Committed, Duplicate],
            ),
            (
                r#""writer": "w", "ops": [{"idempotencyKey": "k"}, {"idempotencyKey": "newer"}]"#,
                Committed,
                vec![Duplicate, Committed],
            ),
            // An operation's own key goes before the entry's, so that this is no k.
            (
                r#""writer": "w", "idempotencyKey": "k", "ops": [{"idempotencyKey": "other"}]"#,
                Committed,
                vec![Committed],
            ),
            (r#""writer": "v", "idempotencyKey": "k", "ops": [{}]"#, Committed, vec![Committed]),
            // No writer is a writer too.
            (r#""idempotencyKey": "k", "ops": [{}]"#, Committed, vec![Committed]),
            (r#""idempotencyKey": "k", "ops": [{}]"#, Duplicate, vec![Duplicate]),
        ]
        .into_iter()
        .enumerate()
        {
            let entry = entry(n as u64, &format!(r#"{{"tidemark": 1, {body}}}"#));
            // A second pass says the same.
            for _ in 0..2 {
                let line = line(&entry, true, &mut committed, &schedule);
                let found: Vec<_> = line.ops.iter().map(|op| op.outcome).collect();
                assert_eq!((line.outcome, found), (outcome, ops.clone()), "{body}");
            }
        }
    }

    #[test]
    fn conflicts_are_told_by_what_was_read_before() {
        use Outcome::{Committed, Conflicted, Duplicate};
        let schedule = ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_secs(9)));
        let mut committed = ReadCommits::since(StoreSecond::from_unix(1_800_000_000));
        let (first, older) = (entry(0, "x").token, Token::first_of(StoreSecond::from_unix(1_700_000_000)));
        let job = r#""attributes": {"entity": "job"}"#;
        let expecting = |entity: &str, token: Option<Token>| {
            let token = token.map_or_else(|| "null".to_owned(), |token| format!("\"{token}\""));
            format!(r#""expect": {{"entity": "entry/{entity}", "token": {token}}}"#)
        };
        for (n, (body, outcome)) in [
            (format!("{job}, {}", expecting("job", None)), Committed),
            (format!("{job}, {}", expecting("job", None)), Conflicted),
            (format!(r#"{job}, "idempotencyKey": "k", {}"#, expecting("job", Some(older))), Conflicted),
            (format!(r#"{job}, "idempotencyKey": "k", {}"#, expecting("job", Some(first))), Committed),
            (format!(r#"{job}, "idempotencyKey": "k", {}"#, expecting("job", Some(first))), Duplicate),
            (format!("{job}, {}", expecting("job", Some(first))), Conflicted),
            // What was not read is taken for what it says.
            (expecting("other", Some(older)), Committed),
            (expecting("other", Some(first)), Conflicted),
        ]
        .into_iter()
        .enumerate()
        {
            let entry = entry(n as u64, &format!(r#"{{"tidemark": 1, {body}}}"#));
            assert_eq!(line(&entry, true, &mut committed, &schedule).outcome, outcome, "{body}");
        }
    }
}
