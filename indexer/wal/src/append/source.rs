//! Where a writer reads the log's dated parameters.

use async_trait::async_trait;

use crate::parameters::ParameterSchedule;

/// Where the dated parameters of a log come from: its root chain, or a constant in tests.
#[async_trait]
pub trait ParameterSource: Send + Sync {
    /// The parameters as they are now: read from the head of the root chain, nothing cached.
    async fn schedule(&self) -> Result<ParameterSchedule, ParameterSourceError>;
}

/// Why the dated parameters could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log's parameters could not be read: {why}")]
pub struct ParameterSourceError {
    /// What happened and what to do.
    pub why: String,
}

#[async_trait]
impl ParameterSource for ParameterSchedule {
    async fn schedule(&self) -> Result<ParameterSchedule, ParameterSourceError> {
        Ok(self.clone())
    }
}
