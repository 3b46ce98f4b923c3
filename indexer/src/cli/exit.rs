//! Exit codes that scripts can rely on.

use std::process::{ExitCode, Termination};

use tidemark_store::error_chain;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed; the message is on standard error.
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: a store does not hold what Tidemark needs.
    Unfit,
    /// 4: another process has taken over the index.
    Fenced,
    /// 5: an update was not acknowledged in time; it may or may not be complete.
    Unacknowledged,
    /// 6: the outcome of a write is unknown; started again, the process reads what became of it.
    Unknown,
}

/// An error with the exit code that it ends the process with. Every other error ends it with [`Exit::Failed`].
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct With {
    pub(crate) exit: Exit,
    pub(crate) source: anyhow::Error,
}

impl Exit {
    pub(crate) fn of(result: anyhow::Result<()>) -> Self {
        let Err(error) = result else { return Self::Done };
        if broken_pipe(&error) {
            return Self::Done;
        }
        eprintln!("error: {}", error_chain(error.as_ref()));
        error.downcast_ref::<With>().map_or(Self::Failed, |with| with.exit)
    }

    pub(crate) fn with(self, source: impl Into<anyhow::Error>) -> anyhow::Error {
        With { exit: self, source: source.into() }.into()
    }
}

/// `tidemark log | head` ends when `head` has read enough.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unfit => 3,
            Self::Fenced => 4,
            Self::Unacknowledged => 5,
            Self::Unknown => 6,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("nothing was appended: {0}")]
    struct Outer(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct Inner;

    #[test]
    fn an_error_is_told_once() {
        let error = Exit::Failed.with(anyhow::Error::from(Outer(Inner)).context("entry 2 of 3"));
        assert_eq!(error_chain(error.as_ref()), "entry 2 of 3: nothing was appended: no answer");
    }
}
