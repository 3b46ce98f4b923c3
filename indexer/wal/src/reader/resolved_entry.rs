//! An entry with all that is known of it, and its operations with their outcomes.

use bytes::Bytes;

use super::{file_names::FileNames, listing::ListedEntry};
use crate::{
    datamon::{DatamonDescriptor, DatamonPath},
    malformed::MalformedInput,
    outcome::{Outcome, OutcomeDecision},
    payload::{EntryIntent, IntentOperation},
    token::Token,
};
use tidemark_store::{ObjectInfo, StoreSecond};

/// An entry with all that is known of it.
#[derive(Clone, Debug)]
pub struct ResolvedEntry {
    /// Its token.
    pub token: Token,
    /// Its store time.
    pub entry_time: StoreSecond,
    /// Size of its body in bytes.
    pub size: u64,
    /// Its body; `None` if it was not read: it is over the limit, or the store refuses it.
    pub body: Option<Bytes>,
    /// What it announces.
    pub intent: Result<EntryIntent, MalformedInput>,
    /// The latest of the store's clocks in the answers that showed all this; `None` where some answer did not say.
    pub answered: Option<StoreSecond>,
    /// Its operations in their order; never empty. A malformed entry has exactly one, of kind and outcome malformed.
    pub ops: Vec<ResolvedOperation>,
}

impl ResolvedEntry {
    /// An entry that is there and of which nothing was read, for the reason `why`: [`Outcome::Unreadable`].
    pub fn unread(listed: &ListedEntry, why: &str) -> Self {
        let ListedEntry { token, time, size } = *listed;
        without_intent(Outcome::Unreadable, token, time, size, None, MalformedInput { reason: why.to_owned() })
    }
}

/// One operation and its outcome.
#[derive(Clone, Debug)]
pub struct ResolvedOperation {
    /// What was announced.
    pub operation: IntentOperation,
    /// What its descriptor describes.
    pub path: DatamonPath,
    /// Its outcome. The operations of one entry share outcome and completion; evidence and observations are its own.
    pub decision: OutcomeDecision,
    /// The descriptor, where one was found that is this operation's and could be read.
    pub descriptor: Option<DatamonDescriptor>,
    /// The bytes of the descriptor that was found, if it is this operation's and not too large to be kept.
    pub descriptor_body: Option<Bytes>,
    /// The files of a bundle that exists, where the reader reads their names and the descriptor says that there are any.
    pub files: Option<FileNames>,
    /// Why a descriptor that was found could not be read. It completes the operation all the same.
    pub unreadable: Option<MalformedInput>,
}

/// An entry that is no intent of ours.
pub(super) fn malformed(
    token: Token,
    entry_time: StoreSecond,
    size: u64,
    body: Option<Bytes>,
    reason: MalformedInput,
) -> ResolvedEntry {
    without_intent(Outcome::Malformed, token, entry_time, size, body, reason)
}

/// An entry whose body is larger than `limit` bytes.
pub(super) fn oversized(token: Token, entry_time: StoreSecond, size: u64, limit: u64) -> ResolvedEntry {
    let reason = format!("{size} bytes, more than the limit of {limit} bytes; not read");
    malformed(token, entry_time, size, None, MalformedInput { reason })
}

/// An entry that the store refuses to give.
pub(super) fn unreadable(token: Token, info: &ObjectInfo, why: MalformedInput) -> ResolvedEntry {
    without_intent(Outcome::Unreadable, token, info.time, info.size, None, why)
}

fn without_intent(
    outcome: Outcome,
    token: Token,
    entry_time: StoreSecond,
    size: u64,
    body: Option<Bytes>,
    reason: MalformedInput,
) -> ResolvedEntry {
    let decision =
        OutcomeDecision { outcome, evidence: None, entry_time, completed: None, observations: Vec::new(), guard: None };
    ResolvedEntry {
        token,
        entry_time,
        size,
        body,
        intent: Err(reason),
        answered: None,
        ops: vec![ResolvedOperation {
            operation: IntentOperation::malformed(),
            path: DatamonPath::Other,
            decision,
            descriptor: None,
            descriptor_body: None,
            files: None,
            unreadable: None,
        }],
    }
}
