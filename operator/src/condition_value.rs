//! What a condition says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionStatus, Reason};

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionValue {
    pub(crate) status: ConditionStatus,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl ConditionValue {
    pub(crate) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::True, reason, message: message.into() }
    }

    pub(crate) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::False, reason, message: message.into() }
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::Unknown, reason, message: message.into() }
    }

    /// What a condition said before.
    pub(crate) fn repeated(before: &Condition) -> Self {
        let status = match before.status.as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        };
        let reason = Reason::parse(&before.reason).unwrap_or(Reason::Internal);
        Self { status, reason, message: before.message.clone() }
    }
}
