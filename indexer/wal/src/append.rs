//! Writing a log: entry first, then what completes it, then the proof that it was visible in time.

mod draft;
mod flush;
mod marker;
mod writer;

pub use draft::{Draft, DraftOp};
pub use flush::{Batcher, FlushPolicy};
pub use marker::{Marker, marker_key};
pub use writer::{AppendError, Begun, ParameterSource, Receipt, SourceError, Upload, Writer, WriterOptions};
