//! What a destination is: it takes batches, and answers what became of them.

use std::time::Duration;

use async_trait::async_trait;

use super::{record::DeliveryRecord, worker_socket::WorkerSocket};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAnswer {
    /// One verdict a record, in their order.
    Answered(Vec<RecordVerdict>),
    /// The destination does not take these records as they are, or not so many: halves of them are tried, down to single ones.
    Refused {
        /// What it said.
        why: String,
    },
    /// Nothing is known of any of them: all are sent again, before anything that comes after them.
    Failed {
        /// What happened.
        why: String,
        /// How long the destination wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The destination is gone, and does not come back.
    Ended {
        /// What happened.
        why: String,
    },
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordVerdict {
    /// The destination has it, or something newer of its operation.
    Delivered,
    /// It is sent again; what comes after it need not wait.
    Retry {
        /// What the destination said.
        why: String,
    },
    /// The destination will never take it.
    Rejected {
        /// What the destination said.
        why: String,
    },
}

/// Takes the records of one consumer.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Delivers a batch, which is not empty. The future may be dropped: then the batch may have arrived, or a part of it, and comes again.
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer;
}

#[async_trait]
impl<T: Destination + ?Sized> Destination for &T {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        (**self).deliver(batch).await
    }
}

/// Who takes the records of a consumer.
pub enum DeliveryTarget<'a> {
    /// A destination, batch by batch.
    Destination(Box<dyn Destination + 'a>),
    /// Workers, of each entity one record at a time.
    Workers(WorkerSocket),
}
