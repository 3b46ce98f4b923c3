//! The start of an index that holds nothing: first what is recorded of its log elsewhere, then the log.
//!
//! What lies below the log's floor may be gone from the log, and what was decided once is not decided again. So an index that was
//! never begun, or that was lost, is restored from its own archive or snapshots, else from another place, and then promoted. Each step is a task
//! of [`crate::restore()`] or [`crate::promote()`]: a crash at any of them is gone on with by the next start, and of two processes one
//! waits for the other.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{
    AcquireError, CatalogError, IndexOwner, LogCursor, Manifest, PublishError, TransactionRejected,
};
use tidemark_store::StoreSecond;
use tokio::time::sleep;
use tracing::info;

use crate::{
    error::IngestError,
    generation_task::{GenerationTask, SwitchReport},
    promote::{LostOutcomePolicy, promote_again, promote_from},
    restore::{RestoreRequest, holds_nothing, restore_empty, restore_name, sources_in},
    restore_origin::RestoreOrigin,
    restore_source::{RestoreSources, RestoreTarget},
    snapshot::LogArchive,
};

/// How often a process looks again that waits for another one.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// An index that may hold nothing, and what it can be begun with.
pub struct ColdStart {
    /// The index, and what makes its generations. Its name distinguishes a cold start from what people restore.
    pub task: GenerationTask,
    /// The log's archive below the index.
    pub archive: Arc<dyn LogArchive>,
    /// Where it is begun from if neither archive nor snapshots are below the index.
    pub origin: Option<RestoreOrigin>,
    /// The time that it is begun with from the origin: then it stays as it was at that time until it is promoted. Left out, everything that
    /// is recorded, and the log after it.
    pub time: Option<StoreSecond>,
    /// The owner of the index.
    pub owner: IndexOwner,
}

/// Where an index is begun from.
enum ColdSource<'a> {
    /// From what is below it.
    Own,
    /// From another place.
    Origin(&'a RestoreOrigin),
}

/// What is to be done next.
enum ColdStep<'a> {
    /// It is restored. Everything below the cursor is recorded.
    Restore(ColdSource<'a>, LogCursor),
    /// It is promoted.
    Promote,
    /// Another process promotes it.
    Wait,
}

impl ColdStart {
    /// Whether something is to be done before the log is indexed.
    pub async fn is_due(&self) -> Result<bool, IngestError> {
        Ok(self.next_step(None).await?.is_some())
    }

    /// Up to where the log is recorded in what the index is to be begun with; nothing of an index that is there.
    pub async fn reach(&self) -> Result<LogCursor, IngestError> {
        Ok(match self.next_step(None).await? {
            Some(ColdStep::Restore(_, end)) => end,
            _ => LogCursor::default(),
        })
    }

    /// Restores the index if it holds nothing and anything is recorded of its log, and promotes it unless it is to stay at a time. Does
    /// nothing to an index that holds something by another way.
    ///
    /// The future may be dropped at any time; that is no different from a crash.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::BelowFloor`] if nothing reaches to the log's floor.
    pub async fn run(&self) -> Result<(), IngestError> {
        let (mut has_restored, mut damage) = (false, None);
        while let Some(step) = self.next_step(damage.take()).await? {
            let done = match step {
                // Another process has begun it again, or what was restored is gone.
                ColdStep::Restore(..) if std::mem::take(&mut has_restored) => {
                    sleep(POLL_INTERVAL).await;
                    continue;
                }
                ColdStep::Restore(source, _) => match (self.restore(&source).await, source) {
                    (Err(failure), ColdSource::Own) if failure.is_damage() => {
                        damage = Some(failure);
                        continue;
                    }
                    (done, _) => {
                        has_restored = true;
                        done
                    }
                },
                ColdStep::Promote => self.promote(has_restored).await,
                ColdStep::Wait => {
                    sleep(POLL_INTERVAL).await;
                    continue;
                }
            };
            match done {
                Err(failure) if is_done_by_another(&failure) => sleep(POLL_INTERVAL).await,
                done => drop(done?),
            }
        }
        Ok(())
    }

    async fn restore(&self, source: &ColdSource<'_>) -> Result<SwitchReport, IngestError> {
        let owner = self.owner.clone();
        let (origin, request) = match source {
            ColdSource::Own => {
                info!("the index holds nothing; beginning it with what is recorded of the log below it");
                (None, RestoreRequest { target: RestoreTarget::Latest, owner, reaches_floor: true })
            }
            ColdSource::Origin(origin) => {
                info!(
                    from = origin.url(),
                    "the index holds nothing; beginning it with what is recorded of the log there"
                );
                let (target, reaches_floor) = (self.target(), self.time.is_none());
                (Some(*origin), RestoreRequest { target, owner, reaches_floor })
            }
        };
        Box::pin(restore_empty(&self.task, &*self.archive, origin, &request)).await
    }

    /// Promotes what was restored. Unless this process restored it, an attempt before this one may have been refused.
    async fn promote(&self, has_restored: bool) -> Result<SwitchReport, IngestError> {
        let (task, archive, origin) = (&self.task, &*self.archive, self.origin.as_ref());
        if has_restored {
            return Box::pin(promote_from(task, archive, origin, LostOutcomePolicy::Refuse)).await;
        }
        Box::pin(promote_again(task, archive, origin, LostOutcomePolicy::Refuse)).await
    }

    /// What another place is restored to. What is below the index itself is newer than any time that was named once.
    fn target(&self) -> RestoreTarget {
        self.time.map_or(RestoreTarget::Latest, RestoreTarget::Time)
    }

    /// What is to be done next. `damage` is what was found of what is below the index, if that was tried.
    async fn next_step(&self, damage: Option<IngestError>) -> Result<Option<ColdStep<'_>>, IngestError> {
        if self.task.root.id().await?.is_none() {
            return Ok(None);
        }
        let own = self.task.switch(&restore_name(&RestoreTarget::Latest, None)).await?;
        let (open, latest) = own.open_chain().await?;
        let Some(latest) = latest.map(|latest| latest.state).filter(|latest| !holds_nothing(latest)) else {
            return self.source(damage).await.map(|found| found.map(|(source, end)| ColdStep::Restore(source, end)));
        };
        if latest.until.is_none() || !self.has_restored(&latest).await? {
            return Ok(None);
        }
        let holder = latest.holder.as_ref();
        if holder.is_some_and(|holder| holder.identity.is_switch())
            && open.has_live_writer(&self.task.log.entries).await?
        {
            return Ok(Some(ColdStep::Wait));
        }
        Ok(Some(ColdStep::Promote))
    }

    /// Whether a cold start has made the generation of `latest`, from whatever place, and not for a time: what people restore they promote
    /// themselves.
    async fn has_restored(&self, latest: &Manifest) -> Result<bool, IngestError> {
        let own = self.task.switch(&restore_name(&RestoreTarget::Latest, None)).await?;
        if own.has_made(latest, true).await? {
            return Ok(true);
        }
        let (None, Some(name)) = (self.time, &self.task.name) else { return Ok(false) };
        // The process before this one may have named another place, or this one names none.
        let maker = own.maker_of(latest).await?;
        Ok(maker.is_some_and(|maker| is_restore_from_elsewhere(&maker, name)))
    }

    /// What the index is begun with, and up to where that reaches: what is below it, where that reaches far enough and no `damage` was
    /// found there, else the origin. `None` if nothing is recorded anywhere and all of the log is there.
    async fn source(&self, damage: Option<IngestError>) -> Result<Option<(ColdSource<'_>, LogCursor)>, IngestError> {
        let root = self.task.root.state().await?;
        let own = match damage {
            Some(damage) => Err(damage),
            None => self.own_sources().await.and_then(|own| Ok(own.above_floor(&root)?.end())),
        };
        let failure = match (own, &self.origin) {
            (Ok(end), _) => return Ok(Some((ColdSource::Own, end))),
            (Err(failure), None) => failure,
            (Err(failure), Some(origin)) if is_lasting(&failure) => {
                let mut sources = sources_in(&self.task, (&*self.archive, origin), &self.target()).await?;
                if self.time.is_none() {
                    sources = sources.above_floor(&root)?;
                }
                return Ok(Some((ColdSource::Origin(origin), sources.end())));
            }
            // What may pass is not gone around.
            (Err(failure), Some(_)) => return Err(failure),
        };
        match failure {
            IngestError::NothingRecorded { .. } => {
                root.check_floor(LogCursor::default()).map_err(CatalogError::from)?;
                Ok(None)
            }
            // Damage as well, also where all of the log is there: an entry whose descriptor is gone by now would be decided otherwise.
            failure => Err(failure),
        }
    }

    async fn own_sources(&self) -> Result<RestoreSources, IngestError> {
        let target = RestoreTarget::Latest;
        let own = self.task.switch(&restore_name(&target, None)).await?;
        RestoreSources::find((own.index_url(), own.pins()), &*self.archive, None, &target).await
    }
}

/// Whether the task `maker` is a restore to the latest time from another place, and `name` is its own name.
fn is_restore_from_elsewhere(maker: &str, name: &str) -> bool {
    let what = maker.strip_suffix(name).and_then(|what| what.strip_suffix(' '));
    what.and_then(|what| what.strip_prefix(&restore_name(&RestoreTarget::Latest, None)))
        .is_some_and(|origin| origin.starts_with(" from "))
}

/// Whether what is below the index is nothing, too little, or damaged.
fn is_lasting(failure: &IngestError) -> bool {
    let is_below = matches!(
        failure,
        IngestError::Root(CatalogError::Rejected(TransactionRejected::BelowFloor { .. }))
            | IngestError::NothingRecorded { .. }
            | IngestError::OutsideRecoveryWindow { .. }
    );
    is_below || failure.is_damage()
}

/// Whether another process has done the same meanwhile.
fn is_done_by_another(failure: &IngestError) -> bool {
    let (IngestError::Root(CatalogError::Rejected(rejected))
    | IngestError::Acquire(AcquireError::Chain(CatalogError::Rejected(rejected)))
    | IngestError::Publish(PublishError::Rejected(rejected))) = failure
    else {
        return false;
    };
    matches!(
        rejected,
        TransactionRejected::Closed { .. }
            | TransactionRejected::NotBuilding { .. }
            | TransactionRejected::Abandoned { .. }
            | TransactionRejected::NotRestored { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_to_the_latest_time_from_any_place_is_known_by_its_name() {
        let known = |maker: &str| is_restore_from_elsewhere(maker, "cold-start");
        for place in ["s3://copies/a", "file:///a%20cold-start"] {
            assert!(known(&format!("restore to the latest time from {place} cold-start")));
        }
        for other in [
            "restore to the latest time cold-start",
            "restore to the latest time from s3://copies/a",
            "restore to the latest time from s3://copies/cold-start",
            "restore to the latest time from s3://copies/a another",
            "restore to token x from s3://copies/a cold-start",
            "reindex cold-start",
        ] {
            assert!(!known(other), "{other}");
        }
    }
}
