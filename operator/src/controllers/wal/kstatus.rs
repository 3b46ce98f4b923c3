//! The rules of kstatus (`sigs.k8s.io/cli-utils`), by which kpt and Flux judge every resource, in their order.

use tidemark_crds::{ConditionStatus, ConditionType, WalStatus, condition, is_true};

/// What kstatus calls a WAL that is not being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KstatusVerdict {
    InProgress,
    Failed,
    Current,
}

pub(crate) fn kstatus(generation: Option<i64>, status: &WalStatus) -> KstatusVerdict {
    let ready = condition(&status.conditions, ConditionType::Ready);
    match status.observed_generation {
        Some(observed) if Some(observed) != generation => KstatusVerdict::InProgress,
        _ if is_true(&status.conditions, ConditionType::Reconciling) => KstatusVerdict::InProgress,
        _ if is_true(&status.conditions, ConditionType::Stalled) => KstatusVerdict::Failed,
        _ if ready.is_some_and(|ready| ready.status != ConditionStatus::True.as_str()) => KstatusVerdict::InProgress,
        _ => KstatusVerdict::Current,
    }
}
