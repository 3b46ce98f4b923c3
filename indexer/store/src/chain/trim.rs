//! Trimming: an appender removes the records that nobody needs any more, so that no chain grows with time.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::{
    error::ChainError,
    names::{ChainObjectName, boundary_key, record_key},
    protocol::{AppendOnlyChain, ChainRecord},
    state::ChainState,
};
use crate::{
    object::{Create, ObjectInfo, UserMetadata},
    time::StoreSecond,
};

/// How long a record stays after a later one followed it, by store time. A constant of the format: readers rely on it.
pub const RECORD_RETENTION: Duration = Duration::from_hours(1);
/// An appender trims after every so many records.
/// A trim lists the whole chain, which would be too much for every append.
const TRIM_STEP: u64 = 64;

/// What a chain's prefix holds.
#[derive(Default)]
struct ChainListing {
    records: Vec<(u64, StoreSecond)>,
    boundaries: Vec<(u64, StoreSecond)>,
}

impl<S: ChainState> AppendOnlyChain<S> {
    /// Trims after every 64th append. A failure is logged: the next appender trims more.
    pub(super) async fn trim_after(&self, appended: &ChainRecord<S>) {
        if !appended.number.is_multiple_of(TRIM_STEP) {
            return;
        }
        // The record's own store time: this process need not know what time it is.
        if let Err(error) = self.trim(appended, appended.time.before(RECORD_RETENTION)).await {
            let chain = self.store().url();
            tracing::warn!(%chain, %error, "old records were not removed; the chain takes more room; a later append tries again");
        }
    }

    /// Removes the records that were followed by another one at a store time up to `old`, which is at least [`RECORD_RETENTION`]
    /// ago. `latest` is a committed record of this chain; it and later ones stay, whatever their age. Gives the number of objects
    /// that were deleted.
    ///
    /// First the boundary is raised, then what lies at or below it is deleted, so that a process that was suspended in
    /// between learns from the boundary that its slot is gone. May be repeated, by any number of processes, and end at any step.
    pub async fn trim(&self, latest: &ChainRecord<S>, old: StoreSecond) -> Result<u64, ChainError<S::Rejection>> {
        let listing = self.list_objects().await?;
        let mut boundary = listing.boundaries.iter().map(|(number, _)| *number).max().unwrap_or_default();
        let above = listing.records.iter().filter(|(number, _)| *number > boundary);
        let young = above.filter(|(_, time)| *time > old).map(|(number, _)| *number).min();
        // The record before the first young one was followed just now: it stays, however old it is itself.
        let last_followed =
            young.map_or(u64::MAX, |young| young.saturating_sub(2)).min(latest.number.saturating_sub(1));
        if last_followed > boundary {
            self.create_boundary(last_followed).await?;
            boundary = last_followed;
        }
        // Boundaries stay as long as records do: a listing that runs meanwhile shows this one or the one before.
        let records = listing.records.iter().filter(|(number, _)| *number <= boundary);
        let boundaries = listing.boundaries.iter().filter(|(number, time)| *number < boundary && *time <= old);
        let mut doomed: Vec<_> = records.map(|(number, _)| record_key(*number)).collect();
        doomed.extend(boundaries.map(|(number, _)| boundary_key(*number)));
        self.store().delete(&doomed).await?;
        Ok(doomed.len() as u64)
    }

    async fn list_objects(&self) -> Result<ChainListing, ChainError<S::Rejection>> {
        let sort = |mut listing: ChainListing, object: ObjectInfo| async move {
            match ChainObjectName::parse(&object.key) {
                Some(ChainObjectName::Record(number)) => listing.records.push((number, object.time)),
                Some(ChainObjectName::Boundary(number)) => listing.boundaries.push((number, object.time)),
                None => {}
            }
            Ok(listing)
        };
        Ok(self.store().list("", None).try_fold(ChainListing::default(), sort).await?)
    }

    /// Another process that creates the same boundary says the same, so a lost create is as good as a won one.
    pub(super) async fn create_boundary(&self, number: u64) -> Result<(), ChainError<S::Rejection>> {
        let key = boundary_key(number);
        match self.store().create_resolved(&key, Bytes::from_static(b"{}\n"), &UserMetadata::new()).await {
            Create::Committed | Create::Lost => Ok(()),
            Create::Unknown(error) => {
                Err(ChainError::Unknown { key: self.store().url_of(&key), why: error.to_string() })
            }
        }
    }
}
