//! What the ingest asks of an open manifest.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use tantivy::DocId;
use tidemark_wal::{Outcome, Token};
use tokio::task::spawn_blocking;

use super::{
    document::{term_text, writer_key},
    engine_error::refused,
    key_commit_cache::KeyCommitCache,
    manifest_view::{ManifestView, SegmentReaderView},
    reader::OpenSegment,
    record_stats::{StoredDecision, StoredOutcome},
    term_filter::FilterKind,
};
use tidemark_ingest::{
    KeyNeighbors, KeyedOperation, LatestCommit, OperationPlace, WriterKey,
    engine::{EngineError, IndexLookup, RecordedOutcome, UnsettledOperation, UnsettledQuery},
};

/// An open manifest that answers on threads that may block.
pub(crate) struct ManifestLookup(pub(crate) Arc<ManifestView>);

impl ManifestLookup {
    async fn run<T: Send + 'static>(
        &self,
        question: impl FnOnce(&ManifestView) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let view = self.0.clone();
        spawn_blocking(move || question(&view)).await.map_err(|e| refused("answer a look-up", &e))?
    }
}

#[async_trait]
impl IndexLookup for ManifestLookup {
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
        let tokens = tokens.to_vec();
        self.run(move |view| tokens.iter().map(|token| view.recorded_outcomes(token)).collect()).await
    }

    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
        let entities = entities.to_vec();
        self.run(move |view| entities.iter().map(|entity| view.latest_commit(entity)).collect()).await
    }

    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
        let operations = operations.to_vec();
        self.run(move |view| {
            let mut known = KeyCommitCache::default();
            operations.iter().map(|operation| known.neighbors(operation, |key| view.key_commits(key))).collect()
        })
        .await
    }

    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        let query = query.clone();
        self.run(move |view| view.unsettled_operations(&query)).await
    }
}

impl ManifestView {
    /// All records of a token, by (op, seq).
    pub(crate) fn recorded_outcomes(&self, token: &Token) -> Result<Vec<RecordedOutcome>, EngineError> {
        let mut decided = Vec::new();
        for (segment, doc) in self.records_of(token)? {
            let outcome =
                segment.outcome(doc).ok_or_else(|| segment.damaged(&format!("document {doc} has no outcome")))?;
            let seq = segment.seq(doc);
            decided.push(RecordedOutcome {
                op: segment.op(doc),
                seq,
                outcome,
                corrected: self.marks.corrected.contains(seq),
            });
        }
        decided.sort_by_key(|decided| (decided.op, decided.seq));
        Ok(decided)
    }

    /// All documents of a token, corrected ones included.
    pub(crate) fn records_of(&self, token: &Token) -> Result<Vec<(&OpenSegment, DocId)>, EngineError> {
        let mut found = Vec::new();
        let text = token.to_string();
        for segment in self.open_segments() {
            if segment.of.first <= *token && *token <= segment.of.last {
                let docs = segment.docs_with(segment.fields.token, &text)?;
                found.extend(docs.into_iter().map(|doc| (segment, doc)));
            }
        }
        Ok(found)
    }

    /// The one committed operation of an entity that nothing overtook.
    pub(crate) fn latest_commit(&self, entity: &str) -> Result<Option<LatestCommit>, EngineError> {
        let term = term_text(entity);
        for segment in self.open_segments().rev() {
            if !segment.might_contain(FilterKind::Entity, &term) {
                continue;
            }
            let docs = segment.docs_with(segment.fields.entity, &term)?;
            if let Some(doc) = docs.into_iter().rev().find(|doc| self.is_current(segment, *doc)) {
                return Ok(Some(segment.commit(doc)));
            }
        }
        Ok(None)
    }

    /// Whether a document is the newest committed operation of its entity.
    pub(crate) fn is_current(&self, segment: &OpenSegment, doc: DocId) -> bool {
        segment.outcome(doc) == Some(Outcome::Committed) && {
            let seq = segment.seq(doc);
            !self.marks.outdated.contains(seq) && !self.marks.corrected.contains(seq)
        }
    }

    /// All committed operations with a key. Reads the duplicates with it, too.
    pub(crate) fn key_commits(&self, key: &WriterKey) -> Result<BTreeSet<OperationPlace>, EngineError> {
        let term = writer_key(key);
        let mut commits = BTreeSet::new();
        for segment in self.open_segments() {
            if !segment.might_contain(FilterKind::WriterKey, &term) {
                continue;
            }
            for doc in segment.docs_with(segment.fields.writer_key, &term)? {
                let corrected = self.marks.corrected.contains(segment.seq(doc));
                if !corrected && segment.outcome(doc) == Some(Outcome::Committed) {
                    commits.insert((segment.tokens.token(doc), segment.op(doc)));
                }
            }
        }
        Ok(commits)
    }

    /// Filters by columns first: only the operations of the answer are read from the store of records.
    fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        let mut unsettled = self.unsettled(query)?;
        unsettled.sort_unstable_by_key(|(token, segment, doc)| (*token, segment.op(*doc)));
        if let Some(last) = unsettled.get(query.limit.saturating_sub(1)).map(|last| last.0) {
            unsettled.truncate(unsettled.partition_point(|one| one.0 <= last));
        }
        let operations = unsettled.into_iter().map(|(_, segment, doc)| {
            let StoredOutcome { token, op, decision, body } = segment.stored_outcome(doc)?;
            let StoredDecision { outcome, evidence, entry_time } = decision;
            let (seq, body) = (segment.seq(doc), body.digest());
            Ok(UnsettledOperation { token, op, seq, entry_time, outcome, evidence, body })
        });
        operations.collect()
    }

    /// All documents that `query` means, but for its limit, with their tokens.
    fn unsettled(&self, query: &UnsettledQuery) -> Result<Vec<(Token, &OpenSegment, DocId)>, EngineError> {
        let mut unsettled = Vec::new();
        // As this manifest has them: what an open segment remembers may have been settled since.
        let segments = self.manifest.segments.iter().zip(self.open_segments());
        for (_, segment) in segments.filter(|(segment, _)| query.may_match(segment)) {
            let mut docs = Vec::new();
            for outcome in query.outcomes {
                docs.extend(segment.docs_with(segment.fields.outcome, outcome.as_str())?);
            }
            for doc in docs {
                let token = segment.tokens.token(doc);
                if query.after.is_none_or(|after| token > after)
                    && token.second() < query.before
                    && query.seconds.contains(&segment.announced(doc))
                    && !self.marks.corrected.contains(segment.seq(doc))
                {
                    unsettled.push((token, segment, doc));
                }
            }
        }
        Ok(unsettled)
    }

    fn open_segments(&self) -> impl DoubleEndedIterator<Item = &OpenSegment> {
        self.segments.iter().map(|served: &Arc<SegmentReaderView>| served.segment.as_ref())
    }
}
