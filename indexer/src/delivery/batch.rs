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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_wal::Token;

    use super::*;

    fn record(seq: u64, bytes: usize) -> DeliveryRecord {
        DeliveryRecord {
            position: tidemark_catalog::ConsumerPosition { generation: "g1".parse().unwrap(), seq },
            token: Token::from_bytes([1; 20]),
            op: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            entity: None,
            json: "x".repeat(bytes).into(),
        }
    }

    const LIMITS: BatchLimits = BatchLimits { operations: 3, bytes: 100, delay: Duration::from_secs(1) };

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_due_when_it_is_full_or_its_first_record_has_waited() {
        let (mut ready, now) = (ReadyRecords::default(), Instant::now());
        assert_eq!(ready.due(&LIMITS), None);
        ready.push(record(1, 10), now);
        ready.push(record(2, 10), now + Duration::from_millis(500));
        assert_eq!(ready.due(&LIMITS), Some(now + LIMITS.delay));
        ready.push(record(3, 10), now + Duration::from_millis(600));
        assert_eq!(ready.due(&LIMITS), Some(now));
        ready.push(record(4, 500), now);
        assert_eq!(ready.take(&LIMITS, now).len(), 3);
        assert_eq!((ready.due(&LIMITS), ready.take(&LIMITS, now).len()), (Some(now), 1));
        assert!(ready.is_empty() && ready.due(&LIMITS).is_none());
    }

    proptest! {
        #[test]
        fn batches_have_every_record_once_in_order_and_within_the_limits(sizes in prop::collection::vec(1usize..150, 0..60)) {
            let now = Instant::now();
            let mut ready = ReadyRecords::default();
            sizes.iter().zip(1..).for_each(|(bytes, seq)| ready.push(record(seq, *bytes), now));
            let mut seen = Vec::new();
            loop {
                let batch = ready.take(&LIMITS, now);
                if batch.is_empty() {
                    break;
                }
                let bytes: u64 = batch.iter().map(DeliveryRecord::bytes).sum();
                prop_assert!(batch.len() <= 3 && (bytes <= 100 || batch.len() == 1));
                seen.extend(batch.iter().map(DeliveryRecord::seq));
            }
            prop_assert_eq!(seen, (1..=sizes.len() as u64).collect::<Vec<_>>());
        }
    }
}
