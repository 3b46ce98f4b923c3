//! Whether an entry may go from the log: a pure function of what the archive has of it and what the log gives.

use bytes::Bytes;
use tidemark_store::{StoreSecond, StoredObject};
use tidemark_wal::{Outcome, Token, parse_payload};

use super::hold_reason::HoldReason;
use crate::record::OperationRecord;

/// What the archive has of an entry, as far as its deletion depends on it. Descriptors and what is parsed are not kept: they may take many
/// times what the entry does.
#[derive(Debug)]
pub(super) struct ArchivedEntry {
    /// Why it may not go whatever the log gives.
    missing: Option<HoldReason>,
    body: Bytes,
    entry_time: StoreSecond,
    /// Whether it names a lock, so that it may have a guard.
    is_guarded: bool,
}

impl ArchivedEntry {
    /// Of all rows that the archive has of it, by op.
    pub(super) fn of(rows: &[OperationRecord]) -> Self {
        let first = rows.first();
        Self {
            missing: missing_part(rows),
            // A copy: the row's bytes may be a part of a larger buffer, which they would hold.
            body: first.and_then(|row| row.body.bytes()).map(Bytes::copy_from_slice).unwrap_or_default(),
            entry_time: first.map(|row| row.decision.entry_time).unwrap_or_default(),
            is_guarded: first.is_some_and(|row| row.payload.get("lock").is_some()),
        }
    }

    /// Why it may not go whatever the log gives; `None`: the archive has all of it.
    pub(super) fn missing(&self) -> Option<HoldReason> {
        self.missing
    }

    /// Whether it names a lock, so that it may have a guard.
    pub(super) fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// The size of its body.
    pub(super) fn size(&self) -> u64 {
        self.body.len() as u64
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.size() + size_of::<(Token, Self)>() as u64
    }

    /// Why the entry that the log gives as `object` may not go; `None`: the archive has the same bytes.
    pub(super) fn difference(&self, object: &StoredObject) -> Option<HoldReason> {
        if self.missing.is_some() {
            return self.missing;
        }
        if object.body.as_ref() != Some(&self.body) {
            return Some(HoldReason::Differs);
        }
        // One that was written again with the same bytes is younger: of that time nothing is lost. An older one says that the archive has
        // a wrong time.
        (object.info.time < self.entry_time).then_some(HoldReason::Older)
    }
}

/// Why the entry of these rows, all that the archive has of it, may not go whatever the log gives; `None`: the archive has all of it.
fn missing_part(rows: &[OperationRecord]) -> Option<HoldReason> {
    let Some(first) = rows.first() else { return Some(HoldReason::NotArchived) };
    let is_settled = |row: &OperationRecord| !matches!(row.decision.outcome, Outcome::Pending | Outcome::Unreadable);
    let is_dense = (0..).zip(rows).all(|(op, row)| row.op == op && row.token == first.token);
    if !is_dense || !rows.iter().all(is_settled) {
        return Some(HoldReason::Incomplete);
    }
    let Some(body) = first.body.bytes() else { return Some(HoldReason::NotWhole) };
    // What could not be understood when it was judged has one operation, whatever is understood of it today.
    let announced = parse_payload(first.token, body).map_or(1, |intent| intent.ops.len().max(1));
    let is_malformed = rows.iter().all(|row| row.decision.outcome == Outcome::Malformed);
    (rows.len() != announced && !is_malformed).then_some(HoldReason::Incomplete)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tidemark_store::{ObjectInfo, UserMetadata};

    use super::*;
    use crate::record_bytes::EntryBody;

    const TIME: u64 = 1_800_000_000;

    fn difference(rows: &[OperationRecord], object: &StoredObject) -> Option<HoldReason> {
        ArchivedEntry::of(rows).difference(object)
    }

    fn row(op: u32, outcome: Outcome, body: EntryBody) -> OperationRecord {
        let token = Token::from_parts(StoreSecond::from_unix(TIME), [1; 16]);
        let record = json!({
            "seq": 1, "token": token, "op": op, "kind": "entry", "size": 1,
            "decision": {"outcome": outcome, "entryTime": TIME},
        });
        OperationRecord { body, ..serde_json::from_value(record).unwrap() }
    }

    /// What an archive has of an entry with this body of `ops` operations.
    fn rows(body: &str, ops: u32) -> Vec<OperationRecord> {
        let whole = EntryBody::of(body.to_owned().into());
        let of_op = |op| row(op, Outcome::Committed, if op == 0 { whole.clone() } else { whole.to_digest() });
        (0..ops).map(of_op).collect()
    }

    fn object(body: Option<&str>, time: u64) -> StoredObject {
        let info = ObjectInfo { key: "k".to_owned(), time: StoreSecond::from_unix(time), size: 1, etag: None };
        let body = body.map(|body| body.to_owned().into());
        StoredObject { info, metadata: UserMetadata::new(), body, answered: None }
    }

    const GROUP: &str = r#"{"tidemark": 1, "ops": [{}, {}, {}]}"#;

    #[test]
    fn only_what_the_archive_has_whole_may_go() {
        assert_eq!(missing_part(&rows(GROUP, 3)), None);
        assert_eq!(missing_part(&rows("some text", 1)), None);
        assert_eq!(missing_part(&[]), Some(HoldReason::NotArchived));
        assert_eq!(missing_part(&rows(GROUP, 2)), Some(HoldReason::Incomplete));
        assert_eq!(missing_part(&rows(GROUP, 3)[1..]), Some(HoldReason::Incomplete));
        let oversized = [row(0, Outcome::Malformed, EntryBody::Unread)];
        assert_eq!(missing_part(&oversized), Some(HoldReason::NotWhole));
        let digest = [row(0, Outcome::Committed, EntryBody::of("x".into()).to_digest())];
        assert_eq!(missing_part(&digest), Some(HoldReason::NotWhole));
        for outcome in [Outcome::Unreadable, Outcome::Pending] {
            let unsettled = [row(0, outcome, EntryBody::of("some text".into()))];
            assert_eq!(missing_part(&unsettled), Some(HoldReason::Incomplete));
        }
        // An earlier release did not understand it.
        assert_eq!(missing_part(&[row(0, Outcome::Malformed, EntryBody::of(GROUP.into()))]), None);
    }

    #[test]
    fn only_the_same_bytes_may_go() {
        let rows = rows(GROUP, 3);
        assert_eq!(difference(&rows, &object(Some(GROUP), TIME)), None);
        assert_eq!(difference(&rows, &object(Some(GROUP), TIME + 1)), None);
        assert_eq!(difference(&rows, &object(Some(GROUP), TIME - 1)), Some(HoldReason::Older));
        for other in [Some(""), Some("other"), None] {
            assert_eq!(difference(&rows, &object(other, TIME)), Some(HoldReason::Differs));
        }
        assert_eq!(difference(&[], &object(Some(GROUP), TIME)), Some(HoldReason::NotArchived));
    }

    proptest! {
        /// Whatever is changed of the rows or of the object, it stays.
        #[test]
        fn a_changed_byte_or_a_missing_row_keeps_an_entry(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), dropped in 0..4_usize,
        ) {
            let mut rows = rows(GROUP, 3);
            let mut body = GROUP.as_bytes().to_vec();
            let at = at.index(body.len());
            let is_changed = body[at] != byte;
            body[at] = byte;
            if dropped < 3 {
                rows.remove(dropped);
            }
            let object = StoredObject { body: Some(body.into()), ..object(None, TIME) };
            prop_assert_eq!(difference(&rows, &object).is_some(), is_changed || dropped < 3);
        }
    }
}
