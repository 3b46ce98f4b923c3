//! Objects of the index that were found damaged in the store: they are not fetched again at once.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tidemark_ingest::engine::EngineError;
use tokio::time::Instant;

/// For how long an object is not fetched after it was found damaged; twice as long after each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_hours(1);

/// What is damaged, by key. Each opening of the index asks for a damaged object again, so that it is used soon after it was
/// restored.
#[derive(Default)]
pub(crate) struct DamagedObjects(Mutex<HashMap<String, DamagedObject>>);

struct DamagedObject {
    why: String,
    pause: Duration,
    until: Instant,
}

impl DamagedObjects {
    /// What `fetch` gives, or how the object was damaged when it was fetched a while ago.
    pub(crate) async fn fetch_unless_damaged<T>(
        &self,
        key: &str,
        fetch: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        self.check(key)?;
        let fetched = fetch.await;
        self.record(key, fetched.as_ref().err());
        fetched
    }

    /// An error if the object was found damaged a while ago.
    pub(crate) fn check(&self, key: &str) -> Result<(), EngineError> {
        match self.0.lock().get(key).filter(|known| Instant::now() < known.until) {
            Some(known) => Err(EngineError::Damaged { key: key.to_owned(), why: known.why.clone() }),
            None => Ok(()),
        }
    }

    /// The object was used, which ended with `error` if it did.
    pub(crate) fn record(&self, key: &str, error: Option<&EngineError>) {
        let (mut all, now) = (self.0.lock(), Instant::now());
        match error {
            // Of what is fetched within another fetch, only the inner one counts.
            Some(EngineError::Damaged { .. }) if all.get(key).is_some_and(|known| now < known.until) => {}
            Some(EngineError::Damaged { why, .. }) => {
                let pause = all.get(key).map_or(FIRST_PAUSE, |known| (2 * known.pause).min(MAX_PAUSE));
                all.insert(key.to_owned(), DamagedObject { why: why.clone(), pause, until: now + pause });
            }
            Some(_) => {}
            None => drop(all.remove(key)),
        }
        // An object that is not asked for any more is forgotten.
        all.retain(|_, known| now < known.until + MAX_PAUSE);
    }
}
