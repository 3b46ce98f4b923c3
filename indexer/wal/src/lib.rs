#![doc = include_str!("../README.md")]

mod append;
mod client_time;
mod datamon;
mod expectation;
mod footprint;
mod lock;
mod log;
mod malformed;
mod marker;
mod mutants;
mod outcome;
mod parameters;
mod payload;
mod reader;
mod recorded_facts;
#[cfg(test)]
mod testing;
mod token;
mod yaml;

pub use append::{
    AppendBatcher, AppendError, AppendProof, AppendReceipt, CompletionUpload, ConfirmError, DraftOperation, EntryDraft,
    EntryForm, FlushPolicy, LogWriter, LogWriterOptions, ParameterSource, ParameterSourceError, PendingAppend,
};
pub use client_time::{ClientTime, ParseClientTimeError};
pub use datamon::{Contributor, DatamonDescriptor, DatamonPath, entity_key, parse_datamon_path, read_descriptor};
pub use expectation::{CommitExpectation, ParseExpectationError};
pub use footprint::{text_bytes, value_bytes};
pub use lock::{
    FencedCommit, GUARD_FOLDER, GrantRequest, GuardedCommit, HeldLock, InvalidGrant, InvalidLockName, LockDescription,
    LockError, LockEvent, LockGrant, LockName, LockRejected, LockState, WriteLocks, guard_key, guarded_token,
};
pub use log::Log;
pub use malformed::MalformedInput;
pub use marker::{CompletionMarker, marker_key, repo_marker_folder};
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use outcome::{Evidence, GuardObservation, Observation, Outcome, OutcomeDecision};
pub use parameters::{DatedParameters, LogParameters, MAX_PARAMETER_AGE, PARAMETER_CHANGE_DELAY, ParameterSchedule};
pub use payload::{
    EntryIntent, IntentOperation, LockRef, MAX_OPERATIONS, OperationKind, ParseOperationKindError, PayloadFormat,
    parse_payload,
};
pub use reader::{
    FileNames, ListedEntry, LogFloorSource, LogReader, MemoryBudget, MemoryShare, ResolvedEntry, ResolvedOperation,
};
pub use recorded_facts::{ParsedOtherwise, RecordedFacts, RecordedOperation};
pub use token::{ParseTokenError, Token};
