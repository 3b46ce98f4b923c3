//! The operations of archives, read again in the order of their tokens, with the entries that they passed over.
//!
//! An archive lacks the entries that could not be read when the others of their seconds were archived. They are in the log still, since a
//! clean-up deletes nothing that is not archived: each gets the record that an index has of such an entry, and is decided once it can
//! be read.

use std::{ops::Range, pin::Pin};

use futures::{StreamExt as _, stream::BoxStream, stream::Peekable};
use tidemark_catalog::LogCursor;
use tidemark_store::StoreError;
use tidemark_wal::{ListedEntry, Log, LogReader, ResolvedEntry, Token};

use crate::{
    error::IngestError,
    record::OperationRecord,
    recorded_archives::{ArchivedVersions, RecordedArchives},
    snapshot::{SettledRecord, SettledStream, SnapshotError},
};

/// About how many bytes of records are read at once.
const CHUNK_BYTES: u64 = 8 << 20;
/// About how many records are read at once.
const CHUNK_RECORDS: usize = 512;
const PASSED_OVER: &str = "it could not be read when the entries of its time were archived";

/// Reads the operations of archives in chunks of bounded size, each of whole entries.
pub(crate) struct ArchivedOperations {
    archived: Peekable<SettledStream>,
    listed: Peekable<BoxStream<'static, Result<ListedEntry, StoreError>>>,
    /// What is read comes after this entry.
    after: Option<Token>,
}

impl ArchivedOperations {
    /// Those of `seconds` that come after the entry `after`, with the entries that `log` has beside them.
    pub(crate) fn new(
        (archives, versions): (RecordedArchives<'_>, &ArchivedVersions),
        log: &Log,
        seconds: Range<LogCursor>,
        after: Option<Token>,
    ) -> Self {
        let from = after.map_or(seconds.start, |after| seconds.start.max(LogCursor(after.second())));
        let listed = LogReader::new(log).list(from.second(), seconds.end.second());
        Self { archived: archives.rows(versions, &(from..seconds.end)).peekable(), listed: listed.peekable(), after }
    }

    /// The next operations; `None` after the last ones.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES {
            let Some(entry) = self.next_entry().await? else { break };
            bytes += entry.iter().map(OperationRecord::memory_bytes).sum::<u64>();
            chunk.extend(entry);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The operations of the next entry.
    async fn next_entry(&mut self) -> Result<Option<Vec<OperationRecord>>, IngestError> {
        loop {
            let archived = next_token(&mut self.archived, |settled: &SettledRecord| settled.record.token).await?;
            let listed = next_token(&mut self.listed, |listed: &ListedEntry| listed.token).await?;
            let Some(token) = [archived, listed].into_iter().flatten().min() else { return Ok(None) };
            let mut operations = Vec::new();
            let of_entry = |next: &Result<SettledRecord, SnapshotError>| {
                next.as_ref().is_ok_and(|settled| settled.record.token == token)
            };
            while let Some(settled) = Pin::new(&mut self.archived).next_if(of_entry).await {
                // An index keeps of a large descriptor the digest, which the record has.
                operations.push(settled?.record);
            }
            let is_entry = |next: &Result<ListedEntry, StoreError>| next.as_ref().is_ok_and(|next| next.token == token);
            let listed = Pin::new(&mut self.listed).next_if(is_entry).await.transpose()?;
            if let Some(passed_over) = listed.filter(|_| operations.is_empty()) {
                operations = OperationRecord::from_resolved(ResolvedEntry::unread(&passed_over, PASSED_OVER));
            }
            if self.after.is_none_or(|after| token > after) {
                return Ok(Some(operations));
            }
        }
    }
}

/// The token of the next item, which stays there; an error if the stream ends with one.
async fn next_token<T, E>(
    stream: &mut Peekable<BoxStream<'static, Result<T, E>>>,
    token: impl Fn(&T) -> Token,
) -> Result<Option<Token>, E> {
    match Pin::new(&mut *stream).peek().await {
        Some(Ok(next)) => Ok(Some(token(next))),
        None => Ok(None),
        Some(Err(_)) => match stream.next().await {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        },
    }
}
