//! `tidemark audit`: what an index has as unreadable, and what it is now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clap::Args;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use tidemark_catalog::{IndexChain, RootChain};
use tidemark_ingest::{
    ExpectationVerdict, KeyedOperation, LatestCommit, OperationPlace, OperationRecord, RootFloor, WriterKey,
    engine::{EngineError, IndexEngine as _, IndexLookup, UnsettledOperation, UnsettledQuery},
    judge_expectation,
};
use tidemark_search::TantivyEngine;
use tidemark_store::{Entropy, StoreError, StoreSecond, error_chain};
use tidemark_wal::{LogReader, Outcome, ParameterSchedule, ParameterSource as _, ResolvedEntry, Token};

use super::{
    args::{ExistingIndexArgs, OutputArgs},
    exit::CommandExit,
    output::{print_json, print_line},
};
use crate::service::{AccessMode, OpenStores, PodStores, cache_options};

/// Bytes of the temporary cache. What does not fit is read by ranges: few segments hold unreadable operations, and a pod, in which
/// this command may run too, has 64 MiB in its temporary folder.
const CACHE_BYTES: u64 = 32 << 20;
/// Entries that are looked up in the index at once.
const CHUNK: usize = 1000;
/// Entries that are read at once.
const CONCURRENCY: usize = 8;

/// Read the entries again that an index has as unreadable.
///
/// An entry is `unreadable` when the store refuses to give it while it gives later ones: an archived tier, a permission, a key of
/// encryption that is gone, or a fault of this program in reading it. Nothing is decided about its operations until it can be
/// read. This command reads each such entry now, with the credentials and the release that it runs with, and prints what its
/// operations are: their outcome, or `unreadable` with the store's words.
///
/// It writes nothing. The indexer reads all of them again every hour, and when it takes the index over, and records what they
/// are: restart it to have that at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark audit --unreadable --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: kubectl exec deploy/orders-indexer -n data -- tidemark audit --unreadable\n\
    In a pod of a WAL the places and the credentials are those of the pod. Exit code 7: some cannot be read yet.\n\
    A search for `outcome:unreadable` finds the same operations. Those that can be read now are recorded within the hour, or\n\
    after: kubectl rollout restart deploy/orders-indexer -n data"
)]
pub(super) struct AuditCommand {
    /// Look at the operations that the index has as unreadable.
    #[arg(long, env = "TIDEMARK_UNREADABLE", required = true)]
    unreadable: bool,
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// One line of output: an operation, and what it is now.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewLine {
    token: Token,
    op: u32,
    time: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<String>,
    /// Why it cannot be read, or why it is malformed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl AuditCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { unreadable: _, places: ExistingIndexArgs { log, index, moved }, output } = self;
        let settings = log.settings();
        let stores = PodStores::at(Some((log.log, log.metadata)), index, &settings, AccessMode::ReadOnly);
        let (mut found, mut left) = (0, 0);
        if let Some(mut review) = UnreadableReview::open(&stores, moved.url().as_deref()).await? {
            while let Some(lines) = review.next().await? {
                found += 1;
                left += usize::from(lines.iter().any(|line| line.outcome == Outcome::Unreadable));
                for line in &lines {
                    print(line, output)?;
                }
            }
        }
        if left > 0 {
            return Err(CommandExit::Unreadable.with(anyhow::anyhow!(
                "{left} of {found} unreadable entries cannot be read; their operations stay undecided; make them readable (archived \
                 tier, permissions), or run a release that can read them"
            )));
        }
        if !output.json {
            print_line(&match found {
                0 => "nothing is recorded as unreadable".to_owned(),
                _ => format!("all {found} entries can be read; the indexer records their outcomes within the hour"),
            })?;
        }
        Ok(())
    }
}

fn print(line: &ReviewLine, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(line);
    }
    let ReviewLine { token, op, time, outcome, descriptor, reason } = line;
    let what = descriptor.as_deref().into_iter().chain(reason.as_deref()).collect::<Vec<_>>().join(": ");
    print_line(&format!("{token} {time} {op:>3} {:<10} {what}", outcome.as_str()))
}

/// The entries that one manifest has as unreadable, in the order of the log, each read again.
struct UnreadableReview {
    reader: LogReader,
    schedule: ParameterSchedule,
    lookup: Arc<dyn IndexLookup>,
    query: UnsettledQuery,
    /// What was looked up and is not read yet, the last one first.
    waiting: Vec<Token>,
    /// What was read and is not given yet, the last one first.
    read: Vec<(Token, Result<Option<ResolvedEntry>, StoreError>)>,
    /// Operations that committed in this review.
    committed: BTreeMap<WriterKey, BTreeSet<OperationPlace>>,
    /// The newest commits of entities in this review.
    newest: BTreeMap<String, LatestCommit>,
    /// The engine's files.
    _cache: Option<tempfile::TempDir>,
}

impl UnreadableReview {
    /// The review of the newest manifest; `None` if it has nothing unreadable.
    async fn open(stores: &PodStores, moved_from: Option<&str>) -> anyhow::Result<Option<Self>> {
        let OpenStores { log, index } = stores.open()?;
        let Some(log) = log else { return Ok(None) };
        let entropy = Entropy::from_os();
        let root = RootChain::open(&log, entropy.clone()).moved_from(moved_from);
        let generation = root.state().await?.generation_of(index.url().as_str());
        let chain = IndexChain::open(&index, generation, entropy).for_log(&root).follow().await?;
        let Some(latest) = chain.latest().await? else {
            anyhow::bail!("\"{}\" holds no index; nothing was read; correct --index", index.url());
        };
        let manifest = latest.state;
        if manifest.totals.standing().unreadable == 0 {
            return Ok(None);
        }
        let (cache, folder) = cache_options(None, CACHE_BYTES)?;
        let lookup = TantivyEngine::open(index, &cache)?.open(&manifest).await?;
        Ok(Some(Self {
            reader: LogReader::new(&log).with_floor(Arc::new(RootFloor(root.clone()))),
            schedule: root.schedule().await?,
            lookup,
            query: UnsettledQuery::unreadable(StoreSecond::KSUID_END.next(), CHUNK),
            waiting: Vec::new(),
            read: Vec::new(),
            committed: BTreeMap::new(),
            newest: BTreeMap::new(),
            _cache: folder,
        }))
    }

    /// The operations of the next entry; `None` after the last one.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<ReviewLine>>> {
        if self.read.is_empty() {
            self.read_ahead().await?;
        }
        let Some((token, found)) = self.read.pop() else { return Ok(None) };
        let records = match found {
            Ok(Some(entry)) => OperationRecord::from_resolved(entry),
            Ok(None) => return Ok(Some(vec![still_unreadable(token, "the entry is gone from the log".to_owned())])),
            Err(error) => return Ok(Some(vec![still_unreadable(token, error_chain(&error))])),
        };
        let is_conflicted = self.is_conflicted(&records).await?;
        let mut lines = Vec::new();
        for record in records {
            let outcome = self.outcome(&record, is_conflicted).await?;
            let OperationRecord { op, path, reason, .. } = record;
            lines.push(ReviewLine { token, op, time: token.second().to_string(), outcome, descriptor: path, reason });
        }
        Ok(Some(lines))
    }

    async fn read_ahead(&mut self) -> Result<(), EngineError> {
        if self.waiting.is_empty() {
            let found = self.lookup.unsettled_operations(&self.query).await?;
            self.query.after = found.last().map(|last| last.token).or(self.query.after);
            self.waiting = tokens(&found);
            self.waiting.reverse();
        }
        let next = self.waiting.split_off(self.waiting.len().saturating_sub(CONCURRENCY));
        let (reader, schedule) = (&self.reader, &self.schedule);
        let read = stream::iter(next).map(|token| async move { (token, reader.lookup(token, schedule).await) });
        self.read = read.buffered(CONCURRENCY).collect().await;
        Ok(())
    }

    /// The outcome that the indexer would record: an operation is a duplicate while its key counts for one that has committed, and
    /// else conflicted if its entry is.
    async fn outcome(&mut self, record: &OperationRecord, is_conflicted: bool) -> Result<Outcome, EngineError> {
        let outcome = record.decision.outcome;
        if !record.is_committed() {
            return Ok(outcome);
        }
        let outcome = if is_conflicted { Outcome::Conflicted } else { outcome };
        let Some(asked) = record.keyed() else {
            self.add_commit(record, outcome);
            return Ok(outcome);
        };
        let recorded = self.lookup.key_neighbors(std::slice::from_ref(&asked)).await?;
        let mut neighbors = recorded.into_iter().next().unwrap_or_default();
        let KeyedOperation { place, key } = asked;
        let committed = self.committed.entry(key).or_default();
        for other in committed.iter() {
            neighbors.insert(place, *other);
        }
        if neighbors.counted_for(place, &self.schedule).is_some() {
            return Ok(Outcome::Duplicate);
        }
        if outcome == Outcome::Committed {
            committed.insert(place);
        }
        self.add_commit(record, outcome);
        Ok(outcome)
    }

    /// Remembers the commit of an entity for the entries that follow.
    fn add_commit(&mut self, record: &OperationRecord, outcome: Outcome) {
        let commit = record.entity_commit().filter(|_| outcome == Outcome::Committed);
        let Some((entity, claim)) = commit else { return };
        let newest = self.newest.entry(entity.to_owned()).or_insert(claim);
        *newest = claim.max(*newest);
    }

    /// Whether what an entry expects does not hold, by what the index has and what this review has committed.
    async fn is_conflicted(&self, entry: &[OperationRecord]) -> Result<bool, EngineError> {
        let committed = || entry.iter().filter(|record| record.is_committed());
        let Some(expectation) = committed().find_map(|record| record.expectation.as_ref()) else { return Ok(false) };
        let indexed = self.lookup.latest_commits(std::slice::from_ref(&expectation.entity)).await?;
        let indexed = indexed.into_iter().next().flatten();
        let newest = indexed.max(self.newest.get(&expectation.entity).copied());
        let own = committed().filter_map(OperationRecord::entity_commit);
        let own = own.filter(|(entity, _)| *entity == expectation.entity).map(|(_, claim)| claim).max();
        Ok(judge_expectation(expectation, newest, own) != ExpectationVerdict::Holds)
    }
}

fn still_unreadable(token: Token, why: String) -> ReviewLine {
    let time = token.second().to_string();
    ReviewLine { token, op: 0, time, outcome: Outcome::Unreadable, descriptor: None, reason: Some(why) }
}

/// The entries of `operations`, each once.
fn tokens(operations: &[UnsettledOperation]) -> Vec<Token> {
    let mut tokens: Vec<_> = operations.iter().map(|one| one.token).collect();
    tokens.dedup();
    tokens
}
