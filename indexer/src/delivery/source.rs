//! Where records come from: the feed of the changes of an index.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidemark_catalog::ConsumerPosition;
use tidemark_search::{
    SearchError, SearchService,
    api::{ChangesRequest, FeedPosition, FeedStart, MAX_CHANGES, PageSize, QueryText},
};

use super::record::{DeliveryRecord, consumer_position};

/// Records in the order of their seqs.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangePage {
    /// The records.
    pub records: Vec<DeliveryRecord>,
    /// The place to go on from: behind the last record, and behind what the filter left out.
    pub next: ConsumerPosition,
    /// Whether more is published already.
    pub more: bool,
    /// The place behind everything that is published.
    pub end: ConsumerPosition,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The same request may succeed later.
    #[error("{0}")]
    Transient(String),
    /// It will not.
    #[error("{0}")]
    Final(String),
}

/// Gives the records of an index.
#[async_trait]
pub trait ChangeSource: Send + Sync {
    /// The records after `after`, at most `limit`; waits for one for as long as `wait`. The future may be dropped.
    async fn page(&self, after: &ConsumerPosition, limit: usize, wait: Duration) -> Result<ChangePage, SourceError>;

    /// The place behind everything that is published. It reads no record.
    async fn end(&self) -> Result<ConsumerPosition, SourceError>;
}

/// The feed of a search service.
pub struct SearchSource {
    service: Arc<dyn SearchService>,
    query: QueryText,
}

impl SearchSource {
    /// The records that `query` finds.
    pub fn new(service: Arc<dyn SearchService>, query: QueryText) -> Self {
        Self { service, query }
    }

    /// The place that `start` means now.
    pub async fn resolve(&self, start: FeedStart) -> Result<ConsumerPosition, SourceError> {
        let page = self.request(start, 1, Duration::ZERO).await?;
        let before = |record: &DeliveryRecord| {
            let ConsumerPosition { generation, seq } = &record.position;
            ConsumerPosition { generation: generation.clone(), seq: seq.saturating_sub(1) }
        };
        Ok(page.records.first().map_or(page.next, before))
    }

    async fn request(&self, start: FeedStart, limit: usize, wait: Duration) -> Result<ChangePage, SourceError> {
        let limit = PageSize::new(limit.clamp(1, MAX_CHANGES)).map_err(read_error)?;
        let request = ChangesRequest { start, query: self.query.clone(), limit, payload: true, wait };
        let answer = self.service.changes(request).await.map_err(read_error)?;
        let records: Result<_, _> = answer.changes.iter().map(DeliveryRecord::of).collect();
        Ok(ChangePage {
            records: records.map_err(|error| SourceError::Final(format!("a change cannot be written: {error}")))?,
            next: consumer_position(&answer.next),
            more: answer.more,
            end: consumer_position(&answer.end),
        })
    }
}

#[async_trait]
impl ChangeSource for SearchSource {
    async fn page(&self, after: &ConsumerPosition, limit: usize, wait: Duration) -> Result<ChangePage, SourceError> {
        let after = FeedPosition { generation: after.generation.clone(), seq: after.seq, origin: None };
        self.request(FeedStart::After(after), limit, wait).await
    }

    async fn end(&self) -> Result<ConsumerPosition, SourceError> {
        Ok(self.request(FeedStart::Latest, 1, Duration::ZERO).await?.end)
    }
}

fn read_error(error: SearchError) -> SourceError {
    match error {
        SearchError::Overloaded { .. } | SearchError::NotReady { .. } | SearchError::Storage { .. } => {
            SourceError::Transient(error.to_string())
        }
        SearchError::GenerationChanged { detail, .. } => SourceError::Final(format!(
            "{detail}; this consumer goes on nowhere, and nothing is lost; make the destination again from nothing and start a consumer of \
             another name"
        )),
        error => SourceError::Final(error.to_string()),
    }
}
