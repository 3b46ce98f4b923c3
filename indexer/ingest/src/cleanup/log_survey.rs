//! What the log has: how many entries, how large, and how many of them each rule keeps.

use futures::TryStreamExt as _;
use tidemark_catalog::LogCursor;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{ListedEntry, LogReader};

/// The entries of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSurvey {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// How many of them lie at or above each of the bounds.
    pub(super) held_back: Vec<u64>,
}

impl LogSurvey {
    /// Lists the whole log, tokens from the future included.
    pub(super) async fn of(reader: &LogReader, bounds: &[LogCursor]) -> Result<Self, StoreError> {
        let mut survey = Self { held_back: vec![0; bounds.len()], ..Self::default() };
        let mut listed = reader.list(StoreSecond::default(), StoreSecond::KSUID_END.next());
        while let Some(entry) = listed.try_next().await? {
            survey.entries += 1;
            survey.bytes += entry.size;
            for (held_back, bound) in survey.held_back.iter_mut().zip(bounds) {
                *held_back += u64::from(!bound.covers(entry.token));
            }
        }
        Ok(survey)
    }
}

/// The second below which the oldest entries weigh `surplus` at most, and how many entries lie below it. A second is never cut: its
/// entries stay together.
pub(super) async fn oldest_within(
    reader: &LogReader,
    surplus: u64,
    weigh: impl Fn(&ListedEntry) -> u64,
) -> Result<(LogCursor, u64), StoreError> {
    let mut listed = reader.list(StoreSecond::default(), StoreSecond::KSUID_END.next());
    let (mut weight, mut entries, mut below, mut second) = (0_u64, 0, 0, StoreSecond::default());
    while let Some(entry) = listed.try_next().await? {
        if entry.token.second() != second {
            (second, below) = (entry.token.second(), entries);
        }
        weight = weight.saturating_add(weigh(&entry));
        if weight > surplus {
            return Ok((LogCursor(second), below));
        }
        entries += 1;
    }
    Ok((LogCursor(StoreSecond::KSUID_END.next()), entries))
}

#[cfg(test)]
mod tests {
    use tidemark_store::{Create, Store, UserMetadata};
    use tidemark_wal::{Log, Token};

    use super::*;

    const BEGIN: u64 = 1_800_000_000;

    fn at(second: u64) -> LogCursor {
        LogCursor(StoreSecond::from_unix(BEGIN + second))
    }

    /// A log with entries of ten bytes at these seconds.
    async fn reader(seconds: &[u64]) -> LogReader {
        let log = Log::over(Store::memory(), Vec::new());
        for (number, second) in (0..).zip(seconds) {
            let key = Token::from_parts(at(*second).second(), [number; 16]).to_string();
            let created = log.entries.create(&key, "0123456789".into(), &UserMetadata::new()).await;
            assert!(matches!(created, Create::Committed));
        }
        LogReader::new(&log)
    }

    #[tokio::test]
    async fn each_bound_keeps_what_lies_at_or_above_it() {
        let reader = reader(&[1, 1, 2, 5]).await;
        let survey = LogSurvey::of(&reader, &[at(0), at(1), at(2), at(3), at(6)]).await.unwrap();
        assert_eq!((survey.entries, survey.bytes), (4, 40));
        assert_eq!(survey.held_back, [4, 4, 2, 1, 0]);
    }

    #[tokio::test]
    async fn the_oldest_go_first_and_a_second_is_never_cut() {
        let reader = reader(&[1, 1, 2, 5]).await;
        let within =
            async |surplus, weigh: fn(&ListedEntry) -> u64| oldest_within(&reader, surplus, weigh).await.unwrap();
        for (surplus, found) in [(0, (at(1), 0)), (1, (at(1), 0)), (2, (at(2), 2)), (3, (at(5), 3))] {
            assert_eq!(within(surplus, |_| 1).await, found);
            assert_eq!(within(surplus * 10 + 5, |entry| entry.size).await, found);
        }
        assert_eq!(within(4, |_| 1).await, (LogCursor(StoreSecond::KSUID_END.next()), 4));
    }
}
