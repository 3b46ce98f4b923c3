//! Appends the generated updates to a log until it is stopped.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, Store, StoreClock, StoreError, StoreSecond};
use tidemark_wal::{AppendError, Log, LogWriter, LogWriterOptions, Token, read_descriptor};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::workload::{PlannedUpdate, WorkloadGenerator};
use crate::service::{ServiceError, verify_log_contract};

/// The first pause before something that failed is retried.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause before something that failed is retried.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Bytes of a descriptor that are read at most.
const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;

/// Options of the demo.
pub(crate) struct DemoOptions {
    /// The log.
    pub(crate) log: Log,
    /// Stores whose buckets are created if they are missing.
    pub(crate) buckets: Vec<Store>,
    /// The time between two entries.
    pub(crate) every: Duration,
    /// After how many entries to end; never if left out.
    pub(crate) count: Option<u64>,
    /// Seed of the workload; random if left out. Names never depend on it.
    pub(crate) seed: Option<u64>,
}

/// An entry that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendedUpdate {
    /// Its token.
    pub(crate) token: Token,
    /// What it is, in words.
    pub(crate) what: String,
}

/// Appends until `stop` is cancelled or `count` entries are appended, and calls `on_append` with each entry.
///
/// Waits for stores that do not answer and for a log that has no parameters, and logs that once. An update that fails is
/// logged, and the next one is made. What it makes has random names, so that any number of these may run, one after the
/// other or at once.
pub(crate) async fn run(
    options: DemoOptions,
    stop: &CancellationToken,
    on_append: impl Fn(AppendedUpdate),
) -> Result<(), ServiceError> {
    let DemoOptions { log, buckets, every, count, seed } = options;
    let ids = Entropy::from_os();
    let rng = seed.map_or_else(Entropy::from_os, Entropy::seeded);
    let opened = stop.run_until_cancelled(async {
        create_buckets(&buckets).await?;
        Box::pin(open(&log, &ids, WorkloadGenerator::new(rng, ids.clone()))).await
    });
    let Some(opened) = opened.await else { return Ok(()) };
    let mut writer = opened?;
    let mut appended = 0;
    let mut due = Instant::now();
    while !stop.is_cancelled() && count.is_none_or(|count| appended < count) {
        // An entry that was begun is completed, also when the process is asked to end.
        if let Some(entry) = writer.append_next().await {
            on_append(entry);
            appended += 1;
        }
        let pause = writer.pause();
        due = (due + every).max(Instant::now() + pause);
        if count.is_none_or(|count| appended < count) {
            stop.run_until_cancelled(sleep_until(due)).await;
        }
    }
    Ok(())
}

/// Waits until every bucket exists.
async fn create_buckets(stores: &[Store]) -> Result<(), ServiceError> {
    for store in stores {
        let created = retry_until_ok("a bucket", || async { Ok(store.create_bucket().await?) }).await?;
        if created {
            tracing::info!(store = %store.url(), "created the bucket");
        }
    }
    Ok(())
}

/// Waits until the log can be appended to, and reads what exists already.
async fn open(log: &Log, ids: &Entropy, mut workload: WorkloadGenerator) -> Result<WorkloadWriter, ServiceError> {
    let name = format!("tidemark-demo-{}", ids.nonce());
    let root = Arc::new(RootChain::open(log, ids.clone()));
    let clock = StoreClock::new(log.stores(), &name);
    retry_until_ok("the log", || async {
        if root.parameters().await?.is_none() {
            return Err(NotReadyError::NoParameters);
        }
        Ok(verify_log_contract(&root, log, ids).await?)
    })
    .await?;
    let (writer, now) = retry_until_ok("the log", || async {
        let options = LogWriterOptions::named(name.clone());
        let writer = LogWriter::open(log.clone(), root.clone(), options, ids.clone()).await?;
        Ok((writer, clock.probe().await.map_err(AppendError::from)?.now))
    })
    .await?;
    let found = retry_until_ok("the metadata", || async { Ok(find_existing(log).await?) }).await?;
    found.seeded_names.iter().for_each(|path| workload.exists(path));
    found.labels.iter().for_each(|(repo, label, id)| workload.set_label(repo, label, id));
    Ok(WorkloadWriter { writer, workload, now, failures: 0 })
}

/// Objects that an earlier process left.
#[derive(Default)]
struct ExistingObjects {
    seeded_names: Vec<String>,
    labels: Vec<(&'static str, &'static str, String)>,
}

async fn find_existing(log: &Log) -> Result<ExistingObjects, StoreError> {
    let mut found = ExistingObjects::default();
    for path in WorkloadGenerator::seeded_names() {
        if log.descriptors().head(&path).await?.is_some() {
            found.seeded_names.push(path);
        }
    }
    for (repo, label) in WorkloadGenerator::labels() {
        let path = format!("labels/{repo}/{label}/label.yaml");
        let body = log.values().get(&path, MAX_DESCRIPTOR_BYTES).await?.and_then(|object| object.body);
        let place = tidemark_wal::parse_datamon_path(&path).ok();
        let read = place.zip(body).and_then(|(place, body)| read_descriptor(&place, &body).ok());
        found.labels.extend(read.and_then(|label| label.id).map(|id| (repo, label, id)));
    }
    Ok(found)
}

/// Why the demo waits.
#[derive(Debug, thiserror::Error)]
enum NotReadyError {
    #[error("the log has no parameters yet; nothing is written before; start its first indexer, which sets them")]
    NoParameters,
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for NotReadyError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl From<tidemark_catalog::CatalogError> for NotReadyError {
    fn from(error: tidemark_catalog::CatalogError) -> Self {
        Self::Service(error.into())
    }
}

impl NotReadyError {
    /// Whether waiting cannot help.
    fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Service(
                ServiceError::StoreUnsupported { .. }
                    | ServiceError::Store(StoreError::Unusable { .. } | StoreError::BadKey { .. })
            )
        )
    }
}

impl From<NotReadyError> for ServiceError {
    fn from(error: NotReadyError) -> Self {
        match error {
            NotReadyError::Service(error) => error,
            other => Self::Ended { task: "demo", why: other.to_string() },
        }
    }
}

/// 1 s, doubled each time up to [`MAX_BACKOFF`].
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(MIN_BACKOFF).with_max_delay(MAX_BACKOFF).without_max_times()
}

/// Retries until it succeeds or cannot succeed, and logs once why it waits.
async fn retry_until_ok<T, F>(what: &str, attempt: impl FnMut() -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, NotReadyError>>,
{
    let mut logged = false;
    let log = |why: &NotReadyError, _| {
        if std::mem::replace(&mut logged, true) {
            tracing::debug!("waiting for {what}: {why}");
        } else {
            tracing::info!("waiting for {what}: {why}");
        }
    };
    let result = attempt.retry(backoff()).when(|why| !why.is_permanent()).notify(log).await;
    Ok(result?)
}

struct WorkloadWriter {
    writer: LogWriter,
    workload: WorkloadGenerator,
    now: StoreSecond,
    /// Updates in a row that failed.
    failures: u32,
}

impl WorkloadWriter {
    /// The next update; `None` if it failed.
    async fn append_next(&mut self) -> Option<AppendedUpdate> {
        let update = self.workload.next(self.now);
        match self.append(&update).await {
            Ok(token) => {
                self.failures = 0;
                Some(AppendedUpdate { token, what: update.what })
            }
            // Another demo made the repo or the context first.
            Err(AppendError::Occupied { key, .. }) => {
                self.workload.exists(&key);
                None
            }
            Err(error) => {
                self.workload.failed(&update);
                self.failures += 1;
                tracing::warn!(what = update.what, "{error}; going on with the next update");
                None
            }
        }
    }

    async fn append(&mut self, update: &PlannedUpdate) -> Result<Token, AppendError> {
        if !update.completed {
            return Ok(self.writer.begin(update.draft.clone()).await?.token);
        }
        let receipt = self.writer.append(update.draft.clone()).await?;
        self.now = receipt.acknowledged().map_or(self.now, |at| self.now.max(at));
        self.workload.committed(update);
        Ok(receipt.token)
    }

    /// The least pause before the next update.
    fn pause(&self) -> Duration {
        let last = self.failures.checked_sub(1).map(|index| index as usize);
        last.and_then(|index| backoff().build().nth(index)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tidemark_wal::{LogParameters, LogReader, Outcome, ParameterSource as _};

    use super::*;

    fn options(log: &Log, count: u64, seed: u64) -> DemoOptions {
        DemoOptions {
            log: log.clone(),
            buckets: Vec::new(),
            every: Duration::ZERO,
            count: Some(count),
            seed: Some(seed),
        }
    }

    async fn append(log: &Log, count: u64, seed: u64) -> Vec<AppendedUpdate> {
        let appended: Mutex<Vec<AppendedUpdate>> = Mutex::default();
        let stop = CancellationToken::new();
        run(options(log, count, seed), &stop, |entry| appended.lock().unwrap().push(entry)).await.unwrap();
        appended.into_inner().unwrap()
    }

    async fn log_with_parameters() -> Log {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let root = RootChain::open(&log, Entropy::from_os());
        root.ensure(&LogParameters::with_expiry(Duration::from_mins(10))).await.unwrap();
        log
    }

    #[tokio::test]
    async fn what_it_appends_is_committed_and_a_second_run_of_the_same_seed_goes_on() {
        let log = log_with_parameters().await;
        let mut appended = append(&log, 60, 7).await;
        appended.extend(append(&log, 60, 7).await);
        assert_eq!(appended.len(), 120);
        let reader = LogReader::new(&log);
        let schedule = RootChain::open(&log, Entropy::from_os()).schedule().await.unwrap();
        let mut abandoned = 0;
        for AppendedUpdate { token, what } in &appended {
            let found = reader.lookup(*token, &schedule).await.unwrap().unwrap();
            let committed = found.ops.iter().all(|op| op.decision.outcome == Outcome::Committed);
            assert_eq!(committed, !what.ends_with("abandoned"), "{token} {what}");
            abandoned += u32::from(!committed);
        }
        assert!(abandoned > 0, "none was abandoned");
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_what_may_come_and_not_for_what_never_will() {
        let tries = Mutex::new(0);
        let attempt = || async {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            if *tries < 9 { Err(NotReadyError::NoParameters) } else { Ok(*tries) }
        };
        assert_eq!(retry_until_ok("the log", attempt).await.unwrap(), 9);
        let never = || async {
            Err::<(), _>(
                StoreError::Unusable {
                    url: "ftp://x".to_owned(),
                    why: "no known scheme".to_owned(),
                    remedy: "use another".to_owned(),
                }
                .into(),
            )
        };
        assert!(retry_until_ok("the log", never).await.is_err());
    }

    #[tokio::test]
    async fn it_ends_when_it_is_asked_to() {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let stop = CancellationToken::new();
        stop.cancel();
        run(options(&log, 1, 9), &stop, |_| {}).await.unwrap();
    }
}
