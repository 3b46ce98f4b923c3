//! Writing a log: entry first, then what completes it, then the proof that it was visible in time.

mod attempt;
mod batcher;
mod error;
mod guard;
mod labels;
mod prepared;
mod receipt;
mod retry;
mod session;
mod source;
#[cfg(test)]
mod tests;
mod upload;
mod writer;

pub use batcher::{AppendBatcher, FlushPolicy};
pub use error::{AppendError, ConfirmError};
pub use prepared::{DraftOperation, EntryDraft, EntryForm};
pub use receipt::{AppendProof, AppendReceipt};
pub use source::{ParameterSource, ParameterSourceError};
pub use upload::CompletionUpload;
pub use writer::{LogWriter, LogWriterOptions, PendingAppend};
