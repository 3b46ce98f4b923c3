//! Where a hit stands in the order of hits.

use super::api::SortOrder;
use serde::{Deserialize, Serialize};

/// A hit's place in the order of hits. Stored in page cursors as an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SortKey(
    /// What is sorted by: the token's sort key, the score, or the client's time.
    pub(crate) u64,
    /// The token's sort key where hits are sorted by the client's time, else 0.
    pub(crate) u64,
    /// The rest of the token, or 0 where it is sorted by the score.
    pub(crate) u128,
    /// The document's number in the view, which makes the key unique.
    pub(crate) u64,
);

impl SortKey {
    /// The key that sorts the other way round.
    pub(crate) fn reversed(self) -> Self {
        Self(!self.0, !self.1, !self.2, !self.3)
    }

    /// A client's time, in seconds of Unix time, as a number that sorts like it. Operations without one come last in either order.
    pub(crate) fn of_client_time(second: Option<i64>, sort: SortOrder) -> u64 {
        let last = if sort.is_ascending() { u64::MAX } else { 0 };
        second.map_or(last, |second| second.cast_unsigned() ^ (1 << 63))
    }

    /// A score as a number that sorts like it: the bits of a float that is not negative do.
    pub(crate) fn of_score(score: f32) -> u64 {
        u64::from(score.max(0.0).to_bits())
    }

    /// The score of such a number.
    #[expect(clippy::cast_possible_truncation, reason = "it was made from 32 bits")]
    pub(crate) fn score_of(number: u64) -> f32 {
        f32::from_bits(number as u32)
    }
}
