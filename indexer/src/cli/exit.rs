//! Exit codes that scripts can rely on.

use std::process::{ExitCode, Termination};

use tidemark_store::error_chain;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandExit {
    /// 0: done.
    Done,
    /// 1: failed; the message is on standard error.
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: a store does not hold what Tidemark needs.
    StoreUnsupported,
    /// 4: another process has taken over the index, or the consumer; a write lock was overtaken or released.
    Fenced,
    /// 5: an update was not acknowledged in time; it may or may not be complete.
    Unacknowledged,
    /// 6: the outcome of a write is unknown; started again, the process reads what became of it.
    Unknown,
    /// 7: operations are left that cannot be read.
    Unreadable,
    /// 8: what was verified is damaged.
    Damaged,
    /// 9: another append was first: what this one expects does not hold.
    Conflicted,
    /// The exit code of the command that `lock run` ran.
    OfCommand(u8),
}

/// An error with the exit code that it ends the process with. Every other error ends it with [`CommandExit::Failed`].
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct ExitError {
    pub(crate) exit: CommandExit,
    pub(crate) source: anyhow::Error,
}

impl CommandExit {
    pub(crate) fn of(result: anyhow::Result<()>) -> Self {
        let Err(error) = result else { return Self::Done };
        if broken_pipe(&error) {
            return Self::Done;
        }
        eprintln!("error: {}", error_chain(error.as_ref()));
        error.downcast_ref::<ExitError>().map_or(Self::Failed, |with| with.exit)
    }

    pub(crate) fn with(self, source: impl Into<anyhow::Error>) -> anyhow::Error {
        ExitError { exit: self, source: source.into() }.into()
    }
}

/// `tidemark log | head` ends when `head` has read enough.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Termination for CommandExit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::StoreUnsupported => 3,
            Self::Fenced => 4,
            Self::Unacknowledged => 5,
            Self::Unknown => 6,
            Self::Unreadable => 7,
            Self::Damaged => 8,
            Self::Conflicted => 9,
            Self::OfCommand(code) => code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("nothing was appended: {0}")]
    struct OuterError(#[from] InnerError);

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct InnerError;

    #[test]
    fn an_error_is_told_once() {
        let error = CommandExit::Failed.with(anyhow::Error::from(OuterError(InnerError)).context("entry 2 of 3"));
        assert_eq!(error_chain(error.as_ref()), "entry 2 of 3: nothing was appended: no answer");
    }
}
