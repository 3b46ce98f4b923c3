//! The destination of a consumer's world: how it is, and what it answers.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::DeliveryWorld;
use crate::delivery::{
    bulk_api::judge,
    destination::{BatchAnswer, Destination, RecordVerdict},
    record::DeliveryRecord,
};

/// How the destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::delivery::tests) enum DestinationMood {
    Well,
    /// Takes a second a batch.
    Slow,
    /// Takes nothing.
    Down,
    /// Takes everything and its answers are lost.
    Mute,
    /// Takes a part of each batch.
    Choosy,
    /// Takes at most three records at once.
    Narrow,
    /// Never answers in time.
    Silent,
    /// Rejects each record.
    RejectsAll,
    /// Takes each third record, and rejects the others.
    RejectsMost,
    /// Rejects poison, and puts it off, by turns.
    Fickle,
    /// Puts the record before each poison off until it comes by itself.
    Shy,
    /// Takes nothing, and asks to be left alone for so long.
    Asks(Duration),
}

/// Those that come by turns.
pub(in crate::delivery::tests) const MOODS: [DestinationMood; 7] = [
    DestinationMood::Well,
    DestinationMood::Slow,
    DestinationMood::Down,
    DestinationMood::Mute,
    DestinationMood::Choosy,
    DestinationMood::Narrow,
    DestinationMood::Silent,
];

#[async_trait]
impl Destination for DeliveryWorld {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        self.tries.fetch_add(1, Ordering::Relaxed);
        self.send(batch);
        let answer = self.take(batch).await;
        self.answer(batch, answer)
    }
}

impl DeliveryWorld {
    async fn take(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        let (mood, per_item) = (*self.mood.lock(), self.options.per_item);
        let failed = |why: &str| BatchAnswer::Failed { why: why.to_owned(), retry_after: None };
        sleep(Duration::from_millis(if mood == DestinationMood::Slow { 1000 } else { 20 })).await;
        match mood {
            DestinationMood::Down => return failed("down"),
            DestinationMood::Asks(pause) => {
                return BatchAnswer::Failed { why: "later".to_owned(), retry_after: Some(pause) };
            }
            DestinationMood::Silent => {
                sleep(Duration::from_secs(30)).await;
                return failed("no answer");
            }
            DestinationMood::RejectsAll => return BatchAnswer::Refused { why: "no".to_owned() },
            DestinationMood::Narrow if batch.len() > 3 => return BatchAnswer::Refused { why: "too many".to_owned() },
            _ => {}
        }
        if !per_item {
            if batch.iter().any(|record| self.is_poison(record.seq())) {
                return BatchAnswer::Refused { why: "poison".to_owned() };
            }
            for record in batch {
                self.arrive(record);
            }
            return match mood {
                DestinationMood::Mute => failed("the answer is lost"),
                DestinationMood::Choosy if self.number(2) == 0 => failed("not now"),
                _ => BatchAnswer::Answered(vec![RecordVerdict::Delivered; batch.len()]),
            };
        }
        let items: Vec<_> = batch.iter().map(|record| self.item(record, mood, batch.len())).collect();
        let mut body = json!({"errors": true, "items": items}).to_string();
        if mood == DestinationMood::Mute {
            body.truncate(body.len() / 2);
        }
        judge(batch, body.as_bytes()).unwrap_or_else(|unreadable| unreadable)
    }

    /// What a bulk API answers for a record of a batch of so many.
    fn item(&self, record: &DeliveryRecord, mood: DestinationMood, batch: usize) -> Value {
        let (seq, is_poison) = (record.seq(), self.is_poison(record.seq()));
        let is_rejected = is_poison || (mood == DestinationMood::RejectsMost && !seq.is_multiple_of(3));
        let is_busy = mood == DestinationMood::Fickle && is_poison && self.tries().is_multiple_of(2);
        let is_put_off = (mood == DestinationMood::Shy && batch > 1 && self.is_poison(seq + 1))
            || (mood == DestinationMood::Choosy && self.number(3) == 0);
        let (status, kind) = if is_busy || (is_put_off && !is_rejected) {
            (429, Some("es_rejected_execution_exception"))
        } else if is_rejected {
            (400, Some("mapper_parsing_exception"))
        } else {
            self.arrive(record);
            (201, None)
        };
        let error = kind.map(|kind| json!({"type": kind, "reason": "as the world wants"}));
        json!({"index": {"_id": record.operation_id(), "status": status, "error": error}})
    }
}
