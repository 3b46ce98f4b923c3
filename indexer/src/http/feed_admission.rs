//! How many clients follow the changes at once, and how much memory the answers to all of them may take.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    feed_memory::{FeedMemory, FeedShare},
    problem::HttpProblem,
};

/// Files that may be open beside the connections of clients that follow: other connections, segments, and connections to stores.
const OTHER_FILES: u64 = 1536;
/// So many clients may follow, however few files may be open.
const MIN_CLIENTS: usize = 64;

/// How many clients follow the changes at once, and how many bytes of answers are made for them or on their way.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// Requests that wait for changes, streams of events and sockets. One that waits takes a task and a connection.
    pub clients: usize,
    /// Bytes of answers. At least those of one.
    pub answer_bytes: usize,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self { clients: 4096, answer_bytes: 192 << 20 }
    }
}

impl FeedLimits {
    /// How many files must be open for so many clients.
    pub(crate) fn open_files(self) -> u64 {
        OTHER_FILES + self.clients as u64
    }

    /// The same for a process that may open so many files.
    pub(crate) fn within_open_files(self, files: u64) -> Self {
        let clients = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
        Self { clients: self.clients.min(clients.max(MIN_CLIENTS)), ..self }
    }
}

/// The places of clients and the memory of their answers.
pub(super) struct FeedAdmission {
    limits: FeedLimits,
    places: Arc<Semaphore>,
    memory: FeedMemory,
}

impl FeedAdmission {
    pub(super) fn new(limits: FeedLimits) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.clients)), memory: FeedMemory::new(limits.answer_bytes) }
    }

    /// The place of one more client, if there is one.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, HttpProblem> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let clients = self.limits.clients;
            HttpProblem::overloaded(format!(
                "{clients} clients follow the changes already; try again when one has ended"
            ))
        })
    }

    /// The memory of an answer; refused where none becomes free within `wait`.
    pub(super) async fn share(&self, wait: Duration) -> Result<FeedShare, HttpProblem> {
        timeout(wait, self.memory.share()).await.map_err(|_| {
            let mebibytes = self.limits.answer_bytes >> 20;
            HttpProblem::overloaded(format!(
                "{mebibytes} MiB of changes are on their way to clients already; try again when one has taken its answer"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_clients_follow_where_fewer_files_may_be_open() {
        let limits = FeedLimits::default();
        let clients = |files| limits.within_open_files(files).clients;
        assert_eq!(clients(limits.open_files()), 4096);
        assert_eq!(clients(u64::MAX), 4096);
        assert_eq!(clients(limits.open_files() - 100), 3996);
        assert_eq!((clients(1024), clients(0)), (64, 64));
    }
}
