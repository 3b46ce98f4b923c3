//! Somebody who searches all the time and counts what is answered.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Of how many failures the words are kept.
const MAX_FAILURES: usize = 50;

/// What became of the queries.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryTally {
    pub(crate) total: u64,
    pub(crate) failed: u64,
    /// The longest time without an answer.
    pub(crate) silence: Duration,
    /// The first [`MAX_FAILURES`] that failed.
    pub(crate) failures: Vec<QueryFailure>,
}

/// A query that failed.
#[derive(Clone)]
pub(crate) struct QueryFailure {
    /// When it was asked, since the first query.
    asked: Duration,
    took: Duration,
    why: String,
}

impl fmt::Debug for QueryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, took, why } = self;
        write!(f, "at {:.1} s, for {:.1} s: {why}", asked.as_secs_f64(), took.as_secs_f64())
    }
}

/// Queries one after the other, each over a connection of its own, so that the Service chooses a pod each time. One that
/// is not answered with results within 3 s has failed; none is asked twice.
pub(crate) struct QueryLoop {
    answers: Arc<Mutex<QueryTally>>,
    task: JoinHandle<()>,
}

impl QueryLoop {
    pub(crate) fn start(url: &str) -> Self {
        let answers = Arc::<Mutex<QueryTally>>::default();
        let query = format!("{url}/v1/search?q=written&size=1");
        Self { task: tokio::spawn(keep_asking(query, Arc::clone(&answers))), answers }
    }

    pub(crate) fn answers(&self) -> QueryTally {
        self.answers.lock().clone()
    }
}

impl Drop for QueryLoop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_asking(query: String, answers: Arc<Mutex<QueryTally>>) {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(3));
    let client = client.build().expect("a client");
    let began = Instant::now();
    let mut answered = began;
    loop {
        let asking = Instant::now();
        let asked = ask(&client, &query).await;
        {
            let mut answers = answers.lock();
            answers.total += 1;
            match asked {
                Ok(()) => {
                    answers.silence = answers.silence.max(answered.elapsed());
                    answered = Instant::now();
                }
                Err(why) => {
                    answers.failed += 1;
                    if answers.failures.len() < MAX_FAILURES {
                        let (asked, took) = (asking.duration_since(began), asking.elapsed());
                        answers.failures.push(QueryFailure { asked, took, why });
                    }
                }
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// An answer counts when it finds something: all that is ever written matches.
async fn ask(client: &reqwest::Client, query: &str) -> Result<(), String> {
    let answer = client.get(query).send().await.map_err(|error| format!("{error:?}"))?;
    let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
    let found = serde_json::from_str::<serde_json::Value>(&text).ok();
    let hits = found.and_then(|found| found["hits"].as_array().map(Vec::len));
    if status.is_success() && hits == Some(1) { Ok(()) } else { Err(format!("{status}: {text}")) }
}
