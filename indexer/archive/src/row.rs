//! One row of the archive.

use bytes::Bytes;
use tidemark_catalog::Generation;
use tidemark_ingest::OperationRecord;
use tidemark_wal::Outcome;

use crate::error::RowRejected;

/// The largest descriptor in bytes that the record of an operation keeps. Part of the format: it tells whose bytes a row has.
pub(crate) const MAX_RECORD_DESCRIPTOR_BYTES: usize = 256 * 1024;

/// One operation with its outcome, as the index records it. Nothing is lost on the way to the archive and back.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveRow {
    /// The generation of the index whose seq the record has.
    pub generation: Generation,
    /// The record. That of an entry's first operation has the entry's whole body, if it was read.
    pub record: OperationRecord,
    /// The bytes of a descriptor that is too large for the record, which has its digest alone: read from the bucket, and of that digest.
    pub large_descriptor: Option<Bytes>,
}

impl ArchiveRow {
    /// The row of `record`, whose seq is one of `generation`.
    pub fn new(generation: Generation, record: OperationRecord) -> Self {
        Self { generation, record, large_descriptor: None }
    }

    /// The descriptor's bytes as they were judged, whatever their size.
    pub fn descriptor_bytes(&self) -> Option<&[u8]> {
        let kept = self.record.descriptor_body.as_ref().map(|body| &body.0);
        kept.or(self.large_descriptor.as_ref()).map(|bytes| &bytes[..])
    }

    /// What the row takes in memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.record.memory_bytes() + self.large_descriptor.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    /// Whether the row can be archived at all, wherever it stands.
    pub(crate) fn check(&self) -> Result<(), RowRejected> {
        let OperationRecord { token, op, ref decision, ref descriptor_body, .. } = self.record;
        let unfit = |why| Err(RowRejected::Unfit { token, op, why });
        if matches!(decision.outcome, Outcome::Pending | Outcome::Unreadable) {
            return Err(RowRejected::Unsettled { token, op, outcome: decision.outcome });
        }
        match (descriptor_body, &self.large_descriptor) {
            (Some(kept), None) if kept.0.len() > MAX_RECORD_DESCRIPTOR_BYTES => {
                unfit("its record has the bytes of a descriptor that is too large for a record")
            }
            (None, Some(large)) if large.len() <= MAX_RECORD_DESCRIPTOR_BYTES => {
                unfit("its descriptor is small, and its record lacks the bytes")
            }
            (Some(_), Some(_)) => unfit("it has a descriptor twice"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{record, token};

    #[test]
    fn only_settled_outcomes_are_archived() {
        for outcome in Outcome::ALL {
            let mut row = ArchiveRow::new(Generation::first(), record(token(1, 1), 0, b"x"));
            row.record.decision.outcome = outcome;
            let unsettled = matches!(outcome, Outcome::Pending | Outcome::Unreadable);
            assert_eq!(matches!(row.check(), Err(RowRejected::Unsettled { .. })), unsettled, "{outcome:?}");
        }
    }

    #[test]
    fn a_descriptor_stands_where_its_size_says() {
        let row = ArchiveRow::new(Generation::first(), record(token(1, 1), 0, b"x"));
        let bytes = |len| Bytes::from(vec![b'a'; len]);
        let large = ArchiveRow { large_descriptor: Some(bytes(MAX_RECORD_DESCRIPTOR_BYTES + 1)), ..row.clone() };
        assert_eq!(large.check(), Ok(()));
        assert_eq!(large.descriptor_bytes().map(<[u8]>::len), Some(MAX_RECORD_DESCRIPTOR_BYTES + 1));
        let small = ArchiveRow { large_descriptor: Some(bytes(MAX_RECORD_DESCRIPTOR_BYTES)), ..row.clone() };
        assert!(matches!(small.check(), Err(RowRejected::Unfit { .. })));
        let mut misplaced = row;
        misplaced.record.descriptor_body = Some(tidemark_ingest::ObjectBytes(bytes(MAX_RECORD_DESCRIPTOR_BYTES + 1)));
        assert!(matches!(misplaced.check(), Err(RowRejected::Unfit { .. })));
    }
}
