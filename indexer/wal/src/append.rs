//! Writing a log: entry first, then what completes it, then the proof that it was visible in time.

mod attempt;
mod draft;
mod error;
mod flush;
mod marker;
mod source;
mod upload;
mod writer;

#[cfg(test)]
mod tests;

pub use draft::{DraftOperation, EntryDraft};
pub use error::AppendError;
pub use flush::{Batcher, FlushPolicy};
pub use marker::{CompletionMarker, marker_key};
pub use source::{ParameterSource, ParameterSourceError};
pub use upload::CompletionUpload;
pub use writer::{AppendReceipt, LogWriter, LogWriterOptions, PendingAppend};
