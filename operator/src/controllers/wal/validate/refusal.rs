//! Why a WAL cannot be built.

use tidemark_crds::Reason;

/// Why a WAL cannot be built, for its condition and Event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecRefusal {
    /// [`Reason::SpecInvalid`], [`Reason::PodTemplateRefused`] or [`Reason::ScheduleInvalid`].
    pub reason: Reason,
    /// Fact, effect and remedy.
    pub message: String,
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct RefusalList(pub(super) Vec<SpecRefusal>);

impl RefusalList {
    pub(super) fn spec(&mut self, message: impl Into<String>) {
        let refusal = SpecRefusal { reason: Reason::SpecInvalid, message: message.into() };
        // Three places may share one store.
        if !self.0.contains(&refusal) {
            self.0.push(refusal);
        }
    }

    /// The value, or the error as a refusal of the field `path`.
    pub(super) fn read<T>(&mut self, path: &str, value: Result<T, impl std::error::Error>) -> Option<T> {
        value.map_err(|error| self.spec(format!("\"{path}\": {error}"))).ok()
    }
}
