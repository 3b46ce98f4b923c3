//! The memory of answers with changes, while they are made and on their way to clients: so much over all clients, however many these are.
//!
//! A client for which there is something waits for its share in turn, before anything is read for it. The share shrinks to what is sent, and is
//! given back once the system has taken that. A client that waits for a change has none.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is set aside for an answer while it is made, in bytes: what is read, and what is sent of it.
const LARGEST_ANSWER: usize = 3 << 20;
/// The bytes of one permit.
const PERMIT_BYTES: usize = 1 << 10;

/// The memory of all answers. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct FeedMemory {
    permits: Arc<Semaphore>,
    /// How many permits an answer begins with.
    share: u32,
}

/// The memory of one answer, until it is dropped.
#[derive(Debug)]
pub(super) struct FeedShare {
    permits: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl FeedMemory {
    /// So many bytes, and at least those of one answer.
    pub(super) fn new(bytes: usize) -> Self {
        let share = u32::try_from(LARGEST_ANSWER.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permits = bytes.max(LARGEST_ANSWER).div_ceil(PERMIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), share }
    }

    /// Waits for the memory of an answer, behind those who have waited for longer.
    pub(super) async fn share(&self) -> FeedShare {
        // Nobody closes it.
        let held = Arc::clone(&self.permits).acquire_many_owned(self.share).await.ok();
        FeedShare { permits: Arc::clone(&self.permits), held }
    }

    /// How many bytes nobody holds.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits() * PERMIT_BYTES
    }
}

impl FeedShare {
    /// Holds so many bytes from now on. What is less than a permit is not counted, such as the signs of life of clients that wait.
    pub(super) fn resize(&mut self, bytes: usize) {
        let Some(held) = &mut self.held else { return };
        let wanted = bytes / PERMIT_BYTES;
        if let Some(surplus) = held.num_permits().checked_sub(wanted) {
            drop(held.split(surplus));
            return;
        }
        // A single change may be larger than what was set aside. What is free is taken: who holds something must not wait for more.
        let missing = (wanted - held.num_permits()).min(self.permits.available_permits());
        let more = u32::try_from(missing).ok().and_then(|n| Arc::clone(&self.permits).try_acquire_many_owned(n).ok());
        if let Some(more) = more {
            held.merge(more);
        }
    }

    /// `content` as bytes that hold the share until they are dropped, and what tells when.
    pub(super) fn hold(mut self, content: Vec<u8>) -> (Bytes, TakenAnswer) {
        self.resize(content.len());
        let taken = CancellationToken::new();
        let held = HeldAnswer { content, _share: self, _taken: taken.clone().drop_guard() };
        (Bytes::from_owner(held), TakenAnswer(taken))
    }
}

/// What is sent, with its share.
struct HeldAnswer {
    content: Vec<u8>,
    _share: FeedShare,
    _taken: DropGuard,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// Tells when an answer was taken, or given up.
pub(super) struct TakenAnswer(CancellationToken);

impl TakenAnswer {
    /// Waits until the answer holds nothing any more.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_share_shrinks_to_what_is_sent_and_is_free_once_that_is_taken() {
        let memory = FeedMemory::new(2 * LARGEST_ANSWER);
        let (first, _second) = (memory.share().await, memory.share().await);
        assert_eq!(memory.free(), 0);
        let mut third = Box::pin(memory.share());
        assert!(third.as_mut().now_or_never().is_none());
        let (bytes, taken) = first.hold(vec![7; 1500]);
        assert_eq!(memory.free(), 0, "what was given back is set aside for the one that waits");
        assert!(third.as_mut().now_or_never().is_none());
        let part = bytes.slice(3..5);
        drop(bytes);
        assert!(taken.wait().now_or_never().is_none(), "a part of it is still held");
        assert_eq!(&part[..], [7, 7]);
        drop(part);
        taken.wait().await;
        third.await;
        assert_eq!(memory.free(), LARGEST_ANSWER, "what is not waited for any more is given back");
    }

    #[tokio::test]
    async fn an_answer_beyond_its_share_takes_what_is_free_and_waits_for_nothing() {
        let memory = FeedMemory::new(2 * LARGEST_ANSWER);
        let mut large = memory.share().await;
        large.resize(LARGEST_ANSWER + PERMIT_BYTES);
        assert_eq!(memory.free(), LARGEST_ANSWER - PERMIT_BYTES);
        large.resize(10 * LARGEST_ANSWER);
        assert_eq!(memory.free(), 0);
        large.resize(PERMIT_BYTES - 1);
        assert_eq!(memory.free(), 2 * LARGEST_ANSWER);
        drop(large);
        assert_eq!(memory.free(), 2 * LARGEST_ANSWER);
    }
}
