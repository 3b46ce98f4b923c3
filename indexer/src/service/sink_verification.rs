//! Whether the destination of a sink holds what the index says: both are read as a whole, and compared document by document.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tidemark_catalog::{CatalogError, ConsumerChain, ConsumerName, ConsumerPosition, IndexId, LogId};
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_search::{
    EngineOptions, IndexFollower, IndexSearcher, SearchError,
    api::{MAX_CHANGES, QueryText},
};
use tidemark_store::{Entropy, StoreError};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{consumer::open_follower, error::ServiceError, stores::PodStores};
use crate::delivery::{
    BulkDocuments, ChangePage, ChangeSource, ComparisonCounts, DeadLetters, DocumentComparison, DocumentFinding,
    DocumentsError, ExpectedRecords, SearchSource, SourceError,
};

/// How often a page of changes is asked for again that cannot be read for the moment: for two minutes.
const MAX_READ_RETRIES: u32 = 60;
/// The pause between two attempts.
const READ_RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What is compared.
#[derive(Debug)]
pub struct SinkVerification {
    /// The index, to be read.
    pub index: PodStores,
    /// The segment cache.
    pub cache: EngineOptions,
    /// The consumer whose destination it is.
    pub name: ConsumerName,
    /// Which records the sink delivers.
    pub query: QueryText,
    /// The folder of the temporary files.
    pub folder: PathBuf,
}

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSink {
    /// Every record up to it is to be there.
    pub acknowledged: ConsumerPosition,
    /// How many records were put aside.
    pub dead_letters: u64,
    /// How much was compared, and how much is wrong.
    pub counts: ComparisonCounts,
}

/// Why a sink cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkVerificationError {
    /// The index cannot be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The index cannot be read.
    #[error("the index cannot be read: {0}; nothing is known of the documents")]
    Index(#[from] SearchError),
    /// Its changes cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The destination cannot be read.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The consumer is not known.
    #[error(
        "no consumer \"{name}\" has begun in this index; nothing is known of what its destination should hold; give the name that the sink has"
    )]
    NeverHeld {
        /// The consumer.
        name: ConsumerName,
    },
}

impl ToCause for SinkVerificationError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Service(error) => error.to_cause(),
            Self::Documents(DocumentsError::Disk(error)) => FailureCause::of_disk(error),
            Self::Documents(DocumentsError::Unread { .. })
            | Self::Index(_)
            | Self::Source(SourceError::Transient(_)) => FailureCause::of(Reason::Unreachable),
            Self::NeverHeld { .. } => FailureCause::of(Reason::SpecInvalid),
            Self::Source(SourceError::Final(_)) => FailureCause::of(Reason::Internal),
        }
    }
}

impl From<StoreError> for SinkVerificationError {
    fn from(error: StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

impl From<CatalogError> for SinkVerificationError {
    fn from(error: CatalogError) -> Self {
        ServiceError::from(error).into()
    }
}

impl SinkVerification {
    /// Compares `documents` with the index, and tells the first findings one by one.
    pub async fn run(
        &self,
        documents: &BulkDocuments,
        found: &mut (dyn FnMut(&DocumentFinding) + Send),
    ) -> Result<VerifiedSink, SinkVerificationError> {
        let entropy = Entropy::from_os();
        let follower = open_follower(&self.index, &self.cache, &entropy)?;
        let (index, log) = identity_of(&follower).await?;
        let store = self.index.open()?.index;
        let chain = ConsumerChain::open(&store, &log, &index, &self.name, entropy);
        let begun =
            chain.latest().await?.ok_or_else(|| SinkVerificationError::NeverHeld { name: self.name.clone() })?.state;
        // In this order: what is acknowledged is there when the documents are read, and what they are of is published when the index is.
        let mut comparison = documents.read(&self.folder).await?;
        follower.refresh_manifest().await?;
        let dead_letters = DeadLetters::new(chain.folder()).seqs().await?;
        self.read_records(follower, &begun.acknowledged, &mut comparison).await?;
        let put_aside = dead_letters.len() as u64;
        let expected = ExpectedRecords { start: begun.start.seq, acknowledged: begun.acknowledged.seq, dead_letters };
        let counts = comparison.finish(&expected, found).map_err(DocumentsError::from)?;
        Ok(VerifiedSink { acknowledged: begun.acknowledged, dead_letters: put_aside, counts })
    }

    /// Reads every record that is published by now.
    async fn read_records(
        &self,
        follower: Arc<IndexFollower>,
        acknowledged: &ConsumerPosition,
        comparison: &mut DocumentComparison,
    ) -> Result<(), SinkVerificationError> {
        let searcher = Arc::new(IndexSearcher::default());
        searcher.serve(Arc::clone(&follower));
        let _polling =
            AbortOnDropHandle::new(tokio::spawn(async move { follower.run(CancellationToken::new()).await }));
        let source = SearchSource::new(searcher, self.query.clone());
        let mut next = ConsumerPosition { seq: 0, ..acknowledged.clone() };
        let mut last = None;
        loop {
            let page = page_of(&source, &next).await?;
            for record in &page.records {
                let digest =
                    record.digest().map_err(|error| SourceError::Final(format!("a change is no JSON: {error}")))?;
                let added = comparison.add_record(&record.token, record.op, record.seq(), digest);
                added.map_err(DocumentsError::from)?;
            }
            next = page.next;
            if !page.more || next.seq >= *last.get_or_insert(page.end.seq) {
                return Ok(());
            }
        }
    }
}

/// The records after `after`; asks again while they cannot be read for the moment.
async fn page_of(source: &dyn ChangeSource, after: &ConsumerPosition) -> Result<ChangePage, SourceError> {
    let mut retries = 0;
    loop {
        match source.page(after, MAX_CHANGES, Duration::ZERO).await {
            Err(SourceError::Transient(why)) if retries < MAX_READ_RETRIES => {
                tracing::warn!(why, "the changes of the index cannot be read for the moment; asking again");
                retries += 1;
                sleep(READ_RETRY_PAUSE).await;
            }
            page => return page,
        }
    }
}

/// Which index it is, and whose records it holds. A look at a generation that was replaced leads to the one that is open, and to nothing more.
async fn identity_of(follower: &IndexFollower) -> Result<(IndexId, LogId), SinkVerificationError> {
    while follower.refresh_manifest().await? {
        if let Some(identity) = follower.identity() {
            return Ok(identity);
        }
    }
    let why = "the index does not say for which log it is".to_owned();
    Err(ServiceError::Ended { task: "verification", why }.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;

    /// Gives an empty page after so many failures.
    struct FailingSource {
        failures: u32,
        is_final: bool,
        requests: AtomicU32,
    }

    #[async_trait]
    impl ChangeSource for FailingSource {
        async fn page(&self, after: &ConsumerPosition, _: usize, _: Duration) -> Result<ChangePage, SourceError> {
            let why = || "busy".to_owned();
            match self.requests.fetch_add(1, Ordering::Relaxed) {
                before if before >= self.failures => {
                    Ok(ChangePage { records: Vec::new(), next: after.clone(), more: false, end: after.clone() })
                }
                _ if self.is_final => Err(SourceError::Final(why())),
                _ => Err(SourceError::Transient(why())),
            }
        }

        async fn end(&self) -> Result<ConsumerPosition, SourceError> {
            Err(SourceError::Final("no end".to_owned()))
        }
    }

    /// The reason of the failure, if it fails, and how often was asked.
    async fn read(failures: u32, is_final: bool) -> (Option<Reason>, u32) {
        let source = FailingSource { failures, is_final, requests: AtomicU32::new(0) };
        let start = ConsumerPosition { generation: "g1".parse().unwrap(), seq: 0 };
        let failed = page_of(&source, &start).await.err();
        let reason = failed.map(|error| SinkVerificationError::from(error).to_cause().reason);
        (reason, source.requests.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_cannot_be_read_for_the_moment_is_asked_for_again_and_not_for_ever() {
        assert_eq!(read(3, false).await, (None, 4));
        assert_eq!(read(MAX_READ_RETRIES + 1, false).await, (Some(Reason::Unreachable), MAX_READ_RETRIES + 1));
        assert_eq!(read(1, true).await, (Some(Reason::Internal), 1));
    }
}
