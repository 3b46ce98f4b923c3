//! Tells the story to a log, for as long as it is listened to.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::RootChain;
use tidemark_store::{Clock, Entropy, Store, StoreError, StoreSecond};
use tidemark_wal::{AppendError, Log, LogWriter, LogWriterOptions, Token, read_descriptor};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::story::{Chapter, Story};
use crate::service::{ServiceError, fit_log};

/// The longest pause before something that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Bytes of a descriptor that are read at most.
const DESCRIPTOR_LIMIT: u64 = 1 << 20;

/// What the demo is told.
pub(crate) struct DemoOptions {
    /// The log.
    pub(crate) log: Log,
    /// Stores whose buckets are made if they are missing.
    pub(crate) buckets: Vec<Store>,
    /// The time between two entries.
    pub(crate) every: Duration,
    /// After how many entries to end; never if left out.
    pub(crate) count: Option<u64>,
    /// What decides the story; the operating system's randomness if left out. Names never depend on it.
    pub(crate) seed: Option<u64>,
}

/// An entry that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its token.
    pub(crate) token: Token,
    /// What it is, in words.
    pub(crate) what: String,
}

/// Appends until `stop` is cancelled or enough is told. `heard` hears of every entry.
///
/// Waits for stores that do not answer and for a log that has no parameters, and says so once. An update that fails is
/// logged, and the next one is made. What it makes has random names, so that any number of these may run, one after the
/// other or at once.
pub(crate) async fn tell(
    options: DemoOptions,
    stop: &CancellationToken,
    heard: impl Fn(Told),
) -> Result<(), ServiceError> {
    let DemoOptions { log, buckets, every, count, seed } = options;
    let ids = Entropy::from_os();
    let dice = seed.map_or_else(Entropy::from_os, Entropy::seeded);
    let opened = stop.run_until_cancelled(async {
        make_buckets(&buckets).await?;
        open(&log, &ids, Story::new(dice, ids.clone())).await
    });
    let Some(opened) = opened.await else { return Ok(()) };
    let mut teller = opened?;
    let mut told = 0;
    let mut due = Instant::now();
    while !stop.is_cancelled() && count.is_none_or(|count| told < count) {
        // An entry that was begun is completed, also when the process is asked to end.
        if let Some(entry) = teller.tell_next().await {
            heard(entry);
            told += 1;
        }
        let pause = teller.pause();
        due = (due + every).max(Instant::now() + pause);
        if count.is_none_or(|count| told < count) {
            stop.run_until_cancelled(sleep_until(due)).await;
        }
    }
    Ok(())
}

/// Waits until every bucket exists.
async fn make_buckets(stores: &[Store]) -> Result<(), ServiceError> {
    for store in stores {
        let made = patiently("a bucket", || async { Ok(store.create_bucket().await?) }).await?;
        if made {
            tracing::info!(store = %store.url(), "made the bucket");
        }
    }
    Ok(())
}

/// Waits until the log can be appended to, and looks what is there already.
async fn open(log: &Log, ids: &Entropy, mut story: Story) -> Result<Teller, ServiceError> {
    let name = format!("tidemark-demo-{}", ids.nonce());
    let root = Arc::new(RootChain::open(log, ids.clone()));
    let clock = Clock::new(log.stores(), &name);
    patiently("the log", || async {
        if root.parameters().await?.is_none() {
            return Err(Wait::NoParameters);
        }
        Ok(fit_log(&root, log, ids).await?)
    })
    .await?;
    let (writer, now) = patiently("the log", || async {
        let options = LogWriterOptions::named(name.clone());
        let writer = LogWriter::open(log.clone(), root.clone(), options, ids.clone()).await?;
        Ok((writer, clock.probe().await.map_err(AppendError::from)?.now))
    })
    .await?;
    let found = patiently("the metadata", || async { Ok(look_around(log).await?) }).await?;
    found.landmarks.iter().for_each(|path| story.exists(path));
    found.labels.iter().for_each(|(repo, label, id)| story.labelled(repo, label, id));
    Ok(Teller { writer, story, now, failures: 0 })
}

/// What an earlier process left.
#[derive(Default)]
struct Found {
    landmarks: Vec<String>,
    labels: Vec<(&'static str, &'static str, String)>,
}

async fn look_around(log: &Log) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for path in Story::landmarks() {
        if log.descriptors().head(&path).await?.is_some() {
            found.landmarks.push(path);
        }
    }
    for (repo, label) in Story::labels() {
        let path = format!("labels/{repo}/{label}/label.yaml");
        let body = log.values().get(&path, DESCRIPTOR_LIMIT).await?.and_then(|object| object.body);
        let place = tidemark_wal::parse_datamon_path(&path).ok();
        let read = place.zip(body).and_then(|(place, body)| read_descriptor(&place, &body).ok());
        found.labels.extend(read.and_then(|label| label.id).map(|id| (repo, label, id)));
    }
    Ok(found)
}

/// Why something is waited for.
#[derive(Debug, thiserror::Error)]
enum Wait {
    #[error("the log has no parameters yet; nothing is written before; start its first indexer, which sets them")]
    NoParameters,
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for Wait {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl From<tidemark_catalog::CatalogError> for Wait {
    fn from(error: tidemark_catalog::CatalogError) -> Self {
        Self::Service(error.into())
    }
}

impl Wait {
    /// What no waiting mends.
    fn hopeless(self) -> Result<Self, ServiceError> {
        match self {
            Self::Service(
                error @ (ServiceError::Unfit { .. }
                | ServiceError::Store(StoreError::Unusable { .. } | StoreError::BadKey { .. })),
            ) => Err(error),
            other => Ok(other),
        }
    }
}

/// Tries until it succeeds, and logs once why it does not.
async fn patiently<T, F>(what: &str, attempt: impl Fn() -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, Wait>>,
{
    let mut failures = 0;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(why) => {
                let why = why.hopeless()?;
                if failures == 0 {
                    tracing::info!("waiting for {what}: {why}");
                } else {
                    tracing::debug!("waiting for {what}: {why}");
                }
            }
        }
        sleep(pause_after(failures)).await;
        failures += 1;
    }
}

/// 1 s, doubled each time up to [`LONGEST_PAUSE`].
fn pause_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(4)).min(LONGEST_PAUSE)
}

struct Teller {
    writer: LogWriter,
    story: Story,
    now: StoreSecond,
    /// Updates in a row that failed.
    failures: u32,
}

impl Teller {
    /// The next update; `None` if it failed.
    async fn tell_next(&mut self) -> Option<Told> {
        let chapter = self.story.next(self.now);
        match self.append(&chapter).await {
            Ok(token) => {
                self.failures = 0;
                Some(Told { token, what: chapter.what })
            }
            // Another demo made the repo or the context first.
            Err(AppendError::Occupied { key, .. }) => {
                self.story.exists(&key);
                None
            }
            Err(error) => {
                self.story.failed(&chapter);
                self.failures += 1;
                tracing::warn!(what = chapter.what, "{error}; going on with the next update");
                None
            }
        }
    }

    async fn append(&mut self, chapter: &Chapter) -> Result<Token, AppendError> {
        if !chapter.completed {
            return Ok(self.writer.begin(chapter.draft.clone()).await?.token);
        }
        let receipt = self.writer.append(chapter.draft.clone()).await?;
        self.now = self.now.max(receipt.acknowledged);
        self.story.committed(chapter);
        Ok(receipt.token)
    }

    /// The least pause before the next update.
    fn pause(&self) -> Duration {
        self.failures.checked_sub(1).map_or(Duration::ZERO, pause_after)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tidemark_wal::{LogParameters, LogReader, Outcome, ParameterSource as _, ReaderLimits};

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

    async fn run(log: &Log, count: u64, seed: u64) -> Vec<Told> {
        let told: Mutex<Vec<Told>> = Mutex::default();
        let stop = CancellationToken::new();
        tell(options(log, count, seed), &stop, |entry| told.lock().unwrap().push(entry)).await.unwrap();
        told.into_inner().unwrap()
    }

    async fn log_with_parameters() -> Log {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let root = RootChain::open(&log, Entropy::from_os());
        root.ensure(&LogParameters::with_expiry(Duration::from_mins(10))).await.unwrap();
        log
    }

    #[tokio::test]
    async fn what_it_tells_is_committed_and_a_second_run_of_the_same_seed_goes_on() {
        let log = log_with_parameters().await;
        let mut told = run(&log, 60, 7).await;
        told.extend(run(&log, 60, 7).await);
        assert_eq!(told.len(), 120);
        let reader = LogReader::new(&log, ReaderLimits::default());
        let schedule = RootChain::open(&log, Entropy::from_os()).schedule().await.unwrap();
        let mut abandoned = 0;
        for Told { token, what } in &told {
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
            if *tries < 9 { Err(Wait::NoParameters) } else { Ok(*tries) }
        };
        assert_eq!(patiently("the log", attempt).await.unwrap(), 9);
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
        assert!(patiently("the log", never).await.is_err());
    }

    #[tokio::test]
    async fn it_ends_when_it_is_asked_to() {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let stop = CancellationToken::new();
        stop.cancel();
        tell(options(&log, 1, 9), &stop, |_| {}).await.unwrap();
    }
}
