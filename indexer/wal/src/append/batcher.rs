//! Batches of busy writers: several drafts share one entry.
//!
//! Only drafts that the entry itself completes share one: operations of one entry are committed together or not at all,
//! and no record should depend on another's descriptor. The first draft of a batch waits for others and then writes
//! the entry for all; each is acknowledged when that entry is proven. Where that fails, and where the first one is
//! cancelled, every draft is appended alone under the idempotency key that it had in the batch, so that it counts once; not any more
//! once the log forgets the key.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{error::AppendError, prepared::EntryDraft, receipt::AppendReceipt, writer::LogWriter};
use crate::{parameters::LogParameters, payload::MAX_OPERATIONS};

/// When a shared entry is written: whichever bound is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Most operations in one entry, at most [`MAX_OPERATIONS`].
    pub operations: usize,
    /// Most bytes in one entry, at most half of the log's largest entry.
    pub bytes: usize,
    /// Longest wait of the first draft.
    pub wait: Duration,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self { operations: 500, bytes: 256 << 10, wait: Duration::from_millis(20) }
    }
}

/// Appends drafts that share entries under a [`FlushPolicy`]. Cheap to clone; clones share batches.
#[derive(Clone, Debug)]
pub struct AppendBatcher {
    writer: LogWriter,
    policy: FlushPolicy,
    open: Arc<Mutex<Option<Arc<OpenBatch>>>>,
}

/// Drafts that wait for their entry.
#[derive(Debug, Default)]
struct OpenBatch {
    members: Mutex<BatchMembers>,
    full: Notify,
}

#[derive(Debug, Default)]
struct BatchMembers {
    drafts: Vec<EntryDraft>,
    operations: usize,
    bytes: usize,
    /// Where the receipts of the drafts after the first go; dropped when the batch fails.
    waiting: Vec<oneshot::Sender<AppendReceipt>>,
}

/// The role of a draft in its batch.
enum BatchSlot {
    /// The first: it writes for all.
    Leader(Arc<OpenBatch>),
    Member(oneshot::Receiver<AppendReceipt>),
}

impl AppendBatcher {
    /// A batcher over `writer`.
    pub fn new(writer: LogWriter, policy: FlushPolicy) -> Self {
        let policy = FlushPolicy { operations: policy.operations.clamp(1, MAX_OPERATIONS), ..policy };
        Self { writer, policy, open: Arc::default() }
    }

    /// Appends `draft`, together with others where that is possible, else alone.
    pub async fn append(&self, mut draft: EntryDraft) -> Result<AppendReceipt, AppendError> {
        let shares = draft.is_entry_only() && draft.writer.as_deref().is_none_or(|name| name == self.writer.name());
        let now = self.writer.now().await?;
        let policy = self.policy_within(now.parameters());
        if !shares || draft.weight() > policy.bytes || draft.operations() > policy.operations {
            return self.writer.append(draft).await;
        }
        // The key has to be in place before the draft is copied: alone and in the batch it is the same one.
        let key = draft.idempotency_key.filter(|key| !key.is_empty());
        draft.idempotency_key = Some(key.unwrap_or_else(|| self.writer.nonce()));
        let alone = draft.clone();
        let shared = match self.join(draft, &policy) {
            BatchSlot::Leader(batch) => self.flush_as_leader(batch).await,
            BatchSlot::Member(receipt) => receipt.await.ok(),
        };
        match shared {
            Some(receipt) => Ok(receipt),
            None => self.writer.append_again(alone, now.second).await,
        }
    }

    /// The policy within what a log with these `parameters` takes.
    fn policy_within(&self, parameters: &LogParameters) -> FlushPolicy {
        let largest = usize::try_from(parameters.max_entry_size / 2).unwrap_or(usize::MAX);
        FlushPolicy { bytes: self.policy.bytes.min(largest), ..self.policy }
    }

    /// Adds the draft to the open batch, or opens one.
    fn join(&self, draft: EntryDraft, policy: &FlushPolicy) -> BatchSlot {
        let mut open = self.open.lock();
        if let Some(batch) = open.as_ref() {
            let mut members = batch.members.lock();
            if members.fits(&draft, policy) {
                let (sender, receiver) = oneshot::channel();
                members.waiting.push(sender);
                batch.add(&mut members, draft, policy);
                return BatchSlot::Member(receiver);
            }
            batch.full.notify_one();
        }
        let batch = Arc::new(OpenBatch::default());
        batch.add(&mut batch.members.lock(), draft, policy);
        *open = Some(batch.clone());
        BatchSlot::Leader(batch)
    }

    /// Waits for other drafts, writes the entry for all, and hands out the receipts.
    async fn flush_as_leader(&self, batch: Arc<OpenBatch>) -> Option<AppendReceipt> {
        let closing = BatchCloser { open: self.open.clone(), batch };
        tokio::select! {
            biased;
            () = closing.batch.full.notified() => {}
            () = tokio::time::sleep(self.policy.wait) => {}
        }
        let BatchMembers { drafts, waiting, .. } = closing.close();
        let first_ops = drafts.iter().scan(0, |next, draft| {
            let first = *next;
            *next += draft.operations();
            Some(u32::try_from(first).unwrap_or(u32::MAX))
        });
        let first_ops: Vec<u32> = first_ops.skip(1).collect();
        let receipt = self.writer.append_shared(drafts).await.ok()?;
        for (sender, op) in waiting.into_iter().zip(first_ops) {
            // An append that was cancelled needs no receipt.
            let _ = sender.send(AppendReceipt { op, ..receipt.clone() });
        }
        Some(receipt)
    }
}

impl OpenBatch {
    /// Adds a draft to its members. One that fills the batch is the last that is waited for.
    fn add(&self, members: &mut BatchMembers, draft: EntryDraft, policy: &FlushPolicy) {
        members.push(draft);
        if members.is_full(policy) {
            self.full.notify_one();
        }
    }
}

impl BatchMembers {
    fn is_full(&self, policy: &FlushPolicy) -> bool {
        self.operations >= policy.operations || self.bytes >= policy.bytes
    }

    fn fits(&self, draft: &EntryDraft, policy: &FlushPolicy) -> bool {
        self.operations + draft.operations() <= policy.operations && self.bytes + draft.weight() <= policy.bytes
    }

    fn push(&mut self, draft: EntryDraft) {
        self.operations += draft.operations();
        self.bytes += draft.weight();
        self.drafts.push(draft);
    }
}

/// Closes a batch, also when its leader is cancelled, so that no member waits for it.
struct BatchCloser {
    open: Arc<Mutex<Option<Arc<OpenBatch>>>>,
    batch: Arc<OpenBatch>,
}

impl BatchCloser {
    fn close(&self) -> BatchMembers {
        let mut open = self.open.lock();
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, &self.batch)) {
            *open = None;
        }
        std::mem::take(&mut self.batch.members.lock())
    }
}

impl Drop for BatchCloser {
    fn drop(&mut self) {
        self.close();
    }
}
