//! The guarded commit of an entry: its slot in the lock's chain, and the guard that says so.

use std::time::Duration;

use super::{
    attempt::{AttemptFailure, UnprovenAttempt},
    error::AppendError,
    prepared::{CompletionPart, CompletionTarget, PreparedEntry},
    session::{AppendAttempt, AppendSession, GuardBounds},
};
use crate::{
    lock::{CommitGuard, CommitSpan, LockError, LockSlot},
    mutants,
    outcome::last_in_time,
};
use tidemark_store::ChainError;

impl AppendSession {
    /// The newest slot of the lock that guards the draft; `None` if none does. Refused where the lock never had the grant. Whether the
    /// grant is the newest is decided later, by the entry's own slot.
    pub(super) async fn lock_slot(&self, prepared: &PreparedEntry) -> Result<Option<LockSlot>, AppendError> {
        let Some((name, grant)) = &prepared.lock else { return Ok(None) };
        let slot = self.lock_chain(name).latest().await.map_err(LockError::from)?;
        let known = slot.filter(|slot| *grant <= slot.state.grant.number);
        Ok(Some(known.ok_or_else(|| LockError::no_such_grant(name, *grant))?))
    }

    /// Takes the slot of the entry, which is written, in the chain of its lock, and writes its guard. Gives the attempt with the bounds of
    /// the guard, and the same attempt where nothing guards the entry. `base` is what was read of the chain before.
    pub(super) async fn guard(
        &self,
        attempt: &AppendAttempt,
        prepared: &PreparedEntry,
        base: Option<LockSlot>,
    ) -> Result<AppendAttempt, AttemptFailure> {
        let (Some((lock, grant)), Some(base)) = (&prepared.lock, base) else { return Ok(attempt.clone()) };
        let (lock, grant, token) = (lock.clone(), *grant, attempt.token);
        let parameters = attempt.parameters();
        let margin = parameters.request_timeout + parameters.whole_clock_tolerance();
        // The next holder waits until what comes at the end of that is visible, too, and never for what the outcome rule takes for late: the
        // slot comes after the entry, by a clock that may be behind that of the token by the tolerance.
        let last = last_in_time(parameters, token);
        let limit = last.since(token.second()) + parameters.whole_clock_tolerance();
        let span = CommitSpan { margin, limit, visible: parameters.visibility_delay };
        let before = base.state.require_held(grant).is_err().then_some(base.state.grant.number);
        let slot = self.lock_chain(&lock).commit(base, token, grant, span).await.map_err(|error| match error {
            // It may have its slot. The entry has no guard, so that it counts for nothing; the next token has a slot of its own.
            ChainError::Unknown { .. } => {
                AttemptFailure::Failed(UnprovenAttempt::new(attempt, error.to_string()).error(prepared))
            }
            error => AttemptFailure::Retry(UnprovenAttempt::new(attempt, error.to_string())),
        })?;
        // Whatever the chain said before the slot was taken.
        let overtaken_by = mutants::overtaken_by(slot.state.fenced_here().map(|fenced| fenced.by), before);
        let within = Duration::from_secs(slot.state.grant.complete_within_seconds);
        let bounds = GuardBounds { ends: slot.time.after(within) };
        let until = slot.time.after(within + margin).min(last);
        let attempt = AppendAttempt { guard: Some(bounds), ..attempt.clone() };
        let guard = CommitGuard { token, lock: lock.clone(), grant, slot: slot.number, until, overtaken_by };
        let part = CompletionPart { op: 0, target: CompletionTarget::Guard, body: guard.body() };
        let put = self.put(&attempt, &part).await;
        if let Some(by) = overtaken_by {
            // Without its guard the entry is aborted, which is as true.
            return Err(AttemptFailure::Failed(AppendError::Fenced { token, lock, grant, by }));
        }
        match put {
            Ok(()) => Ok(attempt),
            Err(why) => Err(AttemptFailure::Retry(UnprovenAttempt::new(&attempt, why))),
        }
    }
}
