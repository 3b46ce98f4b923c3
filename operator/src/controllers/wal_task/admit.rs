//! Whether an attempt may start: pure.

use jiff::{SignedDuration, Timestamp};
use tidemark_crds::{Reason, RecoveryWindow, RestoreTarget, TaskType, WalTaskState};

use super::{
    build,
    dereference::{AccountState, ObservedTask, OtherTask, TargetWal, WalLookup},
};
use crate::cache::ActiveAttempt;

/// How long a task waits for a WAL that is not there: both may stand in one file.
const WAL_PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// How far the operator's clock may be behind the store's. What lies no farther in the future is left to the job.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Whether an attempt may start.
#[derive(Debug)]
pub(crate) enum AdmissionDecision<'a> {
    Admitted(&'a TargetWal),
    /// What it waits for passes by itself.
    Waits(Reason, String),
    /// Something has to change first.
    Refused(Reason, String),
}

/// Whether an attempt of the task may start at `now`.
pub(crate) fn admit(task: &ObservedTask, now: Timestamp) -> AdmissionDecision<'_> {
    let refused = |reason, message: String| AdmissionDecision::Refused(reason, message);
    let (kind, name) = (task.spec.r#type, &task.spec.wal_ref.name);
    if let Err(message) = check_spec(task) {
        return refused(Reason::SpecInvalid, message);
    }
    let wal = match &task.wal {
        WalLookup::Found(wal) => wal,
        WalLookup::Missing if task.attempts() == 0 && is_recent(task, now) => {
            let message = format!(
                "there is no WAL \"{name}\" yet; the task waits for a minute; create the WAL in the task's namespace"
            );
            return AdmissionDecision::Waits(Reason::WALNotFound, message);
        }
        WalLookup::Missing => return refused(Reason::WALNotFound, missing(name)),
        WalLookup::Unreadable => {
            let message = format!(
                "this release cannot read WAL \"{name}\"; nothing was done; see the condition Ready of the WAL and make another task"
            );
            return refused(Reason::SpecInvalid, message);
        }
    };
    if let Some((reason, message)) = gone(task) {
        return refused(reason, message);
    }
    if wal.suspended && kind.needs_indexer() {
        let message = format!(
            "WAL \"{name}\" is suspended, and no indexer would go on after a task of type {kind}; nothing was done; set its \"spec.suspend\" to false and make another task"
        );
        return refused(Reason::Suspended, message);
    }
    if let Err(message) = &wal.validated {
        let message = format!(
            "the spec of WAL \"{name}\" is refused: {message}; nothing was done; correct it and make another task"
        );
        return refused(Reason::SpecInvalid, message);
    }
    if let Err((reason, message)) = check_history(task, wal, now) {
        return refused(reason, message);
    }
    match wal.account {
        AccountState::Ready => {}
        AccountState::Missing => {
            let message = format!(
                "ServiceAccount \"{}\" of WAL \"{name}\" is not there yet; the task waits; if that takes long, see the condition Applied of the WAL",
                kind.service_account(name)
            );
            return AdmissionDecision::Waits(Reason::Pending, message);
        }
        AccountState::Foreign => {
            let message = format!(
                "ServiceAccount \"{}\" exists and does not belong to WAL \"{name}\"; nothing was done, as a Job would have its rights; remove it and make another task",
                kind.service_account(name)
            );
            return refused(Reason::NameTaken, message);
        }
    }
    if kind.command().writes {
        if wal.upgrading {
            let message = format!(
                "WAL \"{name}\" is being upgraded; the task waits until that is through; see the condition UpgradePending of the WAL"
            );
            return AdmissionDecision::Waits(Reason::WaitingForUpgrade, message);
        }
        if let Some(attempt) = &task.writing {
            return AdmissionDecision::Waits(Reason::WaitingForTask, waits_for_attempt(attempt, name));
        }
        if let Some(first) = ahead(task) {
            let message = format!(
                "task \"{first}\" comes first: one at a time writes to WAL \"{name}\"; this task waits until it has ended"
            );
            return AdmissionDecision::Waits(Reason::WaitingForTask, message);
        }
    }
    AdmissionDecision::Admitted(wal)
}

/// What a task waits for while an attempt of a task may still write to the WAL, which may be its own.
pub(crate) fn waits_for_attempt(ActiveAttempt { task, pod, .. }: &ActiveAttempt, wal: &str) -> String {
    match pod {
        None => format!(
            "task \"{task}\" comes first: one at a time writes to WAL \"{wal}\"; this task waits until it has ended"
        ),
        Some(pod) => format!(
            "pod \"{pod}\" of task \"{task}\" has not ended: one at a time writes to WAL \"{wal}\"; this task waits until the pod is gone; if that takes long, see \"kubectl describe pod\""
        ),
    }
}

/// Why an attempt, also one that runs, can do no good any more: its WAL is gone, or going.
pub(crate) fn gone(task: &ObservedTask) -> Option<(Reason, String)> {
    let name = &task.spec.wal_ref.name;
    match &task.wal {
        WalLookup::Missing => Some((Reason::WALNotFound, missing(name))),
        WalLookup::Found(wal) if task.status.wal_uid.as_ref().is_some_and(|uid| *uid != wal.uid) => Some((
            Reason::WALNotFound,
            format!("WAL \"{name}\" was deleted and made again; the task was for the one before; make another task"),
        )),
        WalLookup::Found(wal) if wal.deleted => Some((
            Reason::WALDeleted,
            format!("WAL \"{name}\" is being deleted; nothing more is done to its index; no action is needed"),
        )),
        WalLookup::Unreadable | WalLookup::Found(_) => None,
    }
}

fn missing(name: &str) -> String {
    format!("there is no WAL \"{name}\"; nothing is done; create it in the task's namespace and make another task")
}

fn is_recent(task: &ObservedTask, now: Timestamp) -> bool {
    task.created.is_none_or(|created| now.duration_since(created) < WAL_PATIENCE)
}

/// The rules of the schema, which an object that was stored before them may break.
fn check_spec(task: &ObservedTask) -> Result<(), String> {
    let spec = &task.spec;
    for (field, span) in [("deadline", &spec.deadline), ("ttlAfterFinished", &spec.ttl_after_finished)] {
        span.duration().map_err(|error| format!("\"spec.{field}\": {error}"))?;
    }
    if let Some(token) = spec.restore.as_ref().and_then(|target| target.token.as_deref())
        && token_time(token).is_none()
    {
        return Err(format!(
            "\"spec.restore.token\": \"{token}\" is no KSUID; make another task with the token of an entry"
        ));
    }
    if let Some(name) = spec.snapshot.as_ref().and_then(|snapshot| snapshot.name.as_deref())
        && name.strip_prefix("before-g").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    {
        return Err(format!(
            "\"spec.snapshot.name\": names like \"{name}\" are the catalog's own; make another task with another name"
        ));
    }
    let is_right = match (spec.r#type, &spec.restore) {
        (TaskType::Restore, Some(target)) => build::restore_arguments(target).is_some(),
        (TaskType::Restore, None) => false,
        (_, target) => target.is_none(),
    };
    if is_right {
        Ok(())
    } else {
        Err("type Restore needs \"spec.restore\" with exactly one of time, token, snapshot and latest, and no other type takes it; make another task".to_owned())
    }
}

/// What the history of the WAL does not allow, as far as the operator knows it. The job looks again, at the stores.
fn check_history(task: &ObservedTask, wal: &TargetWal, now: Timestamp) -> Result<(), (Reason, String)> {
    let name = &task.spec.wal_ref.name;
    match task.spec.r#type {
        TaskType::Cleanup => {
            if wal.validated.as_ref().is_ok_and(|wal| !wal.jobs.archive) {
                let message = format!(
                    "the archive of WAL \"{name}\" is turned off; nothing was deleted, as it would be lost; set \"spec.archive.enabled\" to true, take a snapshot and make another task"
                );
                return Err((Reason::NoVerifiedSnapshot, message));
            }
            // A rehearsal deletes nothing.
            let is_rehearsal = task.spec.cleanup.as_ref().is_some_and(|cleanup| cleanup.dry_run);
            if let Some(check) = wal.wanted_check.as_ref().filter(|_| !is_rehearsal) {
                let message = format!(
                    "index or archive of WAL \"{name}\" were found damaged by a verification; nothing was deleted, as the log may be the last that has what is lost; repair them, make {check}, and then another one of this type"
                );
                return Err((Reason::VerificationFailed, message));
            }
            if !wal.has_snapshot {
                let message = format!(
                    "no verified snapshot of WAL \"{name}\" is known; nothing was deleted; make a task of type Snapshot, and then another one of this type"
                );
                return Err((Reason::NoVerifiedSnapshot, message));
            }
        }
        TaskType::Restore => {
            let Some(target) = task.spec.restore.as_ref().and_then(target_time) else { return Ok(()) };
            if target.duration_since(now) > CLOCK_SKEW {
                let message = format!(
                    "the index of WAL \"{name}\" cannot be restored to {target}: it is {now} now, and nothing is recorded of what is to come; nothing was done; choose a time that has passed, or \"latest\": true, and make another task"
                );
                return Err((Reason::OutsideRecoveryWindow, message));
            }
            if let Some(RecoveryWindow { first, last }) = wal.recovery_window
                && target < first
            {
                let message = format!(
                    "the index of WAL \"{name}\" cannot be restored to {target}: its recovery window is from {first} to {last} or later; nothing was done; choose a time in it and make another task"
                );
                return Err((Reason::OutsideRecoveryWindow, message));
            }
        }
        TaskType::Snapshot | TaskType::Verify | TaskType::GC | TaskType::Reindex | TaskType::Promote => {}
    }
    Ok(())
}

/// The second that a restore asks for, if it asks for one.
fn target_time(target: &RestoreTarget) -> Option<Timestamp> {
    let of_token = || token_time(target.token.as_deref()?);
    target.time.as_ref().map(|time| time.0).or_else(of_token)
}

/// The second in a token: a KSUID, of which the first 32 bits count seconds since 2014-05-13.
fn token_time(token: &str) -> Option<Timestamp> {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const EPOCH_SECOND: i64 = 1_400_000_000;
    let mut bytes = [0_u8; 20];
    for digit in token.bytes() {
        let mut carry = DIGITS.iter().position(|known| *known == digit)?;
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * DIGITS.len();
            *byte = u8::try_from(carry & 0xff).ok()?;
            carry >>= 8;
        }
        if carry != 0 {
            return None;
        }
    }
    let second = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Timestamp::from_second(EPOCH_SECOND + i64::from(second)).ok()
}

/// The task that writes to the WAL before this one: one that has started, else the oldest.
fn ahead(task: &ObservedTask) -> Option<&str> {
    let has_started = task.attempts() > 0;
    let own = (!has_started, task.created, &*task.key.name);
    let writes = task.others.iter().filter(|other| {
        let ended = other.state.is_some_and(WalTaskState::is_terminal);
        other.r#type.command().writes && !ended
    });
    let rank = |other: &&OtherTask| (!other.has_started, other.created, other.name.clone());
    let first = writes.min_by_key(rank)?;
    ((!first.has_started, first.created, first.name.as_str()) < own).then_some(&first.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_a_token_is_read() {
        // The example of the format's own documentation.
        let time = token_time("0ujtsYcgvSTl8PAuAdqWYSMnLOv").unwrap();
        assert_eq!(time.as_second(), 1_507_608_047);
        assert_eq!(token_time("000000000000000000000000000").unwrap().as_second(), 1_400_000_000);
        assert_eq!(token_time("aWgEPTl1tmebfsQzFP4bxwgy80V").unwrap().as_second(), 1_400_000_000 + i64::from(u32::MAX));
        for wrong in ["aWgEPTl1tmebfsQzFP4bxwgy80W", "zzzzzzzzzzzzzzzzzzzzzzzzzzz", "0ujtsYcgvSTl8PAuAdqWYSMnLO-"] {
            assert_eq!(token_time(wrong), None, "{wrong}");
        }
    }
}
