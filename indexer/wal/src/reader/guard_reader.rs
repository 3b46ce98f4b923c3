//! The guard of an entry whose intent names a lock.

use super::{
    memory_budget::MemoryShare,
    object_reader::{FIRST_READ_BYTES, ObjectReader, ReadObject},
    refusals::ReadTarget,
};
use crate::{
    lock::{CommitGuard, guard_key},
    malformed::MalformedInput,
    outcome::GuardObservation,
    payload::LockRef,
    token::Token,
};
use tidemark_store::{Store, StoreError, StoreSecond};

/// Reads guards.
#[derive(Clone, Debug)]
pub(super) struct GuardReader {
    entries: Store,
    objects: ObjectReader,
}

/// What was found of a guard.
pub(super) enum GuardLookup {
    /// None, or none of this entry.
    Absent,
    /// The entry's guard, and the store's clock in the answer that showed it, where it said.
    Found(GuardObservation, Option<StoreSecond>),
    /// One that the store does not give.
    Refused(MalformedInput),
}

impl GuardReader {
    pub(super) fn new(entries: &Store, objects: &ObjectReader) -> Self {
        Self { entries: entries.clone(), objects: objects.clone() }
    }

    /// The guard of the entry `token`, whose intent names `lock`: one GET.
    pub(super) async fn find(
        &self,
        token: Token,
        lock: &LockRef,
        memory: &MemoryShare,
    ) -> Result<GuardLookup, StoreError> {
        let key = guard_key(token);
        memory.charge(FIRST_READ_BYTES).await;
        let read = self.objects.read(&self.entries, ReadTarget::deciding(&key), 0, FIRST_READ_BYTES, memory).await;
        memory.release(FIRST_READ_BYTES);
        Ok(match read?.0 {
            ReadObject::Absent => GuardLookup::Absent,
            ReadObject::Refused { why, .. } => GuardLookup::Refused(why),
            ReadObject::Read(object) => {
                let guard = object.body.as_ref().and_then(|body| CommitGuard::parse(body));
                let seen = guard.and_then(|guard| guard.observed(token, &lock.name, lock.grant, object.info.time));
                seen.map_or(GuardLookup::Absent, |seen| GuardLookup::Found(seen, object.answered))
            }
        })
    }
}
