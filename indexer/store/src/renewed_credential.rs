//! A credential that ends, renewed before it does.
//!
//! `object_store` has such a cache for its own tokens and does not export it. Here the old one also serves while renewal fails.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::errors::StoreError;

/// How long before their end credentials are renewed, if they last more than twice as long.
const RENEWAL_LEAD: Duration = Duration::from_mins(5);
/// How long the old ones serve before a renewal that failed is tried again.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);

/// The credential that a provider gave last. One request at a time asks for a new one, and the others wait for it.
pub(crate) struct RenewedCredential<T>(Mutex<Option<TimedCredential<T>>>);

/// A credential, and for how long it is valid; `None` for one that does not end.
pub(crate) struct FreshCredential<T> {
    pub(crate) credential: T,
    pub(crate) validity: Option<Duration>,
}

struct TimedCredential<T> {
    credential: Arc<T>,
    term: Option<CredentialTerm>,
}

/// When to renew a credential and when it ends, on the monotonic clock.
#[derive(Clone, Copy)]
struct CredentialTerm {
    renewal: Instant,
    end: Instant,
}

impl<T> RenewedCredential<T> {
    /// The credential, from `fetch` where there is none or it is to be renewed. Where that fails the old one serves until it ends.
    pub(crate) async fn get<F>(&self, fetch: F) -> object_store::Result<Arc<T>>
    where
        F: Future<Output = Result<FreshCredential<T>, StoreError>>,
    {
        let mut current = self.0.lock().await;
        if let Some(known) = &*current
            && known.term.is_none_or(|term| Instant::now() < term.renewal)
        {
            return Ok(known.credential.clone());
        }
        let error = match fetch.await {
            Ok(fresh) => {
                let credential = Arc::new(fresh.credential);
                let term = fresh.validity.map(CredentialTerm::of);
                *current = Some(TimedCredential { credential: credential.clone(), term });
                return Ok(credential);
            }
            Err(error) => error,
        };
        if let Some(TimedCredential { credential, term: Some(term) }) = &mut *current
            && Instant::now() < term.end
        {
            tracing::warn!(%error, "credentials were not renewed; the old ones serve until they end");
            term.renewal = Instant::now() + RENEWAL_INTERVAL;
            return Ok(credential.clone());
        }
        Err(object_store::Error::Generic { store: "credentials", source: Box::new(error) })
    }
}

impl<T> Default for RenewedCredential<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl CredentialTerm {
    fn of(validity: Duration) -> Self {
        let now = Instant::now();
        let renewal = now + validity.saturating_sub(RENEWAL_LEAD).max(validity / 2);
        Self { renewal, end: now + validity }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    async fn get(
        renewed: &RenewedCredential<u32>,
        fetched: &Cell<u32>,
        validity: Option<Duration>,
    ) -> object_store::Result<u32> {
        let fetch = async {
            fetched.set(fetched.get() + 1);
            Ok(FreshCredential { credential: fetched.get(), validity })
        };
        renewed.get(fetch).await.map(|credential| *credential)
    }

    async fn get_without_provider(renewed: &RenewedCredential<u32>) -> object_store::Result<u32> {
        let error = StoreError::Failed { url: "s3://b".to_owned(), key: "k".to_owned(), why: "down".to_owned() };
        renewed.get(async { Err(error) }).await.map(|credential| *credential)
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_is_fetched_again_five_minutes_before_its_end() {
        let (renewed, fetched) = (RenewedCredential::default(), Cell::new(0));
        for (wait, expected) in [(0, 1), (54, 1), (1, 2)] {
            tokio::time::advance(Duration::from_mins(wait)).await;
            assert_eq!(get(&renewed, &fetched, Some(HOUR)).await.unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_short_is_fetched_again_in_the_middle_and_one_without_end_never() {
        let (renewed, fetched) = (RenewedCredential::default(), Cell::new(0));
        for (wait, expected) in [(0, 1), (29, 1), (1, 2)] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            assert_eq!(get(&renewed, &fetched, Some(Duration::from_mins(1))).await.unwrap(), expected);
        }
        let (renewed, fetched) = (RenewedCredential::default(), Cell::new(0));
        for _ in 0..2 {
            assert_eq!(get(&renewed, &fetched, None).await.unwrap(), 1);
            tokio::time::advance(HOUR * 1000).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_one_serves_until_it_ends() {
        let (renewed, fetched) = (RenewedCredential::default(), Cell::new(0));
        get(&renewed, &fetched, Some(HOUR)).await.unwrap();
        tokio::time::advance(Duration::from_mins(55)).await;
        assert_eq!(get_without_provider(&renewed).await.unwrap(), 1);
        assert_eq!(get(&renewed, &fetched, Some(HOUR)).await.unwrap(), 1, "a failure is not repeated at once");
        tokio::time::advance(Duration::from_mins(5)).await;
        assert!(get_without_provider(&renewed).await.is_err());
        assert_eq!(get(&renewed, &fetched, Some(HOUR)).await.unwrap(), 2);
    }
}
