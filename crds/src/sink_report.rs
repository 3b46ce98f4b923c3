//! What the pod of a sink reports about its delivery: a part of [`PodReport`](crate::PodReport).

use serde::{Deserialize, Serialize};

/// What the breaker of a sink lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BreakerPhase {
    /// Everything.
    Closed,
    /// One batch, whose answer decides.
    HalfOpen,
    /// Nothing. Also what a phase of a newer release is read as.
    #[default]
    #[serde(other)]
    Open,
}

/// A place in the changes of an index: after the record `seq` of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FeedPlace {
    /// The generation, such as `g1`.
    pub generation: String,
    /// The seq of the last record before the place; 0 before the first one.
    pub seq: u64,
}

/// How far the delivery of a sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SinkReport {
    /// Whether this process holds the consumer. Another one does, or nobody knows yet.
    pub holding: bool,
    /// Every record up to it was delivered, dead-lettered or left out by the filter.
    pub acknowledged: Option<FeedPlace>,
    /// Records that are published and not acknowledged, those included that the filter leaves out; absent until the index was read once.
    pub lag_operations: Option<u64>,
    /// How long the oldest of them has been published; absent where that is not known.
    pub lag_seconds: Option<u64>,
    /// Records that were read and are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes that they have.
    pub unacknowledged_bytes: u64,
    /// Records that were delivered since the consumer was made.
    pub delivered: u64,
    /// Records that were put aside as dead letters since then.
    pub dead_lettered: u64,
    /// What the breaker lets through.
    pub breaker: BreakerPhase,
    /// Why the record after the acknowledged place holds up all others, if one does.
    pub blocked: Option<String>,
    /// The last failure; absent once something was delivered after it.
    pub last_error: Option<String>,
}

impl SinkReport {
    /// The part that does not move while the sink does its work.
    #[must_use]
    pub fn without_counters(&self) -> Self {
        let Self { holding, breaker, blocked, .. } = self.clone();
        let last_error = self.is_doubtful().then(String::new);
        Self { holding, breaker, blocked, last_error, ..Self::default() }
    }

    /// Whether it delivers, and nothing keeps it from that.
    pub fn is_settled(&self) -> bool {
        self.holding && self.breaker == BreakerPhase::Closed && self.blocked.is_none() && !self.is_doubtful()
    }

    /// Whether nothing shows that the destination takes what it is sent: the last attempt failed, which need not open the breaker, or
    /// there is something to send, or nobody knows that, and nothing was ever answered.
    pub fn is_doubtful(&self) -> bool {
        let is_untried = self.delivered == 0 && self.dead_lettered == 0 && self.lag_operations != Some(0);
        self.last_error.is_some() || is_untried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_release_is_read_as_the_one_that_promises_least() {
        let read = |text| serde_json::from_str::<SinkReport>(text).unwrap();
        assert_eq!(read("{}"), SinkReport::default());
        assert!(!read("{}").is_settled());
        assert_eq!(read(r#"{"breaker": "tripped", "later": 1}"#).breaker, BreakerPhase::Open);
        let good = r#"{"holding": true, "breaker": "closed", "acknowledged": {"generation": "g2", "seq": 7}}"#;
        assert!(!read(good).is_settled(), "what there is to deliver is not known");
        let good = read(&good.replace("}}", "}, \"lagOperations\": 0}"));
        assert!(good.is_settled());
        assert_eq!(good.acknowledged, Some(FeedPlace { generation: "g2".to_owned(), seq: 7 }));
        assert_eq!(serde_json::to_value(BreakerPhase::HalfOpen).unwrap(), "half-open", "as `tidemark sink` logs it");
    }

    #[test]
    fn counters_and_the_words_of_a_failure_are_no_change_of_what_it_does() {
        let counted = SinkReport { delivered: 7, lag_operations: Some(3), ..SinkReport::default() };
        assert_eq!(counted.without_counters(), SinkReport::default());
        let failed = |why: &str| SinkReport { last_error: Some(why.to_owned()), ..counted.clone() }.without_counters();
        assert_eq!(failed("refused"), failed("reset"));
        assert_ne!(failed("refused"), counted.without_counters(), "whether one failed is one");
        let untried = SinkReport { delivered: 0, ..counted.clone() };
        assert!(untried.is_doubtful() && !counted.is_doubtful() && SinkReport::default().is_doubtful());
        assert!(!SinkReport { lag_operations: Some(0), ..SinkReport::default() }.is_doubtful());
        let blocked = SinkReport { blocked: Some("item 4".to_owned()), ..SinkReport::default() };
        assert_ne!(blocked.without_counters(), SinkReport::default());
    }
}
