//! Whether the destination of a sink holds what the index says: both are read as a whole, and compared document by document.

use std::{path::PathBuf, sync::Arc};

use tidemark_catalog::{CatalogError, ConsumerChain, ConsumerName, ConsumerPosition, IndexId, LogId};
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_search::{
    EngineOptions, IndexFollower, IndexSearcher, SearchError,
    api::{MAX_CHANGES, QueryText},
};
use tidemark_store::{Entropy, StoreError};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{consumer::open_follower, error::ServiceError, stores::PodStores};
use crate::delivery::{
    BulkDocuments, ChangeSource as _, ComparisonCounts, DeadLetters, DocumentComparison, DocumentFinding,
    DocumentsError, ExpectedRecords, SearchSource, SourceError,
};

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
            Self::Documents(DocumentsError::Unread { .. }) | Self::Index(_) => FailureCause::of(Reason::Unreachable),
            Self::NeverHeld { .. } => FailureCause::of(Reason::SpecInvalid),
            Self::Source(_) => FailureCause::of(Reason::Internal),
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
        follower.refresh_manifest().await?;
        let (index, log) = identity_of(&follower)?;
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
            let page = source.page(&next, MAX_CHANGES, std::time::Duration::ZERO).await?;
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

fn identity_of(follower: &IndexFollower) -> Result<(IndexId, LogId), ServiceError> {
    let why = || "the index does not say for which log it is".to_owned();
    follower.identity().ok_or_else(|| ServiceError::Ended { task: "verification", why: why() })
}
