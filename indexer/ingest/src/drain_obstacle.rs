//! What ended a drain. The next one begins with it alone, before all that preceded it is read again.
//!
//! A second may have any number of entries, and none of them is published before all of them are resolved.

use futures::StreamExt as _;
use tidemark_wal::Token;

use crate::{
    entry_stream::{EntryReader, TAIL_ATTEMPTS},
    error::IngestError,
    horizon::SealedHorizon,
    publisher::IndexPublisher,
    record_resolver::IndexQuestion,
};

/// What ended a drain.
#[derive(Debug)]
pub(crate) enum DrainObstacle {
    /// The first entry after this one cannot be read.
    EntryAfter(Token),
    /// The published index does not answer this.
    Question(IndexQuestion),
}

impl DrainObstacle {
    /// Tries it alone, and drops what it gives: an error if it still is in the way.
    pub(crate) async fn retry(
        &self,
        entries: &EntryReader,
        publisher: &mut IndexPublisher,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        match self {
            Self::EntryAfter(token) => {
                let first = entries.list_after(*token, sealed.horizon).take(1).boxed();
                entries.fetch(first, &sealed.schedule, TAIL_ATTEMPTS).next_chunk().await?;
            }
            Self::Question(question) => question.ask(&*publisher.lookup().await?).await?,
        }
        Ok(())
    }
}
