//! What a job reports when it ends: one JSON object of at most 4096 bytes.
//!
//! A job command writes it to the file of `--result-file` (`TIDEMARK_RESULT_FILE`) at its end, also when it fails or refuses. In a
//! pod that file is the container's termination log, of which Kubernetes keeps [`MAX_RESULT_BYTES`]: the operator reads the result
//! from the pod's status, without access to its log or to a store.
//!
//! Jobs of another release report, too: a field that is left out is not known, an unknown field is ignored, an unknown state is
//! [`TaskState::Failed`] and an unknown reason [`Reason::Internal`].

use std::{io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// Kubernetes keeps this much of a termination message; a longer one is cut, and no JSON any more.
pub const MAX_RESULT_BYTES: usize = 4096;

/// Stands where a message was shortened.
const ELLIPSIS: char = '…';

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It did what it was asked to do.
    Succeeded,
    /// It changed nothing, and would refuse again: the request, the rights or the data have to change first.
    Refused,
    /// It did not finish. Another attempt may.
    #[serde(other)]
    Failed,
}

/// What a job reports when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// How it ended.
    pub state: TaskState,
    /// Why it failed or refused, in one word that is part of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was done; or the fact, the effect and the remedy.
    #[serde(default)]
    pub message: String,
    /// What the job made, read and removed.
    #[serde(flatten)]
    pub figures: TaskFigures,
}

/// What a job made, read and removed. Each field is left out where the command has nothing to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kinds", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct TaskFigures {
    /// Generation of the index that was read, or made: such as `g2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Name of the snapshot that was made or restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// When it was verified, by the store's clock: long ago if a snapshot of this name was there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kinds", schemars(schema_with = "crate::schema::optional_time"))]
    pub snapshot_time: Option<Timestamp>,
    /// Number of the manifest that was read, pinned or published last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<u64>,
    /// Every entry whose second lies before this one is in the result: a whole second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kinds", schemars(schema_with = "crate::schema::optional_time"))]
    pub cursor: Option<Timestamp>,
    /// Entries that were archived, compared, restored or indexed; of a cleanup, those that the log had before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Bytes of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Entries that were deleted from the log; with `--dry-run`, that would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_entries: Option<u64>,
    /// Bytes of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_bytes: Option<u64>,
    /// Entries that a rule keeps in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<u64>,
    /// Entries that the log held when the job had done its work. The job counts them: it lists the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_entries: Option<u64>,
    /// Bytes of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// Objects that nothing names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks: Option<u64>,
    /// Objects or records that are missing or are not what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<u64>,
    /// What the index can be restored to after the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<RecoveryWindow>,
}

/// The times that an index can be restored to, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kinds", derive(schemars::JsonSchema))]
pub struct RecoveryWindow {
    /// The earliest.
    #[cfg_attr(feature = "kinds", schemars(schema_with = "crate::schema::time"))]
    pub first: Timestamp,
    /// The latest.
    #[cfg_attr(feature = "kinds", schemars(schema_with = "crate::schema::time"))]
    pub last: Timestamp,
}

impl TaskResult {
    /// A job that did what it was asked to do.
    pub fn succeeded(message: impl Into<String>) -> Self {
        Self { state: TaskState::Succeeded, reason: None, message: message.into(), figures: TaskFigures::default() }
    }

    /// A job that did not finish.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: TaskState::Failed, reason: Some(reason), ..Self::succeeded(message) }
    }

    /// A job that changed nothing and would refuse again.
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: TaskState::Refused, reason: Some(reason), ..Self::succeeded(message) }
    }

    /// The same with figures.
    #[must_use]
    pub fn with(self, figures: TaskFigures) -> Self {
        Self { figures, ..self }
    }

    /// The result in a termination message, which may have white space around it.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// Compact JSON of at most [`MAX_RESULT_BYTES`]. What does not fit is taken from the end of the message; if everything else is
    /// too long already, which names of ours never are, the names are left out.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let whole = serde_json::to_string(self)?;
        if whole.len() <= MAX_RESULT_BYTES {
            return Ok(whole);
        }
        let mut shortened = Self { message: String::new(), ..self.clone() };
        let mut base = serde_json::to_string(&shortened)?.len();
        if base + ELLIPSIS.len_utf8() > MAX_RESULT_BYTES {
            shortened.figures = TaskFigures { generation: None, snapshot: None, ..shortened.figures };
            base = serde_json::to_string(&shortened)?.len();
        }
        // JSON writes some characters with more bytes than they have.
        let mut left = MAX_RESULT_BYTES.saturating_sub(base + ELLIPSIS.len_utf8());
        for character in self.message.chars() {
            let quoted = serde_json::to_string(&character)?.len() - "\"\"".len();
            let Some(rest) = left.checked_sub(quoted) else {
                shortened.message.push(ELLIPSIS);
                break;
            };
            left = rest;
            shortened.message.push(character);
        }
        serde_json::to_string(&shortened)
    }

    /// Writes [`Self::to_json`] to `file` in place: a pod's termination log is a mounted file, which cannot be replaced.
    pub fn write_to(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, self.to_json()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures() -> TaskFigures {
        TaskFigures {
            generation: Some("g2".to_owned()),
            snapshot: Some("2026-11-20".to_owned()),
            snapshot_time: Some("2026-11-20T10:00:00Z".parse().unwrap()),
            manifest: Some(7),
            cursor: Some("2026-11-20T10:00:00Z".parse().unwrap()),
            entries: Some(u64::MAX),
            bytes: Some(1),
            deleted_entries: Some(2),
            deleted_bytes: Some(3),
            held_back: Some(4),
            log_entries: Some(7),
            log_bytes: Some(8),
            leaks: Some(5),
            damaged: Some(6),
            recovery_window: Some(RecoveryWindow {
                first: "2026-11-01T00:00:00Z".parse().unwrap(),
                last: "2026-11-20T10:00:00Z".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn the_names_of_the_fields_are_part_of_the_contract() {
        let result = TaskResult::refused(Reason::BelowFloor, "no").with(figures());
        let wanted = r#"{"state":"refused","reason":"BelowFloor","message":"no","generation":"g2","snapshot":"2026-11-20","snapshotTime":"2026-11-20T10:00:00Z","manifest":7,"cursor":"2026-11-20T10:00:00Z","entries":18446744073709551615,"bytes":1,"deletedEntries":2,"deletedBytes":3,"heldBack":4,"logEntries":7,"logBytes":8,"leaks":5,"damaged":6,"recoveryWindow":{"first":"2026-11-01T00:00:00Z","last":"2026-11-20T10:00:00Z"}}"#;
        assert_eq!(result.to_json().unwrap(), wanted);
        assert_eq!(TaskResult::from_json(&format!("{wanted}\n")).unwrap(), result);
        assert_eq!(TaskResult::succeeded("").to_json().unwrap(), r#"{"state":"succeeded","message":""}"#);
    }

    #[test]
    fn a_result_of_another_release_promises_least() {
        let read = TaskResult::from_json(r#"{"state":"postponed","reason":"Later","planet":1,"entries":3}"#).unwrap();
        let figures = TaskFigures { entries: Some(3), ..TaskFigures::default() };
        assert_eq!(read, TaskResult::failed(Reason::Internal, "").with(figures));
        for no_result in ["", "panicked at", "{}", r#"{"state":"succeeded","entries":-1}"#] {
            assert!(TaskResult::from_json(no_result).is_err(), "{no_result}");
        }
    }

    #[test]
    fn names_that_are_too_long_are_left_out_before_the_result_is() {
        let figures = TaskFigures { snapshot: Some("s".repeat(5000)), entries: Some(3), ..TaskFigures::default() };
        let json = TaskResult::succeeded("done").with(figures).to_json().unwrap();
        assert_eq!(json, r#"{"state":"succeeded","message":"done","entries":3}"#);
    }

    #[test]
    fn a_file_holds_the_last_result_only() {
        let file = std::env::temp_dir().join(format!("tidemark-result-{}", std::process::id()));
        TaskResult::succeeded("a long message").write_to(&file).unwrap();
        TaskResult::failed(Reason::Fenced, "").write_to(&file).unwrap();
        let read = TaskResult::from_json(&std::fs::read_to_string(&file).unwrap()).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read, TaskResult::failed(Reason::Fenced, ""));
    }

    proptest! {
        #[test]
        fn every_result_fits_and_keeps_all_but_the_end_of_its_message(message in "(?s).{0,6000}", counted in any::<bool>()) {
            let figures = if counted { figures() } else { TaskFigures::default() };
            let result = TaskResult::failed(Reason::Unreachable, message.clone()).with(figures);
            let json = result.to_json().unwrap();
            prop_assert!(json.len() <= MAX_RESULT_BYTES);
            let read = TaskResult::from_json(&json).unwrap();
            if read.message != message {
                let kept = read.message.strip_suffix(ELLIPSIS).unwrap();
                prop_assert!(message.starts_with(kept));
                // No more is cut than the longest character needs.
                prop_assert!(json.len() + 12 > MAX_RESULT_BYTES);
            }
            prop_assert_eq!(TaskResult { message, ..read }, result);
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,200}") {
            let _ = TaskResult::from_json(&text);
        }
    }
}
