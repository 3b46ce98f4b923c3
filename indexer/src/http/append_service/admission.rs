//! How much is appended at once. What is beyond a bound is refused with 429: entries before any is begun, bytes as they come.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{http::problem::HttpProblem, metrics::AppendsInFlight};

/// How long a client should wait before it repeats a request that was refused, in seconds.
const RETRY_AFTER: u64 = 1;

/// Bounds on what is in flight.
#[derive(Clone, Copy, Debug)]
pub struct AppendLimits {
    /// Entries that are appended at once.
    pub entries: u32,
    /// Bytes of the requests that were read and are worked on at once; a single request may have as many.
    pub bytes: u32,
}

/// The places of what is in flight.
#[derive(Clone)]
pub(super) struct AppendAdmission {
    limits: AppendLimits,
    entries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl AppendAdmission {
    pub(super) fn new(limits: AppendLimits) -> Self {
        let places = |bound: u32| Arc::new(Semaphore::new(usize::try_from(bound).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { limits, entries: places(limits.entries), bytes: places(limits.bytes) }
    }

    /// The places of so many bytes of one request. Whoever only announces a large body takes none from others.
    pub(super) fn admit_bytes(&self, bytes: u64) -> Result<OwnedSemaphorePermit, HttpProblem> {
        let wanted = self.check_size(bytes)?;
        let places = Arc::clone(&self.bytes).try_acquire_many_owned(wanted);
        places.map_err(|_| full(&format!("requests of {} bytes are in flight or would be", self.limits.bytes)))
    }

    /// Refuses a request of more bytes than there are places.
    pub(super) fn check_size(&self, bytes: u64) -> Result<u32, HttpProblem> {
        let limit = self.limits.bytes;
        u32::try_from(bytes).ok().filter(|bytes| *bytes <= limit).ok_or_else(|| {
            let detail = format!(
                "the request has {bytes} bytes, more than the {limit} that this service takes at once; nothing was appended; send fewer \
                 entries, or raise --max-in-flight-size"
            );
            HttpProblem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the request is too large", detail)
        })
    }

    /// The places of so many entries.
    pub(super) fn admit_entries(&self, entries: usize) -> Result<OwnedSemaphorePermit, HttpProblem> {
        let limit = self.limits.entries;
        let wanted = u32::try_from(entries).ok().filter(|entries| *entries <= limit).ok_or_else(|| {
            let detail = format!(
                "the request has {entries} entries, more than the {limit} that this service takes at once; nothing was appended; send \
                 fewer, or raise --max-in-flight"
            );
            HttpProblem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the request is too large", detail)
        })?;
        let places = Arc::clone(&self.entries).try_acquire_many_owned(wanted);
        places.map_err(|_| full(&format!("{limit} entries are in flight or would be")))
    }

    /// What is in flight.
    pub(super) fn in_flight(&self) -> AppendsInFlight {
        let taken = |limit: u32, places: &Semaphore| {
            u64::from(limit).saturating_sub(u64::try_from(places.available_permits()).unwrap_or(u64::MAX))
        };
        AppendsInFlight {
            entries: taken(self.limits.entries, &self.entries),
            bytes: taken(self.limits.bytes, &self.bytes),
        }
    }
}

fn full(what: &str) -> HttpProblem {
    let detail = format!("{what}; nothing was appended; send the request again after the time in \"Retry-After\"");
    let title = "the service takes no more at the moment";
    HttpProblem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-appends", title, detail).retry_after(RETRY_AFTER)
}
