//! Records that wait until they are enough for a batch, or have waited long enough.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::record::DeliveryRecord;

/// What ends a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most records.
    pub operations: usize,
    /// The most bytes of them; a larger record is a batch by itself.
    pub bytes: u64,
    /// How long the first one waits for others.
    pub delay: Duration,
}

/// The records that are in no batch yet, in order.
#[derive(Debug, Default)]
pub(crate) struct ReadyRecords {
    records: VecDeque<DeliveryRecord>,
    bytes: u64,
    since: Option<Instant>,
}

impl ReadyRecords {
    /// Adds a record that was read at `now`.
    pub(crate) fn push(&mut self, record: DeliveryRecord, now: Instant) {
        self.since.get_or_insert(now);
        self.bytes = self.bytes.saturating_add(record.bytes());
        self.records.push_back(record);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// When a batch is due, full or not.
    pub(crate) fn due(&self, limits: &BatchLimits) -> Option<Instant> {
        let since = self.since?;
        let is_full = self.records.len() >= limits.operations || self.bytes >= limits.bytes;
        Some(if is_full { since } else { since + limits.delay })
    }

    /// The next batch: at least one record if there is any.
    pub(crate) fn take(&mut self, limits: &BatchLimits, now: Instant) -> Vec<DeliveryRecord> {
        let mut batch = Vec::new();
        let mut bytes = 0_u64;
        while let Some(record) = self.records.pop_front() {
            let fits = batch.len() < limits.operations && bytes.saturating_add(record.bytes()) <= limits.bytes;
            if !batch.is_empty() && !fits {
                self.records.push_front(record);
                break;
            }
            bytes = bytes.saturating_add(record.bytes());
            batch.push(record);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.since = (!self.records.is_empty()).then_some(now);
        batch
    }
}
