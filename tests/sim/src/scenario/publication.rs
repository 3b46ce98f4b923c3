//! What a writer publishes whose records mean nothing: segments of one record.

use bytes::Bytes;
use tidemark_catalog::{
    LogCursor, Manifest, ObjectKind, ObjectName, PublishError, PublishRequest, RecordCounts, SegmentMeta, SetDigest,
    SetElement, WriterLease,
};
use tidemark_store::{Create, Entropy, Store, UserMetadata};
use tidemark_wal::{Outcome, Token};

/// Uploads a segment of the next record to `index`.
pub(super) async fn upload_segment(
    index: &Store,
    lease: &WriterLease,
    entropy: impl Fn() -> Entropy,
) -> Result<SegmentMeta, PublishError> {
    let state = &lease.manifest().state;
    let key = ObjectName::new(&state.generation, ObjectKind::Segment, lease.epoch(), &entropy()).to_string();
    let put = index.create_resolved(&key, Bytes::from(key.clone()), &UserMetadata::new()).await;
    if !matches!(put, Create::Committed) {
        return Err(PublishError::Unknown { key, why: "it was not uploaded".to_owned() });
    }
    let token = Token::new(state.cursor.second(), &entropy());
    let aborted = SetElement { token, op: 0, outcome: Outcome::Aborted, evidence: None, body: None };
    Ok(SegmentMeta {
        size: key.len() as u64,
        key,
        checksum: String::new(),
        format: 1,
        digest: SetDigest::of(&aborted),
        first: token,
        last: token,
        entry_times: token.second()..token.second().next(),
        seq: state.next_seq..state.next_seq + 1,
        counts: RecordCounts { aborted: 1, ..RecordCounts::default() },
        unsettled: 1,
        documents: 1,
    })
}

/// The publication of the second after `state`, with `segment` if there is one.
pub(super) fn next_second(state: &Manifest, segment: Option<SegmentMeta>) -> PublishRequest {
    let to = LogCursor(state.cursor.second().next());
    let segments: Vec<_> = segment.into_iter().collect();
    PublishRequest {
        to,
        horizon: to.second(),
        records: segments.len() as u64,
        segments,
        ..PublishRequest::after(state)
    }
}
